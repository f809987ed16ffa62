/* The vector vocabulary of data_template.h (see simd_base.h) for AArch64, which always has NEON with
 * fused multiply-add and double precision. */
#include <arm_neon.h>
#include <stddef.h>
#include <string.h>

#define BNI_LANES     4
#define BNI_TILE      4
#define BNI_SUMS_TILE 4
#define BNI_VARIANTS  1

typedef float32x4_t vf;

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

static inline vf vf_part(vf a, size_t count) {
    float lane[BNI_LANES];
    vst1q_f32(lane, a);
    return vf_load_part((const float *)lane, count, vdupq_n_f32(0.0f));
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

static inline double vd_total(vd a) {
    return vaddvq_f64(vaddq_f64(a.low, a.high));
}
