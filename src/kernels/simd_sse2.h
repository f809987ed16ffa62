/* The vector vocabulary of data_template.h (see simd_scalar.h) for SSE2: every x86-64 has it. */
#include "kernels/bits.h"

#include <emmintrin.h>
#include <stddef.h>
#include <stdint.h>

#define BNI_LANES        4
#define BNI_TILE         2
#define BNI_SUMS_TILE    4
#define BNI_UNROLLS_RUNS 0

typedef __m128 vf;

typedef struct vd {
    __m128d low, high;
} vd;

static inline vf vf_load(const float *from) {
    return _mm_loadu_ps(from);
}

static inline void vf_store(float *to, vf v) {
    _mm_storeu_ps(to, v);
}

static inline vf vf_load_part(const float *from, size_t count, vf rest) {
    float lane[BNI_LANES];
    _mm_storeu_ps(lane, rest);
    for (size_t l = 0; l < count; l++) {
        lane[l] = bni_load_float(from + l);
    }
    return _mm_loadu_ps(lane);
}

static inline void vf_store_part(float *to, size_t count, vf v) {
    float lane[BNI_LANES];
    _mm_storeu_ps(lane, v);
    for (size_t l = 0; l < count; l++) {
        bni_store_float(to + l, lane[l]);
    }
}

static inline vf vf_part(vf a, size_t count) {
    float lane[BNI_LANES];
    _mm_storeu_ps(lane, a);
    return vf_load_part(lane, count, _mm_setzero_ps());
}

/* Past the caches; to is at a multiple of 16 bytes. */
static inline void vf_stream(float *to, vf v) {
    _mm_stream_ps(to, v);
}

static inline vf vf_set1(float value) {
    return _mm_set1_ps(value);
}

static inline vf vf_add(vf a, vf b) {
    return _mm_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b) {
    return _mm_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b) {
    return _mm_mul_ps(a, b);
}

/* SSE2 compares less and greater only so that NaN raises FE_INVALID. As numbers with a sign, the
 * bits of negative floats ascend from -0, the least of all, to -Inf; NaNs are behind both Infs. */
static inline __m128i between(vf a, int low, int high) {
    const __m128i bits = _mm_castps_si128(a);
    return _mm_and_si128(_mm_cmpgt_epi32(bits, _mm_set1_epi32(low)),
                         _mm_cmplt_epi32(bits, _mm_set1_epi32(high)));
}

static inline vf vf_relu(vf a) {
    const __m128i negative = between(a, INT32_MIN, -0x007fffff);
    return _mm_castsi128_ps(_mm_andnot_si128(negative, _mm_castps_si128(a)));
}

static inline vf vf_where_positive(vf z, vf a) {
    return _mm_castsi128_ps(_mm_and_si128(between(z, 0, 0x7f800001), _mm_castps_si128(a)));
}

static inline vf vf_where_zero(vf z, vf a, vf b) {
    const vf zero = _mm_cmpeq_ps(z, _mm_setzero_ps());
    return _mm_or_ps(_mm_and_ps(zero, a), _mm_andnot_ps(zero, b));
}

static inline vd vd_load(const double *from) {
    return (vd){_mm_loadu_pd(from), _mm_loadu_pd(from + 2)};
}

static inline void vd_store(double *to, vd v) {
    _mm_storeu_pd(to, v.low);
    _mm_storeu_pd(to + 2, v.high);
}

static inline vd vd_from(vf a) {
    return (vd){_mm_cvtps_pd(a), _mm_cvtps_pd(_mm_movehl_ps(a, a))};
}

static inline vd vd_add(vd a, vd b) {
    return (vd){_mm_add_pd(a.low, b.low), _mm_add_pd(a.high, b.high)};
}

/* By way of double, as in simd_scalar.h: the digits of a fused operation without having one. */
static inline vf vf_fma(vf a, vf b, vf c) {
    const vd x = vd_from(a), y = vd_from(b);
    const vd product = {_mm_mul_pd(x.low, y.low), _mm_mul_pd(x.high, y.high)};
    const vd sum = vd_add(product, vd_from(c));
    return _mm_movelh_ps(_mm_cvtpd_ps(sum.low), _mm_cvtpd_ps(sum.high));
}
