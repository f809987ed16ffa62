/*
 * What bn_layer.h promises of every call: empty batches change nothing, what is not finite stays
 * out, buffers may be shared, and the same numbers come out bit for bit however they are asked for.
 */
#include "support.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { N = 10, D = 5 };

static trial small_of(bn_dtype dtype) {
    return trial_new(D, NULL, (bn_batch){.n = N, .dtype = dtype});
}

static trial small(void) {
    return small_of(BN_DTYPE_F32);
}

enum { ACTIVATIONS = BN_ACTIVATION_CLIP + 1, DTYPES = BN_DTYPE_F16 + 1 };

/* Both ends of the clip are within the data. */
static bn_options with_activation(size_t activation) {
    bn_options options = bn_options_default();
    options.activation = (bn_activation)(activation % ACTIVATIONS);
    options.activation_slope = 0.1f;
    options.activation_max = 0.75f;
    return options;
}

/* ---- Empty batches --------------------------------------------------------------------------- */

static void an_empty_forward_changes_nothing(void **state) {
    (void)state;
    trial t = small();
    trial_run(&t);
    snapshot before = snapshot_take(&t.layer);
    fill_pattern(t.y, t.y_count * sizeof(float));
    for (int null = 0; null < 2; null++) {
        const float *x = null ? NULL : t.x;
        float *y = null ? NULL : t.y;
        for (size_t spatial = 0; spatial < 3; spatial++) {
            const bn_batch batch = {.spatial = spatial, .dtype = (bn_dtype)(spatial % DTYPES)};
            assert_ok(bn_layer_forward_batch(&t.layer, &batch, x, y));
            assert_ok(bn_layer_infer_batch(&t.layer, &batch, x, y));
        }
        assert_ok(bn_layer_forward(&t.layer, 0, x, y));
        assert_ok(bn_layer_infer(&t.layer, 0, x, y));
    }
    assert_ok(bn_layer_forward(&t.layer, 0, t.x, t.x + 1)); /* no elements, no overlap */
    snapshot_check(&before, &t.layer);
    assert_pattern(t.y, t.y_count * sizeof(float));
    snapshot_free(&before);
    trial_free(&t);
}

static void an_empty_backward_zeroes_the_gradients_alone(void **state) {
    (void)state;
    trial t = small();
    trial_run(&t);
    snapshot before = snapshot_take(&t.layer);
    fill_pattern(t.dx, t.x_count * sizeof(float));
    for (int null = 0; null < 2; null++) {
        memcpy(t.layer.dgamma, before.arrays[SNAPSHOT_DGAMMA], D * sizeof(float));
        memcpy(t.layer.dbeta, before.arrays[SNAPSHOT_DBETA], D * sizeof(float));
        assert_ok(bn_layer_backward(&t.layer, 0, null ? NULL : t.x, null ? NULL : t.dy,
                                    null ? NULL : t.dx));
        const float zeros[D] = {0};
        assert_same_bits(t.layer.dgamma, zeros, D);
        assert_same_bits(t.layer.dbeta, zeros, D);
    }
    memcpy(t.layer.dgamma, before.arrays[SNAPSHOT_DGAMMA], D * sizeof(float));
    memcpy(t.layer.dbeta, before.arrays[SNAPSHOT_DBETA], D * sizeof(float));
    snapshot_check(&before, &t.layer);
    assert_pattern(t.dx, t.x_count * sizeof(float));
    snapshot_free(&before);
    trial_free(&t);
}

static void an_empty_batch_adds_nothing(void **state) {
    (void)state;
    trial t = small();
    trial_run(&t);
    snapshot before = snapshot_take(&t.layer);
    const bn_batch batch = {.accumulate_grads = true};
    assert_ok(bn_layer_backward_batch(&t.layer, &batch, NULL, NULL, NULL));
    snapshot_check(&before, &t.layer);
    snapshot_free(&before);
    trial_free(&t);
}

static void an_empty_batch_leaves_the_forward_before_it(void **state) {
    (void)state;
    trial want = small(), t = small();
    trial_run(&want);
    assert_ok(bn_layer_forward(&t.layer, N, t.x, t.y));
    assert_ok(bn_layer_forward(&t.layer, 0, NULL, NULL));
    assert_ok(bn_layer_backward(&t.layer, 0, NULL, NULL, NULL));
    assert_ok(bn_layer_backward(&t.layer, N, t.x, t.dy, t.dx));
    trial_check_same(&t, &want);
    trial_free(&want);
    trial_free(&t);
}

static void a_layer_may_begin_with_an_empty_batch(void **state) {
    (void)state;
    trial want = small(), t = small();
    assert_ok(bn_layer_backward(&t.layer, 0, NULL, NULL, NULL));
    assert_ok(bn_layer_forward(&t.layer, 0, NULL, NULL));
    trial_run(&want);
    trial_run(&t);
    trial_check_same(&t, &want);
    trial_free(&want);
    trial_free(&t);
}

/* ---- What is not finite ---------------------------------------------------------------------- */

/* Columns of got that are not `bad` are want's, bit for bit. */
static void check_other_columns(const float *got, const float *want, size_t bad) {
    for (size_t i = 0; i < N; i++) {
        assert_same_bits(&got[i * D], &want[i * D], bad);
        assert_same_bits(&got[i * D + bad + 1], &want[i * D + bad + 1], D - 1 - bad);
    }
}

static void check_other_features(const float *got, const float *want, size_t bad) {
    assert_same_bits(got, want, bad);
    assert_same_bits(got + bad + 1, want + bad + 1, D - 1 - bad);
}

/* One value of feature BAD is not finite: y and the cache of that feature are lost, those of the
 * others are right, and running values, their count and the gradients stay. */
static void what_is_not_finite_stays_out_of_the_running_values(void **state) {
    (void)state;
    enum { BAD = 2 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < DTYPES * ACTIVATIONS * COUNT_OF(bad); k++) {
        const bn_options options = with_activation(k);
        const bn_batch batch = {.n = N, .dtype = (bn_dtype)(k / ACTIVATIONS / COUNT_OF(bad))};
        trial clean = trial_new(D, &options, batch), t = trial_new(D, &options, batch);
        trial_run(&t);
        trial_run(&clean);
        snapshot before = snapshot_take(&t.layer);
        trial_run(&clean); /* the same batch, but finite */
        t.x[3 * D + BAD] = bad[k / ACTIVATIONS % COUNT_OF(bad)];
        assert_status(trial_forward(&t, t.x, t.y), BN_STATUS_NOT_FINITE);

        for (size_t array = 0; array < SNAPSHOT_MEAN; array++) {
            float *const kept[] = {t.layer.gamma, t.layer.beta,         t.layer.dgamma,
                                   t.layer.dbeta, t.layer.running_mean, t.layer.running_var};
            assert_same_bits(kept[array], before.arrays[array], D);
        }
        assert_int_equal(t.layer.num_batches_tracked, before.layer.num_batches_tracked);
        check_other_columns(t.y, clean.y, BAD);
        check_other_features(t.layer.saved_mean, clean.layer.saved_mean, BAD);
        check_other_features(t.layer.saved_invstd, clean.layer.saved_invstd, BAD);
        for (size_t i = 0; i < N; i++) {
            assert_true(isnan(t.y[i * D + BAD]));
        }
        assert_true(!isfinite(t.layer.saved_mean[BAD]));

        /* Its gradients are not finite either; dx of the other features is right. */
        assert_status(trial_backward(&t, t.x, t.dy, t.dx), BN_STATUS_NOT_FINITE);
        assert_same_bits(t.layer.dgamma, before.arrays[SNAPSHOT_DGAMMA], D);
        assert_same_bits(t.layer.dbeta, before.arrays[SNAPSHOT_DBETA], D);
        check_other_columns(t.dx, clean.dx, BAD);

        /* The next good batch finds all as if the bad one had never been. */
        memcpy(t.x, clean.x, t.x_count * sizeof(float));
        trial_run(&t);
        trial_check_same(&t, &clean);
        snapshot_free(&before);
        trial_free(&clean);
        trial_free(&t);
    }
}

/* Of finite values deviations may be such that no float holds them, and it says so whether or not
 * the running values are to take their variance. (Those of float16 may not.) */
static void deviations_beyond_float_are_not_finite(void **state) {
    (void)state;
    for (int tracked = 0; tracked < 2; tracked++) {
        for (int keep = 0; keep < 4; keep++) {
            const bool halves = keep >= 2;
            const float most = halves ? 0x1.FEp127f : FLT_MAX;
            bn_options options = bn_options_default();
            options.track_running = tracked;
            trial t = trial_new(D, &options,
                                (bn_batch){.n = N,
                                           .dtype = halves ? BN_DTYPE_BF16 : BN_DTYPE_F32,
                                           .skip_running_update = keep % 2});
            snapshot before = snapshot_take(&t.layer);
            t.x[0] = most;
            t.x[D] = -most;
            assert_status(trial_forward(&t, t.x, t.y), BN_STATUS_NOT_FINITE);
            assert_true(isfinite(t.x[0]));
            if (tracked) {
                assert_same_bits(t.layer.running_mean, before.arrays[SNAPSHOT_RUNNING_MEAN], D);
                assert_same_bits(t.layer.running_var, before.arrays[SNAPSHOT_RUNNING_VAR], D);
            } else {
                assert_status(trial_infer(&t, t.x, t.y), BN_STATUS_NOT_FINITE);
            }
            assert_int_equal(t.layer.num_batches_tracked, 0);
            snapshot_free(&before);
            trial_free(&t);
        }
    }
}

/* Only what is stored must be finite: a variance is not, unless it is to become a running one. */
static void a_variance_that_is_not_stored_may_exceed_float(void **state) {
    (void)state;
    static const float sizes[] = {1e25f, 1e37f};
    bn_options options = bn_options_default();
    for (size_t k = 0; k < 2 * COUNT_OF(sizes); k++) {
        const float size = sizes[k / 2], x[] = {-size, size}, dy[] = {1, 0};
        const bn_batch batch = {.n = 2, .skip_running_update = true};
        float y[2] = {0}, dx[2];
        bn_layer layer;
        options.track_running = k % 2;
        assert_ok(bn_layer_init(&layer, 1, &options));
        assert_ok(bn_layer_forward_batch(&layer, &batch, x, y));
        assert_true(fabsf(y[0] + 1) < 1e-6f && fabsf(y[1] - 1) < 1e-6f);
        assert_ok(bn_layer_backward(&layer, 2, x, dy, dx));
        assert_true(fabsf(dx[0] * size) < 1e-6f && fabsf(dx[1] * size) < 1e-6f);
        if (options.track_running) {
            assert_status(bn_layer_forward(&layer, 2, x, y), BN_STATUS_NOT_FINITE);
            assert_true(layer.running_mean[0] == 0 && layer.running_var[0] == 1);
        } else {
            assert_ok(bn_layer_infer(&layer, 2, x, y));
            assert_true(fabsf(y[0] + 1) < 1e-6f && fabsf(y[1] - 1) < 1e-6f);
        }
        bn_layer_free(&layer);
    }
}

static void inference_by_a_batch_that_is_not_finite_says_so(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.track_running = false;
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        const bn_batch batch = {.n = N, .dtype = dtype};
        trial clean = trial_new(D, &options, batch), t = trial_new(D, &options, batch);
        t.x[1] = NAN;
        snapshot before = snapshot_take(&t.layer);
        assert_ok(trial_infer(&clean, clean.x, clean.y));
        assert_status(trial_infer(&t, t.x, t.y), BN_STATUS_NOT_FINITE);
        snapshot_check(&before, &t.layer);
        check_other_columns(t.y, clean.y, 1);
        snapshot_free(&before);
        trial_free(&clean);
        trial_free(&t);
    }
}

/* With constant statistics a NaN is that element's own matter. */
static void constant_statistics_keep_a_nan_where_it_is(void **state) {
    (void)state;
    for (size_t call = 0; call < 2 * DTYPES * ACTIVATIONS; call++) {
        const bn_options options = with_activation(call);
        const bn_batch batch = {.n = N, .dtype = (bn_dtype)(call / ACTIVATIONS % DTYPES)};
        trial clean = trial_new(D, &options, batch), t = trial_new(D, &options, batch);
        t.x[7] = NAN;
        clean.layer.frozen = t.layer.frozen = true;
        if (call < DTYPES * ACTIVATIONS) {
            assert_ok(trial_infer(&clean, clean.x, clean.y));
            assert_ok(trial_infer(&t, t.x, t.y));
        } else {
            assert_ok(trial_forward(&clean, clean.x, clean.y));
            assert_ok(trial_forward(&t, t.x, t.y));
        }
        assert_true(isnan(t.y[7]));
        t.y[7] = clean.y[7];
        assert_same_bits(t.y, clean.y, t.y_count);
        trial_free(&clean);
        trial_free(&t);
    }
}

static void gradients_that_are_not_finite_are_kept_out(void **state) {
    (void)state;
    enum { BAD = 3 };
    static const float bad[] = {NAN, INFINITY, FLT_MAX};
    for (size_t k = 0; k < DTYPES * COUNT_OF(bad); k++) {
        const bn_dtype dtype = (bn_dtype)(k / COUNT_OF(bad));
        trial clean = small_of(dtype), t = small_of(dtype);
        trial_run(&clean);
        trial_run(&t);
        snapshot before = snapshot_take(&t.layer);
        t.dy[BAD] = t.dy[D + BAD] = bad[k % COUNT_OF(bad)]; /* two of FLT_MAX are beyond float */
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            t.batch.accumulate_grads = accumulate;
            fill_pattern(trial_at(&t, t.dx), t.x_count * trial_width(&t));
            assert_status(trial_backward(&t, t.x, t.dy, t.dx), BN_STATUS_NOT_FINITE);
            snapshot_check(&before, &t.layer);
            check_other_columns(t.dx, clean.dx, BAD);
        }
        snapshot_free(&before);
        trial_free(&clean);
        trial_free(&t);
    }
}

/* Both summands are finite, their sum is not. */
static void accumulated_gradients_stay_within_float(void **state) {
    (void)state;
    trial t = small();
    trial_run(&t);
    for (size_t i = 0; i < N; i++) {
        t.dy[i * D + 1] = FLT_MAX / (2 * N);
    }
    for (size_t d = 0; d < D; d++) {
        t.layer.dbeta[d] = FLT_MAX;
    }
    snapshot before = snapshot_take(&t.layer);
    t.batch.accumulate_grads = true;
    assert_status(bn_layer_backward_batch(&t.layer, &t.batch, t.x, t.dy, t.dx),
                  BN_STATUS_NOT_FINITE);
    snapshot_check(&before, &t.layer);
    t.batch.accumulate_grads = false;
    assert_ok(bn_layer_backward_batch(&t.layer, &t.batch, t.x, t.dy, t.dx));
    snapshot_free(&before);
    trial_free(&t);
}

/* Whatever x is where the weight is 0: the statistics are those of the others. */
static void a_masked_sample_may_be_nan(void **state) {
    (void)state;
    static const size_t shapes[][3] = {
        {10, 5, 1}, {10, 5, 6}, {3, 2, 600}, {300, 3, 1}, {9, 70, 3}};
    for (size_t k = 0; k < DTYPES * COUNT_OF(shapes); k++) {
        const size_t *shape = shapes[k / DTYPES];
        const bn_batch batch = {
            .n = shape[0], .spatial = shape[2], .dtype = (bn_dtype)(k % DTYPES)};
        const size_t row = shape[1] * shape[2];
        trial clean = trial_new(shape[1], NULL, batch), t = trial_new(shape[1], NULL, batch);
        trial_add_weights(&clean);
        trial_add_weights(&t);
        assert_true(t.sample_weight[1] == 0);
        for (size_t j = 0; j < row; j++) {
            t.x[row + j] = j % 2 ? NAN : INFINITY;
            t.dy[row + j] = clean.dy[row + j] = 0; /* no loss looks at the row */
        }
        trial_run(&clean);
        trial_run(&t);
        assert_same_bits(t.y, clean.y, row);
        assert_same_bits(t.y + 2 * row, clean.y + 2 * row, t.y_count - 2 * row);
        memcpy(t.y, clean.y, t.y_count * sizeof(float)); /* the masked row alone was another */
        trial_check_same(&t, &clean);
        trial_free(&clean);
        trial_free(&t);
    }
}

/* The same of positions, in any part of a vector, and where float sums do not hold. */
static void check_masked_positions(bn_dtype dtype) {
    static const size_t shapes[][3] = {{10, 5, 1},  {10, 5, 6}, {3, 2, 600}, {300, 3, 2},
                                       {9, 70, 30}, {1, 3, 5},  {2, 1, 9000}};
    for (size_t k = 0; k < 8 * COUNT_OF(shapes); k++) {
        const size_t *shape = shapes[k / 8], spatial = shape[2], row = shape[1] * spatial;
        const bool huge = k % 8 >= 4 && dtype != BN_DTYPE_F16;
        bn_options options = with_activation(k % 2 ? k / 2 : 0);
        options.track_running = !huge;
        const bn_batch batch = {.n = shape[0], .spatial = spatial, .dtype = dtype};
        trial clean = trial_new(shape[1], &options, batch),
              t = trial_new(shape[1], &options, batch);
        trial_add_positions(&clean);
        trial_add_positions(&t);
        if (k % 4 >= 2) {
            trial_add_weights(&clean);
            trial_add_weights(&t);
        }
        size_t left_out = 0;
        for (size_t j = 0; j < shape[0] * row; j++) {
            t.x[j] = clean.x[j] *= huge ? 1e25f : 1;
            t.dy[j] = clean.dy[j] *= huge ? 1e20f : 1;
            if (ref_weight(&t.batch, j / row, j % spatial) == 0) {
                t.x[j] = j % 3 == 0 ? NAN : j % 3 == 1 ? INFINITY : -INFINITY;
                t.dy[j] = clean.dy[j] = 0; /* no loss looks at it */
                left_out++;
            }
        }
        assert_true(left_out > 0);
        trial_run(&clean);
        trial_run(&t);
        for (size_t j = 0; j < shape[0] * row; j++) {
            if (ref_weight(&t.batch, j / row, j % spatial) == 0) {
                t.y[j] = clean.y[j];
            }
        }
        trial_check_same(&t, &clean);
        trial_free(&clean);
        trial_free(&t);
    }
}

static void a_masked_position_may_be_nan(void **state) {
    (void)state;
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        check_masked_positions(dtype);
    }
}

/* dgamma would be NaN, but there is none; dbeta is finite. */
static void a_gradient_that_is_not_learned_cannot_fail(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.scale = false;
    bn_layer layer;
    float x[2] = {NAN, 1}, dy[2] = {1, 1}, y[2], dx[2];
    assert_ok(bn_layer_init(&layer, 1, &options));
    layer.frozen = true;
    assert_ok(bn_layer_forward(&layer, 2, x, y));
    assert_ok(bn_layer_backward(&layer, 2, x, dy, dx));
    assert_true(layer.dbeta[0] == 2);
    bn_layer_free(&layer);
}

static void an_empty_batch_may_have_a_dresidual(void **state) {
    (void)state;
    trial t = small();
    float dresidual = 7;
    const bn_batch batch = {.dresidual = &dresidual};
    assert_ok(bn_layer_backward_batch(&t.layer, &batch, NULL, NULL, NULL));
    assert_true(dresidual == 7);
    trial_free(&t);
}

/* ---- Buffers that are the same --------------------------------------------------------------- */

typedef struct sharing {
    bool y_is_x, dx_is_dy, dx_is_x;
} sharing;

/* A run whose outputs are inputs, as that of buffers apart. x is put back between forward and
 * backward where y took its place. */
static void check_sharing(bn_batch batch, const bn_options *options, sharing share) {
    trial apart = trial_new(D, options, batch), t = trial_new(D, options, batch);
    trial_run(&apart);

    float *y = share.y_is_x ? t.x : t.y;
    float *dx = share.dx_is_dy ? t.dy : share.dx_is_x ? t.x : t.dx;
    assert_ok(trial_forward(&t, t.x, y));
    if (share.y_is_x) {
        memcpy(t.y, t.x, t.y_count * sizeof(float));
        memcpy(t.x, apart.x, t.x_count * sizeof(float));
    }
    assert_ok(trial_backward(&t, t.x, t.dy, dx));
    if (dx != t.dx) {
        memcpy(t.dx, dx, t.x_count * sizeof(float));
    }

    /* Between rows an input's buffer holds other values than an output's. */
    const size_t row = D * ref_spatial(&batch), stride = ref_x_stride(&batch, D);
    for (size_t i = 0; i < batch.n; i++) {
        assert_same_bits(&t.y[i * stride], &apart.y[i * stride], row);
        assert_same_bits(&t.dx[i * stride], &apart.dx[i * stride], row);
    }
    memcpy(t.y, apart.y, t.y_count * sizeof(float));
    memcpy(t.dx, apart.dx, t.x_count * sizeof(float));
    trial_check_same(&t, &apart);
    trial_free(&apart);
    trial_free(&t);
}

static void outputs_may_be_inputs(void **state) {
    (void)state;
    static const sharing shares[] = {{.y_is_x = true},
                                     {.dx_is_dy = true},
                                     {.dx_is_x = true},
                                     {.y_is_x = true, .dx_is_dy = true},
                                     {.y_is_x = true, .dx_is_x = true}};
    static const bn_batch batches[] = {
        {.n = 37},
        {.n = 600},
        {.n = 11, .x_stride = 8, .y_stride = 8},
        {.n = 7, .spatial = 9},
        {.n = 3, .spatial = 300},
        {.n = 3, .spatial = 300, .x_stride = 1507, .y_stride = 1507}};
    for (size_t k = 0; k < COUNT_OF(shares); k++) {
        for (size_t m = 0; m < DTYPES * ACTIVATIONS * COUNT_OF(batches); m++) {
            const bn_options options = with_activation(m);
            bn_batch batch = batches[m / ACTIVATIONS / DTYPES];
            batch.dtype = (bn_dtype)(m / ACTIVATIONS % DTYPES);
            check_sharing(batch, &options, shares[k]);
        }
    }
}

static void inputs_may_be_the_same(void **state) {
    (void)state;
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        trial apart = small_of(dtype), t = small_of(dtype);
        memcpy(apart.dy, apart.x, apart.x_count * sizeof(float));
        trial_run(&apart);
        assert_ok(trial_forward(&t, t.x, t.y));
        assert_ok(trial_backward(&t, t.x, t.x, t.dx));
        trial_check_same(&t, &apart);
        trial_free(&apart);
        trial_free(&t);
    }
}

/* ---- Gradients and running values on demand -------------------------------------------------- */

static void backward_twice_is_backward_once(void **state) {
    (void)state;
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        trial once = small_of(dtype), t = small_of(dtype);
        trial_run(&once);
        trial_run(&t);
        assert_ok(trial_backward(&t, t.x, t.dy, t.dx));
        trial_check_same(&t, &once);
        trial_free(&once);
        trial_free(&t);
    }
}

/* sum = old + gradient, each of which is rounded to float at most once more than here. */
static void check_sum(const float *sum, float old, const float *gradient) {
    for (size_t d = 0; d < D; d++) {
        double want = (double)old + (double)gradient[d];
        double scale = fmax(fabs((double)old), fmax(fabs((double)gradient[d]), fabs(want)));
        assert_within(ref_units((double)sum[d], want, scale), 2);
    }
}

static void accumulated_gradients_add_up(void **state) {
    (void)state;
    static const float olds[] = {0, 1, -100, 1e-6f};
    for (size_t k = 0; k < DTYPES * COUNT_OF(olds); k++) {
        const float old = olds[k / DTYPES];
        trial plain = small_of(k % DTYPES), t = small_of(k % DTYPES);
        trial_run(&plain);
        assert_ok(trial_forward(&t, t.x, t.y));
        for (size_t d = 0; d < D; d++) {
            t.layer.dgamma[d] = t.layer.dbeta[d] = old;
        }
        t.batch.accumulate_grads = true;
        assert_ok(trial_backward(&t, t.x, t.dy, t.dx));
        check_sum(t.layer.dgamma, old, plain.layer.dgamma);
        check_sum(t.layer.dbeta, old, plain.layer.dbeta);
        assert_same_bits(t.dx, plain.dx, t.x_count);
        trial_free(&plain);
        trial_free(&t);
    }
}

static void skip_running_update_keeps_the_running_values(void **state) {
    (void)state;
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        trial plain = small_of(dtype), t = small_of(dtype);
        snapshot before = snapshot_take(&t.layer);
        trial_run(&plain);
        t.batch.skip_running_update = true;
        trial_run(&t);
        assert_same_bits(t.layer.running_mean, before.arrays[SNAPSHOT_RUNNING_MEAN], D);
        assert_same_bits(t.layer.running_var, before.arrays[SNAPSHOT_RUNNING_VAR], D);
        assert_int_equal(t.layer.num_batches_tracked, 0);
        t.batch.skip_running_update = false; /* all else was as without it */
        assert_ok(trial_forward(&t, t.x, t.y));
        trial_check_same(&t, &plain);
        snapshot_free(&before);
        trial_free(&plain);
        trial_free(&t);
    }
}

/* With 16 or 32 features the layer's arrays touch: one element too many is another array's first. */
static void set_running_sets_the_running_values_alone(void **state) {
    (void)state;
    for (size_t features = 16; features <= 32; features += 16) {
        trial t = trial_new(features, NULL, (bn_batch){.n = N});
        bn_moments moments;
        trial_run(&t);
        snapshot before = snapshot_take(&t.layer);
        assert_ok(bn_moments_init(&moments, features));
        assert_ok(bn_moments_add(&moments, &t.batch, t.dy));
        assert_ok(bn_layer_set_running(&t.layer, &moments));
        for (size_t d = 0; d < features; d++) {
            assert_true(t.layer.running_mean[d] == (float)moments.mean[d]);
            assert_true(fabsf(t.layer.running_var[d] - (float)(moments.m2[d] / (N - 1))) < 1e-6f);
        }
        snapshot_restore_running(&before, &t.layer);
        snapshot_check(&before, &t.layer);
        bn_moments_free(&moments);
        snapshot_free(&before);
        trial_free(&t);
    }
}

/* ---- The same bits --------------------------------------------------------------------------- */

typedef struct reader {
    const trial *shared;
    unsigned char *y;
    bn_status status;
} reader;

static void *read_shared(void *argument) {
    reader *r = argument;
    const trial *t = r->shared;
    for (int k = 0; k < 20 && r->status == BN_STATUS_OK; k++) {
        memset(r->y, 0, t->y_count * trial_width(t));
        r->status = bn_layer_infer_batch(&t->layer, &t->batch, trial_at(t, t->x), r->y);
    }
    return NULL;
}

static void check_readers(const bn_options *options, bn_batch batch) {
    enum { READERS = 4 };
    trial t = trial_new(9, options, batch);
    pthread_t threads[READERS];
    reader readers[READERS];
    assert_ok(trial_infer(&t, t.x, t.y));
    for (size_t k = 0; k < READERS; k++) {
        readers[k] = (reader){&t, malloc(t.y_count * trial_width(&t)), BN_STATUS_OK};
        assert_non_null(readers[k].y);
        assert_int_equal(pthread_create(&threads[k], NULL, read_shared, &readers[k]), 0);
    }
    for (size_t k = 0; k < READERS; k++) {
        assert_int_equal(pthread_join(threads[k], NULL), 0);
        assert_ok(readers[k].status);
        assert_memory_equal(readers[k].y, trial_at(&t, t.y), t.y_count * trial_width(&t));
        free(readers[k].y);
    }
    trial_free(&t);
}

static void threads_may_infer_at_once(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        for (int tracked = 0; tracked < 2; tracked++) {
            options.track_running = tracked;
            check_readers(&options, (bn_batch){.n = 500, .dtype = dtype});
            check_readers(&options, (bn_batch){.n = 8, .spatial = 40, .dtype = dtype});
            check_readers(&options, (bn_batch){.n = 3, .spatial = 500, .dtype = dtype});
        }
    }
    for (int tracked = 0; tracked < 2; tracked++) { /* each with a team */
        options.track_running = tracked;
        check_readers(&options, (bn_batch){.n = 30000});
    }
}

/* Large enough that the work is cut into several tasks, in each of the ways that it can be. */
static const size_t large[][3] = {{3000, 70, 1}, {60000, 3, 1}, {70, 1100, 2},  {130, 1, 1100},
                                  {3, 40, 1700}, {1, 5, 60000}, {1100, 10, 20}, {90, 5000, 1},
                                  {40, 8200, 1}, {6, 1500, 40}, {1, 4200, 260}};

/* A trial of a large shape: plain, or with everything that a batch can have; frozen or not. */
static trial large_trial(size_t k, bn_dtype dtype, int num_threads, bool all, bool positions,
                         bool frozen) {
    bn_options options = with_activation(all ? 1 + k % (ACTIVATIONS - 1) : 0);
    options.num_threads = num_threads;
    trial t = trial_new(large[k][1], &options,
                        (bn_batch){.n = large[k][0], .spatial = large[k][2], .dtype = dtype});
    if (all) {
        trial_add_weights(&t);
        trial_add_residual(&t);
    }
    if (positions) {
        trial_add_positions(&t);
    }
    t.layer.frozen = frozen;
    return t;
}

/* Where dy was is then what inference makes of x. */
static void check_threads(size_t k, bn_dtype dtype, bool all, bool positions, bool frozen) {
    static const int threads[] = {2, 3, 7, 0};
    trial one = large_trial(k, dtype, 1, all, positions, frozen);
    trial_run(&one);
    assert_ok(trial_infer(&one, one.x, one.dy));
    for (size_t m = 0; m < COUNT_OF(threads); m++) {
        trial t = large_trial(k, dtype, threads[m], all, positions, frozen);
        trial_run(&t);
        trial_check_same(&t, &one);
        assert_ok(trial_infer(&t, t.x, t.dy));
        assert_same_bits(t.dy, one.dy, t.y_count);
        trial_free(&t);
    }
    trial_free(&one);
}

static void the_number_of_threads_does_not_matter(void **state) {
    (void)state;
    for (size_t k = 0; k < COUNT_OF(large); k++) {
        check_threads(k, BN_DTYPE_F32, false, false, false);
        check_threads(k, BN_DTYPE_F32, true, false, k % 2 == 1);
        check_threads(k, BN_DTYPE_F32, k % 2 == 1, true, false);
        if (k % 3 == 0) {
            check_threads(k, k % 2 ? BN_DTYPE_BF16 : BN_DTYPE_F16, k % 2 == 0, k > 5, false);
        }
    }
}

/* Without running values it forms the sums that training forms. */
static void inference_by_the_batch_is_training(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.track_running = false;
    for (size_t k = 0; k < 5 * COUNT_OF(large); k++) {
        const size_t *shape = large[k / 5];
        const bn_dtype half = k / 5 % 2 ? BN_DTYPE_BF16 : BN_DTYPE_F16;
        options.num_threads = k % 5 == 3 ? 0 : 1 + (int)(k % 3);
        trial t = trial_new(shape[1], &options,
                            (bn_batch){.n = shape[0],
                                       .spatial = shape[2],
                                       .dtype = k % 5 == 4 ? half : BN_DTYPE_F32});
        if (k % 10 < 5) {
            trial_add_weights(&t);
            trial_add_residual(&t);
        }
        if (k % 3 == 0) {
            trial_add_positions(&t);
        }
        assert_ok(trial_infer(&t, t.x, t.dy));
        assert_ok(trial_forward(&t, t.x, t.y));
        assert_same_bits(t.dy, t.y, t.y_count);
        trial_free(&t);
    }
}

/* Inference goes through a batch in other ways than training and keeps nothing, but has the bits of
 * a frozen forward. */
static void inference_is_the_frozen_forward(void **state) {
    (void)state;
    for (size_t k = 0; k < DTYPES * COUNT_OF(large); k++) {
        const size_t *shape = large[k % COUNT_OF(large)];
        bn_options options = with_activation(k);
        options.scale = k % 3 != 0;
        options.shift = k % 3 != 1;
        trial t = trial_new(shape[1], &options,
                            (bn_batch){.n = shape[0],
                                       .spatial = shape[2],
                                       .dtype = (bn_dtype)(k / COUNT_OF(large))});
        assert_ok(trial_infer(&t, t.x, t.dy));
        t.layer.frozen = true;
        assert_ok(trial_forward(&t, t.x, t.y));
        assert_same_bits(t.dy, t.y, t.y_count);
        trial_free(&t);
    }
}

/* At the mean y is beta: to its sign, and whatever the slope. */
static void check_at_the_mean(float gamma, float beta) {
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        trial t = trial_new(1, NULL, (bn_batch){.n = 1, .dtype = dtype});
        t.layer.gamma[0] = gamma;
        t.layer.beta[0] = beta;
        t.layer.running_mean[0] = t.x[0];
        assert_ok(trial_infer(&t, t.x, t.y));
        assert_same_bits(t.y, &beta, 1);
        fill_pattern(trial_at(&t, t.y), trial_width(&t));
        t.layer.frozen = true;
        assert_ok(trial_forward(&t, t.x, t.y));
        assert_same_bits(t.y, &beta, 1);
        trial_free(&t);
    }
}

static void running_values_give_beta_at_the_mean(void **state) {
    (void)state;
    check_at_the_mean(1.5f, 0.25f);
    check_at_the_mean(-1.0f, -0.0f);
    check_at_the_mean(0.0f, 3.0f);
}

/* How t's buffers are reached from somewhere else: its data at these bytes behind a cache line. */
typedef struct shifted {
    unsigned char *memory;
    void *data;
} shifted;

static shifted shift_to(const void *values, size_t bytes, size_t offset) {
    shifted s = {.memory = malloc(bytes + 2 * 64)};
    assert_non_null(s.memory);
    s.data = s.memory + (64 - (uintptr_t)s.memory % 64) + offset;
    memcpy(s.data, values, bytes);
    return s;
}

static void shift_back(shifted *s, void *values, size_t bytes) {
    memcpy(values, s->data, bytes);
    free(s->memory);
}

/* x, y, dy and dx lie at offsets that differ, so that no two are alike modulo 64, and the weights of
 * positions anywhere. Pointers that are no element's are only ever void's. */
static void check_alignment(const trial *want, size_t offset, size_t step) {
    trial t = trial_new(want->layer.num_features, &want->layer.options, want->batch);
    void *const at[] = {trial_at(&t, t.x), trial_at(&t, t.y), trial_at(&t, t.dy),
                        trial_at(&t, t.dx)};
    const size_t x_bytes = t.x_count * trial_width(&t), y_bytes = t.y_count * trial_width(&t);
    shifted weight = {NULL, NULL};
    if (want->position_weight) {
        weight = shift_to(want->position_weight, t.batch.n * t.batch.spatial * sizeof(float),
                          (offset + 21) % 64);
        t.batch.position_weight = weight.data;
    }
    shifted x = shift_to(at[0], x_bytes, offset % 64);
    shifted y = shift_to(at[1], y_bytes, (offset + step) % 64);
    shifted dy = shift_to(at[2], y_bytes, (offset + 2 * step) % 64);
    shifted dx = shift_to(at[3], x_bytes, (offset + 5 * step) % 64);
    assert_ok(bn_layer_forward_batch(&t.layer, &t.batch, x.data, y.data));
    assert_ok(bn_layer_backward_batch(&t.layer, &t.batch, x.data, dy.data, dx.data));
    free(weight.memory);
    shift_back(&x, at[0], x_bytes);
    shift_back(&y, at[1], y_bytes);
    shift_back(&dy, at[2], y_bytes);
    shift_back(&dx, at[3], x_bytes);
    trial_unpack(&t);
    trial_check_same(&t, want);
    trial_free(&t);
}

static void alignment_does_not_matter(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{20, 33, 1}, {40, 3, 1}, {3, 5, 27}, {2, 3, 300}};
    static const size_t odd[] = {1, 2, 3, 31, 62, 63};
    for (size_t k = 0; k < 2 * DTYPES * COUNT_OF(shapes); k++) {
        const size_t *shape = shapes[k / 2 % COUNT_OF(shapes)];
        const bn_options options = with_activation(k / 2);
        trial want = trial_new(shape[1], &options,
                               (bn_batch){.n = shape[0],
                                          .spatial = shape[2],
                                          .dtype = (bn_dtype)(k / 2 / COUNT_OF(shapes))});
        if (k % 2) {
            trial_add_positions(&want);
        }
        trial_run(&want);
        for (size_t offset = 0; offset < 64; offset += trial_width(&want)) {
            check_alignment(&want, offset, 0);
            check_alignment(&want, offset, 12);
        }
        for (size_t m = 0; m < COUNT_OF(odd); m++) {
            check_alignment(&want, odd[m], 0);
            check_alignment(&want, odd[m], 7);
        }
        trial_free(&want);
    }
}

/* Floats in [-2, 3); or halves of either sign in [0.5, 2), made as bits, which takes less time. */
static unsigned char *large_input(ref_random *random, bn_dtype dtype, size_t count) {
    float *values = ref_floats(count);
    unsigned char *bytes = (unsigned char *)values;
    if (dtype == BN_DTYPE_F32) {
        ref_fill_uniform(random, values, count, -2, 3);
        return bytes;
    }
    const uint64_t all = UINT64_C(0x0001000100010001);
    const uint64_t sign_and_stored = all * (dtype == BN_DTYPE_BF16 ? 0x80FF : 0x87FF);
    const uint64_t half = all * ref_half(dtype, 0.5);
    for (size_t at = 0; at < count * sizeof(uint16_t); at += sizeof half) { /* there is room */
        const uint64_t four = (ref_bits(random) & sign_and_stored) ^ half;
        memcpy(bytes + at, &four, sizeof four);
    }
    return bytes;
}

/* A frozen layer treats each sample by itself, so that a batch as a whole and in pieces must come
 * out the same. The whole is 8.6 million elements, which the library writes past the caches and
 * reads ahead of itself; the pieces are too small for either. */
static void check_large_of(bn_dtype dtype, size_t features, size_t spatial, size_t n,
                           size_t offset) {
    const size_t row = features * spatial, count = n * row, piece = n / 64;
    const size_t width = dtype == BN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    bn_layer layer;
    ref_random random = {1};
    unsigned char *x = large_input(&random, dtype, count), *dy = large_input(&random, dtype, count);
    const bool half = dtype != BN_DTYPE_F32;
    unsigned char *whole = malloc((count + offset) * width + 1), *part = malloc(count * width);
    assert_true(whole != NULL && part != NULL);
    assert_ok(bn_layer_init(&layer, features, NULL));
    ref_fill_layer(&random, &layer);
    layer.frozen = true;
    for (int backward = 0; backward < 2; backward++) {
        const bool odd = half && backward == (int)(offset % 2);
        unsigned char *out = whole + offset * width + odd;
        const bn_batch batch = {.n = n, .spatial = spatial, .dtype = dtype};
        assert_ok(backward ? bn_layer_backward_batch(&layer, &batch, x, dy, out)
                           : bn_layer_forward_batch(&layer, &batch, x, out));
        for (size_t i = 0; i < n; i += piece) {
            const size_t at = i * row * width;
            bn_batch some = batch;
            some.n = n - i < piece ? n - i : piece;
            assert_ok(bn_layer_forward_batch(&layer, &some, x + at, part + at));
            if (backward) {
                assert_ok(bn_layer_backward_batch(&layer, &some, x + at, dy + at, part + at));
            }
        }
        assert_true(memcmp(out, part, count * width) == 0);
        assert_ok(bn_layer_forward_batch(&layer, &batch, x, part)); /* for backward */
    }
    bn_layer_free(&layer);
    free(x);
    free(dy);
    free(whole);
    free(part);
}

/* Of floats, and of one of the half types. */
static void check_large(size_t features, size_t spatial, size_t n, size_t offset) {
    check_large_of(BN_DTYPE_F32, features, spatial, n, offset);
    check_large_of(n % 8 < 4 ? BN_DTYPE_BF16 : BN_DTYPE_F16, features, spatial, n, offset);
}

static void large_batches_have_the_bits_of_small_ones(void **state) {
    (void)state;
    check_large(64, 1, 134400, 0);
    check_large(64, 1, 134400, 1); /* outputs at no multiple of 16 bytes */
    check_large(257, 1, 33600, 4); /* nor rows */
    check_large(10, 1, 860000, 4);
    check_large(300, 1, 28100, 3); /* rows that share lines: folded wide, the last not full */
    check_large(1001, 1, 8500, 5); /* and too wide for it */
    check_large(1030, 1, 8350, 4);
    check_large(64, 784, 172, 4);
    check_large(17, 289, 1750, 4); /* planes at no multiple of 16 bytes */
    check_large(3, 3136, 920, 4);
    check_large(5, 1225, 1400, 7); /* planes that share lines */
    check_large(1, 16390, 520, 1); /* in several sheets each, the last shorter than a line */
    check_large(40, 49, 4400, 4);
}

static bool repeats(const float *values, size_t times, const float *of, size_t count) {
    bool all = true;
    for (size_t k = 0; k < times; k++) {
        for (size_t i = 0; i < count; i++) {
            all = all && fabsf(values[k * count + i] - of[i]) < 1e-5f;
        }
    }
    return all;
}

/* The same rows again and again have the statistics and mean gradients of one set of them, and the
 * same y and dx but for the last bits of these: n is so large that narrow rows are folded into as
 * wide ones as there are. */
static void check_repeated(size_t features, size_t period, size_t times) {
    trial one = trial_new(features, NULL, (bn_batch){.n = period});
    const size_t some = period * features, count = some * times;
    float *x = ref_floats(count), *dy = ref_floats(count), *out = ref_floats(count);
    for (size_t k = 0; k < times; k++) {
        memcpy(x + k * some, one.x, some * sizeof *x);
        memcpy(dy + k * some, one.dy, some * sizeof *dy);
    }
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, features, NULL));
    memcpy(layer.gamma, one.layer.gamma, features * sizeof *layer.gamma);
    memcpy(layer.beta, one.layer.beta, features * sizeof *layer.beta);
    trial_run(&one);
    assert_ok(bn_layer_forward(&layer, period * times, x, out));
    for (size_t d = 0; d < features; d++) {
        const double mean = (double)one.layer.saved_mean[d];
        const double invstd = (double)one.layer.saved_invstd[d];
        assert_true(fabs((double)layer.saved_mean[d] - mean) * invstd < 1e-6);
        assert_true(fabs((double)layer.saved_invstd[d] - invstd) < 1e-6 * invstd);
    }
    assert_true(repeats(out, times, one.y, some));
    assert_ok(bn_layer_backward(&layer, period * times, x, dy, out));
    for (size_t d = 0; d < features; d++) {
        const double dgamma = (double)layer.dgamma[d] / (double)times;
        const double dbeta = (double)layer.dbeta[d] / (double)times;
        assert_true(fabs(dgamma - (double)one.layer.dgamma[d]) < 1e-6 * (double)period);
        assert_true(fabs(dbeta - (double)one.layer.dbeta[d]) < 1e-6 * (double)period);
    }
    assert_true(repeats(out, times, one.dx, some));
    bn_layer_free(&layer);
    trial_free(&one);
    free(x);
    free(dy);
    free(out);
}

static void the_largest_batches_have_the_statistics_of_their_parts(void **state) {
    (void)state;
    check_repeated(40, 29, 14500);
}

/* A layer that has seen other shapes, a NaN and inference, its state then set to a new layer's. */
static void what_ran_before_does_not_matter(void **state) {
    (void)state;
    enum { FEATURES = 19 };
    trial fresh = trial_new(FEATURES, NULL, (bn_batch){.n = 23});
    trial t = trial_new(FEATURES, NULL, (bn_batch){.n = 23});
    snapshot at_first = snapshot_take(&t.layer);

    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        const bn_batch batch = {.n = 9, .spatial = 310, .x_stride = 6000, .dtype = dtype};
        trial other = trial_new(FEATURES, NULL, batch);
        bn_layer own = other.layer;
        trial_add_residual(&other);
        other.layer = t.layer;
        trial_run(&other);
        assert_ok(trial_infer(&other, other.x, other.y));
        other.x[0] = NAN;
        assert_status(trial_forward(&other, other.x, other.y), BN_STATUS_NOT_FINITE);
        t.layer = other.layer;
        other.layer = own;
        trial_free(&other);
    }
    memcpy(t.layer.running_mean, at_first.arrays[SNAPSHOT_RUNNING_MEAN], FEATURES * sizeof(float));
    memcpy(t.layer.running_var, at_first.arrays[SNAPSHOT_RUNNING_VAR], FEATURES * sizeof(float));
    t.layer.num_batches_tracked = 0;

    trial_run(&fresh);
    trial_run(&t);
    trial_check_same(&t, &fresh);
    snapshot_free(&at_first);
    trial_free(&fresh);
    trial_free(&t);
}

/* ---- The life of a layer --------------------------------------------------------------------- */

/* t with its layer replaced by one in the caller's memory, of the same parameters. */
static void replace_layer(trial *t, void *memory, size_t bytes) {
    bn_layer layer;
    ref_random random = {1};
    assert_ok(init_in_block(&layer, t->layer.num_features, &t->layer.options, memory, bytes));
    ref_fill_layer(&random, &layer);
    bn_layer_free(&t->layer);
    t->layer = layer;
}

static void a_layer_lives_in_memory_of_any_alignment(void **state) {
    (void)state;
    enum { GUARD = 128 };
    const size_t bytes = bn_layer_bytes(D, NULL, NULL);
    assert_true(bytes > 0);
    unsigned char *memory = malloc(GUARD + 64 + bytes + GUARD);
    assert_non_null(memory);
    unsigned char *line = memory + GUARD - (uintptr_t)memory % 64;
    trial want = small();
    trial_run(&want);
    for (size_t offset = 0; offset < 64; offset++) {
        trial t = small();
        fill_pattern(memory, GUARD + 64 + bytes + GUARD);
        replace_layer(&t, line + offset, bytes);
        trial_run(&t);
        trial_check_same(&t, &want);
        bn_layer_free(&t.layer);
        unsigned char *end = line + offset + bytes;
        assert_pattern(memory, (size_t)(line + offset - memory));
        assert_pattern(end, (size_t)(memory + GUARD + 64 + bytes + GUARD - end));
        trial_free(&t);
    }
    trial_free(&want);
    free(memory);
}

static void a_layer_may_be_moved(void **state) {
    (void)state;
    trial want = small(), t = small();
    trial_run(&want);
    assert_ok(bn_layer_forward(&t.layer, N, t.x, t.y));
    bn_layer moved;
    memcpy(&moved, &t.layer, sizeof moved);
    fill_pattern(&t.layer, sizeof t.layer);
    assert_ok(bn_layer_backward(&moved, N, t.x, t.dy, t.dx));
    memcpy(&t.layer, &moved, sizeof moved);
    trial_check_same(&t, &want);
    trial_free(&want);
    trial_free(&t);
}

static void free_may_be_called_at_any_time(void **state) {
    (void)state;
    bn_layer layer;
    bn_moments moments;
    const unsigned char zeros[sizeof(bn_layer)] = {0};
    bn_layer_free(NULL);
    bn_moments_free(NULL);
    memset(&layer, 0, sizeof layer);
    memset(&moments, 0, sizeof moments);
    bn_layer_free(&layer);
    bn_moments_free(&moments);
    assert_ok(bn_layer_init(&layer, D, NULL));
    assert_ok(bn_moments_init(&moments, D));
    for (int time = 0; time < 2; time++) {
        bn_layer_free(&layer);
        bn_moments_free(&moments);
        assert_memory_equal(&layer, zeros, sizeof layer);
        assert_memory_equal(&moments, zeros, sizeof moments);
    }
    assert_ok(bn_layer_init(&layer, D, NULL)); /* and it may live again */
    bn_layer_free(&layer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_forward_changes_nothing),
        cmocka_unit_test(an_empty_backward_zeroes_the_gradients_alone),
        cmocka_unit_test(an_empty_batch_adds_nothing),
        cmocka_unit_test(an_empty_batch_leaves_the_forward_before_it),
        cmocka_unit_test(a_layer_may_begin_with_an_empty_batch),
        cmocka_unit_test(what_is_not_finite_stays_out_of_the_running_values),
        cmocka_unit_test(deviations_beyond_float_are_not_finite),
        cmocka_unit_test(a_variance_that_is_not_stored_may_exceed_float),
        cmocka_unit_test(inference_by_a_batch_that_is_not_finite_says_so),
        cmocka_unit_test(constant_statistics_keep_a_nan_where_it_is),
        cmocka_unit_test(gradients_that_are_not_finite_are_kept_out),
        cmocka_unit_test(accumulated_gradients_stay_within_float),
        cmocka_unit_test(a_masked_sample_may_be_nan),
        cmocka_unit_test(a_masked_position_may_be_nan),
        cmocka_unit_test(outputs_may_be_inputs),
        cmocka_unit_test(inputs_may_be_the_same),
        cmocka_unit_test(backward_twice_is_backward_once),
        cmocka_unit_test(accumulated_gradients_add_up),
        cmocka_unit_test(skip_running_update_keeps_the_running_values),
        cmocka_unit_test(set_running_sets_the_running_values_alone),
        cmocka_unit_test(threads_may_infer_at_once),
        cmocka_unit_test(the_number_of_threads_does_not_matter),
        cmocka_unit_test(inference_by_the_batch_is_training),
        cmocka_unit_test(inference_is_the_frozen_forward),
        cmocka_unit_test(running_values_give_beta_at_the_mean),
        cmocka_unit_test(a_gradient_that_is_not_learned_cannot_fail),
        cmocka_unit_test(an_empty_batch_may_have_a_dresidual),
        cmocka_unit_test(large_batches_have_the_bits_of_small_ones),
        cmocka_unit_test(the_largest_batches_have_the_statistics_of_their_parts),
        cmocka_unit_test(alignment_does_not_matter),
        cmocka_unit_test(what_ran_before_does_not_matter),
        cmocka_unit_test(a_layer_lives_in_memory_of_any_alignment),
        cmocka_unit_test(a_layer_may_be_moved),
        cmocka_unit_test(free_may_be_called_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
