/* Inference as a scale and a shift, and folded into the layer before or after. */
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

/* What all calls check of a layer that is not NULL. */
static bn_status check_layer(const bn_layer *layer) {
    if (!bni_layer_ready(layer) || layer->running_mean == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    return bni_not_negative(layer->options.eps) ? BN_STATUS_OK : BN_STATUS_BAD_OPTION;
}

static bn_status check_outputs(const bn_layer *layer, const void *a, size_t a_bytes, const void *b,
                               size_t b_bytes) {
    const bni_region regions[] = {bni_region_of_bytes(a, a_bytes), bni_region_of_bytes(b, b_bytes)};
    const bni_arrays arrays = bni_arrays_of(layer);
    return bni_any_overlap(regions, (const unsigned[2]){0}, 2, &arrays) ? BN_STATUS_OVERLAP
                                                                        : BN_STATUS_OK;
}

/* Rounds and stores, or only says whether the rounded value is finite. All that is written here is
 * gone through twice, by the same code, so that NOT_FINITE is found before anything has changed. */
static bool put_rounded(float *to, double value, bool write) {
    const float rounded = (float)value;
    if (write) {
        bni_store_float(to, rounded);
    }
    return bni_finite(rounded);
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
    for (int write = 0; write < 2; write++) {
        for (size_t d = 0; d < layer->num_features; d++) {
            double a, b;
            feature_affine(layer, d, &a, &b);
            if (!put_rounded(scale + d, a, write) || !put_rounded(shift + d, b, write)) {
                return BN_STATUS_NOT_FINITE;
            }
        }
    }
    return BN_STATUS_OK;
}

/* ---- Folds ---------------------------------------------------------------------------------- */

/* What a fold changes. All layouts are [groups][outer][D/groups][inner], where the features run
 * through the groups. */
typedef struct folded_layer {
    size_t groups, outer, inner;
    float *weight, *bias;
    bool after; /* the batch normalization: then there is one group and bias is [outer], else [D] */
} folded_layer;

/* Row by row as they are in memory. A feature's scale is made anew in each row, which is little
 * beside what a fold saves, and so needs no memory for D of them. */
static bool fold_weights(const bn_layer *layer, const folded_layer *to, bool write) {
    const size_t width = layer->num_features / to->groups;
    const size_t rows = to->inner == 0 ? 0 : to->groups * to->outer;
    for (size_t row = 0; row < rows; row++) {
        for (size_t j = 0; j < width; j++) {
            double scale, shift;
            feature_affine(layer, row / to->outer * width + j, &scale, &shift);
            float *weight = to->weight + (row * width + j) * to->inner;
            for (size_t k = 0; k < to->inner; k++) {
                const double value = (double)bni_load_float(weight + k);
                if (!put_rounded(weight + k, scale * value, write)) {
                    return false;
                }
            }
        }
    }
    return true;
}

static bool fold_bias_before(const bn_layer *layer, const folded_layer *to, bool write) {
    for (size_t d = 0; d < layer->num_features; d++) {
        double scale, shift;
        feature_affine(layer, d, &scale, &shift);
        const double value = scale * (double)bni_load_float(to->bias + d) + shift;
        if (!put_rounded(to->bias + d, value, write)) {
            return false;
        }
    }
    return true;
}

/* By the weights as they were: before fold_weights. */
static bool fold_bias_after(const bn_layer *layer, const folded_layer *to, bool write) {
    for (size_t o = 0; o < to->outer; o++) {
        double sum = (double)bni_load_float(to->bias + o);
        for (size_t d = 0; to->inner > 0 && d < layer->num_features; d++) {
            double scale, shift;
            feature_affine(layer, d, &scale, &shift);
            const float *weight = to->weight + (o * layer->num_features + d) * to->inner;
            for (size_t k = 0; k < to->inner; k++) {
                sum += shift * (double)bni_load_float(weight + k);
            }
        }
        if (!put_rounded(to->bias + o, sum, write)) {
            return false;
        }
    }
    return true;
}

static bn_status fold_into(const bn_layer *layer, folded_layer to) {
    if (layer == NULL || (to.weight == NULL && to.outer > 0 && to.inner > 0) ||
        (to.bias == NULL && !(to.after && to.outer == 0))) {
        return BN_STATUS_NULL_POINTER;
    }
    bn_status status = check_layer(layer);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (to.after && layer->internal.options.activation != BN_ACTIVATION_NONE) {
        return BN_STATUS_BAD_STATE; /* it is between the two */
    }
    const size_t features = layer->num_features, most = (size_t)PTRDIFF_MAX / sizeof(float);
    const size_t biases = to.after ? to.outer : features;
    if (to.groups == 0 || features % to.groups != 0 || biases > most ||
        (to.inner > 0 && to.outer > most / features / to.inner)) {
        return BN_STATUS_BAD_SHAPE;
    }
    const size_t weights = to.inner == 0 ? 0 : to.outer * features * to.inner;
    status =
        check_outputs(layer, to.weight, weights * sizeof(float), to.bias, biases * sizeof(float));
    for (int write = 0; write < 2 && status == BN_STATUS_OK; write++) {
        if (!(to.after ? fold_bias_after : fold_bias_before)(layer, &to, write) ||
            !fold_weights(layer, &to, write)) {
            status = BN_STATUS_NOT_FINITE;
        }
    }
    return status;
}

bn_status bn_layer_fold(const bn_layer *layer, size_t fan_in, float *weight, float *bias) {
    return fold_into(layer, (folded_layer){1, 1, fan_in, weight, bias, false});
}

bn_status bn_layer_fold_transposed(const bn_layer *layer, size_t groups, size_t fan_in,
                                   size_t kernel, float *weight, float *bias) {
    return fold_into(layer, (folded_layer){groups, fan_in, kernel, weight, bias, false});
}

bn_status bn_layer_fold_next(const bn_layer *layer, size_t fan_out, size_t kernel, float *weight,
                             float *bias) {
    return fold_into(layer, (folded_layer){1, fan_out, kernel, weight, bias, true});
}
