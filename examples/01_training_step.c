/*
 * One training step: bn_layer_forward, the loss, bn_layer_backward, and gradient descent on what
 * bn_layer_params gives, gamma and beta.
 *
 * The columns of x lie at different offsets and scales, and the target is another offset and scale
 * of each. After normalization each column has mean 0 and variance 1, so that the squared error has
 * curvature 1 along every gamma and beta: one step with learning rate 1 reaches the minimum, which
 * plain gradient descent on such data would creep up to.
 */
#include "example.h"

enum { N = 64, D = 3 };

/* Writes the gradient of the loss, 1/2 the mean squared error of a sample, into dy. */
static double squared_error(const float *y, const float *target, float *dy) {
    double loss = 0;
    for (size_t k = 0; k < N * D; k++) {
        dy[k] = (y[k] - target[k]) / N;
        loss += 0.5 * (y[k] - target[k]) * (y[k] - target[k]) / N;
    }
    return loss;
}

static void gradient_descent(const bn_layer *layer, float learning_rate) {
    bn_param params[2];
    const size_t count = bn_layer_params(layer, params);
    for (size_t p = 0; p < count; p++)
        for (size_t d = 0; d < params[p].count; d++)
            params[p].value[d] -= learning_rate * params[p].grad[d];
}

int main(void) {
    static const float offset[D] = {0, 50, -3}, scale[D] = {1, 20, 0.1F};
    static const float slope[D] = {2, -0.5F, 7}, start[D] = {1, 30, 0};
    float x[N * D], y[N * D], dy[N * D], dx[N * D], target[N * D];
    uint64_t random = 1;
    random_fill(&random, -1, 1, N * D, x);
    for (size_t k = 0; k < N * D; k++) {
        target[k] = slope[k % D] * x[k] + start[k % D];
        x[k] = offset[k % D] + scale[k % D] * x[k];
    }

    bn_layer layer;
    MUST(bn_layer_init(&layer, D, NULL));

    MUST(bn_layer_forward(&layer, N, x, y));
    const double before = squared_error(y, target, dy);
    MUST(bn_layer_backward(&layer, N, x, dy, dx)); /* dx is for the layer before this one */
    gradient_descent(&layer, 1);

    MUST(bn_layer_forward(&layer, N, x, y));
    const double after = squared_error(y, target, dy);

    printf("loss before the step %.6f, after it %.6f\n", before, after);
    for (size_t d = 0; d < D; d++)
        printf("column %zu: gamma %8.4f  beta %8.4f\n", d, (double)layer.gamma[d],
               (double)layer.beta[d]);

    /* The curvature along gamma is var / (var + eps), so that eps / (var + eps) of the way is left.
     * The smallest variance here is 0.1^2 / 3: below 1/250 of the way, its square of the loss. */
    CLAIM(after < before / (250.0 * 250.0));
    bn_layer_free(&layer);
    return EXIT_SUCCESS;
}
