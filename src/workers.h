/*
 * A batch that several workers share: what they agree on beside their sums. All make the same
 * number of reductions in a call, of the same sizes, whatever happens: so nobody waits for ever,
 * and what one of them is at fault with, all learn before the first of them has changed anything.
 */
#ifndef BNI_WORKERS_H
#define BNI_WORKERS_H

#include "layer.h"

/* What a worker says of itself in each reduction; then what all of them said, added up. */
typedef struct bni_tally {
    double faults;   /* 1: it cannot go on */
    double unfit;    /* 1: it cannot, unless all shares are empty */
    double spoilt;   /* 1: what it had before is not finite, and so is what it would have */
    double occupied; /* 1: its share is not empty */
    double values;   /* the share's W */
} bni_tally;

#define BNI_TALLY (sizeof(bni_tally) / sizeof(double))

static inline bool bni_has_workers(const bn_layer *layer) {
    return layer != NULL && layer->internal.comm.allreduce_sum != NULL;
}

/* Of an array that is not there too. */
bool bni_all_finite(const float *values, size_t count);

/* Adds up so many values, behind which there is room for BNI_TALLY more, and the tally. Where the
 * reduction fails, the tally says so. */
void bni_add_up(const bn_layer *layer, double *values, size_t count, bni_tally *tally);

/* What the tally of all says: BN_STATUS_COMM_FAILED of a fault, BN_STATUS_TOO_FEW_VALUES where all
 * shares are empty, or W is too little for a variance. */
bn_status bni_judge(const bni_tally *all, bool needs_variance);

/* Takes part in all reductions of a call, with nothing but the fault; returns its status. */
bn_status bni_withdraw(const bn_layer *layer, size_t reductions, size_t count, bn_status status);

#endif
