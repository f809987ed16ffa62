/* The buffers of one shape, which all contestants work on. */
#ifndef BN_BENCH_PROBLEM_H
#define BN_BENCH_PROBLEM_H

#include "dtype.h"
#include "shapes.h"

#define PROBLEM_EPS      1e-5f
#define PROBLEM_MOMENTUM 0.9f /* the weight of the old running value */

typedef struct bench_problem {
    const bench_shape *shape;
    bn_dtype dtype; /* of x, dy and out */
    const void *x, *dy;
    void *out;                 /* y or dx, whatever is measured */
    const float *gamma, *beta; /* [C] */
    const float *running_mean, *running_var;
    void *memory[2];
} bench_problem;

/* Allocates and fills buffers of floats, with values of x and dy that the type has, so that no page
 * is touched for the first time later. x lies about the mean, by up to 2. Exits where memory does not
 * suffice. */
bench_problem problem_make(const bench_shape *shape, bn_dtype values, double mean);

/* The same with x, dy and out of the type that its values have; the rest is shared, and lives as long
 * as the floats' problem. */
bench_problem problem_in(const bench_problem *floats, bn_dtype dtype);

size_t problem_bytes(const bench_problem *problem); /* of a buffer */
void problem_free(bench_problem *problem);

/* Zeroed memory, or exits. */
void *bench_allocate(size_t bytes);

#endif
