/* How work is cut into tasks, and who runs them. */
#ifndef BNI_PARALLEL_H
#define BNI_PARALLEL_H

#include "batch.h"

#include <stdatomic.h>

/* A batch of few groups is cut into chunks until it has about so many tasks: a multiple of common
 * core counts, and few enough that merging their sums costs little beside forming them. */
#define BNI_TASKS ((size_t)32)

/* The most chunks that a layer of so many features is ever cut into: what scratch must hold. */
size_t bni_most_chunks(size_t features);

/* Cuts the batch's units into chunks, by its shape alone: the same sums are then formed whatever
 * the number of threads. */
void bni_cut(bni_batch *batch);

/* In which order tasks are taken. Chunk by chunk, and in it group by group, is the order of the
 * memory; from the last to the first, what a run before it came by last, and the caches may still
 * hold, is met first; group by group, what is made once for a group serves all its chunks. */
typedef enum bni_order { BNI_BY_CHUNK, BNI_BY_CHUNK_BACK, BNI_BY_GROUP } bni_order;

typedef struct bni_task {
    size_t group, chunk;
} bni_task;

/* The tasks that are left, as one thread sees them. */
typedef struct bni_tasks bni_tasks;

/* Writes the next task and returns true, or returns false when all are taken. */
bool bni_next_task(bni_tasks *tasks, bni_task *task);

typedef void (*bni_worker)(void *context, bni_tasks *tasks);

/* Calls worker once in each of some threads; together they take all tasks, one for each group and
 * chunk. A thread gets neighbouring tasks, the same ones in every run over as many tasks by as many
 * threads: its caches hold what it worked on before. Only when it is through with its own does it
 * take those of others. What they stream is published. */
void bni_run(const bni_batch *batch, int num_threads, bni_order order, bni_worker worker,
             void *context);

/* What this thread has streamed past the caches, other threads see before what it writes next. */
static inline void bni_publish(const bni_batch *batch) {
    if (batch->streams) {
        /* On x86-64 a locked instruction or an mfence: both wait for streamed stores too. */
        atomic_thread_fence(memory_order_seq_cst);
    }
}

#endif
