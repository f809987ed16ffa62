/*
 * Training forward: check, moments, coefficients, normalize, commit. Nothing is written before all
 * checks have passed.
 */
#include "moments.h"
#include "normalize.h"

typedef struct forward_work {
    const bn_layer *layer;
    const bni_cut *cut;
    bni_buffers data;
    bni_scratch scratch;
    bni_cache cache;
    bool update_running;
} forward_work;

/* ---- The passes ----------------------------------------------------------------------------- */

static void sum_moments(void *context, bni_task task, bni_part *part) {
    const forward_work *work = context;
    const bn_layer *layer = work->layer;
    bni_task_moments(layer->internal.kernels, work->cut, work->data.x, (double)layer->options.eps,
                     task, part);
}

static void merge_moments(void *context, bni_part *into, const bni_part *part) {
    const forward_work *work = context;
    bni_merge_moments(work->layer->internal.kernels, into, part, work->cut->shape->features);
}

/* The weight of the old running values. */
static double keep_of(const bn_layer *layer) {
    const double seen = (double)layer->num_batches_tracked;
    return layer->options.momentum == BN_MOMENTUM_CUMULATIVE ? seen / (seen + 1.0)
                                                             : (double)layer->options.momentum;
}

/* From the moments of some features, their part of the cache, of the pending running values and of
 * the coefficients. Features do not depend on each other: any range of them may come first. */
static bool finish_moments(void *context, bni_part part, size_t first, size_t features) {
    const forward_work *work = context;
    const bn_layer *layer = work->layer;
    /* W as it was checked: weights round otherwise in another order. */
    const bni_sums sums = {work->cut->shape->values, part.one, part.two};
    const bni_cache cache = bni_cache_from(work->cache, first);
    bool finite = layer->internal.kernels->features.finish_moments(
        &sums, features, (double)layer->options.eps, &cache);
    if (work->update_running) {
        const bni_running next = bni_running_from(work->scratch.running, first);
        finite = bni_next_running(layer, &sums, first, features, keep_of(layer), &next) && finite;
    }
    bni_layer_affine_part(layer, &cache, first, features, work->scratch.scale + first,
                          work->scratch.shift + first);
    return finite;
}

static void write_y(void *context, const bni_cut *cut, bni_pass pass, bni_task task) {
    const forward_work *work = context;
    const size_t first = bni_group_first(cut, task.group);
    bni_normalize_task(cut, work->layer, &work->data, pass, task,
                       (bni_feature_coef){work->cache.mean + first, work->scratch.scale + first,
                                          work->scratch.shift + first});
}

static const bni_passes passes_of_forward = {sum_moments, merge_moments, finish_moments, write_y};

/* By the running values, which backward takes for constants. */
static void use_running(forward_work *work) {
    const bn_layer *layer = work->layer;
    const bni_running running = bni_running_of(layer, 0);
    layer->internal.kernels->features.finish_running(&running, layer->num_features,
                                                     (double)layer->options.eps, &work->cache);
    bni_layer_affine_part(layer, &work->cache, 0, layer->num_features, work->scratch.scale,
                          work->scratch.shift);
}

/* ---- The calls ------------------------------------------------------------------------------ */

bn_status bn_layer_forward_batch(bn_layer *layer, const bn_batch *batch, const void *x, void *y) {
    bni_shape shape;
    const bn_status status = bni_check_normalize(layer, batch, x, y, true, &shape);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (layer->frozen && layer->running_mean == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    if (shape.n == 0) {
        return BN_STATUS_OK;
    }
    const bool update =
        !layer->frozen && layer->running_mean != NULL && !batch->skip_running_update;
    if (update && !bni_momentum_good(layer->options.momentum)) {
        return BN_STATUS_BAD_OPTION;
    }
    if (!layer->frozen && !(shape.values > 1.0)) {
        return BN_STATUS_TOO_FEW_VALUES;
    }

    const bni_cut cut = bni_cut_sums(&shape, layer->internal.tuning, BNI_Y);
    forward_work work = {.layer = layer,
                         .cut = &cut,
                         .data = {.x = x, .residual = batch->residual, .out = y},
                         .scratch = bni_scratch_of(layer),
                         .cache = bni_cache_of(layer, batch->cache),
                         .update_running = update};
    const int threads = bni_threads(layer);
    bool finite = true;
    if (layer->frozen) {
        use_running(&work);
        bni_write_pass(&passes_of_forward, &work, &cut, threads, BNI_BY_CHUNK);
    } else {
        finite = bni_two_pass(&passes_of_forward, &work, &cut, threads, work.scratch.sums);
    }

    bni_cache_sign(layer, batch->cache,
                   (bni_forward){shape.n, shape.spatial,
                                 layer->frozen ? BNI_FORWARD_FROZEN : BNI_FORWARD_TRAINING});
    if (!finite) {
        return BN_STATUS_NOT_FINITE;
    }
    if (update) {
        bni_commit_running(layer, &work.scratch.running, 0, layer->num_features);
        layer->num_batches_tracked++;
    }
    return BN_STATUS_OK;
}

bn_status bn_layer_forward(bn_layer *layer, size_t n, const float *x, float *y) {
    const bn_batch batch = {.n = n};
    return bn_layer_forward_batch(layer, &batch, x, y);
}
