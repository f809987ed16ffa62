/*
 * The constants that were found by measuring (tests/bench/README.md), in two parts: what decides the
 * order of sums, and so bits, which is the same on every machine and for ever; and what only decides
 * speed, which suits a processor, and machine.c has a row of for each. plan.c alone reads either, and threads.c
 * share_from.
 */
#ifndef BNI_TUNING_H
#define BNI_TUNING_H

#include "kernels/kernels.h" /* BNI_PANEL and BNI_RUN decide bits too */

/* ---- What decides bits ----------------------------------------------------------------------
 *
 * Elements are of any type, so that halves are added up as the floats that they are; bytes are those of
 * floats. */

/* Elements and rows of a sheet at the most: 64 KiB, what is asked of a kernel at once. */
#define BNI_SHEET_ELEMENTS ((size_t)16384)
#define BNI_SHEET_ROWS     ((size_t)256)

/* Rows of the first sheet that sums are formed of. Half of them are gone through twice, as they give
 * the first pivot; the fewer they are, the more often moments are merged. */
#define BNI_FIRST_ROWS ((size_t)32)

/* Planes at least this large are gone through one by one, smaller ones only of few samples
 * (BNI_FEW_SAMPLES): a column's sum and coefficients are made for all samples at once, and a plane costs
 * something by itself in each. */
#define BNI_PLANE_MIN ((size_t)256)

/* Planes of a group are together at least so many elements, 6 KiB. Each group begins with a
 * jump in memory, but the processor's prefetcher then runs some KiB ahead into planes that the next
 * group soon needs; and the less a group has, the more of it is still in L1 and L2 for the second
 * pass. */
#define BNI_PLANE_RUN ((size_t)1536)

/* But a group of several has no more than 512 KiB of each tensor, so that L2 holds x and dy of
 * backward's first pass for the second. Small planes are not cut so: the second pass would gain less
 * than the jumps cost. */
#define BNI_PLANE_GROUP ((size_t)131072)

/* Few samples, and how large planes then have to be: from 8 positions on for one sample, and 4 more
 * for each other, as the more samples share an expansion the less it costs. */
#define BNI_FEW_SAMPLES ((size_t)8)
#define BNI_FEW_FIRST   ((size_t)8)
#define BNI_FEW_MORE    ((size_t)4)

/* Rows narrower than this are folded: at 256 columns the part vector at a row's end costs at most
 * 1 of 17. */
#define BNI_FOLD_BELOW ((size_t)256)

/* If they can, they become multiples of so many columns: whole tiles of all kernels. */
#define BNI_FOLD_WIDTH ((size_t)64)

/* And only so that enough rows remain: what is done for each column, before and after the sums, is
 * done for all samples of a row. For tiles' sake at least so many rows; for that of whole vectors, as
 * part vectors cost more, so many less than there are columns. */
#define BNI_FOLD_ROWS    ((size_t)64)
#define BNI_FOLD_COLUMNS ((size_t)16)

/* From so many elements on, 64 MiB, tensors come from memory, and narrow rows are folded into rows as
 * wide as a panel: tiles then go through as many pages as the processor follows. From 32 MiB on where
 * that leaves fewer rows that share a line with the next. */
#define BNI_FAR_ELEMENTS   16777216.0
#define BNI_ASKEW_ELEMENTS 8388608.0

/* A batch of few groups is cut into chunks until it has about so many tasks: a multiple of common
 * core counts, and few enough that merging their sums costs little beside forming them. */
#define BNI_TASKS ((size_t)32)

/* It is not cut into tasks of fewer elements, 512 KiB, which are well above what handing one to
 * another thread and merging its sums cost. */
#define BNI_TASK_ELEMENTS ((size_t)131072)

/* With so many groups there is work enough for threads without cutting any group into chunks, and a
 * group that is whole is read from memory once. */
#define BNI_WHOLE_GROUPS ((size_t)8)

/* Chunks of rows are multiples of so many, so that few sheets are short. */
#define BNI_CHUNK_STEP ((size_t)16)

/* ---- What only decides speed ---------------------------------------------------------------- */

/* A layer has a pointer to it, so that tests can have small batches take the ways of large ones.
 * Sizes are in elements, of any type: half types go through twice as many in the same bytes, but not in
 * the same time (tests/bench/README.md). */
typedef struct bni_tuning {
    double stream_from; /* from here on y is written past the caches: beside as much input it would
                           leave them before anyone reads it, and take the input with it */
    double stream_dx_from; /* the same of dx, beside two inputs */
    double fetch_from; /* what sums come to next is fetched meanwhile: smaller batches are in L2 */
    double fetch_two_from; /* the same of two tensors, where no planes lie side by side: a processor
                              may follow them better by itself than one */
    double fetch_rows_from, fetch_two_rows_from; /* both of rows, not planes */
    double share_from;                           /* threads share a batch */
    size_t
        sums_ahead; /* where sums are formed, what is so far ahead is fetched, or the next sheet */

    /* Passes that write go through memory in long runs, which processors follow by themselves, but
     * not far enough where few lines are in a core's window at once beside the coefficients: */
    size_t inputs_ahead; /* of inputs, while outputs are streamed */
    bool past_l2;        /* what is fetched is not kept in L2 */
    size_t parts_ahead;  /* of lines that rows or planes share in a streamed output */
    size_t output_ahead; /* of an output behind the sums of the same task: L2 holds the inputs */

    /* A kernel goes down a tile's columns through the rows of a band before it turns to the next
     * tile. A band that is written has so many elements, but no more than 2 rows that begin at the
     * same place in a page: those share their sets in an 8-way L1. */
    size_t write_elements;
    size_t
        stream_rows; /* of a band that is streamed: a core's write buffers are few, and a line that
                           leaves one before it is full costs twice */
    size_t far_rows; /* the same from far_from elements on, as memory follows one row best */
    double far_from;
    size_t planes_from; /* planes of so many elements are written one by one, where no sums were */
} bni_tuning;

/* As an initializer, so that it can stand in a table. */
#define BNI_TUNING_DEFAULT                                                                         \
    {                                                                                              \
        .stream_from = 8388608.0, .stream_dx_from = 8388608.0, .fetch_from = 131072.0,             \
        .fetch_two_from = 131072.0, .fetch_rows_from = 5242880.0,                                  \
        .fetch_two_rows_from = 5242880.0, .share_from = 262144.0, .sums_ahead = 16384,             \
        .inputs_ahead = 2048, .past_l2 = false, .parts_ahead = 4096, .output_ahead = 256,          \
        .write_elements = 8192, .stream_rows = 2, .far_rows = 2, .far_from = 8388608.0,            \
        .planes_from = 256                                                                         \
    }

#endif
