/* Kernels for AVX-512F, BW and VL. */
#include "kernels/simd_avx512.h"

#include "kernels/template.h"

const bn_kernels bni_kernels_avx512 = BNI_KERNELS("avx512");
