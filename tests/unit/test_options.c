/*
 * Every option of a layer does what bn_options says, at init and, where it may be changed, between
 * calls; inference folds away; names are what they should be.
 */
#define _POSIX_C_SOURCE 200809L /* setenv */
#include "support.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 12, D = 7 };

static trial small(const bn_options *options) {
    return trial_new(D, options, (bn_batch){.n = N});
}

static void assert_all(const float *values, float expected) {
    for (size_t d = 0; d < D; d++) {
        assert_true(values[d] == expected);
    }
}

/* ---- At init --------------------------------------------------------------------------------- */

static void defaults_are_those_of_the_header(void **state) {
    (void)state;
    const bn_options options = bn_options_default();
    assert_true(options.eps == 1e-5f);
    assert_true(options.momentum == 0.9f);
    assert_true(options.gamma_init == 1.0f);
    assert_true(options.beta_init == 0.0f);
    assert_true(options.scale);
    assert_true(options.shift);
    assert_true(options.track_running);
    assert_false(options.biased_running_var);
    assert_int_equal(options.activation, BN_ACTIVATION_NONE);
    assert_int_equal(options.num_threads, 0);
    assert_true(options.activation_slope == 0.01f);
    assert_true(options.activation_max == 6.0f);
}

static void no_options_are_the_defaults(void **state) {
    (void)state;
    const bn_options defaults = bn_options_default();
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, D, NULL));
    assert_int_equal(layer.num_features, D);
    assert_true(layer.options.eps == defaults.eps);
    assert_true(layer.options.momentum == defaults.momentum);
    assert_int_equal(layer.options.activation, defaults.activation);
    assert_false(layer.frozen);
    assert_int_equal(layer.num_batches_tracked, 0);
    assert_all(layer.gamma, 1);
    assert_all(layer.beta, 0);
    assert_all(layer.running_mean, 0);
    assert_all(layer.running_var, 1);
    assert_non_null(layer.dgamma);
    assert_non_null(layer.dbeta);
    assert_int_equal(bn_layer_bytes(D, NULL, NULL), bn_layer_bytes(D, &defaults, NULL));
    bn_layer_free(&layer);
}

static void gamma_and_beta_start_where_told(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.gamma_init = -2.5f;
    options.beta_init = 0.75f;
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, D, &options));
    assert_all(layer.gamma, -2.5f);
    assert_all(layer.beta, 0.75f);
    bn_layer_free(&layer);
}

/* Where gamma is not learned it is 1 and where beta is not learned it is 0, whatever their initial
 * values say: the reference takes them so. */
static void scale_and_shift_are_learned_apart(void **state) {
    (void)state;
    for (unsigned what = 0; what < 4; what++) {
        bn_options options = bn_options_default();
        options.scale = what & 1;
        options.shift = what & 2;
        options.gamma_init = 3;
        options.beta_init = 5;
        trial t = small(&options);
        assert_true(options.scale == (t.layer.gamma != NULL));
        assert_true(options.scale == (t.layer.dgamma != NULL));
        assert_true(options.shift == (t.layer.beta != NULL));
        assert_true(options.shift == (t.layer.dbeta != NULL));
        trial_check(&t);
        trial_check_infer(&t);
        t.layer.frozen = true;
        trial_check(&t);

        bn_param params[2];
        size_t count = bn_layer_params(&t.layer, params);
        assert_int_equal(count, (size_t)options.scale + (size_t)options.shift);
        const bn_param expected[2] = {{"weight", t.layer.gamma, t.layer.dgamma, D},
                                      {"bias", t.layer.beta, t.layer.dbeta, D}};
        for (size_t k = 0; k < count; k++) {
            const bn_param *want = &expected[options.scale ? k : 1];
            assert_string_equal(params[k].name, want->name);
            assert_ptr_equal(params[k].value, want->value);
            assert_ptr_equal(params[k].grad, want->grad);
            assert_int_equal(params[k].count, D);
        }
        trial_free(&t);
    }
}

static void params_of_nothing_are_none(void **state) {
    (void)state;
    bn_layer layer;
    bn_param params[2];
    assert_ok(bn_layer_init(&layer, D, NULL));
    assert_int_equal(bn_layer_params(NULL, params), 0);
    assert_int_equal(bn_layer_params(&layer, NULL), 0);
    bn_layer_free(&layer);
}

static void any_number_of_threads_is_taken(void **state) {
    (void)state;
    static const int threads[] = {0, 1, 2, 64};
    for (size_t k = 0; k < COUNT_OF(threads); k++) {
        bn_options options = bn_options_default();
        options.num_threads = threads[k];
        trial t = small(&options);
        trial_check(&t);
        trial_free(&t);
    }
}

static void relu_cuts_off_below_zero(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.activation = BN_ACTIVATION_RELU;
    trial t = small(&options);
    trial_check(&t);
    size_t off = 0;
    for (size_t k = 0; k < t.y_count; k++) {
        assert_true(t.y[k] >= 0);
        off += t.y[k] == 0;
    }
    assert_in_range(off, 1, t.y_count - 1);
    trial_check_infer(&t);
    trial_free(&t);
}

/* ---- Activations ---------------------------------------------------------------------------- */

static bn_options activated(bn_activation activation, float slope, float max) {
    bn_options options = bn_options_default();
    options.activation = activation;
    options.activation_slope = slope;
    options.activation_max = max;
    return options;
}

static void a_slope_may_be_anything_from_zero(void **state) {
    (void)state;
    static const float slopes[] = {0, -0.0f, 0x1p-149f, 1e-3f, 0.01f, 0.1f, 1, 3, 1e6f};
    for (size_t k = 0; k < COUNT_OF(slopes); k++) {
        const bn_options options = activated(BN_ACTIVATION_LEAKY_RELU, slopes[k], NAN);
        trial t = small(&options);
        trial_check(&t);
        trial_check_infer(&t);
        t.layer.frozen = true;
        trial_check(&t);
        trial_free(&t);
    }
}

static void clip_cuts_off_at_both_ends(void **state) {
    (void)state;
    static const float most[] = {0x1p-149f, 1e-3f, 0.5f, 1, 6, 1e30f, FLT_MAX};
    for (size_t k = 0; k < COUNT_OF(most); k++) {
        const bn_options options = activated(BN_ACTIVATION_CLIP, NAN, most[k]);
        trial t = small(&options);
        trial_check(&t);
        for (size_t m = 0; m < t.y_count; m++) {
            assert_true(t.y[m] >= 0 && t.y[m] <= most[k]);
        }
        trial_check_infer(&t);
        t.layer.frozen = true;
        trial_check(&t);
        trial_free(&t);
    }
}

/* Options that were written by hand are zero where nothing was said. */
static void what_the_activation_does_not_use_may_be_anything(void **state) {
    (void)state;
    static const float any[] = {0, -1, NAN, INFINITY};
    for (size_t k = 0; k < 2 * COUNT_OF(any); k++) {
        const bn_activation activation = k % 2 ? BN_ACTIVATION_RELU : BN_ACTIVATION_NONE;
        const bn_options usual = activated(activation, 0.01f, 6);
        const bn_options options = activated(activation, any[k / 2], any[k / 2]);
        trial want = small(&usual), t = small(&options);
        trial_run(&want);
        trial_run(&t);
        trial_check_same(&t, &want);
        trial_free(&want);
        trial_free(&t);
    }
}

/* All that forward, inference and backward give. A frozen layer has values of every sort, and dy too;
 * but Inf as z is what max cuts off. */
static void check_is_relu(const size_t shape[3], unsigned what, const bn_options *options) {
    static const float odd[] = {-0.0f, 0.0f, NAN, -NAN, 1e-45f, -1e-45f, FLT_MAX, -FLT_MAX};
    const bn_options relu = activated(BN_ACTIVATION_RELU, 0, 0);
    const bn_batch batch = {.n = shape[0], .spatial = shape[2]};
    trial both[2] = {trial_new(shape[1], &relu, batch), trial_new(shape[1], options, batch)};
    float *inferred[2];
    for (size_t m = 0; m < 2; m++) {
        trial *t = &both[m];
        if (what & 1) {
            trial_add_weights(t);
        }
        if (what & 2) {
            trial_add_residual(t);
        }
        if (what & 4) {
            t->layer.frozen = true;
            t->layer.beta[0] = -0.0f;
            t->layer.running_mean[0] = 0;
            for (size_t k = 0; k < t->x_count; k++) {
                const float special = odd[k % COUNT_OF(odd)];
                t->x[k] = k % 3 == 0 ? (isfinite(special) ? special * 0.25f : special) : t->x[k];
                t->dy[k] = k % 7 == 1 && special != 0 ? special * 0.25f : t->dy[k];
                if (t->residual != NULL && k % 3 == 0) {
                    t->residual[k] = -0.0f;
                }
            }
        }
        assert_ok(bn_layer_forward_batch(&t->layer, &t->batch, t->x, t->y));
        const bn_status status = bn_layer_backward_batch(&t->layer, &t->batch, t->x, t->dy, t->dx);
        assert_status(status, what & 4 ? BN_STATUS_NOT_FINITE : BN_STATUS_OK);
        inferred[m] = ref_floats(t->y_count);
        assert_ok(bn_layer_infer_batch(&t->layer, &t->batch, t->x, inferred[m]));
    }
    trial_check_same(&both[1], &both[0]);
    assert_same_bits(inferred[1], inferred[0], both[0].y_count);
    for (size_t m = 0; m < 2; m++) {
        trial_free(&both[m]);
        free(inferred[m]);
    }
}

static void a_slope_of_zero_and_no_limit_are_relu(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{9, 5, 1},   {7, 43, 1},  {300, 7, 1},  {3, 1030, 1},
                                       {9, 10, 30}, {5, 34, 49}, {2, 3, 1700}, {40, 600, 1}};
    const bn_options options[] = {activated(BN_ACTIVATION_LEAKY_RELU, 0, NAN),
                                  activated(BN_ACTIVATION_LEAKY_RELU, -0.0f, NAN),
                                  activated(BN_ACTIVATION_CLIP, NAN, FLT_MAX)};
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        for (unsigned what = 0; what < 8; what++) {
            for (size_t m = 0; m < COUNT_OF(options); m++) {
                check_is_relu(shapes[k], what, &options[m]);
            }
        }
    }
}

/* z is x itself: act and act' at, and next to, where they bend. */
static void check_edges(const bn_options *options, bool residual, const float *x,
                        const float *want_y, const float *want_g, size_t count) {
    trial t = trial_new(1, options, (bn_batch){.n = count});
    float sum = 0;
    if (residual) {
        trial_add_residual(&t);
    }
    t.layer.frozen = true;
    t.layer.gamma[0] = t.layer.running_var[0] = 1;
    t.layer.beta[0] = t.layer.running_mean[0] = 0;
    for (size_t k = 0; k < count; k++) {
        t.x[k] = x[k];
        t.dy[k] = 8;
        sum += want_g[k];
        if (residual) {
            t.residual[k] = 0;
        }
    }
    trial_run(&t);
    for (size_t k = 0; k < count; k++) {
        assert_true(t.y[k] == want_y[k]);
        assert_true(t.dx[k] == want_g[k]);
        assert_true(!residual || t.dresidual[k] == want_g[k]);
    }
    assert_true(t.layer.dbeta[0] == sum);
    assert_ok(bn_layer_infer_batch(&t.layer, &t.batch, t.x, t.y));
    for (size_t k = 0; k < count; k++) {
        assert_true(t.y[k] == want_y[k]);
    }
    trial_free(&t);
}

static void the_ends_belong_to_the_flat_side(void **state) {
    (void)state;
    enum { COUNT = 9 };
    static const float x[COUNT] = {-4,   -0x1p-149f,    -0.0f, 0, 0x1p-126f, 0x1.7ffffep0f,
                                   1.5f, 0x1.800002p0f, 4};
    static const float leaky_y[COUNT] = {-1,   -0.0f,         0, 0, 0x1p-126f, 0x1.7ffffep0f,
                                         1.5f, 0x1.800002p0f, 4};
    static const float leaky_g[COUNT] = {2, 2, 2, 2, 8, 8, 8, 8, 8};
    static const float clip_y[COUNT] = {0, 0, 0, 0, 0x1p-126f, 0x1.7ffffep0f, 1.5f, 1.5f, 1.5f};
    static const float clip_g[COUNT] = {0, 0, 0, 0, 8, 8, 0, 0, 0};
    bn_options leaky = activated(BN_ACTIVATION_LEAKY_RELU, 0.25f, 0);
    bn_options clip = activated(BN_ACTIVATION_CLIP, 0, 1.5f);
    leaky.eps = clip.eps = 0;
    for (int residual = 0; residual < 2; residual++) {
        check_edges(&leaky, residual, x, leaky_y, leaky_g, COUNT);
        check_edges(&clip, residual, x, clip_y, clip_g, COUNT);
    }
}

/* Sums of products that no float run holds are formed of the same g. */
static void sums_beyond_float_runs_have_the_same_ends(void **state) {
    (void)state;
    enum { COUNT = 5 };
    static const float x[COUNT] = {-2, 0, 0.5f, 1, 2}, tiny = 0x1p-120f;
    static const double leaky[COUNT] = {3, 3, 1, 1, 1}, clip[COUNT] = {0, 0, 1, 0, 0};
    bn_options options[] = {activated(BN_ACTIVATION_LEAKY_RELU, 3, 0),
                            activated(BN_ACTIVATION_CLIP, 0, 1)};
    for (size_t k = 0; k < 4; k++) {
        const double *g = k / 2 ? clip : leaky;
        options[k / 2].eps = 0;
        trial t = trial_new(1, &options[k / 2], (bn_batch){.n = COUNT});
        double dbeta = 0, dgamma = 0;
        if (k % 2) {
            trial_add_residual(&t);
        }
        t.layer.frozen = true;
        t.layer.gamma[0] = t.layer.running_var[0] = 1;
        t.layer.beta[0] = t.layer.running_mean[0] = 0;
        for (size_t i = 0; i < COUNT; i++) {
            t.x[i] = x[i];
            t.dy[i] = tiny;
            dbeta += g[i];
            dgamma += g[i] * (double)x[i];
            if (k % 2) {
                t.residual[i] = 0;
            }
        }
        trial_run(&t);
        assert_true((double)t.layer.dbeta[0] == dbeta * (double)tiny);
        assert_true((double)t.layer.dgamma[0] == dgamma * (double)tiny);
        trial_free(&t);
    }
}

/* ---- Running values -------------------------------------------------------------------------- */

static trial with_momentum(float momentum) {
    bn_options options = bn_options_default();
    options.momentum = momentum;
    return small(&options);
}

static void momentum_mixes_old_and_new(void **state) {
    (void)state;
    static const float momenta[] = {0.0f, 0.3f, 0.9f, 0.999f, 1.0f};
    for (size_t k = 0; k < COUNT_OF(momenta); k++) {
        trial t = with_momentum(momenta[k]);
        trial_check(&t);
        trial_check(&t); /* from what the first batch left */
        assert_int_equal(t.layer.num_batches_tracked, 2);
        trial_free(&t);
    }
}

static void momentum_zero_takes_the_batch(void **state) {
    (void)state;
    trial t = with_momentum(0);
    t.layer.running_mean[0] = t.layer.running_var[0] = NAN; /* no weight, no matter */
    trial_run(&t);
    assert_same_bits(t.layer.running_mean, t.layer.saved_mean, D);
    trial_free(&t);
}

static void momentum_one_keeps_the_old(void **state) {
    (void)state;
    trial t = with_momentum(1);
    snapshot before = snapshot_take(&t.layer);
    trial_run(&t);
    assert_same_bits(t.layer.running_mean, before.arrays[SNAPSHOT_RUNNING_MEAN], D);
    assert_same_bits(t.layer.running_var, before.arrays[SNAPSHOT_RUNNING_VAR], D);
    assert_int_equal(t.layer.num_batches_tracked, 1);
    snapshot_free(&before);
    trial_free(&t);
}

/* The average of the batches' own (unbiased) values, of which the running values at init are none.
 * Each of the steps rounds to float once, and an earlier step's error fades as the average moves
 * on: the sum over k steps of 1/k-weighted halves of an ulp stays below `BATCHES` units of the
 * largest value that was averaged. */
static void cumulative_momentum_is_the_plain_average(void **state) {
    (void)state;
    enum { BATCHES = 6 };
    trial t = with_momentum(BN_MOMENTUM_CUMULATIVE);
    ref_random random = {7};
    double mean[D] = {0}, var[D] = {0}, largest_mean[D] = {0}, largest_var[D] = {0};
    for (int k = 0; k < BATCHES; k++) {
        ref_fill_normal(&random, t.x, t.x_count, 0.5 * k, 1 + k);
        ref_result r = ref_forward(&t.layer, &t.batch, t.x);
        for (size_t d = 0; d < D; d++) {
            double unbiased = r.var[d] * N / (N - 1);
            mean[d] += r.mean[d] / BATCHES;
            var[d] += unbiased / BATCHES;
            largest_mean[d] = fmax(largest_mean[d], fabs(r.mean[d]));
            largest_var[d] = fmax(largest_var[d], unbiased);
        }
        ref_free(&r);
        trial_run(&t);
    }
    assert_int_equal(t.layer.num_batches_tracked, BATCHES);
    assert_within(ref_error_vector(D, t.layer.running_mean, mean, largest_mean), BATCHES);
    assert_within(ref_error_vector(D, t.layer.running_var, var, largest_var), BATCHES);
    trial_free(&t);
}

static void running_var_is_biased_where_asked(void **state) {
    (void)state;
    for (int biased = 0; biased < 2; biased++) {
        bn_options options = bn_options_default();
        options.biased_running_var = biased;
        options.momentum = 0;
        trial t = small(&options);
        trial_check(&t);
        ref_result r = ref_forward(&t.layer, &t.batch, t.x);
        for (size_t d = 0; d < D; d++) {
            double want = biased ? r.var[d] : r.var[d] * N / (N - 1);
            assert_within(ref_units((double)t.layer.running_var[d], want, want), REF_LIMIT);
        }
        ref_free(&r);
        trial_free(&t);
    }
}

static void without_running_values_inference_takes_its_batch(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.track_running = false;
    trial t = small(&options);
    assert_null(t.layer.running_mean);
    assert_null(t.layer.running_var);
    trial_check(&t);
    assert_int_equal(t.layer.num_batches_tracked, 0);
    float *trained = copy_floats(t.y, t.y_count);
    trial_check_infer(&t);
    assert_same_bits(t.y, trained, t.y_count);
    free(trained);
    trial_free(&t);
}

/* ---- Between calls --------------------------------------------------------------------------- */

static void eps_may_change_between_calls(void **state) {
    (void)state;
    static const float eps[] = {1e-5f, 0.5f, 1e-12f, 1e6f};
    trial t = small(NULL);
    for (size_t k = 0; k < COUNT_OF(eps); k++) {
        t.layer.options.eps = eps[k];
        trial_check(&t);
        trial_check_infer(&t);
    }
    trial_free(&t);
}

static void momentum_may_change_between_calls(void **state) {
    (void)state;
    static const float momenta[] = {0.9f, BN_MOMENTUM_CUMULATIVE, 0.1f, 1.0f};
    trial t = small(NULL);
    for (size_t k = 0; k < COUNT_OF(momenta); k++) {
        t.layer.options.momentum = momenta[k];
        trial_check(&t);
    }
    trial_free(&t);
}

static void frozen_may_change_between_calls(void **state) {
    (void)state;
    trial t = small(NULL);
    for (int k = 0; k < 4; k++) {
        t.layer.frozen = k % 2;
        trial_check(&t);
    }
    trial_free(&t);
}

/* Backward is that of the forward before it, whatever frozen says by then. */
static void backward_remembers_what_forward_was(void **state) {
    (void)state;
    for (int frozen = 0; frozen < 2; frozen++) {
        trial want = small(NULL), t = small(NULL);
        want.layer.frozen = t.layer.frozen = frozen;
        trial_run(&want);
        assert_ok(bn_layer_forward(&t.layer, N, t.x, t.y));
        t.layer.frozen = !frozen;
        assert_ok(bn_layer_backward(&t.layer, N, t.x, t.dy, t.dx));
        trial_check_same(&t, &want);
        trial_free(&want);
        trial_free(&t);
    }
}

static void a_frozen_layer_infers(void **state) {
    (void)state;
    trial t = small(NULL);
    t.layer.frozen = true;
    trial_run(&t);
    float *forward = copy_floats(t.y, t.y_count);
    assert_ok(bn_layer_infer(&t.layer, N, t.x, t.y));
    assert_same_bits(t.y, forward, t.y_count);
    free(forward);
    trial_free(&t);
}

/* ---- Names ----------------------------------------------------------------------------------- */

static void every_status_has_its_own_sentence(void **state) {
    (void)state;
    for (int a = BN_STATUS_OK; a <= BN_STATUS_BAD_FORMAT; a++) {
        const char *sentence = bn_status_string((bn_status)a);
        assert_non_null(sentence);
        assert_true(strlen(sentence) > 0);
        assert_ptr_equal(bn_status_string((bn_status)a), sentence);
        for (int b = BN_STATUS_OK; b < a; b++) {
            assert_string_not_equal(sentence, bn_status_string((bn_status)b));
        }
    }
}

static void a_status_that_is_none_has_a_sentence(void **state) {
    (void)state;
    static const int none[] = {BN_STATUS_BAD_FORMAT + 1, 1000, -1, INT32_MAX, INT32_MIN};
    for (size_t k = 0; k < COUNT_OF(none); k++) {
        const char *sentence = bn_status_string((bn_status)none[k]);
        assert_non_null(sentence);
        assert_true(strlen(sentence) > 0);
        for (int known = BN_STATUS_OK; known <= BN_STATUS_BAD_FORMAT; known++) {
            assert_string_not_equal(sentence, bn_status_string((bn_status)known));
        }
    }
}

static void the_version_is_the_header_s(void **state) {
    (void)state;
    char version[64];
    snprintf(version, sizeof version, "%d.%d.%d", BN_VERSION_MAJOR, BN_VERSION_MINOR,
             BN_VERSION_PATCH);
    assert_string_equal(bn_version(), version);
}

/* Of a layer that is made while BN_ISA has this value; NULL: is not set. */
static const char *isa_under(const char *value) {
    bn_layer layer;
    if (value) {
        assert_int_equal(setenv("BN_ISA", value, 1), 0);
    } else {
        assert_int_equal(unsetenv("BN_ISA"), 0);
    }
    assert_ok(bn_layer_init(&layer, D, NULL));
    const char *isa = bn_layer_isa(&layer);
    bn_layer_free(&layer);
    assert_null(bn_layer_isa(&layer));
    assert_non_null(isa);
    return isa;
}

/* Asked in another way than the library does. What is of another family, or left out, no build has. */
static bool machine_has(const char *set) {
#if defined(__x86_64__) && !defined(BN_PORTABLE)
    if (strcmp(set, "avx512") == 0) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl");
    }
    if (strcmp(set, "avx2") == 0) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    return strcmp(set, "sse2") == 0 || strcmp(set, "scalar") == 0;
#elif defined(__aarch64__) && !defined(BN_PORTABLE)
    return strcmp(set, "neon") == 0 || strcmp(set, "scalar") == 0;
#else
    return strcmp(set, "scalar") == 0;
#endif
}

static void bn_isa_names_the_instruction_set(void **state) {
    (void)state;
    static const char *const known[] = {"scalar", "sse2", "neon", "avx2", "avx512"};
    const char *was = getenv("BN_ISA");
    char *kept = was ? strdup(was) : NULL;

    const char *widest = "";
    bool was_is_known =
        kept == NULL; /* else the tests that are run with it are of no set of its own */
    for (size_t k = 0; k < COUNT_OF(known); k++) {
        if (machine_has(known[k])) {
            widest = known[k];
            assert_string_equal(isa_under(widest), widest);
        }
        was_is_known = was_is_known || strcmp(kept, known[k]) == 0;
    }
    assert_true(was_is_known);
    assert_string_equal(isa_under(NULL), widest);
    assert_string_equal(isa_under(widest), widest);
    assert_string_equal(isa_under("abacus"), widest);
    assert_string_equal(isa_under(""), widest);
    assert_string_equal(isa_under("scalarr"), widest);
    assert_null(bn_layer_isa(NULL));

    if (kept) {
        assert_int_equal(setenv("BN_ISA", kept, 1), 0);
    } else {
        assert_int_equal(unsetenv("BN_ISA"), 0);
    }
    free(kept);
}

/* A variance of 0 then has no root to divide by, and says so; what is not 0 is as ever. */
static void eps_may_be_zero(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.eps = 0;
    options.biased_running_var = true;
    options.momentum = 0;
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, 2, &options));
    float x[] = {1, 5, 3, 5}, y[4];
    assert_status(bn_layer_forward(&layer, 2, x, y), BN_STATUS_NOT_FINITE);
    assert_true(y[0] == -1 && y[2] == 1 && !isfinite(y[1]) && !isfinite(y[3]));
    assert_true(layer.running_mean[0] == 0 && layer.running_var[0] == 1);
    assert_int_equal(layer.num_batches_tracked, 0);
    x[3] = 7;
    assert_ok(bn_layer_forward(&layer, 2, x, y));
    assert_true(y[0] == -1 && y[1] == -1 && y[2] == 1 && y[3] == 1);
    assert_ok(bn_layer_infer(&layer, 2, x, y));
    assert_true(y[0] == -1 && y[1] == -1 && y[2] == 1 && y[3] == 1);
    layer.running_var[1] = 0;
    assert_ok(bn_layer_infer(&layer, 2, x, y));
    assert_true(y[0] == -1 && !isfinite(y[1]) && y[2] == 1 && !isfinite(y[3]));
    bn_layer_free(&layer);
}

/* One thread works when init saw as many as there are, or when it is told so later. */
static void fewer_threads_may_be_asked_for_later(void **state) {
    (void)state;
    trial want = trial_new(300, NULL, (bn_batch){.n = 2000});
    trial_run(&want);
    for (int threads = 1; threads <= 3; threads++) {
        for (int most = 0; most <= 3; most++) {
            bn_options options = bn_options_default();
            options.num_threads = most;
            trial t = trial_new(300, &options, (bn_batch){.n = 2000});
            t.layer.options.num_threads = threads;
            trial_run(&t);
            trial_check_same(&t, &want);
            trial_free(&t);
        }
    }
    want.layer.options.num_threads = -1;
    assert_status(bn_layer_forward(&want.layer, 2000, want.x, want.y), BN_STATUS_BAD_OPTION);
    assert_status(bn_layer_infer(&want.layer, 2000, want.x, want.y), BN_STATUS_BAD_OPTION);
    assert_status(bn_layer_backward(&want.layer, 2000, want.x, want.dy, want.dx),
                  BN_STATUS_BAD_OPTION);
    trial_free(&want);
}

/* Only eps, momentum, num_threads and frozen may be set between calls. */
static void other_options_are_as_init_read_them(void **state) {
    (void)state;
    trial want = trial_new(5, NULL, (bn_batch){.n = 9}), t = trial_new(5, NULL, (bn_batch){.n = 9});
    t.layer.options.activation = BN_ACTIVATION_RELU;
    t.layer.options.biased_running_var = true;
    trial_run(&want);
    trial_run(&t);
    trial_check_same(&t, &want);
    trial_free(&want);
    trial_free(&t);
    for (int k = BN_ACTIVATION_LEAKY_RELU; k <= BN_ACTIVATION_CLIP; k++) {
        const bn_options options = activated((bn_activation)k, 0.25f, 0.5f);
        want = small(&options);
        t = small(&options);
        t.layer.options.activation_slope = NAN;
        t.layer.options.activation_max = -1;
        trial_run(&want);
        trial_run(&t);
        trial_check_same(&t, &want);
        trial_free(&want);
        trial_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eps_may_be_zero),
        cmocka_unit_test(fewer_threads_may_be_asked_for_later),
        cmocka_unit_test(other_options_are_as_init_read_them),
        cmocka_unit_test(defaults_are_those_of_the_header),
        cmocka_unit_test(no_options_are_the_defaults),
        cmocka_unit_test(gamma_and_beta_start_where_told),
        cmocka_unit_test(scale_and_shift_are_learned_apart),
        cmocka_unit_test(params_of_nothing_are_none),
        cmocka_unit_test(any_number_of_threads_is_taken),
        cmocka_unit_test(relu_cuts_off_below_zero),
        cmocka_unit_test(a_slope_may_be_anything_from_zero),
        cmocka_unit_test(clip_cuts_off_at_both_ends),
        cmocka_unit_test(what_the_activation_does_not_use_may_be_anything),
        cmocka_unit_test(a_slope_of_zero_and_no_limit_are_relu),
        cmocka_unit_test(the_ends_belong_to_the_flat_side),
        cmocka_unit_test(sums_beyond_float_runs_have_the_same_ends),
        cmocka_unit_test(momentum_mixes_old_and_new),
        cmocka_unit_test(momentum_zero_takes_the_batch),
        cmocka_unit_test(momentum_one_keeps_the_old),
        cmocka_unit_test(cumulative_momentum_is_the_plain_average),
        cmocka_unit_test(running_var_is_biased_where_asked),
        cmocka_unit_test(without_running_values_inference_takes_its_batch),
        cmocka_unit_test(eps_may_change_between_calls),
        cmocka_unit_test(momentum_may_change_between_calls),
        cmocka_unit_test(frozen_may_change_between_calls),
        cmocka_unit_test(backward_remembers_what_forward_was),
        cmocka_unit_test(a_frozen_layer_infers),
        cmocka_unit_test(every_status_has_its_own_sentence),
        cmocka_unit_test(a_status_that_is_none_has_a_sentence),
        cmocka_unit_test(the_version_is_the_header_s),
        cmocka_unit_test(bn_isa_names_the_instruction_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
