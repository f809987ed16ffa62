/*
 * A batch that arrives in pieces, because it does not fit into memory at once, is still one batch: by
 * four calls, each for all pieces before the next (bn_moments_add, bn_layer_forward_by, bn_gradients_add,
 * bn_layer_backward_by), and a fifth (bn_layer_set_gradients), y, dx, dgamma and dbeta are those of the
 * whole.
 *
 * The usual way, to normalize each micro-batch alone and to add up the gradients, is another network:
 * its batch is that small. (Where that is what one wants, it is page 13.)
 */
#include "example.h"

enum { PIECES = 4, D = 5, N = 32 };

/* Where each piece begins: they need not be of one size. */
static const size_t first[PIECES + 1] = {0, 4, 16, 29, N};

/* What a training step gives. */
typedef struct step {
    float y[N * D], dx[N * D], dgamma[D], dbeta[D];
} step;

static void keep_gradients(const bn_layer *layer, step *s) {
    for (size_t d = 0; d < D; d++) {
        s->dgamma[d] = layer->dgamma[d];
        s->dbeta[d] = layer->dbeta[d];
    }
}

static void whole_batch(bn_layer *layer, const float *x, const float *dy, step *s) {
    MUST(bn_layer_forward(layer, N, x, s->y));
    MUST(bn_layer_backward(layer, N, x, dy, s->dx));
    keep_gradients(layer, s);
}

static void in_pieces(bn_layer *layer, const float *x, const float *dy, step *s) {
    bn_batch piece[PIECES];
    bn_moments moments;
    bn_gradients gradients;
    MUST(bn_moments_init(&moments, D));
    MUST(bn_gradients_init(&gradients, D));
    for (size_t p = 0; p < PIECES; p++) /* one of them moves the running values */
        piece[p] = (bn_batch){.n = first[p + 1] - first[p], .skip_running_update = p > 0};

    for (size_t p = 0; p < PIECES; p++)
        MUST(bn_moments_add(&moments, &piece[p], x + first[p] * D));
    for (size_t p = 0; p < PIECES; p++)
        MUST(
            bn_layer_forward_by(layer, &moments, &piece[p], x + first[p] * D, s->y + first[p] * D));
    for (size_t p = 0; p < PIECES; p++)
        MUST(bn_gradients_add(&gradients, layer, &piece[p], x + first[p] * D, dy + first[p] * D));
    for (size_t p = 0; p < PIECES; p++)
        MUST(bn_layer_backward_by(layer, &gradients, &piece[p], x + first[p] * D, dy + first[p] * D,
                                  s->dx + first[p] * D));
    MUST(bn_layer_set_gradients(layer, &gradients, false));

    CLAIM(moments.count == N && gradients.count == N);
    keep_gradients(layer, s);
    bn_moments_free(&moments);
    bn_gradients_free(&gradients);
}

static void each_alone(bn_layer *layer, const float *x, const float *dy, step *s) {
    for (size_t p = 0; p < PIECES; p++) {
        const size_t at = first[p] * D;
        const bn_batch piece = {.n = first[p + 1] - first[p], .accumulate_grads = p > 0};
        MUST(bn_layer_forward_batch(layer, &piece, x + at, s->y + at));
        MUST(bn_layer_backward_batch(layer, &piece, x + at, dy + at, s->dx + at));
    }
    keep_gradients(layer, s);
}

int main(void) {
    static float x[N * D], dy[N * D];
    static step whole, pieces, alone;
    bn_layer layer[3];
    uint64_t random = 6;
    random_fill(&random, -1, 3, N * D, x);
    random_fill(&random, -1, 1, N * D, dy);
    for (size_t l = 0; l < 3; l++)
        MUST(bn_layer_init(&layer[l], D, NULL));
    whole_batch(&layer[0], x, dy, &whole);
    in_pieces(&layer[1], x, dy, &pieces);
    each_alone(&layer[2], x, dy, &alone);

    const struct {
        const char *name;
        size_t count;
        const float *whole, *pieces, *alone;
    } results[] = {
        {"y", N * D, whole.y, pieces.y, alone.y},
        {"dx", N * D, whole.dx, pieces.dx, alone.dx},
        {"dgamma", D, whole.dgamma, pieces.dgamma, alone.dgamma},
        {"dbeta", D, whole.dbeta, pieces.dbeta, alone.dbeta},
        {"running_mean", D, layer[0].running_mean, layer[1].running_mean, layer[2].running_mean},
        {"running_var", D, layer[0].running_var, layer[1].running_var, layer[2].running_var}};
    printf("largest difference\nfrom the whole batch   in pieces   each alone\n");
    for (size_t k = 0; k < sizeof results / sizeof *results; k++) {
        const float by_pieces =
            largest_difference(results[k].count, results[k].pieces, results[k].whole);
        const float by_each =
            largest_difference(results[k].count, results[k].alone, results[k].whole);
        printf("%-20s   %9.1e   %10.1e\n", results[k].name, (double)by_pieces, (double)by_each);
        /* A few roundings of numbers below 8; dbeta, a sum of dy, knows no statistics. */
        CLAIM(by_pieces <= 8 * 4 * FLT_EPSILON);
        CLAIM(by_each > 0.01f || results[k].whole == whole.dbeta);
    }
    CLAIM(layer[1].num_batches_tracked == 1 && layer[2].num_batches_tracked == PIECES);
    for (size_t l = 0; l < 3; l++)
        bn_layer_free(&layer[l]);
    return EXIT_SUCCESS;
}
