/*
 * A table of kernels for one instruction set. A kernels_*.c file includes a vector vocabulary
 * (simd_*.h) and then this file, and has BNI_KERNELS, an initializer of bn_kernels.
 */
#include "kernels/data_template.h"
#include "kernels/features_template.h"
#include "kernels/kernels.h"

#define BNI_KERNELS(called)                                                                        \
    { .name = (called), .data = BNI_DATA_KERNELS, .features = BNI_FEATURE_KERNELS }
