// SPDX-License-Identifier: Apache-2.0
#include "client/event/blob.h"

#include <errno.h>
#include <lzma.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define FIRST_GUESS 4 /* output buffer = input times this, then doubled as needed */

/* Makes room for more output (and the NUL at its end); the limit counts without that NUL. */
static tm_status_t grow(tm_blob_t *out, size_t *capacity, const char *path, tm_error_t *err) {
    if (*capacity >= TM_BLOB_MAX_BYTES) {
        return tm_error_set(err, TM_E_FILE, "%s: more than %llu MiB when decompressed", path,
                            TM_BLOB_MAX_BYTES >> 20);
    }
    size_t wanted = *capacity * 2;
    if (wanted > TM_BLOB_MAX_BYTES) {
        wanted = TM_BLOB_MAX_BYTES;
    }
    char *data = realloc(out->data, wanted + 1);
    if (!data) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %zu bytes", path, wanted);
    }
    out->data = data;
    *capacity = wanted;
    return TM_OK;
}

static tm_status_t start_output(const tm_blob_t *in, tm_blob_t *out, size_t *capacity,
                                const char *path, tm_error_t *err) {
    size_t guess =
        in->bytes > TM_BLOB_MAX_BYTES / FIRST_GUESS ? TM_BLOB_MAX_BYTES : in->bytes * FIRST_GUESS;
    out->data = malloc(guess + 1);
    if (!out->data) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %zu bytes", path, guess);
    }
    *capacity = guess;
    return TM_OK;
}

static const char *xz_fault(lzma_ret ret) {
    switch (ret) {
    case LZMA_BUF_ERROR:
        return "the xz data end too early: the file is cut short";
    case LZMA_MEMLIMIT_ERROR:
        return "decompressing the xz data needs too much memory";
    case LZMA_MEM_ERROR:
        return "no memory to decompress the xz data";
    case LZMA_OPTIONS_ERROR:
        return "xz filters that this liblzma does not know";
    default:
        return "the xz data are damaged";
    }
}

static tm_status_t unxz(const tm_blob_t *in, const char *path, tm_blob_t *out, tm_error_t *err) {
    tm_status_t status;
    size_t capacity = 0;
    lzma_stream stream = LZMA_STREAM_INIT;
    lzma_ret ret = lzma_stream_decoder(&stream, TM_BLOB_XZ_MEMORY_BYTES, LZMA_CONCATENATED);
    if (ret != LZMA_OK) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: liblzma did not start", path);
    }
    status = start_output(in, out, &capacity, path, err);
    if (status != TM_OK) {
        goto end;
    }
    stream.next_in = (const uint8_t *)in->data;
    stream.avail_in = in->bytes;
    for (;;) {
        stream.next_out = (uint8_t *)out->data + out->bytes;
        stream.avail_out = capacity - out->bytes;
        ret = lzma_code(&stream, LZMA_FINISH);
        out->bytes = capacity - stream.avail_out;
        if (ret == LZMA_STREAM_END) {
            break;
        }
        if (ret == LZMA_OK && stream.avail_out == 0) {
            status = grow(out, &capacity, path, err);
            if (status != TM_OK) {
                goto end;
            }
        } else if (ret != LZMA_OK) {
            status = tm_error_set(err, TM_E_FILE, "%s: %s", path, xz_fault(ret));
            goto end;
        }
    }
end:
    lzma_end(&stream);
    return status;
}

static tm_status_t gunzip(const tm_blob_t *in, const char *path, tm_blob_t *out, tm_error_t *err) {
    tm_status_t status;
    size_t capacity = 0;
    z_stream stream = {0};
    /* 16: a gzip header, nothing else */
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: zlib did not start", path);
    }
    status = start_output(in, out, &capacity, path, err);
    if (status != TM_OK) {
        goto end;
    }
    stream.next_in = (Bytef *)in->data;
    stream.avail_in = (uInt)in->bytes; /* at most TM_BLOB_MAX_BYTES: fits */
    for (;;) {
        stream.next_out = (Bytef *)out->data + out->bytes;
        stream.avail_out = (uInt)(capacity - out->bytes);
        int ret = inflate(&stream, Z_NO_FLUSH);
        out->bytes = capacity - stream.avail_out;
        if (ret == Z_STREAM_END) {
            if (stream.avail_in == 0) {
                break;
            }
            inflateReset(&stream); /* gzip files may be strung together */
        } else if (ret == Z_OK || (ret == Z_BUF_ERROR && stream.avail_out == 0)) {
            if (stream.avail_out == 0) {
                status = grow(out, &capacity, path, err);
                if (status != TM_OK) {
                    goto end;
                }
            }
        } else {
            status = tm_error_set(err, TM_E_FILE, "%s: %s", path,
                                  ret == Z_BUF_ERROR
                                      ? "the gzip data end too early: the file is cut short"
                                      : "the gzip data are damaged");
            goto end;
        }
    }
end:
    inflateEnd(&stream);
    return status;
}

static tm_status_t slurp(const char *path, tm_blob_t *out, tm_error_t *err) {
    tm_status_t status = TM_OK;
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file) {
        return tm_error_set(err, TM_E_FILE, "%s: %s", path, strerror(errno));
    }
    if (fstat(fileno(file), &info) != 0) {
        status = tm_error_set(err, TM_E_FILE, "%s: %s", path, strerror(errno));
        goto end;
    }
    if (!S_ISREG(info.st_mode)) {
        status = tm_error_set(err, TM_E_FILE, "%s: not a regular file", path);
        goto end;
    }
    if ((unsigned long long)info.st_size > TM_BLOB_MAX_BYTES) {
        status =
            tm_error_set(err, TM_E_FILE, "%s: larger than %llu MiB", path, TM_BLOB_MAX_BYTES >> 20);
        goto end;
    }
    out->data = malloc((size_t)info.st_size + 1);
    if (!out->data) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %lld bytes", path,
                              (long long)info.st_size);
        goto end;
    }
    out->bytes = fread(out->data, 1, (size_t)info.st_size, file);
    if (ferror(file)) {
        status = tm_error_set(err, TM_E_FILE, "%s: reading failed: %s", path, strerror(errno));
    }
end:
    fclose(file);
    return status;
}

tm_status_t tm_blob_read(const char *path, tm_blob_t *out, tm_error_t *err) {
    static const char xz[] = "\xFD"
                             "7zXZ";
    static const char gzip[] = "\x1F\x8B";
    *out = (tm_blob_t){0};
    tm_blob_t plain = {0}, raw = {0};
    tm_status_t status = slurp(path, &raw, err);
    if (status == TM_OK && raw.bytes >= sizeof xz && memcmp(raw.data, xz, sizeof xz) == 0) {
        status = unxz(&raw, path, &plain, err);
    } else if (status == TM_OK && raw.bytes >= sizeof gzip - 1 &&
               memcmp(raw.data, gzip, sizeof gzip - 1) == 0) {
        status = gunzip(&raw, path, &plain, err);
    } else if (status == TM_OK) {
        plain = raw;
        raw = (tm_blob_t){0};
    }
    tm_blob_clear(&raw);
    if (status != TM_OK) {
        tm_blob_clear(&plain);
        return status;
    }
    plain.data[plain.bytes] = '\0';
    *out = plain;
    return TM_OK;
}

void tm_blob_clear(tm_blob_t *blob) {
    free(blob->data);
    *blob = (tm_blob_t){0};
}
