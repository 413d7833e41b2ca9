// SPDX-License-Identifier: Apache-2.0
#include "nn/model.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nn/model_pipeline.h"

#define LABEL_SHOWN_MAX 200 /* bytes of the file's name that leave room for the reason */
#define REQUIRED_COLUMNS 3  /* x, y, z: in every event, so not among the model's columns */

static_assert(TM_HASH_BYTES == crypto_hash_sha256_BYTES, "the hash of a model is a SHA-256");

struct tm_model {
    tm_pipeline_t pipeline;
    tm_weights_t *weights;
    tm_model_info_t info;
    char name[TM_NAME_MAX + 1];
    char version[TM_NAME_MAX + 1];
    const char *column[TM_FEATURES_MAX]; /* borrowed from the pipeline's features */
};

/* Puts the file's name before the text: its end where it is long, which tells more. */
static void prefix_label(tm_error_t *err, const char *label) {
    size_t length = strlen(label);
    bool cut = length > LABEL_SHOWN_MAX;
    tm_error_prefix(err, "%s%s: ", cut ? "..." : "",
                    cut ? label + (length - LABEL_SHOWN_MAX) : label);
}

/* The input columns that the features need, each once. */
static tm_status_t collect_columns(tm_model_t *model, tm_error_t *err) {
    const tm_pipeline_t *p = &model->pipeline;
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_features; i++) {
        const tm_feature_t *feature = &p->feature[i];
        const char *column = feature->column;
        bool known = feature->kind != TM_F_COLUMN && feature->kind != TM_F_LOG_COLUMN;
        known = known || strcmp(column, "x") == 0 || strcmp(column, "y") == 0 ||
                strcmp(column, "z") == 0;
        for (uint32_t j = 0; j < n && !known; j++) {
            known = strcmp(column, model->column[j]) == 0;
        }
        if (!known) {
            model->column[n++] = column;
        }
    }
    if (n > TM_COLUMNS_MAX - REQUIRED_COLUMNS) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "features: %" PRIu32 " input columns; an event has room for %d beside "
                            "x, y and z",
                            n, TM_COLUMNS_MAX - REQUIRED_COLUMNS);
    }
    model->info.n_columns = n;
    model->info.columns = model->column;
    return TM_OK;
}

static tm_status_t read_pipeline(tm_model_t *model, const json_t *json, tm_error_t *err) {
    tm_pipeline_names_t names = {0};
    tm_status_t status = tm_pipeline_read(json, model->weights, &model->pipeline, &names, err);
    if (status != TM_OK) {
        return status;
    }
    const tm_tensor_t *unused = tm_weights_unused(model->weights);
    if (unused != NULL) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "tensor %s: nothing in the pipeline uses it; is its name misspelt?",
                            unused->name);
    }
    strcpy(model->name, names.name);
    strcpy(model->version, names.version);
    model->info.name = model->name;
    model->info.version = model->version;
    model->info.parameters = tm_weights_parameters(model->weights);
    return collect_columns(model, err);
}

static tm_status_t parse_metadata(const tm_safetensors_t *file, json_t **json, tm_error_t *err) {
    const char *text = tm_safetensors_metadata(file, TM_MODEL_METADATA_KEY);
    if (text == NULL || tm_safetensors_metadata_count(file) != 1) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "__metadata__ must have the one key " TM_MODEL_METADATA_KEY
                            ": no trackmill model, or not converted yet (docs/model-file.md)");
    }
    return tm_json_parse(text, strlen(text), "__metadata__." TM_MODEL_METADATA_KEY, json, err);
}

static tm_status_t load_bytes(const void *data, size_t bytes, tm_model_t **out, tm_error_t *err) {
    tm_safetensors_t *file = NULL;
    json_t *json = NULL;
    tm_model_t *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    }
    if (sodium_init() < 0) {
        free(model);
        return tm_error_set(err, TM_E_SYSTEM, "libsodium cannot be initialised");
    }
    tm_status_t status = tm_safetensors_parse(data, bytes, &file, err);
    if (status == TM_OK) {
        status = parse_metadata(file, &json, err);
    }
    if (status == TM_OK) {
        status = tm_weights_new(file, &model->weights, err);
    }
    if (status == TM_OK) {
        status = read_pipeline(model, json, err);
    }
    if (status == TM_OK) {
        tm_weights_forget_file(model->weights);
        crypto_hash_sha256(model->info.hash, data, bytes);
        *out = model;
        model = NULL;
    }
    tm_model_destroy(&model);
    json_decref(json);
    tm_safetensors_destroy(&file);
    return status;
}

tm_status_t tm_model_from_memory(const void *data, size_t bytes, const char *label,
                                 tm_model_t **out, tm_error_t *err) {
    *out = NULL;
    tm_status_t status = load_bytes(data, bytes, out, err);
    if (status != TM_OK) {
        prefix_label(err, label);
    }
    return status;
}

/* Reads exactly `bytes` bytes: a file that shrinks meanwhile is an error. */
static tm_status_t read_all(int fd, uint8_t *data, size_t bytes, tm_error_t *err) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = read(fd, data + done, bytes - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return tm_error_set(err, TM_E_FILE, "cannot be read: %s", strerror(errno));
        }
        if (n == 0) {
            return tm_error_set(err, TM_E_FILE, "became shorter while it was read");
        }
        done += (size_t)n;
    }
    return TM_OK;
}

/* Reads a regular file of sensible size into *data (taken by the caller). */
static tm_status_t read_file(int fd, uint8_t **data, size_t *bytes, tm_error_t *err) {
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return tm_error_set(err, TM_E_FILE, "cannot be read: %s", strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return tm_error_set(err, TM_E_FILE, "is no regular file");
    }
    if ((uint64_t)info.st_size > TM_MODEL_FILE_MAX_BYTES) {
        return tm_error_set(err, TM_E_MODEL_FILE, "has %" PRIu64 " bytes; at most %llu are allowed",
                            (uint64_t)info.st_size, TM_MODEL_FILE_MAX_BYTES);
    }
    *bytes = (size_t)info.st_size;
    *data = malloc(*bytes + 1);
    if (*data == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory for its %zu bytes", *bytes);
    }
    return read_all(fd, *data, *bytes, err);
}

tm_status_t tm_model_load(const char *path, tm_model_t **out, tm_error_t *err) {
    *out = NULL;
    uint8_t *data = NULL;
    size_t bytes = 0;
    tm_status_t status = TM_OK;
    /* not to wait for a writer if somebody names a pipe */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        status = tm_error_set(err, TM_E_FILE, "cannot be opened: %s", strerror(errno));
    }
    if (status == TM_OK) {
        status = read_file(fd, &data, &bytes, err);
    }
    if (status == TM_OK) {
        status = load_bytes(data, bytes, out, err);
    }
    if (status != TM_OK) {
        prefix_label(err, path);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(data);
    return status;
}

void tm_model_destroy(tm_model_t **p) {
    if (*p != NULL) {
        tm_pipeline_clear(&(*p)->pipeline);
        tm_weights_destroy(&(*p)->weights);
        free(*p);
        *p = NULL;
    }
}

const tm_model_info_t *tm_model_info(const tm_model_t *model) {
    return &model->info;
}

const tm_pipeline_t *tm_model_pipeline(const tm_model_t *model) {
    return &model->pipeline;
}
