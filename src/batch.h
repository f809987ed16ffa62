/*
 * A bn_batch made canonical: defaults filled in, sizes and weights checked, the shape folded into
 * sheets (kernels/kernels.h).
 *
 * The features are cut into groups, the samples into units. A group's data in one unit is rows of
 * columns in which column (o * group_features + f) * inner + i belongs to feature f:
 *
 *     BNI_ROWS    N x D with wide rows, or N x C x S with small planes. A unit is a sample, and has
 *                 one row: a panel of features (inner = 1) or of whole planes (inner = S).
 *     BNI_FOLDED  dense N x D with narrow rows. A unit is `outer` samples side by side, so that
 *                 vectors are full; the last unit may have fewer.
 *     BNI_PLANES  N x C x S with large planes. A group is one feature, a unit a sample, whose plane
 *                 is cut into rows of BNI_PLANE_WIDTH columns and a shorter last one.
 */
#ifndef BNI_BATCH_H
#define BNI_BATCH_H

#include "batchnorm/bn_layer.h"
#include "kernels/kernels.h"

typedef enum bni_layout { BNI_ROWS, BNI_FOLDED, BNI_PLANES } bni_layout;

typedef struct bni_batch {
    size_t n, features, spatial; /* spatial is at least 1 */
    size_t x_stride, y_stride;
    const float *weight; /* NULL: all 1 */
    double elements;     /* of x */
    double values;       /* W: the sum of the weights, times the positions */

    bni_layout layout;
    size_t outer, inner;
    size_t group_features; /* of every group but perhaps the last */
    size_t groups, units;
    size_t chunks, chunk_units; /* how units are cut into tasks: parallel.h */
} bni_batch;

/* Whether a shape is looked at with both strides, or x alone (bn_moments_add). */
typedef enum bni_strides { BNI_STRIDES_BOTH, BNI_STRIDES_X } bni_strides;

/* Returns BN_STATUS_OK, BN_STATUS_BAD_OPTION, BN_STATUS_UNSUPPORTED or BN_STATUS_BAD_SHAPE as
 * bn_layer_forward_batch says. n = 0 is a good batch with no units. */
bn_status bni_batch_make(bni_batch *batch, const bn_batch *from, size_t features,
                         bni_strides strides);

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

/* ---- Sheets ---- */

/* No sheet has more rows. */
#define BNI_SHEET_ROWS ((size_t)256)

static inline size_t bni_group_first(const bni_batch *batch, size_t group) {
    return group * batch->group_features;
}

/* How many features a group has. */
size_t bni_group_size(const bni_batch *batch, size_t group);

/* What a pass does to the data: the sheets that suit it differ. */
typedef enum bni_pass { BNI_READS, BNI_WRITES } bni_pass;

/* A walk over the sheets of one group in units [unit, end). */
typedef struct bni_walk {
    const bni_batch *batch;
    bni_sheet data; /* where the whole batch's buffers begin */
    bni_pass pass;
    size_t group, unit, end;
    size_t done; /* elements of the present run */
} bni_walk;

bni_walk bni_walk_begin(const bni_batch *batch, const bni_sheet *data, bni_pass pass, size_t group,
                        size_t chunk);

/* Writes the next sheet and returns true, or returns false at the end. */
bool bni_walk_next(bni_walk *walk, bni_sheet *sheet);

/* Repeats a value a feature into a value a column. Returns the columns, or the values themselves
 * where they are the same: they must then be readable up to a multiple of BNI_PAD. */
const float *bni_expand(const bni_batch *batch, size_t features, const float *values,
                        float columns[BNI_PANEL]);

#endif
