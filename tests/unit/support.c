/*
 * The helpers of support.h.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "support.h"

#include "memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

/* ---- Comparisons ----------------------------------------------------------------------------- */

enum { PATTERN = 0xA5 };

void fill_pattern(void *memory, size_t bytes) {
    memset(memory, PATTERN, bytes);
}

float *copy_floats(const float *values, size_t count) {
    float *copy = ref_floats(count);
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

void support_assert_status(bn_status got, bn_status expected, const char *call, const char *file,
                           int line) {
    if (got != expected) {
        print_error("%s\n    is     %s\n    not    %s\n", call, bn_status_string(got),
                    bn_status_string(expected));
        _fail(file, line);
    }
}

void support_assert_same_bits(const float *got, const float *want, size_t count, const char *what,
                              const char *file, int line) {
    if (memcmp(got, want, count * sizeof *got) == 0) {
        return;
    }
    size_t k = 0;
    while (memcmp(&got[k], &want[k], sizeof *got) == 0) {
        k++;
    }
    print_error("%s: element %zu of %zu is %.9g (%a), not %.9g (%a)\n", what, k, count,
                (double)got[k], (double)got[k], (double)want[k], (double)want[k]);
    _fail(file, line);
}

void support_assert_within(double error, double limit, const char *what, const char *file,
                           int line) {
    if (!(error <= limit)) {
        print_error("%s is %g, not within %g\n", what, error, limit);
        _fail(file, line);
    }
}

void support_assert_pattern(const void *memory, size_t bytes, const char *what, const char *file,
                            int line) {
    const unsigned char *at = memory;
    for (size_t k = 0; k < bytes; k++) {
        if (at[k] != PATTERN) {
            print_error("%s: byte %zu of %zu was written\n", what, k, bytes);
            _fail(file, line);
        }
    }
}

/* ---- The floating-point environment ----------------------------------------------------------- */

void set_flushing(void) {
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* FTZ and DAZ */
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr | 1u << 24));
#endif
}

/* ---- Guard pages ----------------------------------------------------------------------------- */

#ifndef _WIN32 /* the tests that have them are not for it */
guarded guarded_new(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    guarded g = {.bytes = (bytes + page - 1) / page * page};
    g.all = g.bytes + 2 * page;
    g.pages = mmap(NULL, g.all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.pages != MAP_FAILED);
    g.start = g.pages + page;
    assert_int_equal(mprotect(g.start, g.bytes, PROT_READ | PROT_WRITE), 0);
    return g;
}

void guarded_free(guarded *g) {
    munmap(g->pages, g->all);
}

void *guarded_place(const guarded *g, size_t bytes, bool at_end) {
    assert_in_range(bytes, 1, g->bytes);
    return at_end ? g->start + (g->bytes - bytes) : g->start;
}
#endif

bn_status init_in_block(bn_layer *layer, size_t num_features, const bn_options *options,
                        void *block, size_t bytes) {
    const bn_memory memory = {.block = block, .block_bytes = bytes};
    return bn_layer_init_with(layer, num_features, options, &memory);
}

/* ---- Snapshots ------------------------------------------------------------------------------- */

static void list_arrays(const bn_layer *layer, float *arrays[SNAPSHOT_ARRAYS]) {
    arrays[SNAPSHOT_GAMMA] = layer->gamma;
    arrays[SNAPSHOT_BETA] = layer->beta;
    arrays[SNAPSHOT_DGAMMA] = layer->dgamma;
    arrays[SNAPSHOT_DBETA] = layer->dbeta;
    arrays[SNAPSHOT_RUNNING_MEAN] = layer->running_mean;
    arrays[SNAPSHOT_RUNNING_VAR] = layer->running_var;
    arrays[SNAPSHOT_MEAN] = layer->saved_mean;
    arrays[SNAPSHOT_INVSTD] = layer->saved_invstd;
    /* Before a forward nothing is there. */
    const bool cached = layer->internal.forward != BNI_FORWARD_NONE;
    arrays[SNAPSHOT_MEAN_REST] = cached ? layer->internal.mean_rest : NULL;
    arrays[SNAPSHOT_INVSTD_REST] = cached ? layer->internal.invstd_rest : NULL;
    arrays[SNAPSHOT_MEAN_SEEN] = layer->internal.mean_seen;
    arrays[SNAPSHOT_RUNNING_MEAN_REST] = layer->internal.running_mean_rest;
    arrays[SNAPSHOT_VAR_SEEN] = layer->internal.var_seen;
    arrays[SNAPSHOT_RUNNING_VAR_REST] = layer->internal.running_var_rest;
}

snapshot snapshot_take(const bn_layer *layer) {
    snapshot taken;
    memcpy(&taken.layer, layer, sizeof *layer); /* the padding too, which an assignment may skip */
    list_arrays(layer, taken.arrays);
    for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
        if (taken.arrays[k]) {
            taken.arrays[k] = copy_floats(taken.arrays[k], layer->num_features);
        }
    }
    return taken;
}

/* All of the struct but its padding, which is nobody's. */
static void check_struct(const bn_layer *layer, const bn_layer *before) {
    static const size_t pieces[][2] = {
        {0, offsetof(bn_layer, options.inference_only) + 1},
        {offsetof(bn_layer, frozen), offsetof(bn_layer, frozen) + 1},
        {offsetof(bn_layer, gamma), offsetof(bn_layer, internal.options.inference_only) + 1},
        {offsetof(bn_layer, internal.owned), offsetof(bn_layer, internal.borrows) + 1},
        {offsetof(bn_layer, internal.kernels), offsetof(bn_layer, internal.forward) + sizeof(int)}};
    for (size_t k = 0; k < COUNT_OF(pieces); k++) {
        assert_memory_equal((const char *)layer + pieces[k][0], (const char *)before + pieces[k][0],
                            pieces[k][1] - pieces[k][0]);
    }
}

void snapshot_check(const snapshot *before, const bn_layer *layer) {
    check_struct(layer, &before->layer);
    snapshot_check_arrays(before, layer, 0);
}

void snapshot_check_arrays(const snapshot *before, const bn_layer *layer, unsigned but) {
    float *arrays[SNAPSHOT_ARRAYS];
    list_arrays(layer, arrays);
    for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
        if (arrays[k] && !(but >> k & 1u)) {
            assert_same_bits(arrays[k], before->arrays[k], layer->num_features);
        }
    }
}

void snapshot_restore_running(const snapshot *before, bn_layer *layer) {
    static const int running[] = {SNAPSHOT_RUNNING_MEAN,      SNAPSHOT_RUNNING_VAR,
                                  SNAPSHOT_MEAN_SEEN,         SNAPSHOT_VAR_SEEN,
                                  SNAPSHOT_RUNNING_MEAN_REST, SNAPSHOT_RUNNING_VAR_REST};
    float *arrays[SNAPSHOT_ARRAYS];
    list_arrays(layer, arrays);
    for (size_t k = 0; k < COUNT_OF(running); k++) {
        memcpy(arrays[running[k]], before->arrays[running[k]], layer->num_features * sizeof(float));
    }
}

void snapshot_free(snapshot *before) {
    for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
        free(before->arrays[k]);
    }
}

/* ---- Trials ---------------------------------------------------------------------------------- */

static size_t row_of(const trial *t) {
    return t->layer.num_features * ref_spatial(&t->batch);
}

static size_t x_stride_of(const trial *t) {
    return ref_x_stride(&t->batch, t->layer.num_features);
}

static size_t y_stride_of(const trial *t) {
    return ref_y_stride(&t->batch, t->layer.num_features);
}

static size_t extent(const trial *t, size_t stride) {
    return t->batch.n > 0 ? (t->batch.n - 1) * stride + row_of(t) : 0;
}

static float *new_input(const trial *t, ref_random *random, size_t stride, double low,
                        double high) {
    size_t count = extent(t, stride);
    float *values = ref_floats(count);
    ref_fill_uniform(random, values, count, low, high);
    for (size_t k = 0; stride > row_of(t) && k < count; k++) {
        if (k % stride >= row_of(t)) {
            values[k] = NAN;
        }
    }
    return values;
}

static float *new_output(size_t count) {
    float *values = ref_floats(count);
    fill_pattern(values, count * sizeof *values);
    return values;
}

static float *tensor_of(const trial *t, size_t which) {
    float *const tensors[TRIAL_TENSORS] = {t->x, t->dx, t->y, t->dy, t->residual, t->dresidual};
    return tensors[which];
}

static size_t count_of(const trial *t, size_t which) {
    return which <= TRIAL_DX ? t->x_count : t->y_count;
}

/* How far behind malloc's alignment halves begin. */
static size_t shift_of(size_t which) {
    return 1 + which % 3;
}

static void add_halves(trial *t, size_t which) {
    if (t->batch.dtype != BN_DTYPE_F32) {
        const size_t bytes = shift_of(which) + count_of(t, which) * trial_width(t);
        unsigned char *memory = malloc(bytes);
        assert_non_null(memory);
        fill_pattern(memory, bytes);
        t->halves[which] = memory + shift_of(which);
    }
}

trial trial_new(size_t num_features, const bn_options *options, bn_batch batch) {
    trial t = {.batch = batch};
    ref_random random = {1};
    assert_ok(bn_layer_init(&t.layer, num_features, options));
    ref_fill_layer(&random, &t.layer);
    t.x_count = extent(&t, x_stride_of(&t));
    t.y_count = extent(&t, y_stride_of(&t));
    t.x = new_input(&t, &random, x_stride_of(&t), -1.5, 2.5);
    t.dy = new_input(&t, &random, y_stride_of(&t), -1.0, 1.5);
    t.y = new_output(t.y_count);
    t.dx = new_output(t.x_count);
    for (size_t which = TRIAL_X; which <= TRIAL_DY; which++) {
        add_halves(&t, which);
    }
    trial_pack(&t);
    return t;
}

void trial_free(trial *t) {
    bn_layer_free(&t->layer);
    free(t->x);
    free(t->dx);
    free(t->y);
    free(t->dy);
    free(t->sample_weight);
    free(t->position_weight);
    free(t->residual);
    free(t->dresidual);
    for (size_t k = 0; k < TRIAL_TENSORS; k++) {
        free(t->halves[k] ? t->halves[k] - shift_of(k) : NULL);
    }
}

void trial_add_weights(trial *t) {
    ref_random random = {2};
    t->sample_weight = ref_floats(t->batch.n);
    ref_fill_uniform(&random, t->sample_weight, t->batch.n, 0.75, 2.0);
    if (t->batch.n > 2) {
        t->sample_weight[1] = 0;
    }
    t->batch.sample_weight = t->sample_weight;
}

void trial_add_positions(trial *t) {
    ref_random random = {4};
    size_t count = t->batch.n * ref_spatial(&t->batch);
    t->position_weight = ref_floats(count);
    ref_fill_uniform(&random, t->position_weight, count, 0.75, 2.0);
    for (size_t k = 2; k < count; k += 1 + (size_t)(ref_bits(&random) % 5)) {
        t->position_weight[k] = 0;
    }
    t->batch.position_weight = t->position_weight;
}

void trial_add_residual(trial *t) {
    ref_random random = {3};
    t->residual = new_input(t, &random, y_stride_of(t), -1.0, 1.0);
    t->dresidual = new_output(t->y_count);
    t->batch.residual = t->residual;
    t->batch.dresidual = t->dresidual;
    t->batch.y = t->y;
    add_halves(t, TRIAL_RESIDUAL);
    add_halves(t, TRIAL_DRESIDUAL);
    trial_pack(t);
}

size_t trial_width(const trial *t) {
    return t->batch.dtype == BN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* Of a half type, the tensor that an element is in, or else the end of, as some allocators have the
 * next one begin there; TRIAL_TENSORS: none. */
static size_t find_tensor(const trial *t, const float *element) {
    size_t found = TRIAL_TENSORS;
    for (size_t k = 0; k < TRIAL_TENSORS; k++) {
        const float *const first = tensor_of(t, k), *const end = first + count_of(t, k);
        if (t->halves[k] != NULL && element >= first &&
            (element < end || (element == end && found == TRIAL_TENSORS))) {
            found = k;
        }
    }
    return found;
}

void *trial_at(const trial *t, const float *element) {
    const size_t which = find_tensor(t, element);
    if (t->halves[TRIAL_X] == NULL) {
        return (void *)(uintptr_t)element;
    }
    return which == TRIAL_TENSORS
               ? NULL
               : t->halves[which] + (size_t)(element - tensor_of(t, which)) * sizeof(uint16_t);
}

bn_batch trial_batch(const trial *t) {
    bn_batch batch = t->batch;
    batch.residual = trial_at(t, t->batch.residual);
    batch.y = trial_at(t, t->batch.y);
    batch.dresidual = trial_at(t, t->batch.dresidual);
    return batch;
}

void trial_pack(trial *t) {
    static const size_t inputs[] = {TRIAL_X, TRIAL_DY, TRIAL_RESIDUAL};
    for (size_t k = 0; k < COUNT_OF(inputs); k++) {
        const size_t which = inputs[k], count = count_of(t, which);
        if (t->halves[which]) {
            float *const values = tensor_of(t, which);
            ref_to_halves(t->batch.dtype, count, values, t->halves[which]);
            ref_from_halves(t->batch.dtype, count, t->halves[which], values);
        }
    }
}

/* Between rows outputs keep their pattern here as there. */
static void unpack(trial *t, size_t which) {
    const size_t stride = which <= TRIAL_DX ? x_stride_of(t) : y_stride_of(t);
    for (size_t i = 0; which < TRIAL_TENSORS && t->halves[which] && i < t->batch.n; i++) {
        ref_from_halves(t->batch.dtype, row_of(t), t->halves[which] + i * stride * sizeof(uint16_t),
                        tensor_of(t, which) + i * stride);
    }
}

void trial_unpack(trial *t) {
    for (size_t k = 0; k < TRIAL_TENSORS; k++) {
        unpack(t, k);
    }
}

static bn_status forward(trial *t, const float *x, float *y) {
    const bn_batch batch = trial_batch(t);
    const bn_status status =
        bn_layer_forward_batch(&t->layer, &batch, trial_at(t, x), trial_at(t, y));
    unpack(t, find_tensor(t, y));
    return status;
}

static bn_status backward(trial *t, const float *x, const float *dy, float *dx) {
    const bn_batch batch = trial_batch(t);
    const bn_status status = bn_layer_backward_batch(&t->layer, &batch, trial_at(t, x),
                                                     trial_at(t, dy), trial_at(t, dx));
    unpack(t, find_tensor(t, dx));
    unpack(t, find_tensor(t, t->batch.dresidual));
    return status;
}

bn_status trial_forward(trial *t, const float *x, float *y) {
    trial_pack(t);
    return forward(t, x, y);
}

bn_status trial_backward(trial *t, const float *x, const float *dy, float *dx) {
    trial_pack(t);
    return backward(t, x, dy, dx);
}

bn_status trial_infer(trial *t, const float *x, float *y) {
    const bn_batch batch = trial_batch(t);
    trial_pack(t);
    const bn_status status =
        bn_layer_infer_batch(&t->layer, &batch, trial_at(t, x), trial_at(t, y));
    unpack(t, find_tensor(t, y));
    return status;
}

void trial_run(trial *t) {
    trial_pack(t);
    assert_ok(forward(t, t->x, t->y));
    assert_ok(backward(t, t->x, t->dy, t->dx));
}

static void check_gaps(const trial *t, const float *output, size_t count, size_t stride) {
    const size_t row = row_of(t), width = trial_width(t);
    const unsigned char *const bytes = trial_at(t, output);
    for (size_t at = row; stride > row && at < count; at += stride) {
        assert_pattern(bytes + at * width, (stride - row) * width);
    }
}

void trial_describe(const trial *t) {
    static const char *const names[] = {"", ", ReLU", ", leaky ReLU", ", clip"};
    static const char *const types[] = {"", ", bfloat16", ", float16"};
    print_error(
        "n %zu, D %zu, S %zu, strides %zu and %zu, num_threads %d%s%s%s%s%s%s%s:\n", t->batch.n,
        t->layer.num_features, ref_spatial(&t->batch), x_stride_of(t), y_stride_of(t),
        t->layer.options.num_threads, types[t->batch.dtype],
        t->batch.sample_weight ? ", weights" : "", t->batch.position_weight ? ", of positions" : "",
        t->batch.residual ? ", residual" : "", names[t->layer.options.activation],
        t->layer.frozen ? ", frozen" : "", t->layer.running_mean ? "" : ", no running values");
}

/* ---- Trials against the reference ------------------------------------------------------------ */

static double xhat_of(const trial *t, const ref_result *want, size_t i, size_t k) {
    size_t d = k / want->spatial;
    return ((double)t->x[i * x_stride_of(t) + k] - want->mean[d]) * want->invstd[d];
}

static double gamma_of(const trial *t, size_t d) {
    return t->layer.gamma ? (double)t->layer.gamma[d] : 1.0;
}

/* y, measured feature by feature by the largest |gamma * xhat| + |beta| + |residual|. The largest
 * |y| alone would not do here: of few values all may be small where the terms cancel, or ReLU may
 * have cut off all but a small one. Each term has at most two roundings, each sum one and a slope one;
 * invstd's own error comes on top, which data_template.h bounds. */
static double error_of_y(const trial *t, const ref_result *want) {
    double *scale = ref_doubles(want->num_features);
    for (size_t i = 0; i < want->n; i++) {
        for (size_t k = 0; k < row_of(t); k++) {
            size_t d = k / want->spatial;
            double terms = fabs(gamma_of(t, d) * xhat_of(t, want, i, k));
            terms += t->layer.beta ? fabs((double)t->layer.beta[d]) : 0.0;
            terms += t->residual ? fabs((double)t->residual[i * y_stride_of(t) + k]) : 0.0;
            scale[d] = fmax(scale[d], terms * ref_steepest(&t->layer.options));
        }
    }
    double error = ref_error_tensor(want, t->y, y_stride_of(t), want->y, scale);
    free(scale);
    return error;
}

/* What dx is measured by where there are weights: the size of its terms, and of their sums' terms. xhat
 * of what is masked may be as large as it likes, and dgamma be little where such terms cancel, so that
 * neither dy nor dgamma says anything of dx's digits. */
void trial_scale_dx(const trial *t, ref_result *want) {
    for (size_t i = 0; i < want->n; i++) {
        for (size_t k = 0; k < row_of(t); k++) {
            size_t d = k / want->spatial;
            double weight = ref_weight(&t->batch, i, k % want->spatial);
            double share = t->layer.frozen ? 0.0 : weight / want->weight;
            double dgamma = fmax(fabs(want->dgamma[d]), want->dgamma_scale[d]);
            double sums = fabs(want->dbeta[d]) + fabs(xhat_of(t, want, i, k)) * dgamma;
            double terms = fabs(want->dresidual[i * row_of(t) + k]) + share * sums;
            want->dx_scale[d] =
                fmax(want->dx_scale[d], fabs(gamma_of(t, d) * want->invstd[d]) * terms);
        }
    }
}

static bool updates_running(const trial *t) {
    return t->layer.running_mean != NULL && !t->layer.frozen;
}

static ref_result reference_of(const trial *t) {
    ref_result want = ref_forward(&t->layer, &t->batch, t->x);
    ref_backward(&want, &t->layer, &t->batch, t->x, t->dy);
    if (t->sample_weight || t->position_weight) {
        trial_scale_dx(t, &want);
    }
    return want;
}

void trial_check_errors(const trial *t, const ref_result *want) {
    const size_t features = t->layer.num_features;
    double running_mean = 0, running_var = 0;
    ref_errors errors = ref_measure(want, &t->layer, &t->batch, NULL, t->dx);
    errors.y = t->y ? error_of_y(t, want) : 0;
    if (updates_running(t)) {
        for (size_t d = 0; d < features; d++) {
            want->mean_scale[d] = ref_mean_scale(want->running_mean[d], want->var[d]);
        }
        running_mean =
            ref_error_vector(features, t->layer.running_mean, want->running_mean, want->mean_scale);
        running_var = ref_error_vector(features, t->layer.running_var, want->running_var, NULL);
    }
    if (!ref_within_limits(&errors) || running_mean > REF_LIMIT || running_var > REF_LIMIT) {
        trial_describe(t);
        print_error(
            "    units: y %g, dx %g, dresidual %g, mean %g, invstd %g, dgamma %g, dbeta %g, "
            "running_mean %g, running_var %g\n",
            errors.y, errors.dx, errors.dresidual, errors.mean, errors.invstd, errors.dgamma,
            errors.dbeta, running_mean, running_var);
        fail();
    }
}

void trial_check_run(trial *t, void (*run)(trial *t, const void *context), const void *context) {
    const size_t features = t->layer.num_features;
    const bool updates = updates_running(t);
    snapshot before = snapshot_take(&t->layer);
    trial_pack(t);
    ref_result want = reference_of(t);
    if (updates) {
        ref_running(&want, &t->layer);
    }
    run(t, context);
    if (!updates && t->layer.running_mean) {
        assert_same_bits(t->layer.running_mean, before.arrays[SNAPSHOT_RUNNING_MEAN], features);
        assert_same_bits(t->layer.running_var, before.arrays[SNAPSHOT_RUNNING_VAR], features);
    }
    assert_int_equal(t->layer.num_batches_tracked, before.layer.num_batches_tracked + updates);
    trial_check_errors(t, &want);
    ref_free(&want);
    snapshot_free(&before);
    check_gaps(t, t->y, t->y_count, y_stride_of(t));
    check_gaps(t, t->dx, t->x_count, x_stride_of(t));
    if (t->dresidual) {
        check_gaps(t, t->dresidual, t->y_count, y_stride_of(t));
    }
}

static void run_whole(trial *t, const void *context) {
    (void)context;
    trial_run(t);
}

void trial_check(trial *t) {
    trial_check_run(t, run_whole, NULL);
}

/* ---- Trials against each other --------------------------------------------------------------- */

static void to_doubles(double *into, const float *from, size_t count) {
    for (size_t k = 0; from != NULL && k < count; k++) {
        into[k] = (double)from[k];
    }
}

static void to_tensor(const trial *t, double *into, const float *from, size_t stride) {
    const size_t row = row_of(t);
    for (size_t i = 0; from != NULL && i < t->batch.n; i++) {
        to_doubles(into + i * row, from + i * stride, row);
    }
}

/* In the reference's place, measured by its scales. Both are rounded. */
void trial_check_near(const trial *got, const trial *want) {
    const size_t features = want->layer.num_features;
    ref_result near = reference_of(want);
    near.rounding = 1;
    to_tensor(want, near.dx, want->dx, x_stride_of(want));
    to_tensor(want, near.dresidual, want->dresidual, y_stride_of(want));
    to_tensor(want, near.y, want->y, y_stride_of(want));
    to_doubles(near.dgamma, want->layer.dgamma, features);
    to_doubles(near.dbeta, want->layer.dbeta, features);
    to_doubles(near.running_mean, want->layer.running_mean, features);
    to_doubles(near.running_var, want->layer.running_var, features);
    trial_check_errors(got, &near);
    ref_free(&near);
    assert_int_equal(got->layer.num_batches_tracked, want->layer.num_batches_tracked);
}

/* ---- Inference, and the same bits ------------------------------------------------------------ */

void trial_check_infer(trial *t) {
    bn_layer constant = t->layer; /* inference is the forward of a frozen layer */
    constant.frozen = constant.running_mean != NULL;
    trial_pack(t);
    ref_result want = ref_forward(&constant, &t->batch, t->x);

    snapshot before = snapshot_take(&t->layer);
    fill_pattern(trial_at(t, t->y), t->y_count * trial_width(t));
    assert_ok(trial_infer(t, t->x, t->y));
    snapshot_check(&before, &t->layer);
    snapshot_free(&before);

    double error = error_of_y(t, &want);
    ref_free(&want);
    if (error > REF_LIMIT) {
        trial_describe(t);
        print_error("    inference: y is off by %g units\n", error);
        fail();
    }
    check_gaps(t, t->y, t->y_count, y_stride_of(t));
}

void trial_check_same(const trial *got, const trial *want) {
    float *got_arrays[SNAPSHOT_ARRAYS], *want_arrays[SNAPSHOT_ARRAYS];
    list_arrays(&got->layer, got_arrays);
    list_arrays(&want->layer, want_arrays);
    for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
        if (want_arrays[k]) {
            assert_same_bits(got_arrays[k], want_arrays[k], want->layer.num_features);
        }
    }
    assert_int_equal(got->layer.num_batches_tracked, want->layer.num_batches_tracked);
    assert_same_bits(got->y, want->y, want->y_count);
    assert_same_bits(got->dx, want->dx, want->x_count);
    if (want->dresidual) {
        assert_same_bits(got->dresidual, want->dresidual, want->y_count);
    }
}
