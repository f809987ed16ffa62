/* The vector vocabulary of template.h (see simd_scalar.h) for AVX-512F and VL. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define BNI_LANES    16
#define BNI_TILE     4
#define BNI_SUM_TILE 2

typedef __m512 vf;

/* Of 256 bits: Zen 4 converts 512 bits of floats in 4 cycles and 256 in 1. */
typedef struct vd {
    __m256d a, b, c, d;
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

static inline vf vf_part(vf a, size_t count) {
    return _mm512_maskz_mov_ps(first_lanes(count), a);
}

/* Past the caches; to is at a multiple of 16 bytes. A line that is written in pieces is put
 * together by the core's write buffers, as long as its pieces come one after the other. */
static inline void vf_stream(float *to, vf v) {
    if (((uintptr_t)to & 63) == 0) {
        _mm512_stream_ps(to, v);
    } else {
        _mm_stream_ps(to, _mm512_castps512_ps128(v));
        _mm_stream_ps(to + 4, _mm512_extractf32x4_ps(v, 1));
        _mm_stream_ps(to + 8, _mm512_extractf32x4_ps(v, 2));
        _mm_stream_ps(to + 12, _mm512_extractf32x4_ps(v, 3));
    }
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

static inline vf vf_where_zero(vf z, vf a, vf b) {
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_EQ_OQ), a);
}

static inline vd vd_load(const double *from) {
    return (vd){_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4), _mm256_loadu_pd(from + 8),
                _mm256_loadu_pd(from + 12)};
}

static inline void vd_store(double *to, vd v) {
    _mm256_storeu_pd(to, v.a);
    _mm256_storeu_pd(to + 4, v.b);
    _mm256_storeu_pd(to + 8, v.c);
    _mm256_storeu_pd(to + 12, v.d);
}

static inline vd vd_set1(double value) {
    const __m256d a = _mm256_set1_pd(value);
    return (vd){a, a, a, a};
}

/* By way of memory the parts need no shuffle. */
static inline vd vd_load_floats(const float *from) {
    return (vd){_mm256_cvtps_pd(_mm_loadu_ps(from)), _mm256_cvtps_pd(_mm_loadu_ps(from + 4)),
                _mm256_cvtps_pd(_mm_loadu_ps(from + 8)), _mm256_cvtps_pd(_mm_loadu_ps(from + 12))};
}

static inline vd vd_from(vf a) {
    return (vd){_mm256_cvtps_pd(_mm512_castps512_ps128(a)),
                _mm256_cvtps_pd(_mm512_extractf32x4_ps(a, 1)),
                _mm256_cvtps_pd(_mm512_extractf32x4_ps(a, 2)),
                _mm256_cvtps_pd(_mm512_extractf32x4_ps(a, 3))};
}

static inline vd vd_sub(vd a, vd b) {
    return (vd){_mm256_sub_pd(a.a, b.a), _mm256_sub_pd(a.b, b.b), _mm256_sub_pd(a.c, b.c),
                _mm256_sub_pd(a.d, b.d)};
}

static inline vd vd_mul(vd a, vd b) {
    return (vd){_mm256_mul_pd(a.a, b.a), _mm256_mul_pd(a.b, b.b), _mm256_mul_pd(a.c, b.c),
                _mm256_mul_pd(a.d, b.d)};
}

static inline vd vd_fma(vd a, vd b, vd c) {
    return (vd){_mm256_fmadd_pd(a.a, b.a, c.a), _mm256_fmadd_pd(a.b, b.b, c.b),
                _mm256_fmadd_pd(a.c, b.c, c.c), _mm256_fmadd_pd(a.d, b.d, c.d)};
}

/* As a multiplication by 1 it takes the multipliers' ports on AMD's cores, where additions and
 * conversions share the others. */
static inline vd vd_accumulate(vd sum, vd a) {
    return vd_fma(a, vd_set1(1.0), sum);
}
