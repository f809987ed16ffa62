/* What is timed: a call that works on a problem's buffers, and what it needs prepared. */
#ifndef BN_BENCH_CONTESTANT_H
#define BN_BENCH_CONTESTANT_H

#include "problem.h"

#include <stdbool.h>

typedef enum bench_role {
    ROLE_LIBRARY,
    ROLE_FLOOR,
    ROLE_TWICE,
    ROLE_TEXTBOOK,
    ROLE_FLOAT32,
    ROLE_PEER,
    ROLES
} bench_role;

typedef struct bench_contestant {
    const char *name; /* static */
    bench_role role;
    const bench_problem *problem; /* what its results are of; NULL: they are not compared */
    void *state;
    void (*call)(void *state); /* what is timed */
    /* Instead, where another program makes the calls: the seconds that so many take. */
    double (*elsewhere)(void *state, size_t calls);
    void (*end)(void *state);    /* gives back what making it took */
    const float *mean;           /* forward: where the call leaves the batch's; NULL: nowhere */
    const float *dgamma, *dbeta; /* backward: where the call writes them */
    void *out;                   /* where it writes y or dx; NULL: the problem's */
} bench_contestant;

/* Each makes a contestant for one case and returns true, or returns false where it has none. All
 * that can be prepared once (allocation, primitives, the forward before a backward) is. The caller
 * has set OpenMP's number of threads to threads. */

/* This library. */
bool library_make(bench_contestant *made, const bench_problem *problem, bench_direction d,
                  int threads);

/* Where a problem of halves is measured: this library on the same values as floats. */
bool float32_make(bench_contestant *made, const bench_problem *floats, bench_direction d,
                  int threads);

/* The floor: y = x, or dx = x + dy, in several ways; the fastest is the floor. variant counts from
 * 0; false past the last. Halves are not added, but joined by xor, as fast as vectors are. */
bool floor_make(bench_contestant *made, const bench_problem *problem, bench_direction d,
                int threads, size_t variant);

/* Forward and backward: the floor after all inputs have been read once, in the same ways. */
bool twice_make(bench_contestant *made, const bench_problem *problem, bench_direction d,
                int threads, size_t variant);

/* Plain loops on one thread, of floats alone. */
bool textbook_make(bench_contestant *made, const bench_problem *problem, bench_direction d);

/* oneDNN, in so many ways that variant counts from 0; false past the last, where it was not found
 * when this was built, or has nothing for the type. */
bool onednn_make(bench_contestant *made, const bench_problem *problem, bench_direction d,
                 size_t variant);

/* Its name and version; NULL where it was not found. */
const char *onednn_version(void);

#endif
