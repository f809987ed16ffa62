/*
 * The floating-point environment: no call raises an exception that its data does not, and the
 * caller's environment is that of all threads that work for it, and is what they leave it. And the
 * process: the child of one that has computed with threads computes without, and so does a signal's
 * handler, whatever it interrupts.
 */
#define _GNU_SOURCE /* feenableexcept */
#include "calls.h"

#include <fenv.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

/* What good data never raises. Underflow and inexact results are nobody's fault. */
static const int serious = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;

/* Not where instructions are emulated without their exceptions (valgrind). */
static bool exceptions_are_seen(void) {
    volatile float large = FLT_MAX;
    feclearexcept(FE_ALL_EXCEPT);
    large = large * 2.0f;
    return fetestexcept(FE_OVERFLOW) != 0;
}

static void fill(float *values, size_t count, float value) {
    for (size_t k = 0; k < count; k++) {
        values[k] = value;
    }
}

/* ---- Exceptions ------------------------------------------------------------------------------ */

/* What lies where nothing was written: signalling NaNs, floats and doubles. As doubles the former
 * are so large that their squares overflow. */
static const uint64_t rubbish[] = {UINT64_C(0x7FA000007FA00000), UINT64_C(0x7FF4000000000000)};

/* Leaves so many bytes of it on the stack below the caller. */
enum { LITTERED = 256 * 1024 };
__attribute__((noinline)) static void litter_stack(uint64_t with) {
    volatile uint64_t words[LITTERED / sizeof with];
    for (size_t k = 0; k < COUNT_OF(words); k++) {
        words[k] = with;
    }
}

/* Memory from malloc is full of floats near FLT_MAX, of doubles near 1e306. */
static int litter_heap(void **state) {
    (void)state;
#if defined(M_PERTURB)
    mallopt(M_PERTURB, 0x80);
#endif
    return 0;
}

static void check_call(rig *r, size_t k) {
    for (size_t m = 0; m < COUNT_OF(rubbish); m++) {
        litter_stack(rubbish[m]);
        feclearexcept(FE_ALL_EXCEPT);
        const bn_status status = calls[k].make(r);
        const int raised = fetestexcept(serious);
        if (status != BN_STATUS_OK || raised != 0) {
            trial_describe(&r->t);
            print_error("    %s: %s, raises%s%s%s\n", calls[k].name, bn_status_string(status),
                        raised & FE_INVALID ? " invalid" : "",
                        raised & FE_DIVBYZERO ? " division by zero" : "",
                        raised & FE_OVERFLOW ? " overflow" : "");
            fail();
        }
    }
}

static void check_calls(rig *r, size_t count) {
    trial_pack(&r->t);
    for (size_t k = 0; k < count; k++) {
        check_call(r, k);
    }
}

#define skip_unless(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

/* Every kind that there is, but each of one shape only. */
static void ordinary_data_raises_nothing(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    for (unsigned kind = 0; kind < ALL_KINDS; kind++) {
        if (kind_exists(kind)) {
            rig r = rig_new(small_shapes[kind % SMALL_SHAPES], kind, 1);
            check_calls(&r, CALLS);
            rig_free(&r);
        }
    }
}

/* A feature far from zero that is constant: x - mean is 0, but 0 - mean is not, and no scale of
 * 1 / sqrt(eps) may meet it. Not folded into scale and shift, which do overflow. */
static void features_far_from_zero_raise_nothing(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    for (unsigned kind = 0; kind < ALL_KINDS; kind++) {
        if (!kind_exists(kind) || kind & WITH_F16) {
            continue; /* float16 does not go so far */
        }
        rig r = rig_new(small_shapes[kind % SMALL_SHAPES], kind & ~(unsigned)WITH_STRIDES, 1);
        trial *t = &r.t;
        fill(t->x, t->x_count, kind & 1 ? 0x1.FEp122f : -0x1.FEp122f);
        if (t->layer.frozen) {
            fill(t->layer.running_mean, t->layer.num_features, t->x[0]);
            fill(t->layer.running_var, t->layer.num_features, 0.0f);
        }
        check_calls(&r, CALLS_ON_DATA);
        rig_free(&r);
    }
}

/* Nothing is divided by W where the statistics are constants. */
static void a_frozen_batch_without_weight_raises_nothing(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        rig r = rig_new(small_shapes[k], FROZEN | WITH_WEIGHTS, 1);
        fill(r.t.sample_weight, r.t.batch.n, 0.0f);
        check_calls(&r, CALLS_ON_BATCHES);
        rig_free(&r);
    }
}

static void one_frozen_sample_raises_nothing(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        const size_t shape[3] = {1, small_shapes[k][1], small_shapes[k][2]};
        rig r = rig_new(shape, FROZEN | (k % 2 ? EVERYTHING : 0), 1);
        check_calls(&r, CALLS_ON_BATCHES);
        rig_free(&r);
    }
}

static void old_running_values_without_weight_raise_nothing(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    /* Infinities, a quiet NaN and a signalling one, as bits: no assignment touches them. */
    static const uint32_t olds[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0x7FA00000};
    for (size_t k = 0; k < COUNT_OF(olds) * SMALL_SHAPES; k++) {
        rig r = rig_new(small_shapes[k % SMALL_SHAPES], 0, 1);
        r.t.layer.options.momentum = 0;
        for (size_t d = 0; d < r.t.layer.num_features; d++) {
            memcpy(&r.t.layer.running_mean[d], &olds[k / SMALL_SHAPES], sizeof *olds);
            memcpy(&r.t.layer.running_var[d], &olds[k / SMALL_SHAPES], sizeof *olds);
        }
        check_call(&r, 0);
        rig_free(&r);
    }
}

/* Sample 1, or positions, of weight 0 and no gradient have quiet NaNs and infinities for x. */
static void check_masked(unsigned weights, unsigned activation) {
    for (unsigned kind = 0; kind < ALL_KINDS; kind++) {
        const unsigned all = weights | activation;
        if (!kind_exists(kind) ||
            (kind & (all | WITH_RELU | WITH_LEAKY | WITH_CLIP | WITH_STRIDES)) != all) {
            continue;
        }
        rig r = rig_new(small_shapes[kind % SMALL_SHAPES], kind, 1);
        trial *t = &r.t;
        const size_t row = t->x_count / t->batch.n, spatial = t->batch.spatial;
        if (weights == WITH_WEIGHTS) {
            t->sample_weight[1] = 0;
        }
        for (size_t j = 0; j < t->x_count; j++) {
            if (ref_weight(&t->batch, j / row, j % spatial) == 0) {
                t->x[j] = j % 2 ? NAN : INFINITY;
                t->dy[j] = 0;
            }
        }
        check_calls(&r, CALLS_ON_BATCHES);
        rig_free(&r);
    }
}

/* A quiet NaN passes through additions and multiplications without a sound. */
static void what_is_masked_raises_nothing(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    check_masked(WITH_WEIGHTS, 0);
    check_masked(WITH_POSITIONS, 0);
}

/* But not through every kind of comparison and maximum. */
static void what_is_masked_raises_nothing_in_activations(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    static const unsigned activations[] = {WITH_RELU, WITH_LEAKY, WITH_CLIP};
    for (size_t k = 0; k < COUNT_OF(activations); k++) {
        check_masked(WITH_WEIGHTS, activations[k]);
        check_masked(WITH_POSITIONS, activations[k]);
    }
}

/* Frozen, with gamma = 1, x so far from the mean that dgamma is just within float: dgamma / W *
 * invstd, which only training needs, is not. Without gamma not even dgamma need be. */
static void what_nobody_asked_for_raises_nothing(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    for (unsigned kind = 0; kind <= NO_SCALE; kind += NO_SCALE) {
        const size_t shape[3] = {2, 5, 1};
        rig r = rig_new(shape, FROZEN | kind, 1);
        trial *t = &r.t;
        fill(t->layer.running_mean, 5, 0.0f);
        fill(t->layer.running_var, 5, 0.0f);
        fill(t->x, t->x_count, 3e35f); /* xhat is 9.5e37 */
        fill(t->dy, t->y_count, kind == 0 ? 1.5f : 4.0f);
        if (t->layer.gamma) {
            fill(t->layer.gamma, 5, 1.0f);
        }
        check_calls(&r, CALLS_ON_BATCHES);
        rig_free(&r);
    }
}

static void all_calls_run_with_traps(void **state) {
    (void)state;
#if defined(__GLIBC__) && defined(__x86_64__)
    skip_unless(exceptions_are_seen());
    for (size_t k = 0; k < SMALL_SHAPES + LARGE_SHAPES; k++) {
        const size_t *shape = k < SMALL_SHAPES ? small_shapes[k] : large_shapes[k - SMALL_SHAPES];
        static const unsigned kinds[] = {0,
                                         EVERYTHING,
                                         FROZEN | EVERYTHING,
                                         UNTRACKED,
                                         WITH_LEAKY,
                                         WITH_CLIP | WITH_RESIDUAL,
                                         EVERYTHING | WITH_POSITIONS,
                                         WITH_BF16 | EVERYTHING,
                                         WITH_F16 | UNTRACKED};
        for (size_t m = 0; m < COUNT_OF(kinds); m++) {
            rig r = rig_new(shape, kinds[m], 2);
            feclearexcept(FE_ALL_EXCEPT);
            feenableexcept(serious);
            for (size_t call = 0; call < CALLS; call++) {
                litter_stack(rubbish[call % COUNT_OF(rubbish)]);
                assert_ok(calls[call].make(&r));
            }
            assert_int_equal(fegetexcept(), serious);
            fedisableexcept(serious);
            rig_free(&r);
        }
    }
#else
    skip();
#endif
}

/* ---- The caller's environment ---------------------------------------------------------------- */

/* Ways to round, and one of doing without subnormal numbers. */
enum { NEAREST, UPWARD, DOWNWARD, TOWARDZERO, FLUSHING, MODES };

static void enter(int mode) {
    static const int rounding[MODES] = {
        [NEAREST] = FE_TONEAREST,
#ifdef FE_UPWARD
        [UPWARD] = FE_UPWARD,
#endif
#ifdef FE_DOWNWARD
        [DOWNWARD] = FE_DOWNWARD,
#endif
#ifdef FE_TOWARDZERO
        [TOWARDZERO] = FE_TOWARDZERO,
#endif
    };
    fesetround(rounding[mode]);
    if (mode == FLUSHING) {
        set_flushing();
    }
}

/* Which mode this thread computes in, found by computing. */
static int present_mode(void) {
    volatile float one = 1.0f, little = 1e-10f, tiny = 1e-39f;
    const bool rounds_up = one + little > 1.0f, rounds_down = one - little < 1.0f;
    const bool negative_down = -one - little < -1.0f;
    return rounds_up           ? UPWARD
           : negative_down     ? DOWNWARD
           : rounds_down       ? TOWARDZERO
           : tiny * one > 0.0f ? NEAREST
                               : FLUSHING;
}

/* Forward, backward and inference in a mode, which is the caller's afterwards too. Where dy was is then
 * what inference makes of x. (Threads call it: it asserts nothing.) */
static bool computes_in(int mode, trial *t) {
    fenv_t before;
    trial_pack(t);
    const bn_batch batch = trial_batch(t);
    void *const x = trial_at(t, t->x), *const y = trial_at(t, t->y);
    void *const dy = trial_at(t, t->dy), *const dx = trial_at(t, t->dx);
    fegetenv(&before);
    enter(mode);
    const bn_status forward = bn_layer_forward_batch(&t->layer, &batch, x, y);
    const bn_status backward = bn_layer_backward_batch(&t->layer, &batch, x, dy, dx);
    const bn_status infer = bn_layer_infer_batch(&t->layer, &batch, x, dy);
    const int after = present_mode();
    fesetenv(&before);
    trial_unpack(t);
    return forward == BN_STATUS_OK && backward == BN_STATUS_OK && infer == BN_STATUS_OK &&
           after == mode;
}

/* The data is that of a trial, but one feature's is subnormal and gives what is little more. */
static rig rig_with_little(const size_t shape[3], unsigned kind, int num_threads) {
    const float little = kind & WITH_F16 ? 0x1p-16f : 1e-39f;
    rig r = rig_new(shape, kind, num_threads);
    trial *t = &r.t;
    for (size_t k = 0; k < t->x_count; k++) {
        if (k / shape[2] % shape[1] == 0) {
            t->dy[k] *= little;
            t->x[k] *= little;
        }
    }
    t->layer.beta[0] = 0;
    if (t->layer.running_mean) {
        t->layer.running_mean[0] = 0;
    }
    return r;
}

static rig run_in(int mode, const size_t shape[3], unsigned kind, int num_threads) {
    rig r = rig_with_little(shape, kind, num_threads);
    assert_true(computes_in(mode, &r.t));
    return r;
}

/* Some are not everywhere. */
static bool has_mode(int mode) {
    fenv_t before;
    fegetenv(&before);
    enter(mode);
    const bool has = present_mode() == mode;
    fesetenv(&before);
    return has;
}

static void check_same(const rig *got, const rig *want) {
    trial_check_same(&got->t, &want->t);
    assert_same_bits(got->t.dy, want->t.dy, want->t.y_count);
}

/* Floats that are a float16's value are no subnormals. */
static void check_modes(const size_t shape[3], unsigned kind) {
    rig usual = run_in(NEAREST, shape, kind, 3); /* by threads that begin like this one */
    for (int mode = MODES - 1; mode >= NEAREST; mode--) {
        if (!has_mode(mode)) {
            continue;
        }
        rig alone = run_in(mode, shape, kind, 1);
        const size_t bytes = usual.t.x_count * sizeof(float);
        const bool same = memcmp(alone.t.dx, usual.t.dx, bytes) == 0;
        assert_int_equal(same, mode == NEAREST || (mode == FLUSHING && kind & WITH_F16));
        for (int threads = 2; threads < 4; threads++) {
            rig shared = run_in(mode, shape, kind, threads);
            check_same(&shared, &alone);
            rig_free(&shared);
        }
        rig again = run_in(NEAREST, shape, kind, 3);
        check_same(&again, &usual);
        rig_free(&again);
        rig_free(&alone);
    }
    rig_free(&usual);
}

/* Of rows and of planes, with work for three threads. */
static const size_t rows[] = {8000, 64, 1}, planes[] = {70, 20, 300};

static void threads_compute_in_the_callers_mode(void **state) {
    (void)state;
    check_modes(rows, 0);
    check_modes(rows, UNTRACKED | EVERYTHING);
    check_modes(planes, EVERYTHING);
    check_modes(planes, FROZEN);
    check_modes(rows, WITH_LEAKY);
    check_modes(planes, WITH_CLIP);
    check_modes(planes, WITH_F16 | WITH_RESIDUAL);
}

typedef struct caller {
    trial *t;
    int mode;
    bool good;
} caller;

static void *compute_as(void *context) {
    caller *const c = context;
    c->good = computes_in(c->mode, c->t);
    return NULL;
}

/* At the same time, each in a mode of its own. */
static void callers_compute_each_in_its_mode(void **state) {
    (void)state;
    for (int round = 0; round < 3; round++) {
        rig shared[MODES];
        caller callers[MODES];
        pthread_t threads[MODES];
        for (int mode = NEAREST; mode < MODES; mode++) {
            shared[mode] = rig_with_little(rows, EVERYTHING, 2);
            callers[mode] = (caller){&shared[mode].t, has_mode(mode) ? mode : NEAREST, false};
        }
        for (int mode = NEAREST; mode < MODES; mode++) {
            const int error = pthread_create(&threads[mode], NULL, compute_as, &callers[mode]);
            assert_int_equal(error, 0);
        }
        for (int mode = NEAREST; mode < MODES; mode++) {
            assert_int_equal(pthread_join(threads[mode], NULL), 0);
            assert_true(callers[mode].good);
            rig alone = run_in(callers[mode].mode, rows, EVERYTHING, 1);
            check_same(&shared[mode], &alone);
            rig_free(&shared[mode]);
            rig_free(&alone);
        }
    }
}

/* Float's arithmetic is in the mode, what follows it is not. */
static void halves_are_rounded_to_nearest_in_any_mode(void **state) {
    (void)state;
    for (size_t k = 0; k < 2 * MODES; k++) {
        const int mode = (int)k / 2;
        if (!has_mode(mode)) {
            continue;
        }
        rig halves = rig_new(small_shapes[0], k % 2 ? WITH_F16 : WITH_BF16, 1);
        rig floats = rig_new(small_shapes[0], 0, 1);
        const trial *got = &halves.t, *want = &floats.t;
        memcpy(want->x, got->x, got->x_count * sizeof(float));
        memcpy(want->dy, got->dy, got->y_count * sizeof(float));
        assert_true(computes_in(mode, &halves.t));
        assert_true(computes_in(mode, &floats.t));
        for (size_t i = 0; i < got->x_count; i++) {
            const bn_dtype dtype = got->batch.dtype;
            assert_true((double)got->y[i] == ref_rounded(dtype, (double)want->y[i]));
            assert_true((double)got->dx[i] == ref_rounded(dtype, (double)want->dx[i]));
            assert_true((double)got->dy[i] == ref_rounded(dtype, (double)want->dy[i]));
        }
        rig_free(&halves);
        rig_free(&floats);
    }
}

/* OpenMP's threads are the whole program's. */
static void threads_are_left_in_their_own_mode(void **state) {
    (void)state;
#ifdef _OPENMP
    for (int mode = NEAREST; mode < MODES; mode++) {
        int others = 0;
        rig r = run_in(mode, rows, 0, 3);
#pragma omp parallel num_threads(3) reduction(+ : others)
        others += present_mode() != NEAREST;
        assert_int_equal(others, 0);
        rig_free(&r);
    }
#else
    skip();
#endif
}

#define assert_raises(flag, call)                                                                  \
    do {                                                                                           \
        feclearexcept(FE_ALL_EXCEPT);                                                              \
        assert_ok(call);                                                                           \
        assert_int_equal(fetestexcept(serious), flag);                                             \
    } while (0)

/* One value in a row of many makes y, or dx, overflow; no sum and no other value does. */
static void check_overflow_is_seen(rig *r, size_t at) {
    trial *t = &r->t;
    const size_t n = t->batch.n;
    t->x[at] = 3e38f;
    assert_raises(FE_OVERFLOW, bn_layer_forward(&t->layer, n, t->x, t->y));
    assert_raises(FE_OVERFLOW, bn_layer_infer(&t->layer, n, t->x, t->y));
    t->x[at] = 0;
    t->dy[at] = 3e38f;
    assert_raises(0, bn_layer_forward(&t->layer, n, t->x, t->y));
    assert_raises(FE_OVERFLOW, bn_layer_backward(&t->layer, n, t->x, t->dy, t->dx));
    t->dy[at] = 0;
}

/* Whichever thread comes by it. */
static void an_exception_reaches_the_caller(void **state) {
    (void)state;
    skip_unless(exceptions_are_seen());
    for (int threads = 1; threads < 4; threads++) {
        rig r = rig_new(rows, FROZEN, threads);
        fill(r.t.layer.gamma, rows[1], 4);
        fill(r.t.layer.running_mean, rows[1], 0);
        for (size_t k = 0; k < 16; k++) {
            check_overflow_is_seen(&r, (r.t.x_count - 1) * k / 15);
        }
        rig_free(&r);
    }
}

/* ---- Forked processes ------------------------------------------------------------------------ */

#ifdef _OPENMP
/* What a child does: nothing is asserted, as cmocka would go on with the next test there. */
static bool computes_alone(trial *t, const trial *want) {
    bn_layer *const layer = &t->layer;
    layer->options.num_threads = 1;
    if (bn_layer_forward(layer, t->batch.n, t->x, t->y) != BN_STATUS_OK ||
        bn_layer_backward(layer, t->batch.n, t->x, t->dy, t->dx) != BN_STATUS_OK) {
        return false;
    }
    const size_t vector = layer->num_features * sizeof(float);
    return memcmp(t->y, want->y, t->y_count * sizeof(float)) == 0 &&
           memcmp(t->dx, want->dx, t->x_count * sizeof(float)) == 0 &&
           memcmp(layer->dgamma, want->layer.dgamma, vector) == 0 &&
           memcmp(layer->running_var, want->layer.running_var, vector) == 0;
}
#endif

/* GCC's OpenMP waits for ever there, for threads that the child does not have. */
static void a_forked_child_computes_alone(void **state) {
    (void)state;
#ifdef _OPENMP
    enum { SECONDS = 20 }; /* and then it has hung */
    rig parents = rig_new(rows, 0, 3), childs = rig_new(rows, 0, 3);
    trial_run(&parents.t);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(SECONDS);
        _exit(computes_alone(&childs.t, &parents.t) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    rig_free(&parents);
    rig_free(&childs);
#else
    skip(); /* no threads; and valgrind finds in a child all that the parent has yet to free */
#endif
}

/* ---- Signals --------------------------------------------------------------------------------- */

enum { SIGNALS = 40 };
static routine in_handler;
static volatile sig_atomic_t handled;

/* Once; the handler does it again, so that what it interrupts goes on meanwhile, and none is on its way
 * when there have been enough. */
static void set_alarm(void) {
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {.tv_usec = 100}}, NULL);
}

static bool handler_fails;

static void compute_in_handler(int signal) {
    (void)signal;
    handler_fails = !routine_do(&in_handler) || handler_fails;
    if (++handled < SIGNALS) {
        set_alarm();
    }
}

/* Each has layers and data of its own, and both have the bits that they have alone. */
static void a_handler_computes_amid_any_call(void **state) {
    (void)state;
    static const unsigned kinds[] = {0, EVERYTHING | WITH_STRIDES, WITH_LEAKY | WITH_WEIGHTS,
                                     WITH_CLIP | WITH_POSITIONS};
    struct sigaction action = {.sa_handler = compute_in_handler}, before;
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        const size_t next = (k + 1) % SMALL_SHAPES;
        in_handler = routine_new(small_shapes[k], kinds[k % COUNT_OF(kinds)], 1);
        routine interrupted = routine_new(large_shapes[k], kinds[next % COUNT_OF(kinds)], 1);
        bool fails = false;
        handled = 0;
        set_alarm();
        while (handled < SIGNALS) {
            fails = !routine_do(&interrupted) || fails;
        }
        assert_false(fails);
        assert_false(handler_fails);
        routine_free(&interrupted);
        routine_free(&in_handler);
    }
    assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ordinary_data_raises_nothing),
        cmocka_unit_test(features_far_from_zero_raise_nothing),
        cmocka_unit_test(a_frozen_batch_without_weight_raises_nothing),
        cmocka_unit_test(one_frozen_sample_raises_nothing),
        cmocka_unit_test(old_running_values_without_weight_raise_nothing),
        cmocka_unit_test(what_is_masked_raises_nothing),
        cmocka_unit_test(what_is_masked_raises_nothing_in_activations),
        cmocka_unit_test(what_nobody_asked_for_raises_nothing),
        cmocka_unit_test(threads_compute_in_the_callers_mode),
        cmocka_unit_test(callers_compute_each_in_its_mode),
        cmocka_unit_test(halves_are_rounded_to_nearest_in_any_mode),
        cmocka_unit_test(threads_are_left_in_their_own_mode),
        cmocka_unit_test(an_exception_reaches_the_caller),
        cmocka_unit_test(a_forked_child_computes_alone),
        cmocka_unit_test(a_handler_computes_amid_any_call),
        cmocka_unit_test(all_calls_run_with_traps),
    };
    return cmocka_run_group_tests(tests, litter_heap, NULL);
}
