/*
 * The arithmetic over features: plain loops, which the compiler vectorizes for each instruction set.
 * None has a condition in it, which would be in the way of that, or be a loop for each case: what is
 * not given stands for something that is there, and is chosen by its bits.
 */
#include "kernels/features.h"

#include "kernels/bits.h"

#include <math.h>

/* What a loop writes is nothing that it reads at another place: arrays are apart, or the same. */
#if defined(__clang__)
#define BNI_EACH_FEATURE(d)                                                                        \
    _Pragma("clang loop vectorize(assume_safety)") for (size_t d = 0; d < features; d++)
#elif defined(__GNUC__)
#define BNI_EACH_FEATURE(d) _Pragma("GCC ivdep") for (size_t d = 0; d < features; d++)
#else
#define BNI_EACH_FEATURE(d) for (size_t d = 0; d < features; d++)
#endif

/* a * b + c, rounded once where the instruction set has that. */
#if BNI_FUSED
#define BNI_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define BNI_FMA(a, b, c) ((float)((double)(a) * (double)(b) + (double)(c)))
#endif

/* value where `chosen`, else other. */
BNI_INLINE double choose(bool chosen, double value, double other) {
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
    BNI_EACH_FEATURE(d) {
        const double moved = (double)pivot[d] + s1[d] * part;
        pivot[d] = (float)choose(bni_within(moved, FLT_MAX), moved, (double)pivot[d]);
    }
}

static bool held(const double *restrict s1, const double *restrict s2, size_t features,
                 double least, bool zero) {
    uint64_t bad = 0;
    BNI_EACH_FEATURE(d) {
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
    BNI_EACH_FEATURE(d) {
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
    BNI_EACH_FEATURE(d) {
        const double shift = s1[d] * part;
        const double own = s2[d] - s1[d] * shift;
        const double positive = choose(bni_is_negative(own), 0.0, own); /* NaN stays */
        const double delta = ((double)pivot[d] - mean[d]) + shift;
        mean[d] += delta * share;
        m2[d] += positive + delta * delta * between;
    }
    into->count = total;
}

/* 1 for NaN and Inf. Without a branch, so that loops around it are vectorized. */
BNI_INLINE int not_finite(float value) {
    return !bni_finite(value);
}

/* The most that squared deviations may add up to. Then each deviation of weight 1 is at most 2^126,
 * which float holds, and invstd is at least 2^-126, so that float has all its digits. */
#define BNI_MOST_M2 0x1p252

/* A double as the float nearest to it and what is left, rounded to float: 48 bits together. */
typedef struct parts {
    float nearest, rest;
} parts;

BNI_INLINE parts split(double value) {
    const float rounded = (float)value;
    return (parts){rounded, (float)(value - (double)rounded)};
}

static bool finish_moments(const bni_sums *sums, size_t features, double eps,
                           const bni_cache *cache) {
    const double *restrict mean = sums->mean;
    const double *restrict m2 = sums->m2;
    float *restrict mean_near = cache->mean, *restrict mean_rest = cache->mean_rest;
    float *restrict invstd_near = cache->invstd, *restrict invstd_rest = cache->invstd_rest;
    const double part = 1.0 / sums->count;
    int bad = 0;
    BNI_EACH_FEATURE(d) {
        const parts center = split(mean[d]), invstd = split(1.0 / sqrt(m2[d] * part + eps));
        bni_store_float(mean_near + d, center.nearest);
        bni_store_float(mean_rest + d, center.rest);
        bni_store_float(invstd_near + d, invstd.nearest);
        bni_store_float(invstd_rest + d, invstd.rest);
        bad |= not_finite(center.nearest) | not_finite(invstd.nearest) |
               !bni_within(m2[d], BNI_MOST_M2); /* Inf: no eps and no variance */
    }
    return bad == 0;
}

/* One of the two arrays of running values, with what is known beyond float. */
typedef struct run_values {
    const float *value, *seen, *rest;
    bool known;
} run_values;

BNI_INLINE run_values known_of(const float *value, const float *seen, const float *rest) {
    const bool known = seen != NULL;
    return (run_values){value, known ? seen : value, known ? rest : value, known};
}

BNI_INLINE parts value_at(run_values of, size_t d) {
    const float value = bni_load_float(of.value + d);
    const float rest = bni_rest_of(value, bni_load_float(of.seen + d), bni_load_float(of.rest + d));
    return (parts){value, bni_keep(of.known, rest)};
}

BNI_INLINE double whole(parts of) {
    return (double)of.nearest + (double)of.rest;
}

static void finish_running(const bni_running *of, size_t features, double eps,
                           const bni_cache *cache) {
    const float *var =
        of->var; /* once: stores may change what `of` points to, for all that is known */
    const run_values mean = known_of(of->mean, of->mean_seen, of->mean_rest);
    float *restrict mean_near = cache->mean, *restrict mean_rest = cache->mean_rest;
    float *restrict invstd_near = cache->invstd, *restrict invstd_rest = cache->invstd_rest;
    BNI_EACH_FEATURE(d) {
        const parts center = value_at(mean, d);
        const parts invstd = split(1.0 / sqrt((double)bni_load_float(var + d) + eps));
        bni_store_float(mean_near + d, center.nearest);
        bni_store_float(mean_rest + d, center.rest);
        bni_store_float(invstd_near + d, invstd.nearest);
        bni_store_float(invstd_rest + d, invstd.rest);
    }
}

/* gamma, or beta, of which either may not be learned; `other` is read then, and does not count. */
typedef struct learned {
    const float *value;
    bool given;
    float without;
} learned;

BNI_INLINE learned learned_of(const float *value, float without, const float *other) {
    return (learned){value != NULL ? value : other, value != NULL, without};
}

BNI_INLINE float learned_at(learned of, size_t d) {
    const float value = bni_keep(of.given, bni_load_float(of.value + d));
    const uint32_t bits = bni_float_bits(value) | bni_float_bits(bni_keep(!of.given, of.without));
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* shift = beta - rest * scale, to the bit beta where there is no rest, whatever the scale. */
BNI_INLINE void shifts_of(run_values mean, learned beta, size_t features,
                          const float *restrict scale, float *restrict shift) {
    BNI_EACH_FEATURE(d) {
        const float rest = value_at(mean, d).rest;
        shift[d] =
            BNI_FMA(-rest, bni_keep(bni_float_bits(rest) << 1 != 0, scale[d]), learned_at(beta, d));
    }
}

/* Of the variance float's digits are enough: a root halves what they lack. */
static void running_affine(const bni_running *of, const float *gamma, const float *beta,
                           size_t features, double eps, float *restrict scale,
                           float *restrict shift) {
    const float *var = of->var;
    const learned factor = learned_of(gamma, 1.0f, var);
    BNI_EACH_FEATURE(d) {
        const parts invstd = split(1.0 / sqrt((double)bni_load_float(var + d) + eps));
        scale[d] = (float)(whole(invstd) * (double)learned_at(factor, d));
    }
    shifts_of(known_of(of->mean, of->mean_seen, of->mean_rest), learned_of(beta, 0.0f, var),
              features, scale, shift);
}

/* keep * old + (1 - keep) * value; an old value without weight may be anything, and is not even
 * converted. */
BNI_INLINE parts mix(double keep, parts old, double value) {
    const parts kept = {bni_keep(keep != 0.0, old.nearest), bni_keep(keep != 0.0, old.rest)};
    return split(keep * whole(kept) + (1.0 - keep) * value);
}

static bool running(const bni_sums *sums, size_t features, bool biased, double keep,
                    const bni_running *old, const bni_running *into) {
    const double *restrict new_mean = sums->mean;
    const double *restrict new_m2 = sums->m2;
    const run_values mean = known_of(old->mean, old->mean_seen, old->mean_rest);
    const run_values var = known_of(old->var, old->var_seen, old->var_rest);
    float *restrict mean_near = into->mean, *restrict mean_rest = into->mean_rest;
    float *restrict var_near = into->var, *restrict var_rest = into->var_rest;
    const double part = 1.0 / (biased ? sums->count : sums->count - 1.0);
    int bad = 0;
    BNI_EACH_FEATURE(d) {
        const parts mixed_mean = mix(keep, value_at(mean, d), new_mean[d]);
        const parts mixed_var = mix(keep, value_at(var, d), new_m2[d] * part);
        mean_near[d] = mixed_mean.nearest;
        mean_rest[d] = mixed_mean.rest;
        var_near[d] = mixed_var.nearest;
        var_rest[d] = mixed_var.rest;
        bad |= not_finite(mixed_mean.nearest) | not_finite(mixed_var.nearest);
    }
    return bad == 0;
}

BNI_INLINE parts parts_at(const float *nearest, const float *rest, size_t d) {
    return (parts){bni_load_float(nearest + d), bni_load_float(rest + d)};
}

static void affine(const bni_cache *cache, const float *gamma, const float *beta, size_t features,
                   float *restrict scale, float *restrict shift) {
    const float *rest = cache->mean_rest;
    const learned factor = learned_of(gamma, 1.0f, rest);
    BNI_EACH_FEATURE(d) {
        scale[d] = (float)(whole(parts_at(cache->invstd, cache->invstd_rest, d)) *
                           (double)learned_at(factor, d));
    }
    shifts_of(known_of(rest, rest, rest), learned_of(beta, 0.0f, rest), features, scale, shift);
}

static bool finish_gradients(const bni_cache *cache, const double *s1, const double *s2,
                             bool about_rest, size_t features, double share, bool scale, bool shift,
                             float *restrict dgamma, float *restrict dbeta, float *restrict slope,
                             float *restrict offset) {
    const float *restrict mean_rest = cache->mean_rest;
    const float *restrict invstd_near = cache->invstd, *restrict invstd_rest = cache->invstd_rest;
    const double moved = about_rest ? 0.0 : 1.0;
    int bad = 0;
    BNI_EACH_FEATURE(d) {
        const double invstd = whole(parts_at(invstd_near, invstd_rest, d));
        const double rest = (double)bni_load_float(mean_rest + d);
        const double gradient = (s2[d] - rest * moved * s1[d]) * invstd;
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
        .finish_running = finish_running, .running_affine = running_affine, .running = running,    \
        .affine = affine, .finish_gradients = finish_gradients                                     \
    }
