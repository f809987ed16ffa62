/* What backward of a batch and of its parts have in common: checks, sums, dx, the layer's
 * gradients. */
#ifndef BNI_DIFFERENTIATE_H
#define BNI_DIFFERENTIATE_H

#include "layer.h"
#include "plan.h"

/* What is differentiated: a batch of its own, or a worker's share of one; a part, of which sums
 * are formed, or dx is written. */
typedef enum bni_subject { BNI_BATCH, BNI_SHARE, BNI_PART_SUMS, BNI_PART_DX } bni_subject;

/* All that they check, but what depends on the other parts. An empty batch passes whatever the
 * buffers are. Nothing may overlap `apart`, either. Makes shape, and what forward left, where it
 * returns BN_STATUS_OK: of an empty part or share it may be nothing. */
bn_status bni_check_backward(const bn_layer *layer, const bn_batch *batch, const void *x,
                             const void *dy, const void *dx, bni_subject subject, bni_span apart,
                             bni_shape *shape, bni_forward *before);

/* What a backward works on. */
typedef struct bni_backward {
    const bn_layer *layer;
    const bni_cut *cut;
    bni_buffers data;
    bni_cache cache;
    bni_activation act;
    bool constant; /* the forward before was frozen: mean and invstd are constants */
} bni_backward;

/* Fills it field by field: a struct that is returned is copied in larger pieces than it was written
 * in, which waits for those to reach L1. */
void bni_backward_begin(bni_backward *of, const bn_layer *layer, const bn_batch *batch,
                        const bni_cut *cut, const void *x, const void *dy, void *dx,
                        bni_forward before);

/* The sums over a task of g and of g * (x - center), features from its group's first on. scale and
 * shift are of all features. */
void bni_task_gradients(const bni_backward *of, const float *scale, const float *shift,
                        bni_task task, bni_part *part);

/* Adds the gradient sums of other data to `into`, or its own. */
void bni_merge_gradients(bni_part *into, const bni_part *part, size_t features);

/* Writes dx of one task, by coefficients a column. */
void bni_dx_task(const bni_backward *of, const bni_cut *cut, bni_pass pass, bni_task task,
                 const bni_coef *coef);

/* Makes the gradients in the scratch the layer's, or adds them, if they and their sums are finite;
 * else BN_STATUS_NOT_FINITE. */
bn_status bni_commit_gradients(bn_layer *layer, const bni_scratch *scratch, bool finite,
                               bool accumulate);

/* The gradients of nothing. */
void bni_zero_gradients(bn_layer *layer);

#endif
