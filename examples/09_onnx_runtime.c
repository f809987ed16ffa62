/*
 * Weights from elsewhere: the BatchNormalization of an ONNX runtime, four tensors and one call.
 *
 * The tensors stay where the model file has them, at whatever address that is: bn_layer_init_with copies
 * nothing, and a layer of inference_only on four such arrays allocates nothing, so it is made where it is
 * used.
 */
#include "example.h"

#include <stdbool.h>
#include <string.h>

/* Y = (X - mean) / sqrt(var + epsilon) * scale + B over X's second dimension. False where it fails. */
static bool batch_normalization(size_t rank, const size_t dims[], const float *x,
                                const float *scale, const float *b, const float *mean,
                                const float *var, float epsilon, float *y) {
    bn_options options = bn_options_default();
    options.eps = epsilon;
    options.inference_only = true; /* so that nothing is written through these pointers: */
    const bn_memory tensors = {.gamma = (float *)scale,
                               .beta = (float *)b,
                               .running_mean = (float *)mean,
                               .running_var = (float *)var};
    bn_layer layer;
    if (rank < 2 || bn_layer_init_with(&layer, dims[1], &options, &tensors) != BN_STATUS_OK)
        return false;
    bn_batch batch = {.n = dims[0], .spatial = 1};
    for (size_t k = 2; k < rank; k++)
        batch.spatial *= dims[k];
    if (batch.spatial == 0) /* an empty tensor: spatial 0 would mean one position */
        batch.n = 0;
    return bn_layer_infer_batch(&layer, &batch, x, y) == BN_STATUS_OK;
}

enum { N = 2, C = 5, H = 4, W = 3, S = H * W };

int main(void) {
    /* Four tensors one behind the other, as in a file, behind a header of 7 bytes. */
    static unsigned char file[7 + 4 * C * sizeof(float)];
    float tensors[4][C], x[N * C * S], y[N * C * S], expected[N * C * S];
    uint64_t random = 9;
    random_fill(&random, 0.5F, 2, 4 * C, tensors[0]);
    random_fill(&random, -3, 3, N * C * S, x);
    memcpy(file + 7, tensors, sizeof tensors);
    const float *at[4];
    for (size_t k = 0; k < 4; k++)
        at[k] = (const float *)(const void *)(file + 7 + k * sizeof tensors[k]);

    const size_t dims[] = {N, C, H, W}, empty[] = {N, C, 0, W};
    CLAIM(batch_normalization(4, dims, x, at[0], at[1], at[2], at[3], 1e-5F, y));
    CLAIM(batch_normalization(4, empty, NULL, at[0], at[1], at[2], at[3], 1e-5F, NULL));

    for (size_t k = 0; k < N * C * S; k++) {
        const size_t c = k / S % C;
        expected[k] =
            (x[k] - tensors[2][c]) / sqrtf(tensors[3][c] + 1e-5F) * tensors[0][c] + tensors[1][c];
    }
    const float largest = largest_difference(N * C * S, y, expected);
    printf("an operator of a model, in place: largest difference %.1e\n", (double)largest);
    CLAIM(largest <= 1e-5F); /* |y| is at most 16 */
    return EXIT_SUCCESS;
}
