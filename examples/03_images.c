/*
 * Images: a channel is a feature, and every position of every image is one of its values.
 *
 * N x C x H x W goes through bn_batch.spatial and bn_layer_forward_batch; N x H x W x C is nothing but
 * N*H*W rows. Both are the same numbers, so both give the same results.
 */
#include "example.h"

enum { N = 4, C = 3, H = 6, W = 5, S = H * W, COUNT = N * C * S };

static void to_channels_last(const float *first, float *last) {
    for (size_t n = 0; n < N; n++)
        for (size_t c = 0; c < C; c++)
            for (size_t s = 0; s < S; s++)
                last[(n * S + s) * C + c] = first[(n * C + c) * S + s];
}

int main(void) {
    float x_first[COUNT], y_first[COUNT]; /* channels first, N x C x H x W */
    float x_last[COUNT], y_last[COUNT];   /* channels last, N x H x W x C */
    float y_first_moved[COUNT];
    uint64_t random = 3;
    random_fill(&random, -2, 5, COUNT, x_first);
    to_channels_last(x_first, x_last);

    bn_layer planes, rows;
    MUST(bn_layer_init(&planes, C, NULL));
    MUST(bn_layer_init(&rows, C, NULL));

    const bn_batch batch = {.n = N, .spatial = S};
    MUST(bn_layer_forward_batch(&planes, &batch, x_first, y_first));
    MUST(bn_layer_forward(&rows, N * S, x_last, y_last));

    printf("channel     mean   1/std   (%d values each)\n", N * S);
    for (size_t c = 0; c < C; c++)
        printf("%7zu  %7.4f %7.4f\n", c, (double)planes.saved_mean[c],
               (double)planes.saved_invstd[c]);

    /* The two add in another order, in double precision: what is left is the last rounding of a
     * y of a few units (|xhat| < 2 for uniform values), and one of each factor before it. */
    to_channels_last(y_first, y_first_moved);
    const float largest = largest_difference(COUNT, y_first_moved, y_last);
    printf("channels first against channels last: largest difference %.1e\n", (double)largest);
    CLAIM(largest <= 8 * FLT_EPSILON);
    bn_layer_free(&planes);
    bn_layer_free(&rows);
    return EXIT_SUCCESS;
}
