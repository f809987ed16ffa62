/* What training and inference have in common: their checks, and y. */
#ifndef BNI_NORMALIZE_H
#define BNI_NORMALIZE_H

#include "layer.h"
#include "plan.h"

/* What normalizes: training leaves a cache; by the statistics of a whole even where its part is
 * empty. */
typedef enum bni_purpose { BNI_INFERENCE, BNI_TRAINING, BNI_TRAINING_PART } bni_purpose;

/* All that they check. An empty batch passes whatever x and y are. */
bn_status bni_check_normalize(const bn_layer *layer, const bn_batch *batch, const void *x,
                              const void *y, bni_purpose purpose, bni_shape *shape);

/* What turns x into y, a value a feature, from a group's first on. */
typedef struct bni_feature_coef {
    const float *center, *scale, *shift;
} bni_feature_coef;

/* Writes y of one task. */
void bni_normalize_task(const bni_cut *cut, const bn_layer *layer, const bni_buffers *data,
                        bni_pass pass, bni_task task, bni_feature_coef of);

#endif
