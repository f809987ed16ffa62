/*
 * Population statistics ("precise" batch normalization; the paper's algorithm 2): before inference,
 * the moving average, which knows the last few batches, gives way to the moments of the whole
 * training set (bn_moments_add, bn_layer_set_running).
 */
#include "example.h"

enum { N = 4096, D = 4, BATCH = 32 };

/* The average distances from mean 0 and variance 1 of what inference makes of the training set. */
static void measure(const bn_layer *layer, const float *x, const char *name, double distance[2]) {
    static float y[N * D];
    MUST(bn_layer_infer(layer, N, x, y));
    distance[0] = distance[1] = 0;
    for (size_t d = 0; d < D; d++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < N; i++) {
            sum += (double)y[i * D + d];
            squares += (double)y[i * D + d] * (double)y[i * D + d];
        }
        const double mean = sum / N;
        distance[0] += fabs(mean) / D;
        distance[1] += fabs(squares / N - mean * mean - 1) / D;
    }
    printf("%-21s  %.6f from 0  %.6f from 1\n", name, distance[0], distance[1]);
}

int main(void) {
    static float x[N * D], y[BATCH * D];
    uint64_t random = 7;
    random_fill(&random, -1, 5, N * D, x);

    bn_layer layer;
    MUST(bn_layer_init(&layer, D, NULL));
    for (size_t i = 0; i < N; i += BATCH)
        MUST(bn_layer_forward(&layer, BATCH, x + i * D, y));

    double moving[2], population[2];
    printf("after inference:       mean             variance\n");
    measure(&layer, x, "moving average", moving);

    bn_moments moments;
    MUST(bn_moments_init(&moments, D));
    const bn_batch batch = {.n = BATCH};
    for (size_t i = 0; i < N; i += BATCH)
        MUST(bn_moments_add(&moments, &batch, x + i * D));
    MUST(bn_layer_set_running(&layer, &moments));
    measure(&layer, x, "population statistics", population);

    /* With the population's moments, only roundings to float are left of the mean (2 +- 1/std),
     * and of the variance (N - 1)/N of the unbiased estimate and eps / var, var being 3. */
    CLAIM(population[0] <= 4 * (double)FLT_EPSILON);
    CLAIM(population[1] <= 1.0 / N + 1e-5 / 2 + 4 * (double)FLT_EPSILON);
    CLAIM(moving[0] > 10 * population[0] && moving[1] > 10 * population[1]);
    bn_moments_free(&moments);
    bn_layer_free(&layer);
    return EXIT_SUCCESS;
}
