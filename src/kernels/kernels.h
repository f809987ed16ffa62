/*
 * The library's arithmetic: one table of functions per instruction set, over data of each element
 * type and over features.
 */
#ifndef BNI_KERNELS_H
#define BNI_KERNELS_H

#include "kernels/data.h"
#include "kernels/features.h"

typedef struct bn_kernels {
    const char *name; /* what bn_layer_isa calls it */
    bni_data_kernels data[BNI_TYPES];
    bni_feature_kernels features;
} bn_kernels;

extern const bn_kernels bni_kernels_scalar;
extern const bn_kernels bni_kernels_sse2, bni_kernels_avx2, bni_kernels_avx512; /* x86-64 */
extern const bn_kernels bni_kernels_neon;                                       /* AArch64 */

/* The best table that this machine, and the environment variable BN_ISA, allow. */
const bn_kernels *bni_kernels_select(void);

#endif
