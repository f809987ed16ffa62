/* Kernels in portable C: what every machine has. */
#include "kernels/simd_scalar.h"

#define BNI_TABLE bni_kernels_scalar
#define BNI_NAME  "scalar"
#include "kernels/template.h"
