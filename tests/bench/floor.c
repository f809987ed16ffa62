/*
 * What memory allows: y = x (forward, inference) or dx = x + dy (backward), with the widest vectors
 * of this machine, with ordinary stores and with stores past the caches, on one thread and on all.
 * And the same after all inputs have been read once: forward and backward have to.
 *
 * A buffer is words of a float's size, also where these are two halves each: then dx = x xor dy, as
 * the sum of two such words, taken for floats, could be subnormal and slow. An odd last half stays.
 */
#include "contestant.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef void kernel(const float *x, const float *dy, float *out, size_t count);

/* ---- Kernels --------------------------------------------------------------------------------- */

/* Writes value, or what is left over last_value by last_value. out is aligned. */
#define KERNEL(name, attributes, width, store, value, last_value)                                  \
    attributes static void name(const float *x, const float *dy, float *out, size_t count) {       \
        (void)dy;                                                                                  \
        size_t k = 0;                                                                              \
        for (; k + (width) <= count; k += (width)) {                                               \
            store(out + k, value);                                                                 \
        }                                                                                          \
        for (; k < count; k++) {                                                                   \
            out[k] = last_value;                                                                   \
        }                                                                                          \
    }

#define PLAIN_STORE(to, value) *(to) = (value)
KERNEL(copy_plain, , 1, PLAIN_STORE, x[k], x[k])
KERNEL(add_plain, , 1, PLAIN_STORE, x[k] + dy[k], x[k] + dy[k])

static float xor_words(float a, float b) {
    unsigned x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    x ^= y;
    memcpy(&a, &x, sizeof a);
    return a;
}

#define XOR xor_words(x[k], dy[k])
KERNEL(xor_plain, , 1, PLAIN_STORE, XOR, XOR)

#ifdef __x86_64__
#define AVX        __attribute__((target("avx")))
#define AVX_X      _mm256_loadu_ps(x + k)
#define AVX_DY     _mm256_loadu_ps(dy + k)
#define AVX_ADD    _mm256_add_ps(AVX_X, AVX_DY)
#define AVX_XOR    _mm256_xor_ps(AVX_X, AVX_DY)
#define AVX512     __attribute__((target("avx512f")))
#define AVX512_X   _mm512_loadu_ps(x + k)
#define AVX512_DY  _mm512_loadu_ps(dy + k)
#define AVX512_ADD _mm512_add_ps(AVX512_X, AVX512_DY)
#define AVX512_XOR                                                                                 \
    _mm512_castsi512_ps(                                                                           \
        _mm512_xor_si512(_mm512_castps_si512(AVX512_X), _mm512_castps_si512(AVX512_DY)))
KERNEL(copy_avx, AVX, 8, _mm256_store_ps, AVX_X, x[k])
KERNEL(copy_avx_streamed, AVX, 8, _mm256_stream_ps, AVX_X, x[k])
KERNEL(add_avx, AVX, 8, _mm256_store_ps, AVX_ADD, x[k] + dy[k])
KERNEL(add_avx_streamed, AVX, 8, _mm256_stream_ps, AVX_ADD, x[k] + dy[k])
KERNEL(xor_avx, AVX, 8, _mm256_store_ps, AVX_XOR, XOR)
KERNEL(xor_avx_streamed, AVX, 8, _mm256_stream_ps, AVX_XOR, XOR)
KERNEL(copy_avx512, AVX512, 16, _mm512_store_ps, AVX512_X, x[k])
KERNEL(copy_avx512_streamed, AVX512, 16, _mm512_stream_ps, AVX512_X, x[k])
KERNEL(add_avx512, AVX512, 16, _mm512_store_ps, AVX512_ADD, x[k] + dy[k])
KERNEL(add_avx512_streamed, AVX512, 16, _mm512_stream_ps, AVX512_ADD, x[k] + dy[k])
KERNEL(xor_avx512, AVX512, 16, _mm512_store_ps, AVX512_XOR, XOR)
KERNEL(xor_avx512_streamed, AVX512, 16, _mm512_stream_ps, AVX512_XOR, XOR)
#endif

typedef enum operation { COPY, ADD, JOIN, OPERATIONS } operation;

/* Returns NULL where there are no streaming stores. */
static kernel *choose(operation o, bool streamed) {
    static kernel *const plain[OPERATIONS] = {copy_plain, add_plain, xor_plain};
#ifdef __x86_64__
    static kernel *const avx[OPERATIONS][2] = {
        {copy_avx, copy_avx_streamed}, {add_avx, add_avx_streamed}, {xor_avx, xor_avx_streamed}};
    static kernel *const avx512[OPERATIONS][2] = {{copy_avx512, copy_avx512_streamed},
                                                  {add_avx512, add_avx512_streamed},
                                                  {xor_avx512, xor_avx512_streamed}};
    if (__builtin_cpu_supports("avx512f")) {
        return avx512[o][streamed];
    }
    if (__builtin_cpu_supports("avx")) {
        return avx[o][streamed];
    }
#endif
    return streamed ? NULL : plain[o];
}

static void fence(void) {
#ifdef __x86_64__
    _mm_sfence();
#endif
}

/* ---- Reading --------------------------------------------------------------------------------- */

enum { LINE = 16, AHEAD = 16384 }; /* words */

typedef unsigned bits __attribute__((may_alias));

/* Reads x and y, which may be the same, line by line, fetching 64 KiB ahead. */
#define READER(name, attributes)                                                                   \
    attributes static unsigned name(const float *x, const float *y, size_t count) {                \
        const bits *a = (const bits *)x, *b = (const bits *)y;                                     \
        unsigned seen[LINE] = {0}, all = 0;                                                        \
        size_t k = 0;                                                                              \
        for (; k + LINE <= count; k += LINE) {                                                     \
            if (k + AHEAD < count) {                                                               \
                __builtin_prefetch(a + k + AHEAD, 0, 2);                                           \
                __builtin_prefetch(b + k + AHEAD, 0, 2);                                           \
            }                                                                                      \
            for (size_t l = 0; l < LINE; l++) {                                                    \
                seen[l] |= a[k + l] ^ b[k + l];                                                    \
            }                                                                                      \
        }                                                                                          \
        for (size_t l = 0; l < LINE; l++) {                                                        \
            all |= seen[l];                                                                        \
        }                                                                                          \
        return all;                                                                                \
    }

READER(read_plain, )
#ifdef __x86_64__
READER(read_avx2, __attribute__((target("avx2"))))
READER(read_avx512, __attribute__((target("avx512f"))))
#endif

static volatile unsigned sink; /* of what is read: so that nothing is left out */

static void read_inputs(const float *x, const float *y, size_t count) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f")) {
        sink = read_avx512(x, y, count);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        sink = read_avx2(x, y, count);
        return;
    }
#endif
    sink = read_plain(x, y, count);
}

/* ---- The contestants ------------------------------------------------------------------------- */

typedef struct state {
    const bench_problem *problem;
    kernel *kernel;
    int threads;
    const float *read_too; /* what is read before, beside x; NULL: nothing */
} state;

static size_t words(const bench_problem *p) {
    return problem_bytes(p) / sizeof(float);
}

/* One thread's part. */
static void run_part(const state *s, size_t begin, size_t end) {
    const float *x = s->problem->x, *dy = s->problem->dy;
    float *out = s->problem->out;
    if (s->read_too != NULL) {
        read_inputs(x + begin, s->read_too + begin, end - begin);
    }
    s->kernel(x + begin, dy + begin, out + begin, end - begin);
    fence();
}

static void run_alone(void *context) {
    const state *s = context;
    run_part(s, 0, words(s->problem));
}

/* Every thread takes an equal part, in pieces that keep out aligned. */
static void run_together(void *context) {
    enum { PIECE = 64 };
    const state *s = context;
    const size_t count = words(s->problem), pieces = (count + PIECE - 1) / PIECE;
#pragma omp parallel num_threads(s->threads)
    {
        const size_t thread = (size_t)omp_get_thread_num(), threads = (size_t)omp_get_num_threads();
        const size_t begin = pieces * thread / threads * PIECE;
        const size_t end = pieces * (thread + 1) / threads * PIECE;
        run_part(s, begin, end < count ? end : count);
    }
}

/* From here on (4 MiB a buffer) many threads are always faster than one. */
static bool is_large(const bench_problem *p) {
    return problem_bytes(p) >= (size_t)4 << 20;
}

/* Makes the contestant of a variant: bit 0, streamed; bit 1, on one thread where others would be on
 * several. False past the last. */
static bool make(bench_contestant *made, const bench_problem *p, bench_direction d, int threads,
                 size_t variant) {
    const bool streamed = variant % 2 == 1, together = threads > 1 && variant < 2;
    const operation o = d != BACKWARD ? COPY : p->dtype == BN_DTYPE_F32 ? ADD : JOIN;
    kernel *const chosen = choose(o, streamed);
    if (variant >= (threads > 1 && !is_large(p) ? 4 : 2) || chosen == NULL) {
        return false;
    }
    state *s = bench_allocate(sizeof *s);
    *s = (state){.problem = p, .kernel = chosen, .threads = threads};
    *made =
        (bench_contestant){.state = s, .call = together ? run_together : run_alone, .end = free};
    return true;
}

bool floor_make(bench_contestant *made, const bench_problem *p, bench_direction d, int threads,
                size_t variant) {
    static const char *const names[] = {"floor", "floor streamed", "floor 1 thread",
                                        "floor streamed 1 thread"};
    if (!make(made, p, d, threads, variant)) {
        return false;
    }
    made->name = names[variant];
    made->role = ROLE_FLOOR;
    return true;
}

bool twice_make(bench_contestant *made, const bench_problem *p, bench_direction d, int threads,
                size_t variant) {
    static const char *const names[] = {"twice", "twice streamed", "twice 1 thread",
                                        "twice streamed 1 thread"};
    if (d == INFERENCE || !make(made, p, d, threads, variant)) {
        return false;
    }
    ((state *)made->state)->read_too = d == BACKWARD ? p->dy : p->x;
    made->name = names[variant];
    made->role = ROLE_TWICE;
    return true;
}
