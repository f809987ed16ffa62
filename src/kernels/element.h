/*
 * The element types of data, and the half types as bits: exact code for sets without instructions for
 * them, and for what is one element. A half type's element is its bits, at an address of any alignment.
 */
#ifndef BNI_ELEMENT_H
#define BNI_ELEMENT_H

#include "kernels/bits.h"

#include <stddef.h>

typedef enum bni_type { BNI_F32, BNI_BF16, BNI_F16, BNI_TYPES } bni_type;

static inline size_t bni_bytes_of(bni_type type) {
    return type == BNI_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* An element's address. */
static inline const void *bni_at(const void *start, size_t offset, bni_type type) {
    return (const char *)start + offset * bni_bytes_of(type);
}

static inline void *bni_out_at(void *start, size_t offset, bni_type type) {
    return (char *)start + offset * bni_bytes_of(type);
}

/* The next five are without branches, so that loops around them are vectorized. */

static inline float bni_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bni_choose(bool first, uint32_t a, uint32_t b) {
    const uint32_t mask = 0u - (uint32_t)first;
    return (a & mask) | (b & ~mask);
}

/* To nearest even: half a unit less one is added, and one where the unit is odd. */
static inline uint32_t bni_bf16_of(float value) {
    const uint32_t bits = bni_float_bits(value);
    const bool nan = (bits & 0x7fffffffu) > BNI_INF_BITS;
    return bni_choose(nan, bits | 0x400000u, bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

/* A NaN that is not quiet stays so: all arithmetic makes it quiet. */
static inline float bni_float_of_bf16(uint32_t half) {
    return bni_float_of_bits(half << 16);
}

/* Below 2^-14 an f16 is a number of units of 2^-24: the value's 24 bits shifted right, by 14 to 24, or
 * by 25 where nothing is left. In integers, as the rounding mode is the caller's. */
static inline uint32_t bni_f16_of(float value) {
    const uint32_t sign = bni_float_bits(value) >> 16 & 0x8000u;
    const uint32_t bits = bni_float_bits(value) & 0x7fffffffu, exponent = bits >> 23;
    const uint32_t shift = exponent < 102u ? 25u : exponent < 113u ? 126u - exponent : 14u;
    const uint32_t whole = (bits & 0x7fffffu) | 0x800000u;
    const uint32_t odd = whole >> shift & 1u, almost = (1u << (shift - 1u)) - 1u;
    const uint32_t small = (whole + almost + odd) >> shift;
    const uint32_t normal = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1u)) >> 13;
    const uint32_t nan = 0x7e00u | (bits >> 13 & 0x3ffu);
    const uint32_t finite = bni_choose(exponent < 113u, small, normal);
    const uint32_t large = bni_choose(bits > BNI_INF_BITS, nan, 0x7c00u);
    return sign | bni_choose(exponent >= 143u, large, finite);
}

static inline float bni_float_of_f16(uint32_t half) {
    const uint32_t magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
    const uint32_t small = bni_float_bits((float)(int32_t)magnitude * 0x1p-24f); /* exact */
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t quiet = (uint32_t)(magnitude > 0x7c00u) << 22;
    const uint32_t large = BNI_INF_BITS | magnitude << 13 | quiet;
    const uint32_t finite = bni_choose(magnitude < 0x400u, small, normal);
    return bni_float_of_bits(sign | bni_choose(magnitude >= 0x7c00u, large, finite));
}

/* The element nearest to a value, as the float that it is. */
static inline float bni_nearest_element(float value, bni_type type) {
    switch (type) {
    case BNI_BF16:
        return bni_float_of_bf16(bni_bf16_of(value));
    case BNI_F16:
        return bni_float_of_f16(bni_f16_of(value));
    default:
        return value;
    }
}

/* One element, as the float that it is. */
static inline float bni_load_element(const void *start, size_t at, bni_type type) {
    uint16_t half;
    if (type == BNI_F32) {
        return bni_load_float(bni_at(start, at, type));
    }
    memcpy(&half, bni_at(start, at, type), sizeof half);
    return type == BNI_BF16 ? bni_float_of_bf16(half) : bni_float_of_f16(half);
}

#endif
