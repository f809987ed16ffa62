/* How contestants are timed. */
#ifndef BN_BENCH_TIMING_H
#define BN_BENCH_TIMING_H

#include "contestant.h"

typedef struct bench_timing {
    double us;     /* of one call: the median of the samples */
    double spread; /* the distance of the samples' quartiles, as a part of the median */
} bench_timing;

/* Times the contestants, which use so many threads, in turn, round after round, until so many
 * seconds have passed and each has enough samples. A sample is as many calls as take 200 us or
 * more, after calls that are not timed and bring caches and threads into the state that this
 * contestant leaves them in. */
void time_contestants(const bench_contestant *contestants, size_t count, int threads,
                      double seconds, bench_timing *timings);

/* Of samples in microseconds, which it sorts; at least one. */
bench_timing time_summarize(double *samples, size_t count);

#endif
