/*
 * What a layer's tensors and options are called in a file.
 */
#ifndef BN_SAFETENSORS_NAMES_H
#define BN_SAFETENSORS_NAMES_H

#include "batchnorm/bn_layer.h"

enum {
    BNI_WEIGHT,
    BNI_BIAS,
    BNI_RUNNING_MEAN,
    BNI_RUNNING_VAR,
    BNI_ARRAYS, /* those before are arrays of floats */
    BNI_COUNT = BNI_ARRAYS,
    BNI_TENSORS, /* those from here on are metadata */
    BNI_EPS = BNI_TENSORS,
    BNI_MOMENTUM,
    BNI_NAMES
};

typedef struct bni_names {
    char *of[BNI_NAMES]; /* one piece of memory, of[0]'s */
} bni_names;

/* What both calls ask of their arguments; makes the names, for bni_names_free. */
bn_status bni_names_make(bni_names *names, const bn_layer *layer, const char *path,
                         const char *name);
void bni_names_free(bni_names *names);

/* The layer's arrays, at their names' places; NULL: it has none. */
typedef struct bni_layer_arrays {
    float *of[BNI_ARRAYS];
} bni_layer_arrays;

bni_layer_arrays bni_layer_arrays_of(const bn_layer *layer);

/* Whether a forward would look at the layer's momentum. */
bool bni_uses_momentum(const bn_layer *layer);

#endif /* BN_SAFETENSORS_NAMES_H */
