/*
 * The end of a residual block in one call: y = ReLU(normalized x + residual), and its backward,
 * which gives the gradient of both branches (bn_options.activation; bn_batch.residual, .y and
 * .dresidual). Against the same done step by step.
 */
#include "example.h"

enum { N = 16, D = 6, COUNT = N * D };

int main(void) {
    float x[COUNT], residual[COUNT], dy[COUNT], y[COUNT], dx[COUNT], dresidual[COUNT];
    float sum[COUNT], g[COUNT], step_dx[COUNT]; /* step by step */
    uint64_t random = 5;
    random_fill(&random, -3, 3, COUNT, x);
    random_fill(&random, -1, 1, COUNT, residual);
    random_fill(&random, -1, 1, COUNT, dy);

    bn_options options = bn_options_default();
    bn_layer plain, block;
    MUST(bn_layer_init(&plain, D, &options));
    options.activation = BN_ACTIVATION_RELU;
    MUST(bn_layer_init(&block, D, &options));

    /* backward reads y to know where ReLU let through, which x alone no longer says. */
    const bn_batch batch = {.n = N, .residual = residual, .y = y, .dresidual = dresidual};
    MUST(bn_layer_forward_batch(&block, &batch, x, y));
    MUST(bn_layer_backward_batch(&block, &batch, x, dy, dx));

    MUST(bn_layer_forward(&plain, N, x, sum));
    size_t passed = 0;
    for (size_t k = 0; k < COUNT; k++) {
        sum[k] = fmaxf(sum[k] + residual[k], 0);
        g[k] = y[k] > 0 ? dy[k] : 0;
        passed += y[k] > 0;
    }
    MUST(bn_layer_backward(&plain, N, x, g, step_dx));

    const float largest_y = largest_difference(COUNT, y, sum);
    const float largest_dx = largest_difference(COUNT, dx, step_dx);
    printf("ReLU let %zu of %d values through\n", passed, COUNT);
    printf("one call against step by step: largest difference of y %.1e, of dx %.1e\n",
           (double)largest_y, (double)largest_dx);
    /* y, below 4, is rounded up to three times; dx, about 1 at most, is made of the same g and
     * statistics. */
    CLAIM(largest_y <= 3 * 2 * FLT_EPSILON);
    CLAIM(largest_dx <= 4 * FLT_EPSILON);
    CLAIM(largest_difference(COUNT, dresidual, g) == 0); /* copies and zeros: nothing to round */
    CLAIM(passed > 0 && passed < COUNT);
    bn_layer_free(&plain);
    bn_layer_free(&block);
    return EXIT_SUCCESS;
}
