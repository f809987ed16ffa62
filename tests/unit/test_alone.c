/*
 * With num_threads = 1 no call enters OpenMP's runtime. Linked with stubs in its place, one for each
 * function of it that the library refers to (openmp_stubs.awk).
 */
#include "calls.h"

#include <setjmp.h>

extern const size_t openmp_entries; /* stubs */
void openmp_entered(const char *name);

static jmp_buf outside;
static const char *entered; /* the stub that was called; NULL: none */

/* What the library makes of a stub's return is not to be seen. */
void openmp_entered(const char *name) {
    entered = name;
    longjmp(outside, 1);
}

/* The name of the first stub that the calls come by; NULL: none. */
static const char *enters(const size_t shape[3], unsigned kind, int num_threads) {
    rig r = rig_new(shape, kind, num_threads);
    entered = NULL;
    for (volatile size_t k = 0; k < CALLS && entered == NULL; k++) {
        if (setjmp(outside) == 0) {
            assert_ok(calls[k].make(&r));
        } else if (num_threads == 1) {
            trial_describe(&r.t);
            print_error("    %s calls %s\n", calls[k].name, entered);
        }
    }
    rig_free(&r);
    return entered;
}

static const unsigned kinds[] = {0,
                                 EVERYTHING,
                                 UNTRACKED | EVERYTHING,
                                 FROZEN | EVERYTHING,
                                 FROZEN | NO_SCALE | NO_SHIFT,
                                 WITH_BF16 | EVERYTHING,
                                 WITH_F16};

static void one_thread_never_enters_openmp(void **state) {
    (void)state;
    for (size_t kind = 0; kind < COUNT_OF(kinds); kind++) {
        for (size_t k = 0; k < SMALL_SHAPES; k++) {
            assert_null(enters(small_shapes[k], kinds[kind], 1));
        }
        for (size_t k = 0; k < LARGE_SHAPES; k++) {
            assert_null(enters(large_shapes[k], kinds[kind], 1));
        }
    }
}

/* The stubs are in OpenMP's place: with a second thread to be had, they are called. */
static void more_threads_do(void **state) {
    (void)state;
    if (!BN_TEST_OPENMP) {
        assert_int_equal(openmp_entries, 0);
        skip();
    }
    assert_true(openmp_entries > 0);
    for (size_t k = 0; k < LARGE_SHAPES; k++) {
        assert_non_null(enters(large_shapes[k], kinds[k % COUNT_OF(kinds)], 2));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread_never_enters_openmp),
        cmocka_unit_test(more_threads_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
