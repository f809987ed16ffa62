/*
 * How a batch becomes sheets, the rows of columns that kernels work on (kernels/kernels.h).
 *
 * The features are cut into groups, the samples into units. A group has columns, a whole number of
 * them a feature: column (o * features + f) * inner + i belongs to the group's feature f, for all
 * o < outer and i < inner. The layout says what is where:
 *
 *     BNI_ROWS    N x D with wide rows, or N x C x S with small planes. A unit is a sample, and has
 *                 one row: a panel of features (inner = 1) or of whole planes (inner = S).
 *     BNI_FOLDED  dense N x D with narrow rows. A unit is `outer` samples side by side, so that
 *                 vectors are full, or, of the largest batches, rows as wide as a panel; the last
 *                 unit may have fewer. There is one group.
 *     BNI_PLANES  N x C x S with large planes. A unit is a sample; each plane of the group is cut
 *                 into rows, which use the feature's own BNI_PLANE_WIDTH columns, or half of them.
 */
#ifndef BNI_SHEETS_H
#define BNI_SHEETS_H

#include "batch.h"
#include "threads.h"

/* No sheet has more rows. */
#define BNI_SHEET_ROWS ((size_t)256)

/* Chooses the layout, groups, units and chunks of a batch, and whether it streams. Dense: neither x
 * nor y has gaps between rows. All but streaming depends on the shape alone: the same sums are then
 * formed on every machine and by any number of threads. */
void bni_lay_out(bni_batch *batch, bool dense);

/* The most chunks that a layer of so many features is ever cut into: what scratch must hold. */
size_t bni_most_chunks(size_t features);

/* The same batch as a pass that only writes goes through it, task by task in the order of the
 * memory, as nothing has to be kept of a group: by whole rows of N x D, or by parts of them of at
 * most so many features; sample by sample where planes are large. */
bni_batch bni_widened(const bni_batch *batch, size_t most_features);

/* The same batch in groups of at most BNI_NARROW features. Their sums are formed in the same order:
 * sheets and chunks have the rows that they had. */
bni_batch bni_narrowed(const bni_batch *batch);

static inline size_t bni_group_first(const bni_batch *batch, size_t group) {
    return group * batch->group_features;
}

/* How many features a group has. */
size_t bni_group_size(const bni_batch *batch, size_t group);

/* What a pass does to the data: the sheets that suit it differ. */
typedef enum bni_pass {
    BNI_READS,  /* forms sums */
    BNI_WRITES, /* writes a tensor */
    BNI_FOLLOWS /* writes a tensor, after the sums of the same task: L2 holds the inputs */
} bni_pass;

/* A walk over the sheets of a task: those of one group in one chunk of units. */
typedef struct bni_walk {
    const bni_batch *batch;
    bni_sheet data; /* where the whole batch's buffers begin */
    bni_pass pass;
    size_t plane_cols; /* of the rows that planes are cut into */
    size_t group;
    size_t begin, unit, end; /* first, present and behind the last: units of the chunk */
    size_t done;             /* elements of the present run */
} bni_walk;

bni_walk bni_walk_begin(const bni_batch *batch, const bn_kernels *kernels, const bni_sheet *data,
                        bni_pass pass, bni_task task);

/* Writes the next sheet and returns true, or returns false at the end. */
bool bni_walk_next(bni_walk *walk, bni_sheet *sheet);

/* Repeats a value a feature into a value a column. Returns the columns, or the values themselves
 * where they are the same. */
const float *bni_expand(const bni_batch *batch, size_t features, const float *values,
                        float columns[BNI_PANEL]);

#endif
