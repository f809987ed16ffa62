/*
 * Processes of MPI that share a batch, each with some of its rows, against what one with all rows has to
 * get: mpiexec -n 1, 2, ... test_mpi. One whose check fails ends them all, as the others wait for it.
 */
#include <batchnorm/bn_mpi.h>

#include "calls.h"

#include <stdlib.h>
#include <string.h>

static MPI_Comm world; /* an address that stays */

/* ---- Shares ---------------------------------------------------------------------------------- */

typedef struct share {
    size_t first, n;
} share;

/* Uneven ones: the last process has what is left; of four, the second has nothing. */
static share share_of_this(size_t n) {
    int rank, size;
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    const size_t r = (size_t)rank, of = (size_t)size;
    const bool skips = of == 4;
    const size_t each = n / (of + 1), place = skips && r > 1 ? r - 1 : r;
    const size_t first = place * each;
    return (share){first, r + 1 == of ? n - first : skips && r == 1 ? 0 : each};
}

static const float *rows_from(const float *of, size_t first, size_t each) {
    return of == NULL ? NULL : of + first * each;
}

/* The batch of this process's rows of a dense trial, and where these begin in its buffers. */
static bn_batch take_rows(const trial *t, share of, size_t *at) {
    const size_t spatial = t->batch.spatial > 1 ? t->batch.spatial : 1;
    bn_batch part = t->batch;
    *at = of.first * t->layer.num_features * spatial;
    part.n = of.n;
    part.sample_weight = rows_from(t->sample_weight, of.first, 1);
    part.position_weight = rows_from(t->position_weight, of.first, spatial);
    part.residual = trial_at(t, rows_from(t->residual, *at, 1));
    part.y = t->batch.y == NULL ? NULL : trial_at(t, t->y + *at);
    part.dresidual = trial_at(t, rows_from(t->dresidual, *at, 1));
    return part;
}

/* What other processes write is not seen here: it is taken from the one with all rows. */
static void fill_others(trial *t, const trial *whole, share of) {
    const size_t row = t->x_count / t->batch.n, at = of.first * row, end = at + of.n * row;
    float *const own[] = {t->y, t->dx, t->dresidual};
    const float *const all[] = {whole->y, whole->dx, whole->dresidual};
    for (size_t k = 0; k < COUNT_OF(own); k++) {
        if (own[k] != NULL) {
            memcpy(own[k], all[k], at * sizeof(float));
            memcpy(own[k] + end, all[k] + end, (t->x_count - end) * sizeof(float));
        }
    }
}

static void run_share(trial *t, const void *context) {
    const share of = share_of_this(t->batch.n);
    size_t at;
    const bn_batch part = take_rows(t, of, &at);
    assert_ok(bn_layer_set_comm(&t->layer, bn_mpi_comm(&world)));
    const void *const x = trial_at(t, t->x + at);
    trial_pack(t);
    assert_ok(bn_layer_forward_batch(&t->layer, &part, x, trial_at(t, t->y + at)));
    assert_ok(bn_layer_backward_batch(&t->layer, &part, x, trial_at(t, t->dy + at),
                                      trial_at(t, t->dx + at)));
    trial_unpack(t);
    fill_others(t, context, of);
}

static void check_share(const size_t shape[3], unsigned kind, int num_threads) {
    rig shared = rig_new(shape, kind, num_threads), whole = rig_new(shape, kind, 1);
    trial_run(&whole.t);
    trial_check_run(&shared.t, run_share, &whole.t);
    rig_free(&shared);
    rig_free(&whole);
}

static void shares_are_the_whole(void **state) {
    (void)state;
    static const unsigned kinds[] = {0,
                                     EVERYTHING,
                                     WITH_POSITIONS | WITH_CLIP,
                                     CUMULATIVE,
                                     NO_SCALE | UNTRACKED,
                                     FROZEN | WITH_LEAKY,
                                     ACCUMULATING,
                                     WITH_F16 | EVERYTHING};
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        for (size_t m = 0; m < COUNT_OF(kinds); m++) {
            check_share(small_shapes[k], kinds[m], 1);
        }
    }
    for (size_t k = 0; k < LARGE_SHAPES; k++) {
        check_share(large_shapes[k], EVERYTHING, 2);
    }
}

/* ---- Faults ----------------------------------------------------------------------------------- */

static bool is_alone(void) {
    int size;
    MPI_Comm_size(world, &size);
    return size == 1;
}

/* One after the other has no x, or no dy; all have what they had before, and the next call works. */
static void a_fault_of_one_stops_all(void **state) {
    (void)state;
    enum { N = 4, D = 3 };
    int rank, size;
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    trial t = trial_new(D, NULL, (bn_batch){.n = N});
    const size_t bytes = t.y_count * sizeof *t.y;
    assert_ok(bn_layer_set_comm(&t.layer, bn_mpi_comm(&world)));
    for (int bad = 0; bad < size; bad++) {
        const bool me = bad == rank;
        const bn_status want = me ? BN_STATUS_NULL_POINTER : BN_STATUS_COMM_FAILED;
        snapshot before = snapshot_take(&t.layer);
        fill_pattern(t.y, bytes);
        fill_pattern(t.dx, bytes);
        assert_status(bn_layer_forward(&t.layer, N, me ? NULL : t.x, t.y), want);
        snapshot_check(&before, &t.layer);
        snapshot_free(&before);
        assert_pattern(t.y, bytes);
        assert_ok(bn_layer_forward(&t.layer, N, t.x, t.y));
        assert_status(bn_layer_backward(&t.layer, N, t.x, me ? NULL : t.dy, t.dx), want);
        assert_pattern(t.dx, bytes);
        assert_ok(bn_layer_backward(&t.layer, N, t.x, t.dy, t.dx));
    }
    trial_free(&t);
}

static void check_fails(MPI_Comm *comm) {
    enum { N = 4, D = 3 };
    trial t = trial_new(D, NULL, (bn_batch){.n = N});
    trial_run(&t);
    assert_ok(bn_layer_set_comm(&t.layer, bn_mpi_comm(comm)));
    fill_pattern(t.y, t.y_count * sizeof *t.y);
    snapshot before = snapshot_take(&t.layer);
    assert_status(bn_layer_forward(&t.layer, N, t.x, t.y), BN_STATUS_COMM_FAILED);
    assert_status(bn_layer_backward(&t.layer, 0, NULL, NULL, NULL), BN_STATUS_COMM_FAILED);
    assert_pattern(t.y, t.y_count * sizeof *t.y);
    snapshot_check(&before, &t.layer);
    assert_ok(bn_layer_set_comm(&t.layer, (bn_comm){0}));
    assert_ok(bn_layer_backward(&t.layer, N, t.x, t.dy, t.dx)); /* what was before serves again */
    snapshot_free(&before);
    trial_free(&t);
}

static void what_is_no_communicator_fails(void **state) {
    (void)state;
    MPI_Comm none = MPI_COMM_NULL;
    check_fails(NULL);
    check_fails(&none);
}

static void between_two_groups_there_is_no_sum(void **state) {
    (void)state;
    if (is_alone()) {
        return;
    }
    int rank;
    MPI_Comm half, between;
    MPI_Comm_rank(world, &rank);
    MPI_Comm_split(world, rank % 2, rank, &half);
    MPI_Intercomm_create(half, 0, world, 1 - rank % 2, 0, &between);
    check_fails(&between);
    MPI_Comm_free(&between);
    MPI_Comm_free(&half);
}

static void outside_of_the_life_of_mpi_it_fails(void **state) {
    (void)state;
    MPI_Comm comm = MPI_COMM_WORLD;
    check_fails(&comm);
}

int main(int argc, char **argv) {
    const struct CMUnitTest outside[] = {cmocka_unit_test(outside_of_the_life_of_mpi_it_fails)};
    const struct CMUnitTest inside[] = {
        cmocka_unit_test(shares_are_the_whole),
        cmocka_unit_test(a_fault_of_one_stops_all),
        cmocka_unit_test(what_is_no_communicator_fails),
        cmocka_unit_test(between_two_groups_there_is_no_sum),
    };
    int failed = cmocka_run_group_tests_name("before", outside, NULL, NULL);
    MPI_Init(&argc, &argv);
    world = MPI_COMM_WORLD;
    failed += cmocka_run_group_tests_name("mpi", inside, NULL, NULL);
    if (failed != 0) {
        MPI_Abort(world, EXIT_FAILURE);
    }
    MPI_Finalize();
    return cmocka_run_group_tests_name("after", outside, NULL, NULL);
}
