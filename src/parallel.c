/* See parallel.h. */
#include "parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* A batch is not cut into tasks of fewer elements, 512 KiB: some 20 microseconds of work, well
 * above what handing it to another thread and merging its sums cost. */
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
    return bni_divide_up(BNI_TASKS, bni_divide_up(features, BNI_PANEL));
}

void bni_cut(bni_batch *batch) {
    const double by_size = batch->elements / (double)TASK_ELEMENTS;
    const size_t tasks = by_size < (double)BNI_TASKS ? (size_t)by_size : BNI_TASKS;
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

/* One thread's part of the tasks, on a cache line of its own: others look into it only when they
 * are through with theirs. */
typedef struct share {
    _Alignas(64) atomic_size_t next;
    size_t begin, end;
} share;

struct bni_tasks {
    const bni_batch *batch;
    bni_order order;
    share *shares;
    size_t threads, own; /* how many, and which of them this one is */
    size_t done;         /* shares that are known to be empty, from its own on */
};

static share share_of(size_t tasks, size_t thread, size_t threads) {
    const size_t begin = tasks * thread / threads;
    return (share){.next = begin, .begin = begin, .end = tasks * (thread + 1) / threads};
}

/* The next number of a share; at or beyond its end: there is none. */
static size_t take(share *from, bool alone) {
    if (alone) { /* an atomic addition costs 6 ns, a hundredth of the smallest batch */
        const size_t next = atomic_load_explicit(&from->next, memory_order_relaxed);
        atomic_store_explicit(&from->next, next + 1, memory_order_relaxed);
        return next;
    }
    return atomic_fetch_add_explicit(&from->next, 1, memory_order_relaxed);
}

bool bni_next_task(bni_tasks *tasks, bni_task *task) {
    const bni_batch *batch = tasks->batch;
    for (; tasks->done < tasks->threads; tasks->done++) {
        share *from = &tasks->shares[(tasks->own + tasks->done) % tasks->threads];
        const size_t next = take(from, tasks->threads == 1);
        if (next < from->end) {
            const size_t i =
                tasks->order == BNI_BY_CHUNK_BACK ? from->begin + (from->end - 1 - next) : next;
            *task = tasks->order == BNI_BY_GROUP ? (bni_task){i / batch->chunks, i % batch->chunks}
                                                 : (bni_task){i % batch->groups, i / batch->groups};
            return true;
        }
    }
    return false;
}

void bni_run(const bni_batch *batch, int num_threads, bni_order order, bni_worker worker,
             void *context) {
    const size_t count = batch->groups * batch->chunks;
    const size_t threads = (size_t)threads_for(batch, num_threads);
    if (threads == 1) {
        share all = share_of(count, 0, 1);
        worker(context, &(bni_tasks){batch, order, &all, 1, 0, 0});
        bni_publish(batch);
        return;
    }
#ifdef _OPENMP
    share shares[MOST_THREADS];
    for (size_t t = 0; t < threads; t++) {
        shares[t] = share_of(count, t, threads);
    }
#pragma omp parallel num_threads((int)threads)
    {
        const size_t own = (size_t)omp_get_thread_num();
        worker(context, &(bni_tasks){batch, order, shares, threads, own, 0});
        bni_publish(batch);
    }
#endif
}
