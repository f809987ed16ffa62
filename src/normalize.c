/* See normalize.h. */
#include "normalize.h"

bn_status bni_check_normalize(const bn_layer *layer, const bn_batch *batch, const void *x,
                              const void *y, bni_purpose purpose, bni_shape *shape) {
    const bool trains = purpose != BNI_INFERENCE;
    const bn_status status = bni_check_batch(layer, batch, trains, shape);
    if (status != BN_STATUS_OK || (shape->n == 0 && purpose != BNI_TRAINING_PART)) {
        return status;
    }
    if (shape->n > 0 && (x == NULL || y == NULL)) {
        return BN_STATUS_NULL_POINTER;
    }
    enum { X, RESIDUAL, WEIGHTS, POSITIONS, Y, CACHE, REGIONS };
    const bni_region regions[REGIONS] = {
        [X] = bni_region_of_x(shape, x),
        [RESIDUAL] = bni_region_of_y(shape, batch->residual),
        [WEIGHTS] = bni_region_of_weights(shape),
        [POSITIONS] = bni_region_of_positions(shape),
        [Y] = bni_region_of_y(shape, y),
        [CACHE] = bni_region_of_cache(layer, trains ? batch->cache : NULL)};
    const unsigned weights = 1u << WEIGHTS | 1u << POSITIONS;
    const unsigned same[REGIONS] = {
        [X] = 1u << RESIDUAL | weights | 1u << Y, [RESIDUAL] = weights, [WEIGHTS] = weights};
    const bni_arrays arrays = bni_arrays_of(layer);
    return bni_any_overlap(regions, same, REGIONS, &arrays) ? BN_STATUS_OVERLAP : BN_STATUS_OK;
}

void bni_normalize_task(const bni_cut *cut, const bn_layer *layer, const bni_buffers *data,
                        bni_pass pass, bni_task task, bni_feature_coef of) {
    _Alignas(BNI_LINE) float center[BNI_PANEL], scale[BNI_PANEL], shift[BNI_PANEL];
    const bn_kernels *kernels = layer->internal.kernels;
    const bni_activation act = bni_layer_activation(layer);
    const size_t features = bni_group_size(cut, task.group);
    const bni_coef coef = {.center = bni_expand(cut, features, of.center, center),
                           .scale = bni_expand(cut, features, of.scale, scale),
                           .shift = bni_expand(cut, features, of.shift, shift)};
    bni_walk walk = bni_walk_begin(cut, data, pass, task);
    bni_sheet sheet;
    while (bni_walk_next(&walk, &sheet)) {
        kernels->data[cut->shape->type].normalize(&sheet, &coef, act);
    }
}
