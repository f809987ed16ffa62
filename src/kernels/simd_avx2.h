/* The vector vocabulary of data_template.h (see simd_base.h) for AVX2 and FMA. */
#include "kernels/bits.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BNI_LANES     8
#define BNI_TILE      2
#define BNI_SUMS_TILE 2
#define BNI_VARIANTS  1

typedef __m256 vf;

typedef struct vd {
    __m256d low, high;
} vd;

static inline vf vf_load(const float *from) {
    return _mm256_loadu_ps(from);
}

static inline void vf_store(float *to, vf v) {
    _mm256_storeu_ps(to, v);
}

static inline vf vf_load_part(const float *from, size_t count, vf rest) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane);
    return _mm256_blendv_ps(rest, _mm256_maskload_ps(from, wanted), _mm256_castsi256_ps(wanted));
}

/* In pieces of 4, 2 and 1: a masked store takes dozens of cycles on AMD's cores. */
static inline void vf_store_part(float *to, size_t count, vf v) {
    __m128 part = _mm256_castps256_ps128(v);
    if ((count & 4) != 0) {
        _mm_storeu_ps(to, part);
        part = _mm256_extractf128_ps(v, 1);
        to += 4;
    }
    if ((count & 2) != 0) {
        const double pair = _mm_cvtsd_f64(_mm_castps_pd(part));
        memcpy(to, &pair, sizeof pair);
        part = _mm_movehl_ps(part, part);
        to += 2;
    }
    if ((count & 1) != 0) {
        bni_store_float(to, _mm_cvtss_f32(part));
    }
}

static inline vf vf_part(vf a, size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane);
    return _mm256_and_ps(a, _mm256_castsi256_ps(wanted));
}

static inline void vf_stream(float *to, vf v) {
    _mm256_stream_ps(to, v);
}

static inline vf vf_set1(float value) {
    return _mm256_set1_ps(value);
}

static inline vf vf_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}

/* Not a maximum, which raises FE_INVALID for NaN. */
static inline vf vf_relu(vf a) {
    return _mm256_andnot_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ), a);
}

static inline vf vf_where_positive(vf z, vf a) {
    return _mm256_and_ps(_mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_GT_OQ), a);
}

static inline vf vf_clip(vf a, vf max) {
    return _mm256_blendv_ps(vf_relu(a), max, _mm256_cmp_ps(a, max, _CMP_GT_OQ));
}

static inline vf vf_where_between(vf z, vf max, vf a) {
    return _mm256_and_ps(_mm256_cmp_ps(z, max, _CMP_LT_OQ), vf_where_positive(z, a));
}

static inline vf vf_leaky(vf z, vf slope, vf a) {
    const vf positive = _mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_GT_OQ);
    return _mm256_mul_ps(a, _mm256_blendv_ps(slope, _mm256_set1_ps(1.0f), positive));
}

static inline vf vf_where_zero(vf z, vf a, vf b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_EQ_OQ));
}

static inline vd vd_load(const double *from) {
    return (vd){_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)};
}

static inline void vd_store(double *to, vd v) {
    _mm256_storeu_pd(to, v.low);
    _mm256_storeu_pd(to + 4, v.high);
}

static inline vd vd_from(vf a) {
    return (vd){_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))};
}

static inline vd vd_add(vd a, vd b) {
    return (vd){_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}

static inline double vd_total(vd a) {
    const __m256d four = _mm256_add_pd(a.low, a.high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
