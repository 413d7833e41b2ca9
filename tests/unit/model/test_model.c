// SPDX-License-Identifier: Apache-2.0
/* The whole model file: bytes on disk, tensors' values, what is known about the model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <math.h>
#include <sodium.h>

#include "nn/model.h"
#include "nn/model_weights.h"
#include "pipeline_edit.h"

#define SEED 11
#define LENGTH_BYTES 8
#define DATA_CUTS 997 /* bytes between two cuts in the data */

/* The bytes of a zoo entry; free() them. */
static uint8_t *zoo_bytes(const char *name, size_t *bytes) {
    tm_model_writer_t *w = tm_model_writer_new(SEED);
    const char *json = tm_pipeline_edit(w, name, "description", "\"test\"");
    uint8_t *data = tm_model_writer_bytes(w, json, bytes);
    tm_model_writer_destroy(&w);
    return data;
}

/* Loads the first `bytes` bytes from a block of exactly that size. */
static tm_status_t load_cut(const uint8_t *data, size_t bytes, tm_error_t *err) {
    uint8_t *copy = malloc(bytes);
    tm_model_t *model = NULL;
    assert_true(copy != NULL || bytes == 0);
    if (bytes > 0) {
        memcpy(copy, data, bytes);
    }
    tm_status_t status = tm_model_from_memory(copy, bytes, "cut", &model, err);
    assert_int_equal(status == TM_OK, model != NULL);
    tm_model_destroy(&model);
    free(copy);
    return status;
}

static void test_truncated(void **state) {
    (void)state;
    size_t bytes = 0;
    uint8_t *data = zoo_bytes("resagnn_small", &bytes);
    size_t header = LENGTH_BYTES + (size_t)data[0] + ((size_t)data[1] << 8);
    assert_true(header < bytes);
    tm_error_t err = {0};
    for (size_t n = 0; n < bytes; n += n < header + 16 || n + 16 > bytes ? 1 : DATA_CUTS) {
        assert_int_equal(load_cut(data, n, &err), TM_E_MODEL_FILE);
        assert_memory_equal(err.text, "cut: ", 5);
        assert_non_null(strstr(err.text, n < LENGTH_BYTES ? "too short"
                                         : n < header     ? "the file was cut off"
                                                          : "are not inside the"));
    }
    assert_int_equal(load_cut(data, bytes, &err), TM_OK);

    uint8_t *longer = calloc(1, bytes + 1);
    assert_non_null(longer);
    memcpy(longer, data, bytes);
    assert_int_equal(load_cut(longer, bytes + 1, &err), TM_E_MODEL_FILE);
    assert_string_equal(err.text, "cut: 1 bytes behind the last tensor belong to no tensor");
    free(longer);
    free(data);
}

/* Any byte of the header changed: refused or not, but never a crash. Most changes must be noticed. */
static void test_changed_header(void **state) {
    (void)state;
    static const uint8_t values[] = {0, '"', '9', '}', 0xff};
    size_t bytes = 0;
    uint8_t *data = zoo_bytes("resagnn_small", &bytes);
    size_t header = LENGTH_BYTES + (size_t)data[0] + ((size_t)data[1] << 8);
    tm_error_t err = {0};
    size_t loaded = 0;
    for (size_t i = 0; i < header; i++) {
        uint8_t before = data[i];
        data[i] = values[i % sizeof values];
        loaded += load_cut(data, bytes, &err) == TM_OK;
        data[i] = before;
    }
    assert_in_range(loaded, 1, header / 10);
    free(data);
}

static void test_on_disk(void **state) {
    (void)state;
    char folder[] = "/tmp/tm_test_model_XXXXXX";
    assert_non_null(mkdtemp(folder));
    char path[64];
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    char wanted[160];

    snprintf(path, sizeof path, "%s/none", folder);
    assert_int_equal(tm_model_load(path, &model, &err), TM_E_FILE);
    snprintf(wanted, sizeof wanted, "%s: cannot be opened: No such file or directory", path);
    assert_string_equal(err.text, wanted);

    assert_int_equal(tm_model_load(folder, &model, &err), TM_E_FILE);
    snprintf(wanted, sizeof wanted, "%s: is no regular file", folder);
    assert_string_equal(err.text, wanted);

    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(tm_model_load(path, &model, &err), TM_E_FILE);
    assert_non_null(strstr(err.text, "is no regular file"));
    unlink(path);

    snprintf(path, sizeof path, "%s/model", folder);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(tm_model_load(path, &model, &err), TM_E_MODEL_FILE);
    snprintf(wanted, sizeof wanted, "%s: only 0 bytes: too short for a safetensors file", path);
    assert_string_equal(err.text, wanted);
    assert_int_equal(ftruncate(fileno(file), (off_t)TM_MODEL_FILE_MAX_BYTES + 1), 0);
    assert_int_equal(tm_model_load(path, &model, &err), TM_E_MODEL_FILE);
    assert_non_null(strstr(err.text, "has 1073741825 bytes; at most 1073741824 are allowed"));
    fclose(file);

    tm_model_writer_t *w = tm_model_writer_new(SEED);
    const char *json = tm_pipeline_edit(w, "standard", "version", "\"3.1\"");
    tm_model_writer_save(w, json, path);
    assert_int_equal(tm_model_load(path, &model, &err), TM_OK);
    size_t bytes = 0;
    uint8_t *data = tm_model_writer_bytes(w, json, &bytes);
    uint8_t hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(hash, data, bytes);
    const tm_model_info_t *info = tm_model_info(model);
    assert_memory_equal(info->hash, hash, sizeof hash);
    assert_string_equal(info->name, "standard");
    assert_string_equal(info->version, "3.1");
    assert_ptr_equal(tm_model_info(model), info);
    tm_model_destroy(&model);
    free(data);
    tm_model_writer_destroy(&w);
    unlink(path);
    rmdir(folder);
}

/* Loads "resagnn_small" with one tensor replaced. */
static tm_status_t load_with(const char *name, tm_type_t type, uint32_t rank, const uint64_t *shape,
                             const double *values, tm_model_t **model, tm_error_t *err) {
    tm_model_writer_t *w = tm_model_writer_new(SEED);
    const char *json = tm_pipeline_edit(w, "resagnn_small", "version", "\"1\"");
    tm_model_writer_tensor(w, name, type, rank, shape, values, 1);
    tm_status_t status = tm_writer_load(w, json, "m", model, err);
    tm_model_writer_destroy(&w);
    return status;
}

static void test_not_finite(void **state) {
    (void)state;
    static const struct {
        tm_type_t type;
        double value;
    } cases[] = {{TM_F32, NAN},       {TM_F32, INFINITY}, {TM_F32, -INFINITY}, {TM_F64, NAN},
                 {TM_F64, -INFINITY}, {TM_F64, 1e39},     {TM_F16, NAN},       {TM_F16, INFINITY}};
    uint64_t width = 8;
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double values[8] = {0};
        values[5] = cases[i].value;
        assert_int_equal(
            load_with("input_network.0.bias", cases[i].type, 1, &width, values, &model, &err),
            TM_E_MODEL_FILE);
        assert_string_equal(err.text,
                            "m: tensor input_network.0.bias: element 5 is not finite as float32");
        assert_null(model);
    }
}

/* F16 and F64 give the same floats as F32, and whatever the place in the file, they are aligned. */
static void test_types(void **state) {
    (void)state;
    static const double values[8] = {0, -0.0, 1, -1.5, 65504, 0.0009765625, -0.333251953125, 1024};
    static const tm_type_t types[] = {TM_F16, TM_F32, TM_F64};
    uint64_t width = 8;
    for (size_t t = 0; t < 3; t++) {
        tm_model_t *model = NULL;
        tm_error_t err = {0};
        assert_int_equal(
            load_with("input_network.0.bias", types[t], 1, &width, values, &model, &err), TM_OK);
        const tm_mlp_t *mlp = &tm_model_pipeline(model)->gnn.node_encoder;
        for (size_t i = 0; i < width; i++) {
            assert_float_equal(mlp->op[0].bias[i], values[i], 0);
        }
        for (uint32_t i = 0; i < mlp->n_ops; i++) {
            assert_int_equal((uintptr_t)mlp->op[i].weight % TM_WEIGHTS_ALIGNMENT, 0);
            assert_int_equal((uintptr_t)mlp->op[i].bias % TM_WEIGHTS_ALIGNMENT, 0);
        }
        tm_model_destroy(&model);
    }
}

/* A linear weight is [out, in], row by row as in the file. */
static void test_weight_order(void **state) {
    (void)state;
    double values[24];
    for (int i = 0; i < 24; i++) {
        values[i] = i + 0.5;
    }
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    assert_int_equal(
        load_with("input_network.0.weight", TM_F32, 2, (uint64_t[]){8, 3}, values, &model, &err),
        TM_OK);
    const tm_op_t *op = &tm_model_pipeline(model)->gnn.node_encoder.op[0];
    assert_int_equal(op->in, 3);
    assert_int_equal(op->out, 8);
    for (int i = 0; i < 24; i++) {
        assert_float_equal(op->weight[i], values[i], 0);
    }
    tm_model_destroy(&model);
    /* the transposed one is noticed */
    assert_int_equal(
        load_with("input_network.0.weight", TM_F32, 2, (uint64_t[]){3, 8}, values, &model, &err),
        TM_E_MODEL_FILE);
    assert_string_equal(err.text, "m: gnn.node_encoder[0].tensor: tensor input_network.0.weight "
                                  "has shape [3, 8], so it takes 8 values, but 3 come in");
    assert_int_equal(
        load_with("input_network.0.weight", TM_F32, 3, (uint64_t[]){8, 3, 1}, values, &model, &err),
        TM_E_MODEL_FILE);
    assert_non_null(strstr(err.text, "has shape [8, 3, 1] where [out, in] is expected"));
}

static void test_unused_and_missing(void **state) {
    (void)state;
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    uint64_t one = 1;
    assert_int_equal(load_with("input_network.0.wieght", TM_F32, 1, &one, NULL, &model, &err),
                     TM_E_MODEL_FILE);
    assert_string_equal(err.text, "m: tensor input_network.0.wieght: nothing in the pipeline uses "
                                  "it; is its name misspelt?");

    tm_model_writer_t *w = tm_model_writer_new(SEED);
    const char *json = tm_pipeline_edit(w, "resagnn_small", "version", "\"1\"");
    tm_model_writer_remove(w, "edge_network.3.bias");
    assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_E_MODEL_FILE);
    assert_string_equal(err.text,
                        "m: gnn.edge_mlp[9].tensor: the file has no tensor edge_network.3.bias");
    tm_model_writer_destroy(&w);
}

static void test_batch_norm(void **state) {
    (void)state;
    uint64_t width = 64;
    double var[64];
    for (int i = 0; i < 64; i++) {
        var[i] = i == 7 ? -1e-6 : 1;
    }
    for (int negative = 1; negative >= 0; negative--) {
        tm_model_writer_t *w = tm_model_writer_new(SEED);
        tm_model_t *model = NULL;
        tm_error_t err = {0};
        const char *json = tm_pipeline_edit(w, "acorn_recurrent", "version", "\"1\"");
        var[7] = negative ? -1e-6 : 0;
        tm_model_writer_tensor(w, "node_network.n0.running_var", TM_F32, 1, &width, var, 0);
        tm_status_t status = tm_writer_load(w, json, "m", &model, &err);
        if (negative) {
            assert_int_equal(status, TM_E_MODEL_FILE);
            assert_string_equal(err.text, "m: gnn.node_mlp[1].tensor: tensor "
                                          "node_network.n0.running_var: element 7 is negative");
        } else {
            assert_int_equal(status, TM_OK);
            const tm_op_t *op = &tm_model_pipeline(model)->gnn.node_mlp[0].op[1];
            assert_float_equal(op->var[7], 0, 0);
            assert_float_equal(op->var[8], 1, 0);
            assert_float_equal(op->eps, 1e-5f, 0);
        }
        tm_model_destroy(&model);
        tm_model_writer_destroy(&w);
    }
}

/* The metadata of a container without tensors. */
static void expect_metadata(const char *metadata, const char *text) {
    char header[512];
    uint8_t file[LENGTH_BYTES + sizeof header];
    int n = snprintf(header, sizeof header, "{%s}", metadata);
    assert_in_range(n, 2, sizeof header - 1);
    memset(file, 0, LENGTH_BYTES);
    file[0] = (uint8_t)n;
    file[1] = (uint8_t)(n >> 8);
    memcpy(file + LENGTH_BYTES, header, (size_t)n);
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    assert_int_equal(tm_model_from_memory(file, LENGTH_BYTES + (size_t)n, "m", &model, &err),
                     TM_E_MODEL_FILE);
    if (strncmp(err.text, text, strlen(text)) != 0) {
        fail_msg("%s: got \"%s\"", metadata, err.text);
    }
}

static void test_metadata(void **state) {
    (void)state;
    static const char one_key[] = "m: __metadata__ must have the one key trackmill";
    expect_metadata("", one_key);
    expect_metadata("\"__metadata__\":{}", one_key);
    expect_metadata("\"__metadata__\":{\"format\":\"pt\"}", one_key);
    expect_metadata("\"__metadata__\":{\"trackmill\":\"{}\",\"format\":\"pt\"}", one_key);
    expect_metadata("\"__metadata__\":{\"trackmill\":\"\"}",
                    "m: __metadata__.trackmill is no valid JSON, line 1, column 0: ");
    expect_metadata("\"__metadata__\":{\"trackmill\":\"{\\\"format\\\":1,}\"}",
                    "m: __metadata__.trackmill is no valid JSON, line 1, column 13: ");
    expect_metadata("\"__metadata__\":{\"trackmill\":\"{\\\"format\\\":1,\\\"format\\\":1}\"}",
                    "m: __metadata__.trackmill is no valid JSON, line 1, column 20: duplicate");
    expect_metadata("\"__metadata__\":{\"trackmill\":\"[]\"}",
                    "m: pipeline: a list where an object is expected");
    expect_metadata("\"__metadata__\":{\"trackmill\":\"{}\"}", "m: format: this key is missing");
    expect_metadata("\"__metadata__\":{\"trackmill\":\"{\\\"x\\\":NaN}\"}",
                    "m: __metadata__.trackmill is no valid JSON");
}

/* A long file name leaves room for what is wrong. */
static void test_long_label(void **state) {
    (void)state;
    char label[2000];
    memset(label, 'd', sizeof label);
    strcpy(label + sizeof label - 20, "/last.safetensors");
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    assert_int_equal(tm_model_from_memory("", 0, label, &model, &err), TM_E_MODEL_FILE);
    assert_memory_equal(err.text, "...ddd", 6);
    assert_non_null(strstr(err.text, "/last.safetensors: only 0 bytes: too short"));
    assert_int_equal(tm_model_from_memory("", 0, label, &model, NULL), TM_E_MODEL_FILE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_changed_header),
        cmocka_unit_test(test_on_disk),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_weight_order),
        cmocka_unit_test(test_unused_and_missing),
        cmocka_unit_test(test_batch_norm),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_long_label),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
