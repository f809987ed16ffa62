/*
 * Half precision: a buffer of bfloat16 activations, normalized in place for inference; then one of
 * float16.
 *
 * A half is its bits, a uint16_t, and bn_batch.dtype says of which type. Parameters, running values and
 * all arithmetic are float's beside it: what comes out is what floats of the same values give, rounded
 * once more.
 */
#include "example.h"

enum { N = 4, H = 7, W = 7, C = 32, ROWS = N * H * W, COUNT = ROWS * C }; /* channels-last */

/* The largest |a - b| in units of b's last place as a half has it: so many significant bits, but no
 * exponent below that of the least normal number. */
static float largest_in_ulps(const float *a, const float *b, int bits, float least) {
    float largest = 0;
    for (size_t k = 0; k < COUNT; k++) {
        int exponent;
        frexpf(fmaxf(fabsf(b[k]), least), &exponent);
        largest = fmaxf(largest, ldexpf(fabsf(a[k] - b[k]), bits - exponent));
    }
    return largest;
}

/* y came of `rounded`, which is x as halves. */
static void compare(const char *name, int bits, float least, const bn_layer *layer, const float *x,
                    const float *rounded, const float *y) {
    float of_rounded[COUNT], of_x[COUNT];
    MUST(bn_layer_infer(layer, ROWS, rounded, of_rounded));
    MUST(bn_layer_infer(layer, ROWS, x, of_x));
    const float ulps = largest_in_ulps(y, of_rounded, bits, least);
    const float difference = largest_difference(COUNT, y, of_x);
    printf("%-8s against float32 of the same x: at most %.4f ulp; of x as it was: "
           "largest difference %.1e\n",
           name, (double)ulps, (double)difference);
    CLAIM(ulps <= 0.5F);
    /* An ulp of y, which is below 8: half of it is y's rounding. That of x, which is below 4, is
     * half as large, and comes through gamma * invstd, below 2. */
    CLAIM(difference <= ldexpf(1, 3 - bits));
}

int main(void) {
    static float x[COUNT], y[COUNT], rounded[COUNT];
    static uint16_t buffer[COUNT];
    uint64_t random = 15;
    bn_layer layer;
    MUST(bn_layer_init(&layer, C, NULL));
    random_fill(&random, 0.5F, 2, C, layer.gamma); /* as if they had been trained */
    random_fill(&random, -1, 1, C, layer.beta);
    for (int step = 0; step < 100; step++) {
        random_fill(&random, -2, 4, COUNT, x);
        MUST(bn_layer_forward(&layer, ROWS, x, y));
    }
    printf("%d activations: %zu bytes instead of %zu\n", COUNT, sizeof buffer, sizeof x);

    /* In a program a convolution would have written the buffer, and the next one would read it. */
    const bn_batch bf16 = {.n = ROWS, .dtype = BN_DTYPE_BF16};
    bn_bf16_from_float(COUNT, x, buffer);
    bn_bf16_to_float(COUNT, buffer, rounded);
    MUST(bn_layer_infer_batch(&layer, &bf16, buffer, buffer));
    bn_bf16_to_float(COUNT, buffer, y);
    compare("bfloat16", 8, FLT_MIN, &layer, x, rounded, y);

    const bn_batch f16 = {.n = ROWS, .dtype = BN_DTYPE_F16};
    bn_f16_from_float(COUNT, x, buffer);
    bn_f16_to_float(COUNT, buffer, rounded);
    MUST(bn_layer_infer_batch(&layer, &f16, buffer, buffer));
    bn_f16_to_float(COUNT, buffer, y);
    compare("float16", 11, 0x1p-14F, &layer, x, rounded, y);
    bn_layer_free(&layer);
    return EXIT_SUCCESS;
}
