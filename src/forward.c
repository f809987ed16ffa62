/*
 * Training forward: check, moments, coefficients, normalize, commit. Nothing is written before all
 * checks have passed.
 */
#include "moments.h"
#include "normalize.h"
#include "workers.h"

#include <string.h>

typedef struct forward_work {
    const bn_layer *layer;
    const bni_cut *cut;
    bni_buffers data;
    bni_scratch scratch;
    bni_cache cache;
    bool update_running;
    double values; /* W, as it was checked: weights round otherwise in another order */
    bni_tally all; /* of several workers: what they agreed on */
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
    const bni_sums sums = {work->values, part.one, part.two};
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

static const bni_passes passes_of_forward = {
    .sum = sum_moments, .merge = merge_moments, .finish = finish_moments, .write = write_y};

/* By the running values, which backward takes for constants. */
static void use_running(forward_work *work) {
    const bn_layer *layer = work->layer;
    const bni_running running = bni_running_of(layer, 0);
    layer->internal.kernels->features.finish_running(&running, layer->num_features,
                                                     (double)layer->options.eps, &work->cache);
    bni_layer_affine_part(layer, &work->cache, 0, layer->num_features, work->scratch.scale,
                          work->scratch.shift);
}

/* ---- Several workers ------------------------------------------------------------------------- */

/* Whether the old running values would make new ones that are no numbers, at one worker alone:
 * moments are the same for all. */
static bool running_spoilt(const forward_work *work) {
    const bn_layer *layer = work->layer;
    return work->update_running && keep_of(layer) != 0.0 &&
           !(bni_all_finite(layer->running_mean, layer->num_features) &&
             bni_all_finite(layer->running_var, layer->num_features));
}

/* Moments do not add up, as each worker's are about its own mean. So first W and W * mean are
 * added up: that is the common mean, to some units of a double, which has 29 bits more than the
 * data. About it each worker then moves its sum of squares, and these do add up: with its own mean
 * m and sum M2,
 *
 *     sum of w * (x - common)^2 = M2 + W * (m - common)^2
 *
 * (A quotient, not a product by 1 / W: of a feature that is one number throughout it is that number,
 * where weights are whole, and nothing is left over.) */
static bn_status reduce_moments(void *context, bni_part sums) {
    forward_work *work = context;
    const bn_layer *layer = work->layer;
    const size_t features = layer->num_features;
    double *const sent = work->scratch.sums.chunks;
    const double own = work->values;
    work->all = (bni_tally){.spoilt = running_spoilt(work) ? 1.0 : 0.0,
                            .occupied = work->cut->shape->n > 0 ? 1.0 : 0.0,
                            .values = own};
    for (size_t d = 0; d < features; d++) {
        sent[d] = own * sums.one[d];
    }
    bni_add_up(layer, sent, features, &work->all);
    work->values = work->all.values;
    const double all = work->values > 0.0 ? work->values : 1.0;
    for (size_t d = 0; d < features; d++) {
        const double common = sent[d] / all, apart = sums.one[d] - common;
        sums.one[d] = common;
        sent[d] = sums.two[d] + own * apart * apart;
    }
    bni_tally late = {.faults = work->all.faults};
    bni_add_up(layer, sent, features, &late);
    memcpy(sums.two, sent, features * sizeof *sent);
    work->all.faults = late.faults;
    return bni_judge(&work->all, true);
}

static const bni_passes passes_of_workers = {.sum = sum_moments,
                                             .merge = merge_moments,
                                             .reduce = reduce_moments,
                                             .finish = finish_moments,
                                             .write = write_y};

static bn_status forward_of_all(forward_work *work) {
    const bn_status status = bni_two_pass(&passes_of_workers, work, work->cut,
                                          bni_threads(work->layer), work->scratch.sums);
    return status == BN_STATUS_OK && work->all.spoilt != 0.0 ? BN_STATUS_NOT_FINITE : status;
}

/* ---- The calls ------------------------------------------------------------------------------ */

static bool updates_running(const bn_layer *layer, const bn_batch *batch) {
    return !layer->frozen && layer->running_mean != NULL && !batch->skip_running_update;
}

static bn_status check_forward(const bn_layer *layer, const bn_batch *batch, const void *x,
                               const void *y, bni_purpose purpose, bni_shape *shape) {
    const bn_status status = bni_check_normalize(layer, batch, x, y, purpose, shape);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (layer->frozen && layer->running_mean == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    if (shape->n == 0 && purpose != BNI_TRAINING_PART) {
        return BN_STATUS_OK;
    }
    return updates_running(layer, batch) && !bni_momentum_good(layer->options.momentum)
               ? BN_STATUS_BAD_OPTION
               : BN_STATUS_OK;
}

/* Field by field, as bni_backward_begin (differentiate.h). */
static void begin_forward(forward_work *work, const bn_layer *layer, const bn_batch *batch,
                          const bni_cut *cut, const void *x, void *y) {
    work->layer = layer;
    work->cut = cut;
    work->data = (bni_buffers){.x = x, .residual = batch->residual, .out = y};
    work->scratch = bni_scratch_of(layer);
    work->cache = bni_cache_of(layer, batch->cache);
    work->update_running = updates_running(layer, batch);
    work->values = cut->shape->values;
}

static bn_status forward_frozen(forward_work *work) {
    use_running(work);
    bni_write_pass(&passes_of_forward, work, work->cut, bni_threads(work->layer), BNI_BY_CHUNK);
    return BN_STATUS_OK;
}

/* Commits what is not y, which was written: status is BN_STATUS_OK or BN_STATUS_NOT_FINITE. */
static bn_status end_forward(bn_layer *layer, const bn_batch *batch, const forward_work *work,
                             int kind, bn_status status) {
    const bni_shape *shape = work->cut->shape;
    bni_cache_sign(layer, batch->cache, (bni_forward){shape->n, shape->spatial, shape->type, kind});
    if (status == BN_STATUS_OK && work->update_running) {
        bni_commit_running(layer, &work->scratch.running, 0, layer->num_features);
        layer->num_batches_tracked++;
    }
    return status;
}

bn_status bn_layer_forward_batch(bn_layer *layer, const bn_batch *batch, const void *x, void *y) {
    bni_shape shape;
    const bool shares = bni_has_workers(layer), joint = shares && !layer->frozen;
    bn_status status =
        check_forward(layer, batch, x, y, shares ? BNI_TRAINING_PART : BNI_TRAINING, &shape);
    if (status != BN_STATUS_OK && joint) {
        return bni_withdraw(layer, 2, layer->num_features, status);
    }
    if (status != BN_STATUS_OK || (shape.n == 0 && !shares)) {
        return status;
    }
    if (!layer->frozen && !joint && !(shape.values > 1.0)) {
        return BN_STATUS_TOO_FEW_VALUES;
    }

    const bni_cut cut = bni_cut_sums(&shape, layer->internal.tuning, BNI_Y);
    forward_work work;
    begin_forward(&work, layer, batch, &cut, x, y);
    if (layer->frozen) {
        return end_forward(layer, batch, &work, BNI_FORWARD_FROZEN, forward_frozen(&work));
    }
    if (!joint) {
        status =
            bni_two_pass(&passes_of_forward, &work, &cut, bni_threads(layer), work.scratch.sums);
        return end_forward(layer, batch, &work, BNI_FORWARD_TRAINING, status);
    }
    status = forward_of_all(&work);
    if (status == BN_STATUS_TOO_FEW_VALUES && work.all.occupied == 0.0) {
        return BN_STATUS_OK; /* no batch at all */
    }
    if (status != BN_STATUS_OK && status != BN_STATUS_NOT_FINITE) {
        return status;
    }
    return end_forward(layer, batch, &work, BNI_FORWARD_SHARE, status);
}

/* The moments' memory is read while the cache and y are written. */
static bool overlaps_moments(const bn_layer *layer, const bn_moments *moments,
                             const bn_batch *batch, const bni_shape *shape, const void *y) {
    const bni_region regions[2] = {bni_region_of_y(shape, y),
                                   bni_region_of_cache(layer, batch->cache)};
    const bni_arrays arrays = {
        {bni_span_of_bytes(moments->internal.owned, moments->internal.owned_bytes)}, 1};
    return bni_any_overlap(regions, (const unsigned[2]){0}, 2, &arrays);
}

static bn_status check_by(const bn_layer *layer, const bn_moments *moments, const bn_batch *batch,
                          const void *x, const void *y, bni_shape *shape) {
    if (moments == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    const bn_status status = check_forward(layer, batch, x, y, BNI_TRAINING_PART, shape);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (moments->internal.kernels == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    if (moments->num_features != layer->num_features) {
        return BN_STATUS_BAD_SHAPE;
    }
    if (overlaps_moments(layer, moments, batch, shape, y)) {
        return BN_STATUS_OVERLAP;
    }
    const bool empty = shape->n == 0 && moments->count == 0.0;
    return layer->frozen || empty || moments->count > 1.0 ? BN_STATUS_OK : BN_STATUS_TOO_FEW_VALUES;
}

static bn_status forward_by(forward_work *work, const bn_moments *moments) {
    const bni_part whole = {moments->count, moments->mean, moments->m2};
    work->values = moments->count;
    const bool finite =
        finish_moments(work, whole, 0, moments->num_features) && bni_are_moments(moments);
    bni_write_pass(&passes_of_forward, work, work->cut, bni_threads(work->layer), BNI_BY_CHUNK);
    return finite ? BN_STATUS_OK : BN_STATUS_NOT_FINITE;
}

bn_status bn_layer_forward_by(bn_layer *layer, const bn_moments *moments, const bn_batch *batch,
                              const void *x, void *y) {
    bni_shape shape;
    const bn_status status = check_by(layer, moments, batch, x, y, &shape);
    if (status != BN_STATUS_OK || (!layer->frozen && moments->count == 0.0)) {
        return status;
    }
    const bni_cut cut = bni_cut_sums(&shape, layer->internal.tuning, BNI_Y);
    forward_work work;
    begin_forward(&work, layer, batch, &cut, x, y);
    return layer->frozen
               ? end_forward(layer, batch, &work, BNI_FORWARD_FROZEN, forward_frozen(&work))
               : end_forward(layer, batch, &work, BNI_FORWARD_PART, forward_by(&work, moments));
}

bn_status bn_layer_forward(bn_layer *layer, size_t n, const float *x, float *y) {
    const bn_batch batch = {.n = n};
    return bn_layer_forward_batch(layer, &batch, x, y);
}
