/*
 * Everything that a bn_batch can say, and every combination of it, gives the reference's numbers:
 * positions, strides, weights, a residual, an activation.
 */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- All of it at once ----------------------------------------------------------------------- */

enum {
    SPATIAL = 1 << 0,
    STRIDED = 1 << 1,
    WEIGHTS = 1 << 2,
    RESIDUAL = 1 << 3,
    NO_SCALE = 1 << 4,
    NO_SHIFT = 1 << 5,
    FROZEN = 1 << 6,
    POSITIONS = 1 << 7,
    RELU = 1 << 8, /* a bn_activation times this */
    COMBINATIONS = 4 * RELU
};

static trial combination_of(unsigned what, bn_dtype dtype) {
    const size_t features = 5, spatial = what & SPATIAL ? 6 : 1;
    bn_options options = bn_options_default();
    bn_batch batch = {.n = 7, .spatial = spatial, .dtype = dtype};
    options.activation = (bn_activation)(what / RELU);
    options.activation_slope = 0.1f;
    options.activation_max = 0.5f;
    options.scale = !(what & NO_SCALE);
    options.shift = !(what & NO_SHIFT);
    if (what & STRIDED) {
        batch.x_stride = features * spatial + 3;
        batch.y_stride = features * spatial + 1;
    }
    trial t = trial_new(features, &options, batch);
    t.layer.frozen = what & FROZEN;
    if (what & WEIGHTS) {
        trial_add_weights(&t);
    }
    if (what & POSITIONS) {
        trial_add_positions(&t);
    }
    if (what & RESIDUAL) {
        trial_add_residual(&t);
    }
    return t;
}

static trial combination(unsigned what) {
    return combination_of(what, BN_DTYPE_F32);
}

static void every_combination_is_right(void **state) {
    (void)state;
    for (unsigned what = 0; what < COMBINATIONS; what++) {
        for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
            trial t = combination_of(what, dtype);
            trial_check(&t);
            trial_check_infer(&t);
            trial_free(&t);
        }
    }
}

/* ---- Half types ------------------------------------------------------------------------------ */

static void round_all(const trial *t, float *values, size_t count) {
    for (size_t k = 0; values != NULL && k < count; k++) {
        values[k] = (float)ref_rounded(t->batch.dtype, (double)values[k]);
    }
}

/* What is between rows was rounded too. */
static void assert_same_rows(const trial *t, const float *got, const float *want, size_t stride) {
    for (size_t i = 0; want != NULL && i < t->batch.n; i++) {
        const size_t row = t->layer.num_features * ref_spatial(&t->batch);
        assert_same_bits(&got[i * stride], &want[i * stride], row);
    }
}

/* A float batch of the same values gives the same statistics and gradients of parameters, bit for bit, and
 * the same y, dx and dresidual but for one rounding; where backward reads y, that is the rounded one. */
static void check_as_floats(unsigned what, bn_dtype dtype, float size) {
    trial t = combination_of(what, dtype), floats = combination(what);
    const size_t x_stride = ref_x_stride(&t.batch, t.layer.num_features);
    const size_t y_stride = ref_y_stride(&t.batch, t.layer.num_features);
    for (size_t d = 0; t.layer.gamma && d < t.layer.num_features; d++) {
        floats.layer.gamma[d] = t.layer.gamma[d] *= size;
    }
    memcpy(floats.x, t.x, t.x_count * sizeof(float));
    memcpy(floats.dy, t.dy, t.y_count * sizeof(float));
    if (t.residual) {
        memcpy(floats.residual, t.residual, t.y_count * sizeof(float));
    }
    trial_run(&t);
    assert_ok(trial_forward(&floats, floats.x, floats.y));
    round_all(&t, floats.y, t.y_count);
    assert_ok(trial_backward(&floats, floats.x, floats.dy, floats.dx));
    round_all(&t, floats.dx, t.x_count);
    round_all(&t, floats.dresidual, t.y_count);
    assert_same_rows(&t, t.y, floats.y, y_stride);
    assert_same_rows(&t, t.dx, floats.dx, x_stride);
    assert_same_rows(&t, t.dresidual, floats.dresidual, y_stride);
    memcpy(t.y, floats.y, t.y_count * sizeof(float));
    memcpy(t.dx, floats.dx, t.x_count * sizeof(float));
    if (t.dresidual) {
        memcpy(t.dresidual, floats.dresidual, t.y_count * sizeof(float));
    }
    trial_check_same(&t, &floats);
    assert_ok(trial_infer(&t, t.x, t.y));
    assert_ok(trial_infer(&floats, floats.x, floats.y));
    round_all(&t, floats.y, t.y_count);
    assert_same_rows(&t, t.y, floats.y, y_stride);
    trial_free(&t);
    trial_free(&floats);
}

/* With y and dx among a half's usual values, its subnormals (bfloat16's are all but floats'), and beyond its
 * largest. */
static void halves_are_floats_rounded_once(void **state) {
    (void)state;
    static const float sizes[] = {1, 0x1p-18f, 0x1p15f, 0x1p-126f};
    for (unsigned what = 0; what < COMBINATIONS; what++) {
        for (size_t k = 0; k < COUNT_OF(sizes); k++) {
            check_as_floats(what, BN_DTYPE_F16, sizes[k]);
            check_as_floats(what, BN_DTYPE_BF16, sizes[k]);
        }
    }
}

/* The same against the reference, whose own rounding is another's. */
static void halves_of_any_size_are_right(void **state) {
    (void)state;
    static const int exponents[] = {-140, -126, -30, -24, -20, -14, 8, 13, 14, 15, 16, 20};
    for (size_t k = 0; k < 2 * COUNT_OF(exponents); k++) {
        trial t = combination_of(NO_SHIFT | SPATIAL, k % 2 ? BN_DTYPE_F16 : BN_DTYPE_BF16);
        for (size_t d = 0; d < t.layer.num_features; d++) {
            t.layer.gamma[d] = ldexpf(t.layer.gamma[d], exponents[k / 2]);
        }
        trial_check(&t);
        trial_check_infer(&t);
        trial_free(&t);
    }
}

/* Also one whose bits, taken for a number's, would round to 0. */
static void a_nan_is_a_half_s_nan(void **state) {
    (void)state;
    static const uint32_t nans[] = {0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0xFFFFFFC0};
    enum { D = 70, N = 3 };
    for (size_t k = 0; k < 2 * COUNT_OF(nans); k++) {
        const bn_dtype dtype = k % 2 ? BN_DTYPE_F16 : BN_DTYPE_BF16;
        trial t = trial_new(D, NULL, (bn_batch){.n = N, .dtype = dtype});
        trial floats = trial_new(D, NULL, (bn_batch){.n = N});
        memcpy(floats.x, t.x, t.x_count * sizeof(float));
        for (size_t d = 0; d < D; d += 3) {
            memcpy(&t.layer.gamma[d], &nans[k / 2], sizeof *nans);
            memcpy(&floats.layer.gamma[d], &nans[k / 2], sizeof *nans);
        }
        assert_ok(trial_infer(&t, t.x, t.y));
        assert_ok(trial_infer(&floats, floats.x, floats.y));
        for (size_t i = 0; i < t.y_count; i++) {
            assert_int_equal(isnan(t.y[i]) != 0, i % D % 3 == 0);
            assert_int_equal(signbit(t.y[i]) != 0, signbit(floats.y[i]) != 0);
        }
        trial_free(&t);
        trial_free(&floats);
    }
}

/* Where backward sees y, what rounds to the clip's max counts as max, whether or not max is a half. */
static void what_rounds_to_max_is_clipped(void **state) {
    (void)state;
    static const float most[] = {0.7f, 0.3f, 0.55f, 0.75f};
    for (size_t k = 0; k < 2 * COUNT_OF(most); k++) {
        bn_options options = bn_options_default();
        options.activation = BN_ACTIVATION_CLIP;
        options.activation_max = most[k / 2];
        const bn_dtype dtype = k % 2 ? BN_DTYPE_F16 : BN_DTYPE_BF16;
        trial t = trial_new(5, &options, (bn_batch){.n = 4000, .dtype = dtype});
        trial_add_residual(&t);
        trial_check(&t);
        trial_free(&t);
    }
}

/* ---- Strides --------------------------------------------------------------------------------- */

/* 20 samples are more than the library takes at once (16 rows), 300 positions enough that each
 * plane is taken by itself. */
static void strides_of_any_length_are_right(void **state) {
    (void)state;
    static const size_t gaps[] = {0, 1, 2, 7, 16, 100};
    static const size_t positions[] = {1, 2, 3, 7, 300};
    for (size_t features = 1; features <= 35; features += 4) {
        for (size_t k = 0; k < COUNT_OF(gaps); k++) {
            for (size_t m = 0; m < COUNT_OF(positions); m++) {
                const size_t row = features * positions[m];
                trial t = trial_new(features, NULL,
                                    (bn_batch){.n = 20,
                                               .spatial = positions[m],
                                               .x_stride = row + gaps[k],
                                               .y_stride = row + gaps[COUNT_OF(gaps) - 1 - k]});
                trial_check(&t);
                trial_check_infer(&t);
                trial_free(&t);
            }
        }
    }
}

/* Two layers on the left and the right half of the same rows: y into one buffer, dx likewise. */
static void layers_share_a_wide_buffer(void **state) {
    (void)state;
    enum { N = 20, LEFT = 5, RIGHT = 9, WIDE = LEFT + RIGHT };
    bn_batch batch = {.n = N, .x_stride = WIDE, .y_stride = WIDE};
    trial left = trial_new(LEFT, NULL, batch), right = trial_new(RIGHT, NULL, batch);
    trial_run(&left);
    trial_run(&right);

    float x[N * WIDE], y[N * WIDE], dy[N * WIDE], dx[N * WIDE];
    for (size_t i = 0; i < N; i++) {
        memcpy(&x[i * WIDE], &left.x[i * WIDE], LEFT * sizeof *x);
        memcpy(&x[i * WIDE + LEFT], &right.x[i * WIDE], RIGHT * sizeof *x);
        memcpy(&dy[i * WIDE], &left.dy[i * WIDE], LEFT * sizeof *x);
        memcpy(&dy[i * WIDE + LEFT], &right.dy[i * WIDE], RIGHT * sizeof *x);
    }
    assert_ok(bn_layer_forward_batch(&left.layer, &batch, x, y));
    assert_ok(bn_layer_forward_batch(&right.layer, &batch, x + LEFT, y + LEFT));
    assert_ok(bn_layer_backward_batch(&left.layer, &batch, x, dy, dx));
    assert_ok(bn_layer_backward_batch(&right.layer, &batch, x + LEFT, dy + LEFT, dx + LEFT));
    for (size_t i = 0; i < N; i++) {
        assert_same_bits(&y[i * WIDE], &left.y[i * WIDE], LEFT);
        assert_same_bits(&y[i * WIDE + LEFT], &right.y[i * WIDE], RIGHT);
        assert_same_bits(&dx[i * WIDE], &left.dx[i * WIDE], LEFT);
        assert_same_bits(&dx[i * WIDE + LEFT], &right.dx[i * WIDE], RIGHT);
    }
    trial_free(&left);
    trial_free(&right);
}

/* ---- Positions ------------------------------------------------------------------------------- */

static void one_position_is_as_good_as_none(void **state) {
    (void)state;
    for (size_t features = 1; features <= 40; features += 3) {
        trial plain = trial_new(features, NULL, (bn_batch){.n = 11});
        trial t = trial_new(
            features, NULL,
            (bn_batch){.n = 11, .spatial = 1, .x_stride = features, .y_stride = features});
        trial_run(&plain);
        trial_run(&t);
        trial_check_same(&t, &plain);
        trial_free(&plain);
        trial_free(&t);
    }
}

static void short_calls_are_the_batch_calls(void **state) {
    (void)state;
    trial batch = trial_new(6, NULL, (bn_batch){.n = 10});
    trial t = trial_new(6, NULL, (bn_batch){.n = 10});
    trial_run(&batch);
    assert_ok(bn_layer_forward(&t.layer, 10, t.x, t.y));
    assert_ok(bn_layer_backward(&t.layer, 10, t.x, t.dy, t.dx));
    trial_check_same(&t, &batch);
    assert_ok(bn_layer_infer_batch(&batch.layer, &batch.batch, batch.x, batch.y));
    assert_ok(bn_layer_infer(&t.layer, 10, t.x, t.y));
    assert_same_bits(t.y, batch.y, t.y_count);
    trial_free(&batch);
    trial_free(&t);
}

/* rows[(i*S + s)*C + c] = planes[(i*C + c)*S + s] */
static void to_channels_last(size_t n, size_t channels, size_t spatial, const float *planes,
                             float *rows) {
    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < channels; c++) {
            for (size_t s = 0; s < spatial; s++) {
                rows[(i * spatial + s) * channels + c] = planes[(i * channels + c) * spatial + s];
            }
        }
    }
}

/* The transposed run is measured against the reference of the planes, transposed back by swapping
 * the roles: to_channels_last with C and S exchanged is its own inverse. */
static void channels_last_is_the_same_batch(void **state) {
    (void)state;
    enum { N = 4, C = 6, S = 35 };
    trial planes = trial_new(C, NULL, (bn_batch){.n = N, .spatial = S});
    trial rows = trial_new(C, NULL, (bn_batch){.n = N * S});
    to_channels_last(N, C, S, planes.x, rows.x);
    to_channels_last(N, C, S, planes.dy, rows.dy);

    ref_result want = ref_forward(&planes.layer, &planes.batch, planes.x);
    ref_backward(&want, &planes.layer, &planes.batch, planes.x, planes.dy);
    trial_run(&rows);
    to_channels_last(N, S, C, rows.y, planes.y);
    to_channels_last(N, S, C, rows.dx, planes.dx);
    ref_errors errors = ref_measure(&want, &rows.layer, &planes.batch, planes.y, planes.dx);
    assert_true(ref_within_limits(&errors));

    ref_free(&want);
    trial_free(&planes);
    trial_free(&rows);
}

/* ---- Weights --------------------------------------------------------------------------------- */

/* Both are within REF_LIMIT of the same numbers, and so within twice that of each other. scale: NULL
 * for a value's own. */
static void assert_close(const float *got, const float *want, size_t count, const double *scale) {
    for (size_t k = 0; k < count; k++) {
        const double size = scale ? scale[k] : (double)want[k];
        assert_within(ref_units((double)got[k], (double)want[k], size), 2 * REF_LIMIT);
    }
}

/* The same, for values whose errors are measured by the largest of many, here less than 4. */
static void assert_near(const float *got, const float *want, size_t count, double limit) {
    for (size_t k = 0; k < count; k++) {
        assert_true(fabsf(want[k]) < 4.0f);
        assert_within(ref_units((double)got[k], (double)want[k], 4.0), limit);
    }
}

static void assert_same_moments(const bn_layer *got, const bn_layer *want,
                                const ref_result *reference) {
    size_t features = want->num_features;
    assert_close(got->saved_mean, want->saved_mean, features, reference->mean_scale);
    assert_close(got->saved_invstd, want->saved_invstd, features, NULL);
    assert_close(got->running_mean, want->running_mean, features, reference->mean_scale);
    assert_close(got->running_var, want->running_var, features, NULL);
}

static void assert_same_statistics(const bn_layer *got, const trial *t) {
    ref_result reference = ref_forward(&t->layer, &t->batch, t->x);
    ref_backward(&reference, &t->layer, &t->batch, t->x, t->dy);
    assert_same_moments(got, &t->layer, &reference);
    assert_close(got->dgamma, t->layer.dgamma, t->layer.num_features, reference.dgamma_scale);
    assert_close(got->dbeta, t->layer.dbeta, t->layer.num_features, reference.dbeta_scale);
    ref_free(&reference);
}

/* Samples `from` of a batch, one after the other, as another trial's batch. */
static void gather_samples(trial *to, const trial *source, const size_t *from) {
    size_t row = to->layer.num_features * ref_spatial(&to->batch);
    for (size_t i = 0; i < to->batch.n; i++) {
        memcpy(&to->x[i * row], &source->x[from[i] * row], row * sizeof(float));
        memcpy(&to->dy[i * row], &source->dy[from[i] * row], row * sizeof(float));
    }
}

/* dgamma and dbeta are sums over the masked samples too, as the formulas say, so their dy is 0
 * here: what a loss that ignores padding gives. */
static void masked_samples_are_left_out(void **state) {
    (void)state;
    enum { N = 8, KEPT = 5, D = 6 };
    static const float mask[N] = {1, 0, 1, 1, 0, 0, 1, 1};
    static const size_t kept[KEPT] = {0, 2, 3, 6, 7};
    for (size_t spatial = 1; spatial <= 9; spatial += 4) {
        const size_t row = D * spatial;
        trial whole = trial_new(D, NULL, (bn_batch){.n = N, .spatial = spatial});
        trial part = trial_new(D, NULL, (bn_batch){.n = KEPT, .spatial = spatial});
        whole.batch.sample_weight = mask;
        for (size_t k = 0; k < N * row; k++) {
            whole.dy[k] *= mask[k / row];
        }
        gather_samples(&part, &whole, kept);
        trial_run(&whole);
        trial_run(&part);

        assert_same_statistics(&whole.layer, &part);
        for (size_t i = 0; i < KEPT; i++) {
            assert_near(&whole.y[kept[i] * row], &part.y[i * row], row, 2 * REF_LIMIT);
            assert_near(&whole.dx[kept[i] * row], &part.dx[i * row], row, 2 * REF_LIMIT_DX);
        }
        trial_free(&whole);
        trial_free(&part);
    }
}

/* mean, var and W are those of the repeated samples. (The gradients are not: a repeated sample
 * would have its dy twice.) */
static void a_weight_of_two_is_a_sample_twice(void **state) {
    (void)state;
    enum { N = 4, TWICE = 7, D = 5 };
    static const float weights[N] = {2, 1, 3, 1};
    static const size_t repeated[TWICE] = {0, 0, 1, 2, 2, 2, 3};
    trial weighted = trial_new(D, NULL, (bn_batch){.n = N, .spatial = 3});
    trial t = trial_new(D, NULL, (bn_batch){.n = TWICE, .spatial = 3});
    weighted.batch.sample_weight = weights;
    gather_samples(&t, &weighted, repeated);
    trial_run(&weighted);
    trial_run(&t);
    ref_result reference = ref_forward(&t.layer, &t.batch, t.x);
    assert_same_moments(&weighted.layer, &t.layer, &reference);
    ref_free(&reference);
    trial_free(&weighted);
    trial_free(&t);
}

/* Of samples, of positions, of both. */
static void weights_over_many_blocks_are_right(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{600, 3, 1},  {513, 16, 1}, {70, 4, 20},   {300, 1, 2},
                                       {40, 600, 2}, {3, 5, 1030}, {1, 3, 40000}, {300, 2, 300}};
    for (size_t k = 0; k < 3 * COUNT_OF(shapes); k++) {
        const size_t *shape = shapes[k / 3];
        trial t = trial_new(shape[1], NULL, (bn_batch){.n = shape[0], .spatial = shape[2]});
        if (k % 3 != 1) {
            trial_add_weights(&t);
        }
        if (k % 3 != 0) {
            trial_add_positions(&t);
        }
        trial_check(&t);
        trial_free(&t);
    }
}

/* However far it is from all others, the first sample has next to no weight: deviations are not from
 * there. */
static void a_first_sample_that_hardly_counts_is_no_pivot(void **state) {
    (void)state;
    static const float far[] = {1e6f, 1e6f, 60000};
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        trial t = trial_new(5, NULL, (bn_batch){.n = 40, .dtype = dtype});
        trial_add_weights(&t);
        t.sample_weight[0] = 1e-30f;
        for (size_t k = 0; k < t.x_count; k++) {
            t.x[k] = k < 5 ? far[dtype] : t.x[k] / 256;
        }
        t.layer.options.eps = 1e-12f;
        trial_check(&t);
        trial_free(&t);
    }
}

/* ---- Weights of positions -------------------------------------------------------------------- */

static const size_t position_shapes[][3] = {{7, 5, 1},  {1, 4, 5},   {20, 3, 5},  {40, 33, 2},
                                            {2, 3, 17}, {1, 2, 300}, {20, 7, 300}};
enum { POSITION_SHAPES = sizeof position_shapes / sizeof *position_shapes };

static bn_batch batch_of(const size_t *shape) {
    return (bn_batch){.n = shape[0], .spatial = shape[2]};
}

static void assert_same_results(const trial *got, const trial *want) {
    assert_same_statistics(&got->layer, want);
    assert_near(got->y, want->y, want->y_count, 2 * REF_LIMIT);
    assert_near(got->dx, want->dx, want->x_count, 2 * REF_LIMIT_DX);
}

/* The padding is as if it were not there: N x C x T with a mask, and the real positions alone as rows.
 * Both are within the limits of the same numbers. Whatever the padding holds, no loss comes from it. */
static void masked_positions_are_left_out(void **state) {
    (void)state;
    for (size_t k = 0; k < POSITION_SHAPES; k++) {
        const size_t *shape = position_shapes[k], C = shape[1], T = shape[2];
        trial padded = trial_new(C, NULL, batch_of(shape));
        float *mask = ref_floats(shape[0] * T);
        size_t real = 0;
        for (size_t i = 0; i < shape[0]; i++) {
            const size_t length = i == 0 ? T - T / 4 : (i * 7 + T / 2) % (T + 1);
            for (size_t s = 0; s < length; s++) {
                mask[i * T + s] = 1;
            }
            real += length;
        }
        trial packed = trial_new(C, NULL, (bn_batch){.n = real});
        for (size_t j = 0, row = 0; j < shape[0] * T; j++) {
            for (size_t d = 0; d < C; d++) {
                const size_t at = (j / T * C + d) * T + j % T;
                if (mask[j] != 0) {
                    packed.x[row * C + d] = padded.x[at];
                    packed.dy[row * C + d] = padded.dy[at];
                } else {
                    padded.x[at] = 1e30f;
                    padded.dy[at] = 0;
                }
            }
            row += mask[j] != 0;
        }
        padded.batch.position_weight = mask;
        trial_run(&padded);
        trial_run(&packed);
        assert_same_statistics(&padded.layer, &packed);
        ref_result want = ref_forward(&packed.layer, &packed.batch, packed.x);
        ref_backward(&want, &packed.layer, &packed.batch, packed.x, packed.dy);
        for (size_t j = 0, row = 0; j < shape[0] * T; j++) {
            for (size_t d = 0; d < C && mask[j] != 0; d++) {
                const size_t at = (j / T * C + d) * T + j % T, to = row * C + d;
                const double y = (double)packed.y[to], dx = (double)packed.dx[to];
                assert_within(ref_units((double)padded.y[at], y, fmax(want.y_scale[d], 1)),
                              2 * REF_LIMIT);
                assert_within(ref_units((double)padded.dx[at], dx, want.dx_scale[d]),
                              2 * REF_LIMIT_DX);
            }
            row += mask[j] != 0;
        }
        ref_free(&want);
        free(mask);
        trial_free(&padded);
        trial_free(&packed);
    }
}

/* Of all positions 1 they are none; of all positions of a sample the same, they are the sample's. */
static void positions_that_weigh_the_same_weigh_as_samples(void **state) {
    (void)state;
    for (size_t k = 0; k < 2 * POSITION_SHAPES; k++) {
        const size_t *shape = position_shapes[k / 2], spatial = shape[2];
        trial want = trial_new(shape[1], NULL, batch_of(shape));
        trial t = trial_new(shape[1], NULL, batch_of(shape));
        float *weight = ref_floats(shape[0] * spatial);
        if (k % 2) {
            trial_add_weights(&want);
        }
        for (size_t j = 0; j < shape[0] * spatial; j++) {
            weight[j] = k % 2 ? want.sample_weight[j / spatial] : 1;
        }
        t.batch.position_weight = weight;
        trial_run(&want);
        trial_run(&t);
        assert_same_results(&t, &want);
        free(weight);
        trial_free(&want);
        trial_free(&t);
    }
}

/* The product is what counts, and it is rounded to float before it does: the bits are the same. */
static void a_position_weighs_the_product(void **state) {
    (void)state;
    for (size_t k = 0; k < POSITION_SHAPES; k++) {
        const size_t *shape = position_shapes[k];
        trial want = trial_new(shape[1], NULL, batch_of(shape));
        trial t = trial_new(shape[1], NULL, batch_of(shape));
        trial_add_weights(&t);
        trial_add_positions(&t);
        trial_add_positions(&want);
        for (size_t j = 0; j < shape[0] * shape[2]; j++) {
            want.position_weight[j] *= t.sample_weight[j / shape[2]];
        }
        trial_run(&want);
        trial_run(&t);
        trial_check_same(&t, &want);
        trial_free(&want);
        trial_free(&t);
    }
}

/* Inference looks at the weights where it has no running values. */
static void weights_count_where_nothing_is_tracked(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.track_running = false;
    for (int positions = 0; positions < 2; positions++) {
        trial t = trial_new(4, &options, (bn_batch){.n = 9, .spatial = 2});
        trial_add_weights(&t);
        if (positions) {
            trial_add_positions(&t);
        }
        trial_check(&t);
        trial_check_infer(&t);
        trial_free(&t);
    }
}

/* ---- Residuals ------------------------------------------------------------------------------- */

/* dresidual is g: dy itself without an activation, and then dy where act' is 1. */
static void dresidual_is_dy_behind_the_activation(void **state) {
    (void)state;
    for (unsigned what = 0; what < 3 * COMBINATIONS; what += RELU) {
        const unsigned act = what % COMBINATIONS;
        const bn_dtype dtype = (bn_dtype)(what / COMBINATIONS);
        trial t = combination_of(RESIDUAL | SPATIAL | act, dtype);
        const bool leaky = act / RELU == BN_ACTIVATION_LEAKY_RELU;
        const float most = act / RELU == BN_ACTIVATION_CLIP ? 0.5f : INFINITY;
        size_t off = 0;
        trial_run(&t);
        for (size_t k = 0; k < t.y_count; k++) {
            bool on = act == 0 || (t.y[k] > 0 && t.y[k] < most);
            const float sloped = leaky ? 0.1f * t.dy[k] : 0.0f;
            off += !on;
            assert_true(t.dresidual[k] ==
                        (on ? t.dy[k] : (float)ref_rounded(dtype, (double)sloped)));
        }
        assert_true(act != 0 ? off > 0 && off < t.y_count : off == 0);
        trial_free(&t);
    }
}

static void dresidual_may_be_dy(void **state) {
    (void)state;
    for (unsigned what = RESIDUAL; what < 3 * COMBINATIONS; what = (what + 1) | RESIDUAL) {
        const bn_dtype dtype = (bn_dtype)(what / COMBINATIONS);
        trial apart = combination_of(what % COMBINATIONS, dtype);
        trial t = combination_of(what % COMBINATIONS, dtype);
        trial_run(&apart);
        t.batch.dresidual = t.dy;
        trial_run(&t);
        for (size_t i = 0; i < t.batch.n; i++) {
            size_t row = t.layer.num_features * t.batch.spatial;
            size_t at = i * ref_y_stride(&t.batch, t.layer.num_features);
            assert_same_bits(&t.dy[at], &apart.dresidual[at], row);
        }
        memcpy(t.dresidual, apart.dresidual, t.y_count * sizeof(float)); /* not given this time */
        trial_check_same(&t, &apart);
        trial_free(&apart);
        trial_free(&t);
    }
}

static void dresidual_may_be_left_out(void **state) {
    (void)state;
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        trial with = combination_of(RESIDUAL | RELU, dtype);
        trial t = combination_of(RESIDUAL | RELU, dtype);
        trial_run(&with);
        t.batch.dresidual = NULL;
        trial_run(&t);
        assert_pattern(trial_at(&t, t.dresidual), t.y_count * trial_width(&t));
        assert_same_bits(t.dx, with.dx, t.x_count);
        assert_same_bits(t.layer.dgamma, with.layer.dgamma, t.layer.num_features);
        trial_free(&with);
        trial_free(&t);
    }
}

static void without_an_activation_backward_needs_no_y(void **state) {
    (void)state;
    trial with = combination(RESIDUAL), t = combination(RESIDUAL);
    trial_run(&with);
    t.batch.y = NULL;
    trial_run(&t);
    trial_check_same(&t, &with);
    trial_free(&with);
    trial_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_combination_is_right),
        cmocka_unit_test(halves_are_floats_rounded_once),
        cmocka_unit_test(halves_of_any_size_are_right),
        cmocka_unit_test(a_nan_is_a_half_s_nan),
        cmocka_unit_test(what_rounds_to_max_is_clipped),
        cmocka_unit_test(strides_of_any_length_are_right),
        cmocka_unit_test(layers_share_a_wide_buffer),
        cmocka_unit_test(one_position_is_as_good_as_none),
        cmocka_unit_test(short_calls_are_the_batch_calls),
        cmocka_unit_test(channels_last_is_the_same_batch),
        cmocka_unit_test(masked_samples_are_left_out),
        cmocka_unit_test(a_weight_of_two_is_a_sample_twice),
        cmocka_unit_test(weights_over_many_blocks_are_right),
        cmocka_unit_test(a_first_sample_that_hardly_counts_is_no_pivot),
        cmocka_unit_test(masked_positions_are_left_out),
        cmocka_unit_test(positions_that_weigh_the_same_weigh_as_samples),
        cmocka_unit_test(a_position_weighs_the_product),
        cmocka_unit_test(weights_count_where_nothing_is_tracked),
        cmocka_unit_test(dresidual_is_dy_behind_the_activation),
        cmocka_unit_test(dresidual_may_be_dy),
        cmocka_unit_test(dresidual_may_be_left_out),
        cmocka_unit_test(without_an_activation_backward_needs_no_y),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
