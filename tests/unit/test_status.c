/*
 * Every status that bn_layer.h names comes where it says, and then nothing has changed: not the
 * layer, not the moments, not the gradients, not a byte of any buffer.
 */
#include "support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- The scene ------------------------------------------------------------------------------- */

enum { N = 4, D = 3, SIZE = N * D };

/* A layer that has seen a training forward of N x D, and moments and gradients that have seen data, as a
 * whole of one part with a cache. All buffers
 * are in one pool with room around each, so that one comparison sees a write anywhere, and a
 * pointer may be a few elements off and still inside. */
enum { X, Y, DY, DX, RESIDUAL, DRESIDUAL, WEIGHTS, POSITIONS, BUFFERS, ROOM = 16 * SIZE };
enum { CACHE_ROOM = 256 };

typedef struct scene {
    bn_layer layer;
    bn_moments moments;
    bn_gradients gradients;
    float pool[BUFFERS * ROOM];
    unsigned char cache[CACHE_ROOM];
} scene;

static scene now;

#define BUFFER(which) (&now.pool[(which)*ROOM + ROOM / 2])
static float *const x = BUFFER(X);
static float *const y = BUFFER(Y);
static float *const dy = BUFFER(DY);
static float *const dx = BUFFER(DX);
static float *const residual = BUFFER(RESIDUAL);
static float *const dresidual = BUFFER(DRESIDUAL);
static float *const weights = BUFFER(WEIGHTS);
static float *const positions = BUFFER(POSITIONS);

/* A part's batch, with the scene's cache if it has none. */
static bn_batch as_part(bn_batch batch) {
    batch.cache = batch.cache ? batch.cache : now.cache;
    return batch;
}

static void set_up_with(const bn_options *options) {
    ref_random random = {1};
    assert_ok(bn_layer_init(&now.layer, D, options));
    assert_ok(bn_moments_init(&now.moments, D));
    ref_fill_layer(&random, &now.layer);
    ref_fill_uniform(&random, now.pool, COUNT_OF(now.pool), 0.5, 1.5);
    assert_ok(bn_layer_forward(&now.layer, N, x, y));
    assert_ok(bn_layer_backward(&now.layer, N, x, dy, dx));
    assert_ok(bn_moments_add(&now.moments, &(bn_batch){.n = N}, x));
    assert_in_range(bn_cache_bytes(D), 1, CACHE_ROOM);
    const bn_batch part = as_part((bn_batch){.n = N});
    assert_ok(bn_gradients_init(&now.gradients, D));
    assert_ok(bn_layer_forward_by(&now.layer, &now.moments, &part, x, y));
    assert_ok(bn_gradients_add(&now.gradients, &now.layer, &part, x, dy));
}

static int set_up(void **state) {
    (void)state;
    set_up_with(NULL);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    bn_layer_free(&now.layer);
    bn_moments_free(&now.moments);
    bn_gradients_free(&now.gradients);
    return 0;
}

/* For the tests that need another layer. */
static void set_up_again(const bn_options *options) {
    tear_down(NULL);
    set_up_with(options);
}

/* What must be found again after a refused call. */
typedef struct evidence {
    snapshot layer;
    bn_moments moments;
    double mean[D], m2[D];
    bn_gradients gradients;
    double sum_g[D], sum_gx[D];
    float invstd[D], invstd_rest[D];
    float pool[BUFFERS * ROOM];
    unsigned char cache[CACHE_ROOM];
} evidence;

static void take_evidence(evidence *before) {
    before->layer = snapshot_take(&now.layer);
    before->moments = now.moments;
    if (now.moments.mean) {
        memcpy(before->mean, now.moments.mean, sizeof before->mean);
        memcpy(before->m2, now.moments.m2, sizeof before->m2);
    }
    before->gradients = now.gradients;
    if (now.gradients.sum_g) {
        memcpy(before->sum_g, now.gradients.sum_g, sizeof before->sum_g);
        memcpy(before->sum_gx, now.gradients.sum_gx, sizeof before->sum_gx);
        memcpy(before->invstd, now.gradients.internal.invstd, sizeof before->invstd);
        memcpy(before->invstd_rest, now.gradients.internal.invstd_rest, sizeof before->invstd_rest);
    }
    memcpy(before->pool, now.pool, sizeof before->pool);
    memcpy(before->cache, now.cache, sizeof before->cache);
}

static void check_gradients(const evidence *before) {
    const bn_gradients *got = &now.gradients;
    assert_memory_equal(&before->gradients, got, sizeof *got);
    if (got->sum_g) {
        assert_memory_equal(before->sum_g, got->sum_g, sizeof before->sum_g);
        assert_memory_equal(before->sum_gx, got->sum_gx, sizeof before->sum_gx);
        assert_memory_equal(before->invstd, got->internal.invstd, sizeof before->invstd);
        assert_memory_equal(before->invstd_rest, got->internal.invstd_rest,
                            sizeof before->invstd_rest);
    }
}

static void check_evidence(evidence *before) {
    snapshot_check(&before->layer, &now.layer);
    snapshot_free(&before->layer);
    assert_memory_equal(&before->moments, &now.moments, sizeof now.moments);
    if (now.moments.mean) {
        assert_memory_equal(before->mean, now.moments.mean, sizeof before->mean);
        assert_memory_equal(before->m2, now.moments.m2, sizeof before->m2);
    }
    check_gradients(before);
    assert_memory_equal(before->pool, now.pool, sizeof before->pool);
    assert_memory_equal(before->cache, now.cache, sizeof before->cache);
}

/* The call returns this status and has changed nothing. */
#define refused(status, call)                                                                      \
    do {                                                                                           \
        evidence before;                                                                           \
        take_evidence(&before);                                                                    \
        assert_status(call, BN_STATUS_##status);                                                   \
        check_evidence(&before);                                                                   \
    } while (0)

/* The calls on a batch with the scene's own buffers. */
static bn_status forward(bn_batch batch) {
    return bn_layer_forward_batch(&now.layer, &batch, x, y);
}

static bn_status infer(bn_batch batch) {
    return bn_layer_infer_batch(&now.layer, &batch, x, y);
}

static bn_status backward(bn_batch batch) {
    return bn_layer_backward_batch(&now.layer, &batch, x, dy, dx);
}

static bn_status add(bn_batch batch) {
    return bn_moments_add(&now.moments, &batch, x);
}

static bn_status forward_by(bn_batch batch) {
    const bn_batch part = as_part(batch);
    return bn_layer_forward_by(&now.layer, &now.moments, &part, x, y);
}

static bn_status add_gradients(bn_batch batch) {
    const bn_batch part = as_part(batch);
    return bn_gradients_add(&now.gradients, &now.layer, &part, x, dy);
}

static bn_status backward_by(bn_batch batch) {
    const bn_batch part = as_part(batch);
    return bn_layer_backward_by(&now.layer, &now.gradients, &part, x, dy, dx);
}

/* Refused by all that take a part. */
#define part_refused(status, ...)                                                                  \
    do {                                                                                           \
        refused(status, forward_by((bn_batch){__VA_ARGS__}));                                      \
        refused(status, add_gradients((bn_batch){__VA_ARGS__}));                                   \
        refused(status, backward_by((bn_batch){__VA_ARGS__}));                                     \
    } while (0)

/* Refused by all that take a whole batch. */
#define batch_refused(status, ...)                                                                 \
    do {                                                                                           \
        refused(status, forward((bn_batch){__VA_ARGS__}));                                         \
        refused(status, infer((bn_batch){__VA_ARGS__}));                                           \
        refused(status, backward((bn_batch){__VA_ARGS__}));                                        \
        refused(status, add((bn_batch){__VA_ARGS__}));                                             \
        part_refused(status, __VA_ARGS__);                                                         \
    } while (0)

/* ---- Init ------------------------------------------------------------------------------------ */

/* bn_layer_bytes knows what init knows, and init touches nothing. */
static void init_refused(bn_status status, size_t features, const bn_options *options) {
    bn_layer layer;
    char memory[4096];
    fill_pattern(&layer, sizeof layer);
    fill_pattern(memory, sizeof memory);
    assert_status(bn_layer_init(&layer, features, options), status);
    assert_status(init_in_block(&layer, features, options, memory, sizeof memory), status);
    assert_int_equal(bn_layer_bytes(features, options, NULL), 0);
    assert_pattern(&layer, sizeof layer);
    assert_pattern(memory, sizeof memory);
}

static void init_refuses_bad_options(void **state) {
    (void)state;
    const bn_options good = bn_options_default();
    static const float eps[] = {-1e-45f, -1e-5f, NAN, INFINITY, -INFINITY};
    static const float momentum[] = {-0.1f, 1.1f, -2, 2, -1.0001f, NAN, INFINITY, -INFINITY};
    static const float initial[] = {NAN, INFINITY, -INFINITY};
    static const int threads[] = {-1, -100, INT32_MIN};
    static const int activation[] = {-1, BN_ACTIVATION_CLIP + 1, 1000};
    static const float slope[] = {-1e-45f, -0.01f, NAN, INFINITY, -INFINITY};
    static const float max[] = {0, -0.0f, -1e-45f, -6, NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < COUNT_OF(eps); k++) {
        bn_options options = good;
        options.eps = eps[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
    }
    for (size_t k = 0; k < COUNT_OF(momentum); k++) {
        bn_options options = good;
        options.momentum = momentum[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
    }
    for (size_t k = 0; k < COUNT_OF(initial); k++) {
        bn_options options = good;
        options.gamma_init = initial[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
        options = good;
        options.beta_init = initial[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
    }
    for (size_t k = 0; k < COUNT_OF(threads); k++) {
        bn_options options = good;
        options.num_threads = threads[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
    }
    for (size_t k = 0; k < COUNT_OF(activation); k++) {
        bn_options options = good;
        options.activation = (bn_activation)activation[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
    }
    for (size_t k = 0; k < COUNT_OF(slope); k++) {
        bn_options options = good;
        options.activation = BN_ACTIVATION_LEAKY_RELU;
        options.activation_slope = slope[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
    }
    for (size_t k = 0; k < COUNT_OF(max); k++) {
        bn_options options = good;
        options.activation = BN_ACTIVATION_CLIP;
        options.activation_max = max[k];
        init_refused(BN_STATUS_BAD_OPTION, D, &options);
    }
}

static void init_refuses_impossible_numbers_of_features(void **state) {
    (void)state;
    static const size_t features[] = {
        0,           SIZE_MAX,       SIZE_MAX - 1, SIZE_MAX / 2 + 1, SIZE_MAX / 4, SIZE_MAX / 8,
        PTRDIFF_MAX, PTRDIFF_MAX / 4};
    for (size_t k = 0; k < COUNT_OF(features); k++) {
        init_refused(BN_STATUS_BAD_SHAPE, features[k], NULL);
        bn_moments moments;
        fill_pattern(&moments, sizeof moments);
        assert_status(bn_moments_init(&moments, features[k]), BN_STATUS_BAD_SHAPE);
        assert_pattern(&moments, sizeof moments);
        bn_gradients gradients;
        fill_pattern(&gradients, sizeof gradients);
        assert_status(bn_gradients_init(&gradients, features[k]), BN_STATUS_BAD_SHAPE);
        assert_pattern(&gradients, sizeof gradients);
    }
}

static void init_refuses_null(void **state) {
    (void)state;
    char memory[64];
    bn_layer layer;
    fill_pattern(&layer, sizeof layer);
    assert_status(bn_layer_init(NULL, D, NULL), BN_STATUS_NULL_POINTER);
    assert_status(init_in_block(NULL, D, NULL, memory, sizeof memory), BN_STATUS_NULL_POINTER);
    assert_status(bn_moments_init(NULL, D), BN_STATUS_NULL_POINTER);
    assert_status(bn_gradients_init(NULL, D), BN_STATUS_NULL_POINTER);
    assert_pattern(&layer, sizeof layer);
}

static void init_in_a_block_refuses_too_little_memory(void **state) {
    (void)state;
    const size_t bytes = bn_layer_bytes(D, NULL, NULL);
    char *memory = malloc(bytes);
    bn_layer layer;
    assert_non_null(memory);
    fill_pattern(&layer, sizeof layer);
    fill_pattern(memory, bytes);
    const size_t too_few[] = {0, 1, bytes / 2, bytes - 1};
    for (size_t k = 0; k < COUNT_OF(too_few); k++) {
        assert_status(init_in_block(&layer, D, NULL, memory, too_few[k]), BN_STATUS_OUT_OF_MEMORY);
    }
    assert_pattern(&layer, sizeof layer);
    assert_pattern(memory, bytes);
    assert_ok(init_in_block(&layer, D, NULL, memory, bytes));
    bn_layer_free(&layer);
    free(memory);
}

/* ---- Pointers -------------------------------------------------------------------------------- */

static void null_pointers_are_refused(void **state) {
    (void)state;
    bn_layer *layer = &now.layer;
    bn_moments *moments = &now.moments;
    const bn_batch batch = {.n = N};
    refused(NULL_POINTER, bn_layer_forward(NULL, N, x, y));
    refused(NULL_POINTER, bn_layer_forward(layer, N, NULL, y));
    refused(NULL_POINTER, bn_layer_forward(layer, N, x, NULL));
    refused(NULL_POINTER, bn_layer_infer(NULL, N, x, y));
    refused(NULL_POINTER, bn_layer_infer(layer, N, NULL, y));
    refused(NULL_POINTER, bn_layer_infer(layer, N, x, NULL));
    refused(NULL_POINTER, bn_layer_backward(NULL, N, x, dy, dx));
    refused(NULL_POINTER, bn_layer_backward(layer, N, NULL, dy, dx));
    refused(NULL_POINTER, bn_layer_backward(layer, N, x, NULL, dx));
    refused(NULL_POINTER, bn_layer_backward(layer, N, x, dy, NULL));

    refused(NULL_POINTER, bn_layer_forward_batch(NULL, &batch, x, y));
    refused(NULL_POINTER, bn_layer_forward_batch(layer, NULL, x, y));
    refused(NULL_POINTER, bn_layer_forward_batch(layer, &batch, NULL, y));
    refused(NULL_POINTER, bn_layer_forward_batch(layer, &batch, x, NULL));
    refused(NULL_POINTER, bn_layer_infer_batch(NULL, &batch, x, y));
    refused(NULL_POINTER, bn_layer_infer_batch(layer, NULL, x, y));
    refused(NULL_POINTER, bn_layer_infer_batch(layer, &batch, NULL, y));
    refused(NULL_POINTER, bn_layer_infer_batch(layer, &batch, x, NULL));
    refused(NULL_POINTER, bn_layer_backward_batch(NULL, &batch, x, dy, dx));
    refused(NULL_POINTER, bn_layer_backward_batch(layer, NULL, x, dy, dx));
    refused(NULL_POINTER, bn_layer_backward_batch(layer, &batch, NULL, dy, dx));
    refused(NULL_POINTER, bn_layer_backward_batch(layer, &batch, x, NULL, dx));
    refused(NULL_POINTER, bn_layer_backward_batch(layer, &batch, x, dy, NULL));

    refused(NULL_POINTER, bn_layer_affine(NULL, x, y));
    refused(NULL_POINTER, bn_layer_affine(layer, NULL, y));
    refused(NULL_POINTER, bn_layer_affine(layer, x, NULL));
    refused(NULL_POINTER, bn_layer_fold(NULL, 1, x, y));
    refused(NULL_POINTER, bn_layer_fold(layer, 1, NULL, y));
    refused(NULL_POINTER, bn_layer_fold(layer, 1, x, NULL));
    refused(NULL_POINTER, bn_layer_fold(layer, 0, NULL, NULL));
    refused(NULL_POINTER, bn_layer_fold_transposed(NULL, 1, 1, 1, x, y));
    refused(NULL_POINTER, bn_layer_fold_transposed(layer, 1, 1, 1, NULL, y));
    refused(NULL_POINTER, bn_layer_fold_transposed(layer, 1, 1, 1, x, NULL));
    refused(NULL_POINTER, bn_layer_fold_transposed(layer, 1, 0, 0, NULL, NULL));
    refused(NULL_POINTER, bn_layer_fold_next(NULL, 1, 1, x, y));
    refused(NULL_POINTER, bn_layer_fold_next(layer, 1, 1, NULL, y));
    refused(NULL_POINTER, bn_layer_fold_next(layer, 1, 1, x, NULL));
    refused(NULL_POINTER, bn_layer_fold_next(layer, 1, 0, NULL, NULL));

    refused(NULL_POINTER, bn_moments_add(NULL, &batch, x));
    refused(NULL_POINTER, bn_moments_add(moments, NULL, x));
    refused(NULL_POINTER, bn_moments_add(moments, &batch, NULL));
    refused(NULL_POINTER, bn_moments_merge(NULL, moments));
    refused(NULL_POINTER, bn_moments_merge(moments, NULL));
    refused(NULL_POINTER, bn_layer_set_running(NULL, moments));
    refused(NULL_POINTER, bn_layer_set_running(layer, NULL));
}

static void null_pointers_are_refused_of_parts(void **state) {
    (void)state;
    bn_layer *layer = &now.layer;
    bn_moments *moments = &now.moments;
    bn_gradients *gradients = &now.gradients;
    const bn_batch batch = as_part((bn_batch){.n = N});
    refused(NULL_POINTER, bn_layer_forward_by(NULL, moments, &batch, x, y));
    refused(NULL_POINTER, bn_layer_forward_by(layer, NULL, &batch, x, y));
    refused(NULL_POINTER, bn_layer_forward_by(layer, moments, NULL, x, y));
    refused(NULL_POINTER, bn_layer_forward_by(layer, moments, &batch, NULL, y));
    refused(NULL_POINTER, bn_layer_forward_by(layer, moments, &batch, x, NULL));
    refused(NULL_POINTER, bn_gradients_add(NULL, layer, &batch, x, dy));
    refused(NULL_POINTER, bn_gradients_add(gradients, NULL, &batch, x, dy));
    refused(NULL_POINTER, bn_gradients_add(gradients, layer, NULL, x, dy));
    refused(NULL_POINTER, bn_gradients_add(gradients, layer, &batch, NULL, dy));
    refused(NULL_POINTER, bn_gradients_add(gradients, layer, &batch, x, NULL));
    refused(NULL_POINTER, bn_gradients_merge(NULL, gradients));
    refused(NULL_POINTER, bn_gradients_merge(gradients, NULL));
    refused(NULL_POINTER, bn_layer_backward_by(NULL, gradients, &batch, x, dy, dx));
    refused(NULL_POINTER, bn_layer_backward_by(layer, NULL, &batch, x, dy, dx));
    refused(NULL_POINTER, bn_layer_backward_by(layer, gradients, NULL, x, dy, dx));
    refused(NULL_POINTER, bn_layer_backward_by(layer, gradients, &batch, NULL, dy, dx));
    refused(NULL_POINTER, bn_layer_backward_by(layer, gradients, &batch, x, NULL, dx));
    refused(NULL_POINTER, bn_layer_backward_by(layer, gradients, &batch, x, dy, NULL));
    refused(NULL_POINTER, bn_layer_set_gradients(NULL, gradients, false));
    refused(NULL_POINTER, bn_layer_set_gradients(layer, NULL, false));
}

/* ---- Options --------------------------------------------------------------------------------- */

static void bad_eps_is_refused(void **state) {
    (void)state;
    static const float eps[] = {-1e-45f, -1e-5f, NAN, INFINITY};
    for (size_t k = 0; k < COUNT_OF(eps); k++) {
        now.layer.options.eps = eps[k];
        refused(BAD_OPTION, bn_layer_forward(&now.layer, N, x, y));
        refused(BAD_OPTION, bn_layer_infer(&now.layer, N, x, y));
        refused(BAD_OPTION, bn_layer_backward(&now.layer, N, x, dy, dx));
        refused(BAD_OPTION, bn_layer_affine(&now.layer, x, y));
        refused(BAD_OPTION, bn_layer_fold(&now.layer, 1, x, y));
        refused(BAD_OPTION, bn_layer_fold_transposed(&now.layer, 1, 1, 1, x, y));
        refused(BAD_OPTION, bn_layer_fold_next(&now.layer, 1, 1, x, y));
        part_refused(BAD_OPTION, .n = N);
    }
}

static void bad_num_threads_is_refused_of_parts(void **state) {
    (void)state;
    now.layer.options.num_threads = -1;
    part_refused(BAD_OPTION, .n = N);
}

/* By what takes part in running values, and by nothing else. */
static void bad_momentum_is_refused_by_forward(void **state) {
    (void)state;
    static const float momentum[] = {-0.1f, 1.1f, -2, NAN, INFINITY};
    for (size_t k = 0; k < COUNT_OF(momentum); k++) {
        now.layer.options.momentum = momentum[k];
        refused(BAD_OPTION, bn_layer_forward(&now.layer, N, x, y));
        refused(BAD_OPTION, forward_by((bn_batch){.n = N}));
        refused(BAD_OPTION, forward_by((bn_batch){.n = 0}));
        assert_ok(forward_by((bn_batch){.n = N, .skip_running_update = true}));
        assert_ok(forward((bn_batch){.n = N, .skip_running_update = true}));
        assert_ok(forward((bn_batch){.n = 0}));
        now.layer.frozen = true;
        assert_ok(bn_layer_forward(&now.layer, N, x, y));
        now.layer.frozen = false;
        assert_ok(bn_layer_infer(&now.layer, N, x, y));
        assert_ok(bn_layer_backward(&now.layer, N, x, dy, dx));
        assert_ok(bn_layer_affine(&now.layer, dx, y));
        assert_ok(bn_layer_fold(&now.layer, 1, dx, y));
        assert_ok(bn_layer_fold_transposed(&now.layer, 1, 1, 1, dx, y));
        assert_ok(bn_layer_fold_next(&now.layer, 1, 1, dx, y));
    }
}

static void dtypes_that_do_not_exist_are_refused(void **state) {
    (void)state;
    batch_refused(BAD_OPTION, .n = N, .dtype = (bn_dtype)(BN_DTYPE_F16 + 1));
    batch_refused(BAD_OPTION, .n = N, .dtype = (bn_dtype)-1);
}

static void bad_weights_are_refused(void **state) {
    (void)state;
    static const float bad[] = {-1, -FLT_MIN, NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        for (size_t i = 0; i < N; i++) {
            const float good = weights[i];
            weights[i] = bad[k];
            batch_refused(BAD_OPTION, .n = N, .sample_weight = weights);
            weights[i] = good;
        }
    }
}

/* In a vector and behind it, with and without weights of samples, of 0 too. */
static void bad_weights_of_positions_are_refused(void **state) {
    (void)state;
    static const float bad[] = {-1, -FLT_MIN, -1e-45f, NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        for (size_t i = 0; i < 6 * N; i++) {
            const float good = positions[i];
            positions[i] = bad[k];
            for (size_t spatial = i < N ? 1 : i < 2 * N ? 2 : 6; spatial <= 6; spatial += 5) {
                batch_refused(BAD_OPTION, .n = N, .spatial = spatial, .position_weight = positions);
                for (int weight = 1; weight >= 0; weight--) {
                    weights[i / spatial] = (float)weight;
                    batch_refused(BAD_OPTION, .n = N, .spatial = spatial, .sample_weight = weights,
                                  .position_weight = positions);
                }
                weights[i / spatial] = 1;
            }
            positions[i] = good;
        }
        weights[N - 1] = bad[k];
        batch_refused(BAD_OPTION, .n = N, .sample_weight = weights, .position_weight = positions);
        batch_refused(BAD_OPTION, .n = N, .spatial = 2, .sample_weight = weights,
                      .position_weight = positions);
        weights[N - 1] = 1;
    }
    positions[0] = -0.0f;
    assert_ok(infer((bn_batch){.n = N, .position_weight = positions}));
    assert_ok(infer((bn_batch){.n = N, .spatial = 2, .position_weight = positions}));
}

/* Each is finite, but w is their product. */
static void products_of_weights_beyond_float_are_refused(void **state) {
    (void)state;
    static const float beyond[][2] = {
        {0x1p64f, 0x1p64f}, {FLT_MAX, FLT_MAX}, {FLT_MAX, 1 + FLT_EPSILON}};
    static const float within[][2] = {{FLT_MAX, 1}, {0x1p64f, 0x1.fffffep63f}, {0, FLT_MAX}};
    for (size_t k = 0; k < 9 * N; k++) {
        positions[k] = 0.75f;
    }
    for (size_t spatial = 1; spatial <= 9; spatial += 4) {
        const size_t last = N * spatial - 1;
        const bn_batch batch = {
            .n = N, .spatial = spatial, .sample_weight = weights, .position_weight = positions};
        for (size_t k = 0; k < 2 * COUNT_OF(beyond); k++) {
            weights[N - 1] = beyond[k / 2][k % 2];
            positions[last] = beyond[k / 2][1 - k % 2];
            refused(BAD_OPTION, forward(batch));
            refused(BAD_OPTION, infer(batch));
            refused(BAD_OPTION, backward(batch));
            refused(BAD_OPTION, add(batch));
            refused(BAD_OPTION, forward_by(batch));
            refused(BAD_OPTION, add_gradients(batch));
            refused(BAD_OPTION, backward_by(batch));
            positions[last] = 1;
            weights[N - 1] = within[k / 2][k % 2];
            positions[last] = within[k / 2][1 - k % 2];
            assert_ok(infer(batch));
            weights[N - 1] = positions[last] = 1;
        }
    }
}

static void dresidual_without_residual_is_refused(void **state) {
    (void)state;
    refused(BAD_OPTION, backward((bn_batch){.n = N, .dresidual = dresidual}));
    refused(BAD_OPTION, backward_by((bn_batch){.n = N, .dresidual = dresidual}));
    assert_ok(add_gradients((bn_batch){.n = N, .dresidual = dresidual})); /* not looked at */
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

/* The number of samples or positions decides, not the buffers, so that no memory is needed. Of the
 * calls of backward those with the n and the spatial of the forward before can be told apart from
 * BN_STATUS_BAD_STATE. */
static void sizes_that_overflow_are_refused(void **state) {
    (void)state;
    static const size_t rows[] = {SIZE_MAX,
                                  SIZE_MAX / D + 1,
                                  SIZE_MAX / D,
                                  SIZE_MAX / 4 / D + 1,
                                  PTRDIFF_MAX / D + 1,
                                  PTRDIFF_MAX / 4 / D + 1};
    for (size_t k = 0; k < COUNT_OF(rows); k++) {
        refused(BAD_SHAPE, bn_layer_forward(&now.layer, rows[k], x, y));
        refused(BAD_SHAPE, bn_layer_infer(&now.layer, rows[k], x, y));
        refused(BAD_SHAPE, forward((bn_batch){.n = rows[k]}));
        refused(BAD_SHAPE, infer((bn_batch){.n = rows[k]}));
        refused(BAD_SHAPE, add((bn_batch){.n = rows[k]}));
        part_refused(BAD_SHAPE, .n = rows[k]);
        refused(BAD_SHAPE, bn_layer_fold(&now.layer, rows[k], x, y));
        refused(BAD_SHAPE, bn_layer_fold_transposed(&now.layer, 1, rows[k], 1, x, y));
        refused(BAD_SHAPE, bn_layer_fold_transposed(&now.layer, D, 1, rows[k], x, y));
        refused(BAD_SHAPE, bn_layer_fold_transposed(&now.layer, D, rows[k], SIZE_MAX, x, y));
        refused(BAD_SHAPE, bn_layer_fold_next(&now.layer, rows[k], 1, x, y));
        refused(BAD_SHAPE, bn_layer_fold_next(&now.layer, 1, rows[k], x, y));
        refused(BAD_SHAPE, bn_layer_fold_next(&now.layer, SIZE_MAX, rows[k], x, y));
    }
    refused(BAD_SHAPE, bn_layer_fold_next(&now.layer, PTRDIFF_MAX / 4 + 1, 0, NULL, y));
    static const size_t spatial[] = {SIZE_MAX,
                                     SIZE_MAX / D,
                                     SIZE_MAX / D + 1,
                                     SIZE_MAX / SIZE + 1,
                                     PTRDIFF_MAX / SIZE + 1,
                                     PTRDIFF_MAX / 4 / SIZE + 1};
    for (size_t k = 0; k < COUNT_OF(spatial); k++) {
        refused(BAD_SHAPE, forward((bn_batch){.n = N, .spatial = spatial[k]}));
        refused(BAD_SHAPE, infer((bn_batch){.n = N, .spatial = spatial[k]}));
        refused(BAD_SHAPE, add((bn_batch){.n = N, .spatial = spatial[k]}));
        part_refused(BAD_SHAPE, .n = N, .spatial = spatial[k]);
    }
    static const size_t strides[] = {SIZE_MAX, SIZE_MAX / N + 1, SIZE_MAX / 4 / N + 2,
                                     PTRDIFF_MAX / N * 2, PTRDIFF_MAX / 4 / (N - 1) + 1};
    for (size_t k = 0; k < COUNT_OF(strides); k++) {
        batch_refused(BAD_SHAPE, .n = N, .x_stride = strides[k]);
        refused(BAD_SHAPE, forward((bn_batch){.n = N, .y_stride = strides[k]}));
        refused(BAD_SHAPE, infer((bn_batch){.n = N, .y_stride = strides[k]}));
        refused(BAD_SHAPE, backward((bn_batch){.n = N, .y_stride = strides[k]}));
        part_refused(BAD_SHAPE, .n = N, .y_stride = strides[k]);
    }
}

/* It is a matter of bytes: a pointer is looked at only where the shape is good. */
static void twice_as_many_halves_fit(void **state) {
    (void)state;
    for (bn_dtype dtype = BN_DTYPE_F32; dtype <= BN_DTYPE_F16; dtype++) {
        const size_t most = (size_t)PTRDIFF_MAX / (dtype == BN_DTYPE_F32 ? 4 : 2) / D;
        bn_batch batch = {.n = most, .dtype = dtype};
        refused(NULL_POINTER, bn_layer_forward_batch(&now.layer, &batch, NULL, y));
        refused(NULL_POINTER, bn_layer_infer_batch(&now.layer, &batch, NULL, y));
        refused(NULL_POINTER, bn_moments_add(&now.moments, &batch, NULL));
        batch.n = most + 1;
        refused(BAD_SHAPE, bn_layer_forward_batch(&now.layer, &batch, NULL, y));
        refused(BAD_SHAPE, bn_layer_infer_batch(&now.layer, &batch, NULL, y));
        refused(BAD_SHAPE, bn_moments_add(&now.moments, &batch, NULL));
    }
}

static void strides_shorter_than_a_row_are_refused(void **state) {
    (void)state;
    for (size_t stride = 1; stride < D; stride++) {
        batch_refused(BAD_SHAPE, .n = N, .x_stride = stride);
        refused(BAD_SHAPE, forward((bn_batch){.n = N, .y_stride = stride}));
        refused(BAD_SHAPE, infer((bn_batch){.n = N, .y_stride = stride}));
        refused(BAD_SHAPE, backward((bn_batch){.n = N, .y_stride = stride}));
        part_refused(BAD_SHAPE, .n = N, .y_stride = stride);
    }
    assert_ok(forward((bn_batch){.n = N, .spatial = 4}));
    batch_refused(BAD_SHAPE, .n = N, .spatial = 4, .x_stride = 4 * D - 1);
    refused(BAD_SHAPE, backward((bn_batch){.n = N, .spatial = 4, .y_stride = 4 * D - 1}));
}

static void moments_of_other_features_are_refused(void **state) {
    (void)state;
    bn_moments other;
    assert_ok(bn_moments_init(&other, D + 1));
    refused(BAD_SHAPE, bn_moments_merge(&now.moments, &other));
    refused(BAD_SHAPE, bn_moments_merge(&other, &now.moments));
    refused(BAD_SHAPE, bn_layer_set_running(&now.layer, &other));
    bn_moments_free(&other);
}

static void parts_of_other_features_are_refused(void **state) {
    (void)state;
    bn_moments moments;
    bn_gradients gradients;
    const bn_batch part = as_part((bn_batch){.n = N});
    assert_ok(bn_moments_init(&moments, D + 1));
    assert_ok(bn_gradients_init(&gradients, D + 1));
    refused(BAD_SHAPE, bn_layer_forward_by(&now.layer, &moments, &part, x, y));
    refused(BAD_SHAPE, bn_gradients_add(&gradients, &now.layer, &part, x, dy));
    refused(BAD_SHAPE, bn_gradients_merge(&now.gradients, &gradients));
    refused(BAD_SHAPE, bn_gradients_merge(&gradients, &now.gradients));
    refused(BAD_SHAPE, bn_layer_backward_by(&now.layer, &gradients, &part, x, dy, dx));
    refused(BAD_SHAPE, bn_layer_set_gradients(&now.layer, &gradients, false));
    bn_moments_free(&moments);
    bn_gradients_free(&gradients);
}

/* ---- Too few values -------------------------------------------------------------------------- */

static void training_on_one_value_is_refused(void **state) {
    (void)state;
    refused(TOO_FEW_VALUES, bn_layer_forward(&now.layer, 1, x, y));
    refused(TOO_FEW_VALUES, forward((bn_batch){.n = 1}));
    refused(TOO_FEW_VALUES, forward((bn_batch){.n = 1, .spatial = 1}));
    refused(TOO_FEW_VALUES, forward((bn_batch){.n = 1, .skip_running_update = true}));
    assert_ok(forward((bn_batch){.n = 1, .spatial = 2}));
    assert_ok(bn_layer_infer(&now.layer, 1, x, y));
    now.layer.frozen = true;
    assert_ok(bn_layer_forward(&now.layer, 1, x, y));
    assert_ok(bn_layer_backward(&now.layer, 1, x, dy, dx));
}

/* W is what counts, not the samples. */
static void training_on_too_little_weight_is_refused(void **state) {
    (void)state;
    static const float too_light[][N] = {
        {0, 0, 0, 0}, {0, 1, 0, 0}, {0.5f, 0, 0.5f, 0}, {0.25f, 0.25f, 0.25f, 0.25f}, {1e-30f}};
    static const float enough[N] = {0.5f, 0, 0.75f, 0};
    for (size_t k = 0; k < COUNT_OF(too_light); k++) {
        const bn_batch batch = {.n = N, .sample_weight = too_light[k]};
        refused(TOO_FEW_VALUES, forward(batch));
        refused(TOO_FEW_VALUES, backward(batch)); /* the forward before had more */
        assert_ok(infer(batch));
    }
    static const float light[2 * N] = {0, 0, 0.5f, 0, 0, 0, 0, 0.5f};
    static const float two[N] = {2, 2, 2, 2};
    refused(TOO_FEW_VALUES, forward((bn_batch){.n = N, .position_weight = too_light[1]}));
    refused(TOO_FEW_VALUES, backward((bn_batch){.n = N, .position_weight = too_light[1]}));
    refused(TOO_FEW_VALUES, forward((bn_batch){.n = N, .spatial = 2, .position_weight = light}));
    refused(TOO_FEW_VALUES, forward((bn_batch){.n = 1, .spatial = 8, .position_weight = light}));
    const bn_batch heavier = {.n = N, .spatial = 2, .sample_weight = two, .position_weight = light};
    assert_ok(forward(heavier));
    refused(TOO_FEW_VALUES, backward((bn_batch){.n = N, .spatial = 2, .position_weight = light}));
    assert_ok(backward(heavier));
    assert_ok(forward((bn_batch){.n = N, .spatial = 2, .sample_weight = too_light[1]}));
    assert_ok(forward((bn_batch){.n = N, .sample_weight = enough}));
    now.layer.frozen = true;
    assert_ok(forward((bn_batch){.n = N, .sample_weight = too_light[0]}));
    assert_ok(backward((bn_batch){.n = N, .sample_weight = too_light[0]}));
}

static void inference_by_one_value_is_refused(void **state) {
    (void)state;
    static const float one[N] = {0, 0, 1, 0};
    bn_options options = bn_options_default();
    options.track_running = false;
    set_up_again(&options);
    refused(TOO_FEW_VALUES, bn_layer_infer(&now.layer, 1, x, y));
    refused(TOO_FEW_VALUES, infer((bn_batch){.n = 1, .spatial = 1}));
    refused(TOO_FEW_VALUES, infer((bn_batch){.n = N, .sample_weight = one}));
    refused(TOO_FEW_VALUES, infer((bn_batch){.n = 2, .spatial = 2, .position_weight = one}));
    assert_ok(infer((bn_batch){.n = 1, .spatial = 2}));
}

static void the_variance_of_one_value_is_no_population_s(void **state) {
    (void)state;
    static const float one[N] = {0.5f, 0.5f, 0, 0};
    bn_moments few;
    assert_ok(bn_moments_init(&few, D));
    refused(TOO_FEW_VALUES, bn_layer_set_running(&now.layer, &few));
    assert_ok(bn_moments_add(&few, &(bn_batch){.n = N, .sample_weight = one}, x));
    assert_true(few.count == 1);
    refused(TOO_FEW_VALUES, bn_layer_set_running(&now.layer, &few));
    bn_moments_free(&few);
}

/* Of the whole: a part may have one value, or no weight. */
static void a_whole_of_one_value_is_refused(void **state) {
    (void)state;
    static const double few[] = {1, 0.5, 0, -1, -INFINITY, NAN};
    static const float nothing[N] = {0};
    const double enough = now.moments.count;
    assert_ok(forward_by((bn_batch){.n = 1}));
    assert_ok(add_gradients((bn_batch){.n = 1}));
    assert_ok(backward_by((bn_batch){.n = 1}));
    assert_ok(forward_by((bn_batch){.n = N, .sample_weight = nothing}));
    assert_ok(add_gradients((bn_batch){.n = N, .sample_weight = nothing}));
    assert_ok(backward_by((bn_batch){.n = N, .sample_weight = nothing}));
    for (size_t k = 0; k < COUNT_OF(few); k++) {
        now.moments.count = now.gradients.count = few[k];
        refused(TOO_FEW_VALUES, forward_by((bn_batch){.n = N}));
        refused(TOO_FEW_VALUES, backward_by((bn_batch){.n = N}));
    }
    now.moments.count = few[0];
    refused(TOO_FEW_VALUES, forward_by((bn_batch){.n = 0}));
    now.moments.count = now.gradients.count = enough;
    assert_ok(forward_by((bn_batch){.n = N}));
    assert_ok(backward_by((bn_batch){.n = N}));
    now.layer.frozen = true; /* which looks into none */
    now.moments.count = NAN;
    now.moments.m2[0] = -1;
    assert_ok(forward_by((bn_batch){.n = N}));
}

/* ---- State ----------------------------------------------------------------------------------- */

static void backward_without_its_forward_is_refused(void **state) {
    (void)state;
    refused(BAD_STATE, bn_layer_backward(&now.layer, N - 1, x, dy, dx));
    refused(BAD_STATE, bn_layer_backward(&now.layer, N + 1, x, dy, dx));
    refused(BAD_STATE, backward((bn_batch){.n = N, .spatial = 2}));
    refused(BAD_STATE, backward((bn_batch){.n = N / 2, .spatial = 2}));
    assert_ok(backward((bn_batch){.n = N, .spatial = 1}));
    assert_ok(forward((bn_batch){.n = N, .spatial = 2}));
    refused(BAD_STATE, backward((bn_batch){.n = N}));
    refused(BAD_STATE, backward((bn_batch){.n = 2 * N}));
}

/* Whose tensors are larger, or smaller, or as large. */
static void backward_of_another_type_is_refused(void **state) {
    (void)state;
    memset(x, 0, N * D * sizeof *x); /* numbers of any type */
    for (size_t k = 0; k < 12; k++) {
        const bn_batch first = {
            .n = N, .dtype = (bn_dtype)(k % 3), .cache = k % 2 ? now.cache : NULL};
        now.layer.frozen = k >= 6;
        assert_ok(forward(first));
        for (size_t other = 1; other < 3; other++) {
            bn_batch batch = first;
            batch.dtype = (bn_dtype)((k + other) % 3);
            refused(BAD_STATE, backward(batch));
            refused(BAD_STATE, bn_gradients_add(&now.gradients, &now.layer, &batch, x, dy));
            refused(BAD_STATE, bn_layer_backward_by(&now.layer, &now.gradients, &batch, x, dy, dx));
        }
    }
}

static void backward_of_a_new_layer_is_refused(void **state) {
    (void)state;
    bn_layer_free(&now.layer);
    assert_ok(bn_layer_init(&now.layer, D, NULL));
    refused(BAD_STATE, bn_layer_backward(&now.layer, N, x, dy, dx));
    refused(BAD_STATE, backward((bn_batch){.n = N}));
    assert_ok(bn_layer_infer(&now.layer, N, x, y));   /* no forward */
    assert_ok(bn_layer_forward(&now.layer, 0, x, y)); /* no batch */
    refused(BAD_STATE, bn_layer_backward(&now.layer, N, x, dy, dx));
}

/* A refused forward is none: the one before it still counts. */
static void a_refused_forward_leaves_the_one_before(void **state) {
    (void)state;
    refused(BAD_SHAPE, forward((bn_batch){.n = N - 1, .x_stride = 1}));
    refused(TOO_FEW_VALUES, bn_layer_forward(&now.layer, 1, x, y));
    assert_ok(bn_layer_backward(&now.layer, N, x, dy, dx));
}

static void frozen_without_running_values_is_refused(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.track_running = false;
    set_up_again(&options);
    now.layer.frozen = true;
    refused(BAD_STATE, bn_layer_forward(&now.layer, N, x, y));
    refused(BAD_STATE, bn_layer_affine(&now.layer, x, y));
    refused(BAD_STATE, bn_layer_fold(&now.layer, 1, x, y));
    refused(BAD_STATE, bn_layer_fold_transposed(&now.layer, 1, 1, 1, x, y));
    refused(BAD_STATE, bn_layer_fold_next(&now.layer, 1, 1, x, y));
    refused(BAD_STATE, bn_layer_set_running(&now.layer, &now.moments));
    refused(BAD_STATE, forward_by((bn_batch){.n = N}));
}

/* A part's backward without its forward; that of one with a cache is of one n and spatial. */
static void a_part_without_its_forward_is_refused(void **state) {
    (void)state;
    bn_layer fresh;
    static unsigned char none[CACHE_ROOM];
    const bn_batch own = {.n = N};
    assert_ok(bn_layer_init(&fresh, D, NULL));
    refused(BAD_STATE, bn_gradients_add(&now.gradients, &fresh, &own, x, dy));
    refused(BAD_STATE, bn_layer_backward_by(&fresh, &now.gradients, &own, x, dy, dx));
    bn_gradients sums;
    assert_ok(bn_gradients_init(&sums, D));
    sums.count = N;
    sums.sum_g[1] = 1;
    refused(BAD_STATE, bn_layer_set_gradients(&fresh, &sums, false));
    assert_ok(bn_layer_forward_by(&fresh, &now.moments, &(bn_batch){.n = 0}, NULL, NULL));
    assert_ok(bn_layer_set_gradients(&fresh, &sums, false));
    assert_true(fresh.dbeta[1] == 1.0f && fresh.dbeta[0] == 0.0f);
    bn_gradients_free(&sums);
    bn_layer_free(&fresh);

    static const bn_batch others[] = {{.n = N - 1},
                                      {.n = N + 1},
                                      {.n = N, .spatial = 2},
                                      {.n = N / 2, .spatial = 2},
                                      {.n = N, .cache = none}};
    for (size_t k = 0; k < COUNT_OF(others); k++) {
        refused(BAD_STATE, add_gradients(others[k]));
        refused(BAD_STATE, backward_by(others[k]));
    }
    assert_ok(add_gradients((bn_batch){.n = N, .spatial = 1}));
}

/* The layer's own cache serves parts of any shape, but of parts alone. */
static void the_layer_s_own_cache_serves_all_parts(void **state) {
    (void)state;
    bn_layer *layer = &now.layer;
    static const bn_batch batches[] = {{.n = N}, {.n = 1}, {.n = 1, .spatial = 3}, {.n = 2 * N}};
    assert_ok(bn_layer_forward_by(layer, &now.moments, &batches[1], x, y));
    refused(BAD_STATE, bn_layer_backward_batch(layer, &batches[1], x, dy, dx));
    for (size_t k = 0; k < COUNT_OF(batches); k++) {
        assert_ok(bn_gradients_add(&now.gradients, layer, &batches[k], x, dy));
        assert_ok(bn_layer_backward_by(layer, &now.gradients, &batches[k], x, dy, dx));
    }
    const bn_batch halves = {.n = 1, .dtype = BN_DTYPE_F16};
    refused(BAD_STATE, bn_gradients_add(&now.gradients, layer, &halves, x, dy));
    refused(BAD_STATE, bn_layer_backward_by(layer, &now.gradients, &halves, x, dy, dx));
    refused(BAD_STATE, backward((bn_batch){.n = N, .cache = now.cache}));
    assert_ok(bn_layer_forward(layer, N, x, y));
    assert_ok(bn_layer_backward(layer, N, x, dy, dx));
}

static void constants_do_not_mix_with_statistics(void **state) {
    (void)state;
    bn_gradients constant;
    unsigned char cache[CACHE_ROOM];
    const bn_batch part = as_part((bn_batch){.n = N});
    const bn_batch frozen = {.n = N, .cache = cache}, empty = {.n = 0, .cache = cache};
    bn_layer *layer = &now.layer;
    assert_ok(bn_gradients_init(&constant, D));
    layer->frozen = true;
    assert_ok(bn_layer_forward_by(layer, &now.moments, &frozen, x, y));
    layer->frozen = false; /* it is the forward that counts */
    refused(BAD_STATE, bn_gradients_add(&now.gradients, layer, &frozen, x, dy));
    refused(BAD_STATE, bn_layer_backward_by(layer, &now.gradients, &frozen, x, dy, dx));
    assert_ok(bn_gradients_add(&constant, layer, &frozen, x, dy));
    refused(BAD_STATE, bn_gradients_add(&constant, layer, &part, x, dy));
    refused(BAD_STATE, bn_layer_backward_by(layer, &constant, &part, x, dy, dx));
    refused(BAD_STATE, bn_gradients_merge(&now.gradients, &constant));
    refused(BAD_STATE, bn_gradients_merge(&constant, &now.gradients));
    assert_ok(bn_layer_backward_by(layer, &constant, &frozen, x, dy, dx));
    bn_gradients_free(&constant);

    /* What has seen nothing, or empty parts alone, mixes with all. */
    assert_ok(bn_gradients_init(&constant, D));
    assert_ok(bn_gradients_merge(&now.gradients, &constant));
    layer->frozen = true;
    assert_ok(bn_layer_forward_by(layer, &now.moments, &empty, NULL, NULL));
    assert_ok(bn_gradients_add(&constant, layer, &empty, NULL, NULL));
    refused(BAD_STATE, bn_gradients_add(&now.gradients, layer, &empty, NULL, NULL));
    assert_ok(bn_gradients_add(&constant, layer, &part, x, dy));
    bn_gradients_free(&constant);
}

static void layers_that_only_infer_have_no_parts(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.inference_only = true;
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, D, &options));
    for (size_t n = 0; n <= N; n += N) {
        const bn_batch part = as_part((bn_batch){.n = n});
        refused(BAD_STATE, bn_layer_forward_by(&layer, &now.moments, &part, x, y));
        refused(BAD_STATE, bn_gradients_add(&now.gradients, &layer, &part, x, dy));
        refused(BAD_STATE, bn_layer_backward_by(&layer, &now.gradients, &part, x, dy, dx));
    }
    refused(BAD_STATE, bn_layer_set_gradients(&layer, &now.gradients, false));
    bn_layer_free(&layer);
}

static void zeroed_and_freed_gradients_are_refused(void **state) {
    (void)state;
    bn_gradients none = {0}, freed;
    const bn_batch part = as_part((bn_batch){.n = N});
    assert_ok(bn_gradients_init(&freed, D));
    bn_gradients_free(&freed);
    bn_gradients *const absent[] = {&none, &freed};
    for (size_t k = 0; k < COUNT_OF(absent); k++) {
        assert_true(absent[k]->num_features == 0 && !absent[k]->sum_g && !absent[k]->sum_gx);
        refused(BAD_STATE, bn_gradients_add(absent[k], &now.layer, &part, x, dy));
        refused(BAD_STATE, bn_gradients_merge(absent[k], &now.gradients));
        refused(BAD_STATE, bn_gradients_merge(&now.gradients, absent[k]));
        refused(BAD_STATE, bn_layer_backward_by(&now.layer, absent[k], &part, x, dy, dx));
        refused(BAD_STATE, bn_layer_set_gradients(&now.layer, absent[k], false));
        bn_gradients_free(absent[k]);
    }
    bn_gradients_free(NULL);
}

static void check_no_layer(void) {
    bn_layer *layer = &now.layer;
    const bn_batch batch = {.n = N};
    refused(BAD_STATE, bn_layer_forward(layer, N, x, y));
    refused(BAD_STATE, bn_layer_infer(layer, N, x, y));
    refused(BAD_STATE, bn_layer_backward(layer, N, x, dy, dx));
    refused(BAD_STATE, bn_layer_forward_batch(layer, &batch, x, y));
    refused(BAD_STATE, bn_layer_infer_batch(layer, &batch, x, y));
    refused(BAD_STATE, bn_layer_backward_batch(layer, &batch, x, dy, dx));
    refused(BAD_STATE, bn_layer_affine(layer, x, y));
    refused(BAD_STATE, bn_layer_fold(layer, 1, x, y));
    refused(BAD_STATE, bn_layer_fold_transposed(layer, 1, 1, 1, x, y));
    refused(BAD_STATE, bn_layer_fold_next(layer, 1, 1, x, y));
    refused(BAD_STATE, bn_layer_set_running(layer, &now.moments));
    part_refused(BAD_STATE, .n = N);
    refused(BAD_STATE, bn_layer_set_gradients(layer, &now.gradients, false));
    assert_null(bn_layer_isa(layer));
    bn_param params[2];
    assert_int_equal(bn_layer_params(layer, params), 0);
}

static void zeroed_and_freed_layers_are_refused(void **state) {
    (void)state;
    bn_layer_free(&now.layer);
    check_no_layer();
    memset(&now.layer, 0, sizeof now.layer);
    check_no_layer();
}

static void zeroed_and_freed_moments_are_refused(void **state) {
    (void)state;
    bn_moments none = {0}, freed;
    assert_ok(bn_moments_init(&freed, D));
    bn_moments_free(&freed);
    bn_moments *const absent[] = {&none, &freed};
    for (size_t k = 0; k < COUNT_OF(absent); k++) {
        refused(BAD_STATE, bn_moments_add(absent[k], &(bn_batch){.n = N}, x));
        refused(BAD_STATE, bn_moments_merge(absent[k], &now.moments));
        refused(BAD_STATE, bn_moments_merge(&now.moments, absent[k]));
        refused(BAD_STATE, bn_layer_set_running(&now.layer, absent[k]));
        const bn_batch part = as_part((bn_batch){.n = N});
        refused(BAD_STATE, bn_layer_forward_by(&now.layer, absent[k], &part, x, y));
    }
}

/* ---- Not finite ------------------------------------------------------------------------------ */

static void moments_stay_finite(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        x[D + 1] = bad[k];
        refused(NOT_FINITE, add((bn_batch){.n = N}));
    }
}

/* Data of floats does not get there in a lifetime, so the moments are told. */
static void merged_moments_stay_finite(void **state) {
    (void)state;
    bn_moments other;
    assert_ok(bn_moments_init(&other, D));
    assert_ok(bn_moments_add(&other, &(bn_batch){.n = N}, x));
    now.moments.m2[1] = other.m2[1] = DBL_MAX;
    refused(NOT_FINITE, bn_moments_merge(&now.moments, &other));
    refused(NOT_FINITE, bn_moments_merge(&now.moments, &now.moments));
    now.moments.m2[1] = other.m2[1] = 1;
    other.mean[D - 1] = NAN;
    refused(NOT_FINITE, bn_moments_merge(&now.moments, &other));
    refused(NOT_FINITE, bn_layer_set_running(&now.layer, &other));
    bn_moments_free(&other);
}

/* y and the cache are written, and nothing of the layer's. */
static void check_not_normalized(void) {
    snapshot before = snapshot_take(&now.layer);
    fill_pattern(y, SIZE * sizeof *y);
    memset(now.cache, 0, sizeof now.cache);
    assert_status(forward_by((bn_batch){.n = N}), BN_STATUS_NOT_FINITE);
    snapshot_check(&before, &now.layer);
    snapshot_free(&before);
    float unwritten;
    fill_pattern(&unwritten, sizeof unwritten);
    for (size_t k = 0; k < SIZE; k++) {
        assert_true(y[k] != unwritten);
    }
    assert_int_not_equal(backward_by((bn_batch){.n = N}), BN_STATUS_BAD_STATE); /* the cache */
}

static void what_are_no_moments_is_not_finite(void **state) {
    (void)state;
    static const double bad_mean[] = {NAN, INFINITY, -INFINITY, 1e300};
    static const double bad_m2[] = {-1e-300, -1, -INFINITY, NAN, INFINITY, 1e300};
    for (size_t d = 0; d < D; d++) {
        const double mean = now.moments.mean[d], m2 = now.moments.m2[d];
        for (size_t k = 0; k < COUNT_OF(bad_mean); k++) {
            now.moments.mean[d] = bad_mean[k];
            check_not_normalized();
        }
        now.moments.mean[d] = mean;
        for (size_t k = 0; k < COUNT_OF(bad_m2); k++) {
            now.moments.m2[d] = bad_m2[k];
            check_not_normalized();
        }
        now.moments.m2[d] = m2;
    }
    now.moments.count = INFINITY;
    check_not_normalized();
    now.moments.count = N;
    assert_ok(forward_by((bn_batch){.n = N}));
}

static void gradient_sums_stay_finite(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        const float good = dy[D + 1];
        dy[D + 1] = bad[k];
        refused(NOT_FINITE, add_gradients((bn_batch){.n = N}));
        dy[D + 1] = good;
    }
    bn_gradients other;
    assert_ok(bn_gradients_init(&other, D));
    double *const sums[] = {&other.count, &other.sum_g[1], &other.sum_gx[D - 1]};
    for (size_t k = 0; k < COUNT_OF(sums) * COUNT_OF(bad); k++) {
        *sums[k % COUNT_OF(sums)] = (double)bad[k / COUNT_OF(sums)];
        refused(NOT_FINITE, bn_gradients_merge(&now.gradients, &other));
        *sums[k % COUNT_OF(sums)] = 0;
    }
    other.sum_g[0] = now.gradients.sum_g[0] = DBL_MAX;
    refused(NOT_FINITE, bn_gradients_merge(&now.gradients, &other));
    bn_gradients_free(&other);
}

/* Others may have added up the sums, and not well. */
static void sums_that_are_not_finite_are_no_gradients(void **state) {
    (void)state;
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    double *const sums[] = {&now.gradients.sum_g[1], &now.gradients.sum_gx[D - 1]};
    for (size_t k = 0; k < COUNT_OF(sums) * COUNT_OF(bad); k++) {
        double *const sum = sums[k % COUNT_OF(sums)], good = *sum;
        *sum = bad[k / COUNT_OF(sums)];
        refused(NOT_FINITE, bn_layer_set_gradients(&now.layer, &now.gradients, false));
        refused(NOT_FINITE, bn_layer_set_gradients(&now.layer, &now.gradients, true));
        snapshot before = snapshot_take(&now.layer);
        fill_pattern(dx, SIZE * sizeof *dx);
        assert_status(backward_by((bn_batch){.n = N}), BN_STATUS_NOT_FINITE);
        snapshot_check(&before, &now.layer);
        snapshot_free(&before);
        const size_t spoilt = k % COUNT_OF(sums) == 0 ? 1 : D - 1;
        for (size_t i = 0; i < SIZE; i++) {
            assert_true(isfinite(dx[i]) != (i % D == spoilt));
        }
        *sum = good;
    }
}

static void a_count_that_is_not_finite_is_no_share(void **state) {
    (void)state;
    now.gradients.count = INFINITY;
    assert_status(backward_by((bn_batch){.n = N}), BN_STATUS_NOT_FINITE);
}

/* They are in dx all the same. */
static void sums_that_are_not_finite_and_not_learned(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.scale = options.shift = false;
    set_up_again(&options);
    double *const sums[] = {&now.gradients.sum_g[1], &now.gradients.sum_gx[D - 1]};
    for (size_t k = 0; k < COUNT_OF(sums); k++) {
        const double good = *sums[k];
        *sums[k] = NAN;
        assert_ok(bn_layer_set_gradients(&now.layer, &now.gradients, false));
        assert_status(backward_by((bn_batch){.n = N}), BN_STATUS_NOT_FINITE);
        *sums[k] = good;
    }
}

static void gradients_of_parts_stay_within_float(void **state) {
    (void)state;
    now.layer.dbeta[1] = FLT_MAX;
    now.gradients.sum_g[1] = (double)FLT_MAX;
    refused(NOT_FINITE, bn_layer_set_gradients(&now.layer, &now.gradients, true));
    assert_ok(bn_layer_set_gradients(&now.layer, &now.gradients, false));
    now.gradients.sum_gx[0] = 1e300;
    refused(NOT_FINITE, bn_layer_set_gradients(&now.layer, &now.gradients, false));
}

static void running_values_stay_within_float(void **state) {
    (void)state;
    bn_moments wide;
    assert_ok(bn_moments_init(&wide, D));
    x[1] = FLT_MAX;
    x[D + 1] = -FLT_MAX;
    assert_ok(bn_moments_add(&wide, &(bn_batch){.n = N}, x));
    refused(NOT_FINITE, bn_layer_set_running(&now.layer, &wide));
    bn_moments_free(&wide);
}

/* ---- Overlap --------------------------------------------------------------------------------- */

static void set_up_residual_and(bn_activation activation) {
    bn_options options = bn_options_default();
    options.activation = activation;
    set_up_again(&options);
}

static void set_up_residual_and_relu(void) {
    set_up_residual_and(BN_ACTIVATION_RELU);
}

static bn_batch with_everything(void) {
    return (bn_batch){
        .n = N, .sample_weight = weights, .residual = residual, .y = y, .dresidual = dresidual};
}

static void y_missing_behind_residual_and_activation_is_refused(void **state) {
    (void)state;
    for (int activation = BN_ACTIVATION_RELU; activation <= BN_ACTIVATION_CLIP; activation++) {
        set_up_residual_and((bn_activation)activation);
        bn_batch batch = with_everything();
        assert_ok(forward(batch));
        batch.y = NULL;
        refused(NULL_POINTER, backward(batch));
        batch.dresidual = NULL;
        refused(NULL_POINTER, backward(batch));
    }
}

static void y_missing_of_a_part_is_refused(void **state) {
    (void)state;
    set_up_residual_and(BN_ACTIVATION_RELU);
    bn_batch batch = with_everything();
    assert_ok(forward_by(batch));
    batch.y = NULL;
    refused(NULL_POINTER, add_gradients(batch));
    refused(NULL_POINTER, backward_by(batch));
}

/* Off by one element either way, and by all but one. */
static const ptrdiff_t partial[] = {1, -1, SIZE - 1, 1 - SIZE};

static void y_that_overlaps_is_refused(void **state) {
    (void)state;
    const bn_batch batch = with_everything();
    for (size_t k = 0; k < COUNT_OF(partial); k++) {
        refused(OVERLAP, bn_layer_forward(&now.layer, N, x, x + partial[k]));
        refused(OVERLAP, bn_layer_infer(&now.layer, N, x, x + partial[k]));
        refused(OVERLAP, bn_layer_forward_batch(&now.layer, &batch, x, x + partial[k]));
        refused(OVERLAP, bn_layer_infer_batch(&now.layer, &batch, x, x + partial[k]));
        refused(OVERLAP, bn_layer_forward_batch(&now.layer, &batch, x, residual + partial[k]));
        refused(OVERLAP, bn_layer_infer_batch(&now.layer, &batch, x, residual + partial[k]));
    }
    refused(OVERLAP, bn_layer_forward_batch(&now.layer, &batch, x, residual));
    refused(OVERLAP, bn_layer_infer_batch(&now.layer, &batch, x, residual));
    static const ptrdiff_t into_weights[] = {0, N - 1, 1 - SIZE};
    for (size_t k = 0; k < COUNT_OF(into_weights); k++) {
        float *into = weights + into_weights[k];
        refused(OVERLAP, bn_layer_forward_batch(&now.layer, &batch, x, into));
        refused(OVERLAP, bn_layer_infer_batch(&now.layer, &batch, x, into));
    }
}

static void dx_that_overlaps_is_refused(void **state) {
    (void)state;
    set_up_residual_and_relu();
    const bn_batch plain = {.n = N}, batch = with_everything();
    assert_ok(forward(batch));
    for (size_t k = 0; k < COUNT_OF(partial); k++) {
        float *const off[] = {x + partial[k], dy + partial[k]};
        for (size_t m = 0; m < COUNT_OF(off); m++) {
            refused(OVERLAP, bn_layer_backward(&now.layer, N, x, dy, off[m]));
            refused(OVERLAP, bn_layer_backward_batch(&now.layer, &plain, x, dy, off[m]));
            refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, off[m]));
        }
        refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, y + partial[k]));
        refused(OVERLAP,
                bn_layer_backward_batch(&now.layer, &batch, x, dy, dresidual + partial[k]));
    }
    refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, y));
    refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, dresidual));
    refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, weights));
    refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, weights + N - 1));
    refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, weights + 1 - SIZE));
}

static void dresidual_that_overlaps_is_refused(void **state) {
    (void)state;
    set_up_residual_and_relu();
    bn_batch batch = with_everything();
    assert_ok(forward(batch));
    for (size_t k = 0; k < COUNT_OF(partial); k++) {
        float *const off[] = {dy + partial[k], x + partial[k], dx + partial[k], y + partial[k]};
        for (size_t m = 0; m < COUNT_OF(off); m++) {
            batch.dresidual = off[m];
            refused(OVERLAP, backward(batch));
        }
    }
    float *const whole[] = {x, dx, y, weights, weights + N - 1};
    for (size_t m = 0; m < COUNT_OF(whole); m++) {
        batch.dresidual = whole[m];
        refused(OVERLAP, backward(batch));
    }
    batch.dresidual = dy;
    refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, dy)); /* it is dx then */
    assert_ok(backward(batch));
}

/* By each call and each of its outputs, at the first, at the last and before. */
static void outputs_over_the_weights_of_positions_are_refused(void **state) {
    (void)state;
    enum { S = 2, BACK = N * D * S - 1 };
    bn_layer *layer = &now.layer;
    bn_batch batch = {.n = N, .spatial = S, .position_weight = positions, .residual = residual};
    assert_ok(forward(batch));
    for (int both = 0; both < 2; both++) {
        static const ptrdiff_t into[] = {0, N * S - 1, -BACK};
        batch.sample_weight = both ? weights : NULL;
        for (size_t k = 0; k < COUNT_OF(into); k++) {
            float *const over = positions + into[k];
            refused(OVERLAP, bn_layer_forward_batch(layer, &batch, x, over));
            refused(OVERLAP, bn_layer_infer_batch(layer, &batch, x, over));
            refused(OVERLAP, bn_layer_backward_batch(layer, &batch, x, dy, over));
            batch.dresidual = over;
            refused(OVERLAP, backward(batch));
            batch.dresidual = NULL;
        }
        assert_ok(bn_layer_infer_batch(layer, &batch, x, positions + N * S));
        assert_ok(bn_layer_infer_batch(layer, &batch, x, positions - BACK - 1));
    }
}

/* Beside halves too weights are floats, down to the last byte of the last. */
static void halves_over_the_weights_are_refused(void **state) {
    (void)state;
    enum { S = 2 };
    for (bn_dtype dtype = BN_DTYPE_BF16; dtype <= BN_DTYPE_F16; dtype++) {
        const bn_batch samples = {.n = N, .dtype = dtype, .sample_weight = weights},
                       places = {
                           .n = N, .spatial = S, .dtype = dtype, .position_weight = positions};
        char *const behind = (char *)(weights + N), *const beyond = (char *)(positions + N * S);
        refused(OVERLAP, bn_layer_infer_batch(&now.layer, &samples, x, behind - 1));
        refused(OVERLAP, bn_layer_infer_batch(&now.layer, &places, x, beyond - 1));
        assert_ok(bn_layer_infer_batch(&now.layer, &samples, x, behind));
        assert_ok(bn_layer_infer_batch(&now.layer, &places, x, beyond));
    }
}

/* They may be another input as a whole, but not in part, and no array of the layer's. */
static void weights_that_are_another_input(void **state) {
    (void)state;
    bn_layer one;
    assert_ok(bn_layer_init(&one, 1, NULL));
    bn_batch same = {.n = N, .spatial = 3, .position_weight = x, .residual = x};
    assert_ok(bn_layer_forward_batch(&one, &same, x, y));
    assert_ok(bn_layer_backward_batch(&one, &same, x, x, dx));
    same = (bn_batch){.n = N, .sample_weight = x, .position_weight = x};
    assert_ok(bn_layer_forward_batch(&one, &same, x, y));
    bn_layer_free(&one);
    same = (bn_batch){.n = N, .sample_weight = weights, .position_weight = weights};
    assert_ok(forward(same));
    assert_ok(backward(same));
    assert_ok(add(same));
    batch_refused(OVERLAP, .n = N, .position_weight = x);
    batch_refused(OVERLAP, .n = N, .position_weight = x + SIZE - 1);
    batch_refused(OVERLAP, .n = N, .sample_weight = weights, .position_weight = weights + 1);
    refused(OVERLAP, forward((bn_batch){.n = D, .position_weight = now.layer.running_var}));
    refused(OVERLAP, backward((bn_batch){.n = D, .position_weight = now.layer.running_var}));
    refused(OVERLAP, infer((bn_batch){.n = D, .position_weight = now.layer.running_var}));
}

static void outputs_over_the_layer_s_arrays_are_refused(void **state) {
    (void)state;
    bn_layer *layer = &now.layer;
    float *const arrays[] = {layer->gamma,      layer->beta,         layer->dgamma,
                             layer->dbeta,      layer->running_mean, layer->running_var,
                             layer->saved_mean, layer->saved_invstd};
    bn_batch batch = {.n = N, .residual = residual};
    for (size_t k = 0; k < COUNT_OF(arrays); k++) {
        float *const last = arrays[k] + D - 1, *const first = arrays[k] - (SIZE - 1);
        float *const over[] = {arrays[k], last, first};
        for (size_t m = 0; m < COUNT_OF(over); m++) {
            refused(OVERLAP, bn_layer_forward(layer, N, x, over[m]));
            refused(OVERLAP, bn_layer_infer(layer, N, x, over[m]));
            refused(OVERLAP, bn_layer_backward(layer, N, x, dy, over[m]));
            batch.dresidual = over[m];
            refused(OVERLAP, backward(batch));
        }
        refused(OVERLAP, bn_layer_affine(layer, arrays[k], y));
        refused(OVERLAP, bn_layer_affine(layer, y, last));
        refused(OVERLAP, bn_layer_fold(layer, 2, arrays[k], y));
        refused(OVERLAP, bn_layer_fold(layer, 2, y, last));
        refused(OVERLAP, bn_layer_fold_transposed(layer, D, 2, 2, arrays[k] - (4 * D - 1), y));
        refused(OVERLAP, bn_layer_fold_transposed(layer, D, 2, 2, y, last));
        refused(OVERLAP, bn_layer_fold_next(layer, 2, 2, arrays[k] - (4 * D - 1), y));
        refused(OVERLAP, bn_layer_fold_next(layer, 2, 2, y, arrays[k] - 1));
    }
}

static void folded_outputs_that_overlap_are_refused(void **state) {
    (void)state;
    for (ptrdiff_t off = 1 - D; off < D; off++) {
        refused(OVERLAP, bn_layer_affine(&now.layer, x, x + off));
    }
    for (ptrdiff_t off = 1 - D; off < 2 * D; off++) {
        refused(OVERLAP, bn_layer_fold(&now.layer, 2, x, x + off));
    }
    for (ptrdiff_t off = 1 - D; off < 4 * D; off++) {
        refused(OVERLAP, bn_layer_fold_transposed(&now.layer, D, 2, 2, x, x + off));
    }
    for (ptrdiff_t off = 1 - 5; off < 5 * D; off++) {
        refused(OVERLAP, bn_layer_fold_next(&now.layer, 5, 1, x, x + off));
    }
    assert_ok(bn_layer_affine(&now.layer, x, x + D));
    assert_ok(bn_layer_fold(&now.layer, 2, x, x + 2 * D));
    assert_ok(bn_layer_fold_transposed(&now.layer, D, 2, 2, x, x + 4 * D));
    assert_ok(bn_layer_fold_transposed(&now.layer, D, 2, 2, x, x - D));
    assert_ok(bn_layer_fold_next(&now.layer, 5, 1, x, x + 5 * D));
    assert_ok(bn_layer_fold_next(&now.layer, 5, 1, x, x - 5));
}

static void groups_that_do_not_divide_the_features_are_refused(void **state) {
    (void)state;
    static const size_t groups[] = {0, 2, D + 1, 2 * D, SIZE_MAX};
    for (size_t k = 0; k < COUNT_OF(groups); k++) {
        refused(BAD_SHAPE, bn_layer_fold_transposed(&now.layer, groups[k], 1, 1, x, y));
        refused(BAD_SHAPE, bn_layer_fold_transposed(&now.layer, groups[k], 0, 0, NULL, y));
    }
}

/* The layer after would have to begin with it. */
static void no_activation_is_folded_into_the_next_layer(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.activation = BN_ACTIVATION_RELU;
    set_up_again(&options);
    now.layer.options.activation = BN_ACTIVATION_NONE; /* read at init, not here */
    refused(BAD_STATE, bn_layer_fold_next(&now.layer, 1, 1, x, y));
    refused(BAD_STATE, bn_layer_fold_next(&now.layer, 0, 0, NULL, NULL));
    assert_ok(bn_layer_fold(&now.layer, 1, x, y));
    assert_ok(bn_layer_fold_transposed(&now.layer, 1, 1, 1, x, y));
    set_up_again(NULL);
    now.layer.options.activation = BN_ACTIVATION_RELU;
    assert_ok(bn_layer_fold_next(&now.layer, 1, 1, x, y));
}

static void data_in_the_moments_arrays_is_refused(void **state) {
    (void)state;
    bn_moments *moments = &now.moments;
    const void *const arrays[] = {moments->mean, moments->m2};
    for (size_t k = 0; k < COUNT_OF(arrays); k++) {
        memset(k == 0 ? moments->mean : moments->m2, 0, D * sizeof(double)); /* good weights, too */
        refused(OVERLAP, bn_moments_add(moments, &(bn_batch){.n = 2}, arrays[k]));
        refused(OVERLAP, add((bn_batch){.n = N, .sample_weight = arrays[k]}));
        refused(OVERLAP, add((bn_batch){.n = 2, .spatial = 2, .position_weight = arrays[k]}));
    }
}

/* Moments, gradients and the cache of a part, each with what a call has beside it. */
static void parts_over_sums_and_caches_are_refused(void **state) {
    (void)state;
    bn_layer *layer = &now.layer;
    bn_moments *moments = &now.moments;
    bn_gradients *gradients = &now.gradients;
    const bn_batch part = as_part((bn_batch){.n = N});
    double *const of_moments[] = {moments->mean, moments->m2 + D - 1};
    double *const of_gradients[] = {gradients->sum_g, gradients->sum_gx + D - 1};
    for (size_t k = 0; k < 2; k++) {
        void *const over = of_moments[k], *const sums = of_gradients[k];
        refused(OVERLAP, bn_layer_forward_by(layer, moments, &part, x, over));
        refused(OVERLAP, forward_by((bn_batch){.n = N, .cache = over}));
        refused(OVERLAP, bn_gradients_add(gradients, layer, &part, sums, dy));
        refused(OVERLAP, bn_gradients_add(gradients, layer, &part, x, sums));
        refused(OVERLAP, bn_layer_backward_by(layer, gradients, &part, x, dy, sums));
        bn_batch batch = as_part((bn_batch){.n = N, .residual = residual, .dresidual = sums});
        refused(OVERLAP, bn_layer_backward_by(layer, gradients, &batch, x, dy, dx));
    }
    memset(gradients->sum_g, 0, D * sizeof(double)); /* good weights, too */
    refused(OVERLAP, add_gradients((bn_batch){.n = N, .sample_weight = (float *)gradients->sum_g}));
    refused(OVERLAP,
            add_gradients((bn_batch){.n = N, .position_weight = (float *)gradients->sum_g}));
    float *const arrays[] = {layer->gamma, layer->dbeta, layer->running_mean, layer->saved_invstd};
    for (size_t k = 0; k < COUNT_OF(arrays); k++) {
        refused(OVERLAP, bn_layer_forward_by(layer, moments, &part, x, arrays[k]));
        refused(OVERLAP, bn_gradients_add(gradients, layer, &part, x, arrays[k]));
        refused(OVERLAP, bn_layer_backward_by(layer, gradients, &part, x, dy, arrays[k]));
    }
    for (size_t k = 0; k < COUNT_OF(partial); k++) {
        refused(OVERLAP, bn_layer_forward_by(layer, moments, &part, x, x + partial[k]));
        refused(OVERLAP, bn_gradients_add(gradients, layer, &part, x, x + partial[k]));
        refused(OVERLAP, bn_layer_backward_by(layer, gradients, &part, x, dy, x + partial[k]));
        refused(OVERLAP, bn_layer_backward_by(layer, gradients, &part, x, dy, dy + partial[k]));
    }
    float *const cache = (float *)(void *)now.cache;
    refused(OVERLAP, bn_layer_forward_by(layer, moments, &part, x, cache));
    refused(OVERLAP, bn_gradients_add(gradients, layer, &part, x, cache));
    refused(OVERLAP, bn_layer_backward_by(layer, gradients, &part, x, dy, cache));
}

/* The same first element is not enough: from the second row on they cross. */
static void the_same_buffer_at_another_stride_is_refused(void **state) {
    (void)state;
    const bn_batch batch = {.n = N, .y_stride = D + 1};
    refused(OVERLAP, bn_layer_forward_batch(&now.layer, &batch, x, x));
    refused(OVERLAP, bn_layer_infer_batch(&now.layer, &batch, x, x));
    refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, dy));
    assert_ok(bn_layer_backward_batch(&now.layer, &batch, x, dy, x));
}

/* Rows of D in a buffer 2*D wide: the slices beside them are apart, those that reach into them are
 * not, and what is behind the last row is nobody's. */
static void slices_overlap_by_their_elements(void **state) {
    (void)state;
    enum { WIDE = 2 * D };
    const bn_batch batch = {.n = N, .x_stride = WIDE, .y_stride = WIDE};
    for (ptrdiff_t off = -(N * WIDE); off <= N * WIDE; off++) {
        const ptrdiff_t column = (off + N * WIDE) % WIDE;
        const bool beside = column == D || off <= -(N - 1) * WIDE - D || off >= (N - 1) * WIDE + D;
        float *at = x + off;
        if (off == 0) {
            continue; /* the same */
        }
        if (beside) {
            assert_ok(bn_layer_infer_batch(&now.layer, &batch, x, at));
            assert_ok(bn_layer_forward_batch(&now.layer, &batch, x, at));
            assert_ok(bn_layer_backward_batch(&now.layer, &batch, x, dy, at));
        } else {
            refused(OVERLAP, bn_layer_infer_batch(&now.layer, &batch, x, at));
            refused(OVERLAP, bn_layer_forward_batch(&now.layer, &batch, x, at));
            refused(OVERLAP, bn_layer_backward_batch(&now.layer, &batch, x, dy, at));
        }
    }
}

#define scene_test(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

/* Three weights in the gap behind y's first row: they end before its second begins. */
static void what_lies_between_rows_overlaps_nothing(void **state) {
    (void)state;
    float from[3][8] = {{1}, {2}, {4}}, to[3][8] = {{0, 0, 0, 1, 1, 1}};
    bn_layer layer;
    const bn_batch batch = {.n = 3, .x_stride = 8, .y_stride = 8, .sample_weight = &to[0][3]};
    assert_ok(bn_layer_init(&layer, 2, NULL));
    assert_ok(bn_layer_forward_batch(&layer, &batch, from[0], to[0]));
    bn_layer_free(&layer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_refuses_bad_options),
        cmocka_unit_test(init_refuses_impossible_numbers_of_features),
        cmocka_unit_test(init_refuses_null),
        cmocka_unit_test(init_in_a_block_refuses_too_little_memory),
        scene_test(null_pointers_are_refused),
        scene_test(null_pointers_are_refused_of_parts),
        scene_test(bad_eps_is_refused),
        scene_test(bad_num_threads_is_refused_of_parts),
        scene_test(bad_momentum_is_refused_by_forward),
        scene_test(dtypes_that_do_not_exist_are_refused),
        scene_test(bad_weights_are_refused),
        scene_test(bad_weights_of_positions_are_refused),
        scene_test(products_of_weights_beyond_float_are_refused),
        scene_test(dresidual_without_residual_is_refused),
        scene_test(sizes_that_overflow_are_refused),
        scene_test(twice_as_many_halves_fit),
        scene_test(strides_shorter_than_a_row_are_refused),
        scene_test(moments_of_other_features_are_refused),
        scene_test(parts_of_other_features_are_refused),
        scene_test(training_on_one_value_is_refused),
        scene_test(training_on_too_little_weight_is_refused),
        scene_test(inference_by_one_value_is_refused),
        scene_test(the_variance_of_one_value_is_no_population_s),
        scene_test(a_whole_of_one_value_is_refused),
        scene_test(backward_without_its_forward_is_refused),
        scene_test(backward_of_another_type_is_refused),
        scene_test(backward_of_a_new_layer_is_refused),
        scene_test(a_refused_forward_leaves_the_one_before),
        scene_test(frozen_without_running_values_is_refused),
        scene_test(a_part_without_its_forward_is_refused),
        scene_test(the_layer_s_own_cache_serves_all_parts),
        scene_test(constants_do_not_mix_with_statistics),
        scene_test(layers_that_only_infer_have_no_parts),
        scene_test(zeroed_and_freed_layers_are_refused),
        scene_test(zeroed_and_freed_moments_are_refused),
        scene_test(zeroed_and_freed_gradients_are_refused),
        scene_test(moments_stay_finite),
        scene_test(merged_moments_stay_finite),
        scene_test(what_are_no_moments_is_not_finite),
        scene_test(gradient_sums_stay_finite),
        scene_test(sums_that_are_not_finite_are_no_gradients),
        scene_test(a_count_that_is_not_finite_is_no_share),
        scene_test(sums_that_are_not_finite_and_not_learned),
        scene_test(running_values_stay_within_float),
        scene_test(gradients_of_parts_stay_within_float),
        scene_test(y_missing_behind_residual_and_activation_is_refused),
        scene_test(y_missing_of_a_part_is_refused),
        scene_test(y_that_overlaps_is_refused),
        scene_test(dx_that_overlaps_is_refused),
        scene_test(dresidual_that_overlaps_is_refused),
        scene_test(outputs_over_the_weights_of_positions_are_refused),
        scene_test(halves_over_the_weights_are_refused),
        scene_test(weights_that_are_another_input),
        scene_test(outputs_over_the_layer_s_arrays_are_refused),
        scene_test(folded_outputs_that_overlap_are_refused),
        scene_test(groups_that_do_not_divide_the_features_are_refused),
        scene_test(no_activation_is_folded_into_the_next_layer),
        scene_test(data_in_the_moments_arrays_is_refused),
        scene_test(parts_over_sums_and_caches_are_refused),
        scene_test(the_same_buffer_at_another_stride_is_refused),
        scene_test(slices_overlap_by_their_elements),
        cmocka_unit_test(what_lies_between_rows_overlaps_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
