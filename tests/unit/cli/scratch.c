// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/cli/scratch.h"

#include <dirent.h>
#include <lzma.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>
#include <zlib.h>

#include <cmocka.h>

#define PATH_BYTES 1024

static char folder[PATH_BYTES];

int scratch_start(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.900s/trackmill-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

void scratch_empty(void) {
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            unlink(scratch_path(entry->d_name));
        }
    }
    closedir(dir);
}

int scratch_stop(void **state) {
    (void)state;
    scratch_empty();
    return rmdir(folder);
}

const char *scratch_path(const char *name) {
    static char buffer[8][2 * PATH_BYTES];
    static unsigned turn;
    char *path = buffer[turn++ % 8];
    snprintf(path, sizeof buffer[0], "%s/%s", folder, name);
    return path;
}

const char *scratch_write(const char *name, const void *bytes, size_t n) {
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
    return path;
}

const char *scratch_text(const char *name, const char *text) {
    return scratch_write(name, text, strlen(text));
}

const char *scratch_gzip(const char *name, const void *bytes, size_t n) {
    const char *path = scratch_path(name);
    gzFile file = gzopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)n), n);
    assert_int_equal(gzclose(file), Z_OK);
    return path;
}

const char *scratch_xz(const char *name, const void *bytes, size_t n) {
    size_t room = lzma_stream_buffer_bound(n), used = 0;
    uint8_t *out = malloc(room);
    assert_non_null(out);
    assert_int_equal(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, NULL, bytes, n, out, &used, room),
                     LZMA_OK);
    const char *path = scratch_write(name, out, used);
    free(out);
    return path;
}

char *scratch_read(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *n = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *n, file), *n);
    bytes[*n] = '\0';
    fclose(file);
    return bytes;
}

const char *scratch_shared(const char *below) {
    static char path[2 * PATH_BYTES];
    const char *shared = getenv("TM_SHARED");
    snprintf(path, sizeof path, "%.1000s/%.1000s", shared && *shared ? shared : "../shared", below);
    return access(path, F_OK) == 0 ? path : NULL;
}

const char *scratch_npz(const char *name, const npy_t *arrays, size_t n, bool deflate) {
    const char *path = scratch_path(name);
    int fault = 0;
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &fault);
    assert_non_null(zip);
    for (size_t i = 0; i < n; i++) {
        char text[256], member[64];
        size_t start = arrays[i].version == 2 ? 12 : 10;
        if (arrays[i].header) {
            snprintf(text, sizeof text, "%s", arrays[i].header);
        } else {
            snprintf(text, sizeof text,
                     "{'descr': '%s', 'fortran_order': False, 'shape': (%llu,), }", arrays[i].descr,
                     (unsigned long long)arrays[i].count);
        }
        size_t length = strlen(text), padded = (start + length + 1 + 63) / 64 * 64;
        char *bytes = malloc(padded + arrays[i].bytes);
        assert_non_null(bytes);
        memcpy(bytes, "\x93NUMPY", 6);
        bytes[6] = arrays[i].version ? (char)arrays[i].version : 1;
        bytes[7] = 0;
        memset(bytes + 8, 0, start - 8);
        bytes[8] = (char)((padded - start) & 0xFF);
        bytes[9] = (char)((padded - start) >> 8);
        memset(bytes + start, ' ', padded - start);
        memcpy(bytes + start, text, length);
        bytes[padded - 1] = '\n';
        if (arrays[i].bytes) {
            memcpy(bytes + padded, arrays[i].data, arrays[i].bytes);
        }
        zip_source_t *source = zip_source_buffer(zip, bytes, padded + arrays[i].bytes, 1);
        assert_non_null(source);
        snprintf(member, sizeof member, "%s.npy", arrays[i].name);
        zip_int64_t index = zip_file_add(zip, member, source, ZIP_FL_OVERWRITE);
        assert_true(index >= 0);
        assert_int_equal(zip_set_file_compression(zip, (zip_uint64_t)index,
                                                  deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0),
                         0);
    }
    assert_int_equal(zip_close(zip), 0);
    return path;
}

uint32_t scratch_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 32);
}
