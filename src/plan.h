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
 *     BNI_PLANES  N x C x S with planes, each by itself, with one value of each coefficient and sum:
 *                 large ones, and those of few samples. A unit is a sample.
 */
#ifndef BNI_PLAN_H
#define BNI_PLAN_H

#include "shape.h"
#include "tuning.h"

/* The most features of a group where all that is known of it has to be on the stack. */
#define BNI_NARROW ((size_t)256)

typedef enum bni_layout { BNI_ROWS, BNI_FOLDED, BNI_PLANES } bni_layout;

/* How a batch is cut into tasks: groups of features, and chunks of units. */
typedef struct bni_cut {
    const bni_shape *shape;
    const bni_tuning *tuning;
    bool streams; /* outputs are so large that they are written past the caches */
    bool linear;  /* tasks and their sheets are in the order of the memory */
    bni_layout layout;
    size_t outer, inner;
    size_t group_features; /* of every group but perhaps the last */
    size_t panel_cols;     /* of BNI_ROWS: the columns that decide how many rows a sheet has */
    size_t groups, units;
    size_t chunks, chunk_units; /* units of every chunk but perhaps the last */
} bni_cut;

typedef struct bni_task {
    size_t group, chunk;
} bni_task;

/* What is written by the sums. */
typedef enum bni_output { BNI_Y, BNI_DX } bni_output;

/* How sums are formed. It depends on the shape alone, so that they are the same on every machine
 * and by any number of threads; only whether the output is streamed is a matter of tuning. An
 * empty batch has no tasks, and must not be cut further. */
bni_cut bni_cut_sums(const bni_shape *shape, const bni_tuning *tuning, bni_output output);

/* The most chunks that sums of so many features are ever cut into: what scratch must hold. */
size_t bni_most_chunks(size_t features);

/* How a pass that only writes goes through a batch, task by task in the order of the memory, as
 * nothing has to be kept of a group: by whole rows of N x D, or by parts of them of at most so many
 * features; sample by sample where planes are large. */
bni_cut bni_cut_writes(const bni_cut *sums, size_t most_features);

/* The same sums in groups of at most BNI_NARROW features, formed in the same order: sheets and
 * chunks have the rows that they had. */
bni_cut bni_cut_narrow(const bni_cut *sums);

static inline size_t bni_group_first(const bni_cut *cut, size_t group) {
    return group * cut->group_features;
}

/* How many features a group has. */
size_t bni_group_size(const bni_cut *cut, size_t group);

/* What a pass does to the data: the sheets that suit it differ. */
typedef enum bni_pass {
    BNI_READS,  /* forms sums */
    BNI_WRITES, /* writes a tensor */
    BNI_FOLLOWS /* writes a tensor, after the sums of the same task: L2 holds the inputs */
} bni_pass;

/* A walk over the sheets of a task: those of one group in one chunk of units. */
typedef struct bni_walk {
    const bni_cut *cut;
    bni_buffers data; /* of the whole batch */
    bni_hints hints;  /* of every sheet, unless it has its own */
    bni_pass pass;
    size_t group;
    size_t begin, unit, end; /* first, present and behind the last: units of the chunk */
    size_t done;             /* elements of the present run of elements */
    size_t depth;            /* of all sheets before (bni_depth) */
} bni_walk;

bni_walk bni_walk_begin(const bni_cut *cut, const bni_buffers *data, bni_pass pass, bni_task task);

/* Writes the next sheet and returns true, or returns false at the end. */
bool bni_walk_next(bni_walk *walk, bni_sheet *sheet);

/* Repeats a value a feature into a value a column. Returns the columns, or the values themselves
 * where they are the same. The values may stand at the columns' beginning. */
const float *bni_expand(const bni_cut *cut, size_t features, const float *values,
                        float columns[BNI_PANEL]);

#endif
