/*
 * Inference: check, coefficients, normalize. The layer is const and any number of threads may be
 * here, so all that is computed is on the stack.
 */
#include "moments.h"
#include "normalize.h"

#include <stdatomic.h>
#include <string.h>

typedef struct infer_work {
    const bn_layer *layer;
    const bni_cut *cut;
    bni_buffers data;
} infer_work;

static void infer_task(const infer_work *work, bni_pass pass, bni_task task, bni_feature_coef of) {
    bni_normalize_task(work->cut, work->layer, &work->data, pass, task, of);
}

/* ---- By the running values ------------------------------------------------------------------ */

/* Scale and shift are computed of so many features at once: wide enough that rows are read whole, or
 * in runs of 8 KiB. */
#define SCALES ((size_t)2048)

/* The scales of some features; none as long as there are no features. */
typedef struct scales {
    size_t first, features;
    _Alignas(BNI_LINE) float scale[SCALES], shift[SCALES];
} scales;

/* The coefficients of a group. Makes them, and those of the features behind it, where they are not. */
static bni_feature_coef scales_of(scales *s, const infer_work *work, size_t group) {
    const bn_layer *layer = work->layer;
    const size_t first = bni_group_first(work->cut, group);
    BNI_ASSERT(bni_group_size(work->cut, group) <= SCALES);
    if (first < s->first || first + bni_group_size(work->cut, group) > s->first + s->features) {
        s->first = first;
        s->features = bni_smaller(layer->num_features - first, SCALES);
        const bni_running running = bni_running_of(layer, first);
        layer->internal.kernels->features.running_affine(
            &running, layer->gamma == NULL ? NULL : layer->gamma + first,
            layer->beta == NULL ? NULL : layer->beta + first, s->features,
            (double)layer->options.eps, s->scale, s->shift);
    }
    return (bni_feature_coef){layer->running_mean + first, s->scale + (first - s->first),
                              s->shift + (first - s->first)};
}

static void running_worker(void *context, bni_tasks *tasks) {
    const infer_work *work = context;
    scales s;
    s.first = s.features = 0;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        infer_task(work, BNI_WRITES, task, scales_of(&s, work, task.group));
    }
}

static void infer_by_running(const bni_cut *cut, infer_work work) {
    const bni_cut wide = bni_cut_writes(cut, SCALES);
    const bni_order order =
        wide.groups * wide.group_features <= SCALES ? BNI_BY_CHUNK : BNI_BY_GROUP;
    work.cut = &wide;
    bni_run(&wide, bni_threads(work.layer), order, running_worker, &work);
}

/* ---- By the batch itself -------------------------------------------------------------------- */

/* Mean and m2 of a group's features, or of a chunk of them. */
typedef struct group_moments {
    double count, mean[BNI_NARROW], m2[BNI_NARROW];
} group_moments;

_Static_assert(sizeof(group_moments) == BNI_PART * sizeof(double), "a part in turn");

static bni_sums sums_in(group_moments *moments) {
    return (bni_sums){moments->count, moments->mean, moments->m2};
}

typedef struct group_affine {
    float center[BNI_NARROW], scale[BNI_NARROW], shift[BNI_NARROW];
} group_affine;

/* What is known of a group, in one place on the stack: first the one, then the other. */
typedef union group_state {
    group_moments moments;
    group_affine affine;
} group_state;

typedef struct batch_work {
    infer_work infer;
    size_t group; /* where groups come one after the other: the present one */
    group_state *state;
    atomic_bool finite;
} batch_work;

static void chunk_moments(const infer_work *work, bni_task task, group_moments *moments) {
    bni_part part = {0.0, moments->mean, moments->m2};
    BNI_ASSERT(bni_group_size(work->cut, task.group) <= BNI_NARROW);
    bni_task_moments(work->layer->internal.kernels, work->cut, work->data.x,
                     (double)work->layer->options.eps, task, &part);
    moments->count = part.count;
}

/* From the moments of a group its coefficients. */
static BNI_OWN_FRAME void finish_group(batch_work *work, size_t group, group_state *state) {
    const infer_work *infer = &work->infer;
    const bn_layer *layer = infer->layer;
    group_affine affine;
    float mean_rest[BNI_NARROW], invstd[BNI_NARROW], invstd_rest[BNI_NARROW];
    const bni_cache cache = {affine.center, mean_rest, invstd, invstd_rest};
    const size_t first = bni_group_first(infer->cut, group);
    const size_t features = bni_group_size(infer->cut, group);
    bni_sums sums = sums_in(&state->moments);
    sums.count = infer->cut->shape->values; /* as in training */
    if (!layer->internal.kernels->features.finish_moments(&sums, features,
                                                          (double)layer->options.eps, &cache)) {
        atomic_store(&work->finite, false);
    }
    bni_layer_affine_part(layer, &cache, first, features, affine.scale, affine.shift);
    memcpy(state->affine.center, affine.center, features * sizeof *affine.center);
    memcpy(state->affine.scale, affine.scale, features * sizeof *affine.scale);
    memcpy(state->affine.shift, affine.shift, features * sizeof *affine.shift);
}

static bni_feature_coef coef_in(const group_state *state) {
    return (bni_feature_coef){state->affine.center, state->affine.scale, state->affine.shift};
}

/* Groups that are whole, each by one thread. */
static void whole_groups_worker(void *context, bni_tasks *tasks) {
    batch_work *work = context;
    group_state state;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        chunk_moments(&work->infer, task, &state.moments);
        finish_group(work, task.group, &state);
        infer_task(&work->infer, BNI_FOLLOWS, task, coef_in(&state));
    }
}

/* A group of several chunks: its moments are merged in the order that training merges them in. */
static void make_part(void *context, size_t chunk, double *part) {
    const batch_work *work = context;
    chunk_moments(&work->infer, (bni_task){work->group, chunk}, (group_moments *)part);
}

static void merge_part(void *context, size_t chunk, double *part) {
    const batch_work *work = context;
    const bni_sums sums = sums_in((group_moments *)part);
    bni_sums all = sums_in(&work->state->moments);
    (void)chunk;
    work->infer.layer->internal.kernels->features.merge(
        &all, &sums, bni_group_size(work->infer.cut, work->group));
    work->state->moments.count = all.count;
}

static void chunks_worker(void *context, bni_tasks *tasks) {
    const batch_work *work = context;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        task.group = work->group;
        infer_task(&work->infer, BNI_WRITES, task, coef_in(work->state));
    }
}

static void infer_group(batch_work *work) {
    const int threads = bni_threads(work->infer.layer);
    bni_cut alone = *work->infer.cut;
    alone.groups = 1;
    work->state->moments.count = 0.0;
    bni_run_in_turn(&alone, threads, &(bni_turns){make_part, merge_part, work});
    finish_group(work, work->group, work->state);
    bni_run(&alone, threads, BNI_BY_CHUNK_BACK, chunks_worker, work);
}

/* Groups one after the other, each by all threads. */
static void split_groups_worker(void *context, bni_tasks *tasks) {
    batch_work *work = context;
    group_state state;
    bni_task task;
    work->state = &state;
    while (bni_next_task(tasks, &task)) {
        work->group = task.group;
        infer_group(work);
    }
}

/* False where the batch's statistics are not finite. */
static bool infer_by_batch(const bni_cut *cut, infer_work infer) {
    const bni_cut narrow = bni_cut_narrow(cut);
    infer.cut = &narrow;
    batch_work work = {.infer = infer, .finite = true};
    if (narrow.chunks == 1) {
        bni_run(&narrow, bni_threads(infer.layer), BNI_BY_CHUNK, whole_groups_worker, &work);
    } else {
        bni_cut groups = narrow;
        groups.chunks = 1;
        bni_run(&groups, 1, BNI_BY_CHUNK, split_groups_worker, &work);
    }
    return work.finite;
}

/* ---- The calls ------------------------------------------------------------------------------ */

bn_status bn_layer_infer_batch(const bn_layer *layer, const bn_batch *batch, const void *x,
                               void *y) {
    bni_shape shape;
    const bn_status status = bni_check_normalize(layer, batch, x, y, BNI_INFERENCE, &shape);
    if (status != BN_STATUS_OK || shape.n == 0) {
        return status;
    }
    const bni_cut cut = bni_cut_sums(&shape, layer->internal.tuning, BNI_Y);
    const infer_work work = {layer, &cut, {.x = x, .residual = batch->residual, .out = y}};
    if (layer->running_mean == NULL) {
        if (!(shape.values > 1.0)) {
            return BN_STATUS_TOO_FEW_VALUES;
        }
        return infer_by_batch(&cut, work) ? BN_STATUS_OK : BN_STATUS_NOT_FINITE;
    }
    infer_by_running(&cut, work);
    return BN_STATUS_OK;
}

bn_status bn_layer_infer(const bn_layer *layer, size_t n, const float *x, float *y) {
    const bn_batch batch = {.n = n};
    return bn_layer_infer_batch(layer, &batch, x, y);
}
