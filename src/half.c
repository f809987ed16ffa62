/* The exported conversions of half types. */
#include "shape.h"

#include <fenv.h>

/* Whether there is anything to convert, and so many elements are memory that does not overlap. */
static bool may_convert(size_t n, const void *from, size_t from_bytes, const void *to,
                        size_t to_bytes) {
    if (n == 0 || n > (size_t)PTRDIFF_MAX / sizeof(float) || from == NULL || to == NULL) {
        return false;
    }
    const uintptr_t f = (uintptr_t)from, t = (uintptr_t)to;
    return f + n * from_bytes <= t || t + n * to_bytes <= f;
}

/* To nearest, which not every set's instruction does whatever the rounding mode is. */
static void from_float(bni_type type, size_t n, const float *from, uint16_t *to) {
    if (may_convert(n, from, sizeof *from, to, sizeof *to)) {
        const int mode = fegetround();
        if (mode != FE_TONEAREST) {
            fesetround(FE_TONEAREST);
        }
        bni_kernels_select()->data[type].from_floats(n, from, to);
        if (mode != FE_TONEAREST) {
            fesetround(mode);
        }
    }
}

static void to_float(bni_type type, size_t n, const uint16_t *from, float *to) {
    if (may_convert(n, from, sizeof *from, to, sizeof *to)) {
        bni_kernels_select()->data[type].to_floats(n, from, to);
    }
}

void bn_bf16_from_float(size_t n, const float *from, uint16_t *to) {
    from_float(BNI_BF16, n, from, to);
}

void bn_bf16_to_float(size_t n, const uint16_t *from, float *to) {
    to_float(BNI_BF16, n, from, to);
}

void bn_f16_from_float(size_t n, const float *from, uint16_t *to) {
    from_float(BNI_F16, n, from, to);
}

void bn_f16_to_float(size_t n, const uint16_t *from, float *to) {
    to_float(BNI_F16, n, from, to);
}
