// SPDX-License-Identifier: Apache-2.0
/*
 * The main program of a fuzz target where there is no libFuzzer.
 *
 *     fuzz_x ROUNDS [SEED]       that many random valid inputs, each also mutated several times
 *     fuzz_x --write FOLDER N    writes N seeds into the folder, as a corpus for libFuzzer
 *     fuzz_x FILE …              replays what libFuzzer has found
 */
#include <errno.h>
#include <string.h>

#include "fuzz.h"

enum { MUTATIONS = 16 };

/* In a buffer of exactly its size, so that sanitizers see any overrun. */
static void run(const uint8_t *data, size_t bytes) {
    uint8_t *exact = malloc(bytes > 0 ? bytes : 1);
    if (!exact) {
        abort();
    }
    if (bytes > 0) {
        memcpy(exact, data, bytes);
    }
    LLVMFuzzerTestOneInput(exact, bytes);
    free(exact);
}

static int run_file(const char *path) {
    static uint8_t data[1 << 20];
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    size_t bytes = fread(data, 1, sizeof data, file);
    fclose(file);
    run(data, bytes);
    return 0;
}

static int write_seeds(const char *folder, unsigned long count) {
    sample_rng_t rng = {count};
    for (unsigned long i = 0; i < count; i++) {
        static uint8_t data[FUZZ_BYTES_MAX];
        char path[4096];
        size_t bytes = fuzz_seed(&rng, data);
        snprintf(path, sizeof path, "%s/seed-%04lu", folder, i);
        FILE *file = fopen(path, "wb");
        if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
            fprintf(stderr, "%s: %s\n", path, strerror(errno));
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "--write") == 0) {
        return write_seeds(argv[2], strtoul(argv[3], NULL, 10));
    }
    char *end = NULL;
    unsigned long rounds = argc > 1 ? strtoul(argv[1], &end, 10) : 0;
    if (argc < 2) {
        fprintf(stderr, "usage: %s ROUNDS [SEED] | --write FOLDER N | FILE …\n", argv[0]);
        return 2;
    }
    if (*end != '\0') {
        int failed = 0;
        for (int i = 1; i < argc; i++) {
            failed |= run_file(argv[i]);
        }
        return failed;
    }
    sample_rng_t rng = {argc > 2 ? strtoull(argv[2], NULL, 10) : 1};
    run(NULL, 0);
    for (unsigned long i = 0; i < rounds; i++) {
        static uint8_t seed[FUZZ_BYTES_MAX], data[FUZZ_BYTES_MAX];
        size_t seed_bytes = fuzz_seed(&rng, seed);
        run(seed, seed_bytes);
        memcpy(data, seed, seed_bytes);
        size_t bytes = seed_bytes;
        for (int k = 0; k < MUTATIONS; k++) {
            if (k % 4 == 0) { /* not too far away from what is valid */
                memcpy(data, seed, seed_bytes);
                bytes = seed_bytes;
            }
            bytes = sample_mutate(&rng, data, bytes, sizeof data);
            run(data, bytes);
        }
    }
    printf("%lu seeds and %lu mutations\n", rounds, rounds * MUTATIONS);
    return 0;
}
