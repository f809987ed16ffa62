/* What decides how fast a batch is gone through, and never a bit of a result: a layer has a pointer
 * to it, so that tests can have small batches take the ways of large ones. */
#ifndef BNI_TUNING_H
#define BNI_TUNING_H

typedef struct bni_tuning {
    double
        stream_from;   /* elements from which on outputs are written past the caches: beside as much
                           input they would leave them before anyone reads them, and take the input
                           with them */
    double fetch_from; /* from which on what comes next is fetched meanwhile: smaller batches are in
                           L2 already */
    double share_from; /* from which on threads share a batch */
} bni_tuning;

/* 32 MiB, 512 KiB and 1 MiB. */
static const bni_tuning bni_tuning_default = {
    .stream_from = 8388608.0, .fetch_from = 131072.0, .share_from = 262144.0};

#endif
