/* See parallel.h. */
#include "parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* A batch of few groups is cut into chunks until it has about so many tasks: a multiple of common
 * core counts, and few enough that merging their sums costs little beside forming them. */
#define MOST_TASKS ((size_t)32)

/* But not into tasks of fewer elements, 512 KiB: some 20 microseconds of work, well above what
 * handing it to another thread and merging its sums cost. */
#define TASK_ELEMENTS ((size_t)131072)

/* However many threads are asked for: OpenMP's runtime ends the process where it cannot
 * start one. */
#define MOST_THREADS ((size_t)256)

/* Below this a batch stays on the caller's thread. */
#define ALONE_ELEMENTS 262144.0

/* With so many groups there is work enough for threads without cutting any group into chunks, and a
 * group that is whole is read from memory once. */
#define WHOLE_GROUPS ((size_t)8)

/* Chunks of rows are multiples of so many, so that few sheets are short. */
#define CHUNK_STEP ((size_t)16)

/* Groups of an N x D batch are the largest, so no other shape has fewer groups and more chunks. */
size_t bni_most_chunks(size_t features) {
    return bni_divide_up(MOST_TASKS, bni_divide_up(features, BNI_PANEL));
}

void bni_cut(bni_batch *batch) {
    const double by_size = batch->elements / (double)TASK_ELEMENTS;
    const size_t tasks = by_size < (double)MOST_TASKS ? (size_t)by_size : MOST_TASKS;
    const bool whole = batch->groups >= WHOLE_GROUPS || tasks <= batch->groups;
    const size_t chunks = whole ? 1 : bni_divide_up(tasks, batch->groups);
    size_t units = bni_divide_up(batch->units, chunks);
    if (batch->layout != BNI_PLANES) {
        units = bni_divide_up(units, CHUNK_STEP) * CHUNK_STEP;
    }
    batch->chunk_units = units;
    batch->chunks = bni_divide_up(batch->units, units);
}

/* How many threads share the batch's tasks. */
static int threads_for(const bni_batch *batch, int num_threads) {
#ifdef _OPENMP
    if (num_threads == 1 || batch->groups * batch->chunks == 1 ||
        batch->elements < ALONE_ELEMENTS) {
        return 1;
    }
    const int wanted = num_threads == 0 ? omp_get_max_threads() : num_threads;
    const size_t useful = bni_smaller(batch->groups * batch->chunks, MOST_THREADS);
    return (size_t)wanted < useful ? wanted : (int)useful;
#else
    (void)batch;
    (void)num_threads;
    return 1;
#endif
}

/* Runs task i of their order: chunk by chunk, and in it group by group, or from the last to the
 * first. */
static void run_one(const bni_batch *batch, size_t i, bool back, bni_task task, void *context) {
    const size_t t = back ? batch->groups * batch->chunks - 1 - i : i;
    task(context, t % batch->groups, t / batch->groups);
}

/* Threads take the tasks one by one. */
static void run(const bni_batch *batch, int num_threads, bool back, bni_task task, void *context) {
    const size_t tasks = batch->groups * batch->chunks;
    const int threads = threads_for(batch, num_threads);
    if (threads == 1) {
        for (size_t i = 0; i < tasks; i++) {
            run_one(batch, i, back, task, context);
        }
        return;
    }
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (size_t i = 0; i < tasks; i++) {
        run_one(batch, i, back, task, context);
    }
#endif
}

void bni_run(const bni_batch *batch, int num_threads, bni_task task, void *context) {
    run(batch, num_threads, false, task, context);
}

void bni_run_back(const bni_batch *batch, int num_threads, bni_task task, void *context) {
    run(batch, num_threads, true, task, context);
}
