/* Kernels for AVX-512F, BW and VL. */
#include "kernels/kernels.h"

#ifdef BNI_X86_64

#include <immintrin.h>

/* Where prefetchw is not implemented it does nothing. */
BNI_BEGIN_SET("avx512f,avx512bw,avx512vl,fma,prfchw")

#include "kernels/simd_avx512.h"

#include "kernels/template.h"

const bn_kernels bni_kernels_avx512 = BNI_KERNELS("avx512");

BNI_END_SET

#endif
