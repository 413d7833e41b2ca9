// SPDX-License-Identifier: Apache-2.0
/*
 * Drives tests/fuzz/fuzz_model.c with seeded mutations of small model files: what libFuzzer does
 * with more patience.
 *
 *     test_fuzz_model [seed [rounds]]   mutates; the same seed gives the same files
 *     test_fuzz_model --corpus FOLDER   writes the unchanged files there, for libFuzzer to start from
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/model_zoo.h"

#define SEED_DEFAULT 1
#define ROUNDS_DEFAULT 6000
#define LENGTH_BYTES 8
#define ROOM 4096        /* bytes that a file may grow by */
#define CHANGES_MAX 4    /* mutations of one file */
#define SMALL_MAX 120000 /* bytes of an entry that is worth mutating */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t n) {
    return (size_t)(next_random(state) % n);
}

static uint64_t read_length(const uint8_t *file) {
    uint64_t length = 0;
    memcpy(&length, file, LENGTH_BYTES);
    return length;
}

/* Replaces `remove` bytes at `at` by `add` bytes; the header length follows unless it is wrong. */
static size_t splice(uint8_t *file, size_t bytes, size_t at, size_t removed, const void *add,
                     size_t added) {
    uint64_t length = read_length(file);
    memmove(file + at + added, file + at + removed, bytes - at - removed);
    memcpy(file + at, add, added);
    if (at >= LENGTH_BYTES && at - LENGTH_BYTES < length) {
        length += added - removed;
        memcpy(file, &length, LENGTH_BYTES);
    }
    return bytes + added - removed;
}

/* One change within the header (mostly) or the data. Returns the new size. */
static size_t mutate(uint8_t *file, size_t bytes, uint64_t *state) {
    static const char *const words[] = {"0",          "-1",      "1e308",    "9223372036854775807",
                                        "4294967296", "0.5",     "true",     "null",
                                        "[]",         "{}",      "\\\"\\\"", "\\\"x\\\"",
                                        "[",          "]",       "}",        "{",
                                        ",",          ":",       "\\\"",     "\"",
                                        "NaN",        "\\u0000", "x_src",    "edge_features",
                                        "batch_norm", "F16",     "F64",      "65",
                                        "\xff"};
    if (bytes <= LENGTH_BYTES + 1) {
        return bytes;
    }
    uint64_t length = read_length(file);
    size_t span = length < bytes - LENGTH_BYTES ? (size_t)length + 1 : bytes - LENGTH_BYTES;
    bool in_data = below(state, 8) == 0;
    size_t at = in_data ? below(state, bytes) : LENGTH_BYTES + below(state, span);
    size_t left = bytes - at;
    switch (left > 0 ? below(state, 7) : 0) {
    case 1: /* a byte */
        file[at] = (uint8_t)next_random(state);
        return bytes;
    case 2: /* a digit, where one stands */
        for (size_t i = at; i < bytes; i++) {
            if (file[i] >= '0' && file[i] <= '9') {
                file[i] = (uint8_t)('0' + below(state, 10));
                return bytes;
            }
        }
        return bytes;
    case 3: { /* a word instead of some bytes */
        const char *word = words[below(state, sizeof words / sizeof words[0])];
        size_t removed = below(state, left < 12 ? left : 12);
        return splice(file, bytes, at, removed, word, strlen(word));
    }
    case 4: { /* some bytes less */
        size_t removed = 1 + below(state, left < 40 ? left : 40);
        return splice(file, bytes, at, removed, "", 0);
    }
    case 5: { /* some bytes once more */
        uint8_t copy[200];
        size_t added = 1 + below(state, left < sizeof copy ? left : sizeof copy);
        memcpy(copy, file + at, added);
        return splice(file, bytes, at, 0, copy, added);
    }
    case 6: /* cut off */
        return below(state, 4) == 0 ? at : bytes;
    default: { /* another header length */
        uint64_t wrong = below(state, 2) == 0 ? next_random(state) >> below(state, 64)
                                              : length + below(state, 9) - 4;
        if (below(state, 4) == 0) {
            memcpy(file, &wrong, LENGTH_BYTES);
        }
        return bytes;
    }
    }
}

/* The files to start from; free() each. */
static size_t make_files(uint8_t *files[], size_t sizes[], const char *names[], size_t max) {
    size_t n = 0;
    for (const tm_zoo_entry_t *entry = tm_zoo; entry->name != NULL && n < max; entry++) {
        tm_model_writer_t *w = tm_model_writer_new(SEED_DEFAULT);
        const char *json = entry->build(w);
        uint8_t *file = tm_model_writer_bytes(w, json, &sizes[n]);
        tm_model_writer_destroy(&w);
        if (sizes[n] <= SMALL_MAX) {
            names[n] = entry->name;
            files[n++] = file;
        } else {
            free(file);
        }
    }
    return n;
}

static int write_corpus(const char *folder, uint8_t *const files[], const size_t sizes[],
                        const char *const names[], size_t n) {
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s.safetensors", folder, names[i]);
        FILE *file = fopen(path, "wb");
        bool written = file != NULL && fwrite(files[i], 1, sizes[i], file) == sizes[i];
        if (file == NULL || fclose(file) != 0 || !written) {
            perror(path);
            return EXIT_FAILURE;
        }
    }
    return EXIT_SUCCESS;
}

/* The mutated file is handed over in a block of exactly its size. */
static void run_one(const uint8_t *from, size_t bytes, uint64_t *state) {
    uint8_t *file = malloc(bytes + ROOM);
    if (file == NULL) {
        abort();
    }
    memcpy(file, from, bytes);
    size_t changes = 1 + below(state, CHANGES_MAX);
    for (size_t i = 0; i < changes; i++) {
        bytes = mutate(file, bytes, state);
    }
    uint8_t *exact = realloc(file, bytes > 0 ? bytes : 1);
    if (exact == NULL) {
        abort();
    }
    LLVMFuzzerTestOneInput(exact, bytes);
    free(exact);
}

int main(int argc, char **argv) {
    uint8_t *files[16];
    size_t sizes[16];
    const char *names[16];
    size_t n = make_files(files, sizes, names, 16);
    int result = n > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    if (argc == 3 && strcmp(argv[1], "--corpus") == 0) {
        result = write_corpus(argv[2], files, sizes, names, n);
    } else {
        uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : SEED_DEFAULT;
        uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 10) : ROUNDS_DEFAULT;
        for (size_t i = 0; i < n; i++) {
            LLVMFuzzerTestOneInput(files[i], sizes[i]);
        }
        for (uint64_t i = 0; n > 0 && i < rounds; i++) {
            uint64_t state = seed * 1000003 + i;
            size_t which = below(&state, n);
            run_one(files[which], sizes[which], &state);
        }
        printf("%" PRIu64 " mutations of %zu files, seed %" PRIu64 "\n", rounds, n, seed);
    }
    for (size_t i = 0; i < n; i++) {
        free(files[i]);
    }
    return result;
}
