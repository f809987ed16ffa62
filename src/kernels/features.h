/*
 * The contract of the arithmetic over features: a value or two a feature, whatever the layout and the
 * type of the data. Arrays have as many elements as there are features, and nothing is read or written
 * beyond them. Parameters, running values and caches may be the caller's: they have any alignment.
 */
#ifndef BNI_FEATURES_H
#define BNI_FEATURES_H

#include "kernels/bits.h"

#include <stdbool.h>
#include <stddef.h>

/* Values of a feature, as count, mean and sum of squared deviations: three arrays, one count. */
typedef struct bni_sums {
    double count;
    double *mean, *m2;
} bni_sums;

/* The cache that forward leaves for backward: mean + mean_rest to 48 bits, invstd likewise. */
typedef struct bni_cache {
    float *mean, *mean_rest, *invstd, *invstd_rest;
} bni_cache;

/* Running values, which are the caller's to write, and what they have beyond float: their rests count
 * where the value is still the one that was seen when they were made. seen and rest are NULL where
 * nothing is known of them. */
typedef struct bni_running {
    float *mean, *mean_seen, *mean_rest;
    float *var, *var_seen, *var_rest;
} bni_running;

static inline float bni_rest_of(float value, float seen, float rest) {
    return bni_keep(bni_float_bits(value) == bni_float_bits(seen), rest);
}

typedef struct bni_feature_kernels {
    /* s[d] = the sum of all columns of feature d, where column (o*features + d)*inner + i belongs
     * to d for all o < outer, i < inner. */
    void (*fold)(double *s, size_t outer, size_t features, size_t inner);

    /* pivot += s1 / count, where that is finite; count is not 0. */
    void (*move_pivot)(float *pivot, const double *s1, size_t features, double count);

    /* Whether float runs could hold the sums of all features: each s1 is finite, and each s2, which is
     * at least `least` in size, or 0 where that may be. */
    bool (*held)(const double *s1, const double *s2, size_t features, double least, bool zero);

    /* Merges a block of data, given by its sums about a pivot, into `into`, which is 0 throughout
     * where it is empty. A sum of squares that is NaN or Inf makes m2 such. */
    void (*merge_block)(bni_sums *into, size_t features, double count, const float *pivot,
                        const double *s1, const double *s2);

    /* Merges the moments of other data into `into`; either may be empty. */
    void (*merge)(bni_sums *into, const bni_sums *from, size_t features);

    /* cache = mean and invstd = 1 / sqrt(m2/count + eps). False where one is NaN or Inf, or where
     * deviations may be beyond float. */
    bool (*finish_moments)(const bni_sums *sums, size_t features, double eps,
                           const bni_cache *cache);

    /* cache = mean and 1 / sqrt(var + eps) of running values. */
    void (*finish_running)(const bni_running *of, size_t features, double eps,
                           const bni_cache *cache);

    /* The scale and shift that finish_running and affine give, to the bit; gamma and beta may be
     * NULL. */
    void (*running_affine)(const bni_running *of, const float *gamma, const float *beta,
                           size_t features, double eps, float *scale, float *shift);

    /* mean = keep * old mean + (1 - keep) * the moments' mean, and var likewise with m2/count, or
     * m2/(count - 1) where not biased; into mean, var and their rests. With keep = 0 the old values
     * may be anything. False where a result is NaN or Inf, or beyond float. */
    bool (*running)(const bni_sums *sums, size_t features, bool biased, double keep,
                    const bni_running *old, const bni_running *into);

    /* scale = gamma * invstd and shift = beta - mean_rest * scale; gamma and beta may be NULL. */
    void (*affine)(const bni_cache *cache, const float *gamma, const float *beta, size_t features,
                   float *scale, float *shift);

    /* From the gradient sums, s2 about the cache's mean, or about mean + mean_rest: dbeta = s1,
     * dgamma = (s2 - mean_rest * s1) * invstd, or s2 * invstd, and the slope and
     * offset of bni_coef, where share is 1/W, or 0 of constant statistics. Gradients that are
     * not learned (scale, shift) are 0. False where one is NaN or Inf. */
    bool (*finish_gradients)(const bni_cache *cache, const double *s1, const double *s2,
                             bool about_rest, size_t features, double share, bool scale, bool shift,
                             float *dgamma, float *dbeta, float *slope, float *offset);
} bni_feature_kernels;

#endif
