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
    fputs("shape,direction,threads,contestant,us,role,floors,spread,error,class,dtype\n", csv);
    return csv;
}

/* What the column `beside` is of. */
static bench_role beside_role(bn_dtype dtype) {
    return dtype == BN_DTYPE_F32 ? ROLE_TEXTBOOK : ROLE_FLOAT32;
}

static const char *role_name(bench_role role) {
    static const char *const names[ROLES] = {
        [ROLE_LIBRARY] = "library",   [ROLE_FLOOR] = "floor",     [ROLE_TWICE] = "twice",
        [ROLE_TEXTBOOK] = "textbook", [ROLE_FLOAT32] = "float32", [ROLE_PEER] = "peer"};
    return names[role];
}

bench_report report_begin(const char *csv, bn_dtype dtype, size_t most_results) {
    printf("\n%-15s %-9s %3s %11s %6s %11s %6s %6s %6s %8s   %-8s %11s %6s %9s %9s\n", "shape",
           "direction", "thr", "library us", "spread", "floor us", "floors", "twice", "GB/s",
           role_name(beside_role(dtype)), "peer", "us", "ratio", "error", "peer's");
    return (bench_report){.csv = csv != NULL ? open_csv(csv) : NULL,
                          .dtype = dtype,
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

static void write_csv(const bench_report *r, const bench_result *result, const char *name,
                      double floor) {
    for (size_t k = 0; k < result->count; k++) {
        const bench_entry *e = &result->entries[k];
        fprintf(r->csv, "%s,%s,%d,%s,%.4g,%s,%.4g,%.3f,", name, direction_name(result->direction),
                result->threads, e->name, e->timing.us, role_name(e->role), e->timing.us / floor,
                e->timing.spread);
        if (e->error >= 0) {
            fprintf(r->csv, "%.4g", e->error);
        }
        fprintf(r->csv, ",%s,%s\n", shape_class_name(result->shape->class), dtype_name(r->dtype));
    }
    fflush(r->csv);
}

/* A figure, or room for it where it is 0. */
static void print_known(const char *format, double figure) {
    if (figure > 0) {
        printf(format, figure);
    } else {
        printf("%7s", "");
    }
}

void report_add(bench_report *r, const bench_result *result) {
    const bench_entry *library = fastest(result, ROLE_LIBRARY), *peer = fastest(result, ROLE_PEER);
    const bench_entry *floor = fastest(result, ROLE_FLOOR);
    const bench_entry *beside = fastest(result, beside_role(r->dtype));
    const bench_entry *twice = fastest(result, ROLE_TWICE);
    char name[CASE_NAME];
    shape_name(result->shape, name);
    const report_case made = {.shape = result->shape,
                              .direction = result->direction,
                              .threads = result->threads,
                              .floors = library->timing.us / floor->timing.us,
                              .twice = twice ? twice->timing.us / floor->timing.us : 0,
                              .ratio = peer ? library->timing.us / peer->timing.us : 0,
                              .beside = library->timing.us / beside->timing.us};
    r->cases[r->count++] = made;

    const double bytes = (double)(direction_arrays(result->direction) *
                                  shape_elements(result->shape) * dtype_size(r->dtype));
    printf("%-15s %-9s %3d %11.2f %5.0f%% %11.2f %6.2f", name, direction_name(result->direction),
           result->threads, library->timing.us, 100 * library->timing.spread, floor->timing.us,
           made.floors);
    print_known(" %6.2f", made.twice);
    printf(" %6.1f %8.2f", bytes / (library->timing.us * 1e3), made.beside);
    if (peer != NULL) {
        printf("   %-8s %11.2f %6.2f", peer->name, peer->timing.us, made.ratio);
    } else {
        printf("%30s", "");
    }
    printf(" %9.2g", library->error);
    if (peer != NULL && peer->error >= 0) {
        printf(" %9.2g", peer->error);
    }
    putchar('\n');
    fflush(stdout);
    if (r->csv != NULL) {
        write_csv(r, result, name, floor->timing.us);
    }
}

/* ---- The summary ----------------------------------------------------------------------------- */

typedef struct group {
    size_t cases, with_peer;
    double log_floors, log_twice, log_beside; /* over all cases */
    double log_ratio, log_bound; /* over those with a peer: the library's, the floor's */
    const report_case *most_ratio, *most_floors, *most_beside;
} group;

/* Of the class, or of all where it is CLASSES. */
static group group_of(const bench_report *r, int threads, bench_direction d, shape_class class) {
    group g = {0};
    for (size_t k = 0; k < r->count; k++) {
        const report_case *c = &r->cases[k];
        if (c->threads != threads || c->direction != d ||
            (class != CLASSES && c->shape->class != class)) {
            continue;
        }
        g.cases++;
        g.log_floors += log(c->floors);
        g.log_twice += c->twice > 0 ? log(c->twice) : 0;
        g.log_beside += log(c->beside);
        if (g.most_floors == NULL || c->floors > g.most_floors->floors) {
            g.most_floors = c;
        }
        if (g.most_beside == NULL || c->beside > g.most_beside->beside) {
            g.most_beside = c;
        }
        if (c->ratio > 0) {
            g.with_peer++;
            g.log_ratio += log(c->ratio);
            g.log_bound += log(c->ratio / c->floors);
            if (g.most_ratio == NULL || c->ratio > g.most_ratio->ratio) {
                g.most_ratio = c;
            }
        }
    }
    return g;
}

static double mean(double log_sum, size_t cases) {
    return exp(log_sum / (double)cases);
}

static void print_worst(double worst, const bench_shape *shape) {
    char name[CASE_NAME];
    shape_name(shape, name);
    printf(" %13s %6.2f", name, worst);
}

static void print_group(const group *g, const char *class_name, bench_direction d, bool halves) {
    printf("%-28s %-9s %5zu %6.2f", class_name, direction_name(d), g->cases,
           mean(g->log_floors, g->cases));
    print_worst(g->most_floors->floors, g->most_floors->shape);
    print_known(" %6.2f", d == INFERENCE ? 0 : mean(g->log_twice, g->cases));
    printf(" %8.2f", mean(g->log_beside, g->cases));
    if (halves) {
        print_worst(g->most_beside->beside, g->most_beside->shape);
    }
    if (g->with_peer > 0) {
        printf(" %6.2f", mean(g->log_ratio, g->with_peer));
        print_worst(g->most_ratio->ratio, g->most_ratio->shape);
        printf(" %6.2f", mean(g->log_bound, g->with_peer));
    }
    putchar('\n');
}

static void print_summary(const bench_report *r, int threads) {
    const bool halves = r->dtype != BN_DTYPE_F32;
    const int more = halves ? 21 : 0; /* room for what is worst beside floats */
    printf("\n%44s %34s %8s%*s %27s %6s\n", "", "multiple of the floor", "to the", more, "",
           "to the best peer", "floor");
    printf("%3d %-24s %-9s %5s %6s %20s %6s %8s%*s %6s %20s %6s\n", threads,
           threads == 1 ? "thread" : "threads", "direction", "cases", "mean", "worst", "twice",
           role_name(beside_role(r->dtype)), more, halves ? "worst" : "", "mean", "worst", "to it");
    for (shape_class class = 0; class <= CLASSES; class ++) {
        for (bench_direction d = 0; d < DIRECTIONS; d++) {
            const group g = group_of(r, threads, d, class);
            if (g.cases > 0) {
                print_group(&g, class == CLASSES ? "all" : shape_class_name(class), d, halves);
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
    puts("\nMeans are geometric. A ratio below 1: the library is faster. The floor to the best "
         "peer: what nothing\ncan be below. Errors are in units of 2^-24 of the feature's largest "
         "y or dx.");
    if (r->dtype != BN_DTYPE_F32) {
        puts("To float32: to the library's own time for the same values as floats. An error of "
             "halves is what is\nbeyond half an ulp.");
    }
    if (r->csv != NULL) {
        fclose(r->csv);
    }
    free(r->cases);
    *r = (bench_report){0};
}
