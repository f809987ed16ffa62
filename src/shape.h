/*
 * A bn_batch made canonical: defaults filled in, sizes, weights and overlap checked.
 */
#ifndef BNI_SHAPE_H
#define BNI_SHAPE_H

#include "batchnorm/bn_layer.h"
#include "kernels/kernels.h"

#include <stdint.h>

static inline size_t bni_smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* (A division is dear beside the smallest batch.) */
static inline size_t bni_divide_up(size_t a, size_t b) {
    return a <= b ? a != 0 : a / b + (a % b != 0);
}

/* So many floats, or doubles, that arrays of them, one behind the other, share no cache line. */
static inline size_t bni_padded(size_t count) {
    return bni_divide_up(count, BNI_PAD) * BNI_PAD;
}

typedef struct bni_shape {
    size_t n, features, spatial; /* spatial is at least 1 */
    bni_type type;
    size_t x_stride, y_stride;
    const float *weight; /* sample i has weight[i*weight_step]; NULL: all 1 */
    size_t weight_step;
    const float
        *position;   /* [n][spatial], a second factor, where there is the first; NULL: all 1 */
    double elements; /* of x */
    double values;   /* W: the sum of the weights of all positions */
    bool few;        /* so few values, or so little weight, that sums in runs would not do */
} bni_shape;

/* Whether both strides must be good, or x's alone (bn_moments_add). */
typedef enum bni_strides { BNI_STRIDES_BOTH, BNI_STRIDES_X } bni_strides;

/* Returns BN_STATUS_OK, BN_STATUS_BAD_OPTION or BN_STATUS_BAD_SHAPE as bn_layer_forward_batch says.
 * n = 0 is a good shape. */
bn_status bni_shape_make(bni_shape *shape, const bn_batch *from, size_t features,
                         bni_strides strides);

/* ---- Overlap ---- */

/* Rows of bytes in memory. */
typedef struct bni_region {
    const void *start; /* NULL: no region, overlaps nothing */
    size_t rows, row_bytes, stride_bytes;
} bni_region;

bni_region bni_region_of_x(const bni_shape *shape, const void *x);
bni_region bni_region_of_y(const bni_shape *shape, const void *y);
bni_region bni_region_of_weights(const bni_shape *shape);
bni_region bni_region_of_positions(const bni_shape *shape);
bni_region bni_region_of_bytes(const void *start, size_t bytes);

/* From an array's first byte to behind its last. */
typedef struct bni_span {
    uintptr_t begin, end;
} bni_span;

static inline bni_span bni_span_of_bytes(const void *start, size_t bytes) {
    return (bni_span){(uintptr_t)start, start == NULL ? 0 : (uintptr_t)start + bytes};
}

/* Whether regions[i] and regions[j] share a byte for any i < j < BNI_MOST_REGIONS, where only
 * pairs that `same` names (bit j of same[i]) may be the same region; or any region and any of some
 * arrays. */
#define BNI_MOST_REGIONS ((size_t)12)

typedef struct bni_arrays {
    bni_span spans[9];
    size_t count;
} bni_arrays;

bool bni_any_overlap(const bni_region *regions, const unsigned *same, size_t count,
                     const bni_arrays *arrays);

#endif
