/* Kernels for AVX2, FMA and F16C. */
#include "kernels/kernels.h"

#ifdef BNI_X86_64

#include <immintrin.h>

/* Where prefetchw is not implemented it does nothing. */
BNI_BEGIN_SET("avx2,fma,f16c,prfchw")

#include "kernels/simd_avx2.h"

#include "kernels/template.h"

const bn_kernels bni_kernels_avx2 = BNI_KERNELS("avx2");

BNI_END_SET

#endif
