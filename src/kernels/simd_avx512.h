/* The vector vocabulary of data_template.h (see simd_base.h) for AVX-512F, BW and VL. */
#include "kernels/bits.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define BNI_LANES     16
#define BNI_TILE      4
#define BNI_SUMS_TILE 1
#define BNI_VARIANTS  1
#define BNI_FUSED     1

typedef __m512 vf;
typedef uint32_t vf_bits __attribute__((vector_size(64)));
typedef __m256i vh;
typedef __m512i vhh;

typedef struct vd {
    __m512d low, high;
} vd;

static inline __mmask16 first_lanes(size_t count) {
    return (__mmask16)((1u << count) - 1u);
}

static inline vf vf_load(const float *from) {
    return _mm512_loadu_ps(from);
}

static inline void vf_store(float *to, vf v) {
    _mm512_storeu_ps(to, v);
}

static inline vf vf_load_part(const float *from, size_t count, vf rest) {
    return _mm512_mask_loadu_ps(rest, first_lanes(count), from);
}

static inline void vf_store_part(float *to, size_t count, vf v) {
    _mm512_mask_storeu_ps(to, first_lanes(count), v);
}

static inline vf vf_part(vf a, size_t count, vf rest) {
    return _mm512_mask_mov_ps(rest, first_lanes(count), a);
}

static inline void vf_stream(float *to, vf v) {
    _mm512_stream_ps(to, v);
}

static inline vf vf_set1(float value) {
    return _mm512_set1_ps(value);
}

static inline vf vf_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

/* Not a maximum, which raises FE_INVALID for NaN. */
static inline vf vf_relu(vf a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NLT_UQ), a);
}

static inline vf vf_where_positive(vf z, vf a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_GT_OQ), a);
}

static inline vf vf_clip(vf a, vf max) {
    return _mm512_mask_mov_ps(vf_relu(a), _mm512_cmp_ps_mask(a, max, _CMP_GT_OQ), max);
}

static inline vf vf_where_between(vf z, vf max, vf a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(z, max, _CMP_LT_OQ), vf_where_positive(z, a));
}

static inline vf vf_leaky(vf z, vf slope, vf a) {
    const __mmask16 positive = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mul_ps(a, _mm512_mask_mov_ps(slope, positive, _mm512_set1_ps(1.0f)));
}

static inline vf vf_where_zero(vf z, vf a, vf b) {
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_EQ_OQ), a);
}

static inline vh vh_load(const void *from) {
    return _mm256_loadu_si256(from);
}

static inline void vh_store(void *to, vh h) {
    _mm256_storeu_si256(to, h);
}

static inline vh vh_load_part(const void *from, size_t count) {
    return _mm256_maskz_loadu_epi16(first_lanes(count), from);
}

static inline void vh_store_part(void *to, size_t count, vh h) {
    _mm256_mask_storeu_epi16(to, first_lanes(count), h);
}

static inline void vh_stream(void *to, vh h) {
    _mm256_stream_si256(to, h);
}

static inline vf vf_from_f16(vh h) {
    return _mm512_cvtph_ps(h);
}

static inline vh vh_f16(vf a) {
    return _mm512_maskz_cvtps_ph((__mmask16)0xffff, a, _MM_FROUND_TO_NEAREST_INT);
}

static inline vf vf_from_bf16(vh h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

static inline vf vf_quiet(vf a) {
    const __m512i bits = _mm512_castps_si512(a);
    return _mm512_castsi512_ps(_mm512_mask_or_epi32(bits, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q),
                                                    bits, _mm512_set1_epi32(0x400000)));
}

/* The nearest bf16 in a lane's upper half; not of NaN. (AVX512_BF16's own conversion takes subnormals
 * for 0, and finding these costs more than it spares. Operators where they will do, as without
 * optimization each intrinsic takes stack.) */
static inline __m512i near_bf16(vf a) {
    const vf_bits bits = (vf_bits)a, zero = {0};
    const __mmask16 odd = _mm512_test_epi32_mask((__m512i)bits, (__m512i)(zero + 0x10000u));
    return _mm512_mask_add_epi32((__m512i)(bits + 0x7fffu), odd, (__m512i)bits,
                                 (__m512i)(zero + 0x8000u));
}

/* The same of NaN too: what is near the others, given. (Not by calling the above: without optimization
 * that takes stack where calls are deepest.) */
static inline __m512i with_nan(__m512i near, vf a) {
    return _mm512_mask_or_epi32(near, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q),
                                _mm512_castps_si512(a), _mm512_set1_epi32(0x400000));
}

/* The upper halves of the lanes of both. */
static inline __m512i upper_halves(__m512i a, __m512i b) {
    const __m512i odd =
        _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                         25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return _mm512_permutex2var_epi16(a, odd, b);
}

static inline vh vh_bf16(vf a) {
    const __m512i upper = with_nan(near_bf16(a), a);
    return _mm512_castsi512_si256(upper_halves(upper, upper));
}

static inline vhh vhh_bf16(vf a, vf b) {
    __m512i low = near_bf16(a), high = near_bf16(b);
    if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0) {
        low = with_nan(low, a);
        high = with_nan(high, b);
    }
    return upper_halves(low, high);
}

static inline vhh vhh_f16(vf a, vf b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(vh_f16(a)), vh_f16(b), 1);
}

static inline void vhh_store(void *to, vhh h) {
    _mm512_storeu_si512(to, h);
}

static inline void vhh_stream(void *to, vhh h) {
    _mm512_stream_si512(to, h);
}

static inline vd vd_load(const double *from) {
    return (vd){_mm512_loadu_pd(from), _mm512_loadu_pd(from + 8)};
}

static inline void vd_store(double *to, vd v) {
    _mm512_storeu_pd(to, v.low);
    _mm512_storeu_pd(to + 8, v.high);
}

static inline vd vd_from(vf a) {
    const __m256d high = _mm512_extractf64x4_pd(_mm512_castps_pd(a), 1);
    return (vd){_mm512_cvtps_pd(_mm512_castps512_ps256(a)),
                _mm512_cvtps_pd(_mm256_castpd_ps(high))};
}

static inline vd vd_add(vd a, vd b) {
    return (vd){_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
}

static inline vd vd_sub(vd a, vd b) {
    return (vd){_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)};
}

static inline vd vd_mul(vd a, vd b) {
    return (vd){_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)};
}

static inline double vd_total(vd a) {
    const __m512d eight = _mm512_add_pd(a.low, a.high);
    const __m256d four =
        _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
