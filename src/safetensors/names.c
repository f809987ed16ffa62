/* See names.h. */
#include "names.h"

#include "header.h"

#include <stdlib.h>
#include <string.h>

static const char *const suffixes[BNI_NAMES] = {
    [BNI_WEIGHT] = "weight",
    [BNI_BIAS] = "bias",
    [BNI_RUNNING_MEAN] = "running_mean",
    [BNI_RUNNING_VAR] = "running_var",
    [BNI_COUNT] = "num_batches_tracked",
    [BNI_EPS] = "eps",
    [BNI_MOMENTUM] = "momentum",
};

static bn_status join(bni_names *names, const char *name, size_t length) {
    const size_t room = length + sizeof ".num_batches_tracked"; /* the longest */
    char *at = malloc(BNI_NAMES * room);
    if (at == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    for (size_t k = 0; k < BNI_NAMES; k++, at += room) {
        names->of[k] = at;
        memcpy(at, name, length);
        at[length] = '.';
        strcpy(at + length + (length > 0), suffixes[k]);
    }
    return BN_STATUS_OK;
}

bn_status bni_names_make(bni_names *names, const bn_layer *layer, const char *path,
                         const char *name) {
    *names = (bni_names){{NULL}};
    if (layer == NULL || path == NULL || name == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (bn_layer_isa(layer) == NULL) { /* which it has from init on */
        return BN_STATUS_BAD_STATE;
    }
    const size_t length = strlen(name);
    if (length > BNI_MOST_HEADER || !bni_utf8_valid(name, length)) {
        return BN_STATUS_BAD_OPTION;
    }
    return join(names, name, length);
}

void bni_names_free(bni_names *names) {
    free(names->of[0]);
}

bni_layer_arrays bni_layer_arrays_of(const bn_layer *layer) {
    return (bni_layer_arrays){{[BNI_WEIGHT] = layer->gamma,
                               [BNI_BIAS] = layer->beta,
                               [BNI_RUNNING_MEAN] = layer->running_mean,
                               [BNI_RUNNING_VAR] = layer->running_var}};
}

bool bni_uses_momentum(const bn_layer *layer) {
    return layer->running_mean != NULL && !layer->internal.options.inference_only;
}
