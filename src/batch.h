/*
 * A bn_batch made canonical: defaults filled in, sizes, weights and overlap checked. How its data
 * is cut into sheets and tasks is in sheets.h, which fills the second half.
 */
#ifndef BNI_BATCH_H
#define BNI_BATCH_H

#include "batchnorm/bn_layer.h"
#include "kernels/kernels.h"
#include "tuning.h"

static inline size_t bni_smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t bni_divide_up(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

/* So many elements that arrays of them, one behind the other, share no cache line. */
static inline size_t bni_padded(size_t count) {
    return bni_divide_up(count, BNI_PAD) * BNI_PAD;
}

/* The most features of a group where all that is known of it has to be on the stack: bni_narrowed. */
#define BNI_NARROW ((size_t)256)

/* How a batch becomes sheets: see sheets.h. */
typedef enum bni_layout { BNI_ROWS, BNI_FOLDED, BNI_PLANES } bni_layout;

typedef struct bni_batch {
    size_t n, features, spatial; /* spatial is at least 1 */
    size_t x_stride, y_stride;
    const float *weight; /* NULL: all 1 */
    double elements;     /* of x */
    double values;       /* W: the sum of the weights, times the positions */
    const bni_tuning *tuning;

    bool streams; /* outputs are so large that they are written past the caches */
    bool linear;  /* tasks and their sheets are in the order of the memory */

    bni_layout layout;
    size_t outer, inner;
    size_t group_features; /* of every group but perhaps the last */
    size_t panel_cols;     /* of BNI_ROWS: the columns that decide how many rows a sheet has */
    size_t groups, units;
    size_t chunks, chunk_units; /* units of every chunk but perhaps the last */
} bni_batch;

/* Whether a shape is looked at with both strides, or x alone (bn_moments_add). */
typedef enum bni_strides { BNI_STRIDES_BOTH, BNI_STRIDES_X } bni_strides;

/* Returns BN_STATUS_OK, BN_STATUS_BAD_OPTION, BN_STATUS_UNSUPPORTED or BN_STATUS_BAD_SHAPE as
 * bn_layer_forward_batch says. n = 0 is a good batch with no units. */
bn_status bni_batch_make(bni_batch *batch, const bn_batch *from, size_t features,
                         const bni_tuning *tuning, bni_strides strides);

/* ---- Overlap ---- */

/* Rows of bytes in memory. */
typedef struct bni_region {
    const void *start; /* NULL: no region, overlaps nothing */
    size_t rows, row_bytes, stride_bytes;
} bni_region;

bni_region bni_region_of_x(const bni_batch *batch, const void *x);
bni_region bni_region_of_y(const bni_batch *batch, const void *y);
bni_region bni_region_of_weights(const bni_batch *batch);
bni_region bni_region_of_bytes(const void *start, size_t bytes);

/* What a pair of regions may be. */
typedef enum bni_sharing { BNI_APART, BNI_SAME_OR_APART } bni_sharing;

/* Whether two regions share a byte, other than in the way that is allowed. */
bool bni_overlap(bni_region a, bni_region b, bni_sharing allowed);

/* Whether regions[i] and regions[j] overlap for any i < j, where only pairs that `same` names (bit
 * j of same[i]) may be the same. */
bool bni_any_overlap(const bni_region *regions, const unsigned *same, size_t count);

#endif
