// SPDX-License-Identifier: Apache-2.0
/*
 * broker_sim [--seed N] [--schedules N] [--seconds S]
 *
 * Runs random schedules through the scheduler until the count or the time is reached. A broken
 * promise prints its seed; broker_sim --seed N --schedules 1 runs it again.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/sim/failing_malloc.h"
#include "tests/sim/world.h"

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void print(const oracle_totals_t *t) {
    const tm_stats_t *s = &t->stats;
    printf("calls %" PRIu64 ", actions %" PRIu64 ", allocations failed %" PRIu64 "\n", t->calls,
           t->actions, failing_malloc_count());
    printf("requests: received %" PRIu64 ", accepted %" PRIu64 ", duplicates %" PRIu64
           ", answered %" PRIu64 ", dropped %" PRIu64 "\n",
           s->received, s->accepted, s->duplicates, s->answered, s->dropped);
    for (int code = 1; code < TM_STATS_CODES; code++)
        if (s->refused[code] || s->failed[code])
            printf("  %-14s refused %" PRIu64 ", failed %" PRIu64 "\n",
                   tm_status_name((tm_status_t)code), s->refused[code], s->failed[code]);
    printf("attempts: dispatched %" PRIu64 ", started %" PRIu64 ", resulted %" PRIu64
           ", failed %" PRIu64 ", timed out %" PRIu64 ", requeued %" PRIu64 ", revoked %" PRIu64
           ", late %" PRIu64 "\n",
           s->dispatched, s->started, s->resulted, s->attempts_failed, s->timed_out, s->requeued,
           s->revoked, s->late);
    printf("peers: workers seen %" PRIu64 ", lost %" PRIu64 ", paused %" PRIu64 ", refused %" PRIu64
           "; clients seen %" PRIu64 ", lost %" PRIu64 "; unknown %" PRIu64 "\n",
           s->workers_seen, s->workers_lost, s->workers_paused, s->registers_refused,
           s->clients_seen, s->clients_lost, s->unknown_peers);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"schedules", required_argument, NULL, 'n'},
                                            {"seconds", required_argument, NULL, 't'},
                                            {0}};
    uint64_t seed = 0, schedules = 0;
    double limit_s = 0;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 's':
            seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            schedules = strtoull(optarg, NULL, 10);
            break;
        case 't':
            limit_s = strtod(optarg, NULL);
            break;
        default:
            fprintf(stderr, "usage: broker_sim [--seed N] [--schedules N] [--seconds S]\n");
            return EXIT_FAILURE;
        }
    }
    if (!seed)
        seed = (uint64_t)time(NULL) * 1000003u;
    if (!schedules && limit_s <= 0)
        limit_s = 5;
    printf("seed %" PRIu64 "\n", seed);
    fflush(stdout);
    static oracle_totals_t totals;
    double begun = seconds_now();
    uint64_t done = 0;
    while ((!schedules || done < schedules) && (limit_s <= 0 || seconds_now() - begun < limit_s))
        world_run(seed + done++, &totals);
    printf("schedules %" PRIu64 " in %.1f s\n", done, seconds_now() - begun);
    print(&totals);
    // a simulator that reaches nothing proves nothing
    const tm_stats_t *s = &totals.stats;
    if (done >= 1000 &&
        (!s->timed_out || !s->failed[TM_E_ATTEMPTS] || !s->failed[TM_E_DEADLINE] ||
         !s->failed[TM_E_NO_MODEL] || !s->refused[TM_E_BUSY] || !s->duplicates || !s->dropped ||
         !s->requeued || !s->late || !s->workers_paused || !s->registers_refused)) {
        fprintf(stderr, "some rule was never reached: see the counts above\n");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
