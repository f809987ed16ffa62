/* Which instruction set to use: the widest that this build has, this machine runs and BN_ISA
 * allows. */
#include "kernels/kernels.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#ifdef BNI_X86_64
#include <cpuid.h>
#endif

typedef struct choice {
    const bn_kernels *kernels;
    bool (*runs)(void);
} choice;

static bool always(void) {
    return true;
}

#ifdef BNI_X86_64
/* By cpuid's bit, as not every compiler has a name for it; once, as a virtual machine's host answers,
 * which takes it tens of microseconds. */
static bool has_f16c(void) {
    static atomic_int known; /* 0: not yet; else 1 more than the answer */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer == 0) {
        unsigned eax, ebx, ecx, edx;
        answer = 1 + (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0);
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

/* Widest first. The last runs everywhere. */
static const choice sets[] = {
#ifdef BNI_X86_64
    {&bni_kernels_avx512, has_avx512},
    {&bni_kernels_avx2, has_avx2},
    {&bni_kernels_sse2, always},
#elif defined(BNI_AARCH64)
    {&bni_kernels_neon, always},
#endif
    {&bni_kernels_scalar, always},
};

static size_t widest_named(const char *name) {
    const size_t count = sizeof sets / sizeof sets[0];
    size_t first = 0;
    while (name != NULL && first < count && strcmp(name, sets[first].kernels->name) != 0) {
        first++;
    }
    return first == count ? 0 : first; /* a name that is not known does not bind */
}

const bn_kernels *bni_kernels_select(void) {
    const choice *set = &sets[widest_named(getenv("BN_ISA"))];
    while (!set->runs()) {
        set++;
    }
    return set->kernels;
}
