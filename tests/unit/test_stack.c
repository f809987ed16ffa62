/*
 * How much stack the calls use: as measured, and on threads that have little.
 */
#define _DEFAULT_SOURCE /* ftruncate */
#include "calls.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* AddressSanitizer's frames are its own: nothing can be said of the library's. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED true
#endif
#endif
#ifndef SANITIZED
#define SANITIZED false
#endif

enum { LIMIT = 32 * 1024, SMALL_STACK = 64 * 1024 };

/* Kinds of rigs that differ in what they have on the stack. */
static const unsigned kinds[] = {0,
                                 EVERYTHING,
                                 FROZEN | EVERYTHING,
                                 UNTRACKED | EVERYTHING,
                                 WITH_LEAKY,
                                 WITH_CLIP,
                                 EVERYTHING | WITH_POSITIONS,
                                 WITH_BF16 | WITH_WEIGHTS,
                                 WITH_F16 | EVERYTHING};

/* Large outputs are written past the caches, and planes that begin within a line are taken apart by
 * kernels that call themselves. */
static const size_t streamed[] = {1750, 17, 289};

/* ---- A stack to look at ---------------------------------------------------------------------- */

enum { STACK = 1 << 20, WORDS = STACK / sizeof(uint64_t) };
#define PAINT UINT64_C(0xA5A5A5A5A5A5A5A5)

/* A thread's stack, and the same memory at another address: what is below a stack pointer is not
 * to be looked at by way of the stack (says valgrind). */
static unsigned char *stack;
static uint64_t *view;

static int map_stack(void **state) {
    (void)state;
    FILE *file = tmpfile();
    if (file == NULL || ftruncate(fileno(file), STACK) != 0) {
        return -1;
    }
    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    void *other = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    view = other;
    fclose(file);
    return stack == MAP_FAILED || other == MAP_FAILED ||
           mprotect(stack, (size_t)sysconf(_SC_PAGESIZE), PROT_NONE) != 0;
}

static int unmap_stack(void **state) {
    (void)state;
    return munmap(stack, STACK) != 0 || munmap(view, STACK) != 0;
}

typedef struct job {
    bn_status (*make)(rig *r);
    rig *r;
    bn_status status;
    size_t used; /* bytes from here to the deepest that was written */
} job;

static void *work(void *argument) {
    job *j = argument;
    const unsigned char *here = __builtin_frame_address(0);
    j->status = j->make(j->r);
    size_t deepest = 0;
    while (view[deepest] == PAINT) {
        deepest++;
    }
    j->used = (size_t)(here - stack) - deepest * sizeof *view;
    return NULL;
}

static void run_on(const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, attributes, start, argument), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static size_t measure(bn_status (*make)(rig *r), rig *r) {
    pthread_attr_t attributes;
    job j = {.make = make, .r = r};
    for (size_t k = 0; k < WORDS; k++) {
        view[k] = PAINT;
    }
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstack(&attributes, stack, STACK), 0);
    run_on(&attributes, work, &j);
    assert_int_equal(pthread_attr_destroy(&attributes), 0);
    assert_ok(j.status);
    return j.used;
}

/* ---- What is not the library's --------------------------------------------------------------- */

static bn_status do_nothing(rig *r) {
    (void)r;
    return BN_STATUS_OK;
}

/* What OpenMP's runtime needs for a thread's first parallel region. */
static bn_status start_threads(rig *r) {
    (void)r;
#ifdef _OPENMP
#pragma omp parallel num_threads(2)
    { __asm__ volatile(""); }
#endif
    return BN_STATUS_OK;
}

/* ---- The tests ------------------------------------------------------------------------------- */

/* The most that each call has used so far. What is beyond the limit is said when it grows. */
static size_t most[CALLS];

/* Each call is made twice: the first time symbols are bound, which takes the dynamic linker some
 * KiB. */
static void check_shape(const size_t shape[3], unsigned kind, int num_threads) {
    rig r = rig_new(shape, kind, num_threads);
    const size_t before = measure(num_threads == 1 ? do_nothing : start_threads, NULL);
    for (size_t k = 0; k < CALLS; k++) {
        assert_ok(calls[k].make(&r));
        const size_t all = measure(calls[k].make, &r);
        const size_t used = all < before ? 0 : all - before;
        if (used > most[k] && used > LIMIT) {
            trial_describe(&r.t);
            print_error("    %s uses %zu bytes of stack, not at most %d\n", calls[k].name, used,
                        LIMIT);
        }
        most[k] = used > most[k] ? used : most[k];
    }
    rig_free(&r);
}

static void no_call_uses_more_than_32_KiB_of_stack(void **state) {
    (void)state;
    if (SANITIZED) {
        skip();
    }
    measure(start_threads, NULL); /* binds symbols */
    for (size_t kind = 0; kind < COUNT_OF(kinds); kind++) {
        for (size_t k = 0; k < SMALL_SHAPES; k++) {
            check_shape(small_shapes[k], kinds[kind], 1);
        }
        for (size_t k = 0; k < LARGE_SHAPES; k++) {
            check_shape(large_shapes[k], kinds[kind], 1);
            check_shape(large_shapes[k], kinds[kind], 2);
        }
    }
    check_shape(streamed, 0, 1);
    for (size_t k = 0; k < CALLS; k++) {
        assert_in_range(most[k], 0, LIMIT);
    }
}

static void *make_calls(void *argument) {
    job *j = argument;
    for (size_t k = 0; k < CALLS && j->status == BN_STATUS_OK; k++) {
        j->status = calls[k].make(j->r);
    }
    return NULL;
}

/* Behind the stack is a page whose every access ends the program. */
static void all_calls_run_on_64_KiB_of_stack(void **state) {
    (void)state;
    if (SANITIZED) {
        skip();
    }
    pthread_attr_t attributes;
    assert_int_equal(pthread_attr_init(&attributes), 0);
    if (pthread_attr_setstacksize(&attributes, SMALL_STACK) != 0) {
        skip(); /* no thread has so little (AArch64) */
    }
    for (size_t kind = 0; kind < COUNT_OF(kinds); kind++) {
        for (size_t k = 0; k < LARGE_SHAPES; k++) {
            rig r = rig_new(large_shapes[k], kinds[kind], 2);
            job j = {.r = &r, .status = BN_STATUS_OK};
            run_on(&attributes, make_calls, &j);
            assert_ok(j.status);
            rig_free(&r);
        }
    }
    assert_int_equal(pthread_attr_destroy(&attributes), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(no_call_uses_more_than_32_KiB_of_stack, map_stack,
                                        unmap_stack),
        cmocka_unit_test(all_calls_run_on_64_KiB_of_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
