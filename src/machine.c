/* See machine.h. */
#include "machine.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#ifdef BNI_X86_64
#include <cpuid.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

const bni_machine bni_machines[] = {
    {"Intel Xeon with 2 MiB L2", "GenuineIntel", 6, (size_t)2 << 20, BNI_TUNING_DEFAULT},
    {"AMD Zen 5",
     "AuthenticAMD",
     26,
     (size_t)1 << 20,
     {.stream_from = 2621440.0,
      .stream_dx_from = 1572864.0,
      .fetch_from = 4194304.0,
      .fetch_two_from = HUGE_VAL,
      .fetch_rows_from = 4194304.0,
      .fetch_two_rows_from = HUGE_VAL,
      .share_from = 262144.0,
      .sums_ahead = 2048,
      .inputs_ahead = 1024,
      .past_l2 = true,
      .parts_ahead = 2048,
      .output_ahead = 256,
      .write_elements = 1024,
      .stream_rows = 8,
      .far_rows = 1,
      .far_from = 8388608.0,
      .planes_from = 64}},
};
const size_t bni_machine_count = sizeof bni_machines / sizeof bni_machines[0];

static const bni_machine *by_family(void) {
#ifdef BNI_X86_64
    unsigned eax, vendor[3], ecx, edx;
    if (!__get_cpuid(0, &eax, &vendor[0], &vendor[2], &vendor[1]) ||
        !__get_cpuid(1, &eax, &(unsigned){0}, &ecx, &edx)) {
        return NULL;
    }
    const unsigned base = eax >> 8 & 15u;
    const unsigned family = base == 15 ? base + (eax >> 20 & 255u) : base;
    for (size_t i = 0; i < bni_machine_count; i++) {
        if (family == bni_machines[i].family &&
            memcmp(bni_machines[i].vendor, vendor, sizeof vendor) == 0) {
            return &bni_machines[i];
        }
    }
#endif
    return NULL;
}

/* 0: not known. */
static size_t l2_bytes(void) {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? (size_t)bytes : 0;
#else
    return 0;
#endif
}

static size_t distance(size_t a, size_t b) {
    return a < b ? b - a : a - b;
}

static const bni_machine *by_cache(size_t l2) {
    const bni_machine *nearest = &bni_machines[0];
    for (size_t i = 1; l2 != 0 && i < bni_machine_count; i++) {
        if (distance(bni_machines[i].l2, l2) < distance(nearest->l2, l2)) {
            nearest = &bni_machines[i];
        }
    }
    return nearest;
}

/* Whoever comes first finds it out, or several at once the same. */
const bni_machine *bni_machine_here(void) {
    static _Atomic(const bni_machine *) found;
    const bni_machine *machine = atomic_load_explicit(&found, memory_order_acquire);
    if (machine == NULL) {
        machine = by_family();
        machine = machine != NULL ? machine : by_cache(l2_bytes());
        atomic_store_explicit(&found, machine, memory_order_release);
    }
    return machine;
}
