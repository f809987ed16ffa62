/*
 * A team of threads: all that the library asks of OpenMP. It is a file of its own because a compiler
 * may enter OpenMP's runtime, which allocates, at the beginning of any function that has a parallel
 * region: whoever works alone calls nothing of this.
 */
#ifndef BNI_TEAM_H
#define BNI_TEAM_H

#include <stddef.h>

/* However many threads are asked for: OpenMP's runtime ends the process where it cannot start one.
 */
#define BNI_MOST_THREADS ((size_t)256)

/* How many threads there are by default. */
size_t bni_team_default(void);

/* Calls member(context, i) on each of so many threads, or fewer, where no more can be had: one of them
 * has to do what there is. They have the caller's floating-point environment, and the caller gets the
 * exceptions they raise. */
void bni_team_run(size_t threads, void (*member)(void *context, size_t i), void *context);

/* Calls step(context, i) for each i < count, on so many threads and begun in this order. Within it
 * bni_team_turn(action, context, i) calls action when all those of lower i are through. */
void bni_team_in_turn(size_t threads, size_t count, void (*step)(void *context, size_t i),
                      void *context);
void bni_team_turn(void (*action)(void *context, size_t i), void *context, size_t i);

#endif
