/*
 * Ghost batches: a batch of 256 rows, normalized in groups of 32 by the group's own statistics.
 *
 * Networks that are trained by large batches generalize worse than by small ones; less so with the
 * statistics of small "ghost" batches within the large one, found E. Hoffer, I. Hubara and D. Soudry ("Train
 * longer, generalize better: closing the generalization gap in large batch training of neural networks",
 * 2017, arXiv:1705.08741). It needs no call of its own: each group is a batch, has a cache, and adds its
 * gradients (bn_batch.cache, .accumulate_grads). Other layers see the large batch.
 *
 * The running values see as many batches of 32: with momentum m a step of 8 groups leaves m^8 of them. They
 * average the groups' means, and the variances within a group, times 32/31. What the groups' means differ
 * by is in none of these: where the rows of a group belong together and are not drawn at random, the
 * moments of page 7 are the better ones to infer by.
 */
#include "example.h"

enum { N = 256, GROUP = 32, GROUPS = N / GROUP, D = 6, SIZE = GROUP * D };

/* The mean and the unbiased variance of a feature in a group. */
static void statistics(const float *rows, size_t d, double *mean, double *var) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < GROUP; i++)
        sum += (double)rows[i * D + d];
    *mean = sum / GROUP;
    for (size_t i = 0; i < GROUP; i++)
        squares += ((double)rows[i * D + d] - *mean) * ((double)rows[i * D + d] - *mean);
    *var = squares / (GROUP - 1);
}

int main(void) {
    static float x[N * D], y[N * D], dy[N * D], dx[N * D];
    static float group_y[SIZE], group_dx[SIZE], dgamma[D], dbeta[D];
    uint64_t random = 13;
    random_fill(&random, -1, 5, N * D, x);
    random_fill(&random, -1, 1, N * D, dy);

    bn_layer layer;
    MUST(bn_layer_init(&layer, D, NULL));
    const double momentum = (double)layer.options.momentum, keep = pow(momentum, GROUPS);
    const size_t cache_bytes = bn_cache_bytes(D);
    char *caches = malloc(GROUPS * cache_bytes);
    CLAIM(caches != NULL);

    /* Forward of all groups, what comes behind the layer, and backward of all groups. */
    for (size_t g = 0; g < GROUPS; g++) {
        const bn_batch group = {.n = GROUP, .cache = caches + g * cache_bytes};
        MUST(bn_layer_forward_batch(&layer, &group, x + g * SIZE, y + g * SIZE));
    }
    for (size_t g = 0; g < GROUPS; g++) {
        const bn_batch group = {
            .n = GROUP, .cache = caches + g * cache_bytes, .accumulate_grads = g > 0};
        MUST(bn_layer_backward_batch(&layer, &group, x + g * SIZE, dy + g * SIZE, dx + g * SIZE));
    }

    /* Each group is normalized by itself: no other row has any part in it. */
    float largest = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        bn_layer alone;
        MUST(bn_layer_init(&alone, D, NULL));
        MUST(bn_layer_forward(&alone, GROUP, x + g * SIZE, group_y));
        MUST(bn_layer_backward(&alone, GROUP, x + g * SIZE, dy + g * SIZE, group_dx));
        largest = fmaxf(largest, largest_difference(SIZE, y + g * SIZE, group_y));
        largest = fmaxf(largest, largest_difference(SIZE, dx + g * SIZE, group_dx));
        for (size_t d = 0; d < D; d++) {
            dgamma[d] += alone.dgamma[d];
            dbeta[d] += alone.dbeta[d];
        }
        bn_layer_free(&alone);
    }
    printf("%d groups of %d against %d layers: largest difference %.1e\n", GROUPS, GROUP, GROUPS,
           (double)largest);
    CLAIM(largest == 0);
    CLAIM(largest_difference(D, layer.dgamma, dgamma) == 0);
    CLAIM(largest_difference(D, layer.dbeta, dbeta) == 0);

    printf("feature   running mean   running variance, of which all groups are %.3f\n", 1 - keep);
    for (size_t d = 0; d < D; d++) {
        double running_mean = 0, running_var = 1; /* what they begin as */
        for (size_t g = 0; g < GROUPS; g++) {
            double mean, var;
            statistics(x + g * SIZE, d, &mean, &var);
            running_mean = momentum * running_mean + (1 - momentum) * mean;
            running_var = momentum * running_var + (1 - momentum) * var;
        }
        printf("%7zu   %12.6f   %16.6f\n", d, (double)layer.running_mean[d],
               (double)layer.running_var[d]);
        CLAIM(fabs((double)layer.running_mean[d] - running_mean) <= 4 * (double)FLT_EPSILON);
        CLAIM(fabs((double)layer.running_var[d] - running_var) <= 8 * (double)FLT_EPSILON);
    }
    CLAIM(layer.num_batches_tracked == GROUPS);
    free(caches);
    bn_layer_free(&layer);
    return EXIT_SUCCESS;
}
