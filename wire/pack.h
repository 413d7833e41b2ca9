// SPDX-License-Identifier: Apache-2.0
/* Packs msgpack into a buffer of fixed size with msgpack-c, without an allocation. For wire/ only. */
#ifndef TM_WIRE_PACK_H
#define TM_WIRE_PACK_H

#include <msgpack/pack.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t *data;
    size_t size, room;
    bool full; /* something did not fit: the content is useless */
} tm_pack_t;

static inline int tm_pack_write(void *user, const char *data, size_t bytes) {
    tm_pack_t *pack = user;
    if (pack->full || bytes > pack->room - pack->size) {
        pack->full = true;
        return -1;
    }
    if (bytes > 0) {
        memcpy(pack->data + pack->size, data, bytes);
    }
    pack->size += bytes;
    return 0;
}

static inline void tm_pack_start(tm_pack_t *pack, msgpack_packer *packer, void *data, size_t room) {
    *pack = (tm_pack_t){.data = data, .room = room};
    msgpack_packer_init(packer, pack, tm_pack_write);
}

#endif
