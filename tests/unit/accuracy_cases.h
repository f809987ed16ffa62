/*
 * The data that accuracy is measured on, and the measuring: shared by the test that holds the
 * limits and by the program that prints the table. Definitions and not only declarations, so that
 * each of the two stays a program of one file.
 */
#ifndef BN_TESTS_ACCURACY_CASES_H
#define BN_TESTS_ACCURACY_CASES_H

#include "reference.h"

#include <math.h>
#include <stdlib.h>

/* What the values of a feature are in turn, in spreads about the mean. */
typedef enum accuracy_data {
    ACCURACY_NORMAL,
    ACCURACY_SORTED,
    ACCURACY_ALTERNATING,    /* 1 and -1, give or take a thousandth */
    ACCURACY_OUTLIER_FIRST,  /* 1000 */
    ACCURACY_OUTLIERS_OF_16, /* each 16th */
    ACCURACY_OUTLIERS_OF_256,
    ACCURACY_STEP,    /* 1e6 from the 17th on */
    ACCURACY_DRIFT,   /* from 1e-3 to 1e3, exponentially */
    ACCURACY_TAILS,   /* one value in a hundred has nearly all squares */
    ACCURACY_ONE_ULP, /* a constant, but for a unit in the last place of some */
    ACCURACY_DATA
} accuracy_data;

static const char *const accuracy_names[ACCURACY_DATA] = {
    "normal",       "sorted", "alternating", "outlier first", "each 16th",
    "first of 256", "step",   "drift",       "heavy tails",   "one ulp"};

/* Normal or other data with mean offset*spread. The first sample of every feature may lie outlier*spread
 * away; where the case is weighted it counts in the statistics by first_weight alone, the others by
 * 1, and no gradient comes back to it. */
typedef struct accuracy_case {
    size_t n, num_features, spatial;
    double offset, spread, outlier;
    bool weighted, by_position; /* by_position: and some count twice or not at all */
    double first_weight;
    accuracy_data data;
    bn_activation activation;
    double gradient; /* the spread of dy; 0: 1 */
    float eps; /* 0: the default; else there are no running values, which may be beyond float */
} accuracy_case;

/* Means, in units of the spread, and spreads: with the default eps, a variance of 1e-8 is all but
 * nothing, one of 1 all but everything, and 1e30 is near the end of float. */
enum { ACCURACY_OFFSETS = 4, ACCURACY_SPREADS = 3 };
static const double accuracy_offsets[ACCURACY_OFFSETS] = {0, 1e2, 1e4, 1e6};
static const double accuracy_spreads[ACCURACY_SPREADS] = {1e-4, 1, 1e15};

/* Value k of `count`, from what is normal. */
static inline double accuracy_value(accuracy_data data, double normal, size_t k, size_t count) {
    const double part = (double)k / (double)count;
    switch (data) {
    case ACCURACY_SORTED:
        return 2 * part - 1;
    case ACCURACY_ALTERNATING:
        return (k % 2 ? 1 : -1) + 1e-3 * normal;
    case ACCURACY_OUTLIER_FIRST:
        return k == 0 ? 1e3 : normal;
    case ACCURACY_OUTLIERS_OF_16:
        return k % 16 == 15 ? 1e3 + normal : normal;
    case ACCURACY_OUTLIERS_OF_256:
        return k % 256 == 0 ? 1e3 + normal : normal;
    case ACCURACY_STEP:
        return k > 16 ? 1e6 + normal : normal;
    case ACCURACY_DRIFT:
        return pow(10, 6 * part - 3) * (1 + 1e-3 * normal);
    case ACCURACY_TAILS:
        return k % 100 == 37 ? 1e4 * normal : normal;
    case ACCURACY_ONE_ULP:
        return 1 + (k % 3 == 1 ? 0x1p-23 : 0);
    default:
        return normal;
    }
}

static inline void accuracy_fill(const accuracy_case *c, ref_random *random, float *x) {
    const size_t row = c->num_features * c->spatial, values = c->n * c->spatial;
    ref_fill_normal(random, x, c->n * row, 0, 1);
    for (size_t k = 0; k < c->n * row; k++) {
        const size_t turn = k / row * c->spatial + k % c->spatial;
        const double value = accuracy_value(c->data, (double)x[k], turn, values);
        x[k] = (float)((c->offset + value) * c->spread);
    }
}

/* Measures on a given layer and batch. The reference's forward comes first: the layer's moves the
 * running values. */
static inline ref_errors accuracy_run(const accuracy_case *c, bn_layer *layer,
                                      const bn_batch *batch) {
    size_t row = c->num_features * c->spatial, count = c->n * row;
    float *x = ref_floats(count), *y = ref_floats(count);
    float *dy = ref_floats(count), *dx = ref_floats(count);
    ref_random random = {1};

    ref_fill_layer(&random, layer);
    accuracy_fill(c, &random, x);
    ref_fill_normal(&random, dy, count, 0, c->gradient != 0 ? c->gradient : 1);
    for (size_t k = 0; k < row; k++) {
        x[k] += (float)(c->outlier * c->spread);
        dy[k] = c->weighted ? 0 : dy[k];
    }

    ref_result want = ref_forward(layer, batch, x);
    ref_backward(&want, layer, batch, x, dy);
    bool ok = bn_layer_forward_batch(layer, batch, x, y) == BN_STATUS_OK &&
              bn_layer_backward_batch(layer, batch, x, dy, dx) == BN_STATUS_OK;
    ref_errors errors = ref_measure(&want, layer, batch, y, dx);
    if (!ok) {
        errors.y = INFINITY;
    }

    ref_free(&want);
    free(x);
    free(y);
    free(dy);
    free(dx);
    return errors;
}

/* Runs forward and backward on a case and says how far they are from the reference. Infinitely far
 * where a call fails. */
static inline ref_errors accuracy_measure(const accuracy_case *c) {
    ref_errors errors = {.y = INFINITY};
    bn_layer layer;
    bn_options options = bn_options_default();
    options.eps = c->eps != 0 ? c->eps : options.eps;
    options.track_running = c->eps == 0;
    options.activation = c->activation;
    options.activation_max = 1;
    if (bn_layer_init(&layer, c->num_features, &options) != BN_STATUS_OK) {
        return errors;
    }
    bn_batch batch = {.n = c->n, .spatial = c->spatial};
    float *weight = ref_floats(c->n);
    for (size_t i = 0; i < c->n; i++) {
        weight[i] = i == 0 ? (float)c->first_weight : 1;
    }
    float *position = ref_floats(c->n * c->spatial);
    for (size_t k = 0; k < c->n * c->spatial; k++) {
        position[k] = weight[k / c->spatial] * (k % 5 == 4 ? 0 : k % 3 == 2 ? 2.0f : 1.0f);
    }
    batch.sample_weight = c->weighted && !c->by_position ? weight : NULL;
    batch.position_weight = c->weighted && c->by_position ? position : NULL;
    errors = accuracy_run(c, &layer, &batch);
    free(position);
    free(weight);
    bn_layer_free(&layer);
    return errors;
}

#endif /* BN_TESTS_ACCURACY_CASES_H */
