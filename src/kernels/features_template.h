/*
 * The arithmetic over features: plain loops, which the compiler vectorizes for each instruction set.
 * None has a condition in it, which would be in the way of that, or be a loop for each case: what is
 * not given stands for something that is there, and is chosen by its bits.
 */
#include "kernels/features.h"

#include "kernels/bits.h"

#include <math.h>

/* value where `chosen`, else other. */
static inline double choose(bool chosen, double value, double other) {
    const uint64_t bits = 0u - (uint64_t)chosen;
    const uint64_t both = (bni_double_bits(value) & bits) | (bni_double_bits(other) & ~bits);
    double result;
    memcpy(&result, &both, sizeof result);
    return result;
}

/* Eight sums side by side are a vector's worth of work and stay in one order on every machine. */
static void fold(double *s, size_t outer, size_t features, size_t inner) {
    if (inner > 1) {
        for (size_t f = 0; f < outer * features; f++) {
            double sum[8] = {0};
            const double *from = s + f * inner;
            size_t i = 0;
            for (; i + 8 <= inner; i += 8) {
                for (size_t l = 0; l < 8; l++) {
                    sum[l] += from[i + l];
                }
            }
            for (; i < inner; i++) {
                sum[i % 8] += from[i];
            }
            s[f] =
                ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
        }
    }
    for (size_t o = 1; o < outer; o++) {
        for (size_t f = 0; f < features; f++) {
            s[f] += s[o * features + f];
        }
    }
}

static void move_pivot(float *restrict pivot, const double *restrict s1, size_t features,
                       double count) {
    const double part = 1.0 / count;
    for (size_t d = 0; d < features; d++) {
        const double moved = (double)pivot[d] + s1[d] * part;
        pivot[d] = (float)choose(bni_within(moved, FLT_MAX), moved, (double)pivot[d]);
    }
}

static bool held(const double *restrict s1, const double *restrict s2, size_t features,
                 double least, bool zero) {
    uint64_t bad = 0;
    for (size_t d = 0; d < features; d++) {
        const uint64_t size = bni_double_bits(s2[d]) << 1; /* without its sign, as a number */
        const uint64_t small =
            (uint64_t)(size < bni_double_bits(least) << 1) & !(zero & (size == 0));
        bad |= small | !bni_finite_double(s1[d]) | !bni_finite_double(s2[d]);
    }
    return bad == 0;
}

/* T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for Computing the Sample Variance", The
 * American Statistician 37 (1983): formula 2.1 for two parts of any size. */
static void merge(bni_sums *into, const bni_sums *from, size_t features) {
    double *mean = into->mean;
    double *m2 = into->m2;
    if (from->count == 0.0) {
        return;
    }
    if (into->count == 0.0) {
        memmove(mean, from->mean, features * sizeof *mean);
        memmove(m2, from->m2, features * sizeof *m2);
        into->count = from->count;
        return;
    }
    const double total = into->count + from->count;
    const double share = from->count / total;
    const double between = into->count * share;
    for (size_t d = 0; d < features; d++) {
        const double delta = from->mean[d] - mean[d];
        mean[d] += delta * share;
        m2[d] += from->m2[d] + delta * delta * between;
    }
    into->count = total;
}

/* The block's own moments come from its sums about a pivot, about which the sum of squares is at most
 * a few times the one about the mean (moments.c): subtracting the mean's part costs no digits. */
static void merge_block(bni_sums *into, size_t features, double count, const float *pivot,
                        const double *s1, const double *s2) {
    double *restrict mean = into->mean;
    double *restrict m2 = into->m2;
    const double part = 1.0 / count;
    const double total = into->count + count;
    const double share = count / total;
    const double between = into->count * share;
    for (size_t d = 0; d < features; d++) {
        const double shift = s1[d] * part;
        const double own = s2[d] - s1[d] * shift;
        const double positive = isless(own, 0.0) ? 0.0 : own; /* NaN stays */
        const double delta = ((double)pivot[d] - mean[d]) + shift;
        mean[d] += delta * share;
        m2[d] += positive + delta * delta * between;
    }
    into->count = total;
}

/* 1 for NaN and Inf. Without a branch, so that loops around it are vectorized. */
static inline int not_finite(float value) {
    return !bni_finite(value);
}

/* The most that squared deviations may add up to. Then each deviation of weight 1 is at most 2^126,
 * which float holds, and invstd is at least 2^-126, so that float has all its digits. */
#define BNI_MOST_M2 0x1p252

/* A double as the float nearest to it and what is left, rounded to float: 48 bits together. */
static inline void split(double value, float *nearest, float *rest) {
    const float rounded = (float)value;
    *nearest = rounded;
    *rest = (float)(value - (double)rounded);
}

static bool finish_moments(const bni_sums *sums, size_t features, double eps,
                           const bni_cache *cache) {
    const double *restrict mean = sums->mean;
    const double *restrict m2 = sums->m2;
    float *restrict mean_near = cache->mean, *restrict mean_rest = cache->mean_rest;
    float *restrict invstd_near = cache->invstd, *restrict invstd_rest = cache->invstd_rest;
    const double part = 1.0 / sums->count;
    int bad = 0;
    for (size_t d = 0; d < features; d++) {
        split(mean[d], &mean_near[d], &mean_rest[d]);
        split(1.0 / sqrt(m2[d] * part + eps), &invstd_near[d], &invstd_rest[d]);
        bad |= not_finite(mean_near[d]) | not_finite(invstd_near[d]) |
               !bni_within(m2[d], BNI_MOST_M2); /* Inf: no eps and no variance */
    }
    return bad == 0;
}

static void finish_running(const float *restrict mean, const float *restrict var, size_t features,
                           double eps, const bni_cache *cache) {
    float *restrict mean_near = cache->mean, *restrict mean_rest = cache->mean_rest;
    float *restrict invstd_near = cache->invstd, *restrict invstd_rest = cache->invstd_rest;
    for (size_t d = 0; d < features; d++) {
        mean_near[d] = mean[d];
        mean_rest[d] = 0.0f;
        split(1.0 / sqrt((double)var[d] + eps), &invstd_near[d], &invstd_rest[d]);
    }
}

static void running_scale(const float *restrict var, const float *gamma, size_t features,
                          double eps, float *restrict scale) {
    const bool scales = gamma != NULL;
    const float *restrict factor = scales ? gamma : var;
    for (size_t d = 0; d < features; d++) {
        float nearest, rest;
        split(1.0 / sqrt((double)var[d] + eps), &nearest, &rest);
        const double invstd = (double)nearest + (double)rest;
        scale[d] = (float)(invstd * choose(scales, (double)factor[d], 1.0));
    }
}

/* keep * old + (1 - keep) * value; an old value without weight may be anything, and is not even
 * converted. */
static inline float mix(double keep, float old, double value) {
    const uint32_t bits = bni_float_bits(old) & (0u - (uint32_t)(keep != 0.0));
    float kept;
    memcpy(&kept, &bits, sizeof kept);
    return (float)(keep * (double)kept + (1.0 - keep) * value);
}

static bool running(const bni_sums *sums, size_t features, bool biased, double keep,
                    const float *old_mean, const float *old_var, float *restrict mean,
                    float *restrict var) {
    const double *restrict new_mean = sums->mean;
    const double *restrict new_m2 = sums->m2;
    const double part = 1.0 / (biased ? sums->count : sums->count - 1.0);
    int bad = 0;
    for (size_t d = 0; d < features; d++) {
        mean[d] = mix(keep, old_mean[d], new_mean[d]);
        var[d] = mix(keep, old_var[d], new_m2[d] * part);
        bad |= not_finite(mean[d]) | not_finite(var[d]);
    }
    return bad == 0;
}

static void affine(const bni_cache *cache, const float *gamma, const float *beta, size_t features,
                   float *restrict scale, float *restrict shift) {
    const float *restrict mean_rest = cache->mean_rest;
    const float *restrict invstd_near = cache->invstd, *restrict invstd_rest = cache->invstd_rest;
    const bool scales = gamma != NULL, shifts = beta != NULL;
    const float *restrict factor = scales ? gamma : mean_rest;
    const float *restrict start = shifts ? beta : mean_rest;
    for (size_t d = 0; d < features; d++) {
        const double invstd = (double)invstd_near[d] + (double)invstd_rest[d];
        const double slope = invstd * choose(scales, (double)factor[d], 1.0);
        scale[d] = (float)slope;
        /* No rest, as in running values: beta to its bit, whatever the slope. */
        const double rest = (double)mean_rest[d];
        shift[d] =
            (float)(choose(shifts, (double)start[d], 0.0) - rest * choose(rest == 0.0, 0.0, slope));
    }
}

static bool finish_gradients(const bni_cache *cache, const double *s1, const double *s2,
                             size_t features, double share, bool scale, bool shift,
                             float *restrict dgamma, float *restrict dbeta, float *restrict slope,
                             float *restrict offset) {
    const float *restrict mean_rest = cache->mean_rest;
    const float *restrict invstd_near = cache->invstd, *restrict invstd_rest = cache->invstd_rest;
    int bad = 0;
    for (size_t d = 0; d < features; d++) {
        const double invstd = (double)invstd_near[d] + (double)invstd_rest[d];
        const double rest = (double)mean_rest[d];
        const double gradient = (s2[d] - rest * s1[d]) * invstd;
        const double per_value = gradient * invstd * -share;
        dgamma[d] =
            (float)choose(scale, gradient, 0.0); /* what is not learned may be beyond float */
        dbeta[d] = (float)choose(shift, s1[d], 0.0);
        slope[d] = (float)per_value;
        offset[d] = (float)(s1[d] * -share - rest * per_value);
        bad |= not_finite(dgamma[d]) | not_finite(dbeta[d]);
    }
    return bad == 0;
}

#define BNI_FEATURE_KERNELS                                                                        \
    {                                                                                              \
        .fold = fold, .move_pivot = move_pivot, .held = held, .merge = merge,                      \
        .merge_block = merge_block, .finish_moments = finish_moments,                              \
        .finish_running = finish_running, .running_scale = running_scale, .running = running,      \
        .affine = affine, .finish_gradients = finish_gradients                                     \
    }
