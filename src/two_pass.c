/* See two_pass.h. */
#include "two_pass.h"

#include <stdatomic.h>
#include <string.h>

typedef struct driver {
    const bni_passes *passes;
    void *work;
    const bni_cut *cut;
    bni_space space;
    atomic_bool finite;
} driver;

/* Behind the chunks' arrays are their counts. */
static double *chunk_counts(const driver *d) {
    const size_t features = d->cut->shape->features;
    return d->space.chunks + bni_most_chunks(features) * 2 * bni_padded(features);
}

static bni_part chunk_part(const driver *d, size_t chunk) {
    const size_t padded = bni_padded(d->cut->shape->features);
    double *one = d->space.chunks + 2 * chunk * padded;
    return (bni_part){0.0, one, one + padded};
}

size_t bni_two_pass_scratch(size_t features) {
    return bni_most_chunks(features) * (2 * bni_padded(features) + 1);
}

static void sum_worker(void *context, bni_tasks *tasks) {
    const driver *d = context;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        bni_part part =
            bni_part_from(chunk_part(d, task.chunk), bni_group_first(d->cut, task.group));
        d->passes->sum(d->work, task, &part);
        if (task.group == 0) { /* the same for all groups; one may write it */
            chunk_counts(d)[task.chunk] = part.count;
        }
    }
}

bni_part bni_sum_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                      bni_space space) {
    driver d = {.passes = passes, .work = work, .cut = cut, .space = space};
    bni_part all = {0.0, space.one, space.two};
    bni_run(cut, num_threads, BNI_BY_CHUNK, sum_worker, &d);
    memset(all.one, 0, cut->shape->features * sizeof *all.one);
    memset(all.two, 0, cut->shape->features * sizeof *all.two);
    for (size_t chunk = 0; chunk < cut->chunks; chunk++) {
        bni_part part = chunk_part(&d, chunk);
        part.count = chunk_counts(&d)[chunk];
        passes->merge(work, &all, &part);
    }
    return all;
}

static void write_worker(void *context, bni_tasks *tasks) {
    const driver *d = context;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        d->passes->write(d->work, d->cut, BNI_WRITES, task);
    }
}

void bni_write_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                    bni_order order) {
    const bni_cut wide = bni_cut_writes(cut, cut->shape->features);
    driver d = {.passes = passes, .work = work, .cut = &wide};
    bni_run(&wide, num_threads, order, write_worker, &d);
}

static void whole_worker(void *context, bni_tasks *tasks) {
    driver *d = context;
    const bni_cut *cut = d->cut;
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        const size_t first = bni_group_first(cut, task.group);
        bni_part sums = {0.0, d->space.one + first, d->space.two + first};
        d->passes->sum(d->work, task, &sums);
        if (!d->passes->finish(d->work, sums, first, bni_group_size(cut, task.group))) {
            atomic_store(&d->finite, false);
        }
        d->passes->write(d->work, cut, BNI_FOLLOWS, task);
    }
}

bool bni_two_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                  bni_space space) {
    if (cut->chunks == 1) {
        driver d = {.passes = passes, .work = work, .cut = cut, .space = space, .finite = true};
        bni_run(cut, num_threads, BNI_BY_CHUNK, whole_worker, &d);
        return d.finite;
    }
    const bni_part sums = bni_sum_pass(passes, work, cut, num_threads, space);
    const bool finite = passes->finish(work, sums, 0, cut->shape->features);
    bni_write_pass(passes, work, cut, num_threads, BNI_BY_CHUNK_BACK);
    return finite;
}
