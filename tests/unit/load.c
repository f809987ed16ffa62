/*
 * Load: threads by the dozen for as long as one likes, layers by the thousand, and sizes that 32 bits do
 * not count. What takes a second or two is a test;
 *
 *     build/tests/tests/load 3       runs threads for 3 minutes, and what takes GiB too
 */
#define _GNU_SOURCE /* memfd_create */
#include "calls.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double minutes;

/* ---- Memory that does not grow --------------------------------------------------------------- */

/* What is in memory of this process, in bytes. */
static size_t resident(void) {
    unsigned long all, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu %lu", &all, &pages), 2);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* A leak of some bytes at each of thousands of calls is more. */
enum { SLACK = 2 << 20 };
#define assert_flat(before) assert_in_range(resident(), 0, (before) + SLACK)

/* ---- Threads --------------------------------------------------------------------------------- */

enum { THREADS = 8 };

/* Each trains and infers with a layer of its own, and infers with one that all of them share. */
typedef struct member {
    routine own;
    const routine *shared;
    void *y; /* the shared layer's, of this thread */
    size_t times, faults;
} member;

static atomic_bool over;

static void infer_shared(member *m) {
    const trial *t = &m->shared->r.t;
    const bn_batch batch = trial_batch(t);
    const size_t bytes = t->y_count * trial_width(t);
    memset(m->y, 0, bytes);
    m->faults += bn_layer_infer_batch(&t->layer, &batch, trial_at(t, t->x), m->y) != BN_STATUS_OK ||
                 memcmp(m->y, trial_at(t, t->y), bytes) != 0;
}

static void *work(void *argument) {
    member *m = argument;
    while (!over) {
        m->faults += !routine_do(&m->own);
        infer_shared(m);
        m->times++;
    }
    return NULL;
}

static void run_for(double seconds, member *members) {
    const struct timespec pause = {(time_t)seconds,
                                   (long)(1e9 * (seconds - (double)(time_t)seconds))};
    pthread_t threads[THREADS];
    over = false;
    for (size_t k = 0; k < THREADS; k++) {
        assert_int_equal(pthread_create(&threads[k], NULL, work, &members[k]), 0);
    }
    nanosleep(&pause, NULL);
    over = true;
    for (size_t k = 0; k < THREADS; k++) {
        assert_int_equal(pthread_join(threads[k], NULL), 0);
    }
}

/* Whatever many of them do at once is what each does alone. Every round has new threads. */
static void threads_do_not_meet(void **state) {
    (void)state;
    static const unsigned kinds[THREADS] = {0,
                                            EVERYTHING,
                                            WITH_BF16 | WITH_LEAKY,
                                            WITH_STRIDES | WITH_WEIGHTS,
                                            UNTRACKED | WITH_CLIP,
                                            WITH_F16 | WITH_RESIDUAL,
                                            FROZEN | WITH_POSITIONS,
                                            CUMULATIVE};
    const size_t rounds = minutes > 0 ? 10 : 4;
    const double seconds = minutes > 0 ? minutes * 60 / (double)rounds : 0.15;
    routine shared = routine_new((const size_t[]){50, 100, 9}, 0, 1);
    trial *const t = &shared.r.t;
    assert_ok(trial_infer(t, t->x, t->y));
    member members[THREADS] = {0};
    size_t before = 0, times = 0;
    for (size_t k = 0; k < THREADS; k++) {
        const bool alone = k % 4 != 0; /* two have teams */
        const size_t *const shape =
            alone ? small_shapes[k % SMALL_SHAPES] : large_shapes[k % LARGE_SHAPES];
        members[k].own = routine_new(shape, kinds[k], alone ? 1 : 2);
        members[k].shared = &shared;
        members[k].y = malloc(t->y_count * trial_width(t));
        assert_non_null(members[k].y);
    }
    for (size_t round = 0; round < rounds; round++) {
        run_for(seconds, members);
        before = round == 1 ? resident() : before;
    }
    assert_flat(before);
    for (size_t k = 0; k < THREADS; k++) {
        assert_int_equal(members[k].faults, 0);
        assert_true(members[k].times > 0);
        times += members[k].times;
        routine_free(&members[k].own);
        free(members[k].y);
    }
    routine_free(&shared);
    print_message("%d threads made all calls %zu times\n", THREADS, times);
}

/* ---- Layers ---------------------------------------------------------------------------------- */

/* In a block and in memory of malloc's, with moments and gradients. */
static void layers_come_and_go(void **state) {
    (void)state;
    enum { TIMES = 10000, LAST = 3 };
    size_t before = 0;
    rig r = rig_new((const size_t[]){2, 300, 1}, 0, 1);
    for (size_t k = 0; k < TIMES; k++) {
        for (size_t call = CALLS - LAST; call < CALLS; call++) {
            assert_ok(calls[call].make(&r));
        }
        before = k == TIMES / 10 ? resident() : before;
    }
    assert_flat(before);
    rig_free(&r);
}

/* ---- Far apart ------------------------------------------------------------------------------- */

enum { ROWS = 3, TENSORS = 4 };

/* Elements from row to row: the last one's is beyond 2^32. */
static const size_t far = ((size_t)1 << 31) + 5;

/* One mapping has all tensors side by side; what nobody touches is not in memory. */
static unsigned char *map_far(size_t bytes) {
    void *const at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void check_rows(const unsigned char *got, const trial *want, const float *tensor,
                       size_t row) {
    const size_t width = trial_width(want);
    for (size_t i = 0; i < ROWS; i++) {
        assert_memory_equal(got + i * far * width,
                            trial_at(want, tensor + i * want->batch.x_stride), row * width);
    }
}

static void check_far(size_t features, size_t spatial, bn_dtype dtype) {
    const size_t row = features * spatial, near = TENSORS * row;
    const size_t width = dtype == BN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    const size_t bytes = ((ROWS - 1) * far + near) * width;
    unsigned char *const x = map_far(bytes);
    if (x == NULL) {
        skip(); /* so much cannot be had */
    }
    unsigned char *const y = x + row * width, *const dy = y + row * width;
    unsigned char *const dx = dy + row * width;
    bn_options options = bn_options_default();
    options.num_threads = 1;
    const bn_batch of = {
        .n = ROWS, .spatial = spatial, .x_stride = near, .y_stride = near, .dtype = dtype};
    trial want = trial_new(features, &options, of), t = trial_new(features, &options, of);
    for (size_t i = 0; i < ROWS; i++) {
        memcpy(x + i * far * width, trial_at(&t, t.x + i * near), row * width);
        memcpy(dy + i * far * width, trial_at(&t, t.dy + i * near), row * width);
    }
    t.batch.x_stride = t.batch.y_stride = far;
    trial_run(&want);
    assert_ok(bn_layer_forward_batch(&t.layer, &t.batch, x, y));
    assert_ok(bn_layer_backward_batch(&t.layer, &t.batch, x, dy, dx));
    check_rows(y, &want, want.y, row);
    check_rows(dx, &want, want.dx, row);
    assert_same_bits(t.layer.dgamma, want.layer.dgamma, features);
    assert_same_bits(t.layer.dbeta, want.layer.dbeta, features);
    assert_same_bits(t.layer.running_var, want.layer.running_var, features);
    assert_ok(trial_infer(&want, want.x, want.y));
    assert_ok(bn_layer_infer_batch(&t.layer, &t.batch, x, x)); /* in place */
    check_rows(x, &want, want.y, row);
    assert_int_equal(munmap(x, bytes), 0);
    trial_free(&want);
    trial_free(&t);
}

static void rows_may_be_far_apart(void **state) {
    (void)state;
    check_far(100, 1, BN_DTYPE_F32);
    check_far(100, 1, BN_DTYPE_BF16);
    check_far(7, 50, BN_DTYPE_F32);
    check_far(3, 700, BN_DTYPE_F16);
}

/* ---- Large ----------------------------------------------------------------------------------- */

static void check_shape(size_t n, size_t features, int num_threads) {
    bn_options options = bn_options_default();
    options.num_threads = num_threads;
    trial t = trial_new(features, &options, (bn_batch){.n = n});
    trial_check(&t);
    trial_check_infer(&t);
    trial_free(&t);
}

static void check_slice(trial *whole, const trial *trained, size_t first, size_t features) {
    const bn_batch batch = {.n = whole->batch.n,
                            .x_stride = whole->layer.num_features,
                            .y_stride = whole->layer.num_features};
    const bn_layer *const from = &whole->layer, *const want = &trained->layer;
    const bn_memory memory = {.gamma = from->gamma + first,
                              .beta = from->beta + first,
                              .running_mean = from->running_mean + first,
                              .running_var = from->running_var + first};
    bn_layer layer;
    assert_ok(bn_layer_init_with(&layer, features, &from->options, &memory));
    assert_ok(bn_layer_forward_batch(&layer, &batch, whole->x + first, whole->y + first));
    assert_ok(bn_layer_backward_batch(&layer, &batch, whole->x + first, whole->dy + first,
                                      whole->dx + first));
    assert_same_bits(layer.running_mean, want->running_mean + first, features);
    assert_same_bits(layer.running_var, want->running_var + first, features);
    assert_same_bits(layer.dgamma, want->dgamma + first, features);
    assert_same_bits(layer.dbeta, want->dbeta + first, features);
    bn_layer_free(&layer);
}

/* Slice by slice, from any feature on, they are the same. */
static void a_million_features(void **state) {
    (void)state;
    enum { FEATURES = 1000000, SLICE = 9999 };
    bn_options options = bn_options_default();
    options.num_threads = 1;
    trial t = trial_new(FEATURES, &options, (bn_batch){.n = 2});
    trial sliced = trial_new(FEATURES, &options, (bn_batch){.n = 2});
    trial_run(&t);
    for (size_t first = 0; first < FEATURES; first += SLICE) {
        check_slice(&sliced, &t, first, FEATURES - first < SLICE ? FEATURES - first : SLICE);
    }
    assert_same_bits(sliced.y, t.y, t.y_count);
    assert_same_bits(sliced.dx, t.dx, t.x_count);
    trial_free(&t);
    trial_free(&sliced);
}

static void one_feature(void **state) {
    (void)state;
    check_shape(2, 1, 1);
    check_shape(1000000, 1, 2);
}

static void ten_million_rows(void **state) {
    (void)state;
    check_shape(10000000, 4, 0);
}

/* ---- Larger than 32 bits count --------------------------------------------------------------- */

/* A tensor that is the same piece again and again: the same memory, so that it takes little. PIECE is
 * prime in 64 KiB, so that no power of two is a multiple. */
enum { PIECE = 97 * 65536 };

static void map_at(unsigned char *at, size_t bytes, int flags, int fd) {
    assert_ptr_equal(mmap(at, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0), at);
}

typedef struct repeated {
    unsigned char *at;
    size_t times;
} repeated;

static repeated repeated_new(size_t times) {
    repeated of = {map_far(times * PIECE), times};
    const int fd = memfd_create("piece", 0);
    assert_non_null(of.at);
    assert_true(fd >= 0 && ftruncate(fd, PIECE) == 0);
    for (size_t k = 0; k < times; k++) {
        map_at(of.at + k * PIECE, PIECE, MAP_SHARED, fd);
    }
    close(fd);
    return of;
}

static void repeated_free(repeated *of) {
    assert_int_equal(munmap(of->at, of->times * PIECE), 0);
}

/* At these, and at the end, an output has memory of its own: where an index were cut off, nothing
 * would be written there. */
static const size_t borders[] = {(size_t)1 << 31, (size_t)1 << 32, (size_t)1 << 33};

static bool is_own(const repeated *of, size_t k, size_t width) {
    bool own = k + 1 == of->times;
    for (size_t b = 0; b < COUNT_OF(borders); b++) {
        own = own || borders[b] / PIECE == k || borders[b] * width / PIECE == k;
    }
    return own && k > 0;
}

static repeated output_new(size_t times, size_t width) {
    repeated of = repeated_new(times);
    for (size_t k = 0; k < times; k++) {
        if (is_own(&of, k, width)) {
            map_at(of.at + k * PIECE, PIECE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
            fill_pattern(of.at + k * PIECE, PIECE);
        }
    }
    return of;
}

/* Of all pieces, whoever's. */
static void check_pieces(const repeated *of) {
    for (size_t k = 1; k < of->times; k++) {
        assert_memory_equal(of->at + k * PIECE, of->at, PIECE);
    }
}

/* What a piece alone gives, and all of them: sums that are so many times as large. */
static ref_result reference_of(const trial *piece, const bn_batch *batch) {
    const size_t times = batch->n * ref_spatial(batch) / piece->batch.n;
    ref_result want = ref_forward(&piece->layer, &piece->batch, piece->x);
    ref_backward(&want, &piece->layer, &piece->batch, piece->x, piece->dy);
    want.weight *= (double)times;
    ref_running(&want, &piece->layer);
    for (size_t d = 0; d < want.num_features; d++) {
        double *const sums[] = {&want.dgamma[d], &want.dbeta[d], &want.dgamma_scale[d],
                                &want.dbeta_scale[d]};
        for (size_t k = 0; k < COUNT_OF(sums); k++) {
            *sums[k] *= (double)times;
        }
        want.mean_scale[d] = ref_mean_scale(want.mean[d], want.var[d]);
    }
    return want;
}

static float *unpacked(const trial *piece, const repeated *of) {
    float *const values = ref_floats(piece->x_count);
    if (piece->batch.dtype == BN_DTYPE_F32) {
        memcpy(values, of->at, PIECE);
    } else {
        ref_from_halves(piece->batch.dtype, piece->x_count, of->at, values);
    }
    return values;
}

static void check_measured(const ref_result *want, const bn_layer *layer, const trial *piece,
                           float *of_y, const repeated *dx) {
    float *const of_dx = unpacked(piece, dx);
    const ref_errors errors = ref_measure(want, layer, &piece->batch, of_y, of_dx);
    const size_t known = want->num_features;
    const double mean =
        ref_error_vector(known, layer->running_mean, want->running_mean, want->mean_scale);
    const double var = ref_error_vector(known, layer->running_var, want->running_var, NULL);
    print_message("%zu times: units: y %.2f, dx %.2f, mean %.2f, invstd %.2f, dgamma %.2f, "
                  "dbeta %.2f, running values %.2f and %.2f\n",
                  dx->times, errors.y, errors.dx, errors.mean, errors.invstd, errors.dgamma,
                  errors.dbeta, mean, var);
    assert_true(ref_within_limits(&errors) && mean <= REF_LIMIT && var <= REF_LIMIT);
    free(of_dx);
    free(of_y);
}

/* A layer whose first features, or all, are the piece's. */
static bn_layer layer_like(const trial *piece, size_t features) {
    const float *const from[] = {piece->layer.gamma, piece->layer.beta, piece->layer.running_mean,
                                 piece->layer.running_var};
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, features, &piece->layer.options));
    float *const to[] = {layer.gamma, layer.beta, layer.running_mean, layer.running_var};
    for (size_t k = 0; k < COUNT_OF(to); k++) {
        for (size_t d = 0; d < features; d++) {
            to[k][d] = from[k][d % piece->layer.num_features];
        }
    }
    return layer;
}

/* A batch of pieces: of their rows, or of planes of one feature's; then all features are alike. */
static void check_large(trial *piece, size_t features, bn_batch batch) {
    const size_t width = trial_width(piece);
    const size_t times = batch.n * features * ref_spatial(&batch) * width / PIECE;
    ref_result want = reference_of(piece, &batch);
    repeated x = repeated_new(times), dy = repeated_new(times);
    repeated y = output_new(times, width), dx = output_new(times, width);
    bn_layer layer = layer_like(piece, features);
    memcpy(x.at, trial_at(piece, piece->x), PIECE);
    memcpy(dy.at, trial_at(piece, piece->dy), PIECE);
    assert_ok(bn_layer_forward_batch(&layer, &batch, x.at, y.at));
    check_pieces(&y);
    assert_ok(bn_layer_backward_batch(&layer, &batch, x.at, dy.at, dx.at));
    check_pieces(&dx);
    check_measured(&want, &layer, piece, unpacked(piece, &y), &dx);
    for (size_t d = want.num_features; d < features; d++) {
        assert_same_bits(&layer.dgamma[d], layer.dgamma, 1);
        assert_same_bits(&layer.dbeta[d], layer.dbeta, 1);
        assert_same_bits(&layer.running_var[d], layer.running_var, 1);
    }
    for (size_t k = 0; k < times; k++) {
        fill_pattern(y.at + k * PIECE, PIECE);
    }
    assert_ok(bn_layer_infer_batch(&layer, &batch, x.at, y.at));
    check_pieces(&y);
    bn_layer_free(&layer);
    ref_free(&want);
    repeated_free(&x);
    repeated_free(&dy);
    repeated_free(&y);
    repeated_free(&dx);
}

/* As many of a type as fill a piece. */
static size_t piece_of(bn_dtype dtype) {
    return PIECE / (dtype == BN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t));
}

static void check_large_rows(size_t features, bn_dtype dtype, size_t elements) {
    bn_batch batch = {.n = piece_of(dtype) / features, .dtype = dtype};
    trial piece = trial_new(features, NULL, batch);
    batch.n *= elements / piece_of(dtype) + 1;
    check_large(&piece, features, batch);
    trial_free(&piece);
}

static void check_large_planes(size_t n, size_t features, bn_dtype dtype, size_t elements) {
    bn_batch batch = {.n = piece_of(dtype), .dtype = dtype};
    trial piece = trial_new(1, NULL, batch);
    batch.spatial = batch.n * (elements / piece_of(dtype) / (n * features) + 1);
    batch.n = n;
    check_large(&piece, features, batch);
    trial_free(&piece);
}

#define TWO_TO(power) ((size_t)1 << (power))

static void rows_beyond_32_bits(void **state) {
    (void)state;
    check_large_rows(64, BN_DTYPE_BF16, TWO_TO(32));
    check_large_rows(4, BN_DTYPE_F32, TWO_TO(31));
    check_large_rows(1, BN_DTYPE_F16, TWO_TO(32)); /* W too */
}

static void planes_beyond_32_bits(void **state) {
    (void)state;
    check_large_planes(1, 1, BN_DTYPE_BF16, TWO_TO(32)); /* one plane */
    check_large_planes(2, 3, BN_DTYPE_F32, TWO_TO(31));
}

static void fill_pieces(const repeated *of, const void *piece) {
    for (size_t k = 0; k < of->times; k++) {
        memcpy(of->at + k * PIECE, piece, PIECE);
    }
}

/* This alone has all of a tensor in memory. */
static void in_place_beyond_31_bits(void **state) {
    (void)state;
    bn_batch batch = {.n = PIECE / 2 / 64, .dtype = BN_DTYPE_BF16};
    trial piece = trial_new(64, NULL, batch);
    const size_t times = TWO_TO(31) / piece_of(BN_DTYPE_BF16) + 1;
    batch.n *= times;
    ref_result want = reference_of(&piece, &batch);
    repeated x = repeated_new(times), own = {map_far(times * PIECE), times};
    assert_non_null(own.at);
    memcpy(x.at, trial_at(&piece, piece.x), PIECE);
    fill_pieces(&own, trial_at(&piece, piece.x));
    assert_ok(bn_layer_forward_batch(&piece.layer, &batch, own.at, own.at));
    check_pieces(&own);
    float *const of_y = unpacked(&piece, &own);
    fill_pieces(&own, trial_at(&piece, piece.dy));
    assert_ok(bn_layer_backward_batch(&piece.layer, &batch, x.at, own.at, own.at));
    check_pieces(&own);
    check_measured(&want, &piece.layer, &piece, of_y, &own);
    ref_free(&want);
    repeated_free(&x);
    repeated_free(&own);
    trial_free(&piece);
}

int main(int argc, char **argv) {
    const struct CMUnitTest brief[] = {
        cmocka_unit_test(threads_do_not_meet),   cmocka_unit_test(layers_come_and_go),
        cmocka_unit_test(rows_may_be_far_apart), cmocka_unit_test(one_feature),
        cmocka_unit_test(a_million_features),
    };
    const struct CMUnitTest thorough[] = {
        cmocka_unit_test(ten_million_rows),
        cmocka_unit_test(rows_beyond_32_bits),
        cmocka_unit_test(planes_beyond_32_bits),
        cmocka_unit_test(in_place_beyond_31_bits),
    };
    minutes = argc > 1 ? strtod(argv[1], NULL) : 0;
    const int failed = cmocka_run_group_tests(brief, NULL, NULL);
    return minutes > 0 ? failed + cmocka_run_group_tests(thorough, NULL, NULL) : failed;
}
