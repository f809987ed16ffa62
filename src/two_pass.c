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

static size_t whole_lines_of(size_t doubles) {
    const size_t line = BNI_LINE / sizeof(double);
    return bni_divide_up(doubles, line) * line;
}

/* A chunk's two arrays and its count, in cache lines of their own. */
static size_t slot_doubles(size_t features) {
    return whole_lines_of(2 * features + 1);
}

/* One thread adds up a chunk before it makes the next. Else all are kept until they are added in their
 * order. For more features than a panel has, bni_most_chunks(D) is at most one more than
 * BNI_TASKS * BNI_PANEL / D. */
size_t bni_two_pass_scratch(size_t most_features, int num_threads) {
    if (num_threads == 1) {
        return whole_lines_of(2 * most_features + BNI_MORE);
    }
    const size_t narrow = BNI_TASKS * slot_doubles(bni_smaller(most_features, BNI_PANEL));
    return most_features <= BNI_PANEL ? narrow : narrow + slot_doubles(most_features);
}

static bni_part part_in(const driver *d, size_t slot) {
    const size_t features = d->cut->shape->features;
    double *one = d->space.chunks + slot * slot_doubles(features);
    return (bni_part){0.0, one, one + features};
}

/* The same for all groups of the chunk: one thread may touch it, until all are done. */
static double *count_in(const driver *d, size_t slot) {
    return part_in(d, slot).one + 2 * d->cut->shape->features;
}

static void sum_into(const driver *d, bni_task task, size_t slot) {
    bni_part part = bni_part_from(part_in(d, slot), bni_group_first(d->cut, task.group));
    d->passes->sum(d->work, task, &part);
    if (task.group == 0) {
        *count_in(d, slot) = part.count;
    }
}

static void sum_worker(void *context, bni_tasks *tasks) {
    bni_task task;
    while (bni_next_task(tasks, &task)) {
        sum_into(context, task, task.chunk);
    }
}

static void merge_from(const driver *d, size_t slot, bni_part *all) {
    bni_part part = part_in(d, slot);
    part.count = *count_in(d, slot);
    d->passes->merge(d->work, all, &part);
}

bni_part bni_sum_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                      bni_space space) {
    driver d = {.passes = passes, .work = work, .cut = cut, .space = space};
    const bool alone = num_threads == 1;
    bni_part all = {0.0, space.one, space.two};
    memset(all.one, 0, cut->shape->features * sizeof *all.one);
    memset(all.two, 0, cut->shape->features * sizeof *all.two);
    if (!alone) {
        bni_run(cut, num_threads, BNI_BY_CHUNK, sum_worker, &d);
    }
    for (size_t chunk = 0; chunk < cut->chunks; chunk++) {
        for (size_t group = 0; alone && group < cut->groups; group++) {
            sum_into(&d, (bni_task){group, chunk}, 0);
        }
        merge_from(&d, alone ? 0 : chunk, &all);
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
    if (cut->shape->n == 0) {
        return;
    }
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

bn_status bni_two_pass(const bni_passes *passes, void *work, const bni_cut *cut, int num_threads,
                       bni_space space) {
    if (cut->chunks == 1 && passes->reduce == NULL) {
        driver d = {.passes = passes, .work = work, .cut = cut, .space = space, .finite = true};
        bni_run(cut, num_threads, BNI_BY_CHUNK, whole_worker, &d);
        return d.finite ? BN_STATUS_OK : BN_STATUS_NOT_FINITE;
    }
    const bni_part sums = bni_sum_pass(passes, work, cut, num_threads, space);
    if (passes->reduce != NULL) {
        const bn_status status = passes->reduce(work, sums);
        if (status != BN_STATUS_OK) {
            return status;
        }
    }
    const bool finite = passes->finish(work, sums, 0, cut->shape->features);
    bni_write_pass(passes, work, cut, num_threads, BNI_BY_CHUNK_BACK);
    return finite ? BN_STATUS_OK : BN_STATUS_NOT_FINITE;
}
