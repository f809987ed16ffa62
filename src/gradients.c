/* The exported calls on bn_gradients: backward of a batch in parts. */
#include "differentiate.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static bool gradients_ready(const bn_gradients *gradients) {
    return gradients->internal.owned != NULL;
}

static bni_span memory_of(const bn_gradients *gradients) {
    return bni_span_of_bytes(gradients->internal.owned, gradients->internal.owned_bytes);
}

bn_status bn_gradients_init(bn_gradients *gradients, size_t num_features) {
    if (gradients == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (num_features == 0 || num_features > BNI_MOST_FEATURES) {
        return BN_STATUS_BAD_SHAPE;
    }
    /* The sums; those of a part that is being added, and of its chunks; and four arrays of floats. */
    const size_t padded = bni_padded(num_features);
    const size_t doubles = 4 * padded + bni_two_pass_scratch(num_features, 1);
    const size_t bytes = doubles * sizeof(double) + 4 * padded * sizeof(float);
    double *arrays = malloc(bytes);
    if (arrays == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    float *floats = (float *)(arrays + doubles);
    memset(arrays, 0, 2 * padded * sizeof *arrays);
    *gradients = (bn_gradients){.num_features = num_features,
                                .sum_g = arrays,
                                .sum_gx = arrays + padded,
                                .internal = {.owned = arrays,
                                             .owned_bytes = bytes,
                                             .scratch = arrays + 2 * padded,
                                             .invstd = floats,
                                             .invstd_rest = floats + padded,
                                             .coef = floats + 2 * padded,
                                             .forward = BNI_FORWARD_NONE}};
    return BN_STATUS_OK;
}

void bn_gradients_free(bn_gradients *gradients) {
    if (gradients != NULL) {
        free(gradients->internal.owned);
        memset(gradients, 0, sizeof *gradients);
    }
}

/* ---- Adding up ------------------------------------------------------------------------------ */

/* Whether the sums are those of nothing: as init leaves them, or as a caller does who begins anew. */
static bool hold_nothing(const bn_gradients *gradients) {
    bool nothing = gradients->count == 0.0;
    for (size_t d = 0; nothing && d < gradients->num_features; d++) {
        nothing = bni_is_zero(gradients->sum_g[d]) && bni_is_zero(gradients->sum_gx[d]);
    }
    return nothing;
}

/* The kind of the forward that sums are of; none of nothing. */
static int forward_of(const bn_gradients *gradients) {
    return hold_nothing(gradients) ? BNI_FORWARD_NONE : gradients->internal.forward;
}

/* Sums about statistics and about constants are of different batches. Nothing is of any. */
static bool of_one_batch(int forward, int other) {
    return forward == BNI_FORWARD_NONE || other == BNI_FORWARD_NONE ||
           (forward == BNI_FORWARD_FROZEN) == (other == BNI_FORWARD_FROZEN);
}

/* Whose invstd it is, if sums were of none before. */
static void learn_forward(bn_gradients *gradients, int before, const float *invstd,
                          const float *invstd_rest, int forward) {
    if (before == BNI_FORWARD_NONE && forward != BNI_FORWARD_NONE) {
        const size_t bytes = gradients->num_features * sizeof(float);
        memcpy(gradients->internal.invstd, invstd, bytes);
        memcpy(gradients->internal.invstd_rest, invstd_rest, bytes);
        gradients->internal.forward = forward;
    }
}

static bool finite_together(const double *a, const double *b, size_t count) {
    bool finite = true;
    for (size_t d = 0; d < count; d++) {
        finite = finite && bni_finite_double(a[d] + b[d]);
    }
    return finite;
}

static bn_status add_finite(bn_gradients *gradients, const bni_part *part) {
    const size_t features = gradients->num_features;
    bni_part sums = {gradients->count + part->count, gradients->sum_g, gradients->sum_gx};
    if (!bni_finite_double(sums.count) || !finite_together(sums.one, part->one, features) ||
        !finite_together(sums.two, part->two, features)) {
        return BN_STATUS_NOT_FINITE;
    }
    bni_merge_gradients(&sums, part, features);
    gradients->count = sums.count;
    return BN_STATUS_OK;
}

typedef struct part_sums {
    bni_backward of;
    const float *scale, *shift;
} part_sums;

static void sum_part(void *context, bni_task task, bni_part *part) {
    const part_sums *work = context;
    bni_task_gradients(&work->of, work->scale, work->shift, task, part);
}

static void merge_chunk(void *context, bni_part *into, const bni_part *part) {
    const part_sums *work = context;
    bni_merge_gradients(into, part, work->of.cut->shape->features);
}

/* The part's sums, in the gradients' scratch, about the whole mean. */
static bni_part sums_of_part(const bn_gradients *gradients, const bni_backward *of) {
    const size_t features = gradients->num_features, padded = bni_padded(features);
    double *const scratch = gradients->internal.scratch;
    float *const scale = gradients->internal.coef, *const shift = scale + padded;
    const bni_passes passes = {.sum = sum_part, .merge = merge_chunk};
    part_sums work = {*of, scale, shift};
    bni_layer_affine_part(of->layer, &of->cache, 0, features, scale, shift);
    const bni_space space = {scratch, scratch + padded, scratch + 2 * padded};
    bni_part part = bni_sum_pass(&passes, &work, of->cut, 1, space);
    for (size_t d = 0; d < features; d++) {
        part.two[d] -= (double)bni_load_float(of->cache.mean_rest + d) * part.one[d];
    }
    part.count = of->cut->shape->values;
    return part;
}

/* What the calls on a part check. dx of nothing needs no sums. */
static bn_status check_part(const bn_gradients *gradients, const bn_layer *layer,
                            const bn_batch *batch, const void *x, const void *dy, const void *dx,
                            bni_subject subject, bni_shape *shape, bni_forward *before) {
    if (gradients == NULL || layer == NULL || batch == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!gradients_ready(gradients)) {
        return BN_STATUS_BAD_STATE;
    }
    const bn_status status =
        bni_check_backward(layer, batch, x, dy, dx, subject, memory_of(gradients), shape, before);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (gradients->num_features != layer->num_features) {
        return BN_STATUS_BAD_SHAPE;
    }
    const bool matters = shape->n > 0 || subject == BNI_PART_SUMS;
    return matters && !of_one_batch(forward_of(gradients), before->kind) ? BN_STATUS_BAD_STATE
                                                                         : BN_STATUS_OK;
}

bn_status bn_gradients_add(bn_gradients *gradients, const bn_layer *layer, const bn_batch *batch,
                           const void *x, const void *dy) {
    bni_shape shape;
    bni_forward before;
    const bn_status status =
        check_part(gradients, layer, batch, x, dy, NULL, BNI_PART_SUMS, &shape, &before);
    if (status != BN_STATUS_OK) {
        return status;
    }
    const int of_sums = forward_of(gradients);
    if (shape.n > 0) {
        const bni_cut cut = bni_cut_sums(&shape, layer->internal.tuning, BNI_DX);
        bni_backward of;
        bni_backward_begin(&of, layer, batch, &cut, x, dy, NULL, before);
        const bni_part part = sums_of_part(gradients, &of);
        const bn_status added = add_finite(gradients, &part);
        if (added != BN_STATUS_OK) {
            return added;
        }
    }
    const bni_cache cache = bni_cache_of(layer, batch->cache);
    learn_forward(gradients, of_sums, cache.invstd, cache.invstd_rest, before.kind);
    return BN_STATUS_OK;
}

bn_status bn_gradients_merge(bn_gradients *into, const bn_gradients *from) {
    if (into == NULL || from == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!gradients_ready(into) || !gradients_ready(from)) {
        return BN_STATUS_BAD_STATE;
    }
    if (into->num_features != from->num_features) {
        return BN_STATUS_BAD_SHAPE;
    }
    const int of_sums = forward_of(into);
    if (!of_one_batch(of_sums, forward_of(from))) {
        return BN_STATUS_BAD_STATE;
    }
    const bni_part part = {from->count, from->sum_g, from->sum_gx};
    const bn_status status = add_finite(into, &part);
    if (status == BN_STATUS_OK) {
        learn_forward(into, of_sums, from->internal.invstd, from->internal.invstd_rest,
                      from->internal.forward);
    }
    return status;
}

/* ---- dx of a part ---------------------------------------------------------------------------- */

typedef struct dx_work {
    bni_backward of;
    const bn_gradients *gradients;
    double share;
    atomic_bool finite;
} dx_work;

/* The coefficients of a group, a value a column; no group's as long as `made` is false. The layer
 * is const and any number of threads may be here, so they are on the stack. */
typedef struct group_columns {
    bool made;
    size_t group;
    bni_coef coef;
    _Alignas(BNI_LINE) float columns[5][BNI_PANEL];
} group_columns;

static const float *spread(const bni_cut *cut, size_t features, float *values) {
    return bni_expand(cut, features, values, values);
}

/* dx has them all, learned or not. */
static bool sums_finite(const double *one, const double *two, size_t features) {
    bool finite = true;
    for (size_t d = 0; d < features; d++) {
        finite = finite && bni_finite_double(one[d]) && bni_finite_double(two[d]);
    }
    return finite;
}

static void make_columns(group_columns *of, dx_work *work, size_t group) {
    const bni_cut *cut = work->of.cut;
    const bn_layer *layer = work->of.layer;
    const bn_gradients *gradients = work->gradients;
    const size_t first = bni_group_first(cut, group), features = bni_group_size(cut, group);
    const bni_cache cache = bni_cache_from(work->of.cache, first);
    float(*const columns)[BNI_PANEL] = of->columns;
    const double *one = gradients->sum_g + first, *two = gradients->sum_gx + first;
    if (!work->of.constant) {
        const bool finite = layer->internal.kernels->features.finish_gradients(
            &cache, one, two, true, features, work->share, layer->gamma != NULL,
            layer->beta != NULL, columns[1], columns[2], columns[3], columns[4]);
        if (!finite || !sums_finite(one, two, features)) {
            atomic_store(&work->finite, false);
        }
    }
    bni_layer_affine_part(layer, &cache, first, features, columns[1], columns[2]);
    of->coef = (bni_coef){.center = bni_expand(cut, features, cache.mean, columns[0]),
                          .scale = spread(cut, features, columns[1]),
                          .shift = spread(cut, features, columns[2])};
    if (!work->of.constant) {
        of->coef.slope = spread(cut, features, columns[3]);
        of->coef.offset = spread(cut, features, columns[4]);
    }
    of->group = group;
    of->made = true;
}

static void dx_worker(void *context, bni_tasks *tasks) {
    dx_work *work = context;
    group_columns columns;
    bni_task task;
    columns.made = false;
    while (bni_next_task(tasks, &task)) {
        if (!columns.made || columns.group != task.group) {
            make_columns(&columns, work, task.group);
        }
        bni_dx_task(&work->of, work->of.cut, BNI_WRITES, task, &columns.coef);
    }
}

bn_status bn_layer_backward_by(const bn_layer *layer, const bn_gradients *gradients,
                               const bn_batch *batch, const void *x, const void *dy, void *dx) {
    bni_shape shape;
    bni_forward before;
    const bn_status status =
        check_part(gradients, layer, batch, x, dy, dx, BNI_PART_DX, &shape, &before);
    if (status != BN_STATUS_OK || shape.n == 0) {
        return status;
    }
    const bool constant = before.kind == BNI_FORWARD_FROZEN;
    if (!constant && !(gradients->count > 1.0)) {
        return BN_STATUS_TOO_FEW_VALUES;
    }
    const bni_cut sums = bni_cut_sums(&shape, layer->internal.tuning, BNI_DX);
    const bni_cut cut = bni_cut_writes(&sums, BNI_PANEL);
    dx_work work = {.gradients = gradients,
                    .share = constant ? 0.0 : 1.0 / gradients->count,
                    .finite = constant || bni_finite_double(gradients->count)};
    bni_backward_begin(&work.of, layer, batch, &cut, x, dy, dx, before);
    bni_run(&cut, bni_threads(layer), cut.groups == 1 ? BNI_BY_CHUNK : BNI_BY_GROUP, dx_worker,
            &work);
    return work.finite ? BN_STATUS_OK : BN_STATUS_NOT_FINITE;
}

/* ---- dgamma and dbeta ----------------------------------------------------------------------- */

bn_status bn_layer_set_gradients(bn_layer *layer, const bn_gradients *gradients, bool accumulate) {
    if (layer == NULL || gradients == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!bni_layer_ready(layer) || layer->internal.options.inference_only ||
        !gradients_ready(gradients)) {
        return BN_STATUS_BAD_STATE;
    }
    if (gradients->num_features != layer->num_features) {
        return BN_STATUS_BAD_SHAPE;
    }
    const bool known = gradients->internal.forward != BNI_FORWARD_NONE;
    if (hold_nothing(gradients)) {
        if (!accumulate) {
            bni_zero_gradients(layer);
        }
        return BN_STATUS_OK;
    }
    if (!known && bni_cache_read(layer, NULL).kind == BNI_FORWARD_NONE) {
        return BN_STATUS_BAD_STATE;
    }
    bni_cache cache = bni_cache_of(layer, NULL);
    if (known) {
        cache.invstd = gradients->internal.invstd;
        cache.invstd_rest = gradients->internal.invstd_rest;
    }
    cache.mean_rest = cache.invstd_rest; /* any finite numbers: the sums are about the whole mean */
    const bni_scratch scratch = bni_scratch_of(layer);
    const bool finite = layer->internal.kernels->features.finish_gradients(
        &cache, gradients->sum_g, gradients->sum_gx, true, layer->num_features, 0.0,
        layer->gamma != NULL, layer->beta != NULL, scratch.dgamma, scratch.dbeta, scratch.slope,
        scratch.offset);
    return bni_commit_gradients(layer, &scratch, finite, accumulate);
}
