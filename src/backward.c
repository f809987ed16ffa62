/*
 * Backward: check, gradient sums, coefficients, dx, commit. Nothing is written before all checks
 * have passed.
 */
#include "exact.h"
#include "layer.h"

#include <string.h>

typedef struct backward_work {
    const bn_layer *layer;
    const bni_cut *cut;
    bni_buffers data;
    bni_scratch scratch;
    bni_cache cache;
    bni_activation act;
    bool constant; /* the forward before was frozen: mean and invstd are constants */
} backward_work;

/* ---- Checks --------------------------------------------------------------------------------- */

static bool needs_y(const bn_layer *layer, const bn_batch *batch) {
    return batch->residual != NULL && layer->internal.options.activation != BN_ACTIVATION_NONE;
}

/* An empty batch passes whatever the buffers are. */
static bn_status check_backward(const bn_layer *layer, const bn_batch *batch, const void *x,
                                const void *dy, const void *dx, bni_shape *shape,
                                bni_forward *before) {
    const bn_status status = bni_check_batch(layer, batch, true, shape);
    if (status != BN_STATUS_OK || shape->n == 0) {
        return status;
    }
    if (batch->dresidual != NULL && batch->residual == NULL) {
        return BN_STATUS_BAD_OPTION;
    }
    if (x == NULL || dy == NULL || dx == NULL || (needs_y(layer, batch) && batch->y == NULL)) {
        return BN_STATUS_NULL_POINTER;
    }
    *before = bni_cache_read(layer, batch->cache);
    if (before->kind == BNI_FORWARD_NONE) { /* what is no cache has no size either */
        return BN_STATUS_BAD_STATE;
    }
    enum { X, DY, FORWARD_Y, WEIGHTS, POSITIONS, DX, DRESIDUAL, CACHE, REGIONS };
    const bni_region regions[REGIONS] = {
        [X] = bni_region_of_x(shape, x),
        [DY] = bni_region_of_y(shape, dy),
        [FORWARD_Y] = bni_region_of_y(shape, needs_y(layer, batch) ? batch->y : NULL),
        [WEIGHTS] = bni_region_of_weights(shape),
        [POSITIONS] = bni_region_of_positions(shape),
        [DX] = bni_region_of_x(shape, dx),
        [DRESIDUAL] = bni_region_of_y(shape, batch->dresidual),
        [CACHE] = bni_region_of_cache(layer, batch->cache)};
    const unsigned weights = 1u << WEIGHTS | 1u << POSITIONS;
    const unsigned same[REGIONS] = {[X] = 1u << DY | 1u << FORWARD_Y | weights | 1u << DX,
                                    [DY] = 1u << FORWARD_Y | weights | 1u << DX | 1u << DRESIDUAL,
                                    [FORWARD_Y] = weights,
                                    [WEIGHTS] = weights};
    const bni_arrays arrays = bni_arrays_of(layer);
    if (bni_any_overlap(regions, same, REGIONS, &arrays)) {
        return BN_STATUS_OVERLAP;
    }
    if (before->n != shape->n || before->spatial != shape->spatial) {
        return BN_STATUS_BAD_STATE;
    }
    if (before->kind == BNI_FORWARD_TRAINING && !(shape->values > 1.0)) {
        return BN_STATUS_TOO_FEW_VALUES;
    }
    return BN_STATUS_OK;
}

/* ---- The passes ----------------------------------------------------------------------------- */

/* The coefficients of a group, a value a column, in arrays of the caller's: five for dx, three for
 * those that the sums need. */
static bni_coef group_coef(const backward_work *work, const bni_cut *cut, size_t group, bool sums,
                           float (*columns)[BNI_PANEL]) {
    const bni_scratch *scratch = &work->scratch;
    const size_t first = bni_group_first(cut, group);
    const bool affine = !sums || bni_rebuilds(work->act);
    const bool slope = !sums && !work->constant;
    const float *of[5] = {work->cache.mean + first, affine ? scratch->scale + first : NULL,
                          affine ? scratch->shift + first : NULL,
                          slope ? scratch->slope + first : NULL,
                          slope ? scratch->offset + first : NULL};
    for (size_t i = 0; i < 5; i++) {
        of[i] = bni_expand(cut, bni_group_size(cut, group), of[i], columns[i]);
    }
    return (bni_coef){of[0], of[1], of[2], of[3], of[4]};
}

static void sum_sheets(const backward_work *work, bni_task task, const bni_coef *coef, double *s1,
                       double *s2) {
    const bni_cut *cut = work->cut;
    const bn_kernels *kernels = work->layer->internal.kernels;
    const size_t features = bni_group_size(cut, task.group);
    const size_t width = features * cut->inner * cut->outer;
    bni_walk walk = bni_walk_begin(cut, &work->data, BNI_READS, task);
    bni_sheet sheet;
    BNI_ASSERT(width <= BNI_PANEL);
    memset(s1, 0, width * sizeof *s1);
    memset(s2, 0, width * sizeof *s2);
    while (bni_walk_next(&walk, &sheet)) {
        kernels->data.grad_sums(&sheet, coef, work->act, s1, s2);
    }
    kernels->features.fold(s1, cut->outer, features, cut->inner);
    kernels->features.fold(s2, cut->outer, features, cut->inner);
}

static bool gradients_held(const backward_work *work, const double *s1, const double *s2,
                           size_t features) {
    return work->layer->internal.kernels->features.held(s1, s2, features, BNI_LEAST_PRODUCTS, true);
}

/* Each feature that float runs did not hold, alone: none depends on others. */
static void gradients_exactly(const backward_work *work, bni_task task, const bni_coef *coef,
                              double *s1, double *s2) {
    bni_feature of = {work->cut, &work->data, task, 0};
    for (; of.place < bni_group_size(of.cut, task.group); of.place++) {
        if (!gradients_held(work, &s1[of.place], &s2[of.place], 1)) {
            bni_exact_gradients(&of, coef, work->act, &s1[of.place], &s2[of.place]);
        }
    }
}

/* The sums over a group's chunk of g and of g * (x - center). */
static void sum_gradients(void *context, bni_task task, bni_part *part) {
    const backward_work *work = context;
    const size_t features = bni_group_size(work->cut, task.group);
    _Alignas(BNI_LINE) float columns[3][BNI_PANEL];
    _Alignas(BNI_LINE) double s1[BNI_PANEL], s2[BNI_PANEL];
    const bni_coef coef = group_coef(work, work->cut, task.group, true, columns);
    const bni_trial trial = bni_trial_begin();
    sum_sheets(work, task, &coef, s1, s2);
    if (!gradients_held(work, s1, s2, features)) {
        bni_trial_undo(trial);
        gradients_exactly(work, task, &coef, s1, s2);
    }
    memcpy(part->one, s1, features * sizeof *s1);
    memcpy(part->two, s2, features * sizeof *s2);
}

static void merge_gradients(void *context, bni_part *into, const bni_part *part) {
    const backward_work *work = context;
    double *restrict one = into->one;
    double *restrict two = into->two;
    for (size_t d = 0; d < work->cut->shape->features; d++) {
        one[d] += part->one[d];
        two[d] += part->two[d];
    }
}

/* From the sums of some features, their pending gradients and coefficients. */
static bool finish_gradients(void *context, bni_part sums, size_t first, size_t features) {
    const backward_work *work = context;
    const bni_scratch *scratch = &work->scratch;
    const bni_cache cache = bni_cache_from(work->cache, first);
    const double share = work->constant ? 0.0 : 1.0 / work->cut->shape->values;
    return work->layer->internal.kernels->features.finish_gradients(
        &cache, sums.one, sums.two, features, share, work->layer->gamma != NULL,
        work->layer->beta != NULL, scratch->dgamma + first, scratch->dbeta + first,
        scratch->slope + first, scratch->offset + first);
}

static void write_dx(void *context, const bni_cut *cut, bni_pass pass, bni_task task) {
    const backward_work *work = context;
    const bn_kernels *kernels = work->layer->internal.kernels;
    _Alignas(BNI_LINE) float columns[5][BNI_PANEL];
    const bni_coef coef = group_coef(work, cut, task.group, false, columns);
    bni_walk walk = bni_walk_begin(cut, &work->data, pass, task);
    bni_sheet sheet;
    while (bni_walk_next(&walk, &sheet)) {
        kernels->data.grad_input(&sheet, &coef, work->act);
    }
}

static const bni_passes passes_of_backward = {sum_gradients, merge_gradients, finish_gradients,
                                              write_dx};

/* False where a gradient is not finite. Nothing needs sums where constant statistics meet no
 * parameters. */
static bool differentiate(backward_work *work) {
    const bn_layer *layer = work->layer;
    const int threads = bni_threads(layer);
    if (work->constant && layer->gamma == NULL && layer->beta == NULL) {
        bni_write_pass(&passes_of_backward, work, work->cut, threads, BNI_BY_CHUNK_BACK);
        return true;
    }
    return bni_two_pass(&passes_of_backward, work, work->cut, threads, work->scratch.sums);
}

/* ---- dgamma and dbeta ----------------------------------------------------------------------- */

/* pending = pending + gradient; false where one is not finite. */
static bool accumulate(float *pending, const float *gradient, size_t features) {
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

static void zero(float *gradient, size_t features) {
    if (gradient != NULL) {
        memset(gradient, 0, features * sizeof *gradient);
    }
}

/* ---- The calls ------------------------------------------------------------------------------ */

bn_status bn_layer_backward_batch(bn_layer *layer, const bn_batch *batch, const void *x,
                                  const void *dy, void *dx) {
    bni_shape shape;
    bni_forward before;
    const bn_status status = check_backward(layer, batch, x, dy, dx, &shape, &before);
    if (status != BN_STATUS_OK) {
        return status;
    }
    const size_t features = layer->num_features;
    if (shape.n == 0) {
        if (!batch->accumulate_grads) {
            zero(layer->dgamma, features);
            zero(layer->dbeta, features);
        }
        return BN_STATUS_OK;
    }

    const bni_scratch scratch = bni_scratch_of(layer);
    const bni_cache cache = bni_cache_of(layer, batch->cache);
    const bni_cut cut = bni_cut_sums(&shape, layer->internal.tuning, BNI_DX);
    backward_work work = {
        .layer = layer,
        .cut = &cut,
        .data = {.x = x, .y = batch->y, .dy = dy, .dx = dx, .dresidual = batch->dresidual},
        .scratch = scratch,
        .cache = cache,
        .act = bni_layer_activation(layer),
        .constant = before.kind == BNI_FORWARD_FROZEN};
    work.act.by_y = needs_y(layer, batch);
    bni_layer_affine_part(layer, &cache, 0, features, scratch.scale, scratch.shift);
    bool finite = differentiate(&work);
    if (batch->accumulate_grads) {
        finite = accumulate(scratch.dgamma, layer->dgamma, features) && finite;
        finite = accumulate(scratch.dbeta, layer->dbeta, features) && finite;
    }
    if (!finite) {
        return BN_STATUS_NOT_FINITE;
    }
    commit_gradient(layer->dgamma, scratch.dgamma, features);
    commit_gradient(layer->dbeta, scratch.dbeta, features);
    return BN_STATUS_OK;
}

bn_status bn_layer_backward(bn_layer *layer, size_t n, const float *x, const float *dy, float *dx) {
    const bn_batch batch = {.n = n};
    return bn_layer_backward_batch(layer, &batch, x, dy, dx);
}
