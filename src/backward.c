/*
 * Backward: check, gradient sums, coefficients, dx, commit. Nothing is written before all checks
 * have passed.
 */
#include "differentiate.h"
#include "workers.h"

#include <string.h>

typedef struct backward_work {
    bni_backward of;
    bni_scratch scratch;
    double values;  /* W */
    bni_tally self; /* of several workers: what this one says of itself, */
    bni_tally all;  /* and what all of them said */
} backward_work;

/* ---- The passes ----------------------------------------------------------------------------- */

static void sum_gradients(void *context, bni_task task, bni_part *part) {
    const backward_work *work = context;
    bni_task_gradients(&work->of, work->scratch.scale, work->scratch.shift, task, part);
}

static void merge_gradients(void *context, bni_part *into, const bni_part *part) {
    const backward_work *work = context;
    bni_merge_gradients(into, part, work->of.cut->shape->features);
}

/* From the sums of some features, their pending gradients and coefficients. */
static bool finish_gradients(void *context, bni_part sums, size_t first, size_t features) {
    const backward_work *work = context;
    const bn_layer *layer = work->of.layer;
    const bni_scratch *scratch = &work->scratch;
    const bni_cache cache = bni_cache_from(work->of.cache, first);
    const double share = work->of.constant ? 0.0 : 1.0 / work->values;
    return layer->internal.kernels->features.finish_gradients(
        &cache, sums.one, sums.two, false, features, share, layer->gamma != NULL,
        layer->beta != NULL, scratch->dgamma + first, scratch->dbeta + first,
        scratch->slope + first, scratch->offset + first);
}

static void write_dx(void *context, const bni_cut *cut, bni_pass pass, bni_task task) {
    const backward_work *work = context;
    const bni_scratch *scratch = &work->scratch;
    const bool constant = work->of.constant;
    const size_t first = bni_group_first(cut, task.group);
    const float *of[5] = {work->of.cache.mean + first, scratch->scale + first,
                          scratch->shift + first, constant ? NULL : scratch->slope + first,
                          constant ? NULL : scratch->offset + first};
    _Alignas(BNI_LINE) float columns[5][BNI_PANEL];
    for (size_t i = 0; i < 5; i++) {
        of[i] = bni_expand(cut, bni_group_size(cut, task.group), of[i], columns[i]);
    }
    bni_dx_task(&work->of, cut, pass, task, &(bni_coef){of[0], of[1], of[2], of[3], of[4]});
}

static const bni_passes passes_of_backward = {
    .sum = sum_gradients, .merge = merge_gradients, .finish = finish_gradients, .write = write_dx};

/* Nothing needs sums where constant statistics meet no parameters. */
static bn_status differentiate(backward_work *work) {
    const bn_layer *layer = work->of.layer;
    const int threads = bni_threads(layer);
    if (work->of.constant && layer->gamma == NULL && layer->beta == NULL) {
        bni_write_pass(&passes_of_backward, work, work->of.cut, threads, BNI_BY_CHUNK_BACK);
        return BN_STATUS_OK;
    }
    return bni_two_pass(&passes_of_backward, work, work->of.cut, threads, work->scratch.sums);
}

/* ---- Several workers ------------------------------------------------------------------------- */

/* All have the same cache, so that their sums are about the same center: these add up. */
static bn_status reduce_gradients(void *context, bni_part sums) {
    backward_work *work = context;
    const bn_layer *layer = work->of.layer;
    const size_t features = layer->num_features;
    double *const sent = work->scratch.sums.chunks;
    memcpy(sent, sums.one, features * sizeof *sent);
    memcpy(sent + features, sums.two, features * sizeof *sent);
    work->all = work->self;
    bni_add_up(layer, sent, 2 * features, &work->all);
    work->values = work->all.values;
    memcpy(sums.one, sent, features * sizeof *sent);
    memcpy(sums.two, sent + features, features * sizeof *sent);
    return bni_judge(&work->all, !work->of.constant);
}

static const bni_passes passes_of_all_workers = {.sum = sum_gradients,
                                                 .merge = merge_gradients,
                                                 .reduce = reduce_gradients,
                                                 .finish = finish_gradients,
                                                 .write = write_dx};

/* An empty share needs forward's invstd too, if any other is not empty. */
static bni_tally tally_of(const bn_layer *layer, const bn_batch *batch, const bni_shape *shape,
                          const bni_forward *before) {
    const bool kept =
        before->kind == BNI_FORWARD_FROZEN || (before->kind == BNI_FORWARD_SHARE && before->n == 0);
    const bool spoilt =
        batch->accumulate_grads && !(bni_all_finite(layer->dgamma, shape->features) &&
                                     bni_all_finite(layer->dbeta, shape->features));
    return (bni_tally){.unfit = shape->n == 0 && !kept ? 1.0 : 0.0,
                       .spoilt = spoilt ? 1.0 : 0.0,
                       .occupied = shape->n > 0 ? 1.0 : 0.0,
                       .values = shape->values};
}

static bn_status differentiate_with_others(backward_work *work) {
    const bn_layer *layer = work->of.layer;
    const bn_status status = bni_two_pass(&passes_of_all_workers, work, work->of.cut,
                                          bni_threads(layer), work->scratch.sums);
    if (status == BN_STATUS_OK && work->all.spoilt != 0.0) {
        return BN_STATUS_NOT_FINITE;
    }
    const bool failed = status == BN_STATUS_COMM_FAILED && work->all.faults == 0.0;
    return failed && work->self.unfit != 0.0 ? BN_STATUS_BAD_STATE : status;
}

/* ---- The calls ------------------------------------------------------------------------------ */

static bn_status without_data(bn_layer *layer, const bn_batch *batch) {
    if (!batch->accumulate_grads) {
        bni_zero_gradients(layer);
    }
    return BN_STATUS_OK;
}

bn_status bn_layer_backward_batch(bn_layer *layer, const bn_batch *batch, const void *x,
                                  const void *dy, void *dx) {
    bni_shape shape;
    bni_forward before;
    const bool joint = bni_has_workers(layer);
    bn_status status = bni_check_backward(layer, batch, x, dy, dx, joint ? BNI_SHARE : BNI_BATCH,
                                          (bni_span){0, 0}, &shape, &before);
    if (status != BN_STATUS_OK) {
        return joint ? bni_withdraw(layer, 1, 2 * layer->num_features, status) : status;
    }
    if (shape.n == 0 && !joint) {
        return without_data(layer, batch);
    }

    const bni_cut cut = bni_cut_sums(&shape, layer->internal.tuning, BNI_DX);
    backward_work work;
    bni_backward_begin(&work.of, layer, batch, &cut, x, dy, dx, before);
    work.scratch = bni_scratch_of(layer);
    work.values = shape.values;
    if (shape.n > 0) {
        bni_layer_affine_part(layer, &work.of.cache, 0, layer->num_features, work.scratch.scale,
                              work.scratch.shift);
    }
    if (joint) {
        work.self = tally_of(layer, batch, &shape, &before);
        status = differentiate_with_others(&work);
        if (status == BN_STATUS_TOO_FEW_VALUES && work.all.occupied == 0.0) {
            return without_data(layer, batch);
        }
    } else {
        status = differentiate(&work);
    }
    return status == BN_STATUS_OK || status == BN_STATUS_NOT_FINITE
               ? bni_commit_gradients(layer, &work.scratch, status == BN_STATUS_OK,
                                      batch->accumulate_grads)
               : status;
}

bn_status bn_layer_backward(bn_layer *layer, size_t n, const float *x, const float *dy, float *dx) {
    const bn_batch batch = {.n = n};
    return bn_layer_backward_batch(layer, &batch, x, dy, dx);
}
