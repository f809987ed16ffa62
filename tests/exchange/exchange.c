/*
 * The library's side of the exchange with Python:
 *   exchange save FILE NAME        saves a layer of three features
 *   exchange infer FILE NAME D N   loads a layer of D features and infers N samples, floats from the
 *                                  standard input to the standard output, as little-endian bytes
 */
#include <batchnorm/bn_safetensors.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAVED = 3 };

static bn_status save(const char *path, const char *name) {
    static const float weight[SAVED] = {0.5f, 1, -2}, bias[SAVED] = {0, -1, 0.1f};
    static const float mean[SAVED] = {10, -0.25f, 0}, var[SAVED] = {4, 1, 0.01f};
    bn_layer layer;
    bn_status status = bn_layer_init(&layer, SAVED, NULL);
    if (status == BN_STATUS_OK) {
        memcpy(layer.gamma, weight, sizeof weight);
        memcpy(layer.beta, bias, sizeof bias);
        memcpy(layer.running_mean, mean, sizeof mean);
        memcpy(layer.running_var, var, sizeof var);
        layer.num_batches_tracked = 12345678901;
        status = bn_layer_save_safetensors(&layer, path, name);
        bn_layer_free(&layer);
    }
    return status;
}

/* From this machine's order of bytes to the other side's, or back. */
static void turn(float *x, size_t count) {
    for (size_t k = 0; k < count; k++) {
        uint32_t bits, turned = 0;
        memcpy(&bits, &x[k], sizeof bits);
        for (size_t byte = 0; byte < sizeof bits; byte++) {
            ((unsigned char *)&turned)[byte] = (unsigned char)(bits >> (8 * byte));
        }
        memcpy(&x[k], &turned, sizeof turned);
    }
}

static bn_status infer(const char *path, const char *name, size_t features, size_t n) {
    bn_options options = bn_options_default();
    options.inference_only = true;
    float *x = malloc(n * features * sizeof *x);
    bn_layer layer = {0};
    bn_status status = x == NULL || fread(x, sizeof *x * features, n, stdin) != n
                           ? BN_STATUS_IO
                           : bn_layer_init(&layer, features, &options);
    if (status == BN_STATUS_OK) {
        status = bn_layer_load_safetensors(&layer, path, name);
    }
    if (status == BN_STATUS_OK) {
        turn(x, n * features);
        status = bn_layer_infer(&layer, n, x, x);
        turn(x, n * features);
    }
    if (status == BN_STATUS_OK && fwrite(x, sizeof *x * features, n, stdout) != n) {
        status = BN_STATUS_IO;
    }
    bn_layer_free(&layer);
    free(x);
    return status;
}

int main(int count, char **arguments) {
    bn_status status = BN_STATUS_BAD_OPTION;
    if (count == 4 && strcmp(arguments[1], "save") == 0) {
        status = save(arguments[2], arguments[3]);
    } else if (count == 6 && strcmp(arguments[1], "infer") == 0) {
        status = infer(arguments[2], arguments[3], strtoul(arguments[4], NULL, 10),
                       strtoul(arguments[5], NULL, 10));
    }
    if (status != BN_STATUS_OK) {
        fprintf(stderr, "exchange: %s\n", bn_status_string(status));
    }
    return status != BN_STATUS_OK;
}
