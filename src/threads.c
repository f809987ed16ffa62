/* See threads.h. */
#include "threads.h"
#include "team.h"

#include <stdatomic.h>

/* How many threads share the batch's tasks. */
static size_t threads_for(const bni_cut *cut, int num_threads) {
    const size_t tasks = cut->groups * cut->chunks;
    if (num_threads == 1 || tasks == 1 || cut->shape->elements < cut->tuning->share_from) {
        return 1;
    }
    const size_t wanted = num_threads == 0 ? bni_team_default() : (size_t)num_threads;
    return bni_smaller(wanted, bni_smaller(tasks, BNI_MOST_THREADS));
}

/* What this thread has streamed past the caches, other threads see before what it writes next. */
static void publish(const bni_cut *cut) {
    if (cut->streams) {
        /* On x86-64 a locked instruction or an mfence: both wait for streamed stores too. */
        atomic_thread_fence(memory_order_seq_cst);
    }
}

/* ---- Tasks in any order --------------------------------------------------------------------- */

typedef struct run {
    const bni_cut *cut;
    bni_order order;
    bni_worker worker;
    void *context;
    size_t tasks, threads;
    atomic_size_t *taken; /* of each thread's share of the tasks */
} run;

struct bni_tasks {
    const run *of;
    size_t own;  /* which thread this is */
    size_t done; /* shares that are known to be empty, from its own on */
};

/* (Where there is no need for one, no division is done: it is dear beside the smallest batch.) */
static size_t share_begin(const run *r, size_t thread) {
    return r->threads == 1 ? r->tasks * thread : r->tasks * thread / r->threads;
}

/* How many tasks of a share were taken before this one. */
static size_t take_task(atomic_size_t *taken, bool alone) {
    if (alone) { /* an atomic addition is dear beside the smallest batch */
        const size_t before = atomic_load_explicit(taken, memory_order_relaxed);
        atomic_store_explicit(taken, before + 1, memory_order_relaxed);
        return before;
    }
    return atomic_fetch_add_explicit(taken, 1, memory_order_relaxed);
}

bool bni_next_task(bni_tasks *tasks, bni_task *task) {
    const run *r = tasks->of;
    const bni_cut *cut = r->cut;
    for (; tasks->done < r->threads; tasks->done++) {
        const size_t behind = tasks->own + tasks->done;
        const size_t thread = behind < r->threads ? behind : behind - r->threads;
        const size_t begin = share_begin(r, thread), end = share_begin(r, thread + 1);
        const size_t taken = take_task(&r->taken[thread], r->threads == 1);
        if (taken < end - begin) {
            const size_t i = r->order == BNI_BY_CHUNK_BACK ? end - 1 - taken : begin + taken;
            *task = cut->groups == 1           ? (bni_task){0, i}
                    : cut->chunks == 1         ? (bni_task){i, 0}
                    : r->order == BNI_BY_GROUP ? (bni_task){i / cut->chunks, i % cut->chunks}
                                               : (bni_task){i % cut->groups, i / cut->groups};
            return true;
        }
    }
    return false;
}

static void run_member(void *context, size_t thread) {
    const run *r = context;
    r->worker(r->context, &(bni_tasks){.of = r, .own = thread});
    publish(r->cut);
}

/* Whoever works alone has but one counter on the stack. */
static BNI_OWN_FRAME void run_on_team(run r) {
    atomic_size_t taken[BNI_MOST_THREADS];
    for (size_t t = 0; t < r.threads; t++) {
        atomic_init(&taken[t], 0);
    }
    r.taken = taken;
    bni_team_run(r.threads, run_member, &r);
}

void bni_run(const bni_cut *cut, int num_threads, bni_order order, bni_worker worker,
             void *context) {
    atomic_size_t taken = 0;
    run r = {.cut = cut,
             .order = order,
             .worker = worker,
             .context = context,
             .tasks = cut->groups * cut->chunks,
             .threads = threads_for(cut, num_threads),
             .taken = &taken};
    if (r.threads == 1) {
        worker(context, &(bni_tasks){.of = &r});
        publish(cut);
    } else {
        run_on_team(r);
    }
}

/* ---- Chunks in turn ------------------------------------------------------------------------- */

/* A chunk's part, on its way to be added. */
typedef struct made_part {
    const bni_turns *turns;
    double values[BNI_PART];
} made_part;

static void add_part(void *context, size_t chunk) {
    made_part *part = context;
    part->turns->add(part->turns->context, chunk, part->values);
}

static void make_in_turn(void *context, size_t chunk) {
    made_part part;
    part.turns = context;
    part.turns->make(part.turns->context, chunk, part.values);
    bni_team_turn(add_part, &part, chunk);
}

static void make_alone(size_t chunks, const bni_turns *turns) {
    made_part part;
    part.turns = turns;
    for (size_t chunk = 0; chunk < chunks; chunk++) {
        turns->make(turns->context, chunk, part.values);
        add_part(&part, chunk);
    }
}

void bni_run_in_turn(const bni_cut *cut, int num_threads, bni_turns *turns) {
    const size_t threads = threads_for(cut, num_threads);
    if (threads == 1) {
        make_alone(cut->chunks, turns);
    } else {
        bni_team_in_turn(threads, cut->chunks, make_in_turn, turns);
    }
}
