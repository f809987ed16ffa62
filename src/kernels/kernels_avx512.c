/* Kernels for AVX-512F and VL. */
#include "kernels/simd_avx512.h"

#define BNI_TABLE bni_kernels_avx512
#define BNI_NAME  "avx512"
#include "kernels/template.h"
