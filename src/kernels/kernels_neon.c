/* Kernels for NEON. */
#include "kernels/kernels.h"

#ifdef BNI_AARCH64

#include "kernels/simd_neon.h"

#include "kernels/template.h"

const bn_kernels bni_kernels_neon = BNI_KERNELS("neon");

#endif
