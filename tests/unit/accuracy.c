/*
 * Prints how far the library is from the reference: for every shape the worst error of each
 * quantity over all offsets and spreads, for data that is not normal the worst over several shapes,
 * then for each quantity the case that it comes from.
 *
 *     accuracy           what takes some seconds
 *     accuracy --full    up to 1,000,000 x 64 and 32 x 64 x 112*112, which takes minutes and 3 GB
 *
 * Errors are in units of 2^-24, relative to what reference.h says. Fails where a limit is broken.
 */
#include "accuracy_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The quantities of ref_errors that have a limit. */
enum { QUANTITIES = 6 };
static const struct {
    const char *name;
    double limit;
} quantities[QUANTITIES] = {{"y", REF_LIMIT},      {"dx", REF_LIMIT_DX},  {"mean", REF_LIMIT},
                            {"invstd", REF_LIMIT}, {"dgamma", REF_LIMIT}, {"dbeta", REF_LIMIT}};

typedef struct worst {
    double error[QUANTITIES];
    accuracy_case from[QUANTITIES];
} worst;

static void worst_update(worst *w, const ref_errors *e, const accuracy_case *c) {
    const double errors[QUANTITIES] = {e->y, e->dx, e->mean, e->invstd, e->dgamma, e->dbeta};
    for (int q = 0; q < QUANTITIES; q++) {
        if (errors[q] >= w->error[q]) {
            w->error[q] = errors[q];
            w->from[q] = *c;
        }
    }
}

static void print_shape(const accuracy_case *c) {
    char shape[64];
    int length = snprintf(shape, sizeof shape, "%zu x %zu", c->n, c->num_features);
    if (c->spatial > 1) {
        snprintf(shape + length, sizeof shape - (size_t)length, " x %zu", c->spatial);
    }
    printf("%-18s", shape);
}

static void print_errors(const char *of, const worst *w) {
    printf("%-*s", *of ? 18 : 0, of);
    for (int q = 0; q < QUANTITIES; q++) {
        printf("%9.3g", w->error[q]);
    }
    printf("\n");
}

/* Measures a shape under every offset and the spreads given, and prints its row. */
static void measure_shape(worst *overall, accuracy_case c, size_t spreads, const double *spread) {
    worst here = {.error = {0}};
    print_shape(&c);
    fflush(stdout);
    for (size_t o = 0; o < ACCURACY_OFFSETS; o++) {
        for (size_t s = 0; s < spreads; s++) {
            c.offset = accuracy_offsets[o];
            c.spread = spread[s];
            ref_errors errors = accuracy_measure(&c);
            worst_update(&here, &errors, &c);
            worst_update(overall, &errors, &c);
        }
    }
    print_errors("", &here);
}

/* All data but the normal, of batches that end within and behind blocks, along rows and planes. */
static void measure_data(worst *overall) {
    static const size_t shapes[][3] = {{2, 40, 1},   {9, 40, 1},    {17, 40, 1},   {64, 40, 1},
                                       {300, 40, 1}, {2500, 40, 1}, {20000, 5, 1}, {3, 40, 100},
                                       {40, 7, 36},  {5, 40, 900},  {2, 3, 20000}};
    for (accuracy_data data = ACCURACY_SORTED; data < ACCURACY_DATA; data++) {
        worst here = {.error = {0}};
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            const accuracy_case c = {.n = shapes[k][0],
                                     .num_features = shapes[k][1],
                                     .spatial = shapes[k][2],
                                     .spread = 1,
                                     .data = data};
            ref_errors errors = accuracy_measure(&c);
            worst_update(&here, &errors, &c);
            worst_update(overall, &errors, &c);
        }
        print_errors(accuracy_names[data], &here);
    }
}

/* x, y, dy and dx, and the reference's y, dx and dresidual. */
static double bytes(const accuracy_case *c) {
    double each = 4 * sizeof(float) + 3 * sizeof(double);
    return (double)c->n * (double)c->num_features * (double)c->spatial * each;
}

/* Shapes beyond this are left out: the table is for machines that people have. */
static const double most_bytes = 4e9;

static void measure_shapes(worst *overall, bool full) {
    static const size_t rows[] = {2, 3, 17, 1000, 1000000}, features[] = {1, 5, 64, 300};
    static const size_t planes[][3] = {
        {1, 4, 16}, {2, 3, 49}, {8, 16, 28 * 28}, {32, 64, 112 * 112}};
    static const double one = 1;

    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        for (size_t f = 0; f < sizeof features / sizeof *features; f++) {
            accuracy_case c = {.n = rows[r], .num_features = features[f], .spatial = 1};
            bool large = rows[r] * features[f] > 1000000;
            if (bytes(&c) > most_bytes || (large && features[f] > 5 && !full)) {
                print_shape(&c);
                printf("  left out: %.1f GB\n", bytes(&c) / 1e9);
            } else if (large && !full) {
                measure_shape(overall, c, 1, &one);
            } else {
                measure_shape(overall, c, ACCURACY_SPREADS, accuracy_spreads);
            }
        }
    }
    for (size_t p = 0; p < sizeof planes / sizeof *planes - (full ? 0 : 1); p++) {
        accuracy_case c = {
            .n = planes[p][0], .num_features = planes[p][1], .spatial = planes[p][2]};
        measure_shape(overall, c, ACCURACY_SPREADS, accuracy_spreads);
    }
}

int main(int argc, char **argv) {
    bool full = argc == 2 && strcmp(argv[1], "--full") == 0;
    if (argc > 1 && !full) {
        fprintf(stderr, "usage: accuracy [--full]\n");
        return EXIT_FAILURE;
    }

    printf("%-18s", "N x D (x S)");
    for (int q = 0; q < QUANTITIES; q++) {
        printf("%9s", quantities[q].name);
    }
    printf("\n");
    worst overall = {.error = {0}};
    measure_shapes(&overall, full);
    measure_data(&overall);

    printf("\n%-8s%9s%9s   %-18s%8s%8s  data\n", "", "limit", "worst", "at N x D (x S)", "offset",
           "spread");
    bool within = true;
    for (int q = 0; q < QUANTITIES; q++) {
        printf("%-8s%9g%9.3g   ", quantities[q].name, quantities[q].limit, overall.error[q]);
        print_shape(&overall.from[q]);
        printf("%8g%8g  %s\n", overall.from[q].offset, overall.from[q].spread,
               accuracy_names[overall.from[q].data]);
        within = within && overall.error[q] <= quantities[q].limit;
    }
    return within ? EXIT_SUCCESS : EXIT_FAILURE;
}
