/* What somebody writes who has the installed library and its header, in the common language of C11
 * and C++11: trains a step, infers, and compares with numbers worked out by hand. */
#include <batchnorm/bn_layer.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static void expect(bool holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        failures++;
    }
}

#define EXPECT(condition) expect(condition, #condition)

/* The values 9 and 11 have mean 10 and variance 1; eps = 3 makes the root 2. So chosen, every
 * intermediate value is exact in binary, whatever the order of operations: == is what must hold. */
static void use(bn_layer *layer) {
    const float x[2] = {9, 11}, dy[2] = {1, 0};
    float y[2], dx[2];

    EXPECT(bn_layer_forward(layer, 2, x, y) == BN_STATUS_OK);
    EXPECT(y[0] == -0.5f && y[1] == 0.5f);
    EXPECT(layer->running_mean[0] == 5.0f); /* 0.5 * 0 + 0.5 * 10 */
    EXPECT(layer->running_var[0] == 1.5f);  /* 0.5 * 1 + 0.5 * 1 * 2/1 */
    EXPECT(layer->num_batches_tracked == 1);

    EXPECT(bn_layer_backward(layer, 2, x, dy, dx) == BN_STATUS_OK);
    EXPECT(layer->dbeta[0] == 1.0f && layer->dgamma[0] == -0.5f);
    EXPECT(dx[0] == 0.1875f && dx[1] == -0.1875f); /* 1/2 (1 - 1/2 (1 + 1/4)), and its opposite */

    layer->options.eps = 2.5f; /* the root of running_var + eps is 2 again */
    EXPECT(bn_layer_infer(layer, 2, x, y) == BN_STATUS_OK);
    EXPECT(y[0] == 2.0f && y[1] == 3.0f);

    /* No flag that the library was built with makes it take a NaN for a number. */
    const float nan_x[2] = {strtof("nan", NULL), 1};
    EXPECT(bn_layer_forward(layer, 2, nan_x, y) == BN_STATUS_NOT_FINITE);
    layer->options.eps = nan_x[0];
    EXPECT(bn_layer_infer(layer, 2, x, y) == BN_STATUS_BAD_OPTION);
    layer->options.eps = 2.5f;

    float scale, shift;
    EXPECT(bn_layer_affine(layer, &scale, &shift) == BN_STATUS_OK);
    EXPECT(scale == 0.5f && shift == -2.5f);

    bn_batch batch; /* the same values as one sample with two positions */
    memset(&batch, 0, sizeof batch);
    batch.n = 1;
    batch.spatial = 2;
    memset(y, 0, sizeof y);
    EXPECT(bn_layer_infer_batch(layer, &batch, x, y) == BN_STATUS_OK);
    EXPECT(y[0] == 2.0f && y[1] == 3.0f);
}

int main(void) {
    char header_version[64];
    snprintf(header_version, sizeof header_version, "%d.%d.%d", BN_VERSION_MAJOR, BN_VERSION_MINOR,
             BN_VERSION_PATCH);
    EXPECT(strcmp(bn_version(), header_version) == 0);
    EXPECT(strcmp(bn_version(), PACKAGE_VERSION) == 0); /* given by whoever found the package */

    bn_options options = bn_options_default();
    options.eps = 3;
    options.momentum = 0.5f;
    bn_layer layer;
    if (bn_layer_init(&layer, 1, &options) != BN_STATUS_OK) {
        fprintf(stderr, "%s\n", bn_status_string(bn_layer_init(&layer, 1, &options)));
        return 1;
    }
    printf("batchnorm %s, %s\n", bn_version(), bn_layer_isa(&layer));
    use(&layer);
    bn_layer_free(&layer);
    return failures > 0;
}
