/*
 * Sums in double throughout, of a feature that the kernels' float runs could not hold: squares and
 * products beyond float, or so little that float has no digits for them. Slow and rare.
 */
#ifndef BNI_EXACT_H
#define BNI_EXACT_H

#include "plan.h"

/* Products below 2^-126 lose digits in float, at most 2^-150 each: of 2^36 of them that add up to at
 * least this, no more than a unit. */
#define BNI_LEAST_PRODUCTS 0x1p-90

/* The elements of one feature of a task: its place in the task's group. */
typedef struct bni_feature {
    const bni_cut *cut;
    const bni_buffers *data;
    bni_task task;
    size_t place;
} bni_feature;

/* Mean and sum of squared deviations, both 0 where nothing has weight. */
void bni_exact_moments(const bni_feature *feature, double *mean, double *m2);

/* The sums that grad_sums forms; coef as in the kernels, of the group's columns. */
void bni_exact_gradients(const bni_feature *feature, const bni_coef *coef, bni_activation act,
                         double *s1, double *s2);

/* Sums in runs are tried first. Where they did not hold, what they raised meanwhile is taken back:
 * the exceptions that the sums in double then raise are those of the data. */
typedef struct bni_trial {
    int raised;
} bni_trial;

bni_trial bni_trial_begin(void);
void bni_trial_undo(bni_trial trial);

#endif
