/* What is printed and written of the measurements. */
#ifndef BN_BENCH_REPORT_H
#define BN_BENCH_REPORT_H

#include "contestant.h"
#include "timing.h"

#include <stdio.h>

enum { MOST_ENTRIES = 16 };

/* What came of one contestant in one case. Negative: not known. */
typedef struct bench_entry {
    const char *name;
    bench_role role;
    bench_timing timing;
    double error; /* in units of 2^-24; see check.h */
} bench_entry;

typedef struct bench_result {
    const bench_shape *shape;
    bench_direction direction;
    int threads;
    bench_entry entries[MOST_ENTRIES];
    size_t count;
} bench_result;

/* What the summary needs of a result. */
typedef struct report_case {
    const bench_shape *shape;
    bench_direction direction;
    int threads;
    double floors; /* the library's time as a multiple of the floor */
    double twice;  /* that of reading all once more before; 0 for inference */
    double ratio;  /* to the fastest peer's; 0 where there is no peer */
    double beside; /* to the textbook's, which halves do not have: to the same on floats */
} report_case;

typedef struct bench_report {
    FILE *csv; /* may be NULL */
    bn_dtype dtype;
    report_case *cases;
    size_t count;
} bench_report;

/* Begins a table for at most so many results. Exits where the CSV cannot be written. */
bench_report report_begin(const char *csv, bn_dtype dtype, size_t most_results);

/* Prints a line of the table and writes those of the CSV. */
void report_add(bench_report *r, const bench_result *result);

/* Prints the summary and closes the CSV. */
void report_end(bench_report *r);

#endif
