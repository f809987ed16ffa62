/*
 * Training forward and inference: check, moments, coefficients, normalize, commit. Nothing is
 * written before all checks have passed.
 */
#include "layer.h"
#include "moments.h"
#include "parallel.h"

#include <stdatomic.h>
#include <string.h>

/* ---- Checks --------------------------------------------------------------------------------- */

/* All that forward and inference check alike. An empty batch passes whatever x and y are. */
static bn_status check(const bn_layer *layer, const bn_batch *batch, const void *x, const void *y,
                       bni_batch *made) {
    if (layer == NULL || batch == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!bni_layer_ready(layer)) {
        return BN_STATUS_BAD_STATE;
    }
    if (!bni_eps_good(layer->options.eps)) {
        return BN_STATUS_BAD_OPTION;
    }
    const bn_status status = bni_batch_make(made, batch, layer->num_features, BNI_STRIDES_BOTH);
    if (status != BN_STATUS_OK || made->n == 0) {
        return status;
    }
    if (x == NULL || y == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    enum { X, RESIDUAL, WEIGHTS, Y, LAYER, REGIONS };
    const bni_region regions[REGIONS] = {[X] = bni_region_of_x(made, x),
                                         [RESIDUAL] = bni_region_of_y(made, batch->residual),
                                         [WEIGHTS] = bni_region_of_weights(made),
                                         [Y] = bni_region_of_y(made, y),
                                         [LAYER] = bni_region_of_layer(layer)};
    const unsigned same[REGIONS] = {
        [X] = 1u << RESIDUAL | 1u << WEIGHTS | 1u << Y, [RESIDUAL] = 1u << WEIGHTS};
    return bni_any_overlap(regions, same, REGIONS) ? BN_STATUS_OVERLAP : BN_STATUS_OK;
}

/* ---- Normalize ------------------------------------------------------------------------------ */

/* What turns x into y, a value a feature, from a group's first on. */
typedef struct feature_coef {
    const float *center, *scale, *shift;
} feature_coef;

static void normalize_task(const bni_batch *batch, const bn_layer *layer, const bni_sheet *data,
                           bni_pass pass, bni_task task, feature_coef of) {
    float center[BNI_PANEL], scale[BNI_PANEL], shift[BNI_PANEL];
    const bn_kernels *kernels = layer->internal.kernels;
    const bool relu = layer->internal.options.activation == BN_ACTIVATION_RELU;
    const size_t features = bni_group_size(batch, task.group);
    const bni_coef coef = {.center = bni_expand(batch, features, of.center, center),
                           .scale = bni_expand(batch, features, of.scale, scale),
                           .shift = bni_expand(batch, features, of.shift, shift)};
    bni_walk walk = bni_walk_begin(batch, kernels, data, pass, task);
    bni_sheet sheet;
    while (bni_walk_next(&walk, &sheet)) {
        kernels->normalize(&sheet, &coef, relu);
    }
}

/* ---- Training ------------------------------------------------------------------------------- */

typedef struct forward_work {
    const bn_layer *layer;
    const bni_batch *batch;
    bni_batch wide; /* the same for a pass that only writes, where there is one */
    bni_sheet data;
    bni_scratch scratch;
    bool update_running;
    atomic_bool finite;
} forward_work;

/* The weight of the old running values. */
static double keep_of(const bn_layer *layer) {
    const double seen = (double)layer->num_batches_tracked;
    return layer->options.momentum == BN_MOMENTUM_CUMULATIVE ? seen / (seen + 1.0)
                                                             : (double)layer->options.momentum;
}

/* From the moments of some features, their part of the cache, of the pending running values and of
 * the coefficients. Features do not depend on each other: any range of them may come first. */
static void finish_features(forward_work *work, bni_sums sums, size_t first, size_t features) {
    const bn_layer *layer = work->layer;
    sums.count =
        work->batch->values; /* what was checked; weights round otherwise in another order */
    const bni_cache cache = bni_cache_of(layer, first);
    bool finite = layer->internal.kernels->finish_moments(&sums, features,
                                                          (double)layer->options.eps, &cache);
    if (work->update_running) {
        finite = bni_pending_running(layer, &sums, first, features, keep_of(layer)) && finite;
    }
    if (!finite) {
        atomic_store(&work->finite, false);
    }
    bni_layer_affine_part(layer, &cache, first, features, work->scratch.scale + first,
                          work->scratch.shift + first);
}

/* A task of a pass that writes, by the batch's or the running statistics. */
static void write_task(const forward_work *work, const bni_batch *batch, bni_pass pass,
                       bni_task task) {
    const size_t first = bni_group_first(batch, task.group);
    normalize_task(batch, work->layer, &work->data, pass, task,
                   (feature_coef){work->layer->saved_mean + first, work->scratch.scale + first,
                                  work->scratch.shift + first});
}

static void write_worker(void *context, bni_tasks *tasks) {
    const forward_work *work = context;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        write_task(work, &work->wide, BNI_WRITES, task);
    }
}

static void write_all(forward_work *work, bni_order order) {
    work->wide = bni_widened(work->batch, work->batch->features);
    bni_run(&work->wide, work->layer->internal.options.num_threads, order, write_worker, work);
}

/* All of a group's data is in one chunk: it is normalized while the caches still hold it. */
static void whole_groups_worker(void *context, bni_tasks *tasks) {
    forward_work *work = context;
    const bni_batch *batch = work->batch;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        const size_t first = bni_group_first(batch, task.group);
        bni_sums sums = {0.0, work->scratch.sum1 + first, work->scratch.sum2 + first};
        bni_task_moments(work->layer->internal.kernels, batch, work->data.x, task, &sums);
        finish_features(work, sums, first, bni_group_size(batch, task.group));
        write_task(work, batch, BNI_FOLLOWS, task);
    }
}

static void train(forward_work *work) {
    const bn_layer *layer = work->layer;
    const bni_batch *batch = work->batch;
    const int threads = layer->internal.options.num_threads;
    if (batch->chunks == 1) {
        bni_run(batch, threads, BNI_BY_CHUNK, whole_groups_worker, work);
        return;
    }
    bni_sums sums = {0.0, work->scratch.sum1, work->scratch.sum2};
    bni_batch_moments(layer->internal.kernels, batch, work->data.x, threads, work->scratch.chunks,
                      &sums);
    finish_features(work, sums, 0, batch->features);
    write_all(work, BNI_BY_CHUNK_BACK);
}

/* By the running values, which backward takes for constants. */
static void forward_frozen(forward_work *work) {
    const bn_layer *layer = work->layer;
    const size_t features = layer->num_features;
    const bni_cache cache = bni_cache_of(layer, 0);
    layer->internal.kernels->finish_running(layer->running_mean, layer->running_var, features,
                                            (double)layer->options.eps, &cache);
    bni_layer_affine_part(layer, &cache, 0, features, work->scratch.scale, work->scratch.shift);
    write_all(work, BNI_BY_CHUNK);
}

bn_status bn_layer_forward_batch(bn_layer *layer, const bn_batch *batch, const void *x, void *y) {
    bni_batch made;
    const bn_status status = check(layer, batch, x, y, &made);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (!bni_momentum_good(layer->options.momentum)) {
        return BN_STATUS_BAD_OPTION;
    }
    if (layer->frozen && layer->running_mean == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    if (made.n == 0) {
        return BN_STATUS_OK;
    }
    if (!layer->frozen && !(made.values > 1.0)) {
        return BN_STATUS_TOO_FEW_VALUES;
    }

    const bool update = !layer->frozen && layer->running_mean != NULL && !batch->keep_running;
    forward_work work = {.layer = layer,
                         .batch = &made,
                         .data = {.x = x, .residual = batch->residual, .out = y},
                         .scratch = bni_scratch_of(layer),
                         .update_running = update,
                         .finite = true};
    if (layer->frozen) {
        forward_frozen(&work);
    } else {
        train(&work);
    }

    layer->internal.n = made.n;
    layer->internal.spatial = made.spatial;
    layer->internal.forward = layer->frozen ? BNI_FORWARD_FROZEN : BNI_FORWARD_TRAINING;
    if (!work.finite) {
        return BN_STATUS_NOT_FINITE;
    }
    if (update) {
        bni_commit_running(layer);
        layer->num_batches_tracked++;
    }
    return BN_STATUS_OK;
}

bn_status bn_layer_forward(bn_layer *layer, size_t n, const float *x, float *y) {
    const bn_batch batch = {.n = n};
    return bn_layer_forward_batch(layer, &batch, x, y);
}

/* ---- Inference ------------------------------------------------------------------------------ */

/* The layer is const and any number of threads may be here, so all that is computed is on the
 * stack. Of running values that is the scale alone, of so many features at once: wide enough that
 * rows are read whole, or in runs of 16 KiB, which cost as much as whole ones. */
#define SCALES ((size_t)4096)

typedef struct infer_work {
    const bn_layer *layer;
    const bni_batch *batch;
    bni_sheet data;
} infer_work;

/* The scales of some features; none as long as there are no features. */
typedef struct scales {
    size_t first, features;
    float scale[SCALES];
} scales;

/* The scales of a group. Makes them, and those of the features behind it, where they are not. */
static const float *scales_of(scales *s, const infer_work *work, size_t group) {
    const bn_layer *layer = work->layer;
    const size_t first = bni_group_first(work->batch, group);
    if (first < s->first || first + bni_group_size(work->batch, group) > s->first + s->features) {
        s->first = first;
        s->features = bni_smaller(layer->num_features - first, SCALES);
        layer->internal.kernels->running_scale(layer->running_var + first,
                                               layer->gamma == NULL ? NULL : layer->gamma + first,
                                               s->features, (double)layer->options.eps, s->scale);
        memset(s->scale + s->features, 0, /* kernels load whole vectors */
               (bni_padded(s->features) - s->features) * sizeof *s->scale);
    }
    return s->scale + (first - s->first);
}

static void infer_worker(void *context, bni_tasks *tasks) {
    static const float no_shift[SCALES];
    const infer_work *work = context;
    const bn_layer *layer = work->layer;
    scales s;
    s.first = s.features = 0;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        const size_t first = bni_group_first(work->batch, task.group);
        normalize_task(work->batch, layer, &work->data, BNI_WRITES, task,
                       (feature_coef){layer->running_mean + first, scales_of(&s, work, task.group),
                                      layer->beta == NULL ? no_shift : layer->beta + first});
    }
}

static void infer_by_running(const bni_batch *batch, infer_work work) {
    const bni_batch wide = bni_widened(batch, SCALES);
    const bni_order order =
        wide.groups * wide.group_features <= SCALES ? BNI_BY_CHUNK : BNI_BY_GROUP;
    work.batch = &wide;
    bni_run(&wide, work.layer->internal.options.num_threads, order, infer_worker, &work);
}

/* The moments of a whole group, its chunks merged in the order that training merges them in. */
static void whole_group_moments(const bn_kernels *kernels, const bni_batch *batch, const float *x,
                                size_t group, bni_sums *sums) {
    double mean[BNI_PANEL], m2[BNI_PANEL];
    bni_sums part = {0.0, mean, m2};
    bni_task_moments(kernels, batch, x, (bni_task){group, 0}, sums);
    for (size_t chunk = 1; chunk < batch->chunks; chunk++) {
        bni_task_moments(kernels, batch, x, (bni_task){group, chunk}, &part);
        kernels->merge(sums, &part, bni_group_size(batch, group));
    }
}

/* Writes the cache of a group by its batch's moments; false where they are not finite. */
static bool group_cache(const infer_work *work, size_t group, const bni_cache *cache) {
    const bn_kernels *kernels = work->layer->internal.kernels;
    double mean[BNI_PANEL], m2[BNI_PANEL];
    bni_sums sums = {0.0, mean, m2};
    whole_group_moments(kernels, work->batch, work->data.x, group, &sums);
    sums.count = work->batch->values;
    return kernels->finish_moments(&sums, bni_group_size(work->batch, group),
                                   (double)work->layer->options.eps, cache);
}

/* Inference without running values: false where the batch's statistics are not finite. */
static bool infer_by_batch(const infer_work *work) {
    const bni_batch *batch = work->batch;
    float mean[BNI_PANEL], mean_rest[BNI_PANEL], invstd[BNI_PANEL], invstd_rest[BNI_PANEL];
    float scale[BNI_PANEL], shift[BNI_PANEL];
    const bni_cache cache = {mean, mean_rest, invstd, invstd_rest};
    bool finite = true;
    for (size_t group = 0; group < batch->groups; group++) {
        finite = group_cache(work, group, &cache) && finite;
        bni_layer_affine_part(work->layer, &cache, bni_group_first(batch, group),
                              bni_group_size(batch, group), scale, shift);
        for (size_t chunk = 0; chunk < batch->chunks; chunk++) {
            normalize_task(batch, work->layer, &work->data, BNI_WRITES, (bni_task){group, chunk},
                           (feature_coef){mean, scale, shift});
        }
    }
    bni_publish(batch);
    return finite;
}

bn_status bn_layer_infer_batch(const bn_layer *layer, const bn_batch *batch, const void *x,
                               void *y) {
    bni_batch made;
    const bn_status status = check(layer, batch, x, y, &made);
    if (status != BN_STATUS_OK || made.n == 0) {
        return status;
    }
    infer_work work = {layer, &made, {.x = x, .residual = batch->residual, .out = y}};
    if (layer->running_mean == NULL) {
        if (!(made.values > 1.0)) {
            return BN_STATUS_TOO_FEW_VALUES;
        }
        return infer_by_batch(&work) ? BN_STATUS_OK : BN_STATUS_NOT_FINITE;
    }
    infer_by_running(&made, work);
    return BN_STATUS_OK;
}

bn_status bn_layer_infer(const bn_layer *layer, size_t n, const float *x, float *y) {
    const bn_batch batch = {.n = n};
    return bn_layer_infer_batch(layer, &batch, x, y);
}
