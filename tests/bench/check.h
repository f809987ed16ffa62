/* Whether contestants compute what they should: their results against double precision. */
#ifndef BN_BENCH_CHECK_H
#define BN_BENCH_CHECK_H

#include "contestant.h"

#include "../unit/reference.h"

/* Some features of a problem, as a problem of their own, and what should come of it. */
typedef struct bench_check {
    size_t *feature; /* [features]: where they are in the whole */
    bn_layer layer;  /* what the reference reads of a layer */
    bn_batch batch;
    float *got;         /* [n][features][S]: a contestant's values of them */
    ref_result trained; /* forward and backward */
    ref_result frozen;  /* inference */
    double *dgamma_scale, *dbeta_scale;
} bench_check;

/* The reference takes some 100 ns a value. */
enum { CHECK_VALUES = 1 << 17 };

/* Computes what should come of the features of a problem of floats: all of them where it has no more
 * values than these, else the first, some between, and the last. */
bench_check check_make(const bench_problem *floats, size_t values);
void check_free(bench_check *c);

/* In units of 2^-24 of what reference.h says; of what the direction does not have 0. */
typedef struct check_errors {
    double tensor, mean, parameters; /* y or dx; the batch's mean; dgamma and dbeta, the larger */
} check_errors;

/* Calls the contestant once and measures what it wrote. */
check_errors check_measure(bench_check *c, const bench_contestant *which, bench_direction d);

/* The same; returns how far y or dx is from what it should be, in units of
 * 2^-24 of the feature's largest (see reference.h), and of halves beyond the half ulp that rounding
 * may cost. Exits where the library is outside the limits
 * that its tests set, and where a peer's result is so wrong that it cannot have been called as it
 * should. */
double check_contestant(bench_check *c, const bench_contestant *which, bench_direction d);

#endif
