// SPDX-License-Identifier: Apache-2.0
/* trackmill-worker: options, back end, slots, session. */
#include <stdio.h>

#include "worker/log.h"
#include "worker/options.h"
#include "worker/signals.h"

static void print_ready(const tm_link_identity_t *identity) {
    printf("ready models=");
    for (uint32_t i = 0; i < identity->n_models; i++) {
        printf("%s%s@%s", i > 0 ? "," : "", identity->models[i].name, identity->models[i].version);
    }
    printf(" slots=%u device=%s\n", identity->slots, identity->device);
    fflush(stdout);
}

static int serve(tm_options_t *options) {
    const tm_backend_t *backend = options->backend;
    tm_link_identity_t *identity = &options->session.identity;
    tm_model_id_t models[TM_MODELS_MAX];
    void *state = NULL;
    tm_slots_t *slots = NULL;
    tm_error_t error;
    int code = TM_EXIT_FAILURE;

    if (backend->load(options->model, options->n_models, options->threads, options->device, &state,
                      models, &identity->n_models, &error) != TM_OK) {
        fprintf(stderr, "trackmill-worker: %s\n", error.text);
        return code;
    }
    identity->models = models;
    identity->backend = backend->name;
    identity->device = backend->device(state);
    uint32_t batch = options->batch > 0 ? options->batch
                     : backend->batch   ? backend->batch(state)
                                        : 1;
    if (tm_slots_new(backend, state, identity->slots, batch, &slots, &error) != TM_OK) {
        fprintf(stderr, "trackmill-worker: %s\n", error.text);
        goto done;
    }
    if (batch > 1) {
        tm_log(TM_LOG_INFO, "up to %u events are computed together", batch);
    }
    print_ready(identity);
    code = tm_session_run(&options->session, slots);
done:
    tm_slots_destroy(&slots);
    backend->unload(&state);
    return code;
}

int main(int argc, char *argv[]) {
    /* static: larger than a stack should carry */
    static tm_options_t options;
    tm_error_t error;
    if (tm_options_parse(argc, argv, &options, &error) != TM_OK) {
        fprintf(stderr, "trackmill-worker: %s\n", error.text);
        return TM_EXIT_USAGE;
    }
    if (options.help) {
        fputs(tm_options_help, stdout);
        return TM_EXIT_OK;
    }
    if (options.version) {
        puts("trackmill-worker " TM_VERSION);
        return TM_EXIT_OK;
    }
    if (tm_signals_catch(&error) != TM_OK) {
        fprintf(stderr, "trackmill-worker: %s\n", error.text);
        return TM_EXIT_FAILURE;
    }
    return serve(&options);
}
