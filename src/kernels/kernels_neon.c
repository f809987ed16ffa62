/* Kernels for NEON. */
#include "kernels/simd_neon.h"

#include "kernels/template.h"

const bn_kernels bni_kernels_neon = BNI_KERNELS("neon");
