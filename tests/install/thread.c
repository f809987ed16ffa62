/* Training and inference on a thread of the C library's default stack, which musl has small: of rows and
 * of planes, of each type, in blocks and in parts, as large as calls need most of it. */
#include <batchnorm/bn_layer.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t shapes[][3] = {
    {2, 1, 1}, {700, 300, 1}, {5000, 7, 1}, {64, 17, 289}, {3, 40, 2500}};
static const bn_dtype dtypes[] = {BN_DTYPE_F32, BN_DTYPE_BF16, BN_DTYPE_F16};

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static bool trains(const size_t shape[3], bn_dtype dtype) {
    const size_t count = shape[0] * shape[1] * shape[2];
    float *const values = malloc(count * sizeof *values);
    char *const tensors = malloc(3 * count * sizeof *values), *const y =
                                                                  tensors + count * sizeof *values;
    char *const dx = y + count * sizeof *values;
    bn_layer layer;
    bool good =
        values != NULL && tensors != NULL && bn_layer_init(&layer, shape[1], NULL) == BN_STATUS_OK;
    if (good) {
        for (size_t k = 0; k < count; k++) {
            values[k] = (float)(k * 2654435761u % 1021) - 510;
        }
        memcpy(tensors, values, count * sizeof *values);
        if (dtype == BN_DTYPE_BF16) {
            bn_bf16_from_float(count, values, (uint16_t *)(void *)tensors);
        } else if (dtype == BN_DTYPE_F16) {
            bn_f16_from_float(count, values, (uint16_t *)(void *)tensors);
        }
        bn_batch batch = {
            .n = shape[0], .spatial = shape[2], .dtype = dtype, .residual = tensors, .y = y};
        good = bn_layer_forward_batch(&layer, &batch, tensors, y) == BN_STATUS_OK &&
               bn_layer_backward_batch(&layer, &batch, tensors, y, dx) == BN_STATUS_OK &&
               bn_layer_infer_batch(&layer, &batch, tensors, y) == BN_STATUS_OK;
        bn_layer_free(&layer);
    }
    free(values);
    free(tensors);
    return good;
}

static void *work(void *failures) {
    for (size_t k = 0; k < COUNT_OF(shapes) * COUNT_OF(dtypes); k++) {
        *(int *)failures += !trains(shapes[k % COUNT_OF(shapes)], dtypes[k / COUNT_OF(shapes)]);
    }
    return NULL;
}

int main(void) {
    int failures = 0;
    size_t bytes = 0;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_getstacksize(&attributes, &bytes);
    if (pthread_create(&thread, &attributes, work, &failures) != 0 ||
        pthread_join(thread, NULL) != 0) {
        return 1;
    }
    printf("a stack of %zu bytes: %d of %zu failed\n", bytes, failures,
           COUNT_OF(shapes) * COUNT_OF(dtypes));
    return failures > 0;
}
