/*
 * A framework's own arrays: Darknet's batch normalization, with its names, its leaky ReLU and its
 * momentum.
 *
 * The framework owns, saves and updates scales, biases and rolling values; the layer works on them in
 * place (bn_layer_init_with and a bn_memory). The original's CPU code adds its epsilon outside the
 * root, (x - mean) / (sqrt(variance) + 1e-6), so that its inference is had with eps = 0 and a variance
 * of (sqrt(variance) + 1e-6)^2. In training it divides by the unbiased variance, which is N*S/(N*S - 1)
 * of what is divided by here.
 */
#include "example.h"

enum { N = 8, C = 6, S = 13 * 13, COUNT = N * C * S };

/* As Darknet's layer has them, [C] each; backward adds to the updates. */
typedef struct darknet_layer {
    float *scales, *biases, *scale_updates, *bias_updates, *rolling_mean, *rolling_variance;
} darknet_layer;

static bn_layer layer_on(const darknet_layer *of, bool inference_only) {
    bn_options options = bn_options_default();
    options.eps = 0;
    options.momentum = 0.99F; /* rolling = .99 rolling + .01 new */
    options.activation = BN_ACTIVATION_LEAKY_RELU;
    options.activation_slope = 0.1F;
    options.inference_only = inference_only;
    const bn_memory arrays = {.gamma = of->scales,
                              .beta = of->biases,
                              .dgamma = of->scale_updates,
                              .dbeta = of->bias_updates,
                              .running_mean = of->rolling_mean,
                              .running_var = of->rolling_variance};
    bn_layer layer;
    MUST(bn_layer_init_with(&layer, C, &options, &arrays));
    return layer;
}

/* What Darknet does when it is not training. */
static void darknet_infer(const darknet_layer *of, const float *x, float *y) {
    for (size_t k = 0; k < COUNT; k++) {
        const size_t c = k / S % C;
        const float xhat = (x[k] - of->rolling_mean[c]) / (sqrtf(of->rolling_variance[c]) + 1e-6F);
        const float z = of->scales[c] * xhat + of->biases[c];
        y[k] = z > 0 ? z : 0.1F * z;
    }
}

int main(void) {
    static float x[COUNT], y[COUNT], delta[COUNT], target[COUNT], expected[COUNT];
    float arrays[6][C] = {{0}};
    const darknet_layer of = {arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], arrays[5]};
    uint64_t random = 10;
    random_fill(&random, 0.5F, 1.5F, C, of.scales);
    random_fill(&random, 0.5F, 1.5F, C, of.rolling_variance);
    random_fill(&random, -1, 3, COUNT, x);
    random_fill(&random, -1, 1, COUNT, target);

    bn_layer layer = layer_on(&of, false);
    const bn_batch batch = {.n = N, .spatial = S, .accumulate_grads = true};
    double first = 0, loss = 0;
    for (int step = 0; step < 300; step++) {
        MUST(bn_layer_forward_batch(&layer, &batch, x, y));
        loss = 0;
        for (size_t k = 0; k < COUNT; k++) {
            delta[k] = (y[k] - target[k]) / COUNT;
            loss += 0.5 * (y[k] - target[k]) * (y[k] - target[k]) / COUNT;
        }
        MUST(bn_layer_backward_batch(&layer, &batch, x, delta, delta)); /* in place, as there */
        for (size_t c = 0; c < C; c++) { /* the framework's own update: what is added up decays */
            of.scales[c] -= 0.1F * of.scale_updates[c];
            of.biases[c] -= 0.1F * of.bias_updates[c];
            of.scale_updates[c] *= 0.9F;
            of.bias_updates[c] *= 0.9F;
        }
        first = step == 0 ? loss : first;
    }
    printf("loss %.4f at first, %.4f after 300 steps\n", first, loss);
    CLAIM(loss < 0.5 * first);

    float variance[C]; /* a copy, with its epsilon inside */
    for (size_t c = 0; c < C; c++) {
        const double deviation = sqrt((double)of.rolling_variance[c]) + 1e-6;
        variance[c] = (float)(deviation * deviation);
    }
    const darknet_layer loaded = {of.scales, of.biases, NULL, NULL, of.rolling_mean, variance};
    bn_layer inference = layer_on(&loaded, true);
    MUST(bn_layer_infer_batch(&inference, &batch, x, y));
    darknet_infer(&of, x, expected);
    const float largest = largest_difference(COUNT, y, expected);
    printf("inference against Darknet's own: largest difference %.1e\n", (double)largest);
    CLAIM(largest <= 16 * FLT_EPSILON);
    bn_layer_free(&inference);
    bn_layer_free(&layer);
    return EXIT_SUCCESS;
}
