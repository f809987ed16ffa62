/*
 * Training forward: check, moments, coefficients, normalize, commit. Nothing is written before all
 * checks have passed.
 */
#include "moments.h"
#include "normalize.h"

#include <stdatomic.h>

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
static void finish_moments(forward_work *work, bni_sums sums, size_t first, size_t features) {
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
static void write_y(const forward_work *work, const bni_batch *batch, bni_pass pass,
                    bni_task task) {
    const size_t first = bni_group_first(batch, task.group);
    bni_normalize_task(batch, work->layer, &work->data, pass, task,
                       (bni_feature_coef){work->layer->saved_mean + first,
                                          work->scratch.scale + first,
                                          work->scratch.shift + first});
}

static void write_y_worker(void *context, bni_tasks *tasks) {
    const forward_work *work = context;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        write_y(work, &work->wide, BNI_WRITES, task);
    }
}

static void write_all(forward_work *work, bni_order order) {
    work->wide = bni_widened(work->batch, work->batch->features);
    bni_run(&work->wide, work->layer->internal.options.num_threads, order, write_y_worker, work);
}

/* All of a group's data is in one chunk: it is normalized while the caches still hold it. */
static void forward_worker(void *context, bni_tasks *tasks) {
    forward_work *work = context;
    const bni_batch *batch = work->batch;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        const size_t first = bni_group_first(batch, task.group);
        bni_sums sums = {0.0, work->scratch.sum1 + first, work->scratch.sum2 + first};
        bni_task_moments(work->layer->internal.kernels, batch, work->data.x, task, &sums);
        finish_moments(work, sums, first, bni_group_size(batch, task.group));
        write_y(work, batch, BNI_FOLLOWS, task);
    }
}

static void train(forward_work *work) {
    const bn_layer *layer = work->layer;
    const bni_batch *batch = work->batch;
    const int threads = layer->internal.options.num_threads;
    if (batch->chunks == 1) {
        bni_run(batch, threads, BNI_BY_CHUNK, forward_worker, work);
        return;
    }
    bni_sums sums = {0.0, work->scratch.sum1, work->scratch.sum2};
    bni_batch_moments(layer->internal.kernels, batch, work->data.x, threads, work->scratch.chunks,
                      &sums);
    finish_moments(work, sums, 0, batch->features);
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
    const bn_status status = bni_check_normalize(layer, batch, x, y, &made);
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
