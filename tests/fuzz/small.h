/*
 * The library's thresholds, lowered: with it in front of plan.c, moments.c and two_pass.c small batches
 * are cut into sheets, groups, chunks and folded rows as large ones are.
 */
#include "tuning.h"

#undef BNI_SHEET_ELEMENTS
#undef BNI_SHEET_ROWS
#undef BNI_FIRST_ROWS
#undef BNI_PLANE_MIN
#undef BNI_PLANE_RUN
#undef BNI_PLANE_GROUP
#undef BNI_FOLD_ROWS
#undef BNI_FAR_ELEMENTS
#undef BNI_ASKEW_ELEMENTS
#undef BNI_TASK_ELEMENTS
#undef BNI_CHUNK_STEP
#define BNI_SHEET_ELEMENTS ((size_t)512)
#define BNI_SHEET_ROWS     ((size_t)64)
#define BNI_FIRST_ROWS     ((size_t)16)
#define BNI_PLANE_MIN      ((size_t)48)
#define BNI_PLANE_RUN      ((size_t)64)
#define BNI_PLANE_GROUP    ((size_t)512)
#define BNI_FOLD_ROWS      ((size_t)8)
#define BNI_FAR_ELEMENTS   1000.0
#define BNI_ASKEW_ELEMENTS 700.0
#define BNI_TASK_ELEMENTS  ((size_t)64)
#define BNI_CHUNK_STEP     ((size_t)8)
