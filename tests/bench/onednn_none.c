/* What stands in for onednn.c where oneDNN was not found. */
#include "contestant.h"

bool onednn_make(bench_contestant *made, const bench_problem *problem, bench_direction d,
                 size_t variant) {
    (void)made, (void)problem, (void)d, (void)variant;
    return false;
}

const char *onednn_version(void) {
    return NULL;
}
