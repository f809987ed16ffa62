/* Kernels for NEON. */
#include "kernels/simd_neon.h"

#define BNI_TABLE bni_kernels_neon
#define BNI_NAME  "neon"
#include "kernels/template.h"
