/*
 * Gradients against differences: backward must be the derivative of forward, of the loss
 *
 *     loss[d] = sum over i, s of dy * y
 *
 * with respect to every x, gamma, beta and residual, with its sign, in every combination of
 * weights, residual, activation, frozen statistics and parameters. Features do not see each other,
 * so one difference serves all of them. Of a half type the point is one of its values.
 */
#include "support.h"

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
    bn_dtype dtype;
} config;

typedef struct world {
    config setup;
    trial t;
    size_t x_stride, y_stride;
    ref_result want; /* at the point itself */
} world;

static void fill(ref_random *random, const shape *s, float *values, size_t stride) {
    for (size_t i = 0; i < s->n; i++) {
        ref_fill_normal(random, values + i * stride, s->num_features * s->spatial, 0.5, 1);
    }
}

/* Not all positions have any weight, but the first and the last of all. */
static void fill_positions(ref_random *random, world *w) {
    size_t count = w->setup.shape.n * w->setup.shape.spatial;
    w->t.position_weight = ref_floats(count);
    if (w->setup.weights >= WEIGHTS_POSITIONS) {
        ref_fill_uniform(random, w->t.position_weight, count, 0.9, 1.6);
        for (size_t k = 1; k + 1 < count; k += 3) {
            w->t.position_weight[k] = 0;
        }
        w->t.batch.position_weight = w->t.position_weight;
    }
}

static void fill_weights(ref_random *random, world *w) {
    size_t n = w->setup.shape.n;
    w->t.sample_weight = ref_floats(n);
    if (w->setup.weights == WEIGHTS_MASK) {
        for (size_t i = 0; i < n; i++) {
            w->t.sample_weight[i] = i == 0 || i + 1 == n ? 1 : 0;
        }
    } else {
        ref_fill_uniform(random, w->t.sample_weight, n, 0.6, 1.6);
    }
    bool of_samples = w->setup.weights != WEIGHTS_NONE && w->setup.weights != WEIGHTS_POSITIONS;
    w->t.batch.sample_weight = of_samples ? w->t.sample_weight : NULL;
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
    bn_layer linear = w->t.layer;
    linear.options.activation = BN_ACTIVATION_NONE;
    for (int attempt = 0; attempt < 1000; attempt++) {
        trial_pack(&w->t);
        ref_result z = ref_forward(&linear, &w->t.batch, w->t.x);
        size_t near = 0, row = s->num_features * s->spatial;
        for (size_t k = 0; k < s->n * row; k++) {
            if (near_a_kink(&w->t.layer.options, z.y[k], reach)) {
                size_t i = k / row, at = k % row;
                float *again = w->setup.residual ? &w->t.residual[i * w->y_stride + at]
                                                 : &w->t.x[i * w->x_stride + at];
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
    w.x_stride = row + s->x_gap;
    w.y_stride = row + s->y_gap;
    w.t = trial_new(s->num_features, &options,
                    (bn_batch){.n = s->n,
                               .spatial = s->spatial,
                               .x_stride = w.x_stride,
                               .y_stride = w.y_stride,
                               .dtype = setup->dtype,
                               .skip_running_update = true});
    w.t.layer.frozen = setup->frozen;

    ref_random random = {7};
    ref_fill_layer(&random, &w.t.layer);
    fill_weights(&random, &w);
    fill(&random, s, w.t.x, w.x_stride);
    fill(&random, s, w.t.dy, w.y_stride);
    if (setup->residual) {
        trial_add_residual(&w.t);
        fill(&random, s, w.t.residual, w.y_stride);
    }
    trial_pack(&w.t);
    if (setup->activation != BN_ACTIVATION_NONE) {
        /* A step moves z by at most |gamma| * invstd < 1.5 / sqrt(0.1) < 5 times itself where it is
         * one of x, and by |xhat| of itself where it is gamma. And as a half what is this near to the
         * clip's max is max. */
        stay_clear_of_kinks(&random, &w, fmax(8 * step, ref_ulp(setup->dtype, 1)));
    }
    w.want = ref_forward(&w.t.layer, &w.t.batch, w.t.x);
    ref_backward(&w.want, &w.t.layer, &w.t.batch, w.t.x, w.t.dy);
    return w;
}

static void free_world(world *w) {
    trial_free(&w->t);
    ref_free(&w->want);
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
    ref_result r = ref_forward(&w->t.layer, &w->t.batch, w->t.x);
    for (size_t d = 0; d < s->num_features; d++) {
        loss[d] = 0;
        for (size_t i = 0; i < s->n; i++) {
            for (size_t p = d * s->spatial; p < (d + 1) * s->spatial; p++) {
                size_t row = s->num_features * s->spatial;
                loss[d] += (double)w->t.dy[i * w->y_stride + p] * r.y[i * row + p];
            }
        }
    }
    ref_free(&r);
}

static void library_loss(world *w, double *loss) {
    const shape *s = &w->setup.shape;
    assert_int_equal(bn_layer_forward_batch(&w->t.layer, &w->t.batch, w->t.x, w->t.y),
                     BN_STATUS_OK);
    for (size_t d = 0; d < s->num_features; d++) {
        loss[d] = 0;
        for (size_t i = 0; i < s->n; i++) {
            for (size_t p = d * s->spatial; p < (d + 1) * s->spatial; p++) {
                size_t at = i * w->y_stride + p;
                loss[d] += (double)w->t.dy[at] * (double)w->t.y[at];
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
 * (REF_LIMIT units are 2.4e-7), of a sum also REF_LIMIT units of its scale, of others the rounding to a
 * half, what the loss is uncertain by divided by the step, and truncation. A scale may be NULL. */
static double compare(world *w, const method *m, float *values, const float *got, size_t stride,
                      const double *truncation_scale, const double *sum_scale) {
    size_t features = w->setup.shape.num_features, spatial = w->setup.shape.spatial;
    double *derivative = ref_doubles(features), worst = 0;
    differentiate(w, m, values, stride, derivative);
    for (size_t d = 0; d < features; d++) {
        double sum = 0;
        for (size_t i = 0; i < w->setup.shape.n; i++) {
            for (size_t p = d * spatial; p < (d + 1) * spatial; p++) {
                sum += fabs((double)w->t.dy[i * w->y_stride + p]);
            }
        }
        double uncertain = sum * w->want.y_scale[d] * m->units * REF_UNIT;
        double allowed = 1e-6 * fabs(derivative[d]) + uncertain / m->step;
        allowed += truncation_scale ? m->truncation * truncation_scale[d] : 0;
        allowed += sum_scale ? REF_LIMIT * REF_UNIT * sum_scale[d]
                             : ref_ulp(w->setup.dtype, derivative[d]) / 2;
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
                compare(w, m, w->t.x + x_at, w->t.dx + x_at, spatial, w->want.dx_scale, NULL);
            worst = fmax(worst, error);
            if (w->setup.residual) {
                error =
                    compare(w, m, w->t.residual + y_at, w->t.dresidual + y_at, spatial, NULL, NULL);
                worst = fmax(worst, error);
            }
        }
    }
    if (w->t.layer.gamma) {
        worst = fmax(worst, compare(w, m, w->t.layer.gamma, w->t.layer.dgamma, 1, NULL,
                                    w->want.dgamma_scale));
    }
    if (w->t.layer.beta) {
        worst = fmax(
            worst, compare(w, m, w->t.layer.beta, w->t.layer.dbeta, 1, NULL, w->want.dbeta_scale));
    }
    return worst;
}

/* ---- Every combination ----------------------------------------------------------------------- */

static bool derivative_holds(const config *setup, const method *m) {
    world w = make_world(setup, m->step);
    trial_run(&w.t);
    double worst = worst_gradient(&w, m);
    free_world(&w);
    if (!(worst <= 1)) {
        print_error(
            "%zu x %zu x %zu, gaps %zu %zu, weights %d, residual %d, activation %d, frozen %d, "
            "scale %d, shift %d, dtype %d: %.3g times what is allowed\n",
            setup->shape.n, setup->shape.num_features, setup->shape.spatial, setup->shape.x_gap,
            setup->shape.y_gap, (int)setup->weights, setup->residual, (int)setup->activation,
            setup->frozen, setup->scale, setup->shift, (int)setup->dtype, worst);
    }
    return worst <= 1;
}

static void every_combination(const shape *shapes, size_t count, bn_dtype dtype, const method *m) {
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
                                .activation = (bn_activation)(bits / 16),
                                .dtype = dtype};
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

static void backward_is_the_derivative_of_dense_batches(void **state) {
    (void)state;
    every_combination(dense_shapes, COUNT_OF(dense_shapes), BN_DTYPE_F32, &by_reference);
}

static void backward_is_the_derivative_of_strided_batches(void **state) {
    (void)state;
    every_combination(strided_shapes, COUNT_OF(strided_shapes), BN_DTYPE_F32, &by_reference);
}

static void backward_is_the_derivative_along_planes(void **state) {
    (void)state;
    every_combination(spatial_shapes, COUNT_OF(spatial_shapes), BN_DTYPE_F32, &by_reference);
}

static void backward_is_the_derivative_at_halves(void **state) {
    (void)state;
    for (bn_dtype half = BN_DTYPE_BF16; half <= BN_DTYPE_F16; half++) {
        every_combination(dense_shapes, COUNT_OF(dense_shapes), half, &by_reference);
        every_combination(strided_shapes, COUNT_OF(strided_shapes), half, &by_reference);
    }
    every_combination(spatial_shapes, 1, BN_DTYPE_BF16, &by_reference);
    every_combination(spatial_shapes + 1, 1, BN_DTYPE_F16, &by_reference);
}

static void backward_is_the_derivative_of_the_library_s_own_forward(void **state) {
    (void)state;
    every_combination(dense_shapes, COUNT_OF(dense_shapes), BN_DTYPE_F32, &by_library);
    every_combination(strided_shapes, COUNT_OF(strided_shapes), BN_DTYPE_F32, &by_library);
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
            double factor = (double)w->t.layer.gamma[d] * w->want.invstd[d] / w->want.weight;
            for (size_t p = d * s->spatial; p < (d + 1) * s->spatial; p++) {
                size_t at = i * w->x_stride + p;
                double xhat = ((double)w->t.x[at] - w->want.mean[d]) * w->want.invstd[d];
                double term = of_variance ? xhat * w->want.dgamma[d] : w->want.dbeta[d];
                w->t.dx[at] += (float)(factor * ref_weight(&w->t.batch, i, p % s->spatial) * term);
            }
        }
    }
}

static void mutate(world *w, int how) {
    const shape *s = &w->setup.shape;
    switch (how) {
    case 0:
        negate(w->t.dx, w->t.x_count);
        break;
    case 1:
        negate(w->t.layer.dgamma, s->num_features);
        break;
    case 2:
        negate(w->t.layer.dbeta, s->num_features);
        break;
    case 3:
        negate(w->t.dresidual, w->t.y_count);
        break;
    case 4:
        drop_term(w, false);
        break;
    case 5:
        drop_term(w, true);
        break;
    case 6: /* the activation is forgotten */
        for (size_t k = 0; k < w->t.y_count; k++) {
            w->t.dresidual[k] = w->t.dy[k];
        }
        break;
    default: /* one element, by a hundredth */
        w->t.dx[0] *= 1.01f;
    }
}

static void a_wrong_sign_and_a_dropped_term_are_noticed(void **state) {
    (void)state;
    enum { MUTATIONS = 8, BY_LIBRARY = 7 };
    static const config setups[] = {
        {{4, 17, 1, 0, 0}, WEIGHTS_REAL, true, false, true, true, BN_ACTIVATION_RELU, BN_DTYPE_F32},
        {{2, 2, 5, 1, 0}, WEIGHTS_NONE, true, false, true, true, BN_ACTIVATION_RELU, BN_DTYPE_F32},
        {{2, 2, 5, 1, 0}, WEIGHTS_BOTH, true, false, true, true, BN_ACTIVATION_RELU, BN_DTYPE_F32},
        {{4, 17, 1, 0, 0},
         WEIGHTS_NONE,
         true,
         false,
         true,
         true,
         BN_ACTIVATION_LEAKY_RELU,
         BN_DTYPE_F32},
        {{4, 17, 1, 0, 0}, WEIGHTS_REAL, true, false, true, true, BN_ACTIVATION_CLIP, BN_DTYPE_F32},
        {{4, 17, 1, 0, 0}, WEIGHTS_REAL, true, false, true, true, BN_ACTIVATION_CLIP, BN_DTYPE_F16},
    };
    for (size_t k = 0; k < COUNT_OF(setups); k++) {
        for (int how = 0; how < MUTATIONS; how++) {
            world w = make_world(&setups[k], by_library.step);
            trial_run(&w.t);
            mutate(&w, how);
            assert_true(worst_gradient(&w, &by_reference) > 10);
            if (how < BY_LIBRARY && setups[k].dtype == BN_DTYPE_F32) {
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
        cmocka_unit_test(backward_is_the_derivative_at_halves),
        cmocka_unit_test(backward_is_the_derivative_of_the_library_s_own_forward),
        cmocka_unit_test(a_wrong_sign_and_a_dropped_term_are_noticed),
    };
    return cmocka_run_group_tests_name("gradients", tests, NULL, NULL);
}
