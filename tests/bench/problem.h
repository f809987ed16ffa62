/* The buffers of one shape, which all contestants work on. */
#ifndef BN_BENCH_PROBLEM_H
#define BN_BENCH_PROBLEM_H

#include "shapes.h"

#define PROBLEM_EPS      1e-5f
#define PROBLEM_MOMENTUM 0.9f /* the weight of the old running value */

typedef struct bench_problem {
    const bench_shape *shape;
    const float *x, *dy;
    float *out;                /* y or dx, whatever is measured */
    const float *gamma, *beta; /* [C] */
    const float *running_mean, *running_var;
    void *memory[2];
} bench_problem;

/* Allocates and fills the buffers, so that no page is touched for the first time later. Exits where
 * memory does not suffice. */
bench_problem problem_make(const bench_shape *shape);
void problem_free(bench_problem *problem);

/* Zeroed memory, or exits. */
void *bench_allocate(size_t bytes);

#endif
