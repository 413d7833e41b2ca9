// SPDX-License-Identifier: Apache-2.0
#include "client/cli/report.h"

#include <math.h>
#include <string.h>

#include "client/cli/cli.h"

#define TM_TEXT_OF(number) #number
#define TM_TEXT(number) TM_TEXT_OF(number)
#define US_PER_MS 1e3
#define STAGE_WIDTH 9

static int stage_width(const char *name) {
    int n = (int)strlen(name);
    return n > STAGE_WIDTH ? n : STAGE_WIDTH;
}

static void print_titles(tm_table_t *table, FILE *out) {
    fprintf(out, "%-*s %12s %10s", table->name_width, "event", "space points", "candidates");
    if (table->with_score) {
        fprintf(out, " %11s %9s", "efficiency", "fakes");
    }
    if (table->with_times) {
        for (uint32_t i = 0; i < table->stages.count; i++) {
            fprintf(out, " %*s", stage_width(table->stages.stage[i].name),
                    table->stages.stage[i].name);
        }
        fprintf(out, " %11s", "total ms");
    }
    fputc('\n', out);
}

static double stage_ms(const tm_timings_t *timings, const char *name) {
    for (uint32_t i = 0; i < timings->count; i++) {
        if (strcmp(timings->stage[i].name, name) == 0) {
            return timings->stage[i].us / US_PER_MS;
        }
    }
    return NAN;
}

void tm_table_print(tm_table_t *table, FILE *out, const tm_row_t *row) {
    char text[2][TM_CLI_NUMBER_BYTES];
    if (!table->headed) {
        table->stages = row->found.timings;
        table->headed = true;
        print_titles(table, out);
    }
    fprintf(out, "%-*s %12s %10s", table->name_width, row->name,
            tm_cli_thousands(row->n_points, text[0]), tm_cli_thousands(row->n_tracks, text[1]));
    if (table->with_score) {
        double efficiency = row->scored ? tm_score_efficiency(&row->score) : NAN;
        double fakes = row->scored ? tm_score_hard_fakes(&row->score) : NAN;
        fprintf(out, " %11s %9s", tm_cli_percent(efficiency, text[0]),
                tm_cli_percent(fakes, text[1]));
    }
    if (table->with_times) {
        for (uint32_t i = 0; i < table->stages.count; i++) {
            const char *name = table->stages.stage[i].name;
            double ms = stage_ms(&row->found.timings, name);
            if (isnan(ms)) {
                fprintf(out, " %*s", stage_width(name), "-");
            } else {
                fprintf(out, " %*.1f", stage_width(name), ms);
            }
        }
        fprintf(out, " %11.1f", (double)row->found.total_us / US_PER_MS);
    }
    fputc('\n', out);
    fflush(out);
}

static void print_bins(FILE *out, const char *title, const tm_score_bin_t *bin, const double *edge,
                       double first) {
    char text[TM_CLI_NUMBER_BYTES];
    fprintf(out, "  %-16s", title);
    for (int b = 0; b < TM_SCORE_BINS; b++) {
        char range[TM_CLI_NUMBER_BYTES];
        double low = b == 0 ? first : edge[b];
        if (isinf(edge[b + 1])) {
            snprintf(range, sizeof range, "> %g", low);
        } else {
            snprintf(range, sizeof range, "%g-%g", low, edge[b + 1]);
        }
        double rate = bin[b].wanted ? (double)bin[b].found / (double)bin[b].wanted : NAN;
        fprintf(out, "  %7s: %8s", range, tm_cli_percent(rate, text));
    }
    fputc('\n', out);
}

void tm_report_score(FILE *out, const tm_score_t *s, const tm_score_options_t *options,
                     bool with_bins) {
    char a[TM_CLI_NUMBER_BYTES], b[TM_CLI_NUMBER_BYTES], c[TM_CLI_NUMBER_BYTES];
#define LINE(title, rate, part, of, words) \
    fprintf(out, "  %-16s %9s   %s of %s %s\n", title, tm_cli_percent(rate, a), \
            tm_cli_thousands(part, b), tm_cli_thousands(of, c), words)
    LINE("efficiency", tm_score_efficiency(s), s->found, s->wanted,
         "wanted particles have a track (double majority)");
    LINE("fakes", tm_score_hard_fakes(s), s->hard - s->hard_matched, s->hard,
         "tracks of particles above the pT cut match none");
    LINE("fakes, 5 or more", tm_score_long_fakes(s), s->long_hard - s->long_hard_matched,
         s->long_hard,
         "of these tracks with at least " TM_TEXT(TM_SCORE_LONG) " points match none");
    LINE("fakes, all pT", tm_score_fakes(s), s->tracks - s->matched, s->tracks,
         "tracks match no particle");
    LINE("impure", tm_score_impure(s), s->impure, s->tracks,
         "tracks in which no particle owns more than half");
    LINE("duplicates", tm_score_duplicates(s), s->duplicates, s->tracks,
         "tracks match a particle that has one already");
    LINE("purity", tm_score_purity(s), s->good_hits, s->track_hits,
         "points of matched tracks are their particle's");
    LINE("completeness", tm_score_completeness(s), s->good_hits, s->particle_hits,
         "points of found particles are in their track");
    LINE("edges", tm_score_edge_efficiency(s), s->found_edges, s->true_edges,
         "neighbours on a wanted particle are neighbours on a track");
    LINE("edge purity", tm_score_edge_purity(s), s->pure_edges, s->track_edges,
         "neighbours on a track are of one particle");
    LINE("efficiency, LHC", tm_match_efficiency(s, &s->lhc), s->lhc.found, s->wanted,
         "wanted particles own more than 75 % of a track");
    LINE("fakes, LHC", tm_match_fakes(s, &s->lhc), s->hard - s->lhc.hard_matched, s->hard,
         "tracks of particles above the pT cut have no such owner");
    LINE("duplicates, LHC", tm_match_duplicates(s, &s->lhc), s->lhc.duplicates, s->tracks,
         "tracks have an owner that has one already");
    LINE("perfect", tm_match_efficiency(s, &s->perfect), s->perfect.found, s->wanted,
         "wanted particles have a track of exactly their points");
#undef LINE
    fprintf(out, "  %-16s %9.4f   %s\n", "TrackML score", tm_score_trackml(s),
            s->weighted ? "with the weights of the files"
                        : "every point of a particle weighs the same: the files have no weights");
    fprintf(out, "  %-16s %9.4f   %s\n", "TrackML, hard", tm_score_hard_trackml(s),
            "the same of points of particles above the pT cut");
    if (with_bins) {
        fprintf(out, "\nEfficiency by\n");
        print_bins(out, "pT (GeV)", s->pt, tm_score_pt_edges, options->pt_min_gev);
        print_bins(out, "|eta|", s->eta, tm_score_eta_edges, 0);
        print_bins(out, "origin, r (mm)", s->radius, tm_score_radius_edges, 0);
    }
}

/* NaN and infinity have no JSON form. */
static json_t *number_or_null(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *bins_json(const tm_score_bin_t *bin) {
    json_t *list = json_array();
    for (int b = 0; b < TM_SCORE_BINS; b++) {
        json_array_append_new(list, json_pack("{sI sI}", "wanted", (json_int_t)bin[b].wanted,
                                              "found", (json_int_t)bin[b].found));
    }
    return list;
}

static json_t *curve_json(const tm_curve_bin_t *bin, const double *edges) {
    json_t *list = json_array();
    for (int b = 0; b < TM_CURVE_BINS; b++) {
        json_array_append_new(
            list, json_pack("{so so sI sI sI sI}", "from", number_or_null(edges[b]), "to",
                            number_or_null(edges[b + 1]), "wanted", (json_int_t)bin[b].wanted,
                            "found", (json_int_t)bin[b].found, "tracks", (json_int_t)bin[b].tracks,
                            "fakes", (json_int_t)bin[b].fakes));
    }
    return list;
}

static json_t *match_json(const tm_score_t *s, const tm_match_t *match) {
    return json_pack(
        "{so so so sI sI sI sI}", "efficiency", number_or_null(tm_match_efficiency(s, match)),
        "fakes", number_or_null(tm_match_fakes(s, match)), "duplicates",
        number_or_null(tm_match_duplicates(s, match)), "n_found", (json_int_t)match->found,
        "n_matched", (json_int_t)match->matched, "n_hard_matched", (json_int_t)match->hard_matched,
        "n_duplicates", (json_int_t)match->duplicates);
}

json_t *tm_report_score_json(const tm_score_t *s) {
    json_t *object = json_pack(
        "{so so so so so so so so sb sI sI sI sI sI sI sI sI sI so so so}", "efficiency",
        number_or_null(tm_score_efficiency(s)), "fakes", number_or_null(tm_score_hard_fakes(s)),
        "fakes_all", number_or_null(tm_score_fakes(s)), "impure",
        number_or_null(tm_score_impure(s)), "duplicates", number_or_null(tm_score_duplicates(s)),
        "purity", number_or_null(tm_score_purity(s)), "completeness",
        number_or_null(tm_score_completeness(s)), "trackml", number_or_null(tm_score_trackml(s)),
        "weighted", s->weighted, "n_events", (json_int_t)s->events, "n_wanted",
        (json_int_t)s->wanted, "n_found", (json_int_t)s->found, "n_tracks", (json_int_t)s->tracks,
        "n_matched", (json_int_t)s->matched, "n_impure", (json_int_t)s->impure, "n_duplicates",
        (json_int_t)s->duplicates, "n_hard", (json_int_t)s->hard, "n_hard_matched",
        (json_int_t)s->hard_matched, "pt_bins", bins_json(s->pt), "eta_bins", bins_json(s->eta),
        "radius_bins", bins_json(s->radius));
    json_t *more = json_pack(
        "{so so so so sI sI sI sI sI sI so so so so}", "fakes_5",
        number_or_null(tm_score_long_fakes(s)), "trackml_hard",
        number_or_null(tm_score_hard_trackml(s)), "edge_efficiency",
        number_or_null(tm_score_edge_efficiency(s)), "edge_purity",
        number_or_null(tm_score_edge_purity(s)), "n_hard_5", (json_int_t)s->long_hard,
        "n_hard_matched_5", (json_int_t)s->long_hard_matched, "n_true_edges",
        (json_int_t)s->true_edges, "n_found_edges", (json_int_t)s->found_edges, "n_track_edges",
        (json_int_t)s->track_edges, "n_pure_edges", (json_int_t)s->pure_edges, "lhc",
        match_json(s, &s->lhc), "perfect", match_json(s, &s->perfect), "pt_curve",
        curve_json(s->pt_curve, tm_curve_pt_edges), "eta_curve",
        curve_json(s->eta_curve, tm_curve_eta_edges));
    json_object_update(object, more);
    json_decref(more);
    return object;
}

static json_t *stages_json(const tm_timings_t *timings) {
    json_t *stages = json_object();
    for (uint32_t i = 0; i < timings->count; i++) {
        json_object_set_new(stages, timings->stage[i].name,
                            json_real(timings->stage[i].us / US_PER_MS));
    }
    return stages;
}

json_t *tm_report_row_json(const tm_row_t *row) {
    json_t *object = json_pack("{ss ss* ss}", "event", row->name, "path", row->path, "status",
                               row->status == TM_OK ? "ok" : tm_status_name(row->status));
    if (row->status != TM_OK) {
        json_object_set_new(object, "error", json_string(row->error.text));
        return object;
    }
    json_object_set_new(object, "space_points", json_integer(row->n_points));
    json_object_set_new(object, "candidates", json_integer(row->n_tracks));
    if (row->output) {
        json_object_set_new(object, "output", json_string(row->output));
    }
    if (row->scored) {
        json_object_set_new(object, "score", tm_report_score_json(&row->score));
    }
    if (row->found.attempt) { /* an answer, not a file of tracks */
        const tm_found_t *f = &row->found;
        char hash[2 * TM_HASH_BYTES + 1];
        for (int i = 0; i < TM_HASH_BYTES; i++) {
            snprintf(hash + 2 * i, 3, "%02x", f->hash[i]);
        }
        json_object_set_new(object, "model", json_string(f->model));
        json_object_set_new(object, "weights_sha256", json_string(hash));
        json_object_set_new(object, "worker", *f->worker ? json_string(f->worker) : json_null());
        json_object_set_new(object, "attempt", json_integer(f->attempt));
        json_object_set_new(object, "stages_ms", stages_json(&f->timings));
        json_object_set_new(object, "queue_ms", json_real((double)f->queue_us / US_PER_MS));
        json_object_set_new(object, "service_ms", json_real((double)f->service_us / US_PER_MS));
        json_object_set_new(object, "total_ms", json_real((double)f->total_us / US_PER_MS));
        json_object_set_new(object, "sent_bytes", json_integer((json_int_t)f->sent_bytes));
        json_object_set_new(object, "received_bytes", json_integer((json_int_t)f->received_bytes));
    }
    return object;
}
