/*
 * Sequences of different lengths in one padded batch, C channels of T steps each: where
 * bn_batch.position_weight is 0 a padded step is left out of the statistics and gradients, as if only
 * the real steps had been there. (Where each step is a row of an N x D buffer, sample_weight does the
 * same.)
 */
#include "example.h"

enum { SEQUENCES = 4, C = 5, T = 10, STEPS = SEQUENCES * T, N = SEQUENCES * C * T };

/* Where channel c of step k, counted through all sequences, is in N x C x T. */
static size_t place(size_t k, size_t c) {
    return (k / T * C + c) * T + k % T;
}

int main(void) {
    static const size_t length[SEQUENCES] = {10, 7, 3, 1};
    float x[N], dy[N], y[N], dx[N], weight[STEPS];
    float real_x[N], real_dy[N], real_y[N], real_dx[N]; /* without the padding: a row a step */
    size_t real = 0;
    uint64_t random = 4;
    random_fill(&random, -1, 1, N, x);
    random_fill(&random, -1, 1, N, dy);
    for (size_t k = 0; k < STEPS; k++) {
        const bool padded = k % T >= length[k / T];
        weight[k] = padded ? 0 : 1;
        for (size_t c = 0; c < C; c++) {
            if (padded) {
                x[place(k, c)] = NAN; /* whatever the padding holds */
                dy[place(k, c)] = 0;  /* no loss comes from it */
            } else {
                real_x[real * C + c] = x[place(k, c)];
                real_dy[real * C + c] = dy[place(k, c)];
            }
        }
        real += !padded;
    }

    bn_layer masked, packed;
    MUST(bn_layer_init(&masked, C, NULL));
    MUST(bn_layer_init(&packed, C, NULL));
    const bn_batch batch = {.n = SEQUENCES, .spatial = T, .position_weight = weight};
    MUST(bn_layer_forward_batch(&masked, &batch, x, y));
    MUST(bn_layer_backward_batch(&masked, &batch, x, dy, dx));
    MUST(bn_layer_forward(&packed, real, real_x, real_y));
    MUST(bn_layer_backward(&packed, real, real_x, real_dy, real_dx));

    printf("%d steps, %zu of them real: mean of channel 0 is %.6f masked, %.6f packed\n", STEPS,
           real, (double)masked.saved_mean[0], (double)packed.saved_mean[0]);
    /* Statistics are those of the real steps but for the order of double precision sums: a rounding
     * to float of values up to 1, 1/std up to 2. Gradients are sums of 21 products of a few units,
     * each rounded. */
    CLAIM(largest_difference(C, masked.saved_mean, packed.saved_mean) <= FLT_EPSILON);
    CLAIM(largest_difference(C, masked.saved_invstd, packed.saved_invstd) <= 4 * FLT_EPSILON);
    CLAIM(largest_difference(C, masked.running_var, packed.running_var) <= FLT_EPSILON);
    CLAIM(largest_difference(C, masked.dgamma, packed.dgamma) <= 21 * 2 * FLT_EPSILON);
    CLAIM(largest_difference(C, masked.dbeta, packed.dbeta) <= 21 * FLT_EPSILON);
    for (size_t k = 0, r = 0; k < STEPS; k++) {
        for (size_t c = 0; c < C && weight[k] != 0; c++, r++) {
            CLAIM(largest_difference(1, y + place(k, c), real_y + r) <= 8 * FLT_EPSILON);
            CLAIM(largest_difference(1, dx + place(k, c), real_dx + r) <= 21 * 4 * FLT_EPSILON);
        }
    }
    printf("y, dx, dgamma, dbeta and running statistics of the real steps are the same\n");
    bn_layer_free(&masked);
    bn_layer_free(&packed);
    return EXIT_SUCCESS;
}
