/*
 * Prints in Markdown what it costs two processes of MPI to share a batch, 8 rows each: the median
 * microseconds of forward and backward by oneself, of the same with the other, and of the reductions
 * that are in it.
 *
 *     mpiexec -n 2 workers
 *
 * Calls are timed one by one, and as many as are said here: where processes wait for each other none
 * of them can go by its own clock, as time_contestants does.
 */
#include "problem.h"
#include "timing.h"

#include <batchnorm/bn_mpi.h>

#include <stdio.h>
#include <stdlib.h>

enum { PROCESSES = 2, ROWS = 8, TURNS = 20, CALLS = 100, SAMPLES = TURNS * CALLS };

typedef struct state {
    bench_problem problem;
    bn_layer alone, shared;
    bn_comm comm;
    double *values; /* zeros, which stay that */
} state;

static void must(bool done) {
    if (!done) {
        fprintf(stderr, "workers: a call failed\n");
        exit(EXIT_FAILURE); /* mpiexec then ends the other */
    }
}

static void train(bn_layer *layer, const bench_problem *p) {
    must(bn_layer_forward(layer, ROWS, p->x, p->out) == BN_STATUS_OK);
    must(bn_layer_backward(layer, ROWS, p->x, p->dy, p->out) == BN_STATUS_OK);
}

static void train_alone(state *s) {
    train(&s->alone, &s->problem);
}

static void train_shared(state *s) {
    train(&s->shared, &s->problem);
}

/* As many doubles as bn_layer_set_comm says. */
static void reduce(state *s) {
    const size_t d = s->problem.shape->c, counts[] = {d + 5, d + 5, 2 * d + 5};
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        must(s->comm.allreduce_sum(s->comm.context, s->values, counts[k]) == 0);
    }
}

enum { ALONE, SHARED, REDUCTIONS, KINDS };

static void (*const kinds[KINDS])(state *) = {
    [ALONE] = train_alone, [SHARED] = train_shared, [REDUCTIONS] = reduce};

static void measure(size_t d, MPI_Comm *world, double us[KINDS]) {
    const bench_shape shape = {ROWS, d, 1, CLASS_CALL, ""};
    bn_options options = bn_options_default();
    options.num_threads = 1;
    state s = {.problem = problem_make(&shape, BN_DTYPE_F32, 0),
               .comm = bn_mpi_comm(world),
               .values = bench_allocate((2 * d + 5) * sizeof(double))};
    must(bn_layer_init(&s.alone, d, &options) == BN_STATUS_OK);
    must(bn_layer_init(&s.shared, d, &options) == BN_STATUS_OK);
    must(bn_layer_set_comm(&s.shared, s.comm) == BN_STATUS_OK);

    static double samples[KINDS][SAMPLES];
    for (size_t k = 0; k < TURNS * KINDS; k++) {
        double *const turn = samples[k % KINDS] + k / KINDS * CALLS;
        MPI_Barrier(*world);
        for (size_t call = 0; call < CALLS; call++) {
            const double start = MPI_Wtime();
            kinds[k % KINDS](&s);
            turn[call] = (MPI_Wtime() - start) * 1e6;
        }
    }
    for (size_t k = 0; k < KINDS; k++) {
        us[k] = time_summarize(samples[k], SAMPLES).us;
    }
    bn_layer_free(&s.alone);
    bn_layer_free(&s.shared);
    problem_free(&s.problem);
    free(s.values);
}

int main(int argc, char **argv) {
    static const size_t features[] = {64, 256, 1024, 4096};
    int rank, size;
    MPI_Comm world = MPI_COMM_WORLD;
    must(MPI_Init(&argc, &argv) == MPI_SUCCESS);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    if (size != PROCESSES) {
        fprintf(stderr, "workers: of %d processes, not %d\n", PROCESSES, size);
        MPI_Abort(world, EXIT_FAILURE);
    }
    if (rank == 0) {
        printf("| D | alone, us | with the other | reductions |\n| --- | --- | --- | --- |\n");
    }
    for (size_t k = 0; k < sizeof features / sizeof features[0]; k++) {
        double us[KINDS];
        measure(features[k], &world, us);
        if (rank == 0) {
            printf("| %zu | %.1f | %.1f | %.1f |\n", features[k], us[ALONE], us[SHARED],
                   us[REDUCTIONS]);
        }
    }
    MPI_Finalize();
    return EXIT_SUCCESS;
}
