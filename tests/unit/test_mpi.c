/*
 * Workers that are processes of MPI, started by mpiexec: each has a share of the rows, and all of them
 * are measured by the reference of the whole. And what is no communicator, which wants no mpiexec.
 */
#include "support.h"

#include <batchnorm/bn_mpi.h>

#include <stdlib.h>
#include <string.h>

static MPI_Comm world;
static int rank, processes;

/* ---- Shares ---------------------------------------------------------------------------------- */

static bn_options alone_in_its_process(void) {
    bn_options options = bn_options_default();
    options.num_threads = 1;
    return options;
}

/* A trial that every process has whole, and its own share of it: unequal ones, and none for the last of
 * several. */
typedef struct share {
    trial t;
    size_t first, n;
    bn_batch batch;
} share;

static size_t begin_of(size_t n, int of) {
    const int sharing = processes > 1 ? processes - 1 : 1;
    return of >= sharing ? n : n * (size_t)(of * (of + 1)) / (size_t)(sharing * (sharing + 1));
}

static share share_new(size_t features, size_t n, size_t spatial, bool weighted) {
    const bn_options options = alone_in_its_process();
    share s = {.t = trial_new(features, &options, (bn_batch){.n = n, .spatial = spatial})};
    if (weighted) {
        trial_add_weights(&s.t);
    }
    s.first = begin_of(n, rank);
    s.n = begin_of(n, rank + 1) - s.first;
    s.batch = s.t.batch;
    s.batch.n = s.n;
    s.batch.sample_weight = weighted ? s.t.sample_weight + s.first : NULL;
    assert_ok(bn_layer_set_comm(&s.t.layer, bn_mpi_comm(&world)));
    return s;
}

static size_t at(const share *s) {
    return s->first * s->t.layer.num_features * ref_spatial(&s->t.batch);
}

static bn_status forward(share *s) {
    return bn_layer_forward_batch(&s->t.layer, &s->batch, s->t.x + at(s), s->t.y + at(s));
}

static bn_status backward(share *s) {
    return bn_layer_backward_batch(&s->t.layer, &s->batch, s->t.x + at(s), s->t.dy + at(s),
                                   s->t.dx + at(s));
}

/* ---- Against all rows ------------------------------------------------------------------------ */

/* The whole y or dx: rows that are other processes' come from them. */
static void gather(float *values, const share *s) {
    const size_t row = s->t.layer.num_features * ref_spatial(&s->t.batch);
    const size_t count = s->t.batch.n * row;
    for (size_t k = 0; k < count; k++) {
        if (k < s->first * row || k >= (s->first + s->n) * row) {
            values[k] = 0;
        }
    }
    assert_int_equal(MPI_Allreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, world),
                     MPI_SUCCESS);
}

static void run_by_processes(trial *t, const void *context) {
    share *const *of = context;
    share *s = *of;
    assert_ok(forward(s));
    assert_ok(backward(s));
    gather(t->y, s);
    gather(t->dx, s);
}

static void check_processes(size_t features, size_t n, size_t spatial, bool weighted) {
    share s = share_new(features, n, spatial, weighted), *of = &s;
    for (int step = 0; step < 2; step++) {
        trial_check_run(&s.t, run_by_processes, &of);
    }
    trial_free(&s.t);
}

static void processes_are_as_one_with_all_rows(void **state) {
    (void)state;
    check_processes(5, 11, 1, false);
    check_processes(19, 24, 1, true);
    check_processes(4, 6, 9, false);
    check_processes(3, 7, 50, true);
    check_processes(1100, 40, 1, false);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static void a_fault_of_one_process_stops_all(void **state) {
    (void)state;
    share s = share_new(5, 11, 1, false);
    assert_ok(forward(&s));
    assert_ok(backward(&s));
    snapshot before = snapshot_take(&s.t.layer);
    for (int bad = 0; bad < processes; bad++) {
        const bool me = bad == rank;
        if (me) {
            s.batch.x_stride = 1;
        }
        assert_status(forward(&s), me ? BN_STATUS_BAD_SHAPE : BN_STATUS_COMM_FAILED);
        assert_status(backward(&s), me ? BN_STATUS_BAD_SHAPE : BN_STATUS_COMM_FAILED);
        s.batch.x_stride = 0;
        snapshot_check(&before, &s.t.layer);
    }
    snapshot_free(&before);
    assert_ok(forward(&s));
    assert_ok(backward(&s));
    trial_free(&s.t);
}

/* ---- What is no communicator ----------------------------------------------------------------- */

static void check_fails(MPI_Comm *comm) {
    const bn_options options = alone_in_its_process();
    const float x[4] = {1, 2, 3, 4};
    float y[4], dx[4];
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, 2, &options));
    assert_ok(bn_layer_forward(&layer, 2, x, y));
    const bn_comm used = bn_mpi_comm(comm);
    assert_non_null(used.allreduce_sum);
    assert_ok(bn_layer_set_comm(&layer, used));
    fill_pattern(y, sizeof y);
    fill_pattern(dx, sizeof dx);
    snapshot before = snapshot_take(&layer);
    assert_status(bn_layer_forward(&layer, 2, x, y), BN_STATUS_COMM_FAILED);
    assert_status(bn_layer_backward(&layer, 0, NULL, NULL, NULL), BN_STATUS_COMM_FAILED);
    snapshot_check(&before, &layer);
    assert_pattern(y, sizeof y);
    assert_pattern(dx, sizeof dx);
    assert_ok(bn_layer_set_comm(&layer, (bn_comm){0}));
    assert_ok(bn_layer_backward(&layer, 2, x, x, dx)); /* what was before serves again */
    snapshot_free(&before);
    bn_layer_free(&layer);
}

static void no_communicator_fails(void **state) {
    (void)state;
    MPI_Comm none = MPI_COMM_NULL;
    check_fails(NULL);
    check_fails(&none);
}

/* Between the even and the odd processes. */
static void an_intercommunicator_fails(void **state) {
    (void)state;
    MPI_Comm half, between;
    if (processes == 1) {
        skip();
    }
    MPI_Comm_split(world, rank % 2, rank, &half);
    MPI_Intercomm_create(half, 0, world, 1 - rank % 2, 0, &between);
    check_fails(&between);
    MPI_Comm_free(&between);
    MPI_Comm_free(&half);
}

static void mpi_that_is_not_there_fails(void **state) {
    (void)state;
    check_fails(&world);
}

int main(int argc, char **argv) {
    const struct CMUnitTest outside[] = {cmocka_unit_test(mpi_that_is_not_there_fails)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes_are_as_one_with_all_rows),
        cmocka_unit_test(a_fault_of_one_process_stops_all),
        cmocka_unit_test(no_communicator_fails),
        cmocka_unit_test(an_intercommunicator_fails),
    };
    world = MPI_COMM_WORLD;
    int failed = cmocka_run_group_tests_name("before MPI", outside, NULL, NULL);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &processes);
    failed += cmocka_run_group_tests(tests, NULL, NULL);
    if (failed > 0) { /* others may wait for this one */
        MPI_Abort(world, 1);
    }
    MPI_Finalize();
    return cmocka_run_group_tests_name("after MPI", outside, NULL, NULL);
}
