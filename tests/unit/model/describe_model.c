// SPDX-License-Identifier: Apache-2.0
/* Loads a model file and prints what it is; for test_convert.py. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "nn/pipeline.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: describe_model FILE\n");
        return EXIT_FAILURE;
    }
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    if (tm_model_load(argv[1], &model, &err) != TM_OK) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    const tm_model_info_t *info = tm_model_info(model);
    const tm_mlp_t *embed = &tm_model_pipeline(model)->embed.mlp;
    double sum = 0; /* of the embedding's first weights, to see the values as well */
    for (uint32_t i = 0; embed->op[0].kind == TM_OP_LINEAR && i < embed->in * embed->op[0].out;
         i++) {
        sum += (double)embed->op[0].weight[i] * (i + 1);
    }
    printf("%s %s %" PRIu64 " %.9g ", info->name, info->version, info->parameters, sum);
    for (size_t i = 0; i < sizeof info->hash; i++) {
        printf("%02x", info->hash[i]);
    }
    printf("\n");
    tm_model_destroy(&model);
    return EXIT_SUCCESS;
}
