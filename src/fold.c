/* Inference as a scale and a shift, and folded into the layer before. */
#include "layer.h"

#include <math.h>
#include <stdint.h>

/* One feature's scale and shift, in double: rounded once, by whoever uses them. */
static void feature_affine(const bn_layer *layer, size_t d, double *scale, double *shift) {
    double mean, var;
    bni_running_at(layer, d, &mean, &var);
    const double invstd = 1.0 / sqrt(var + (double)layer->options.eps);
    *scale = layer->gamma == NULL ? invstd : (double)bni_load_float(layer->gamma + d) * invstd;
    *shift = (layer->beta == NULL ? 0.0 : (double)bni_load_float(layer->beta + d)) - mean * *scale;
}

/* What both calls check of a layer that is not NULL. */
static bn_status check_layer(const bn_layer *layer) {
    if (!bni_layer_ready(layer) || layer->running_mean == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    return bni_not_negative(layer->options.eps) ? BN_STATUS_OK : BN_STATUS_BAD_OPTION;
}

static bn_status check_outputs(const bn_layer *layer, const void *a, size_t a_bytes, const void *b,
                               size_t b_bytes) {
    const bni_region regions[] = {bni_region_of_bytes(a, a_bytes), bni_region_of_bytes(b, b_bytes)};
    return bni_any_overlap(regions, (const unsigned[2]){0}, 2) ||
                   bni_touches_layer(layer, regions, 2)
               ? BN_STATUS_OVERLAP
               : BN_STATUS_OK;
}

bn_status bn_layer_affine(const bn_layer *layer, float *scale, float *shift) {
    if (layer == NULL || scale == NULL || shift == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    bn_status status = check_layer(layer);
    if (status == BN_STATUS_OK) {
        const size_t bytes = layer->num_features * sizeof(float);
        status = check_outputs(layer, scale, bytes, shift, bytes);
    }
    if (status != BN_STATUS_OK) {
        return status;
    }
    bool finite = true;
    for (size_t d = 0; d < layer->num_features; d++) {
        double a, b;
        feature_affine(layer, d, &a, &b);
        finite = finite && bni_finite((float)a) && bni_finite((float)b);
    }
    if (!finite) {
        return BN_STATUS_NOT_FINITE;
    }
    for (size_t d = 0; d < layer->num_features; d++) {
        double a, b;
        feature_affine(layer, d, &a, &b);
        bni_store_float(scale + d, (float)a);
        bni_store_float(shift + d, (float)b);
    }
    return BN_STATUS_OK;
}

/* Folds one feature into its row of weights and its bias, or only says whether all that this would
 * write is finite. */
static bool fold_feature(const bn_layer *layer, size_t d, size_t fan_in, float *row, float *bias,
                         bool write) {
    double scale, shift;
    bool finite = true;
    feature_affine(layer, d, &scale, &shift);
    for (size_t k = 0; k < fan_in; k++) {
        const float weight = (float)(scale * (double)bni_load_float(row + k));
        finite = finite && bni_finite(weight);
        if (write) {
            bni_store_float(row + k, weight);
        }
    }
    const float start = (float)(scale * (double)bni_load_float(bias) + shift);
    if (write) {
        bni_store_float(bias, start);
    }
    return finite && bni_finite(start);
}

bn_status bn_layer_fold(const bn_layer *layer, size_t fan_in, float *weight, float *bias) {
    if (layer == NULL || (weight == NULL && fan_in > 0) || bias == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    bn_status status = check_layer(layer);
    if (status != BN_STATUS_OK) {
        return status;
    }
    const size_t row_bytes = layer->num_features * sizeof(float);
    if (fan_in > (size_t)PTRDIFF_MAX / row_bytes) {
        return BN_STATUS_BAD_SHAPE;
    }
    status = check_outputs(layer, weight, fan_in * row_bytes, bias, row_bytes);
    if (status != BN_STATUS_OK) {
        return status;
    }
    for (int write = 0; write < 2; write++) {
        for (size_t d = 0; d < layer->num_features; d++) {
            float *row = fan_in == 0 ? NULL : weight + d * fan_in;
            if (!fold_feature(layer, d, fan_in, row, bias + d, write)) {
                return BN_STATUS_NOT_FINITE; /* found before anything was written */
            }
        }
    }
    return BN_STATUS_OK;
}
