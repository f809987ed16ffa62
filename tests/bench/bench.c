/*
 * Times the library against what memory allows and against its peers; README.md says how and why.
 */
#include "check.h"
#include "contestant.h"
#include "options.h"
#include "problem.h"
#include "report.h"
#include "timing.h"
#include "torch.h"

#include <batchnorm/bn_layer.h>

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t make_contestants(bench_contestant *made, const bench_problem *p,
                               const bench_problem *floats, bench_torch *torch, bench_direction d,
                               int threads) {
    size_t count = 0;
    count += library_make(&made[count], p, d, threads);
    if (p != floats) {
        count += float32_make(&made[count], floats, d, threads);
    }
    for (size_t k = 0; floor_make(&made[count], p, d, threads, k); k++) {
        count++;
    }
    for (size_t k = 0; twice_make(&made[count], p, d, threads, k); k++) {
        count++;
    }
    for (size_t k = 0; onednn_make(&made[count], p, d, k); k++) {
        count++;
    }
    count += textbook_make(&made[count], p, d);
    if (torch != NULL) {
        count += torch_make(&made[count], torch, p, d, threads);
    }
    return count;
}

static bench_result measure(const bench_problem *p, const bench_problem *floats, bench_check *c,
                            bench_torch *torch, bench_direction d, int threads, double seconds) {
    bench_contestant contestants[MOST_ENTRIES];
    bench_timing timings[MOST_ENTRIES];
    bench_result made = {.shape = p->shape, .direction = d, .threads = threads};
    omp_set_num_threads(threads);
    made.count = make_contestants(contestants, p, floats, torch, d, threads);
    for (size_t k = 0; k < made.count; k++) {
        const bench_contestant *which = &contestants[k];
        const double error = which->problem != NULL ? check_contestant(c, which, d) : -1;
        made.entries[k] = (bench_entry){.name = which->name, .role = which->role, .error = error};
    }
    time_contestants(contestants, made.count, threads, seconds, timings);
    for (size_t k = 0; k < made.count; k++) {
        made.entries[k].timing = timings[k];
        contestants[k].end(contestants[k].state);
    }
    return made;
}

static bool wants_any(const bench_options *o, const bench_shape *shape) {
    bool any = false;
    for (bench_direction d = 0; d < DIRECTIONS; d++) {
        any = any || options_want(o, shape, d);
    }
    return any;
}

static void measure_shape(const bench_options *o, bench_torch *torch, const bench_shape *shape,
                          bench_report *r) {
    bench_problem floats = problem_make(shape, o->dtype, 1), halves = {0};
    const bench_problem *p = &floats;
    if (o->dtype != BN_DTYPE_F32) {
        halves = problem_in(&floats, o->dtype);
        p = &halves;
    }
    bench_check c = check_make(&floats, CHECK_VALUES);
    for (size_t t = 0; t < o->thread_counts; t++) {
        for (bench_direction d = 0; d < DIRECTIONS; d++) {
            if (options_want(o, shape, d)) {
                const bench_result made =
                    measure(p, &floats, &c, torch, d, o->threads[t], o->seconds);
                report_add(r, &made);
            }
        }
    }
    check_free(&c);
    problem_free(&halves);
    problem_free(&floats);
}

static void list(const bench_options *o) {
    for (size_t k = 0; k < shape_count; k++) {
        for (bench_direction d = 0; d < DIRECTIONS; d++) {
            if (options_want(o, &shapes[k], d)) {
                char name[CASE_NAME];
                case_name(&shapes[k], d, name);
                printf("%-26s # %s\n", name, shapes[k].note);
            }
        }
    }
}

static void print_machine(const bench_torch *torch) {
    char line[256];
    FILE *cpus = fopen("/proc/cpuinfo", "r");
    while (cpus != NULL && fgets(line, sizeof line, cpus) != NULL) {
        if (strncmp(line, "model name", 10) == 0) {
            fputs(strchr(line, ':') + 2, stdout);
            break;
        }
    }
    if (cpus != NULL) {
        fclose(cpus);
    }
    bn_layer layer;
    if (bn_layer_init(&layer, 1, NULL) == BN_STATUS_OK) {
        printf("%d processors; batchnorm %s, %s; ", omp_get_num_procs(), bn_version(),
               bn_layer_isa(&layer));
        bn_layer_free(&layer);
    }
    printf("%s", onednn_version() != NULL ? onednn_version() : "no oneDNN");
    printf("; %s\n", torch != NULL ? torch_version(torch) : "no PyTorch");
}

int main(int argc, char **argv) {
    const bench_options o = options_read(argc, argv);
    if (o.list) {
        list(&o);
        return EXIT_SUCCESS;
    }
    bench_torch *torch = o.torch != NULL ? torch_start(o.torch) : NULL;
    print_machine(torch);
    bench_report r = report_begin(o.csv, o.dtype, shape_count * DIRECTIONS * o.thread_counts);
    for (size_t k = 0; k < shape_count; k++) {
        if (wants_any(&o, &shapes[k])) {
            measure_shape(&o, torch, &shapes[k], &r);
        }
    }
    report_end(&r);
    if (torch != NULL) {
        torch_end(torch);
    }
    return EXIT_SUCCESS;
}
