// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
/* Asking the system costs some 50 us, so only growth that could hurt is checked. */
#define CHECKED_GROWTH_BYTES ((size_t)64 << 20)
/* Share of the available memory that may be taken. */
#define AVAILABLE_SHARE_PERCENT 85

static bool read_number(const char *path, uint64_t *value) {
    FILE *f = fopen(path, "re");
    if (!f) {
        return false;
    }
    bool ok = fscanf(f, "%" SCNu64, value) == 1;
    fclose(f);
    return ok;
}

/* The value of "key   number" in a file of such lines. */
static bool read_field(const char *path, const char *key, uint64_t *value) {
    FILE *f = fopen(path, "re");
    if (!f) {
        return false;
    }
    char line[256];
    bool found = false;
    size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, length) == 0 && (line[length] == ' ' || line[length] == ':')) {
            found = sscanf(line + length + 1, "%" SCNu64, value) == 1;
        }
    }
    fclose(f);
    return found;
}

/* Path of this process's version 2 control group, "/" inside most containers. */
static bool control_group(char *path, size_t bytes) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) {
        return false;
    }
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            int n = snprintf(path, bytes, "/sys/fs/cgroup%s", line + 3);
            found = n > 0 && (size_t)n < bytes;
        }
    }
    fclose(f);
    return found;
}

size_t tm_memory_available(void) {
    uint64_t available = UINT64_MAX;
    uint64_t kib = 0;
    if (read_field("/proc/meminfo", "MemAvailable", &kib)) {
        available = kib * 1024;
    }
    char group[600];
    char path[700];
    if (control_group(group, sizeof group)) {
        uint64_t limit = 0;
        uint64_t used = 0;
        uint64_t cache = 0;
        snprintf(path, sizeof path, "%s/memory.max", group); /* "max" where there is no limit */
        bool limited = read_number(path, &limit);
        snprintf(path, sizeof path, "%s/memory.current", group);
        if (limited && read_number(path, &used)) {
            snprintf(path, sizeof path, "%s/memory.stat", group);
            if (read_field(path, "inactive_file", &cache)) {
                used -= cache < used ? cache : used; /* page cache goes when memory is needed */
            }
            uint64_t left = limit > used ? limit - used : 0;
            available = left < available ? left : available;
        }
    }
    return available > SIZE_MAX ? SIZE_MAX : (size_t)available;
}

tm_status_t tm_memory_check(size_t bytes, const char *what, tm_error_t *err) {
    size_t available = tm_memory_available() / 100 * AVAILABLE_SHARE_PERCENT;
    if (bytes > available) {
        return tm_error_set(err, TM_E_NO_MEMORY,
                            "%s needs %zu MiB but this machine has only %zu MiB to spare", what,
                            bytes >> 20, available >> 20);
    }
    return TM_OK;
}

tm_status_t tm_buffer_reserve(tm_buffer_t *buffer, size_t count, size_t element_bytes,
                              const char *what, tm_error_t *err) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, element_bytes, &bytes) || bytes > SIZE_MAX / 2) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: %zu elements of %zu bytes are too many", what,
                            count, element_bytes);
    }
    bytes = bytes > 0 ? bytes : 1; /* never NULL, so that nobody need ask */
    if (bytes <= buffer->bytes) {
        return TM_OK;
    }
    tm_buffer_free(buffer);
    if (bytes >= CHECKED_GROWTH_BYTES) {
        tm_status_t status = tm_memory_check(bytes, what, err);
        if (status != TM_OK) {
            return status;
        }
    }
    size_t spare = bytes + bytes / 8; /* so that events of nearly equal size do not all grow it */
    spare = (spare + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    buffer->data = aligned_alloc(ALIGNMENT, spare);
    if (!buffer->data) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %zu MiB", what, bytes >> 20);
    }
    buffer->bytes = spare;
    return TM_OK;
}

void tm_buffer_free(tm_buffer_t *buffer) {
    free(buffer->data);
    buffer->data = NULL;
    buffer->bytes = 0;
}
