/* See timing.h. */
#include "timing.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define SAMPLE_SECONDS 200e-6

/* Before a sample come a quarter of its calls, or one, eight times over, or until so much time
 * has passed. An L3 that is filled by what L2 evicts takes some calls to settle: PyTorch's
 * backward of 8 x 64 x 3136, behind other contestants: 1120, 990, 850, 830, 780, 720, 700 us. */
#define WARM_UP_SECONDS 0.05
enum { WARM_UP_TIMES = 8, WARM_UP_PART = 4 };

/* Another program is given fewer samples, as changing over takes its time. OpenMP's threads spin
 * for some milliseconds behind their work (GCC's: 300000 rounds, 15 ms), and would take the
 * processors from another program; and where they have fallen asleep it takes the system some
 * milliseconds to spread them (PyTorch's inference of 2048 x 2048 on two threads: 7.7 ms at
 * first, then 0.6). */
#define REST_SECONDS   0.03
#define SPREAD_SECONDS 0.03
enum { FEWEST_ROUNDS = 5, MOST_ROUNDS = 1000, MOST_ROUNDS_ELSEWHERE = 15 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds_of(const bench_contestant *which, size_t calls) {
    if (which->elsewhere != NULL) {
        return which->elsewhere(which->state, calls);
    }
    const double start = now();
    for (size_t k = 0; k < calls; k++) {
        which->call(which->state);
    }
    return now() - start;
}

static void warm_up(const bench_contestant *which, size_t calls, int threads) {
    const double start = now();
    const double least = which->elsewhere != NULL && threads > 1 ? SPREAD_SECONDS : 0;
    double passed = 0;
    for (int k = 0; (k < WARM_UP_TIMES && passed < WARM_UP_SECONDS) || passed < least; k++) {
        seconds_of(which, 1 + calls / WARM_UP_PART);
        passed = now() - start;
    }
}

/* Before and behind another program's turn. */
static void change_over(const bench_contestant *which, int threads) {
    if (which->elsewhere != NULL && threads > 1) {
        nanosleep(&(struct timespec){.tv_nsec = (long)(REST_SECONDS * 1e9)}, NULL);
    }
}

/* Finds how many calls make a sample. */
static size_t calls_of(const bench_contestant *which, int threads) {
    size_t calls = 1;
    change_over(which, threads);
    warm_up(which, calls, threads);
    for (;;) {
        const double seconds = seconds_of(which, calls);
        if (seconds >= SAMPLE_SECONDS) {
            break;
        }
        /* At most eightfold, since a short measurement says little. */
        const double wanted = seconds > 0 ? 1.1 * SAMPLE_SECONDS / seconds : 8;
        calls = (size_t)ceil((double)calls * fmin(wanted, 8));
    }
    change_over(which, threads);
    return calls;
}

/* The microseconds of a call. */
static double sample(const bench_contestant *which, size_t calls, int threads) {
    change_over(which, threads);
    warm_up(which, calls, threads);
    const double seconds = seconds_of(which, calls);
    change_over(which, threads);
    return seconds / (double)calls * 1e6;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bench_timing time_summarize(double *samples, size_t count) {
    qsort(samples, count, sizeof *samples, by_size);
    const double median = (samples[(count - 1) / 2] + samples[count / 2]) / 2;
    const double quartiles = samples[count - 1 - count / 4] - samples[count / 4];
    return (bench_timing){.us = median, .spread = quartiles / median};
}

typedef struct series {
    size_t calls; /* that make a sample */
    size_t count;
    double samples[MOST_ROUNDS];
} series;

void time_contestants(const bench_contestant *contestants, size_t count, int threads,
                      double seconds, bench_timing *timings) {
    series *all = bench_allocate(count * sizeof *all);
    for (size_t k = 0; k < count; k++) {
        all[k].calls = calls_of(&contestants[k], threads);
    }
    double taken = 0; /* by this program */
    for (size_t round = 0; round < FEWEST_ROUNDS || (round < MOST_ROUNDS && taken < seconds);
         round++) {
        for (size_t k = 0; k < count; k++) {
            const bench_contestant *which = &contestants[k];
            const double start = now();
            if (which->elsewhere == NULL || round < MOST_ROUNDS_ELSEWHERE) {
                all[k].samples[all[k].count++] = sample(which, all[k].calls, threads);
            }
            taken += which->elsewhere == NULL ? now() - start : 0;
        }
    }
    for (size_t k = 0; k < count; k++) {
        timings[k] = time_summarize(all[k].samples, all[k].count);
    }
    free(all);
}
