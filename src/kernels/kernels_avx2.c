/* Kernels for AVX2 and FMA. */
#include "kernels/simd_avx2.h"

#define BNI_TABLE bni_kernels_avx2
#define BNI_NAME  "avx2"
#include "kernels/template.h"
