/*
 * A table of kernels for one instruction set. A kernels_*.c file includes a vector vocabulary
 * (simd_*.h) and then this file, with
 *
 * BNI_TABLE   name of the table
 * BNI_NAME    what bn_layer_isa calls it
 */
#include "kernels/data_template.h"
#include "kernels/features_template.h"
#include "kernels/kernels.h"

const bn_kernels BNI_TABLE = {
    .name = BNI_NAME, .data = BNI_DATA_KERNELS, .features = BNI_FEATURE_KERNELS};
