/*
 * Which row of tuning (src/tuning.h) suits this machine? Field by field, from the row that the library
 * has for it: all values that may be are timed against each other over batches of all sizes, and the
 * one that is fastest over all is kept. Prints what each value costs, and the row as it then is. No
 * value changes a result: those that do are not in the row.
 */
#include "contestant.h"
#include "machine.h"
#include "timing.h"

#include <batchnorm/bn_layer.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VALUES = 7 };

typedef enum kind { IS_SIZE, IS_DOUBLE, IS_BOOL } kind;

/* A field of the row; the values end with -1. */
typedef struct field {
    const char *name;
    size_t offset;
    kind kind;
    double values[MOST_VALUES + 1];
} field;

#define SIZE(f) #f, offsetof(bni_tuning, f), IS_SIZE
#define FROM(f) #f, offsetof(bni_tuning, f), IS_DOUBLE
#define FLAG(f) #f, offsetof(bni_tuning, f), IS_BOOL

static const field fields[] = {
    {SIZE(sums_ahead), {0, 2048, 4096, 16384, -1}},
    {FROM(fetch_from), {65536, 131072, 262144, 1048576, 8388608, HUGE_VAL, -1}},
    {FROM(fetch_two_from), {65536, 131072, 262144, 1048576, 8388608, HUGE_VAL, -1}},
    {FROM(fetch_rows_from), {131072, 524288, 1048576, 4194304, 5242880, 8388608, HUGE_VAL, -1}},
    {FROM(fetch_two_rows_from), {131072, 524288, 1048576, 4194304, 5242880, 8388608, HUGE_VAL, -1}},
    {FROM(stream_from), {262144, 1048576, 1572864, 2097152, 2621440, 4194304, 8388608, -1}},
    {FROM(stream_dx_from), {262144, 1048576, 1572864, 2097152, 2621440, 4194304, 8388608, -1}},
    {SIZE(inputs_ahead), {0, 512, 1024, 2048, 4096, -1}},
    {FLAG(past_l2), {0, 1, -1}},
    {SIZE(parts_ahead), {1024, 2048, 4096, 8192, -1}},
    {SIZE(output_ahead), {0, 128, 256, 512, -1}},
    {SIZE(write_elements), {2048, 4096, 8192, 16384, -1}},
    {SIZE(stream_rows), {1, 2, 4, 8, -1}},
    {SIZE(far_rows), {1, 2, 4, 8, -1}},
    {FROM(far_from), {1048576, 2097152, 4194304, 8388608, 16777216, -1}},
    {SIZE(planes_from), {16, 32, 64, 128, 256, -1}},
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static const bench_shape batches[] = {
    {128, 256, 1, CLASS_CACHED, ""},    {256, 1024, 1, CLASS_CACHED, ""},
    {1024, 1024, 1, CLASS_CACHED, ""},  {2048, 2048, 1, CLASS_WIDE, ""},
    {1024, 4096, 1, CLASS_WIDE, ""},    {65536, 256, 1, CLASS_MEMORY, ""},
    {16384, 1000, 1, CLASS_MEMORY, ""}, {32, 256, 196, CLASS_PLANES, ""},
    {32, 64, 3136, CLASS_PLANES, ""},   {8, 512, 49, CLASS_EIGHT, ""}};
enum { BATCHES = sizeof batches / sizeof batches[0] };

#define SECONDS 0.15

static void set(bni_tuning *row, const field *f, double value) {
    void *at = (char *)row + f->offset;
    switch (f->kind) {
    case IS_SIZE:
        *(size_t *)at = (size_t)value;
        break;
    case IS_DOUBLE:
        *(double *)at = value;
        break;
    case IS_BOOL:
        *(bool *)at = value != 0.0;
        break;
    }
}

static double get(const bni_tuning *row, const field *f) {
    const void *at = (const char *)row + f->offset;
    return f->kind == IS_SIZE     ? (double)*(const size_t *)at
           : f->kind == IS_DOUBLE ? *(const double *)at
                                  : (double)*(const bool *)at;
}

/* One value as a contestant: all share a layer. */
typedef struct trial {
    bn_layer *layer;
    bn_batch batch;
    const bench_problem *problem;
    bench_direction direction;
    bni_tuning row;
} trial;

static void call(void *state) {
    const trial *t = state;
    const bench_problem *p = t->problem;
    t->layer->internal.tuning = &t->row;
    const bn_status status = t->direction == FORWARD
                                 ? bn_layer_forward_batch(t->layer, &t->batch, p->x, p->out)
                             : t->direction == BACKWARD
                                 ? bn_layer_backward_batch(t->layer, &t->batch, p->x, p->dy, p->out)
                                 : bn_layer_infer_batch(t->layer, &t->batch, p->x, p->out);
    if (status != BN_STATUS_OK) {
        fprintf(stderr, "tune: the library failed: %s\n", bn_status_string(status));
        exit(EXIT_FAILURE);
    }
}

/* Adds, for each value of a field, the logarithm of its time over the least. */
static void time_values(const bni_tuning *row, const field *f, const bench_problem *p,
                        bn_layer *layer, bench_direction direction, double *sums) {
    trial trials[MOST_VALUES];
    bench_contestant contestants[MOST_VALUES] = {0};
    bench_timing times[MOST_VALUES];
    size_t count = 0;
    for (; f->values[count] >= 0.0; count++) {
        trials[count] =
            (trial){layer, {.n = p->shape->n, .spatial = p->shape->s}, p, direction, *row};
        set(&trials[count].row, f, f->values[count]);
        contestants[count] = (bench_contestant){.state = &trials[count], .call = call};
    }
    time_contestants(contestants, count, 1, SECONDS, times);
    double least = times[0].us;
    for (size_t i = 1; i < count; i++) {
        least = fmin(least, times[i].us);
    }
    printf("%5zux%zux%zu %-9s", p->shape->n, p->shape->c, p->shape->s, direction_name(direction));
    for (size_t i = 0; i < count; i++) {
        printf("  %.3f", times[i].us / least);
        sums[i] += log(times[i].us / least);
    }
    printf("\n");
    fflush(stdout);
}

static void time_batch(const bni_tuning *row, const field *f, const bench_shape *shape,
                       double *sums) {
    bench_problem p = problem_make(shape, BN_DTYPE_F32, 1);
    bn_options options = bn_options_default();
    bn_layer layer;
    options.num_threads = 1;
    if (bn_layer_init(&layer, shape->c, &options) != BN_STATUS_OK) {
        fprintf(stderr, "tune: no memory\n");
        exit(EXIT_FAILURE);
    }
    for (bench_direction d = FORWARD; d < DIRECTIONS; d++) {
        time_values(row, f, &p, &layer, d, sums);
    }
    bn_layer_free(&layer);
    problem_free(&p);
}

static void choose(bni_tuning *row, const field *f) {
    double sums[MOST_VALUES] = {0};
    size_t best = 0;
    printf("\n%-25s", f->name);
    for (size_t i = 0; f->values[i] >= 0.0; i++) {
        printf("  %g", f->values[i]);
    }
    printf("   (%g now)\n", get(row, f));
    for (size_t b = 0; b < BATCHES; b++) {
        time_batch(row, f, &batches[b], sums);
    }
    printf("%-25s", "geometric mean");
    for (size_t i = 0; f->values[i] >= 0.0; i++) {
        printf("  %.3f", exp(sums[i] / (BATCHES * DIRECTIONS)));
        best = sums[i] < sums[best] ? i : best;
    }
    printf("\n");
    set(row, f, f->values[best]);
}

int main(int argc, char **argv) {
    const bni_machine *machine = bni_machine_here();
    bni_tuning row = machine->tuning;
    printf("The library takes this machine for: %s\n", machine->name);
    for (size_t i = 0; i < FIELDS; i++) {
        bool wanted = argc == 1;
        for (int a = 1; a < argc; a++) {
            wanted = wanted || strcmp(argv[a], fields[i].name) == 0;
        }
        if (wanted) {
            choose(&row, &fields[i]);
        }
    }
    printf("\nThe row for this machine:\n");
    for (size_t i = 0; i < FIELDS; i++) {
        printf("    .%s = %.*f,\n", fields[i].name, fields[i].kind == IS_DOUBLE ? 1 : 0,
               get(&row, &fields[i]));
    }
    return EXIT_SUCCESS;
}
