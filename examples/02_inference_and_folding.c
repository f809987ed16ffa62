/*
 * Inference: by the running statistics, sample by sample (bn_layer_infer), and at last without the
 * layer, folded into the dense layer before it (bn_layer_fold).
 */
#include "example.h"

enum { FAN_IN = 16, D = 8, N = 32, STEPS = 100 };

/* out[n][D] = in[n][FAN_IN] * weight^T + bias, weight[D][FAN_IN] as bn_layer_fold wants it. */
static void dense(size_t n, const float *in, const float *weight, const float *bias, float *out) {
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < D; d++) {
            float sum = bias[d];
            for (size_t k = 0; k < FAN_IN; k++)
                sum += weight[d * FAN_IN + k] * in[i * FAN_IN + k];
            out[i * D + d] = sum;
        }
}

int main(void) {
    float weight[D * FAN_IN], bias[D], in[N * FAN_IN], z[N * D], y[N * D], folded[N * D];
    uint64_t random = 2;
    random_fill(&random, -1, 1, D * FAN_IN, weight);
    random_fill(&random, -1, 1, D, bias);

    bn_layer layer;
    MUST(bn_layer_init(&layer, D, NULL));
    random_fill(&random, 0.5F, 2, D, layer.gamma); /* as if they had been trained */
    random_fill(&random, -1, 1, D, layer.beta);
    for (int step = 0; step < STEPS; step++) {
        random_fill(&random, 0, 1, N * FAN_IN, in);
        dense(N, in, weight, bias, z);
        MUST(bn_layer_forward(&layer, N, z, y));
    }
    printf("after %llu batches, feature 0: running mean %.3f, running variance %.3f\n",
           (unsigned long long)layer.num_batches_tracked, (double)layer.running_mean[0],
           (double)layer.running_var[0]);

    /* A sample's result does not depend on what shares its batch. The batch may be one sample. */
    float alone[D];
    random_fill(&random, 0, 1, N * FAN_IN, in);
    dense(N, in, weight, bias, z);
    MUST(bn_layer_infer(&layer, N, z, y));
    MUST(bn_layer_infer(&layer, 1, z, alone));
    for (size_t d = 0; d < D; d++)
        CLAIM(fabsf(alone[d] - y[d]) <= 2 * FLT_EPSILON * fmaxf(1, fabsf(y[d])));

    float scale[D], shift[D];
    MUST(bn_layer_affine(&layer, scale, shift));
    MUST(bn_layer_fold(&layer, FAN_IN, weight, bias)); /* weight and bias change in place */
    dense(N, in, weight, bias, folded);

    float largest = 0;
    for (size_t k = 0; k < N * D; k++) {
        /* Either way adds FAN_IN + 1 products of at most the folded weight (in is at most 1), and
         * rounds each at most FAN_IN + 4 times by FLT_EPSILON / 2. */
        const size_t d = k % D;
        float terms = fabsf(bias[d]) + fabsf(shift[d]);
        for (size_t f = 0; f < FAN_IN; f++)
            terms += fabsf(weight[d * FAN_IN + f]);
        const float difference = fabsf(folded[k] - y[k]);
        CLAIM(difference <= (FAN_IN + 4) * FLT_EPSILON * terms);
        largest = fmaxf(largest, difference);
    }
    printf("dense layer, then inference, against the folded dense layer alone: "
           "largest difference %.1e\n",
           (double)largest);
    bn_layer_free(&layer);
    return EXIT_SUCCESS;
}
