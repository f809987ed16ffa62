/*
 * Loading: all of the layer's tensors are read and checked before the first of its bytes changes.
 */
#include "batchnorm/bn_safetensors.h"

#include "file.h"
#include "names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is to be written into the layer. */
typedef struct staged {
    unsigned char *floats[BNI_ARRAYS]; /* NULL: the layer has none */
    uint64_t batches;
} staged;

/* ---- Tensors --------------------------------------------------------------------------------- */

/* Of the layer's name; there, where the layer has a place for it, and else not. */
static bn_status find_array(const bni_file *file, const bni_names *names, size_t which, bool wanted,
                            const bni_tensor **tensor) {
    *tensor = bni_header_tensor(&file->header, names->of[which]);
    return (*tensor != NULL) == wanted ? BN_STATUS_OK : BN_STATUS_BAD_FORMAT;
}

/* Block by block. */
static bn_status read_floats(const bni_file *file, const bni_tensor *tensor, bni_dtype dtype,
                             size_t count, unsigned char *to) {
    unsigned char *const block = malloc(BNI_BLOCK_BYTES);
    bn_status status = block == NULL ? BN_STATUS_OUT_OF_MEMORY : BN_STATUS_OK;
    const size_t most = BNI_BLOCK_BYTES / dtype.bytes;
    for (size_t done = 0; done < count && status == BN_STATUS_OK; done += most) {
        const size_t part = count - done < most ? count - done : most;
        status = bni_file_read(file, tensor->begin + done * dtype.bytes, block, part * dtype.bytes);
        if (status == BN_STATUS_OK &&
            !bni_floats_from(dtype.type, part, block, to + done * sizeof(float))) {
            status = BN_STATUS_BAD_FORMAT;
        }
    }
    free(block);
    return status;
}

static bn_status stage_array(const bni_file *file, const bni_tensor *tensor, size_t features,
                             unsigned char **floats) {
    bni_dtype dtype;
    uint64_t shape[BNI_MOST_DIMENSIONS];
    size_t dimensions;
    bn_status status = bni_tensor_dtype(tensor, &dtype);
    if (status == BN_STATUS_OK) {
        status = bni_tensor_shape(tensor, shape, &dimensions);
    }
    if (status != BN_STATUS_OK) {
        return status;
    }
    const bool is_float = dtype.type != BNI_STORED_OTHER && dtype.type != BNI_STORED_I64;
    if (!is_float || dimensions != 1 || shape[0] != features) {
        return BN_STATUS_BAD_FORMAT;
    }
    *floats = malloc(features * sizeof(float));
    return *floats == NULL ? BN_STATUS_OUT_OF_MEMORY
                           : read_floats(file, tensor, dtype, features, *floats);
}

/* A file from before there was a count has none. */
static bn_status stage_count(const bni_file *file, const bni_names *names, bool wanted,
                             uint64_t *count) {
    const bni_tensor *const tensor = bni_header_tensor(&file->header, names->of[BNI_COUNT]);
    if (tensor == NULL) {
        return BN_STATUS_OK;
    }
    bni_dtype dtype;
    uint64_t shape[BNI_MOST_DIMENSIONS];
    size_t dimensions;
    unsigned char bytes[8];
    bn_status status = bni_tensor_dtype(tensor, &dtype);
    if (status == BN_STATUS_OK) {
        status = bni_tensor_shape(tensor, shape, &dimensions);
    }
    if (status == BN_STATUS_OK && (!wanted || dtype.type != BNI_STORED_I64 || dimensions != 0)) {
        status = BN_STATUS_BAD_FORMAT;
    }
    if (status == BN_STATUS_OK) {
        status = bni_file_read(file, tensor->begin, bytes, sizeof bytes);
    }
    if (status == BN_STATUS_OK) {
        *count = bni_le_read(bytes, sizeof bytes);
    }
    return status == BN_STATUS_OK && *count > INT64_MAX ? BN_STATUS_BAD_FORMAT : status;
}

static bn_status stage(const bni_file *file, const bni_names *names, const bn_layer *layer,
                       staged *next) {
    const bni_layer_arrays arrays = bni_layer_arrays_of(layer);
    const bni_tensor *tensors[BNI_ARRAYS];
    bn_status status = BN_STATUS_OK;
    for (size_t k = 0; k < BNI_ARRAYS && status == BN_STATUS_OK; k++) {
        status = find_array(file, names, k, arrays.of[k] != NULL, &tensors[k]);
    }
    for (size_t k = 0; k < BNI_ARRAYS && status == BN_STATUS_OK; k++) {
        if (tensors[k] != NULL) {
            status = stage_array(file, tensors[k], layer->num_features, &next->floats[k]);
        }
    }
    return status != BN_STATUS_OK
               ? status
               : stage_count(file, names, layer->running_mean != NULL, &next->batches);
}

/* ---- Options --------------------------------------------------------------------------------- */

static bn_status metadata_number(const bni_entry *entry, double *value) {
    char *const text = malloc(entry->value.length);
    bn_status status = text == NULL ? BN_STATUS_OUT_OF_MEMORY : bni_json_string(entry->value, text);
    if (status == BN_STATUS_OK && !bni_number_parse(text, value)) {
        status = BN_STATUS_BAD_FORMAT;
    }
    free(text);
    return status;
}

/* To a millionth: a file may have a double's digits, or have rounded in another mode than ours. */
static bn_status check_option(const bni_file *file, const char *name, float ours, bool used) {
    const bni_entry *const entry = bni_header_entry(&file->header, name);
    double theirs = 0;
    const bn_status status = entry == NULL ? BN_STATUS_OK : metadata_number(entry, &theirs);
    if (status != BN_STATUS_OK || entry == NULL || !used) {
        return status;
    }
    const double difference = fabs(theirs - (double)ours);
    return difference <= 1e-6 * fabs((double)ours) ? BN_STATUS_OK : BN_STATUS_BAD_OPTION;
}

static bn_status check_options(const bni_file *file, const bni_names *names,
                               const bn_layer *layer) {
    const bn_status eps = check_option(file, names->of[BNI_EPS], layer->options.eps, true);
    const bn_status momentum = check_option(file, names->of[BNI_MOMENTUM], layer->options.momentum,
                                            bni_uses_momentum(layer));
    /* What no file should have goes before what this layer does not. */
    return eps == BN_STATUS_OK || (eps == BN_STATUS_BAD_OPTION && momentum != BN_STATUS_OK)
               ? momentum
               : eps;
}

/* ---- The call -------------------------------------------------------------------------------- */

/* An inference_only layer may have one array of the caller's in two places. */
static bool arrays_overlap(const bn_layer *layer) {
    const bni_layer_arrays arrays = bni_layer_arrays_of(layer);
    const uintptr_t bytes = (uintptr_t)layer->num_features * sizeof(float);
    for (size_t k = 0; k < BNI_ARRAYS; k++) {
        for (size_t j = 0; j < k; j++) {
            const uintptr_t a = (uintptr_t)arrays.of[j], b = (uintptr_t)arrays.of[k];
            if (a != 0 && b != 0 && (a > b ? a - b : b - a) < bytes) {
                return true;
            }
        }
    }
    return false;
}

/* What the running values had beyond float was that of others. */
static void forget_rests(bn_layer *layer) {
    const size_t bytes = layer->num_features * sizeof(float);
    if (layer->internal.running_mean_rest != NULL) {
        memset(layer->internal.running_mean_rest, 0, bytes);
        memset(layer->internal.running_var_rest, 0, bytes);
    }
}

static void commit(bn_layer *layer, const staged *next) {
    const bni_layer_arrays arrays = bni_layer_arrays_of(layer);
    for (size_t k = 0; k < BNI_ARRAYS; k++) {
        if (arrays.of[k] != NULL) {
            memcpy((void *)arrays.of[k], next->floats[k], layer->num_features * sizeof(float));
        }
    }
    if (layer->running_mean != NULL) {
        layer->num_batches_tracked = next->batches;
        forget_rests(layer);
    }
}

static bn_status load_from(bn_layer *layer, const char *path, const bni_names *names) {
    bni_file file;
    staged next = {{NULL}, 0};
    bn_status status = bni_file_open(&file, path);
    if (status == BN_STATUS_OK) {
        status = stage(&file, names, layer, &next);
    }
    if (status == BN_STATUS_OK) {
        status = check_options(&file, names, layer);
    }
    if (status == BN_STATUS_OK) {
        commit(layer, &next);
    }
    for (size_t k = 0; k < BNI_ARRAYS; k++) {
        free(next.floats[k]);
    }
    bni_file_close(&file);
    return status;
}

bn_status bn_layer_load_safetensors(bn_layer *layer, const char *path, const char *name) {
    bni_names names;
    bn_status status = bni_names_make(&names, layer, path, name);
    if (status == BN_STATUS_OK) {
        status = arrays_overlap(layer) ? BN_STATUS_OVERLAP : load_from(layer, path, &names);
    }
    bni_names_free(&names);
    return status;
}
