/*
 * Sequences of different lengths in one padded batch: a weight of 0 leaves a padded row out of the
 * statistics and gradients, as if only the real rows had been there.
 */
#include <string.h>

#include "example.h"

enum { SEQUENCES = 4, LENGTH = 10, D = 5, N = SEQUENCES * LENGTH };

int main(void) {
    static const size_t length[SEQUENCES] = {10, 7, 3, 1};
    float x[N * D], dy[N * D], y[N * D], dx[N * D], weight[N];
    float real_x[N * D], real_dy[N * D], real_y[N * D], real_dx[N * D]; /* without the padding */
    size_t real = 0;
    uint64_t random = 4;
    random_fill(&random, -1, 1, N * D, x);
    random_fill(&random, -1, 1, N * D, dy);
    for (size_t i = 0; i < N; i++) {
        const bool padded = i % LENGTH >= length[i / LENGTH];
        weight[i] = padded ? 0 : 1;
        if (!padded) {
            memcpy(real_x + real * D, x + i * D, D * sizeof(float));
            memcpy(real_dy + real * D, dy + i * D, D * sizeof(float));
            real++;
            continue;
        }
        for (size_t d = 0; d < D; d++) {
            x[i * D + d] = 1000; /* whatever the padding holds */
            dy[i * D + d] = 0;   /* no loss comes from it */
        }
    }

    bn_layer masked, packed;
    MUST(bn_layer_init(&masked, D, NULL));
    MUST(bn_layer_init(&packed, D, NULL));
    const bn_batch batch = {.n = N, .sample_weight = weight};
    MUST(bn_layer_forward_batch(&masked, &batch, x, y));
    MUST(bn_layer_backward_batch(&masked, &batch, x, dy, dx));
    MUST(bn_layer_forward(&packed, real, real_x, real_y));
    MUST(bn_layer_backward(&packed, real, real_x, real_dy, real_dx));

    printf("%d rows, %zu of them real: mean of feature 0 is %.6f masked, %.6f packed\n", N, real,
           (double)masked.saved_mean[0], (double)packed.saved_mean[0]);
    /* Statistics are those of the real rows but for the order of double precision sums: a rounding
     * to float of values up to 1, 1/std up to 2. Gradients are sums of 21 products of a few units,
     * each rounded. */
    CLAIM(largest_difference(D, masked.saved_mean, packed.saved_mean) <= FLT_EPSILON);
    CLAIM(largest_difference(D, masked.saved_invstd, packed.saved_invstd) <= 4 * FLT_EPSILON);
    CLAIM(largest_difference(D, masked.running_var, packed.running_var) <= FLT_EPSILON);
    CLAIM(largest_difference(D, masked.dgamma, packed.dgamma) <= 21 * 2 * FLT_EPSILON);
    CLAIM(largest_difference(D, masked.dbeta, packed.dbeta) <= 21 * FLT_EPSILON);
    for (size_t i = 0, r = 0; i < N; i++) {
        if (weight[i] == 0)
            continue;
        CLAIM(largest_difference(D, y + i * D, real_y + r * D) <= 8 * FLT_EPSILON);
        CLAIM(largest_difference(D, dx + i * D, real_dx + r * D) <= 21 * 4 * FLT_EPSILON);
        r++;
    }
    printf("y, dx, dgamma, dbeta and running statistics of the real rows are the same\n");
    bn_layer_free(&masked);
    bn_layer_free(&packed);
    return EXIT_SUCCESS;
}
