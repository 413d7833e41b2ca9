// SPDX-License-Identifier: Apache-2.0
/*
 * A whole file in memory, decompressed: xz and gzip are told by their first bytes, whatever the
 * name says. Sizes are limited, so that a small hostile file cannot claim the machine's memory.
 *
 * Ownership: the blob owns its bytes; tm_blob_clear frees them. Threads: none shared.
 * Errors: TM_E_FILE with a text that starts with the path; TM_E_NO_MEMORY.
 */
#ifndef TM_CLIENT_EVENT_BLOB_H
#define TM_CLIENT_EVENT_BLOB_H

#include "wire/error.h"

#define TM_BLOB_MAX_BYTES (1ull << 30)       /* of a file, before and after decompression */
#define TM_BLOB_XZ_MEMORY_BYTES (512u << 20) /* liblzma's dictionary and tables */

typedef struct {
    char *data;   /* `bytes` bytes and a NUL after them */
    size_t bytes; /* without that NUL */
} tm_blob_t;

/* Reads and decompresses `path`. *out is overwritten, not freed. */
tm_status_t tm_blob_read(const char *path, tm_blob_t *out, tm_error_t *err);
/* Safe on a zeroed struct. */
void tm_blob_clear(tm_blob_t *blob);

#endif
