/* The vector vocabulary of data_template.h (see simd_base.h) for AArch64, which always has NEON with
 * fused multiply-add and double precision. */
#include "kernels/element.h"

#include <arm_neon.h>
#include <stddef.h>
#include <string.h>

#define BNI_LANES     4
#define BNI_TILE      4
#define BNI_SUMS_TILE 4
#define BNI_VARIANTS  1
#define BNI_FUSED     1

typedef float32x4_t vf;
typedef uint16x4_t vh;
typedef uint16x8_t vhh;

typedef struct vd {
    float64x2_t low, high;
} vd;

/* Loads and stores go by way of bytes: they need no alignment, not even a float's. */
static inline vf vf_load(const float *from) {
    return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)from));
}

static inline void vf_store(float *to, vf v) {
    vst1q_u8((uint8_t *)to, vreinterpretq_u8_f32(v));
}

static inline vf vf_load_part(const float *from, size_t count, vf rest) {
    float lane[BNI_LANES];
    vst1q_f32(lane, rest);
    memcpy(lane, from, count * sizeof *lane);
    return vld1q_f32(lane);
}

static inline void vf_store_part(float *to, size_t count, vf v) {
    float lane[BNI_LANES];
    vst1q_f32(lane, v);
    memcpy(to, lane, count * sizeof *lane);
}

static inline vf vf_part(vf a, size_t count, vf rest) {
    float lane[BNI_LANES];
    vst1q_f32(lane, a);
    return vf_load_part((const float *)lane, count, rest);
}

/* There is no streaming store of one vector that C can name: an ordinary one. */
static inline void vf_stream(float *to, vf v) {
    vf_store(to, v);
}

static inline vf vf_set1(float value) {
    return vdupq_n_f32(value);
}

static inline vf vf_add(vf a, vf b) {
    return vaddq_f32(a, b);
}

static inline vf vf_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}

static inline vf vf_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}

/* NaN stays NaN: that is what vmax does, unlike vmaxnm. */
static inline vf vf_relu(vf a) {
    return vmaxq_f32(a, vdupq_n_f32(0.0f));
}

/* 0 < z < end, by the bits as in bits.h: vcgtzq_f32 raises FE_INVALID for NaN. */
static inline uint32x4_t bits_between(vf z, uint32x4_t end) {
    const uint32x4_t one = vdupq_n_u32(1);
    return vcltq_u32(vsubq_u32(vreinterpretq_u32_f32(z), one), vsubq_u32(end, one));
}

static inline vf vf_where(uint32x4_t lanes, vf a) {
    return vreinterpretq_f32_u32(vandq_u32(lanes, vreinterpretq_u32_f32(a)));
}

static inline vf vf_where_positive(vf z, vf a) {
    return vf_where(bits_between(z, vdupq_n_u32(0x7f800001u)), a);
}

/* NaN stays NaN: that is what vmin does too. */
static inline vf vf_clip(vf a, vf max) {
    return vminq_f32(vf_relu(a), max);
}

static inline vf vf_where_between(vf z, vf max, vf a) {
    return vf_where(bits_between(z, vreinterpretq_u32_f32(max)), a);
}

static inline vf vf_leaky(vf z, vf slope, vf a) {
    const uint32x4_t positive = bits_between(z, vdupq_n_u32(0x7f800001u));
    return vmulq_f32(a, vbslq_f32(positive, vdupq_n_f32(1.0f), slope));
}

static inline vf vf_where_zero(vf z, vf a, vf b) {
    return vbslq_f32(vceqzq_f32(z), a, b);
}

static inline vh vh_load(const void *from) {
    return vreinterpret_u16_u8(vld1_u8(from));
}

static inline void vh_store(void *to, vh h) {
    vst1_u8(to, vreinterpret_u8_u16(h));
}

static inline vh vh_load_part(const void *from, size_t count) {
    uint16_t lane[BNI_LANES] = {0};
    memcpy(lane, from, count * sizeof *lane);
    return vld1_u16(lane);
}

static inline void vh_store_part(void *to, size_t count, vh h) {
    uint16_t lane[BNI_LANES];
    vst1_u16(lane, h);
    memcpy(to, lane, count * sizeof *lane);
}

static inline void vh_stream(void *to, vh h) {
    vh_store(to, h);
}

static inline vf vf_from_f16(vh h) {
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* Whether FPCR has that mode, which is the caller's. (Not volatile: it does not change in a kernel.) */
static inline bool rounds_to_nearest(void) {
    uint64_t fpcr;
    __asm__("mrs %0, fpcr" : "=r"(fpcr));
    return (fpcr >> 22 & 3u) == 0;
}

static __attribute__((noinline)) vh f16_by_bits(vf a) {
    float lane[BNI_LANES];
    uint16_t half[BNI_LANES];
    vst1q_f32(lane, a);
    for (size_t l = 0; l < BNI_LANES; l++) {
        half[l] = (uint16_t)bni_f16_of(lane[l]);
    }
    return vld1_u16(half);
}

/* The instruction rounds by the mode. */
static inline vh vh_f16(vf a) {
    return rounds_to_nearest() ? vreinterpret_u16_f16(vcvt_f16_f32(a)) : f16_by_bits(a);
}

static inline vf vf_from_bf16(vh h) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(h), 16));
}

static inline vf vf_quiet(vf a) {
    const uint32x4_t number = vceqq_f32(a, a);
    return vreinterpretq_f32_u32(
        vorrq_u32(vreinterpretq_u32_f32(a), vbicq_u32(vdupq_n_u32(0x400000u), number)));
}

static inline vh vh_bf16(vf a) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a), one = vdupq_n_u32(1);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), one);
    const uint32x4_t near = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fffu)));
    const uint32x4_t upper = vbslq_u32(vceqq_f32(a, a), near, vreinterpretq_u32_f32(vf_quiet(a)));
    return vshrn_n_u32(upper, 16);
}

static inline vhh vhh_f16(vf a, vf b) {
    return vcombine_u16(vh_f16(a), vh_f16(b));
}

static inline vhh vhh_bf16(vf a, vf b) {
    return vcombine_u16(vh_bf16(a), vh_bf16(b));
}

static inline void vhh_store(void *to, vhh h) {
    vst1q_u8(to, vreinterpretq_u8_u16(h));
}

static inline void vhh_stream(void *to, vhh h) {
    vhh_store(to, h);
}

static inline vd vd_load(const double *from) {
    return (vd){vld1q_f64(from), vld1q_f64(from + 2)};
}

static inline void vd_store(double *to, vd v) {
    vst1q_f64(to, v.low);
    vst1q_f64(to + 2, v.high);
}

static inline vd vd_from(vf a) {
    return (vd){vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a)};
}

static inline vd vd_add(vd a, vd b) {
    return (vd){vaddq_f64(a.low, b.low), vaddq_f64(a.high, b.high)};
}

static inline vd vd_sub(vd a, vd b) {
    return (vd){vsubq_f64(a.low, b.low), vsubq_f64(a.high, b.high)};
}

static inline vd vd_mul(vd a, vd b) {
    return (vd){vmulq_f64(a.low, b.low), vmulq_f64(a.high, b.high)};
}

static inline double vd_total(vd a) {
    return vaddvq_f64(vaddq_f64(a.low, a.high));
}
