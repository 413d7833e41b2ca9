// SPDX-License-Identifier: Apache-2.0
#include "tests/golden/npy.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX_BYTES 10 /* magic, version, header length */
#define HEADER_MAX 1024

static void die(const char *path, const char *what) {
    fprintf(stderr, "%s: %s\n", path, what);
    exit(EXIT_FAILURE);
}

static void read_shape(const char *path, const char *header, tm_npy_t *out) {
    const char *at = strstr(header, "'shape': (");
    if (!at) {
        die(path, "no shape");
    }
    at += strlen("'shape': (");
    out->size = 1;
    while (*at && *at != ')') {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || out->rank == TM_NPY_RANK_MAX) {
            die(path, "a shape that this reader does not know");
        }
        out->shape[out->rank++] = n;
        out->size *= n;
        at = end + strspn(end, ", ");
    }
}

static double element(const unsigned char *data, char type, size_t bytes) {
    if (type == 'f' && bytes == 4) {
        float v;
        memcpy(&v, data, sizeof v);
        return (double)v;
    }
    if (type == 'f') {
        double v;
        memcpy(&v, data, sizeof v);
        return v;
    }
    int64_t v;
    memcpy(&v, data, sizeof v);
    return (double)v;
}

bool tm_npy_read(const char *path, tm_npy_t *out) {
    memset(out, 0, sizeof *out);
    FILE *f = fopen(path, "rb");
    if (!f) {
        return false;
    }
    unsigned char prefix[PREFIX_BYTES];
    char header[HEADER_MAX + 1] = {0};
    if (fread(prefix, 1, PREFIX_BYTES, f) != PREFIX_BYTES ||
        memcmp(prefix, "\x93NUMPY\x01", 7) != 0) {
        die(path, "no .npy file of format 1");
    }
    size_t length = (size_t)prefix[8] | (size_t)prefix[9] << 8;
    if (length > HEADER_MAX || fread(header, 1, length, f) != length) {
        die(path, "its header is cut off");
    }
    const char *descr = strstr(header, "'descr': '<");
    char type = descr ? descr[11] : '?';
    size_t bytes = descr ? (size_t)(descr[12] - '0') : 0;
    bool known = (type == 'f' && (bytes == 4 || bytes == 8)) || (type == 'i' && bytes == 8);
    if (!known || strstr(header, "'fortran_order': True")) {
        die(path, "an element type or order that this reader does not know");
    }
    read_shape(path, header, out);
    unsigned char *data = malloc(out->size * bytes + 1);
    out->values = malloc(out->size * sizeof *out->values + 1);
    if (!data || !out->values || fread(data, bytes, out->size, f) != out->size) {
        die(path, "its data are cut off");
    }
    for (size_t i = 0; i < out->size; i++) {
        out->values[i] = element(data + i * bytes, type, bytes);
    }
    free(data);
    fclose(f);
    return true;
}

void tm_npy_free(tm_npy_t *npy) {
    free(npy->values);
    memset(npy, 0, sizeof *npy);
}
