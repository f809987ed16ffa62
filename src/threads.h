/* Who works on a batch's tasks: the caller's thread, or a team of threads. */
#ifndef BNI_THREADS_H
#define BNI_THREADS_H

#include "plan.h"

/* In which order tasks are taken. Chunk by chunk, and in it group by group, is the order of the
 * memory; from the last to the first, what a run before it came by last, and the caches may still
 * hold, is met first; group by group, what is made once for a group serves all its chunks. */
typedef enum bni_order { BNI_BY_CHUNK, BNI_BY_CHUNK_BACK, BNI_BY_GROUP } bni_order;

/* The tasks that are left, as one thread sees them. */
typedef struct bni_tasks bni_tasks;

/* Writes the next task and returns true, or returns false when all are taken. */
bool bni_next_task(bni_tasks *tasks, bni_task *task);

typedef void (*bni_worker)(void *context, bni_tasks *tasks);

/* Calls worker once in each of some threads; together they take all tasks, one for each group and
 * chunk. A thread gets neighbouring tasks, the same ones in every run over as many tasks by as many
 * threads: its caches hold what it worked on before. Only when it is through with its own does it
 * take those of others. What they stream is published. */
void bni_run(const bni_cut *cut, int num_threads, bni_order order, bni_worker worker,
             void *context);

/* Work on each chunk whose results are added up in the order of the chunks, whoever made them. */
typedef struct bni_turns {
    void (*make)(void *context, size_t chunk, double *part);
    void (*add)(void *context, size_t chunk, double *part); /* one at a time */
    void *context;
} bni_turns;

/* The doubles of a part: room for two values of as many features as bni_cut_narrow leaves in a group,
 * and for one more. */
#define BNI_PART (2 * BNI_NARROW + 1)

/* make() and then add() for all chunks of a batch. No more parts are kept than there are threads. */
void bni_run_in_turn(const bni_cut *cut, int num_threads, bni_turns *turns);

#endif
