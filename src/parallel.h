/* How work is cut into tasks, and who runs them. */
#ifndef BNI_PARALLEL_H
#define BNI_PARALLEL_H

#include "batch.h"

/* The most chunks that a layer of so many features is ever cut into: what scratch must hold. */
size_t bni_most_chunks(size_t features);

/* Cuts the batch's units into chunks, by its shape alone: the same sums are then formed whatever
 * the number of threads. */
void bni_cut(bni_batch *batch);

typedef void (*bni_task)(void *context, size_t group, size_t chunk);

/* Runs the task for every group and chunk. The order, and which thread runs what, are open. */
void bni_run(const bni_batch *batch, int num_threads, bni_task task, void *context);

/* The same from the last chunk to the first: the data that bni_run came by last, which the caches
 * may still hold, is then met first. */
void bni_run_back(const bni_batch *batch, int num_threads, bni_task task, void *context);

#endif
