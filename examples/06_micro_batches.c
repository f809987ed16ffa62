/*
 * A batch that arrives in pieces, because it does not fit into memory at once: bn_moments gathers
 * the statistics of the whole, and a frozen layer then normalizes each piece by them.
 *
 * This is the whole batch's forward. Backward through a frozen layer takes the statistics as
 * constants, which is not the gradient of the whole batch.
 */
#include "example.h"

enum { PIECES = 4, ROWS = 8, D = 5, N = PIECES * ROWS };

int main(void) {
    float x[N * D], y[N * D], whole_y[N * D];
    uint64_t random = 6;
    random_fill(&random, -1, 3, N * D, x);

    bn_layer whole;
    MUST(bn_layer_init(&whole, D, NULL));
    MUST(bn_layer_forward(&whole, N, x, whole_y));

    /* First pass over the pieces: statistics. Pieces of unequal size would do as well. */
    const bn_batch piece = {.n = ROWS};
    bn_moments moments;
    MUST(bn_moments_init(&moments, D));
    for (size_t p = 0; p < PIECES; p++)
        MUST(bn_moments_add(&moments, &piece, x + p * ROWS * D));

    /* Training normalizes by the biased variance, so that is what the running values must hold. */
    bn_options options = bn_options_default();
    options.biased_running_var = true;
    bn_layer layer;
    MUST(bn_layer_init(&layer, D, &options));
    MUST(bn_layer_set_running(&layer, &moments));
    layer.frozen = true;

    /* Second pass: normalization. */
    for (size_t p = 0; p < PIECES; p++)
        MUST(bn_layer_forward(&layer, ROWS, x + p * ROWS * D, y + p * ROWS * D));

    printf("feature    mean (pieces)   mean (whole)   variance (pieces)\n");
    for (size_t d = 0; d < D; d++) {
        printf("%7zu  %15.7f  %13.7f  %18.7f\n", d, moments.mean[d], (double)whole.saved_mean[d],
               moments.m2[d] / moments.count);
        /* A float's rounding of a mean of about 1; the moments are double. */
        CLAIM(fabs(moments.mean[d] - (double)whole.saved_mean[d]) <= (double)FLT_EPSILON);
    }
    const float largest = largest_difference(N * D, y, whole_y);
    printf("y in pieces against y of the whole batch: largest difference %.1e\n", (double)largest);
    /* The running values are floats: half an ulp of a mean of about 1, half an ulp of the variance,
     * and those of y itself, which is below 2. */
    CLAIM(moments.count == N);
    CLAIM(largest <= 8 * FLT_EPSILON);
    bn_moments_free(&moments);
    bn_layer_free(&layer);
    bn_layer_free(&whole);
    return EXIT_SUCCESS;
}
