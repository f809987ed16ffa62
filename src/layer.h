/* What the library's own files know of a layer: its private part and its checks. */
#ifndef BNI_LAYER_H
#define BNI_LAYER_H

#include "memory.h"

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

/* Whether momentum, which may be set between calls, is what it may be: decided on its bits, whatever
 * the compiler was told of NaN. */
bool bni_momentum_good(float momentum);

/* num_threads as it is set, but no more than init saw. */
int bni_threads(const bn_layer *layer);

/* What every call on a layer and a batch checks first; trains: forward and backward, which a layer that
 * only infers does not have. Makes the shape where it returns BN_STATUS_OK. */
bn_status bni_check_batch(const bn_layer *layer, const bn_batch *batch, bool trains,
                          bni_shape *shape);

/* Writes what the running values of some features would become into `into`, with the given weight of
 * the old ones; false where one would be NaN or Inf. The sums begin at the first of these features. */
bool bni_next_running(const bn_layer *layer, const bni_sums *sums, size_t first, size_t features,
                      double keep, const bni_running *into);

/* Makes them the running values. */
void bni_commit_running(bn_layer *layer, const bni_running *next, size_t first, size_t features);

#endif
