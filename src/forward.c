/*
 * Training forward and inference: check, moments, coefficients, normalize, commit. Nothing is
 * written before all checks have passed.
 */
#include "layer.h"
#include "moments.h"
#include "parallel.h"

#include <stdatomic.h>

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

static void normalize_group(const bn_kernels *kernels, const bni_batch *batch,
                            const bni_sheet *data, bni_pass pass, size_t group, size_t chunk,
                            feature_coef of, bool relu) {
    float center[BNI_PANEL], scale[BNI_PANEL], shift[BNI_PANEL];
    const size_t features = bni_group_size(batch, group);
    const bni_coef coef = {.center = bni_expand(batch, features, of.center, center),
                           .scale = bni_expand(batch, features, of.scale, scale),
                           .shift = bni_expand(batch, features, of.shift, shift)};
    bni_walk walk = bni_walk_begin(batch, data, pass, group, chunk);
    bni_sheet sheet;
    while (bni_walk_next(&walk, &sheet)) {
        kernels->normalize(&sheet, &coef, relu);
    }
}

/* ---- Training ------------------------------------------------------------------------------- */

typedef struct forward_work {
    const bn_layer *layer;
    const bni_batch *batch;
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

static void normalize_chunk(const forward_work *work, bni_pass pass, size_t group, size_t chunk) {
    const size_t first = bni_group_first(work->batch, group);
    const feature_coef coef = {work->layer->saved_mean + first, work->scratch.scale + first,
                               work->scratch.shift + first};
    normalize_group(work->layer->internal.kernels, work->batch, &work->data, pass, group, chunk,
                    coef, work->layer->internal.options.activation == BN_ACTIVATION_RELU);
}

static void normalize_task(void *context, size_t group, size_t chunk) {
    normalize_chunk(context, BNI_WRITES, group, chunk);
}

/* All of a group's data is in one chunk: it is normalized while the caches still hold it. */
static void whole_group_task(void *context, size_t group, size_t chunk) {
    forward_work *work = context;
    const size_t first = bni_group_first(work->batch, group);
    bni_sums sums = {0.0, work->scratch.sum1 + first, work->scratch.sum2 + first};
    bni_group_moments(work->layer->internal.kernels, work->batch, work->data.x, group, chunk,
                      &sums);
    finish_features(work, sums, first, bni_group_size(work->batch, group));
    normalize_chunk(work, BNI_WRITES, group, chunk);
}

static void train(forward_work *work) {
    const bn_layer *layer = work->layer;
    const bni_batch *batch = work->batch;
    if (batch->chunks == 1) {
        bni_run(batch, layer->internal.options.num_threads, whole_group_task, work);
        return;
    }
    bni_sums sums = {0.0, work->scratch.sum1, work->scratch.sum2};
    bni_batch_moments(layer->internal.kernels, batch, work->data.x,
                      layer->internal.options.num_threads, work->scratch.chunks, &sums);
    finish_features(work, sums, 0, batch->features);
    bni_run_back(batch, layer->internal.options.num_threads, normalize_task, work);
}

/* By the running values, which backward takes for constants. */
static void forward_frozen(forward_work *work) {
    const bn_layer *layer = work->layer;
    const size_t features = layer->num_features;
    const bni_cache cache = bni_cache_of(layer, 0);
    layer->internal.kernels->finish_running(layer->running_mean, layer->running_var, features,
                                            (double)layer->options.eps, &cache);
    bni_layer_affine_part(layer, &cache, 0, features, work->scratch.scale, work->scratch.shift);
    bni_run(work->batch, layer->internal.options.num_threads, normalize_task, work);
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
 * stack, group by group: some 40 KiB, or 100 where the batch's own moments are needed. */
typedef struct group_coef {
    float mean[BNI_PANEL], mean_rest[BNI_PANEL], invstd[BNI_PANEL], invstd_rest[BNI_PANEL];
    float scale[BNI_PANEL], shift[BNI_PANEL];
} group_coef;

typedef struct infer_work {
    const bn_layer *layer;
    const bni_batch *batch;
    bni_sheet data;
} infer_work;

static bni_cache group_cache(group_coef *coef) {
    return (bni_cache){coef->mean, coef->mean_rest, coef->invstd, coef->invstd_rest};
}

/* Normalizes a group's chunk by what is in coef's cache. */
static void infer_chunk(const infer_work *work, size_t group, size_t chunk, group_coef *coef) {
    const bn_layer *layer = work->layer;
    const bni_cache cache = group_cache(coef);
    bni_layer_affine_part(layer, &cache, bni_group_first(work->batch, group),
                          bni_group_size(work->batch, group), coef->scale, coef->shift);
    const bni_pass pass = work->batch->chunks == 1 ? BNI_WRITES : BNI_WRITES;
    normalize_group(layer->internal.kernels, work->batch, &work->data, pass, group, chunk,
                    (feature_coef){coef->mean, coef->scale, coef->shift},
                    layer->internal.options.activation == BN_ACTIVATION_RELU);
}

static void infer_task(void *context, size_t group, size_t chunk) {
    const infer_work *work = context;
    const bn_layer *layer = work->layer;
    const size_t first = bni_group_first(work->batch, group);
    group_coef coef;
    const bni_cache cache = group_cache(&coef);
    layer->internal.kernels->finish_running(layer->running_mean + first, layer->running_var + first,
                                            bni_group_size(work->batch, group),
                                            (double)layer->options.eps, &cache);
    infer_chunk(work, group, chunk, &coef);
}

/* The moments of a whole group, its chunks merged in the order that training merges them in. */
static void whole_group_moments(const bn_kernels *kernels, const bni_batch *batch, const float *x,
                                size_t group, bni_sums *sums) {
    double mean[BNI_PANEL], m2[BNI_PANEL];
    bni_sums part = {0.0, mean, m2};
    bni_group_moments(kernels, batch, x, group, 0, sums);
    for (size_t chunk = 1; chunk < batch->chunks; chunk++) {
        bni_group_moments(kernels, batch, x, group, chunk, &part);
        kernels->merge(sums, &part, bni_group_size(batch, group));
    }
}

/* Inference without running values: false where the batch's statistics are not finite. */
static bool infer_by_batch(const infer_work *work) {
    const bn_kernels *kernels = work->layer->internal.kernels;
    const bni_batch *batch = work->batch;
    double mean[BNI_PANEL], m2[BNI_PANEL];
    group_coef coef;
    const bni_cache cache = group_cache(&coef);
    bool finite = true;
    for (size_t group = 0; group < batch->groups; group++) {
        bni_sums sums = {0.0, mean, m2};
        whole_group_moments(kernels, batch, work->data.x, group, &sums);
        sums.count = batch->values;
        finite = kernels->finish_moments(&sums, bni_group_size(batch, group),
                                         (double)work->layer->options.eps, &cache) &&
                 finite;
        for (size_t chunk = 0; chunk < batch->chunks; chunk++) {
            infer_chunk(work, group, chunk, &coef);
        }
    }
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
    bni_run(&made, layer->internal.options.num_threads, infer_task, &work);
    return BN_STATUS_OK;
}

bn_status bn_layer_infer(const bn_layer *layer, size_t n, const float *x, float *y) {
    const bn_batch batch = {.n = n};
    return bn_layer_infer_batch(layer, &batch, x, y);
}
