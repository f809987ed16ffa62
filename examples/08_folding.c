/*
 * Folding: inference becomes part of the linear layer before it (bn_layer_fold, or
 * bn_layer_fold_transposed where weights lie in memory the other way) or after it (bn_layer_fold_next).
 * Against the layer and inference one after the other.
 */
#include "example.h"

enum { D = 6, MOST = 4096 }; /* features; elements of the largest buffer */

/* A linear layer: a convolution of size x size images with kernels of side x side, unpadded, or a
 * transposed one. A dense layer is a convolution of one pixel. */
typedef struct linear {
    const char *name;
    bool transposed; /* weight [groups][fan_in][out/groups][side][side]; else
                        weight [out][fan_in][side][side] */
    size_t groups, fan_in, out, side, size;
} linear;

static size_t outputs(const linear *l) { /* of a channel: their square */
    return l->transposed ? l->size + l->side - 1 : l->size - l->side + 1;
}

static void run(const linear *l, const float *weight, const float *bias, const float *x, float *y) {
    const size_t area = l->side * l->side, columns = outputs(l), width = l->out / l->groups;
    for (size_t o = 0; o < l->out; o++)
        for (size_t at = 0; at < columns * columns; at++) {
            double sum = (double)bias[o];
            for (size_t f = 0; f < l->fan_in; f++)
                for (size_t k = 0; k < area; k++) {
                    const size_t c = o / width * l->fan_in + f; /* the channel of x */
                    const size_t down = k / l->side, right = k % l->side;
                    /* (Where the subtraction wraps around, it is outside as well.) */
                    const size_t row = l->transposed ? at / columns - down : at / columns + down;
                    const size_t col = l->transposed ? at % columns - right : at % columns + right;
                    const size_t w = l->transposed ? c * width + o % width : o * l->fan_in + f;
                    if (row < l->size && col < l->size)
                        sum += (double)weight[w * area + k] *
                               (double)x[(c * l->size + row) * l->size + col];
                }
            y[o * columns * columns + at] = (float)sum;
        }
}

/* At most 54 products add up to a value, each at most 7 (a scale is below 3, a result of
 * inference below 7), and either way rounds a product at most twice, by FLT_EPSILON / 2. */
static void compare(const char *name, size_t count, const float *folded, const float *y) {
    const float largest = largest_difference(count, folded, y);
    printf("%-34s largest difference %.1e\n", name, (double)largest);
    CLAIM(largest <= 2 * FLT_EPSILON * 54 * 7);
}

static const linear before[] = {{"dense [out][in]", false, 1, 16, D, 1, 1},
                                {"dense [in][out]", true, 1, 16, D, 1, 1},
                                {"convolution", false, 1, 4, D, 3, 8},
                                {"grouped convolution", false, 2, 4, D, 3, 8},
                                {"depthwise convolution", false, D, 1, D, 3, 8},
                                {"transposed convolution, 3 groups", true, 3, 4, D, 3, 8}};
/* Padded by one pixel, so that its 8 x 8 inputs are 10 x 10. */
enum { SIZE = 8, PADDED = SIZE + 2 };
static const linear next = {"the layer after (pre-activation)", false, 1, D, 5, 3, PADDED};

static void pad(const float *x, const float border[D], float *padded) {
    for (size_t d = 0; d < D; d++)
        for (size_t k = 0; k < PADDED * PADDED; k++) {
            const size_t row = k / PADDED - 1, col = k % PADDED - 1;
            const bool inside = row < SIZE && col < SIZE;
            *padded++ = inside ? x[(d * SIZE + row) * SIZE + col] : border[d];
        }
}

int main(void) {
    static float weight[MOST], bias[D], x[MOST], z[MOST], y[MOST], folded[MOST];
    uint64_t random = 8;
    bn_layer layer;
    MUST(bn_layer_init(&layer, D, NULL));
    random_fill(&random, 0.5F, 2, D, layer.gamma); /* as if they had been trained */
    random_fill(&random, -1, 1, D, layer.beta);
    random_fill(&random, -1, 1, D, layer.running_mean);
    random_fill(&random, 0.5F, 2, D, layer.running_var);

    for (size_t k = 0; k < sizeof before / sizeof *before; k++) {
        const linear *l = &before[k];
        const size_t area = l->side * l->side, spatial = outputs(l) * outputs(l);
        const bn_batch batch = {.n = 1, .spatial = spatial};
        random_fill(&random, -1, 1, MOST, weight);
        random_fill(&random, -1, 1, D, bias);
        random_fill(&random, -1, 1, MOST, x);
        run(l, weight, bias, x, z);
        MUST(bn_layer_infer_batch(&layer, &batch, z, y));
        if (l->transposed) /* its dense form is [in][out] */
            MUST(bn_layer_fold_transposed(&layer, l->groups, l->fan_in, area, weight, bias));
        else
            MUST(bn_layer_fold(&layer, l->fan_in * area, weight, bias));
        run(l, weight, bias, x, folded);
        compare(l->name, D * spatial, folded, y);
    }

    /* Inference first. What pads x is what inference makes zero. */
    static float padded[MOST];
    float zero[D] = {0}, scale[D], shift[D], border[D];
    const bn_batch batch = {.n = 1, .spatial = SIZE * SIZE};
    MUST(bn_layer_infer_batch(&layer, &batch, x, z));
    pad(z, zero, padded);
    run(&next, weight, bias, padded, y);
    MUST(bn_layer_affine(&layer, scale, shift));
    for (size_t d = 0; d < D; d++)
        border[d] = -shift[d] / scale[d];
    MUST(bn_layer_fold_next(&layer, next.out, next.side * next.side, weight, bias));
    pad(x, border, padded);
    run(&next, weight, bias, padded, folded);
    compare(next.name, next.out * outputs(&next) * outputs(&next), folded, y);
    bn_layer_free(&layer);
    return EXIT_SUCCESS;
}
