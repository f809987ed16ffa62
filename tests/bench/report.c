/* See report.h. */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static FILE *open_csv(const char *path) {
    FILE *csv = fopen(path, "w");
    if (csv == NULL) {
        fprintf(stderr, "bench: %s: %s\n", path, strerror(errno));
        exit(EXIT_FAILURE);
    }
    fputs("shape,direction,threads,contestant,us,role,floors,spread,error\n", csv);
    return csv;
}

bench_report report_begin(const char *csv, size_t most_results) {
    printf("\n%-15s %-9s %3s %11s %6s %11s %6s %6s   %-10s %11s %6s %9s %9s\n", "shape",
           "direction", "thr", "library us", "spread", "floor us", "floors", "GB/s", "best peer",
           "us", "ratio", "error", "peer's");
    return (bench_report){.csv = csv != NULL ? open_csv(csv) : NULL,
                          .cases = bench_allocate((most_results + 1) * sizeof(report_case))};
}

/* The fastest with this role; NULL where there is none. */
static const bench_entry *fastest(const bench_result *result, bench_role role) {
    const bench_entry *best = NULL;
    for (size_t k = 0; k < result->count; k++) {
        const bench_entry *e = &result->entries[k];
        if (e->role == role && (best == NULL || e->timing.us < best->timing.us)) {
            best = e;
        }
    }
    return best;
}

static void write_csv(FILE *csv, const bench_result *result, const char *name, double floor) {
    static const char *const roles[] = {
        [ROLE_LIBRARY] = "library", [ROLE_FLOOR] = "floor", [ROLE_PEER] = "peer"};
    for (size_t k = 0; k < result->count; k++) {
        const bench_entry *e = &result->entries[k];
        fprintf(csv, "%s,%s,%d,%s,%.4g,%s,%.4g,", name, direction_name(result->direction),
                result->threads, e->name, e->timing.us, roles[e->role], e->timing.us / floor);
        if (e->timing.spread >= 0) {
            fprintf(csv, "%.3f", e->timing.spread);
        }
        fputc(',', csv);
        if (e->error >= 0) {
            fprintf(csv, "%.4g", e->error);
        }
        fputc('\n', csv);
    }
    fflush(csv);
}

void report_add(bench_report *r, const bench_result *result) {
    const bench_entry *library = fastest(result, ROLE_LIBRARY), *peer = fastest(result, ROLE_PEER);
    const bench_entry *floor = fastest(result, ROLE_FLOOR);
    char name[CASE_NAME];
    shape_name(result->shape, name);
    const report_case made = {.shape = result->shape,
                              .direction = result->direction,
                              .threads = result->threads,
                              .floors = library->timing.us / floor->timing.us,
                              .ratio = peer ? library->timing.us / peer->timing.us : 0};
    r->cases[r->count++] = made;

    const double bytes = (double)(direction_arrays(result->direction) *
                                  shape_elements(result->shape) * sizeof(float));
    printf("%-15s %-9s %3d %11.2f %5.0f%% %11.2f %6.2f %6.1f", name,
           direction_name(result->direction), result->threads, library->timing.us,
           100 * library->timing.spread, floor->timing.us, made.floors,
           bytes / (library->timing.us * 1e3));
    if (peer != NULL) {
        printf("   %-10s %11.2f %6.2f %9.2g", peer->name, peer->timing.us, made.ratio,
               library->error);
        if (peer->error >= 0) {
            printf(" %9.2g", peer->error);
        }
    }
    putchar('\n');
    fflush(stdout);
    if (r->csv != NULL) {
        write_csv(r->csv, result, name, floor->timing.us);
    }
}

/* ---- The summary ----------------------------------------------------------------------------- */

typedef struct group {
    size_t cases, with_peer;
    double log_ratio, log_floors;
    const report_case *most_ratio, *most_floors;
} group;

/* Of the class, or of all where it is CLASSES. */
static group group_of(const bench_report *r, int threads, bench_direction d, shape_class class) {
    group g = {0};
    for (size_t k = 0; k < r->count; k++) {
        const report_case *c = &r->cases[k];
        if (c->threads != threads || c->direction != d ||
            (class != CLASSES && shape_class_of(c->shape) != class)) {
            continue;
        }
        g.cases++;
        g.log_floors += log(c->floors);
        if (g.most_floors == NULL || c->floors > g.most_floors->floors) {
            g.most_floors = c;
        }
        if (c->ratio > 0) {
            g.with_peer++;
            g.log_ratio += log(c->ratio);
            if (g.most_ratio == NULL || c->ratio > g.most_ratio->ratio) {
                g.most_ratio = c;
            }
        }
    }
    return g;
}

static void print_worst(double log_sum, size_t cases, double worst, const bench_shape *shape) {
    char name[CASE_NAME];
    shape_name(shape, name);
    printf(" %7.2f %13s %7.2f", exp(log_sum / (double)cases), name, worst);
}

static void print_group(const group *g, const char *class_name, bench_direction d) {
    printf("%-28s %-9s %5zu", class_name, direction_name(d), g->cases);
    print_worst(g->log_floors, g->cases, g->most_floors->floors, g->most_floors->shape);
    if (g->with_peer > 0) {
        print_worst(g->log_ratio, g->with_peer, g->most_ratio->ratio, g->most_ratio->shape);
    }
    putchar('\n');
}

static void print_summary(const bench_report *r, int threads) {
    printf("\n%44s %29s %29s\n", "", "multiple of the floor", "ratio to the best peer");
    printf("%3d %-24s %-9s %5s %7s %21s %7s %21s\n", threads, threads == 1 ? "thread" : "threads",
           "direction", "cases", "mean", "worst", "mean", "worst");
    for (shape_class class = 0; class <= CLASSES; class ++) {
        for (bench_direction d = 0; d < DIRECTIONS; d++) {
            const group g = group_of(r, threads, d, class);
            if (g.cases > 0) {
                print_group(&g, class == CLASSES ? "all" : shape_class_name(class), d);
            }
        }
    }
}

/* Says whether a case before this one had as many threads. */
static bool seen(const bench_report *r, size_t at) {
    for (size_t k = 0; k < at; k++) {
        if (r->cases[k].threads == r->cases[at].threads) {
            return true;
        }
    }
    return false;
}

void report_end(bench_report *r) {
    for (size_t k = 0; k < r->count; k++) {
        if (!seen(r, k)) {
            print_summary(r, r->cases[k].threads);
        }
    }
    puts("\nMeans are geometric. A ratio below 1: the library is faster. Errors are in units of "
         "2^-24 of the\nfeature's largest y or dx.");
    if (r->csv != NULL) {
        fclose(r->csv);
    }
    free(r->cases);
    *r = (bench_report){0};
}
