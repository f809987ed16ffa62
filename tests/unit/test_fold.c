/*
 * Inference folded away: each call does what its formula in the header says, to the last rounding,
 * to nothing else, and to nothing at all where the result would be no number.
 */
#include "support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of results that are rounded once from double. */
#define ONE_ROUNDING 1.001

static bn_layer layer_new(size_t features, bool scale, bool shift) {
    bn_options options = bn_options_default();
    options.scale = scale;
    options.shift = shift;
    bn_layer layer;
    ref_random random = {features};
    assert_ok(bn_layer_init(&layer, features, &options));
    ref_fill_layer(&random, &layer);
    return layer;
}

/* ---- What each call should do ---------------------------------------------------------------- */

/* terms is the size of shift's addends, by which an error in it is measured: they may cancel. */
typedef struct affine {
    double scale, shift, terms;
} affine;

static affine reference_affine(const bn_layer *layer, size_t d) {
    const double gamma = layer->gamma ? (double)layer->gamma[d] : 1.0;
    const double beta = layer->beta ? (double)layer->beta[d] : 0.0;
    const double var = (double)layer->running_var[d] + (double)layer->options.eps;
    const double scale = gamma / sqrt(var), mean = (double)layer->running_mean[d] * scale;
    return (affine){scale, beta - mean, fabs(beta) + fabs(mean)};
}

/* One of the calls, and its sizes: inner is fold's fan_in or the kernel, outer the other fan. */
typedef enum which { FOLD, TRANSPOSED, NEXT, FOLDS } which;
typedef struct problem {
    which call;
    size_t features, groups, outer, inner;
    size_t weights, biases;
} problem;

static problem problem_of(which call, size_t width, size_t groups, size_t outer, size_t inner) {
    problem p = {call, width * groups, call == TRANSPOSED ? groups : 1, outer, inner, 0, 0};
    p.outer = call == FOLD ? 1 : outer;
    p.weights = p.features * p.outer * p.inner;
    p.biases = call == NEXT ? outer : p.features;
    return p;
}

static bn_status fold(const problem *p, const bn_layer *layer, float *weight, float *bias) {
    switch (p->call) {
    case FOLD:
        return bn_layer_fold(layer, p->inner, weight, bias);
    case TRANSPOSED:
        return bn_layer_fold_transposed(layer, p->groups, p->outer, p->inner, weight, bias);
    default:
        return bn_layer_fold_next(layer, p->outer, p->inner, weight, bias);
    }
}

/* The header's formulas, weight by weight; terms is what an error in bias is measured by. */
static void reference_fold(const problem *p, const bn_layer *layer, const float *weight,
                           const float *bias, double *want_weight, double *want_bias,
                           double *terms) {
    for (size_t b = 0; b < p->biases; b++) {
        const affine a = reference_affine(layer, b % p->features);
        const double old = (double)bias[b];
        want_bias[b] = p->call == NEXT ? old : a.scale * old + a.shift;
        terms[b] = p->call == NEXT ? fabs(old) : fabs(a.scale * old) + a.terms;
    }
    for (size_t at = 0; at < p->weights; at++) {
        size_t d = 0;
        switch (p->call) {
        case FOLD: /* [D][inner] */
            d = at / p->inner;
            break;
        case TRANSPOSED: { /* [groups][outer][width][inner] */
            const size_t width = p->features / p->groups;
            const size_t g = at / (p->outer * width * p->inner);
            d = g * width + at / p->inner % width;
            break;
        }
        default: /* [outer][D][inner] */
            d = at / p->inner % p->features;
        }
        const affine a = reference_affine(layer, d);
        want_weight[at] = a.scale * (double)weight[at];
        if (p->call == NEXT) {
            const size_t o = at / (p->features * p->inner);
            want_bias[o] += a.shift * (double)weight[at];
            terms[o] += a.terms * fabs((double)weight[at]);
        }
    }
}

/* ---- Whether it does so ---------------------------------------------------------------------- */

/* Weights and bias at any address, between pages whose every access ends the program: at the begin,
 * at the end, or at the end but for a byte, which leaves no float aligned. */
typedef enum place { AT_BEGIN, AT_END, UNALIGNED, PLACES } place;

static unsigned char *placed(const guarded *g, size_t floats, place where) {
    const size_t bytes = floats * sizeof(float) + (where == UNALIGNED);
    return bytes == 0 ? NULL : guarded_place(g, bytes, where != AT_BEGIN);
}

static void check_fold(const problem *p, const bn_layer *layer, place where) {
    guarded weights = guarded_new((p->weights + 1) * sizeof(float));
    guarded biases = guarded_new((p->biases + 1) * sizeof(float));
    unsigned char *at_weight = placed(&weights, p->weights, where);
    unsigned char *at_bias = placed(&biases, p->biases, where);
    ref_random random = {5};
    float *weight = ref_floats(p->weights), *bias = ref_floats(p->biases);
    double *want_weight = ref_doubles(p->weights), *want_bias = ref_doubles(p->biases);
    double *terms = ref_doubles(p->biases);
    ref_fill_normal(&random, weight, p->weights, 0, 1);
    ref_fill_normal(&random, bias, p->biases, 0, 1);
    reference_fold(p, layer, weight, bias, want_weight, want_bias, terms);

    if (at_weight != NULL) {
        memcpy(at_weight, weight, p->weights * sizeof(float));
    }
    if (at_bias != NULL) {
        memcpy(at_bias, bias, p->biases * sizeof(float));
    }
    snapshot before = snapshot_take(layer);
    assert_ok(fold(p, layer, (void *)at_weight, (void *)at_bias));
    snapshot_check(&before, layer);
    snapshot_free(&before);
    if (at_weight != NULL) {
        memcpy(weight, at_weight, p->weights * sizeof(float));
    }
    if (at_bias != NULL) {
        memcpy(bias, at_bias, p->biases * sizeof(float));
    }
    for (size_t b = 0; b < p->biases; b++) {
        terms[b] = fabs(want_bias[b]) + terms[b] * 0x1p-20; /* double's own roundings */
    }
    assert_within(ref_error_vector(p->weights, weight, want_weight, NULL), ONE_ROUNDING);
    assert_within(ref_error_vector(p->biases, bias, want_bias, terms), ONE_ROUNDING);
    guarded_free(&weights);
    guarded_free(&biases);
    free(weight);
    free(bias);
    free(want_weight);
    free(want_bias);
    free(terms);
}

static void folds_follow_their_formulas(void **state) {
    (void)state;
    ref_random random = {9};
    for (unsigned k = 0; k < 1000; k++) {
        const size_t width = 1 + (size_t)(ref_bits(&random) % 9),
                     groups = 1 + (size_t)(ref_bits(&random) % 4);
        const size_t outer = (size_t)(ref_bits(&random) % 7),
                     inner = (size_t)(ref_bits(&random) % 10);
        const bool scale = ref_bits(&random) % 4 != 0, shift = ref_bits(&random) % 4 != 0;
        bn_layer layer = layer_new(width * groups, scale, shift);
        for (which call = FOLD; call < FOLDS; call++) {
            const problem p = problem_of(call, width, groups, outer, inner);
            check_fold(&p, &layer, (place)(k % PLACES));
        }
        bn_layer_free(&layer);
    }
}

static void wide_layers_fold(void **state) {
    (void)state;
    bn_layer layer = layer_new(1031 * 3, true, true);
    for (which call = FOLD; call < FOLDS; call++) {
        const problem p = problem_of(call, 1031, 3, 37, 5);
        check_fold(&p, &layer, UNALIGNED);
    }
    bn_layer_free(&layer);
}

static void affine_is_inference(void **state) {
    (void)state;
    enum { FEATURES = 7 };
    for (unsigned what = 0; what < 4; what++) {
        bn_layer layer = layer_new(FEATURES, what & 1, what & 2);
        double want_scale[FEATURES], want_shift[FEATURES], terms[FEATURES];
        float scale[FEATURES], shift[FEATURES];
        for (size_t d = 0; d < FEATURES; d++) {
            const affine a = reference_affine(&layer, d);
            want_scale[d] = a.scale;
            want_shift[d] = a.shift;
            terms[d] = fabs(a.shift) + a.terms * 0x1p-20;
        }
        snapshot before = snapshot_take(&layer);
        assert_ok(bn_layer_affine(&layer, scale, shift));
        snapshot_check(&before, &layer);
        snapshot_free(&before);
        assert_within(ref_error_vector(FEATURES, scale, want_scale, NULL), ONE_ROUNDING);
        assert_within(ref_error_vector(FEATURES, shift, want_shift, terms), ONE_ROUNDING);
        bn_layer_free(&layer);
    }
}

/* Nothing negative is cut off. */
static void an_activation_stays_with_the_caller(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.activation = BN_ACTIVATION_RELU;
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, 2, &options));
    float scale[2], shift[2], weight[2] = {-1, 1}, bias[2] = {-2, 2};
    assert_ok(bn_layer_affine(&layer, scale, shift));
    assert_ok(bn_layer_fold(&layer, 1, weight, bias));
    assert_ok(bn_layer_fold_transposed(&layer, 1, 1, 1, weight, bias));
    assert_true(scale[0] > 0 && weight[0] < 0 && bias[0] < 0 && bias[1] > 0);
    bn_layer_free(&layer);
}

/* Returned at once, however many rows of no weights there would be. */
static void without_weights_the_bias_alone_changes(void **state) {
    (void)state;
    bn_layer layer = layer_new(6, true, true);
    float scale[6], shift[6];
    assert_ok(bn_layer_affine(&layer, scale, shift));
    for (int k = 0; k < 4; k++) {
        float bias[6] = {0}, untouched[2] = {3, -0.0f};
        assert_ok(k == 0   ? bn_layer_fold(&layer, 0, NULL, bias)
                  : k == 1 ? bn_layer_fold_transposed(&layer, 2, 0, SIZE_MAX, NULL, bias)
                  : k == 2 ? bn_layer_fold_transposed(&layer, 2, SIZE_MAX, 0, NULL, bias)
                           : bn_layer_fold_transposed(&layer, 3, 0, 0, NULL, bias));
        for (size_t d = 0; d < 6; d++) {
            assert_true(bias[d] == shift[d]); /* scale * 0 + shift, however it is rounded */
        }
        assert_ok(bn_layer_fold_next(&layer, 2, 0, NULL, untouched));
        assert_same_bits(untouched, ((float[]){3, -0.0f}), 2);
        assert_ok(bn_layer_fold_next(&layer, 0, SIZE_MAX, NULL, NULL));
    }
    bn_layer_free(&layer);
}

/* What would become NaN or Inf, in the last feature and the last place, is refused before anything
 * is written. */
static void what_folds_to_no_number_changes_nothing(void **state) {
    (void)state;
    enum { BAD_VAR, BAD_GAMMA, BAD_BETA, AFFINE_CASES, BAD_WEIGHT = AFFINE_CASES, BAD_BIAS, CASES };
    for (which call = FOLD; call < FOLDS; call++) {
        const problem p = problem_of(call, 3, 2, 4, 2);
        for (int bad = 0; bad < CASES; bad++) {
            bn_layer layer = layer_new(p.features, true, true);
            const size_t last = p.features - 1;
            float *weight = ref_floats(p.weights), *bias = ref_floats(p.biases);
            float scale[6], shift[6];
            ref_random random = {5};
            ref_fill_normal(&random, weight, p.weights, 0, 1);
            ref_fill_normal(&random, bias, p.biases, 0, 1);
            weight[p.weights - 1] = bad == BAD_WEIGHT ? FLT_MAX : 4;
            bias[p.biases - 1] = bad == BAD_BIAS ? NAN : 4;
            layer.running_var[last] = bad == BAD_VAR ? -1.0f : 0.0f;
            layer.running_mean[last] = 0.0f;
            layer.gamma[last] = bad == BAD_GAMMA ? FLT_MAX : 1.0f;
            layer.beta[last] = bad == BAD_BETA ? INFINITY : 0.0f;
            float *want_weight = copy_floats(weight, p.weights);
            float *want_bias = copy_floats(bias, p.biases);
            fill_pattern(scale, sizeof scale);
            fill_pattern(shift, sizeof shift);
            assert_status(fold(&p, &layer, weight, bias), BN_STATUS_NOT_FINITE);
            assert_same_bits(weight, want_weight, p.weights);
            assert_same_bits(bias, want_bias, p.biases);
            if (bad < AFFINE_CASES) {
                assert_status(bn_layer_affine(&layer, scale, shift), BN_STATUS_NOT_FINITE);
                assert_pattern(scale, sizeof scale);
                assert_pattern(shift, sizeof shift);
            }
            free(weight);
            free(bias);
            free(want_weight);
            free(want_bias);
            bn_layer_free(&layer);
        }
    }
}

/* All weights would be numbers, the last bias alone is beyond float. */
static void a_sum_beyond_float_changes_nothing(void **state) {
    (void)state;
    bn_layer layer = layer_new(2, false, true);
    for (size_t d = 0; d < 2; d++) {
        layer.running_mean[d] = 0;
        layer.running_var[d] = 4;
        layer.beta[d] = 1;
    }
    float weight[4] = {1, 2, FLT_MAX / 2, FLT_MAX / 2}, bias[2] = {3, FLT_MAX / 1024};
    assert_status(bn_layer_fold_next(&layer, 2, 1, weight, bias), BN_STATUS_NOT_FINITE);
    assert_same_bits(weight, ((float[]){1, 2, FLT_MAX / 2, FLT_MAX / 2}), 4);
    assert_same_bits(bias, ((float[]){3, FLT_MAX / 1024}), 2);
    bias[1] = -FLT_MAX; /* adds up in double, whatever the order */
    assert_ok(bn_layer_fold_next(&layer, 2, 1, weight, bias));
    assert_true(bias[0] == 6 && bias[1] == 0);
    bn_layer_free(&layer);
}

/* A mean of M + 2^-15 and a variance of 4^d * (1 + 2^-24) are no floats. By float's digits alone the shift,
 * which is what is left of M, would be some other number. */
static void a_shift_has_all_digits_that_are_known(void **state) {
    (void)state;
    enum { FEATURES = 3 };
    bn_options options = bn_options_default();
    options.eps = 0;
    options.momentum = 0.5f;
    options.biased_running_var = true;
    bn_layer layer;
    float x[2][FEATURES], y[2][FEATURES], scale[FEATURES], shift[FEATURES];
    assert_ok(bn_layer_init(&layer, FEATURES, &options));
    for (size_t d = 0; d < FEATURES; d++) {
        const float mean = 1000.0f - 100.0f * (float)d, deviation = (float)(1u << d);
        layer.running_mean[d] = mean;
        layer.running_var[d] = deviation * deviation * (1 + 0x1p-23f);
        layer.beta[d] = mean / deviation;
        x[0][d] = mean + 0x1p-14f - deviation;
        x[1][d] = mean + 0x1p-14f + deviation;
    }
    assert_ok(bn_layer_forward(&layer, 2, x[0], y[0]));
    assert_ok(bn_layer_affine(&layer, scale, shift));
    for (size_t d = 0; d < FEATURES; d++) {
        const double want = (layer.running_mean[d] / 1024.0 - 1) * 0x1p-15 / (1u << d);
        assert_true(fabs((double)shift[d] / want - 1) < 1e-3);
    }
    bn_layer_free(&layer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folds_follow_their_formulas),
        cmocka_unit_test(wide_layers_fold),
        cmocka_unit_test(affine_is_inference),
        cmocka_unit_test(an_activation_stays_with_the_caller),
        cmocka_unit_test(without_weights_the_bias_alone_changes),
        cmocka_unit_test(what_folds_to_no_number_changes_nothing),
        cmocka_unit_test(a_sum_beyond_float_changes_nothing),
        cmocka_unit_test(a_shift_has_all_digits_that_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
