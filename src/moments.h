/* Count, mean and sum of squared deviations: of a group of a batch, merged, checked. Forward,
 * inference without running values, and bn_moments share it. */
#ifndef BNI_MOMENTS_H
#define BNI_MOMENTS_H

#include "two_pass.h"

/* part = count, mean and m2 of a task's data, features from its group's first on; m2 so far as it
 * is something beside eps, times the count. */
void bni_task_moments(const bn_kernels *kernels, const bni_cut *cut, const void *x, double eps,
                      bni_task task, bni_part *part);

/* Merges the moments of other data into `into`. */
void bni_merge_moments(const bn_kernels *kernels, bni_part *into, const bni_part *part,
                       size_t features);

/* Whether count and m2 can be those of data. The arrays are public: others may have reduced them,
 * and not well. */
bool bni_are_moments(const bn_moments *moments);

#endif
