/*
 * The one driver of forward and backward: sums are formed of all data, merged and finished, and
 * then a tensor is written by what they gave. Where a group of features is whole, in one chunk,
 * all of it is done while the caches still hold its data.
 */
#ifndef BNI_TWO_PASS_H
#define BNI_TWO_PASS_H

#include "threads.h"

/* Two sums a feature, and how much went into each. */
typedef struct bni_part {
    double count;
    double *one, *two;
} bni_part;

static inline bni_part bni_part_from(bni_part part, size_t first) {
    return (bni_part){part.count, part.one + first, part.two + first};
}

/* The steps. They get the work that the driver was given. Of different groups or chunks they run at
 * the same time, but for merge. */
typedef struct bni_passes {
    void (*sum)(void *work, bni_task task, bni_part *part); /* features from the group's first on */
    void (*merge)(void *work, bni_part *into,
                  const bni_part *part); /* of all features; into is 0 at
                                                                        first */
    /* Over all workers, once all is merged; not BN_STATUS_OK: all ends here. NULL: there is one
     * worker. */
    bn_status (*reduce)(void *work, bni_part sums);
    bool (*finish)(void *work, bni_part sums, size_t first,
                   size_t features); /* from first on; false of NaN and Inf */
    void (*write)(void *work, const bni_cut *cut, bni_pass pass, bni_task task);
} bni_passes;

/* Where sums are formed: two arrays a feature, and bni_two_pass_scratch doubles for chunks. */
typedef struct bni_space {
    double *one, *two, *chunks;
} bni_space;

/* Enough for all batches of at most so many features, worked on by at most so many threads (0: as
 * many as there are); and for two values a feature and BNI_MORE others, once chunks are merged. */
#define BNI_MORE ((size_t)5)
size_t bni_two_pass_scratch(size_t most_features, int num_threads);

/* All steps. BN_STATUS_NOT_FINITE where one finish was false. */
bn_status bni_two_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                       bni_space space);

/* The sums alone: returns those of the whole batch, which are in space. */
bni_part bni_sum_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                      bni_space space);

/* The writing alone, whole rows or samples at a time; of an empty batch nothing. */
void bni_write_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                    bni_order order);

#endif
