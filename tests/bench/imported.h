/* Times that another program measured, such as torch_bench.py. */
#ifndef BN_BENCH_IMPORTED_H
#define BN_BENCH_IMPORTED_H

#include "shapes.h"

typedef struct imported_time {
    char name[CASE_NAME]; /* of the case */
    int threads;
    char contestant[32];
    double us;
} imported_time;

typedef struct bench_imported {
    imported_time *times;
    size_t count;
} bench_imported;

/* Reads lines of "NxCxS,direction,threads,contestant,us"; more columns, lines that begin with # and
 * the line of headings are passed over. Exits where the file is something else. */
bench_imported imported_read(const char *path);
void imported_free(bench_imported *all);

/* The next time of a case from *at on, which is moved past it; NULL where there is none. */
const imported_time *imported_next(const bench_imported *all, const bench_shape *shape,
                                   bench_direction d, int threads, size_t *at);

#endif
