/*
 * The vector vocabulary of data_template.h in the vector extensions that GCC and Clang share: four
 * lanes, in whatever instructions the target has, if need be lane by lane.
 *
 * BNI_LANES         floats in a vector
 * BNI_TILE          vectors of a row that a kernel writes at once, its coefficients in registers
 * BNI_SUMS_TILE     the same where sums are formed: a cache line, or more
 * BNI_FUSED         1: there is a fused multiply-add of floats
 * BNI_VARIANTS      1: a kernel has code of its own for each case; 0: all go through the same
 * vf, vd, vh, vhh   BNI_LANES floats; as many doubles; as many of a half type, as bits; twice as many
 */
#include "kernels/element.h"

#include <stddef.h>

#ifdef BNI_X86_64
#include <emmintrin.h>
#endif

#define BNI_LANES     4
#define BNI_TILE      2
#define BNI_SUMS_TILE 4
#define BNI_VARIANTS  0
#define BNI_FUSED     0

/* On x86 without SSE it says that such are passed in another way with it. Here they stay in one file. */
#if defined(__i386__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

typedef float vf __attribute__((vector_size(16)));
typedef uint32_t vf_bits __attribute__((vector_size(16)));

typedef struct vh {
    uint16_t lane[BNI_LANES];
} vh;

typedef struct vhh {
    vh low, high;
} vhh;

/* Twice as long as any vector that SSE2 or NEON has: not as an argument, whose place would depend on
 * what the target has. */
typedef double doubles __attribute__((vector_size(32)));

typedef struct vd {
    double lane[BNI_LANES];
} vd;

static inline vf vf_load(const float *from) {
    vf v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void vf_store(float *to, vf v) {
    memcpy(to, &v, sizeof v);
}

/* The first `count` lanes from memory, the others from `rest`. */
static __attribute__((noinline)) vf vf_load_part(const float *from, size_t count, vf rest) {
    float lane[BNI_LANES];
    vf_store(lane, rest);
    for (size_t l = 0; l < count; l++) {
        lane[l] = bni_load_float(from + l);
    }
    return vf_load(lane);
}

static __attribute__((noinline)) void vf_store_part(float *to, size_t count, vf v) {
    float lane[BNI_LANES];
    vf_store(lane, v);
    for (size_t l = 0; l < count; l++) {
        bni_store_float(to + l, lane[l]);
    }
}

static inline vf vf_set1(float value) {
    return (vf){value, value, value, value};
}

/* The first `count` lanes; those of `rest` behind them. */
static inline vf vf_part(vf a, size_t count, vf rest) {
    float lane[BNI_LANES];
    vf_store(lane, a);
    return vf_load_part(lane, count, rest);
}

/* Past the caches, where there are instructions for it; to is at a multiple of a vector's size. */
static inline void vf_stream(float *to, vf v) {
#ifdef BNI_X86_64
    _mm_stream_ps(to, v);
#else
    vf_store(to, v);
#endif
}

static inline vf vf_add(vf a, vf b) {
    return a + b;
}

static inline vf vf_sub(vf a, vf b) {
    return a - b;
}

static inline vf vf_mul(vf a, vf b) {
    return a * b;
}

/* max(a, 0); NaN stays NaN. By the bits, as in bits.h: no NaN raises FE_INVALID in this one or the
 * next five. */
static inline vf vf_relu(vf a) {
    const vf_bits bits = (vf_bits)a;
    return (vf)(bits & ~(vf_bits)(bits - 0x80000001u < BNI_INF_BITS));
}

/* a where z > 0, else 0. */
static inline vf vf_where_positive(vf z, vf a) {
    return (vf)((vf_bits)a & (vf_bits)((vf_bits)z - 1u < BNI_INF_BITS));
}

/* min(max(a, 0), max), with vf_relu's 0; NaN stays NaN. max > 0 and finite; below it may be Inf. */
static inline vf vf_clip(vf a, vf max) {
    const vf_bits above = (vf_bits)((vf_bits)a - (vf_bits)max - 1u < BNI_INF_BITS - (vf_bits)max);
    return (vf)(((vf_bits)max & above) | ((vf_bits)vf_relu(a) & ~above));
}

/* a where 0 < z < max, else 0. */
static inline vf vf_where_between(vf z, vf max, vf a) {
    return (vf)((vf_bits)a & (vf_bits)((vf_bits)z - 1u < (vf_bits)max - 1u));
}

/* a where z > 0, else slope * a, which is formed nowhere else: it may overflow. */
static inline vf vf_leaky(vf z, vf slope, vf a) {
    const vf_bits positive = (vf_bits)((vf_bits)z - 1u < BNI_INF_BITS);
    return a * (vf)(((vf_bits)vf_set1(1.0f) & positive) | ((vf_bits)slope & ~positive));
}

/* a where z is 0, else b. */
static inline vf vf_where_zero(vf z, vf a, vf b) {
    const vf_bits zero = (vf_bits)((vf_bits)z << 1 == 0u);
    return (vf)(((vf_bits)a & zero) | ((vf_bits)b & ~zero));
}

/* ---- Half types, at addresses of any alignment ---- */

static inline vh vh_load(const void *from) {
    vh h;
    memcpy(&h, from, sizeof h);
    return h;
}

static inline void vh_store(void *to, vh h) {
    memcpy(to, &h, sizeof h);
}

/* The first `count` lanes; 0 in the others. */
static __attribute__((noinline)) vh vh_load_part(const void *from, size_t count) {
    vh h = {0};
    memcpy(&h, from, count * sizeof(uint16_t));
    return h;
}

static __attribute__((noinline)) void vh_store_part(void *to, size_t count, vh h) {
    memcpy(to, &h, count * sizeof(uint16_t));
}

/* As vf_stream. */
static inline void vh_stream(void *to, vh h) {
#ifdef BNI_X86_64
    long long four;
    memcpy(&four, &h, sizeof four);
    _mm_stream_si64(to, four);
#else
    vh_store(to, h);
#endif
}

/* (Functions, as there is much of them.) */
static __attribute__((noinline)) vf vf_from_f16(vh h) {
    float lane[BNI_LANES];
    for (size_t l = 0; l < BNI_LANES; l++) {
        lane[l] = bni_float_of_f16(h.lane[l]);
    }
    return vf_load(lane);
}

static __attribute__((noinline)) vh vh_f16(vf a) {
    vh h;
    float lane[BNI_LANES];
    vf_store(lane, a);
    for (size_t l = 0; l < BNI_LANES; l++) {
        h.lane[l] = (uint16_t)bni_f16_of(lane[l]);
    }
    return h;
}

/* A NaN that is not quiet stays so. */
static inline vf vf_from_bf16(vh h) {
    const vf_bits bits = {h.lane[0], h.lane[1], h.lane[2], h.lane[3]};
    return (vf)(bits << 16);
}

/* Makes every NaN quiet. */
static inline vf vf_quiet(vf a) {
    const vf_bits nan = (vf_bits)(((vf_bits)a & 0x7fffffffu) > BNI_INF_BITS);
    return (vf)((vf_bits)a | (nan & 0x400000u));
}

static __attribute__((noinline)) vh vh_bf16(vf a) {
    vh h;
    float lane[BNI_LANES];
    vf_store(lane, a);
    for (size_t l = 0; l < BNI_LANES; l++) {
        h.lane[l] = (uint16_t)bni_bf16_of(lane[l]);
    }
    return h;
}

static inline vhh vhh_f16(vf a, vf b) {
    return (vhh){vh_f16(a), vh_f16(b)};
}

static inline vhh vhh_bf16(vf a, vf b) {
    return (vhh){vh_bf16(a), vh_bf16(b)};
}

static inline void vhh_store(void *to, vhh h) {
    memcpy(to, &h, sizeof h);
}

static inline void vhh_stream(void *to, vhh h) {
    vh_stream(to, h.low);
    vh_stream((char *)to + sizeof h.low, h.high);
}

/* ---- Doubles ---- */

static inline vd vd_load(const double *from) {
    vd v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void vd_store(double *to, vd v) {
    memcpy(to, &v, sizeof v);
}

/* The doubles of floats. */
static inline vd vd_from(vf a) {
    const doubles lanes = __builtin_convertvector(a, doubles);
    vd v;
    memcpy(&v, &lanes, sizeof v);
    return v;
}

#define BNI_VD_FUNCTION(name, operation)                                                           \
    static inline vd name(vd a, vd b) {                                                            \
        doubles x, y;                                                                              \
        memcpy(&x, &a, sizeof x);                                                                  \
        memcpy(&y, &b, sizeof y);                                                                  \
        x = x operation y;                                                                         \
        memcpy(&a, &x, sizeof a);                                                                  \
        return a;                                                                                  \
    }
BNI_VD_FUNCTION(vd_add, +)
BNI_VD_FUNCTION(vd_sub, -)
BNI_VD_FUNCTION(vd_mul, *)

/* The sum of all lanes, half to half. */
static inline double vd_total(vd a) {
    return (a.lane[0] + a.lane[2]) + (a.lane[1] + a.lane[3]);
}

/* a * b + c. The product of two floats is exact in double, so one rounding of the sum and one to
 * float remain: what fma() gives but in rare cases of double rounding, at a fraction of its cost
 * where it is a function call. (Not lane by lane: GCC 12 takes (double)(float)x for x where it makes
 * a vector of such.) */
static inline vf vf_fma(vf a, vf b, vf c) {
    const doubles sum = __builtin_convertvector(a, doubles) * __builtin_convertvector(b, doubles) +
                        __builtin_convertvector(c, doubles);
    return __builtin_convertvector(sum, vf);
}
