/* See differentiate.h. */
#include "differentiate.h"
#include "exact.h"

#include <string.h>

/* ---- Checks --------------------------------------------------------------------------------- */

static bool needs_y(const bn_layer *layer, const bn_batch *batch) {
    return batch->residual != NULL && layer->internal.options.activation != BN_ACTIVATION_NONE;
}

/* Whether a forward's cache can be of this batch. The layer's own serves all parts of a whole, and
 * constants serve all, of one type. */
static bool fits(const bni_forward *before, const bn_batch *batch, bni_subject subject,
                 const bni_shape *shape) {
    const bool frozen = before->kind == BNI_FORWARD_FROZEN;
    if (before->type != shape->type) {
        return false;
    }
    if (subject == BNI_PART_SUMS || subject == BNI_PART_DX) {
        if (batch->cache == NULL && (frozen || before->kind == BNI_FORWARD_PART)) {
            return true;
        }
    } else if (!frozen &&
               before->kind != (subject == BNI_SHARE ? BNI_FORWARD_SHARE : BNI_FORWARD_TRAINING)) {
        return false;
    }
    return before->n == shape->n && before->spatial == shape->spatial;
}

static bool buffers_overlap(const bn_layer *layer, const bn_batch *batch, const void *x,
                            const void *dy, const void *dx, const void *dresidual, bni_span apart,
                            const bni_shape *shape) {
    enum { X, DY, FORWARD_Y, WEIGHTS, POSITIONS, DX, DRESIDUAL, CACHE, REGIONS };
    const bni_region regions[REGIONS] = {
        [X] = bni_region_of_x(shape, x),
        [DY] = bni_region_of_y(shape, dy),
        [FORWARD_Y] = bni_region_of_y(shape, needs_y(layer, batch) ? batch->y : NULL),
        [WEIGHTS] = bni_region_of_weights(shape),
        [POSITIONS] = bni_region_of_positions(shape),
        [DX] = bni_region_of_x(shape, dx),
        [DRESIDUAL] = bni_region_of_y(shape, dresidual),
        [CACHE] = bni_region_of_cache(layer, batch->cache)};
    const unsigned weights = 1u << WEIGHTS | 1u << POSITIONS;
    const unsigned same[REGIONS] = {[X] = 1u << DY | 1u << FORWARD_Y | weights | 1u << DX,
                                    [DY] = 1u << FORWARD_Y | weights | 1u << DX | 1u << DRESIDUAL,
                                    [FORWARD_Y] = weights,
                                    [WEIGHTS] = weights};
    bni_arrays arrays = bni_arrays_of(layer);
    if (apart.end != 0) {
        arrays.spans[arrays.count++] = apart;
    }
    return bni_any_overlap(regions, same, REGIONS, &arrays);
}

bn_status bni_check_backward(const bn_layer *layer, const bn_batch *batch, const void *x,
                             const void *dy, const void *dx, bni_subject subject, bni_span apart,
                             bni_shape *shape, bni_forward *before) {
    const bn_status status = bni_check_batch(layer, batch, true, shape);
    if (status != BN_STATUS_OK || (shape->n == 0 && subject == BNI_BATCH)) {
        return status;
    }
    const bool sums = subject == BNI_PART_SUMS;
    const void *dresidual = sums ? NULL : batch->dresidual;
    if (shape->n > 0 && dresidual != NULL && batch->residual == NULL) {
        return BN_STATUS_BAD_OPTION;
    }
    if (shape->n > 0 && (x == NULL || dy == NULL || (dx == NULL && !sums) ||
                         (needs_y(layer, batch) && batch->y == NULL))) {
        return BN_STATUS_NULL_POINTER;
    }
    *before = bni_cache_read(layer, batch->cache);
    if (shape->n == 0) {
        return BN_STATUS_OK;
    }
    if (before->kind == BNI_FORWARD_NONE) { /* what is no cache has no size either */
        return BN_STATUS_BAD_STATE;
    }
    if (buffers_overlap(layer, batch, x, dy, dx, dresidual, apart, shape)) {
        return BN_STATUS_OVERLAP;
    }
    if (!fits(before, batch, subject, shape)) {
        return BN_STATUS_BAD_STATE;
    }
    const bool own = subject == BNI_BATCH && before->kind == BNI_FORWARD_TRAINING;
    return own && !(shape->values > 1.0) ? BN_STATUS_TOO_FEW_VALUES : BN_STATUS_OK;
}

/* What forward's y became where it was clipped: max in the type of y, which may be Inf. One that is then
 * 0 may stay as it is, below all that is above 0. (By its bits: it may be subnormal.) */
static float rounded_max(float max, bni_type type) {
    const float rounded = bni_nearest_element(max, type);
    return bni_is_positive(rounded) ? rounded : max;
}

void bni_backward_begin(bni_backward *of, const bn_layer *layer, const bn_batch *batch,
                        const bni_cut *cut, const void *x, const void *dy, void *dx,
                        bni_forward before) {
    of->layer = layer;
    of->cut = cut;
    of->data =
        (bni_buffers){.x = x, .y = batch->y, .dy = dy, .dx = dx, .dresidual = batch->dresidual};
    of->cache = bni_cache_of(layer, batch->cache);
    of->act = bni_layer_activation(layer);
    of->act.by_y = needs_y(layer, batch);
    if (of->act.by_y) {
        of->act.max = rounded_max(of->act.max, cut->shape->type);
    }
    of->constant = before.kind == BNI_FORWARD_FROZEN;
}

/* ---- Sums ----------------------------------------------------------------------------------- */

static void sum_sheets(const bni_backward *of, bni_task task, const bni_coef *coef, double *s1,
                       double *s2) {
    const bni_cut *cut = of->cut;
    const bn_kernels *kernels = of->layer->internal.kernels;
    const size_t features = bni_group_size(cut, task.group);
    const size_t width = features * cut->inner * cut->outer;
    bni_walk walk = bni_walk_begin(cut, &of->data, BNI_READS, task);
    bni_sheet sheet;
    BNI_ASSERT(width <= BNI_PANEL);
    memset(s1, 0, width * sizeof *s1);
    memset(s2, 0, width * sizeof *s2);
    while (bni_walk_next(&walk, &sheet)) {
        kernels->data[cut->shape->type].grad_sums(&sheet, coef, of->act, s1, s2);
    }
    kernels->features.fold(s1, cut->outer, features, cut->inner);
    kernels->features.fold(s2, cut->outer, features, cut->inner);
}

static bool gradients_held(const bni_backward *of, const double *s1, const double *s2,
                           size_t features) {
    return of->layer->internal.kernels->features.held(s1, s2, features, BNI_LEAST_PRODUCTS, true);
}

/* Each feature that float runs did not hold, alone: none depends on others. */
static void gradients_exactly(const bni_backward *of, bni_task task, const bni_coef *coef,
                              double *s1, double *s2) {
    bni_feature alone = {of->cut, &of->data, task, 0};
    for (; alone.place < bni_group_size(of->cut, task.group); alone.place++) {
        double *one = &s1[alone.place], *two = &s2[alone.place];
        if (!gradients_held(of, one, two, 1)) {
            bni_exact_gradients(&alone, coef, of->act, one, two);
        }
    }
}

void bni_task_gradients(const bni_backward *of, const float *scale, const float *shift,
                        bni_task task, bni_part *part) {
    const bni_cut *cut = of->cut;
    const size_t first = bni_group_first(cut, task.group);
    const size_t features = bni_group_size(cut, task.group);
    const bool rebuilds = bni_rebuilds(of->act);
    _Alignas(BNI_LINE) float columns[3][BNI_PANEL];
    _Alignas(BNI_LINE) double s1[BNI_PANEL], s2[BNI_PANEL];
    const bni_coef coef = {
        .center = bni_expand(cut, features, of->cache.mean + first, columns[0]),
        .scale = bni_expand(cut, features, rebuilds ? scale + first : NULL, columns[1]),
        .shift = bni_expand(cut, features, rebuilds ? shift + first : NULL, columns[2])};
    const bni_trial trial = bni_trial_begin();
    sum_sheets(of, task, &coef, s1, s2);
    if (!gradients_held(of, s1, s2, features)) {
        bni_trial_undo(trial);
        gradients_exactly(of, task, &coef, s1, s2);
    }
    memcpy(part->one, s1, features * sizeof *s1);
    memcpy(part->two, s2, features * sizeof *s2);
}

void bni_merge_gradients(bni_part *into, const bni_part *part, size_t features) {
    for (size_t d = 0; d < features; d++) {
        into->one[d] += part->one[d];
        into->two[d] += part->two[d];
    }
}

/* ---- dx ------------------------------------------------------------------------------------- */

void bni_dx_task(const bni_backward *of, const bni_cut *cut, bni_pass pass, bni_task task,
                 const bni_coef *coef) {
    const bn_kernels *kernels = of->layer->internal.kernels;
    bni_walk walk = bni_walk_begin(cut, &of->data, pass, task);
    bni_sheet sheet;
    while (bni_walk_next(&walk, &sheet)) {
        kernels->data[cut->shape->type].grad_input(&sheet, coef, of->act);
    }
}

/* ---- dgamma and dbeta ----------------------------------------------------------------------- */

/* pending = pending + gradient; false where one is not finite. */
static bool add_to(float *pending, const float *gradient, size_t features) {
    int bad = 0;
    for (size_t d = 0; gradient != NULL && d < features; d++) {
        pending[d] += bni_load_float(gradient + d);
        bad |= !bni_finite(pending[d]);
    }
    return bad == 0;
}

static void commit_gradient(float *gradient, const float *pending, size_t features) {
    if (gradient != NULL) {
        memcpy(gradient, pending, features * sizeof *gradient);
    }
}

bn_status bni_commit_gradients(bn_layer *layer, const bni_scratch *scratch, bool finite,
                               bool accumulate) {
    const size_t features = layer->num_features;
    if (accumulate) {
        finite = add_to(scratch->dgamma, layer->dgamma, features) && finite;
        finite = add_to(scratch->dbeta, layer->dbeta, features) && finite;
    }
    if (!finite) {
        return BN_STATUS_NOT_FINITE;
    }
    commit_gradient(layer->dgamma, scratch->dgamma, features);
    commit_gradient(layer->dbeta, scratch->dbeta, features);
    return BN_STATUS_OK;
}

static void zero(float *gradient, size_t features) {
    if (gradient != NULL) {
        memset(gradient, 0, features * sizeof *gradient);
    }
}

void bni_zero_gradients(bn_layer *layer) {
    zero(layer->dgamma, layer->num_features);
    zero(layer->dbeta, layer->num_features);
}
