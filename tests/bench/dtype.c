/* See dtype.h. */
#include "dtype.h"

#include <math.h>
#include <string.h>

typedef struct half {
    void (*from_floats)(size_t n, const float *from, uint16_t *to);
    void (*to_floats)(size_t n, const uint16_t *from, float *to);
    int digits; /* of a value: in [0.5, 1) an ulp is 2^-digits */
    int least;  /* the exponent of the least ulp, the subnormals' */
} half;

static const half halves[] = {[BN_DTYPE_BF16] = {bn_bf16_from_float, bn_bf16_to_float, 8, -133},
                              [BN_DTYPE_F16] = {bn_f16_from_float, bn_f16_to_float, 11, -24}};

static const char *const names[] = {
    [BN_DTYPE_F32] = "f32", [BN_DTYPE_BF16] = "bf16", [BN_DTYPE_F16] = "f16"};
enum { TYPES = sizeof names / sizeof names[0] };

const char *dtype_name(bn_dtype dtype) {
    return names[dtype];
}

bool dtype_find(const char *name, bn_dtype *dtype) {
    for (int k = 0; k < TYPES; k++) {
        if (strcmp(name, names[k]) == 0) {
            *dtype = (bn_dtype)k;
            return true;
        }
    }
    return false;
}

size_t dtype_size(bn_dtype dtype) {
    return dtype == BN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

void dtype_from_floats(bn_dtype dtype, size_t count, const float *from, void *to) {
    if (dtype == BN_DTYPE_F32) {
        memcpy(to, from, count * sizeof *from);
    } else {
        halves[dtype].from_floats(count, from, to);
    }
}

void dtype_to_floats(bn_dtype dtype, size_t count, const void *from, float *to) {
    if (dtype == BN_DTYPE_F32) {
        memcpy(to, from, count * sizeof *to);
    } else {
        halves[dtype].to_floats(count, from, to);
    }
}

double dtype_rounding(bn_dtype dtype, double value) {
    if (dtype == BN_DTYPE_F32) {
        return 0;
    }
    const half *h = &halves[dtype];
    int exponent;
    frexp(value, &exponent);
    const int ulp = exponent - h->digits;
    return ldexp(0.5, value != 0.0 && ulp > h->least ? ulp : h->least);
}
