/*
 * Gradients against differences: backward must be the derivative of forward, of the loss
 *
 *     loss[d] = sum over i, s of dy * y
 *
 * with respect to every x, gamma, beta and residual, with its sign, in every combination of
 * weights, residual, activation, frozen statistics and parameters. Features do not see each other,
 * so one difference serves all of them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "reference.h"

#include <math.h>
#include <stdlib.h>

/* ---- What is differentiated ------------------------------------------------------------------ */

typedef struct shape {
    size_t n, num_features, spatial, x_gap, y_gap; /* gaps: elements between samples */
} shape;

typedef struct config {
    shape shape;
    weighting weights;
    bool residual, frozen, scale, shift;
    bn_activation activation;
} config;

typedef struct world {
    config setup;
    bn_layer layer;
    bn_batch batch;
    size_t x_stride, y_stride;
    float *x, *y, *dy, *dx, *residual, *dresidual, *weight, *position;
    ref_result want; /* at the point itself */
} world;

/* What lies between samples must not matter: NaN there would be seen anywhere. */
static float *tensor(ref_random *random, const shape *s, size_t stride) {
    float *values = ref_floats(s->n * stride);
    for (size_t i = 0; i < s->n; i++) {
        size_t row = s->num_features * s->spatial;
        ref_fill_normal(random, values + i * stride, row, 0.5, 1);
        for (size_t k = row; k < stride; k++) {
            values[i * stride + k] = NAN;
        }
    }
    return values;
}

/* Not all positions have any weight, but the first and the last of all. */
static void fill_positions(ref_random *random, world *w) {
    size_t count = w->setup.shape.n * w->setup.shape.spatial;
    w->position = ref_floats(count);
    if (w->setup.weights >= WEIGHTS_POSITIONS) {
        ref_fill_uniform(random, w->position, count, 0.9, 1.6);
        for (size_t k = 1; k + 1 < count; k += 3) {
            w->position[k] = 0;
        }
        w->batch.position_weight = w->position;
    }
}

static void fill_weights(ref_random *random, world *w) {
    size_t n = w->setup.shape.n;
    w->weight = ref_floats(n);
    if (w->setup.weights == WEIGHTS_MASK) {
        for (size_t i = 0; i < n; i++) {
            w->weight[i] = i == 0 || i + 1 == n ? 1 : 0;
        }
    } else {
        ref_fill_uniform(random, w->weight, n, 0.6, 1.6);
    }
    bool of_samples = w->setup.weights != WEIGHTS_NONE && w->setup.weights != WEIGHTS_POSITIONS;
    w->batch.sample_weight = of_samples ? w->weight : NULL;
    fill_positions(random, w);
}

enum { ACTIVATIONS = BN_ACTIVATION_CLIP + 1 };

/* Whether z is within reach of where the activation has no derivative. */
static bool near_a_kink(const bn_options *options, double z, double reach) {
    return fabs(z) < reach || (options->activation == BN_ACTIVATION_CLIP &&
                               fabs(z - (double)options->activation_max) < reach);
}

/* A difference across a kink is no derivative: whatever comes within reach of one is drawn again until
 * nothing does. */
static void stay_clear_of_kinks(ref_random *random, world *w, double reach) {
    const shape *s = &w->setup.shape;
    bn_layer linear = w->layer;
    linear.options.activation = BN_ACTIVATION_NONE;
    for (int attempt = 0; attempt < 1000; attempt++) {
        ref_result z = ref_forward(&linear, &w->batch, w->x);
        size_t near = 0, row = s->num_features * s->spatial;
        for (size_t k = 0; k < s->n * row; k++) {
            if (near_a_kink(&w->layer.options, z.y[k], reach)) {
                size_t i = k / row, at = k % row;
                float *again = w->setup.residual ? &w->residual[i * w->y_stride + at]
                                                 : &w->x[i * w->x_stride + at];
                *again = (float)(0.5 + ref_normal(random));
                near++;
            }
        }
        ref_free(&z);
        if (near == 0) {
            return;
        }
    }
    fail_msg("no values found that stay %g away from kinks", reach);
}

/* eps is large so that it matters, and so that no gradient vanishes: with eps near 0 two samples
 * are xhat = -1 and 1 wherever they are. */
static world make_world(const config *setup, double step) {
    world w = {.setup = *setup};
    const shape *s = &w.setup.shape;
    size_t row = s->num_features * s->spatial;
    bn_options options = bn_options_default();
    options.eps = 0.1f;
    options.scale = setup->scale;
    options.shift = setup->shift;
    options.activation = setup->activation;
    options.activation_slope = 0.3f;
    options.activation_max = 1.0f;
    assert_int_equal(bn_layer_init(&w.layer, s->num_features, &options), BN_STATUS_OK);
    w.layer.frozen = setup->frozen;
    w.x_stride = row + s->x_gap;
    w.y_stride = row + s->y_gap;
    w.batch = (bn_batch){.n = s->n,
                         .spatial = s->spatial,
                         .x_stride = w.x_stride,
                         .y_stride = w.y_stride,
                         .skip_running_update = true};

    ref_random random = {7};
    ref_fill_layer(&random, &w.layer);
    fill_weights(&random, &w);
    w.x = tensor(&random, s, w.x_stride);
    w.dy = tensor(&random, s, w.y_stride);
    w.residual = tensor(&random, s, w.y_stride);
    w.y = ref_floats(s->n * w.y_stride);
    w.dx = ref_floats(s->n * w.x_stride);
    w.dresidual = ref_floats(s->n * w.y_stride);
    if (setup->residual) {
        w.batch.residual = w.residual;
    }
    if (setup->activation != BN_ACTIVATION_NONE) {
        /* A step moves z by at most |gamma| * invstd < 1.5 / sqrt(0.1) < 5 times itself where it is
         * one of x, and by |xhat| of itself where it is gamma. */
        stay_clear_of_kinks(&random, &w, 8 * step);
    }
    w.want = ref_forward(&w.layer, &w.batch, w.x);
    ref_backward(&w.want, &w.layer, &w.batch, w.x, w.dy);
    return w;
}

static void free_world(world *w) {
    float *arrays[] = {w->x, w->y, w->dy, w->dx, w->residual, w->dresidual, w->weight, w->position};
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) {
        free(arrays[k]);
    }
    ref_free(&w->want);
    bn_layer_free(&w->layer);
}

/* The library's gradients, at the point itself. */
static void backward(world *w) {
    bn_batch batch = w->batch;
    batch.y = w->y;
    batch.dresidual = w->setup.residual ? w->dresidual : NULL;
    assert_int_equal(bn_layer_forward_batch(&w->layer, &batch, w->x, w->y), BN_STATUS_OK);
    assert_int_equal(bn_layer_backward_batch(&w->layer, &batch, w->x, w->dy, w->dx), BN_STATUS_OK);
}

/* ---- Differences ----------------------------------------------------------------------------- */

/* A way to compute loss[D], and what its differences are good for. */
typedef struct method {
    void (*loss)(world *w, double *loss);
    double step;       /* h: values are moved by h to either side */
    double units;      /* the error of a y, in units of its feature's largest */
    double truncation; /* the error of (f(x+h) - f(x-h)) / 2h in x, relative to dx_scale */
} method;

static void reference_loss(world *w, double *loss) {
    const shape *s = &w->setup.shape;
    ref_result r = ref_forward(&w->layer, &w->batch, w->x);
    for (size_t d = 0; d < s->num_features; d++) {
        loss[d] = 0;
        for (size_t i = 0; i < s->n; i++) {
            for (size_t p = d * s->spatial; p < (d + 1) * s->spatial; p++) {
                size_t row = s->num_features * s->spatial;
                loss[d] += (double)w->dy[i * w->y_stride + p] * r.y[i * row + p];
            }
        }
    }
    ref_free(&r);
}

static void library_loss(world *w, double *loss) {
    const shape *s = &w->setup.shape;
    assert_int_equal(bn_layer_forward_batch(&w->layer, &w->batch, w->x, w->y), BN_STATUS_OK);
    for (size_t d = 0; d < s->num_features; d++) {
        loss[d] = 0;
        for (size_t i = 0; i < s->n; i++) {
            for (size_t p = d * s->spatial; p < (d + 1) * s->spatial; p++) {
                size_t at = i * w->y_stride + p;
                loss[d] += (double)w->dy[at] * (double)w->y[at];
            }
        }
    }
}

/* The reference is as good as double: 2^-18 units are 2^-42, far more than its rounding, and allow
 * h to be so small that h^2 is nothing. What is left in x is that x +- h are floats, not quite
 * equally far from x: an ulp of 4, 2^-21, times half the curvature, which invstd < 4 makes a few
 * times dx_scale; 2^-18 covers it, and the REF_LIMIT_DX units that dx itself may be off by. */
static const method by_reference = {reference_loss, 0x1p-14, 0x1p-18, 0x1p-18};

/* The library's y is within REF_LIMIT, so its differences are off by that over h: h must be large.
 * The third derivative in x is of the order of 10 * invstd^2 times dx_scale, that is 100, and
 * h^2/6 of it 4e-3. */
static const method by_library = {library_loss, 0x1p-6, REF_LIMIT, 1e-2};

/* Derivatives of loss[d] by values[d * stride], for all d at once. */
static void differentiate(world *w, const method *m, float *values, size_t stride, double *out) {
    size_t features = w->setup.shape.num_features;
    double *below = ref_doubles(features), *width = ref_doubles(features);
    float *kept = ref_floats(features);
    for (size_t d = 0; d < features; d++) {
        kept[d] = values[d * stride];
        values[d * stride] = (float)((double)kept[d] - m->step);
        width[d] = -(double)values[d * stride];
    }
    m->loss(w, below);
    for (size_t d = 0; d < features; d++) {
        values[d * stride] = (float)((double)kept[d] + m->step);
        width[d] += (double)values[d * stride];
    }
    m->loss(w, out);
    for (size_t d = 0; d < features; d++) {
        values[d * stride] = kept[d];
        out[d] = (out[d] - below[d]) / width[d];
    }
    free(below);
    free(width);
    free(kept);
}

/* The largest difference between got and derivatives, in units of what is allowed: a relative 1e-6
 * (REF_LIMIT units are 2.4e-7), of a sum also REF_LIMIT units of its scale, what the loss is uncertain
 * by divided by the step, and truncation. A scale may be NULL. */
static double compare(world *w, const method *m, float *values, const float *got, size_t stride,
                      const double *truncation_scale, const double *sum_scale) {
    size_t features = w->setup.shape.num_features, spatial = w->setup.shape.spatial;
    double *derivative = ref_doubles(features), worst = 0;
    differentiate(w, m, values, stride, derivative);
    for (size_t d = 0; d < features; d++) {
        double sum = 0;
        for (size_t i = 0; i < w->setup.shape.n; i++) {
            for (size_t p = d * spatial; p < (d + 1) * spatial; p++) {
                sum += fabs((double)w->dy[i * w->y_stride + p]);
            }
        }
        double uncertain = sum * w->want.y_scale[d] * m->units * REF_UNIT;
        double allowed = 1e-6 * fabs(derivative[d]) + uncertain / m->step;
        allowed += truncation_scale ? m->truncation * truncation_scale[d] : 0;
        allowed += sum_scale ? REF_LIMIT * REF_UNIT * sum_scale[d] : 0;
        double error = fabs((double)got[d * stride] - derivative[d]) / allowed;
        worst = fmax(worst, isnan(error) ? INFINITY : error);
    }
    free(derivative);
    return worst;
}

/* Compares everything that backward wrote; at most 1 is right. Loss is linear in gamma, beta and
 * the residual, so only x knows truncation. */
static double worst_gradient(world *w, const method *m) {
    size_t spatial = w->setup.shape.spatial;
    double worst = 0;
    for (size_t i = 0; i < w->setup.shape.n; i++) {
        for (size_t s = 0; s < spatial; s++) {
            size_t x_at = i * w->x_stride + s, y_at = i * w->y_stride + s;
            double error =
                compare(w, m, w->x + x_at, w->dx + x_at, spatial, w->want.dx_scale, NULL);
            worst = fmax(worst, error);
            if (w->setup.residual) {
                error = compare(w, m, w->residual + y_at, w->dresidual + y_at, spatial, NULL, NULL);
                worst = fmax(worst, error);
            }
        }
    }
    if (w->layer.gamma) {
        worst = fmax(worst,
                     compare(w, m, w->layer.gamma, w->layer.dgamma, 1, NULL, w->want.dgamma_scale));
    }
    if (w->layer.beta) {
        worst =
            fmax(worst, compare(w, m, w->layer.beta, w->layer.dbeta, 1, NULL, w->want.dbeta_scale));
    }
    return worst;
}

/* ---- Every combination ----------------------------------------------------------------------- */

static bool derivative_holds(const config *setup, const method *m) {
    world w = make_world(setup, m->step);
    backward(&w);
    double worst = worst_gradient(&w, m);
    free_world(&w);
    if (!(worst <= 1)) {
        print_error(
            "%zu x %zu x %zu, gaps %zu %zu, weights %d, residual %d, activation %d, frozen %d, "
            "scale %d, shift %d: %.3g times what is allowed\n",
            setup->shape.n, setup->shape.num_features, setup->shape.spatial, setup->shape.x_gap,
            setup->shape.y_gap, (int)setup->weights, setup->residual, (int)setup->activation,
            setup->frozen, setup->scale, setup->shift, worst);
    }
    return worst <= 1;
}

static void every_combination(const shape *shapes, size_t count, const method *m) {
    int wrong = 0;
    for (size_t k = 0; k < count; k++) {
        for (weighting weights = WEIGHTS_NONE; weights < WEIGHTS_KINDS; weights++) {
            for (unsigned bits = 0; bits < 16 * ACTIVATIONS; bits++) {
                config setup = {.shape = shapes[k],
                                .weights = weights,
                                .residual = bits & 1,
                                .frozen = bits & 2,
                                .scale = bits & 4,
                                .shift = bits & 8,
                                .activation = (bn_activation)(bits / 16)};
                wrong += !derivative_holds(&setup, m);
            }
        }
    }
    assert_int_equal(wrong, 0);
}

/* Two samples; one feature; more than a vector of features and not a multiple of one. */
static const shape dense_shapes[] = {{2, 3, 1, 0, 0}, {5, 1, 1, 0, 0}, {4, 17, 1, 0, 0}};
static const shape strided_shapes[] = {{3, 19, 1, 3, 5}, {2, 2, 5, 1, 0}};
static const shape spatial_shapes[] = {
    {2, 2, 49, 0, 0}, {1, 1, 130, 0, 0}, {1, 1, 300, 2, 1}, {20, 1, 5, 1, 0}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void backward_is_the_derivative_of_dense_batches(void **state) {
    (void)state;
    every_combination(dense_shapes, COUNT(dense_shapes), &by_reference);
}

static void backward_is_the_derivative_of_strided_batches(void **state) {
    (void)state;
    every_combination(strided_shapes, COUNT(strided_shapes), &by_reference);
}

static void backward_is_the_derivative_along_planes(void **state) {
    (void)state;
    every_combination(spatial_shapes, COUNT(spatial_shapes), &by_reference);
}

static void backward_is_the_derivative_of_the_library_s_own_forward(void **state) {
    (void)state;
    every_combination(dense_shapes, COUNT(dense_shapes), &by_library);
    every_combination(strided_shapes, COUNT(strided_shapes), &by_library);
}

/* ---- The checks can fail --------------------------------------------------------------------- */

static void negate(float *values, size_t count) {
    for (size_t k = 0; k < count; k++) {
        values[k] = -values[k];
    }
}

/* Adds to dx what formula it would be without one of its terms: the mean's or the variance's. */
static void drop_term(world *w, bool of_variance) {
    const shape *s = &w->setup.shape;
    for (size_t i = 0; i < s->n; i++) {
        for (size_t d = 0; d < s->num_features; d++) {
            double factor = (double)w->layer.gamma[d] * w->want.invstd[d] / w->want.weight;
            for (size_t p = d * s->spatial; p < (d + 1) * s->spatial; p++) {
                size_t at = i * w->x_stride + p;
                double xhat = ((double)w->x[at] - w->want.mean[d]) * w->want.invstd[d];
                double term = of_variance ? xhat * w->want.dgamma[d] : w->want.dbeta[d];
                w->dx[at] += (float)(factor * ref_weight(&w->batch, i, p % s->spatial) * term);
            }
        }
    }
}

static void mutate(world *w, int how) {
    const shape *s = &w->setup.shape;
    switch (how) {
    case 0:
        negate(w->dx, s->n * w->x_stride);
        break;
    case 1:
        negate(w->layer.dgamma, s->num_features);
        break;
    case 2:
        negate(w->layer.dbeta, s->num_features);
        break;
    case 3:
        negate(w->dresidual, s->n * w->y_stride);
        break;
    case 4:
        drop_term(w, false);
        break;
    case 5:
        drop_term(w, true);
        break;
    case 6: /* the activation is forgotten */
        for (size_t k = 0; k < s->n * w->y_stride; k++) {
            w->dresidual[k] = w->dy[k];
        }
        break;
    default: /* one element, by a hundredth */
        w->dx[0] *= 1.01f;
    }
}

static void a_wrong_sign_and_a_dropped_term_are_noticed(void **state) {
    (void)state;
    enum { MUTATIONS = 8, BY_LIBRARY = 7 };
    static const config setups[] = {
        {{4, 17, 1, 0, 0}, WEIGHTS_REAL, true, false, true, true, BN_ACTIVATION_RELU},
        {{2, 2, 5, 1, 0}, WEIGHTS_NONE, true, false, true, true, BN_ACTIVATION_RELU},
        {{2, 2, 5, 1, 0}, WEIGHTS_BOTH, true, false, true, true, BN_ACTIVATION_RELU},
        {{4, 17, 1, 0, 0}, WEIGHTS_NONE, true, false, true, true, BN_ACTIVATION_LEAKY_RELU},
        {{4, 17, 1, 0, 0}, WEIGHTS_REAL, true, false, true, true, BN_ACTIVATION_CLIP},
    };
    for (size_t k = 0; k < COUNT(setups); k++) {
        for (int how = 0; how < MUTATIONS; how++) {
            world w = make_world(&setups[k], by_library.step);
            backward(&w);
            mutate(&w, how);
            assert_true(worst_gradient(&w, &by_reference) > 10);
            if (how < BY_LIBRARY) {
                assert_true(worst_gradient(&w, &by_library) > 2);
            }
            free_world(&w);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backward_is_the_derivative_of_dense_batches),
        cmocka_unit_test(backward_is_the_derivative_of_strided_batches),
        cmocka_unit_test(backward_is_the_derivative_along_planes),
        cmocka_unit_test(backward_is_the_derivative_of_the_library_s_own_forward),
        cmocka_unit_test(a_wrong_sign_and_a_dropped_term_are_noticed),
    };
    return cmocka_run_group_tests_name("gradients", tests, NULL, NULL);
}
