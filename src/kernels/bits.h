/*
 * Floats as bits: loads and stores of any alignment, and tests for NaN and Inf that hold whatever a
 * compiler was told of floating point: with -ffinite-math-only x == x is always true and x <=
 * FLT_MAX too. Neither do they raise FE_INVALID.
 */
#ifndef BNI_BITS_H
#define BNI_BITS_H

#include "compiler.h"

#include <float.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Limits that are stated somewhere: builds for debugging stop where one does not hold. */
#ifdef BNI_CHECKS
#include <assert.h>
#define BNI_ASSERT(condition) assert(condition)
#else
#define BNI_ASSERT(condition) ((void)0)
#endif

/* One float from, and to, an address of any alignment. */
static inline float bni_load_float(const float *from) {
    float value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void bni_store_float(float *to, float value) {
    memcpy(to, &value, sizeof value);
}

static inline uint32_t bni_float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint64_t bni_double_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* value where `kept`, else 0; without a branch, so that loops around it are vectorized. */
static inline float bni_keep(bool kept, float value) {
    const uint32_t bits = bni_float_bits(value) & (0u - (uint32_t)kept);
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

#define BNI_INF_BITS 0x7f800000u

static inline bool bni_finite(float value) {
    return (bni_float_bits(value) & BNI_INF_BITS) != BNI_INF_BITS;
}

/* |value| <= limit, which is at least 0: false of NaN. Bits without the sign ascend with values. */
static inline bool bni_within(double value, double limit) {
    return (bni_double_bits(value) & ~((uint64_t)1 << 63)) <= bni_double_bits(limit);
}

static inline bool bni_finite_double(double value) {
    return bni_within(value, DBL_MAX);
}

/* Whether a value is finite and at least 0: -0 is. As numbers, the bits of such floats ascend. */
static inline bool bni_not_negative(float value) {
    const uint32_t bits = bni_float_bits(value);
    return bits < BNI_INF_BITS || bits == 0x80000000u;
}

/* z > 0, without FE_INVALID where z is NaN. */
static inline bool bni_is_positive(float z) {
    return bni_float_bits(z) - 1u < BNI_INF_BITS;
}

/* value < 0, and value == 0, likewise. (GCC's isless and == are no such where all files were asked for
 * finite numbers alone, whatever these say.) */
static inline bool bni_is_negative(double value) {
    return bni_double_bits(value) - (((uint64_t)1 << 63) + 1) < (uint64_t)0x7ff << 52;
}

static inline bool bni_is_zero(double value) {
    return bni_double_bits(value) << 1 == 0;
}

#endif
