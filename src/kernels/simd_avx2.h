/* The vector vocabulary of data_template.h (see simd_base.h) for AVX2, FMA and F16C. */
#include "kernels/bits.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BNI_LANES     8
#define BNI_TILE      2
#define BNI_SUMS_TILE 2
#define BNI_VARIANTS  1
#define BNI_FUSED     1

typedef __m256 vf;
typedef __m128i vh;
typedef __m256i vhh;

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

static inline vf vf_part(vf a, size_t count, vf rest) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane);
    return _mm256_blendv_ps(rest, a, _mm256_castsi256_ps(wanted));
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

static inline vh vh_load(const void *from) {
    return _mm_loadu_si128(from);
}

static inline void vh_store(void *to, vh h) {
    _mm_storeu_si128(to, h);
}

static inline vh vh_load_part(const void *from, size_t count) {
    const char *at = from;
    uint64_t four = 0, rest = 0;
    if ((count & 4) != 0) {
        memcpy(&four, at, sizeof four);
        at += sizeof four;
    }
    if ((count & 2) != 0) {
        uint32_t two;
        memcpy(&two, at, sizeof two);
        rest = two;
        at += sizeof two;
    }
    if ((count & 1) != 0) {
        uint16_t one;
        memcpy(&one, at, sizeof one);
        rest |= (uint64_t)one << ((count & 2) << 4);
    }
    return (count & 4) != 0 ? _mm_set_epi64x((int64_t)rest, (int64_t)four)
                            : _mm_set_epi64x(0, (int64_t)rest);
}

static inline void vh_store_part(void *to, size_t count, vh h) {
    char *at = to;
    uint64_t part = (uint64_t)_mm_cvtsi128_si64(h);
    if ((count & 4) != 0) {
        memcpy(at, &part, sizeof part);
        part = (uint64_t)_mm_extract_epi64(h, 1);
        at += sizeof part;
    }
    if ((count & 2) != 0) {
        const uint32_t two = (uint32_t)part;
        memcpy(at, &two, sizeof two);
        part >>= 32;
        at += sizeof two;
    }
    if ((count & 1) != 0) {
        const uint16_t one = (uint16_t)part;
        memcpy(at, &one, sizeof one);
    }
}

static inline void vh_stream(void *to, vh h) {
    _mm_stream_si128(to, h);
}

static inline vf vf_from_f16(vh h) {
    return _mm256_cvtph_ps(h);
}

static inline vh vh_f16(vf a) {
    return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
}

static inline vf vf_from_bf16(vh h) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline vf vf_quiet(vf a) {
    const vf nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    return _mm256_or_ps(a, _mm256_and_ps(nan, _mm256_castsi256_ps(_mm256_set1_epi32(0x400000))));
}

/* The nearest bf16 in a lane's lower half; not of NaN. */
static inline __m256i near_bf16(vf a) {
    const __m256i bits = _mm256_castps_si256(a), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_srli_epi32(near, 16);
}

static inline __m256i near_or_nan(vf a) {
    const __m256i quiet = _mm256_srli_epi32(_mm256_castps_si256(vf_quiet(a)), 16);
    return _mm256_blendv_epi8(near_bf16(a), quiet,
                              _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}

static inline vh vh_bf16(vf a) {
    const __m256i halves = near_or_nan(a);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

static inline vhh vhh_bf16(vf a, vf b) {
    __m256i low = near_bf16(a), high = near_bf16(b);
    if (_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0) {
        low = near_or_nan(a);
        high = near_or_nan(b);
    }
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8); /* 0, 2, 1, 3 */
}

static inline vhh vhh_f16(vf a, vf b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(vh_f16(a)), vh_f16(b), 1);
}

static inline void vhh_store(void *to, vhh h) {
    _mm256_storeu_si256(to, h);
}

static inline void vhh_stream(void *to, vhh h) {
    _mm256_stream_si256(to, h);
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

static inline vd vd_sub(vd a, vd b) {
    return (vd){_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}

static inline vd vd_mul(vd a, vd b) {
    return (vd){_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
}

static inline double vd_total(vd a) {
    const __m256d four = _mm256_add_pd(a.low, a.high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
