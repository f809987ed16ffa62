/* Kernels in what every machine has: on x86-64 that is SSE2. */
#include "kernels/simd_base.h"

#include "kernels/template.h"

const bn_kernels bni_kernels_scalar = BNI_KERNELS("scalar");

#ifdef BNI_X86_64
const bn_kernels bni_kernels_sse2 = BNI_KERNELS("sse2");
#endif
