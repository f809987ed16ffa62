/* What the library's own files know of a layer: its private part, its scratch, its checks. */
#ifndef BNI_LAYER_H
#define BNI_LAYER_H

#include "two_pass.h"

/* bn_layer.internal.forward: what the forward before was. */
enum { BNI_FORWARD_NONE, BNI_FORWARD_TRAINING, BNI_FORWARD_FROZEN };

/* The most features: all arrays and the scratch, at most 600 bytes a feature, are then far from
 * overflowing a size. */
#define BNI_MOST_FEATURES ((size_t)PTRDIFF_MAX / 1024)

/* Where a call works. Nothing in it lives longer than a call. Arrays without a size here have D
 * elements. */
typedef struct bni_scratch {
    bni_space sums;       /* moments (mean, m2) or gradient sums */
    float *scale, *shift; /* bni_coef, a value a feature */
    float *slope, *offset;
    float *pending1, *pending2; /* running values or gradients, until it is known that they stand */
} bni_scratch;

bni_scratch bni_scratch_of(const bn_layer *layer);

/* The cache, from a feature on. */
bni_cache bni_cache_of(const bn_layer *layer, size_t first);

/* Whether init has filled the layer. */
static inline bool bni_layer_ready(const bn_layer *layer) {
    return layer->internal.kernels != NULL;
}

/* The scale and shift (bni_coef) of some features by their cache, with the layer's gamma
 * and beta. */
void bni_layer_affine_part(const bn_layer *layer, const bni_cache *cache, size_t first,
                           size_t features, float *scale, float *shift);

/* Its activation, as init read it. A slope of 0 is ReLU. */
bni_activation bni_layer_activation(const bn_layer *layer);

/* Everything that a layer's arrays occupy. */
bni_region bni_region_of_layer(const bn_layer *layer);

/* Whether momentum, which may be set between calls, is what it may be: decided on its bits, whatever
 * the compiler was told of NaN. */
bool bni_momentum_good(float momentum);

/* num_threads as it is set, but no more than init saw. */
int bni_threads(const bn_layer *layer);

/* What every call on a layer and a batch checks first. Makes the shape where it returns
 * BN_STATUS_OK. */
bn_status bni_check_batch(const bn_layer *layer, const bn_batch *batch, bni_shape *shape);

/* Writes what the running values of some features would become into the scratch, with the given
 * weight of the old ones; false where one would be NaN or Inf. The sums begin at the first of these
 * features, and may be in the scratch. */
bool bni_pending_running(const bn_layer *layer, const bni_sums *sums, size_t first, size_t features,
                         double keep);

void bni_commit_running(bn_layer *layer);

#endif
