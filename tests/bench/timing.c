/* See timing.h. */
#include "timing.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define SAMPLE_SECONDS 200e-6

/* Calls before a sample, as a part of those in it; at least one. */
#define WARM_UP_PART 4

enum { FEWEST_ROUNDS = 5, MOST_ROUNDS = 1000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds_of(const bench_contestant *which, size_t calls) {
    const double start = now();
    for (size_t k = 0; k < calls; k++) {
        which->call(which->state);
    }
    return now() - start;
}

/* Finds how many calls make a sample. */
static size_t calls_of(const bench_contestant *which) {
    which->call(which->state);
    size_t calls = 1;
    for (;;) {
        const double seconds = seconds_of(which, calls);
        if (seconds >= SAMPLE_SECONDS) {
            return calls;
        }
        /* At most eightfold, since a short measurement says little. */
        const double wanted = seconds > 0 ? 1.1 * SAMPLE_SECONDS / seconds : 8;
        calls = (size_t)ceil((double)calls * fmin(wanted, 8));
    }
}

static double sample(const bench_contestant *which, size_t calls) {
    seconds_of(which, 1 + calls / WARM_UP_PART);
    return seconds_of(which, calls) / (double)calls * 1e6;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bench_timing summarize(double *samples, size_t count) {
    qsort(samples, count, sizeof *samples, by_size);
    const double median = (samples[(count - 1) / 2] + samples[count / 2]) / 2;
    const double quartiles = samples[count - 1 - count / 4] - samples[count / 4];
    return (bench_timing){.us = median, .spread = quartiles / median};
}

void time_contestants(const bench_contestant *contestants, size_t count, double seconds,
                      bench_timing *timings) {
    size_t *calls = bench_allocate(count * sizeof *calls);
    double *samples = bench_allocate(count * MOST_ROUNDS * sizeof *samples);
    const double start = now();
    for (size_t k = 0; k < count; k++) {
        calls[k] = calls_of(&contestants[k]);
    }
    size_t rounds = 0;
    while (rounds < FEWEST_ROUNDS || (rounds < MOST_ROUNDS && now() - start < seconds)) {
        for (size_t k = 0; k < count; k++) {
            samples[k * MOST_ROUNDS + rounds] = sample(&contestants[k], calls[k]);
        }
        rounds++;
    }
    for (size_t k = 0; k < count; k++) {
        timings[k] = summarize(samples + k * MOST_ROUNDS, rounds);
    }
    free(calls);
    free(samples);
}
