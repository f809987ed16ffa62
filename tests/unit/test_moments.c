/*
 * Moments: data that comes in pieces has the count, mean and variance of the whole, however it is
 * cut and in whatever order; what cannot be added leaves no trace.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { D = 5, N = 37 };

/* ---- Moments --------------------------------------------------------------------------------- */

static bn_moments empty(size_t num_features) {
    bn_moments moments;
    assert_int_equal(bn_moments_init(&moments, num_features), BN_STATUS_OK);
    return moments;
}

/* What a caller can see of moments of D features, to compare bit for bit. */
typedef struct view {
    double count, mean[D], m2[D];
} view;

static view view_of(const bn_moments *moments) {
    view v = {.count = moments->count};
    memcpy(v.mean, moments->mean, sizeof v.mean);
    memcpy(v.m2, moments->m2, sizeof v.m2);
    return v;
}

static void assert_same(const bn_moments *moments, const view *want) {
    view got = view_of(moments);
    assert_memory_equal(&got, want, sizeof got);
}

/* The sums of some rows are formed in float, about a pivot near their mean: the mean is as good as
 * saved_mean before its rounding, and the variance, two of which make an invstd's error, has twice the
 * limit. */
static void assert_moments(const bn_moments *moments, const ref_result *want) {
    assert_true(ref_units(moments->count, want->weight, want->weight) <= 0x1p-20);
    for (size_t d = 0; d < D; d++) {
        const double var = moments->m2[d] / moments->count;
        assert_true(ref_units(moments->mean[d], want->mean[d], want->mean_scale[d]) <= REF_LIMIT);
        assert_true(ref_units(var, want->var[d], want->var[d]) <= 2 * REF_LIMIT);
    }
}

/* ---- Pieces ---------------------------------------------------------------------------------- */

typedef struct dataset {
    bn_batch batch;
    size_t stride;
    float *x, *weight, *position;
    double offset;
    ref_result want;
} dataset;

/* NaN fills what is not data: the gaps between samples, and what has weight 0. */
static dataset make_data(weighting weights, size_t spatial, size_t gap, double offset) {
    dataset data = {.stride = D * spatial + gap, .offset = offset};
    data.batch = (bn_batch){.n = N, .spatial = spatial, .x_stride = data.stride};
    data.x = ref_floats(N * data.stride);
    data.weight = ref_floats(N);
    data.position = ref_floats(N * spatial);
    ref_random random = {3};
    for (size_t i = 0; i < N; i++) {
        float *row = data.x + i * data.stride;
        data.weight[i] = (float)(weights == WEIGHTS_MASK ? i % 3 != 1 : 0.1 + ref_uniform(&random));
        ref_fill_normal(&random, row, D * spatial, offset, 1);
        for (size_t k = data.weight[i] > 0 ? D * spatial : 0; k < data.stride; k++) {
            row[k] = NAN;
        }
    }
    bool of_samples = weights != WEIGHTS_NONE && weights != WEIGHTS_POSITIONS;
    data.batch.sample_weight = of_samples ? data.weight : NULL;
    data.batch.position_weight = weights >= WEIGHTS_POSITIONS ? data.position : NULL;
    for (size_t k = 0; k < N * spatial && data.batch.position_weight; k++) {
        data.position[k] = (float)(k % 3 == 1 ? 0 : 0.1 + ref_uniform(&random));
        for (size_t d = 0; d < D && k % 3 == 1; d++) {
            data.x[k / spatial * data.stride + d * spatial + k % spatial] = NAN;
        }
    }
    bn_layer plain = {.num_features = D, .options = bn_options_default()};
    data.want = ref_forward(&plain, &data.batch, data.x);
    return data;
}

static void free_data(dataset *data) {
    free(data->x);
    free(data->weight);
    free(data->position);
    ref_free(&data->want);
}

static bn_status add_rows(bn_moments *moments, const dataset *data, size_t from, size_t to) {
    bn_batch piece = data->batch;
    piece.n = to - from;
    if (piece.sample_weight) {
        piece.sample_weight += from;
    }
    if (piece.position_weight) {
        piece.position_weight += from * piece.spatial;
    }
    return bn_moments_add(moments, &piece, data->x + from * data->stride);
}

/* Adds the rows in pieces, the pieces in random order. */
static void add_pieces(bn_moments *moments, const dataset *data, size_t pieces, uint64_t seed) {
    size_t order[N];
    ref_random random = {seed};
    for (size_t k = 0; k < pieces; k++) {
        size_t other = (size_t)(ref_bits(&random) % (k + 1));
        order[k] = order[other];
        order[other] = k;
    }
    for (size_t k = 0; k < pieces; k++) {
        size_t from = order[k] * N / pieces, to = (order[k] + 1) * N / pieces;
        assert_int_equal(add_rows(moments, data, from, to), BN_STATUS_OK);
    }
}

/* Calls what is given with every kind of data. */
static void for_all_data(void (*check)(const dataset *data)) {
    static const size_t shapes[][2] = {{1, 0}, {1, 3}, {6, 0}, {49, 2}}; /* positions, gap */
    static const double offsets[] = {0, 1e2, 1e6};
    for (weighting w = WEIGHTS_NONE; w < WEIGHTS_KINDS; w++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            for (size_t o = 0; o < sizeof offsets / sizeof *offsets; o++) {
                dataset data = make_data(w, shapes[s][0], shapes[s][1], offsets[o]);
                check(&data);
                free_data(&data);
            }
        }
    }
}

static void check_pieces(const dataset *data) {
    static const size_t pieces[] = {1, 2, 7, N};
    for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
        for (uint64_t seed = 0; seed < 3; seed++) {
            bn_moments moments = empty(D);
            add_pieces(&moments, data, pieces[k], seed);
            assert_moments(&moments, &data->want);
            bn_moments_free(&moments);
        }
    }
}

static void pieces_in_any_order_are_the_whole(void **state) {
    (void)state;
    for_all_data(check_pieces);
}

static void check_merge(const dataset *data) {
    bn_moments first = empty(D), second = empty(D);
    assert_int_equal(add_rows(&first, data, 0, 5), BN_STATUS_OK);
    add_rows(&second, data, 5, N);
    view before = view_of(&second);
    assert_int_equal(bn_moments_merge(&first, &second), BN_STATUS_OK);
    assert_moments(&first, &data->want);
    assert_same(&second, &before);
    bn_moments_free(&first);
    bn_moments_free(&second);
}

static void a_merge_is_the_whole(void **state) {
    (void)state;
    for_all_data(check_merge);
}

/* The parts differ in their means by far more than by their spreads. */
static void a_merge_accounts_for_distant_means(void **state) {
    (void)state;
    dataset data = make_data(WEIGHTS_NONE, 1, 0, 0);
    for (size_t k = 0; k < 4 * data.stride; k++) {
        data.x[k] += 1000;
    }
    bn_layer plain = {.num_features = D, .options = bn_options_default()};
    ref_free(&data.want);
    data.want = ref_forward(&plain, &data.batch, data.x);
    check_pieces(&data);
    check_merge(&data);
    free_data(&data);
}

static void an_empty_part_changes_nothing(void **state) {
    (void)state;
    dataset data = make_data(WEIGHTS_REAL, 1, 0, 1e2);
    bn_moments none = empty(D), some = empty(D), target = empty(D);
    view nothing = view_of(&none);
    assert_int_equal(add_rows(&some, &data, 0, N), BN_STATUS_OK);
    view before = view_of(&some);

    assert_int_equal(bn_moments_merge(&some, &none), BN_STATUS_OK);
    assert_same(&some, &before);
    assert_int_equal(bn_moments_merge(&target, &some), BN_STATUS_OK);
    assert_same(&target, &before);
    assert_int_equal(bn_moments_merge(&none, &none), BN_STATUS_OK);
    assert_same(&none, &nothing);

    assert_int_equal(bn_moments_add(&some, &(bn_batch){.n = 0}, NULL), BN_STATUS_OK);
    assert_same(&some, &before);
    float *masked = ref_floats(N);
    data.batch.sample_weight = masked;
    assert_int_equal(add_rows(&some, &data, 0, N), BN_STATUS_OK);
    assert_same(&some, &before);

    free(masked);
    bn_moments_free(&none);
    bn_moments_free(&some);
    bn_moments_free(&target);
    free_data(&data);
}

static void merging_with_itself_counts_twice(void **state) {
    (void)state;
    dataset data = make_data(WEIGHTS_REAL, 6, 0, 1e6);
    bn_moments moments = empty(D);
    assert_int_equal(add_rows(&moments, &data, 0, N), BN_STATUS_OK);
    view twice = view_of(&moments);
    twice.count *= 2;
    for (size_t d = 0; d < D; d++) {
        twice.m2[d] *= 2;
    }
    assert_int_equal(bn_moments_merge(&moments, &moments), BN_STATUS_OK);
    assert_same(&moments, &twice);
    bn_moments_free(&moments);
    free_data(&data);
}

static void one_value_has_no_variance(void **state) {
    (void)state;
    const float x[D] = {1, -2, 0.3f, 1e6f, -1e-6f};
    bn_moments moments = empty(D);
    assert_int_equal(bn_moments_add(&moments, &(bn_batch){.n = 1}, x), BN_STATUS_OK);
    view want = {.count = 1};
    for (size_t d = 0; d < D; d++) {
        want.mean[d] = (double)x[d];
    }
    assert_same(&moments, &want);
    bn_moments_free(&moments);
}

/* ---- What cannot be added -------------------------------------------------------------------- */

static void a_value_that_is_not_finite_leaves_no_trace(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    bn_moments moments = empty(D);
    dataset data = make_data(WEIGHTS_NONE, 6, 0, 1);
    view nothing = view_of(&moments), before;
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        size_t last = N * data.stride - 1;
        float good = data.x[last];
        data.x[last] = bad[k];
        assert_int_equal(add_rows(&moments, &data, 10, N), BN_STATUS_NOT_FINITE);
        assert_same(&moments, &nothing);
        data.x[last] = good;
    }
    assert_int_equal(add_rows(&moments, &data, 0, 10), BN_STATUS_OK);
    before = view_of(&moments);
    data.x[20 * data.stride] = NAN;
    assert_int_equal(add_rows(&moments, &data, 10, N), BN_STATUS_NOT_FINITE);
    assert_same(&moments, &before);
    bn_moments_free(&moments);
    free_data(&data);
}

static void bad_arguments_leave_no_trace(void **state) {
    (void)state;
    bn_moments moments = empty(D), zeroed = {0}, freed = empty(D), wider = empty(D + 1);
    bn_moments_free(&freed);
    dataset data = make_data(WEIGHTS_NONE, 1, 0, 1);
    assert_int_equal(add_rows(&moments, &data, 0, N), BN_STATUS_OK);
    view before = view_of(&moments);

    const float negative[] = {1, -1}, nan[] = {NAN, 1}, infinite[] = {1, INFINITY};
    const float huge[] = {0, 0x1p64f};
    const struct {
        bn_batch batch;
        bn_status want;
    } batches[] = {
        {{.n = 2, .sample_weight = negative}, BN_STATUS_BAD_OPTION},
        {{.n = 2, .sample_weight = nan}, BN_STATUS_BAD_OPTION},
        {{.n = 2, .sample_weight = infinite}, BN_STATUS_BAD_OPTION},
        {{.n = 2, .position_weight = negative}, BN_STATUS_BAD_OPTION},
        {{.n = 1, .spatial = 2, .position_weight = nan}, BN_STATUS_BAD_OPTION},
        {{.n = 1, .spatial = 2, .position_weight = infinite}, BN_STATUS_BAD_OPTION},
        {{.n = 2, .sample_weight = huge, .position_weight = huge}, BN_STATUS_BAD_OPTION},
        {{.n = 2, .dtype = (bn_dtype)7}, BN_STATUS_BAD_OPTION},
        {{.n = 2, .x_stride = D - 1}, BN_STATUS_BAD_SHAPE},
        {{.n = 2, .spatial = SIZE_MAX / 2}, BN_STATUS_BAD_SHAPE},
        {{.n = SIZE_MAX / 2}, BN_STATUS_BAD_SHAPE},
    };
    for (size_t k = 0; k < sizeof batches / sizeof *batches; k++) {
        assert_int_equal(bn_moments_add(&moments, &batches[k].batch, data.x), batches[k].want);
        assert_same(&moments, &before);
    }

    const bn_batch two = {.n = 2};
    assert_int_equal(bn_moments_add(NULL, &two, data.x), BN_STATUS_NULL_POINTER);
    assert_int_equal(bn_moments_add(&moments, NULL, data.x), BN_STATUS_NULL_POINTER);
    assert_int_equal(bn_moments_add(&moments, &two, NULL), BN_STATUS_NULL_POINTER);
    assert_int_equal(bn_moments_add(&zeroed, &two, data.x), BN_STATUS_BAD_STATE);
    assert_int_equal(bn_moments_add(&freed, &two, data.x), BN_STATUS_BAD_STATE);
    assert_int_equal(bn_moments_add(&moments, &two, moments.mean), BN_STATUS_OVERLAP);
    assert_int_equal(bn_moments_merge(NULL, &moments), BN_STATUS_NULL_POINTER);
    assert_int_equal(bn_moments_merge(&moments, NULL), BN_STATUS_NULL_POINTER);
    assert_int_equal(bn_moments_merge(&moments, &zeroed), BN_STATUS_BAD_STATE);
    assert_int_equal(bn_moments_merge(&freed, &moments), BN_STATUS_BAD_STATE);
    assert_int_equal(bn_moments_merge(&moments, &wider), BN_STATUS_BAD_SHAPE);
    assert_same(&moments, &before);

    bn_moments_free(&moments);
    bn_moments_free(&wider);
    free_data(&data);
}

static void init_and_free_take_what_they_say(void **state) {
    (void)state;
    bn_moments moments, untouched;
    memset(&moments, 0x5a, sizeof moments);
    untouched = moments;
    assert_int_equal(bn_moments_init(NULL, D), BN_STATUS_NULL_POINTER);
    assert_int_equal(bn_moments_init(&moments, 0), BN_STATUS_BAD_SHAPE);
    assert_int_equal(bn_moments_init(&moments, SIZE_MAX / 2), BN_STATUS_BAD_SHAPE);
    assert_memory_equal(&moments, &untouched, sizeof moments);

    moments = empty(D);
    view nothing = {0};
    assert_int_equal(moments.num_features, D);
    assert_same(&moments, &nothing);
    bn_moments_free(&moments);
    assert_true(moments.num_features == 0 && !moments.mean && !moments.m2);
    bn_moments_free(&moments);
    bn_moments_free(NULL);
}

/* ---- Running values -------------------------------------------------------------------------- */

static bn_layer make_layer(size_t num_features, bool track_running, bool biased) {
    bn_layer layer;
    bn_options options = bn_options_default();
    options.track_running = track_running;
    options.biased_running_var = biased;
    assert_int_equal(bn_layer_init(&layer, num_features, &options), BN_STATUS_OK);
    return layer;
}

static void assert_running(const bn_layer *layer, const ref_result *want, double correction) {
    for (size_t d = 0; d < D; d++) {
        const double var = want->var[d] * correction;
        assert_true(ref_units((double)layer->running_mean[d], want->mean[d], want->mean_scale[d]) <=
                    REF_LIMIT);
        assert_true(ref_units((double)layer->running_var[d], var, var) <= 2 * REF_LIMIT);
    }
}

static void check_set_running(const dataset *data) {
    bn_moments moments = empty(D);
    add_pieces(&moments, data, 7, 1);
    view before = view_of(&moments);
    for (int biased = 0; biased < 2; biased++) {
        bn_layer layer = make_layer(D, true, biased);
        layer.num_batches_tracked = 12;
        assert_int_equal(bn_layer_set_running(&layer, &moments), BN_STATUS_OK);
        double weight = data->want.weight;
        assert_running(&layer, &data->want, biased ? 1 : weight / (weight - 1));
        assert_int_equal(layer.num_batches_tracked, 12);
        bn_layer_free(&layer);
    }
    assert_same(&moments, &before);
    bn_moments_free(&moments);
}

static void running_values_become_those_of_the_population(void **state) {
    (void)state;
    for_all_data(check_set_running);
}

/* Moments of one feature. */
static bn_moments of_values(size_t n, const float *x, const float *weight) {
    bn_moments moments = empty(1);
    bn_batch batch = {.n = n, .sample_weight = weight};
    assert_int_equal(bn_moments_add(&moments, &batch, x), BN_STATUS_OK);
    return moments;
}

static void assert_not_set(bn_layer *layer, const bn_moments *moments, bn_status want) {
    layer->running_mean[0] = 3;
    layer->running_var[0] = 4;
    assert_int_equal(bn_layer_set_running(layer, moments), want);
    assert_true(layer->running_mean[0] == 3 && layer->running_var[0] == 4);
}

static void a_population_without_a_variance_is_refused(void **state) {
    (void)state;
    const float x[] = {1, 2}, light[] = {0.5f, 0.5f};
    /* Their variance is 9e76, which no float holds. */
    const float large[] = {3e38f, -3e38f};
    bn_moments none = empty(1), one = of_values(1, x, NULL);
    bn_moments of_weight_one = of_values(2, x, light), beyond = of_values(2, large, NULL);
    bn_layer layer = make_layer(1, true, false), biased = make_layer(1, true, true);

    assert_not_set(&layer, &none, BN_STATUS_TOO_FEW_VALUES);
    assert_not_set(&layer, &one, BN_STATUS_TOO_FEW_VALUES);
    assert_not_set(&layer, &of_weight_one, BN_STATUS_TOO_FEW_VALUES);
    assert_not_set(&biased, &one, BN_STATUS_TOO_FEW_VALUES);
    assert_not_set(&layer, &beyond, BN_STATUS_NOT_FINITE);

    bn_moments_free(&none);
    bn_moments_free(&one);
    bn_moments_free(&of_weight_one);
    bn_moments_free(&beyond);
    bn_layer_free(&layer);
    bn_layer_free(&biased);
}

static void set_running_says_what_is_wrong(void **state) {
    (void)state;
    const float x[] = {1, 2};
    bn_moments moments = of_values(2, x, NULL), zeroed = {0};
    bn_layer layer = make_layer(1, true, false), wider = make_layer(2, true, false);
    bn_layer without = make_layer(1, false, false), never = {0};

    assert_int_equal(bn_layer_set_running(NULL, &moments), BN_STATUS_NULL_POINTER);
    assert_not_set(&layer, NULL, BN_STATUS_NULL_POINTER);
    assert_not_set(&layer, &zeroed, BN_STATUS_BAD_STATE);
    assert_not_set(&wider, &moments, BN_STATUS_BAD_SHAPE);
    assert_int_equal(bn_layer_set_running(&without, &moments), BN_STATUS_BAD_STATE);
    assert_int_equal(bn_layer_set_running(&never, &moments), BN_STATUS_BAD_STATE);

    bn_moments_free(&moments);
    bn_layer_free(&layer);
    bn_layer_free(&wider);
    bn_layer_free(&without);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_in_any_order_are_the_whole),
        cmocka_unit_test(a_merge_is_the_whole),
        cmocka_unit_test(a_merge_accounts_for_distant_means),
        cmocka_unit_test(an_empty_part_changes_nothing),
        cmocka_unit_test(merging_with_itself_counts_twice),
        cmocka_unit_test(one_value_has_no_variance),
        cmocka_unit_test(a_value_that_is_not_finite_leaves_no_trace),
        cmocka_unit_test(bad_arguments_leave_no_trace),
        cmocka_unit_test(init_and_free_take_what_they_say),
        cmocka_unit_test(running_values_become_those_of_the_population),
        cmocka_unit_test(a_population_without_a_variance_is_refused),
        cmocka_unit_test(set_running_says_what_is_wrong),
    };
    return cmocka_run_group_tests_name("moments", tests, NULL, NULL);
}
