// SPDX-License-Identifier: Apache-2.0
/*
 * Scratch files for the tests of file formats: a folder that goes away at the end, and writers for
 * raw bytes, gzip, xz and zip. Every failure fails the test.
 */
#ifndef TM_TESTS_CLI_SCRATCH_H
#define TM_TESTS_CLI_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka group set-up and tear-down. */
int scratch_start(void **state);
int scratch_stop(void **state);

/* "<folder>/<name>"; one of 8 buffers in turn. */
const char *scratch_path(const char *name);
/* Writes a file and returns its path. */
const char *scratch_write(const char *name, const void *bytes, size_t n);
const char *scratch_text(const char *name, const char *text);
const char *scratch_gzip(const char *name, const void *bytes, size_t n);
const char *scratch_xz(const char *name, const void *bytes, size_t n);
/* The file's bytes and a NUL; free them. */
char *scratch_read(const char *path, size_t *n);
/* Empties the folder. */
void scratch_empty(void);

/* The shared data folder joined with `below`, or NULL if it is not there. */
const char *scratch_shared(const char *below);

/* ---- numpy archives ---- */

typedef struct {
    const char *name;  /* "x_um" */
    const char *descr; /* "<i4" */
    uint64_t count;
    const void *data;
    size_t bytes;
    const char *header; /* instead of the usual header text, or NULL */
    int version;        /* 0: 1 */
} npy_t;

/* Writes an .npz (stored, or deflated). */
const char *scratch_npz(const char *name, const npy_t *arrays, size_t n, bool deflate);
#define NPY(name_, descr_, array_) \
    { \
        .name = name_, .descr = descr_, .count = sizeof(array_) / sizeof(array_)[0], \
        .data = array_, .bytes = sizeof(array_) \
    }

/* xorshift: tests must not depend on the C library's generator. */
uint32_t scratch_random(uint64_t *state);

#endif
