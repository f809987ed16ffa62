/*
 * Memory: init survives its failure, nothing else asks for any, and no call touches a byte that is
 * not a buffer's. Linked with --wrap, so that malloc and its like come here first.
 */
#include "support.h"

#include "machine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- The allocator --------------------------------------------------------------------------- */

static size_t allocations; /* so far */
static size_t frees;       /* of anything but NULL */
static size_t failing;     /* the one that fails; 0: none */

static bool allocation_fails(void) {
    return ++allocations == failing;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __real_free(void *memory);

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __wrap_free(void *memory);

void *__wrap_malloc(size_t bytes) {
    return allocation_fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes) {
    return allocation_fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes) {
    return allocation_fails() ? NULL : __real_realloc(memory, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return allocation_fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes) {
    return allocation_fails() ? ENOMEM : __real_posix_memalign(memory, alignment, bytes);
}

void __wrap_free(void *memory) {
    frees += memory != NULL;
    __real_free(memory);
}

/* ---- Allocation ------------------------------------------------------------------------------ */

static bn_status init_layer(void *layer) {
    return bn_layer_init(layer, 100, NULL);
}

static bn_status init_layer_in_part(void *layer) {
    static float gamma[100], running_var[100];
    const bn_memory memory = {.gamma = gamma, .running_var = running_var};
    return bn_layer_init_with(layer, 100, NULL, &memory);
}

static bn_status init_layer_that_infers(void *layer) {
    bn_options options = bn_options_default();
    options.inference_only = true;
    return bn_layer_init(layer, 100, &options);
}

static bn_status init_moments(void *moments) {
    return bn_moments_init(moments, 100);
}

static bn_status init_gradients(void *gradients) {
    return bn_gradients_init(gradients, 100);
}

/* Lets the first allocation of init fail, then the second, until there is none left to fail. What a
 * failed init may have leaked, valgrind and LeakSanitizer see. */
static void check_failures(bn_status (*init)(void *), void *object, size_t bytes) {
    bn_status status = BN_STATUS_OUT_OF_MEMORY;
    for (size_t k = 1; status != BN_STATUS_OK; k++) {
        fill_pattern(object, bytes);
        allocations = 0;
        failing = k;
        status = init(object);
        failing = 0;
        if (k == 1) {
            assert_status(status, BN_STATUS_OUT_OF_MEMORY); /* it allocates, and through us */
        }
        if (status != BN_STATUS_OK) {
            assert_status(status, BN_STATUS_OUT_OF_MEMORY);
            assert_pattern(object, bytes);
        }
    }
}

static void init_survives_every_failed_allocation(void **state) {
    (void)state;
    bn_layer layer;
    bn_moments moments;
    bn_gradients gradients;
    check_failures(init_layer_in_part, &layer, sizeof layer);
    bn_layer_free(&layer);
    check_failures(init_layer_that_infers, &layer, sizeof layer);
    bn_layer_free(&layer);
    check_failures(init_layer, &layer, sizeof layer);
    check_failures(init_moments, &moments, sizeof moments);
    check_failures(init_gradients, &gradients, sizeof gradients);
    bn_layer_free(&layer);
    bn_moments_free(&moments);
    bn_gradients_free(&gradients);
}

/* The shapes take every way through the library: rows, folded rows, small and large planes, and
 * several tasks. */
static void nothing_allocates_after_init(void **state) {
    (void)state;
    static const size_t shapes[][3] = {
        {50, 300, 1}, {200, 5, 1}, {9, 10, 30}, {3, 4, 700}, {3000, 70, 1}};
    for (size_t k = 0; k < 2 * COUNT_OF(shapes); k++) {
        const size_t *shape = shapes[k / 2], features = shape[1];
        bn_options options = bn_options_default();
        options.track_running = k / 2 != 1;
        trial t =
            trial_new(features, &options,
                      (bn_batch){.n = shape[0], .spatial = shape[2], .dtype = (bn_dtype)(k % 3)});
        trial_add_weights(&t);
        if (k % 2) {
            trial_add_positions(&t);
        }
        trial_add_residual(&t);
        float *scale = ref_floats(features), *shift = ref_floats(features);
        bn_moments moments, other;
        bn_gradients gradients, whole;
        assert_ok(bn_moments_init(&moments, features));
        assert_ok(bn_moments_init(&other, features));
        assert_ok(bn_gradients_init(&gradients, features));
        assert_ok(bn_gradients_init(&whole, features));

        const bn_batch batch = trial_batch(&t);
        void *const x = trial_at(&t, t.x), *const y = trial_at(&t, t.y);
        void *const dy = trial_at(&t, t.dy), *const dx = trial_at(&t, t.dx);
        allocations = 0;
        trial_run(&t);
        assert_ok(bn_layer_infer_batch(&t.layer, &batch, x, y));
        assert_ok(bn_moments_add(&moments, &batch, x));
        assert_ok(bn_moments_add(&other, &batch, x));
        assert_ok(bn_moments_merge(&moments, &other));
        assert_ok(bn_moments_merge(&moments, &moments));
        assert_ok(bn_layer_forward_by(&t.layer, &moments, &batch, x, y));
        assert_ok(bn_gradients_add(&gradients, &t.layer, &batch, x, dy));
        assert_ok(bn_gradients_merge(&whole, &gradients));
        assert_ok(bn_layer_backward_by(&t.layer, &whole, &batch, x, dy, dx));
        assert_ok(bn_layer_set_gradients(&t.layer, &whole, true));
        if (options.track_running) {
            assert_ok(bn_layer_set_running(&t.layer, &moments));
            assert_ok(bn_layer_affine(&t.layer, scale, shift));
            assert_ok(bn_layer_fold(&t.layer, 1, scale, shift));
            assert_ok(bn_layer_fold_transposed(&t.layer, 1, 1, 1, scale, shift));
            assert_ok(bn_layer_fold_next(&t.layer, 1, 1, scale, shift));
            t.layer.frozen = true;
            trial_run(&t);
        }
        bn_param params[2];
        assert_int_equal(bn_layer_params(&t.layer, params), 2);
        assert_int_equal(allocations, 0);

        bn_moments_free(&moments);
        bn_moments_free(&other);
        bn_gradients_free(&gradients);
        bn_gradients_free(&whole);
        free(scale);
        free(shift);
        trial_free(&t);
    }
}

/* Nor is anything given back: the block is still ours. */
static void a_layer_in_a_block_has_no_allocator(void **state) {
    (void)state;
    enum { D = 100, N = 7 };
    static float x[N * D], y[N * D];
    for (size_t k = 0; k < N * D; k++) {
        x[k] = (float)(k * k % 101);
    }
    const size_t bytes = bn_layer_bytes(D, NULL, NULL);
    void *memory = malloc(bytes);
    bn_layer layer;
    assert_non_null(memory);
    allocations = frees = 0;
    assert_ok(init_in_block(&layer, D, NULL, memory, bytes));
    assert_ok(bn_layer_forward(&layer, N, x, y));
    assert_ok(bn_layer_backward(&layer, N, x, x, y));
    assert_ok(bn_layer_infer(&layer, N, x, y));
    bn_layer_free(&layer);
    assert_int_equal(allocations, 0);
    assert_int_equal(frees, 0);
    free(memory);
}

/* On four arrays of the caller's nothing is asked for, from init on. */
static void inference_in_place_allocates_nothing(void **state) {
    (void)state;
    enum { D = 30, N = 5 };
    static float gamma[D], beta[D], mean[D], var[D], x[N * D], y[N * D];
    bn_options options = bn_options_default();
    options.inference_only = true;
    const bn_memory memory = {
        .gamma = gamma, .beta = beta, .running_mean = mean, .running_var = var};
    bn_layer layer;
    allocations = 0;
    assert_ok(bn_layer_init_with(&layer, D, &options, &memory));
    assert_ok(bn_layer_infer(&layer, N, x, y));
    bn_layer_free(&layer);
    assert_int_equal(allocations, 0);
}

/* ---- Guard pages ----------------------------------------------------------------------------- */

/* What a trial points to, each in its own guarded memory. */
enum { X, DX, Y, DY, RESIDUAL, DRESIDUAL, WEIGHTS, POSITIONS, LAYER, HALVES };
enum { BUFFERS = HALVES + TRIAL_TENSORS };
static guarded buffers[BUFFERS];

static int map_buffers(void **state) {
    (void)state;
    for (size_t k = 0; k < BUFFERS; k++) {
        buffers[k] = guarded_new((size_t)1 << 21);
    }
    return 0;
}

static int unmap_buffers(void **state) {
    (void)state;
    for (size_t k = 0; k < BUFFERS; k++) {
        guarded_free(&buffers[k]);
    }
    return 0;
}

static void *place(size_t which, size_t bytes, bool at_end) {
    return guarded_place(&buffers[which], bytes, at_end);
}

static float *place_input(size_t which, const float *values, size_t count, bool at_end) {
    if (!values) {
        return NULL;
    }
    float *placed = place(which, count * sizeof *values, at_end);
    memcpy(placed, values, count * sizeof *values);
    return placed;
}

static float *place_output(size_t which, const float *values, size_t count, bool at_end) {
    if (!values) {
        return NULL;
    }
    float *placed = place(which, count * sizeof *values, at_end);
    fill_pattern(placed, count * sizeof *values);
    return placed;
}

/* What decides speed must not decide bits, so all of it may be had at any size: the ways of large
 * batches, all at once and streaming and fetching without the other; distances of other processors;
 * the last is what there is. */
static const bni_tuning tunings[] = {
    {0, 0, 0, 0, 0, 0, 0, 16, 8, true, 32, 4, 64, 1, 1, 0, 2},
    {0, 0, HUGE_VAL, 0, HUGE_VAL, 0, HUGE_VAL, 16, 2048, false, 64, 4, 64, 3, 2, 0, 99},
    {HUGE_VAL, HUGE_VAL, 0, HUGE_VAL, 0, HUGE_VAL, HUGE_VAL, 64, 8, true, 32, 256, 16384, 2, 2,
     HUGE_VAL, 20},
    BNI_TUNING_DEFAULT};

/* With each of these, at the beginning and at the end. */
enum { WAYS = 2 * COUNT_OF(tunings) };

/* The trial with all its buffers, and its layer's memory, between guards; not yet run. */
static trial guard(const trial *t, size_t way) {
    const bool at_end = way % 2;
    const size_t features = t->layer.num_features;
    const size_t bytes = bn_layer_bytes(features, &t->layer.options, NULL);
    ref_random random = {1}; /* as trial_new */
    trial g = *t;
    assert_ok(
        init_in_block(&g.layer, features, &t->layer.options, place(LAYER, bytes, at_end), bytes));
    ref_fill_layer(&random, &g.layer);
    g.layer.internal.tuning = &tunings[way / 2];
    g.x = place_input(X, t->x, t->x_count, at_end);
    g.dy = place_input(DY, t->dy, t->y_count, at_end);
    g.residual = place_input(RESIDUAL, t->residual, t->y_count, at_end);
    g.sample_weight = place_input(WEIGHTS, t->sample_weight, t->batch.n, at_end);
    g.position_weight =
        place_input(POSITIONS, t->position_weight, t->batch.n * ref_spatial(&t->batch), at_end);
    g.y = place_output(Y, t->y, t->y_count, at_end);
    g.dx = place_output(DX, t->dx, t->x_count, at_end);
    g.dresidual = place_output(DRESIDUAL, t->dresidual, t->y_count, at_end);
    for (size_t k = 0; k < TRIAL_TENSORS; k++) {
        if (t->halves[k]) {
            const size_t count = k <= TRIAL_DX ? t->x_count : t->y_count;
            g.halves[k] = place(HALVES + k, count * sizeof(uint16_t), at_end);
            fill_pattern(g.halves[k], count * sizeof(uint16_t));
        }
    }
    g.batch.residual = g.residual;
    g.batch.sample_weight = g.sample_weight;
    g.batch.position_weight = g.position_weight;
    g.batch.dresidual = g.dresidual;
    g.batch.y = t->batch.y ? g.y : NULL;
    return g;
}

/* Training and inference between guards give the same bits as elsewhere, and so does what lies
 * between rows: trial_check sees to it that elsewhere it is not written (and NaN there not read).
 */
static void check_guarded(size_t features, bn_batch batch, bool everything, bool positions) {
    bn_options options = bn_options_default();
    if (everything) {
        options.activation = BN_ACTIVATION_RELU;
    }
    trial t = trial_new(features, &options, batch);
    if (everything) {
        trial_add_weights(&t);
        trial_add_residual(&t);
    }
    if (positions) {
        trial_add_positions(&t);
    }
    trial_check(&t);
    for (size_t k = 0; k < WAYS; k++) {
        trial g = guard(&t, k);
        trial_run(&g);
        trial_check_same(&g, &t);
    }
    float *trained = copy_floats(t.y, t.y_count);
    trial_check_infer(&t);
    for (size_t k = 0; k < WAYS; k++) {
        trial g = guard(&t, k);
        assert_ok(trial_forward(&g, g.x, g.y));
        assert_same_bits(g.y, trained, t.y_count);
        assert_ok(trial_infer(&g, g.x, g.y));
        assert_same_bits(g.y, t.y, t.y_count);
    }
    free(trained);
    trial_free(&t);
}

/* Of half types one of all these, in turn. */
static void check_guarded_layouts(size_t n, size_t features, size_t spatial) {
    static size_t turn;
    const size_t row = features * spatial;
    for (size_t k = 0; k < 7; k++, turn++) {
        const size_t which = k < 6 ? k : turn / 7 % 6;
        bn_batch batch = {.n = n, .spatial = spatial};
        if (which % 2) {
            batch.x_stride = row + 3;
            batch.y_stride = row + 17;
        }
        if (k == 6) {
            batch.dtype = turn / 42 % 2 ? BN_DTYPE_F16 : BN_DTYPE_BF16;
        }
        check_guarded(features, batch, which >= 2, which >= 4);
    }
}

/* From one feature to one more than two of the widest vectors that there are, of 16 floats. */
static void no_byte_outside_rows_is_touched(void **state) {
    (void)state;
    static const size_t rows[] = {2, 3, 5, 17, 64, 67};
    for (size_t features = 1; features <= 33; features++) {
        for (size_t k = 0; k < COUNT_OF(rows); k++) {
            check_guarded_layouts(rows[k], features, 1);
        }
    }
}

static void no_byte_outside_planes_is_touched(void **state) {
    (void)state;
    static const size_t positions[] = {2, 7, 16, 17, 49, 100};
    for (size_t features = 1; features <= 33; features++) {
        for (size_t k = 0; k < COUNT_OF(positions); k++) {
            check_guarded_layouts(3, features, positions[k]);
        }
    }
}

static void no_byte_outside_large_shapes_is_touched(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{1, 33, 9},   {1, 5, 49},   {2, 70, 33},  {17, 1, 100},
                                       {17, 33, 49}, {5, 8, 16},   {3, 2, 255},  {3, 3, 256},
                                       {3, 2, 257},  {2, 3, 319},  {2, 1, 1030}, {300, 7, 1},
                                       {3, 1023, 1}, {3, 1025, 1}, {2, 2063, 1}, {2, 400, 5}};
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        check_guarded_layouts(shapes[k][0], shapes[k][1], shapes[k][2]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_survives_every_failed_allocation),
        cmocka_unit_test(nothing_allocates_after_init),
        cmocka_unit_test(a_layer_in_a_block_has_no_allocator),
        cmocka_unit_test(inference_in_place_allocates_nothing),
        cmocka_unit_test_setup_teardown(no_byte_outside_rows_is_touched, map_buffers,
                                        unmap_buffers),
        cmocka_unit_test_setup_teardown(no_byte_outside_planes_is_touched, map_buffers,
                                        unmap_buffers),
        cmocka_unit_test_setup_teardown(no_byte_outside_large_shapes_is_touched, map_buffers,
                                        unmap_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
