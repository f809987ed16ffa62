/*
 * What is the caller's: arrays in place, a scratch that layers share, blocks, caches; how much of it a
 * layer wants; and running values to more digits than float.
 */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- How much ------------------------------------------------------------------------------- */

/* A memory that has all of the caller's arrays, or none, and a scratch, or none. */
static bn_memory given(bool arrays, bool scratch) {
    static float six[6];
    bn_memory memory = {0};
    if (arrays) {
        memory = (bn_memory){.gamma = &six[0],
                             .beta = &six[1],
                             .dgamma = &six[2],
                             .dbeta = &six[3],
                             .running_mean = &six[4],
                             .running_var = &six[5]};
    }
    if (scratch) {
        memory.scratch = six;
        memory.scratch_bytes = SIZE_MAX;
    }
    return memory;
}

static void a_layer_takes_as_little_as_it_promises(void **state) {
    (void)state;
    for (size_t features = 1; features < 6000; features += features < 1100 ? 1 : 487) {
        for (int arrays = 0; arrays <= 1; arrays++) {
            const size_t parameters = arrays ? 0 : 6 * features * sizeof(float);
            for (int threads = 0; threads <= 2; threads++) {
                bn_options options = bn_options_default();
                options.num_threads = threads;
                bn_memory memory = given(arrays, true);
                const size_t shared = bn_layer_bytes(features, &options, &memory);
                assert_in_range(shared, 1, parameters + 48 * features + 512);
                memory = given(arrays, false);
                const size_t own = bn_layer_bytes(features, &options, &memory);
                assert_in_range(own, shared,
                                parameters +
                                    (threads == 1 ? 160 * features + 1024 : 640 * features + 4096));
                options.inference_only = true;
                assert_in_range(bn_layer_bytes(features, &options, &memory), 1,
                                arrays ? 1 : 4 * features * sizeof(float) + 512);
            }
        }
    }
}

static void a_scratch_that_is_enough_for_one_is_so_for_all_below(void **state) {
    (void)state;
    for (int threads = 0; threads <= 2; threads++) {
        for (size_t features = 1, before = 0; features < 9000; features++) {
            const size_t bytes = bn_scratch_bytes(features, threads);
            assert_true(bytes >= before);
            before = bytes;
        }
    }
    assert_int_equal(bn_scratch_bytes(0, 0), 0);
    assert_int_equal(bn_scratch_bytes(SIZE_MAX, 0), 0);
    assert_int_equal(bn_scratch_bytes(8, -1), 0);
    assert_int_equal(bn_cache_bytes(0), 0);
    assert_int_equal(bn_cache_bytes(SIZE_MAX), 0);
    assert_in_range(bn_cache_bytes(1000), 16000, 16064);
}

/* ResNet-50's 53 layers: 53,120 parameters and as many running values. The README has these figures. */
static size_t of_resnet50(const bn_options *options, const bn_memory *memory) {
    static const struct {
        size_t features, layers;
    } sizes[] = {{64, 7}, {128, 8}, {256, 16}, {512, 11}, {1024, 7}, {2048, 4}};
    size_t bytes = 0;
    for (size_t k = 0; k < COUNT_OF(sizes); k++) {
        bytes += sizes[k].layers * bn_layer_bytes(sizes[k].features, options, memory);
    }
    return bytes;
}

static void a_network_takes_what_the_readme_says(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    const bn_memory own = given(false, false), shared = given(false, true);
    const bn_memory arrays = given(true, false);
    const size_t many = of_resnet50(&options, &own), on_one = of_resnet50(&options, &shared);
    options.num_threads = 1;
    const size_t alone = of_resnet50(&options, &own);
    options.inference_only = true;
    const size_t infers = of_resnet50(&options, &own), in_place = of_resnet50(&options, &arrays);
    print_message("ResNet-50 takes %zu bytes; with num_threads 1 %zu; with a shared scratch of %zu "
                  "%zu; to infer alone %zu, in place %zu\n",
                  many, alone, bn_scratch_bytes(2048, 0), on_one, infers, in_place);
    assert_in_range(many / 1000, 11500, 11550);
    assert_in_range(alone / 1000, 2950, 3050);
    assert_in_range(on_one / 1000, 1450, 1550);
    assert_in_range(infers / 1000, 425, 435);
    assert_int_equal(in_place, 53);
}

/* ---- Arrays in place ------------------------------------------------------------------------ */

enum { D = 37, N = 9 };

/* Six arrays of the caller's in one piece of memory, each so many bytes behind where floats would lie. */
typedef struct caller_arrays {
    unsigned char *memory;
    bn_memory memory_of;
} caller_arrays;

static float *array_at(unsigned char *memory, size_t which, size_t features, size_t offset) {
    return (float *)(void *)(memory + which * (features + 2) * sizeof(float) + offset);
}

static caller_arrays arrays_new(size_t features, size_t offset) {
    caller_arrays a = {.memory = malloc(6 * (features + 2) * sizeof(float))};
    assert_non_null(a.memory);
    fill_pattern(a.memory, 6 * (features + 2) * sizeof(float));
    a.memory_of = (bn_memory){.gamma = array_at(a.memory, 0, features, offset),
                              .beta = array_at(a.memory, 1, features, offset),
                              .dgamma = array_at(a.memory, 2, features, offset),
                              .dbeta = array_at(a.memory, 3, features, offset),
                              .running_mean = array_at(a.memory, 4, features, offset),
                              .running_var = array_at(a.memory, 5, features, offset)};
    return a;
}

/* A layer like that one, of the same values, in other memory. */
static bn_layer twin(const bn_layer *layer, const bn_memory *memory) {
    const size_t bytes = layer->num_features * sizeof(float);
    bn_layer made;
    assert_ok(bn_layer_init_with(&made, layer->num_features, &layer->options, memory));
    memcpy(made.gamma, layer->gamma, bytes);
    memcpy(made.beta, layer->beta, bytes);
    memcpy(made.running_mean, layer->running_mean, bytes);
    memcpy(made.running_var, layer->running_var, bytes);
    return made;
}

static void check_twin(const bn_layer *got, const bn_layer *want) {
    const size_t bytes = want->num_features * sizeof(float);
    assert_memory_equal(got->dgamma, want->dgamma, bytes);
    assert_memory_equal(got->dbeta, want->dbeta, bytes);
    assert_memory_equal(got->running_mean, want->running_mean, bytes);
    assert_memory_equal(got->running_var, want->running_var, bytes);
    assert_memory_equal(got->saved_mean, want->saved_mean, bytes);
    assert_memory_equal(got->saved_invstd, want->saved_invstd, bytes);
}

/* Trains, trains frozen and infers with both: the same bits. */
static void check_same_life(trial *want, bn_layer *got) {
    const bn_batch batch = want->batch;
    float *y = malloc(want->y_count * sizeof *y), *dx = malloc(want->x_count * sizeof *dx);
    assert_true(y != NULL && dx != NULL);
    for (int pass = 0; pass < 3; pass++) {
        want->layer.frozen = got->frozen = pass == 2;
        assert_ok(bn_layer_forward_batch(&want->layer, &batch, want->x, want->y));
        assert_ok(bn_layer_forward_batch(got, &batch, want->x, y));
        assert_memory_equal(y, want->y, want->y_count * sizeof *y);
        assert_ok(bn_layer_backward_batch(&want->layer, &batch, want->x, want->dy, want->dx));
        assert_ok(bn_layer_backward_batch(got, &batch, want->x, want->dy, dx));
        assert_memory_equal(dx, want->dx, want->x_count * sizeof *dx);
        check_twin(got, &want->layer);
        assert_ok(bn_layer_infer_batch(&want->layer, &batch, want->x, want->y));
        assert_ok(bn_layer_infer_batch(got, &batch, want->x, y));
        assert_memory_equal(y, want->y, want->y_count * sizeof *y);
    }
    free(y);
    free(dx);
}

static void arrays_serve_in_place_wherever_they_are(void **state) {
    (void)state;
    static const size_t spatial[] = {1, 3, 300};
    for (size_t offset = 0; offset < 8; offset++) {
        for (size_t k = 0; k < COUNT_OF(spatial); k++) {
            bn_options options = bn_options_default();
            options.activation = BN_ACTIVATION_RELU;
            trial want = trial_new(D, &options, (bn_batch){.n = N, .spatial = spatial[k]});
            caller_arrays a = arrays_new(D, offset);
            bn_layer layer = twin(&want.layer, &a.memory_of);
            assert_ptr_equal(layer.gamma, a.memory_of.gamma);
            assert_ptr_equal(layer.running_var, a.memory_of.running_var);
            check_same_life(&want, &layer);

            float scale[D], shift[D], theirs[D], their_shift[D];
            assert_ok(bn_layer_affine(&want.layer, scale, shift));
            assert_ok(bn_layer_affine(&layer, theirs, their_shift));
            assert_memory_equal(scale, theirs, sizeof scale);
            assert_memory_equal(shift, their_shift, sizeof shift);
            bn_layer_free(&layer);
            free(a.memory); /* it is still ours */
            trial_free(&want);
        }
    }
}

static void what_arrays_hold_is_taken_as_it_is(void **state) {
    (void)state;
    caller_arrays a = arrays_new(D, 0);
    bn_layer layer;
    assert_ok(bn_layer_init_with(&layer, D, NULL, &a.memory_of));
    assert_pattern(a.memory, 6 * (D + 2) * sizeof(float));
    bn_layer_free(&layer);
    assert_pattern(a.memory, 6 * (D + 2) * sizeof(float));

    /* Some given, the others the layer's own. */
    const bn_memory some = {.beta = a.memory_of.beta, .running_var = a.memory_of.running_var};
    assert_ok(bn_layer_init_with(&layer, D, NULL, &some));
    assert_true(layer.gamma[D - 1] == 1 && layer.running_mean[D - 1] == 0);
    assert_true(layer.dbeta[0] == 0 && layer.dgamma[D - 1] == 0);
    assert_ptr_equal(layer.beta, some.beta);
    assert_pattern(layer.beta, D * sizeof(float));
    bn_layer_free(&layer);
    free(a.memory);
}

/* A layer that is not made, and memory that is not touched. */
static void init_with_refused(bn_status status, const bn_options *options,
                              const bn_memory *memory) {
    bn_layer layer;
    fill_pattern(&layer, sizeof layer);
    assert_status(bn_layer_init_with(&layer, D, options, memory), status);
    assert_pattern(&layer, sizeof layer);
}

static void arrays_that_nobody_uses_are_refused(void **state) {
    (void)state;
    caller_arrays a = arrays_new(D, 0);
    const struct {
        bool scale, shift, track_running;
        bn_memory memory;
    } cases[] = {{false, true, true, {.gamma = a.memory_of.gamma}},
                 {false, true, true, {.dgamma = a.memory_of.gamma}},
                 {true, false, true, {.beta = a.memory_of.gamma}},
                 {true, false, true, {.dbeta = a.memory_of.gamma}},
                 {true, true, false, {.running_mean = a.memory_of.gamma}},
                 {true, true, false, {.running_var = a.memory_of.gamma}}};
    for (size_t k = 0; k < COUNT_OF(cases); k++) {
        bn_options options = bn_options_default();
        bn_layer layer;
        assert_ok(bn_layer_init_with(&layer, D, &options, &cases[k].memory));
        bn_layer_free(&layer);
        options.scale = cases[k].scale;
        options.shift = cases[k].shift;
        options.track_running = cases[k].track_running;
        init_with_refused(BN_STATUS_BAD_OPTION, &options, &cases[k].memory);
        assert_int_equal(bn_layer_bytes(D, &options, &cases[k].memory), 0);
        options.inference_only = true; /* gradients are not even looked at */
        const bool gradient = cases[k].memory.dgamma != NULL || cases[k].memory.dbeta != NULL;
        assert_true((bn_layer_bytes(D, &options, &cases[k].memory) != 0) == gradient);
    }
    free(a.memory);
}

static void memory_that_overlaps_is_refused(void **state) {
    (void)state;
    enum { ARRAYS = 6 };
    caller_arrays a = arrays_new(D, 0);
    unsigned char *room = malloc(1 << 20);
    assert_non_null(room);
    for (size_t i = 0; i < ARRAYS; i++) {
        float **one = (float **)&a.memory_of + i;
        float *const kept = *one;
        for (size_t j = 0; j < ARRAYS; j++) {
            const float *other = *((float **)&a.memory_of + j);
            for (int partly = 0; i != j && partly <= 1; partly++) {
                *one = (float *)other + partly;
                init_with_refused(BN_STATUS_OVERLAP, NULL, &a.memory_of);
                *one = kept;
            }
        }
        bn_memory memory = a.memory_of;
        memory.scratch = (char *)kept + D * sizeof(float) - 1;
        memory.scratch_bytes = bn_scratch_bytes(D, 0);
        init_with_refused(BN_STATUS_OVERLAP, NULL, &memory);
        memory.scratch = NULL;
        memory.block_bytes = bn_layer_bytes(D, NULL, &memory);
        memory.block = (char *)kept + D * sizeof(float) - 1;
        init_with_refused(BN_STATUS_OVERLAP, NULL, &memory);
    }
    bn_memory memory = {.scratch = room, .scratch_bytes = bn_scratch_bytes(D, 0)};
    memory.block = room + memory.scratch_bytes - 1;
    memory.block_bytes = bn_layer_bytes(D, NULL, &memory);
    init_with_refused(BN_STATUS_OVERLAP, NULL, &memory);
    /* What is said to be there counts as far as it is needed, and no further. */
    memory.block_bytes = memory.scratch_bytes = SIZE_MAX;
    init_with_refused(BN_STATUS_OVERLAP, NULL, &memory);
    memory.block = room + bn_scratch_bytes(D, 0);
    memory.gamma = (float *)(room + (1 << 20)) - D;
    bn_layer layer;
    assert_ok(bn_layer_init_with(&layer, D, NULL, &memory));
    free(room);
    free(a.memory);
}

static void too_little_memory_is_refused(void **state) {
    (void)state;
    static char room[1 << 16];
    const size_t scratch = bn_scratch_bytes(D, 1);
    bn_options options = bn_options_default();
    options.num_threads = 1;
    bn_memory memory = {.scratch = room, .scratch_bytes = scratch - 1};
    init_with_refused(BN_STATUS_OUT_OF_MEMORY, &options, &memory);
    memory.scratch_bytes = scratch;
    memory.block = room + scratch;
    memory.block_bytes = bn_layer_bytes(D, &options, &memory) - 1;
    init_with_refused(BN_STATUS_OUT_OF_MEMORY, &options, &memory);
    memory.block_bytes++;
    bn_layer layer;
    assert_ok(bn_layer_init_with(&layer, D, &options, &memory));
    bn_layer_free(&layer);
}

/* No buffer of a call may touch an array, wherever that is. */
static void buffers_over_the_caller_s_arrays_are_refused(void **state) {
    (void)state;
    caller_arrays a = arrays_new(2 * N * D, 0); /* more than the layer looks at: room for buffers */
    const size_t scratch_bytes = bn_scratch_bytes(D, 0);
    float *scratch = malloc(scratch_bytes + N * D * sizeof(float));
    assert_non_null(scratch);
    a.memory_of.scratch = scratch;
    a.memory_of.scratch_bytes = scratch_bytes;
    trial t = trial_new(D, NULL, (bn_batch){.n = N});
    bn_layer layer = twin(&t.layer, &a.memory_of);
    assert_ok(bn_layer_forward(&layer, N, t.x, t.y));
    float *places[7];
    memcpy(places, &a.memory_of, 6 * sizeof *places);
    places[6] = scratch;
    for (size_t k = 0; k < COUNT_OF(places); k++) {
        const size_t length = k == 6 ? scratch_bytes / sizeof(float) - 16 : D;
        float *last = places[k] + length - 1, *behind = places[k] + length + (k == 6 ? 16 : 0);
        assert_status(bn_layer_forward(&layer, N, t.x, last), BN_STATUS_OVERLAP);
        assert_status(bn_layer_infer(&layer, N, t.x, last), BN_STATUS_OVERLAP);
        assert_status(bn_layer_infer(&layer, N, last, t.y), BN_STATUS_OVERLAP);
        assert_status(bn_layer_backward(&layer, N, t.x, t.dy, last), BN_STATUS_OVERLAP);
        assert_status(bn_layer_affine(&layer, last, t.y), BN_STATUS_OVERLAP);
        assert_status(bn_layer_fold(&layer, 1, t.y, last), BN_STATUS_OVERLAP);
        assert_ok(bn_layer_infer(&layer, N, t.x, behind));
    }
    bn_layer_free(&layer);
    trial_free(&t);
    free(scratch);
    free(a.memory);
}

/* Nor the only one that is the caller's. */
static void a_buffer_over_one_array_is_refused(void **state) {
    (void)state;
    enum { ARRAYS = 6 };
    for (size_t k = 0; k < ARRAYS; k++) {
        float given[N * D] = {0}, y[N * D], *places[ARRAYS] = {NULL};
        bn_memory memory = {.gamma = NULL};
        bn_layer layer;
        places[k] = given;
        memcpy(&memory, places, sizeof places);
        assert_ok(bn_layer_init_with(&layer, D, NULL, &memory));
        assert_status(bn_layer_infer(&layer, N, given, y), BN_STATUS_OVERLAP);
        bn_layer_free(&layer);
    }
}

/* ---- A scratch for all ---------------------------------------------------------------------- */

static void layers_share_a_scratch(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 16, 37, 511, 513, 1100, 1536};
    for (int threads = 0; threads <= 2; threads++) {
        const size_t bytes = bn_scratch_bytes(1536, threads);
        unsigned char *memory = malloc(bytes + 2 * 64);
        assert_non_null(memory);
        for (size_t offset = 0; offset < 64; offset += 35) {
            for (size_t k = 0; k < COUNT_OF(sizes); k++) {
                bn_options options = bn_options_default();
                options.num_threads = threads;
                fill_pattern(memory, bytes + 2 * 64);
                const bn_memory shared = {.scratch = memory + offset, .scratch_bytes = bytes};
                trial want = trial_new(sizes[k], &options,
                                       (bn_batch){.n = 16 + (1u << 19) / (sizes[k] + 100)});
                bn_layer layer = twin(&want.layer, &shared);
                check_same_life(&want, &layer);
                assert_pattern(memory, offset);
                assert_pattern(memory + offset + bytes, 2 * 64 - offset);
                bn_layer_free(&layer);
                trial_free(&want);
            }
        }
        free(memory);
    }
}

/* What one layer leaves there is nothing to the other. */
static void nothing_stays_in_a_scratch(void **state) {
    (void)state;
    const size_t bytes = bn_scratch_bytes(D, 0);
    const bn_memory shared = {.scratch = malloc(bytes), .scratch_bytes = bytes};
    trial want = trial_new(D, NULL, (bn_batch){.n = N});
    assert_non_null(shared.scratch);
    bn_layer layer = twin(&want.layer, &shared);
    trial_run(&want);
    float *y = malloc(2 * N * D * sizeof *y);
    assert_non_null(y);
    fill_pattern(shared.scratch, bytes);
    assert_ok(bn_layer_forward(&layer, N, want.x, y));
    fill_pattern(shared.scratch, bytes);
    assert_ok(bn_layer_backward(&layer, N, want.x, want.dy, y + N * D));
    assert_memory_equal(y, want.y, N * D * sizeof *y);
    assert_memory_equal(y + N * D, want.dx, N * D * sizeof *y);
    check_twin(&layer, &want.layer);
    bn_layer_free(&layer);
    trial_free(&want);
    free(shared.scratch);
    free(y);
}

/* ---- Inference alone ------------------------------------------------------------------------- */

static void a_layer_that_only_infers_does_no_more(void **state) {
    (void)state;
    trial want = trial_new(D, NULL, (bn_batch){.n = N});
    bn_options options = bn_options_default();
    options.inference_only = true;
    options.momentum = NAN; /* nobody looks */
    bn_memory arrays = {.gamma = want.layer.gamma,
                        .beta = want.layer.beta,
                        .running_mean = want.layer.running_mean,
                        .running_var = want.layer.running_var};
    bn_layer layer;
    assert_int_equal(bn_layer_bytes(D, &options, &arrays), 1);
    assert_ok(bn_layer_init_with(&layer, D, &options, &arrays));
    assert_null(layer.dgamma);
    assert_null(layer.dbeta);
    assert_null(layer.saved_mean);
    assert_null(layer.saved_invstd);
    float *y = malloc(N * D * sizeof *y);
    assert_non_null(y);
    assert_ok(bn_layer_infer(&want.layer, N, want.x, want.y));
    assert_ok(bn_layer_infer(&layer, N, want.x, y));
    assert_memory_equal(y, want.y, N * D * sizeof *y);

    fill_pattern(y, N * D * sizeof *y);
    layer.frozen = true;
    for (size_t n = 0; n <= N; n += N) {
        assert_status(bn_layer_forward(&layer, n, want.x, y), BN_STATUS_BAD_STATE);
        assert_status(bn_layer_backward(&layer, n, want.x, want.dy, y), BN_STATUS_BAD_STATE);
    }
    assert_pattern(y, N * D * sizeof *y);
    bn_param params[2];
    assert_int_equal(bn_layer_params(&layer, params), 2);
    assert_true(params[0].value == want.layer.gamma && params[0].grad == NULL);

    /* What a model has is not written; a layer's own may be. */
    bn_moments moments;
    assert_ok(bn_moments_init(&moments, D));
    assert_ok(bn_moments_add(&moments, &want.batch, want.x));
    assert_status(bn_layer_set_running(&layer, &moments), BN_STATUS_BAD_STATE);
    assert_ok(bn_layer_init(&layer, D, &options));
    assert_ok(bn_layer_set_running(&layer, &moments));
    assert_true(layer.running_mean[D - 1] == (float)moments.mean[D - 1]);
    bn_layer_free(&layer);
    bn_moments_free(&moments);

    /* Models share constants: a mean of 0 and a beta of 0. Writers may not. */
    arrays.beta = arrays.running_mean;
    assert_ok(bn_layer_init_with(&layer, D, &options, &arrays));
    arrays.beta = arrays.running_mean + 1;
    init_with_refused(BN_STATUS_OVERLAP, &options, &arrays);
    free(y);
    trial_free(&want);
}

/* Without running values it infers by the batch. */
static void a_layer_of_nothing_infers_by_the_batch(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.inference_only = true;
    options.scale = options.shift = options.track_running = false;
    bn_layer layer;
    assert_ok(bn_layer_init_with(&layer, 1, &options, NULL));
    assert_null(layer.gamma);
    float x[] = {1, 3}, y[2];
    assert_ok(bn_layer_infer(&layer, 2, x, y));
    assert_true(fabsf(y[1] - 1) < 1e-5f && y[0] == -y[1]);
    bn_layer_free(&layer);
}

/* ---- Caches ---------------------------------------------------------------------------------- */

/* One layer, two forwards, and then both backwards, each with its cache: as two layers would. */
static void a_cache_a_forward(void **state) {
    (void)state;
    static const size_t spatial[] = {1, 300};
    for (size_t offset = 0; offset < 8; offset++) {
        for (size_t k = 0; k < COUNT_OF(spatial); k++) {
            for (int frozen = 0; frozen <= 1; frozen++) {
                bn_options options = bn_options_default();
                options.activation = BN_ACTIVATION_RELU;
                trial one = trial_new(D, &options, (bn_batch){.n = N, .spatial = spatial[k]});
                trial two = trial_new(D, &options, (bn_batch){.n = N, .spatial = spatial[k]});
                trial got = trial_new(D, &options, (bn_batch){.n = N, .spatial = spatial[k]});
                for (size_t i = 0; i < two.x_count; i++) {
                    two.x[i] = two.x[i] * two.x[i] + 3;
                }
                one.layer.frozen = frozen;
                trial_run(&one);
                trial_run(&two);
                unsigned char *caches = malloc(2 * bn_cache_bytes(D) + 8);
                assert_non_null(caches);
                bn_batch first = got.batch, second = got.batch;
                first.cache = caches + offset;
                second.cache = caches + bn_cache_bytes(D) + offset;
                snapshot before = snapshot_take(&got.layer);
                got.layer.frozen = frozen;
                assert_ok(bn_layer_forward_batch(&got.layer, &first, one.x, got.y));
                assert_memory_equal(got.y, one.y, one.y_count * sizeof(float));
                got.layer.frozen = false;
                assert_ok(bn_layer_forward_batch(&got.layer, &second, two.x, got.y));
                assert_memory_equal(got.y, two.y, two.y_count * sizeof(float));
                assert_memory_equal(got.layer.saved_mean, before.arrays[SNAPSHOT_MEAN],
                                    D * sizeof(float));
                /* The layer's own has seen no forward. */
                assert_status(
                    bn_layer_backward_batch(&got.layer, &got.batch, one.x, one.dy, got.dx),
                    BN_STATUS_BAD_STATE);
                assert_ok(bn_layer_backward_batch(&got.layer, &first, one.x, one.dy, got.dx));
                assert_memory_equal(got.dx, one.dx, one.x_count * sizeof(float));
                assert_memory_equal(got.layer.dgamma, one.layer.dgamma, D * sizeof(float));
                assert_ok(bn_layer_backward_batch(&got.layer, &second, two.x, two.dy, got.dx));
                assert_memory_equal(got.dx, two.dx, two.x_count * sizeof(float));
                assert_memory_equal(got.layer.dbeta, two.layer.dbeta, D * sizeof(float));
                snapshot_free(&before);
                free(caches);
                trial_free(&one);
                trial_free(&two);
                trial_free(&got);
            }
        }
    }
}

/* Without caches backward is that of the last forward, whichever x it is given. */
static void the_last_forward_counts_without_a_cache(void **state) {
    (void)state;
    const float first[] = {0, 1, 2, 4}, second[] = {100, 300, 200, 900}, dy[] = {1, 0, 0, 0};
    bn_options options = bn_options_default();
    bn_layer layer;
    float y[4], dx[4];
    assert_ok(bn_layer_init(&layer, 1, &options));
    unsigned char cache[128];
    assert_in_range(bn_cache_bytes(1), 16, sizeof cache);
    const bn_batch kept = {.n = 4, .cache = cache}, own = {.n = 4};
    assert_ok(bn_layer_forward_batch(&layer, &kept, first, y));
    assert_ok(bn_layer_forward_batch(&layer, &own, second, y));
    assert_ok(bn_layer_backward_batch(&layer, &own, first, dy, dx));
    assert_true(fabsf(dx[0] - 0.00124f) < 1e-4f); /* not the gradient of the first */
    assert_ok(bn_layer_backward_batch(&layer, &kept, first, dy, dx));
    assert_true(fabsf(dx[0] - 0.270f) < 1e-3f);
    bn_layer_free(&layer);
}

static void what_is_no_cache_is_refused(void **state) {
    (void)state;
    trial t = trial_new(D, NULL, (bn_batch){.n = N}), other = trial_new(D + 1, NULL, t.batch);
    const size_t bytes = bn_cache_bytes(D);
    unsigned char *cache = malloc(bn_cache_bytes(D + 1)), *kept = malloc(bytes);
    assert_true(cache != NULL && kept != NULL);
    bn_batch batch = t.batch;
    batch.cache = cache;
    ref_random random = {3};
    for (int fill = 0; fill < 20; fill++) {
        for (size_t i = 0; i < bytes; i++) {
            cache[i] = (unsigned char)(fill < 2 ? 255.0 * fill : 256.0 * ref_uniform(&random));
        }
        assert_status(bn_layer_backward_batch(&t.layer, &batch, t.x, t.dy, t.dx),
                      BN_STATUS_BAD_STATE);
    }
    assert_ok(bn_layer_forward_batch(&t.layer, &batch, t.x, t.y));
    memcpy(kept, cache, bytes);
    for (size_t i = 0; i < bytes - 4 * D * sizeof(float); i++) { /* its head to the bit */
        for (int bit = 0; bit < 8; bit++) {
            cache[i] = (unsigned char)(kept[i] ^ 1 << bit);
            assert_status(bn_layer_backward_batch(&t.layer, &batch, t.x, t.dy, t.dx),
                          BN_STATUS_BAD_STATE);
            cache[i] = kept[i];
        }
    }
    bn_batch shape = batch;
    shape.n = N - 1;
    assert_status(bn_layer_backward_batch(&t.layer, &shape, t.x, t.dy, t.dx), BN_STATUS_BAD_STATE);
    shape = (bn_batch){.n = 3, .spatial = 3, .cache = cache};
    assert_status(bn_layer_backward_batch(&t.layer, &shape, t.x, t.dy, t.dx), BN_STATUS_BAD_STATE);
    assert_status(bn_layer_backward_batch(&other.layer, &batch, other.x, other.dy, other.dx),
                  BN_STATUS_BAD_STATE);
    assert_pattern(t.dx, t.x_count * sizeof(float));

    /* An empty batch leaves a cache as it is; it may be moved and copied. */
    shape = (bn_batch){.cache = cache};
    assert_ok(bn_layer_forward_batch(&t.layer, &shape, NULL, NULL));
    assert_memory_equal(cache, kept, bytes);
    memset(cache, 0, bytes);
    batch.cache = kept;
    assert_ok(bn_layer_backward_batch(&t.layer, &batch, t.x, t.dy, t.dx));
    free(cache);
    free(kept);
    trial_free(&other);
    trial_free(&t);
}

static void a_cache_overlaps_nothing(void **state) {
    (void)state;
    trial t = trial_new(D, NULL, (bn_batch){.n = N});
    bn_batch batch = t.batch;
    const float *buffers[] = {t.x, t.y, t.layer.gamma};
    for (size_t k = 0; k < COUNT_OF(buffers); k++) {
        batch.cache = (char *)buffers[k] + 1;
        assert_status(bn_layer_forward_batch(&t.layer, &batch, t.x, t.y), BN_STATUS_OVERLAP);
    }
    /* In front of dx, and then a float into it. */
    const size_t bytes = bn_cache_bytes(D);
    unsigned char *arena = malloc(bytes + t.x_count * sizeof(float));
    assert_non_null(arena);
    batch.cache = arena;
    assert_ok(bn_layer_forward_batch(&t.layer, &batch, t.x, t.dx));
    unsigned char *dx = arena + bytes;
    assert_status(bn_layer_backward_batch(&t.layer, &batch, t.x, t.dy, dx - 1), BN_STATUS_OVERLAP);
    bn_layer wider;
    assert_ok(bn_layer_init(&wider, D + 1, NULL)); /* its cache would be longer */
    assert_status(
        bn_layer_backward_batch(&wider, &(bn_batch){.n = 2, .cache = arena}, t.x, t.dy, dx),
        BN_STATUS_BAD_STATE);
    bn_layer_free(&wider);
    assert_ok(bn_layer_backward_batch(&t.layer, &batch, t.x, t.dy, dx));
    free(arena);
    assert_pattern(t.y, t.y_count * sizeof(float));
    trial_free(&t);
}

/* ---- Running values -------------------------------------------------------------------------- */

static void inference_is_training_whatever_the_offset(void **state) {
    (void)state;
    const float x[] = {1000000, 1000001, 1000001};
    bn_options options = bn_options_default();
    options.momentum = 0;
    options.biased_running_var = true;
    options.eps = 0;
    bn_layer layer;
    float y[3], inferred[3];
    assert_ok(bn_layer_init(&layer, 1, &options));
    assert_ok(bn_layer_forward(&layer, 3, x, y));
    assert_ok(bn_layer_infer(&layer, 3, x, inferred));
    for (int i = 0; i < 3; i++) {
        assert_true(fabsf(y[i] - (i == 0 ? -1.41421356f : 0.70710678f)) < 1e-6f);
        assert_true(fabsf(inferred[i] - y[i]) < 1e-6f);
    }
    float scale, shift;
    assert_ok(bn_layer_affine(&layer, &scale, &shift));
    assert_true(shift == (float)(-1000000.6666666667 / sqrt(2.0 / 9.0)));
    layer.frozen = true;
    assert_ok(bn_layer_forward(&layer, 3, x, y));
    assert_memory_equal(y, inferred, sizeof y);

    /* What is written counts: the same float again, and then its neighbour. */
    const float mean = layer.running_mean[0];
    layer.running_mean[0] = nextafterf(mean, 0);
    assert_ok(bn_layer_infer(&layer, 3, x, y));
    assert_true(fabsf(y[0] - (float)((x[0] - layer.running_mean[0]) / sqrt(2.0 / 9.0))) < 1e-6f);
    layer.running_mean[0] = 1000000;
    layer.running_var[0] = 4;
    assert_ok(bn_layer_infer(&layer, 3, x, y));
    assert_true(y[0] == 0 && y[1] == 0.5f && y[2] == 0.5f);
    assert_ok(bn_layer_affine(&layer, &scale, &shift));
    assert_true(scale == 0.5f && shift == -500000);
    layer.running_mean[0] = 0; /* no rest of what it was */
    assert_ok(bn_layer_affine(&layer, &scale, &shift));
    assert_true(scale == 0.5f && shift == 0);
    bn_layer_free(&layer);
}

/* In float it would stop at 1000.97: (1 - momentum) of what is left is below half a digit. */
static void a_long_average_does_not_stall(void **state) {
    (void)state;
    const float x[] = {1000, 1002};
    bn_options options = bn_options_default();
    options.momentum = 0.999f;
    bn_layer layer;
    float y[2];
    assert_ok(bn_layer_init(&layer, 1, &options));
    for (int k = 0; k < 100000; k++) {
        assert_ok(bn_layer_forward(&layer, 2, x, y));
    }
    assert_true(layer.running_mean[0] == 1001 && layer.running_var[0] == 2);
    /* It goes on from what is written. */
    layer.running_mean[0] = 1;
    assert_ok(bn_layer_forward(&layer, 2, x, y));
    assert_true(fabsf(layer.running_mean[0] - 2) < 1e-4f);
    bn_layer_free(&layer);
}

static void population_statistics_keep_their_digits(void **state) {
    (void)state;
    const float x[] = {1000000, 1000001, 1000001};
    bn_options options = bn_options_default();
    options.biased_running_var = true;
    options.eps = 0;
    bn_layer layer;
    bn_moments moments;
    float y[3];
    assert_ok(bn_layer_init(&layer, 1, &options));
    assert_ok(bn_moments_init(&moments, 1));
    assert_ok(bn_moments_add(&moments, &(bn_batch){.n = 3}, x));
    assert_ok(bn_layer_set_running(&layer, &moments));
    assert_ok(bn_layer_infer(&layer, 3, x, y));
    assert_true(fabsf(y[0] + 1.41421356f) < 1e-6f && fabsf(y[2] - 0.70710678f) < 1e-6f);
    /* Others' sums that are none: nothing is written. */
    const float before = layer.running_var[0];
    moments.m2[0] = -1e-7;
    assert_status(bn_layer_set_running(&layer, &moments), BN_STATUS_NOT_FINITE);
    moments.m2[0] = 1;
    moments.count = INFINITY;
    assert_status(bn_layer_set_running(&layer, &moments), BN_STATUS_NOT_FINITE);
    assert_true(layer.running_var[0] == before);
    bn_moments_free(&moments);
    bn_layer_free(&layer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_takes_as_little_as_it_promises),
        cmocka_unit_test(a_scratch_that_is_enough_for_one_is_so_for_all_below),
        cmocka_unit_test(a_network_takes_what_the_readme_says),
        cmocka_unit_test(arrays_serve_in_place_wherever_they_are),
        cmocka_unit_test(what_arrays_hold_is_taken_as_it_is),
        cmocka_unit_test(arrays_that_nobody_uses_are_refused),
        cmocka_unit_test(memory_that_overlaps_is_refused),
        cmocka_unit_test(too_little_memory_is_refused),
        cmocka_unit_test(buffers_over_the_caller_s_arrays_are_refused),
        cmocka_unit_test(a_buffer_over_one_array_is_refused),
        cmocka_unit_test(layers_share_a_scratch),
        cmocka_unit_test(nothing_stays_in_a_scratch),
        cmocka_unit_test(a_layer_that_only_infers_does_no_more),
        cmocka_unit_test(a_layer_of_nothing_infers_by_the_batch),
        cmocka_unit_test(a_cache_a_forward),
        cmocka_unit_test(the_last_forward_counts_without_a_cache),
        cmocka_unit_test(what_is_no_cache_is_refused),
        cmocka_unit_test(a_cache_overlaps_nothing),
        cmocka_unit_test(inference_is_training_whatever_the_offset),
        cmocka_unit_test(a_long_average_does_not_stall),
        cmocka_unit_test(population_statistics_keep_their_digits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
