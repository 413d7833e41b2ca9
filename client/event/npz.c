// SPDX-License-Identifier: Apache-2.0
#include "client/event/npz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#define NPY_MAGIC "\x93NUMPY"
#define NPY_MAGIC_BYTES 6
#define NPY_HEADER_MAX 65535 /* of a structured array's header; ours have about 100 */
#define MEMBER_NAME_BYTES (TM_COLUMN_NAME_MAX + sizeof ".npy")

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "columns are little-endian: this machine would need byte swapping"
#endif

struct tm_npz {
    zip_t *zip;
    const char *path;
};

tm_status_t tm_npz_open(const char *path, const void *bytes, size_t n, tm_npz_t **out,
                        tm_error_t *err) {
    zip_error_t fault;
    zip_error_init(&fault);
    tm_status_t status = TM_OK;
    zip_source_t *source = NULL;
    tm_npz_t *npz = calloc(1, sizeof *npz);
    *out = NULL;
    if (!npz) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
    }
    npz->path = path;
    source = zip_source_buffer_create(bytes, n, 0, &fault);
    if (!source) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: %s", path, zip_error_strerror(&fault));
        goto end;
    }
    npz->zip = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &fault);
    if (!npz->zip) {
        zip_source_free(source);
        status = tm_error_set(err, TM_E_FILE, "%s: damaged or cut short: as a zip archive: %s",
                              path, zip_error_strerror(&fault));
        goto end;
    }
    *out = npz;
    npz = NULL;
end:
    zip_error_fini(&fault);
    tm_npz_destroy(&npz);
    return status;
}

void tm_npz_destroy(tm_npz_t **p) {
    if (!*p) {
        return;
    }
    if ((*p)->zip) {
        zip_discard((*p)->zip);
    }
    free(*p);
    *p = NULL;
}

static zip_int64_t locate(const tm_npz_t *npz, const char *name) {
    char member[MEMBER_NAME_BYTES];
    snprintf(member, sizeof member, "%s.npy", name);
    return zip_name_locate(npz->zip, member, 0);
}

bool tm_npz_has(const tm_npz_t *npz, const char *name) {
    return locate(npz, name) >= 0;
}

/* ---- the .npy header: a Python dict of exactly three keys ---- */

typedef struct {
    const char *p, *end;
} cursor_t;

static void skip_spaces(cursor_t *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n')) {
        c->p++;
    }
}

static bool take(cursor_t *c, const char *word) {
    skip_spaces(c);
    size_t n = strlen(word);
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0) {
        return false;
    }
    c->p += n;
    return true;
}

/* 'text' into out; false: no string, or too long for out. */
static bool take_string(cursor_t *c, char *out, size_t out_bytes) {
    skip_spaces(c);
    if (c->p >= c->end || (*c->p != '\'' && *c->p != '"')) {
        return false;
    }
    const char *closing = memchr(c->p + 1, *c->p, (size_t)(c->end - c->p - 1));
    if (!closing || (size_t)(closing - c->p - 1) >= out_bytes) {
        return false;
    }
    size_t n = (size_t)(closing - c->p - 1);
    memcpy(out, c->p + 1, n);
    out[n] = '\0';
    c->p = closing + 1;
    return true;
}

static bool take_count(cursor_t *c, uint64_t *out) {
    skip_spaces(c);
    if (c->p >= c->end || *c->p < '0' || *c->p > '9') {
        return false;
    }
    uint64_t value = 0;
    for (; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++) {
        if (value > (UINT64_MAX - 9) / 10) {
            return false;
        }
        value = 10 * value + (uint64_t)(*c->p - '0');
    }
    *out = value;
    return true;
}

typedef struct {
    char descr[16];
    bool fortran_order;
    uint32_t dimensions;
    uint64_t count;
} npy_header_t;

static bool parse_header(const char *text, size_t n, npy_header_t *h) {
    cursor_t c = {text, text + n};
    bool seen[3] = {false, false, false};
    *h = (npy_header_t){.count = 1};
    if (!take(&c, "{")) {
        return false;
    }
    while (!take(&c, "}")) {
        char key[16];
        if (!take_string(&c, key, sizeof key) || !take(&c, ":")) {
            return false;
        }
        int which = strcmp(key, "descr") == 0           ? 0
                    : strcmp(key, "fortran_order") == 0 ? 1
                    : strcmp(key, "shape") == 0         ? 2
                                                        : -1;
        if (which < 0 || seen[which]) {
            return false;
        }
        seen[which] = true;
        if (which == 0 && !take_string(&c, h->descr, sizeof h->descr)) {
            return false;
        }
        if (which == 1) {
            h->fortran_order = take(&c, "True");
            if (!h->fortran_order && !take(&c, "False")) {
                return false;
            }
        }
        if (which == 2) {
            if (!take(&c, "(")) {
                return false;
            }
            while (!take(&c, ")")) {
                uint64_t extent;
                if (!take_count(&c, &extent)) {
                    return false;
                }
                h->count = extent; /* only arrays of one dimension are taken in the end */
                h->dimensions++;
                if (!take(&c, ",")) {
                    if (!take(&c, ")")) {
                        return false;
                    }
                    break;
                }
            }
        }
        if (!take(&c, ",")) {
            if (!take(&c, "}")) {
                return false;
            }
            break;
        }
    }
    skip_spaces(&c);
    return c.p == c.end && seen[0] && seen[1] && seen[2];
}

static tm_type_t type_of(const char *descr) {
    static const struct {
        const char *descr;
        tm_type_t type;
    } table[] = {{"|u1", TM_U8},  {"|i1", TM_I8},  {"<u2", TM_U16}, {"<i2", TM_I16},
                 {"<f2", TM_F16}, {"<u4", TM_U32}, {"<i4", TM_I32}, {"<f4", TM_F32},
                 {"<u8", TM_U64}, {"<i8", TM_I64}, {"<f8", TM_F64}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(descr, table[i].descr) == 0) {
            return table[i].type;
        }
    }
    return 0;
}

/* Offset of the data in the member's bytes; 0: refused, *err says why. */
static size_t check_header(const char *bytes, size_t n, npy_header_t *h, const char *where,
                           tm_error_t *err) {
    const unsigned char *u = (const unsigned char *)bytes;
    if (n < 12 || memcmp(bytes, NPY_MAGIC, NPY_MAGIC_BYTES) != 0) {
        tm_error_set(err, TM_E_FILE, "%s: no .npy header", where);
        return 0;
    }
    size_t start = u[6] == 1 ? 10 : 12;
    if (u[6] != 1 && u[6] != 2) {
        tm_error_set(err, TM_E_FILE, "%s: .npy version %d; versions 1 and 2 are read", where, u[6]);
        return 0;
    }
    size_t length = u[8] + ((size_t)u[9] << 8);
    if (u[6] == 2) {
        length += ((size_t)u[10] << 16) + ((size_t)u[11] << 24);
    }
    if (length > NPY_HEADER_MAX || length > n - start || !parse_header(bytes + start, length, h)) {
        tm_error_set(err, TM_E_FILE, "%s: malformed .npy header", where);
        return 0;
    }
    if (h->dimensions != 1) {
        tm_error_set(err, TM_E_FILE, "%s: %u dimensions; an array of one dimension is wanted",
                     where, h->dimensions);
        return 0;
    }
    if (h->fortran_order) {
        tm_error_set(err, TM_E_FILE, "%s: Fortran order; save it in C order", where);
        return 0;
    }
    if (type_of(h->descr) == 0) {
        tm_error_set(err, TM_E_FILE,
                     "%s: element type '%s'; little-endian integers and floats are read", where,
                     h->descr);
        return 0;
    }
    return start + length;
}

tm_status_t tm_npz_read(tm_npz_t *npz, const char *name, uint64_t max_count, tm_arena_t *arena,
                        tm_column_t *array, tm_error_t *err) {
    tm_status_t status = TM_OK;
    zip_file_t *file = NULL;
    char *bytes = NULL;
    char where[TM_ERROR_TEXT_BYTES];
    zip_stat_t info;
    npy_header_t header;

    snprintf(where, sizeof where, "%s: array %s", npz->path, name);
    *array = (tm_column_t){0};
    snprintf(array->name, sizeof array->name, "%s", name);
    zip_int64_t index = locate(npz, name);
    if (index < 0) {
        return tm_error_set(err, TM_E_FILE, "%s is missing", where);
    }
    if (zip_stat_index(npz->zip, (zip_uint64_t)index, 0, &info) != 0 ||
        !(info.valid & ZIP_STAT_SIZE)) {
        return tm_error_set(err, TM_E_FILE, "%s: %s", where, zip_strerror(npz->zip));
    }
    if (info.size > NPY_HEADER_MAX + 12 + max_count * 8) {
        return tm_error_set(err, TM_E_FILE, "%s: %" PRIu64 " bytes, more than %" PRIu64 " elements",
                            where, (uint64_t)info.size, max_count);
    }
    file = zip_fopen_index(npz->zip, (zip_uint64_t)index, 0);
    if (!file) {
        return tm_error_set(err, TM_E_FILE, "%s: %s", where, zip_strerror(npz->zip));
    }
    bytes = malloc(info.size + 1);
    if (!bytes) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %" PRIu64 " bytes", where,
                              (uint64_t)info.size);
        goto end;
    }
    /* one byte more than there should be: libzip checks the CRC when it reaches the end */
    zip_int64_t got = zip_fread(file, bytes, info.size + 1);
    if (got >= 0 && (zip_uint64_t)got == info.size) {
        zip_int64_t more = zip_fread(file, bytes + info.size, 1);
        got = more == 0 ? got : -1;
    }
    if (got < 0 || (zip_uint64_t)got != info.size) {
        const char *why = zip_error_strerror(zip_file_get_error(file));
        status = tm_error_set(err, TM_E_FILE, "%s: damaged: %s", where, why);
        goto end;
    }
    size_t start = check_header(bytes, info.size, &header, where, err);
    if (start == 0) {
        status = TM_E_FILE;
        goto end;
    }
    array->type = type_of(header.descr);
    array->n = header.count;
    uint64_t element = tm_type_bytes(array->type);
    if (header.count > max_count || header.count * element != info.size - start) {
        status = tm_error_set(err, TM_E_FILE,
                              "%s: the header says %" PRIu64 " elements of %" PRIu64
                              " bytes, there are %" PRIu64 " bytes",
                              where, header.count, element, (uint64_t)info.size - start);
        goto end;
    }
    void *data = tm_arena_alloc(arena, header.count, element);
    if (!data) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", where);
        goto end;
    }
    memcpy(data, bytes + start, header.count * element);
    array->data = data;
end:
    free(bytes);
    zip_fclose(file);
    return status;
}
