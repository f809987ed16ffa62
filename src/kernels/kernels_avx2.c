/* Kernels for AVX2, FMA and F16C. */
#include "kernels/simd_avx2.h"

#include "kernels/template.h"

const bn_kernels bni_kernels_avx2 = BNI_KERNELS("avx2");
