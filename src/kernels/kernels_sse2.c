/* Kernels for SSE2. */
#include "kernels/simd_sse2.h"

#define BNI_TABLE bni_kernels_sse2
#define BNI_NAME  "sse2"
#include "kernels/template.h"
