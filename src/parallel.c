/* See parallel.h. */
#include "parallel.h"

/* Tasks that a batch is cut into at most. A multiple of common core counts, and few enough that
 * merging their sums costs little beside forming them. */
#define MOST_TASKS ((size_t)32)

/* A task has at least so many elements, 256 KiB: some 20 microseconds of work, well above what
 * handing it to another thread costs. */
#define TASK_ELEMENTS ((size_t)65536)

/* Chunks are whole blocks of rows where there are enough of them. */
#define CHUNK_STEP ((size_t)16)

static size_t divide_up(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

/* Groups of an N x D batch are the largest, so no other shape has fewer groups and more chunks. */
size_t bni_most_chunks(size_t features) {
    return divide_up(MOST_TASKS, divide_up(features, BNI_PANEL));
}

void bni_cut(bni_batch *batch) {
    const double elements = (double)batch->n * (double)batch->features * (double)batch->spatial;
    const double by_size = elements / (double)TASK_ELEMENTS;
    const size_t tasks = by_size < (double)MOST_TASKS ? (size_t)by_size : MOST_TASKS;
    const size_t chunks = tasks <= batch->groups ? 1 : divide_up(tasks, batch->groups);
    size_t units = divide_up(batch->units, chunks);
    if (batch->layout != BNI_PLANES) {
        units = divide_up(units, CHUNK_STEP) * CHUNK_STEP;
    }
    batch->chunk_units = units;
    batch->chunks = divide_up(batch->units, units);
}

void bni_run(const bni_batch *batch, int num_threads, bni_task task, void *context) {
    (void)num_threads;
    for (size_t chunk = 0; chunk < batch->chunks; chunk++) {
        for (size_t group = 0; group < batch->groups; group++) {
            task(context, group, chunk);
        }
    }
}
