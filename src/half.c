/* The exported conversions of half types. */
#include "shape.h"

#include <stdatomic.h>

/* Whether there is anything to convert, and so many elements are memory that does not overlap. */
static bool may_convert(size_t n, const void *from, size_t from_bytes, const void *to,
                        size_t to_bytes) {
    if (n == 0 || n > (size_t)PTRDIFF_MAX / sizeof(float) || from == NULL || to == NULL) {
        return false;
    }
    const uintptr_t f = (uintptr_t)from, t = (uintptr_t)to;
    return f + n * from_bytes <= t || t + n * to_bytes <= f;
}

/* Chosen once a process, as environments may change while others read them. */
static const bni_data_kernels *kernels_of(bni_type type) {
    static _Atomic(const bn_kernels *) chosen;
    const bn_kernels *kernels = atomic_load_explicit(&chosen, memory_order_acquire);
    if (kernels == NULL) {
        kernels = bni_kernels_select();
        atomic_store_explicit(&chosen, kernels, memory_order_release);
    }
    return &kernels->data[type];
}

static void from_float(bni_type type, size_t n, const float *from, uint16_t *to) {
    if (may_convert(n, from, sizeof *from, to, sizeof *to)) {
        kernels_of(type)->from_floats(n, from, to);
    }
}

static void to_float(bni_type type, size_t n, const uint16_t *from, float *to) {
    if (may_convert(n, from, sizeof *from, to, sizeof *to)) {
        kernels_of(type)->to_floats(n, from, to);
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
