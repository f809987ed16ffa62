/* Count, mean and sum of squared deviations: of a group of a batch, merged, checked. Forward,
 * inference without running values, and bn_moments share it. */
#ifndef BNI_MOMENTS_H
#define BNI_MOMENTS_H

#include "sheets.h"

/* The doubles that bni_batch_moments needs as scratch for so many features. */
size_t bni_moments_scratch(size_t features);

/* sums = the moments of a task's data, features from its group's first on. */
void bni_task_moments(const bn_kernels *kernels, const bni_batch *batch, const float *x,
                      bni_task task, bni_sums *sums);

/* sums = the moments of the whole batch. */
void bni_batch_moments(const bn_kernels *kernels, const bni_batch *batch, const float *x,
                       int num_threads, double *scratch, bni_sums *sums);

#endif
