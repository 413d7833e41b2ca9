// SPDX-License-Identifier: Apache-2.0
#include "client/cli/model_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENDING ".safetensors"
#define LEVELS 4 /* folders above the program in which weights/ is looked for: build/client/cli/… */
#define PATH_BYTES 4096

bool tm_model_is_file(const char *model) {
    size_t n = strlen(model), e = sizeof ENDING - 1;
    return strchr(model, '/') || (n > e && strcmp(model + n - e, ENDING) == 0);
}

/* Takes the path if there is such a file. */
static bool try_folder(const char *folder, const char *below, const char *name, size_t name_bytes,
                       char **path) {
    if (asprintf(path, "%s/%s%.*s" ENDING, folder, below, (int)name_bytes, name) < 0) {
        *path = NULL;
        return false;
    }
    if (access(*path, F_OK) == 0) {
        return true;
    }
    free(*path);
    *path = NULL;
    return false;
}

/* Cuts the last part off; false at the root. */
static bool go_up(char *folder) {
    char *slash = strrchr(folder, '/');
    if (!slash || slash == folder) {
        return false;
    }
    *slash = '\0';
    return true;
}

tm_status_t tm_model_path_find(const char *model, char **path, tm_error_t *err) {
    *path = NULL;
    if (tm_model_is_file(model)) {
        *path = strdup(model);
        return *path ? TM_OK : tm_error_set(err, TM_E_NO_MEMORY, "no memory");
    }
    size_t n = strcspn(model, "@");
    const char *chosen = getenv(TM_MODEL_FOLDER_ENV);
    if (chosen && *chosen) {
        if (try_folder(chosen, "", model, n, path)) {
            return TM_OK;
        }
        return tm_error_set(err, TM_E_NOT_FOUND, "no model %.*s: %s (from %s) has no %.*s" ENDING,
                            (int)n, model, chosen, TM_MODEL_FOLDER_ENV, (int)n, model);
    }
    char folder[PATH_BYTES];
    ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    folder[length > 0 ? length : 0] = '\0';
    if (length > 0 && go_up(folder)) {
        char program[PATH_BYTES];
        memcpy(program, folder, sizeof program);
        if (try_folder(folder, "../share/trackmill/weights/", model, n, path)) {
            return TM_OK;
        }
        for (int i = 0; i <= LEVELS; i++) {
            if (try_folder(folder, "weights/", model, n, path)) {
                return TM_OK;
            }
            if (!go_up(folder)) {
                break;
            }
        }
        return tm_error_set(err, TM_E_NOT_FOUND,
                            "no model %.*s: %.*s" ENDING " is neither in %.160s/../share/trackmill/"
                            "weights nor in a folder weights above the program; name the file, or "
                            "set %s",
                            (int)n, model, (int)n, model, program, TM_MODEL_FOLDER_ENV);
    }
    return tm_error_set(err, TM_E_NOT_FOUND, "no model %.*s: name the file, or set %s", (int)n,
                        model, TM_MODEL_FOLDER_ENV);
}
