/* The command line. */
#ifndef BN_BENCH_OPTIONS_H
#define BN_BENCH_OPTIONS_H

#include "dtype.h"
#include "shapes.h"

#include <stdbool.h>

enum { MOST_THREAD_COUNTS = 8 };

typedef struct bench_options {
    const char *csv;    /* where to write every time; NULL: nowhere */
    const char *torch;  /* the program that makes PyTorch's calls; NULL: none */
    const char *filter; /* what "NxCxS direction" must contain */
    bn_dtype dtype;     /* of x, dy, y and dx */
    int threads[MOST_THREAD_COUNTS];
    size_t thread_counts;
    double seconds; /* for one shape, direction and number of threads */
    bool list;      /* print the cases and exit */
} bench_options;

/* Reads the arguments; exits on --help, and on one that is wrong. */
bench_options options_read(int argc, char **argv);

/* Says whether the filter lets the case through. */
bool options_want(const bench_options *o, const bench_shape *shape, bench_direction d);

#endif
