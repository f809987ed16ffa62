/*
 * The vector vocabulary of data_template.h in plain C: structs of a few lanes and loops over them, which
 * a compiler turns into whatever vector instructions its target has.
 *
 * BNI_LANES         floats in a vector
 * BNI_TILE          vectors of a row that a kernel writes at once, its coefficients in registers
 * BNI_UNROLLS_RUNS  1 where the code of a whole run, unrolled, is small
 * vf, vd            BNI_LANES floats; as many doubles
 */
#include "kernels/bits.h"

#include <stddef.h>

#define BNI_LANES        4
#define BNI_TILE         2
#define BNI_SUMS_TILE    4
#define BNI_UNROLLS_RUNS 0

typedef struct vf {
    float lane[BNI_LANES];
} vf;

typedef struct vd {
    double lane[BNI_LANES];
} vd;

#define BNI_EACH(l) for (int l = 0; l < BNI_LANES; l++)

static inline vf vf_load(const float *from) {
    vf v;
    memcpy(v.lane, from, sizeof v.lane);
    return v;
}

static inline void vf_store(float *to, vf v) {
    memcpy(to, v.lane, sizeof v.lane);
}

/* The first `count` lanes from memory, the others from `rest`. */
static inline vf vf_load_part(const float *from, size_t count, vf rest) {
    memcpy(rest.lane, from, count * sizeof *from);
    return rest;
}

static inline void vf_store_part(float *to, size_t count, vf v) {
    memcpy(to, v.lane, count * sizeof *to);
}

/* The first `count` lanes; 0 in the others. */
static inline vf vf_part(vf a, size_t count) {
    BNI_EACH(l) a.lane[l] = (size_t)l < count ? a.lane[l] : 0.0f;
    return a;
}

/* What is written past the caches where there are instructions for it: here an ordinary store. */
static inline void vf_stream(float *to, vf v) {
    vf_store(to, v);
}

static inline vf vf_set1(float value) {
    vf v;
    BNI_EACH(l) v.lane[l] = value;
    return v;
}

static inline vf vf_add(vf a, vf b) {
    BNI_EACH(l) a.lane[l] += b.lane[l];
    return a;
}

static inline vf vf_sub(vf a, vf b) {
    BNI_EACH(l) a.lane[l] -= b.lane[l];
    return a;
}

static inline vf vf_mul(vf a, vf b) {
    BNI_EACH(l) a.lane[l] *= b.lane[l];
    return a;
}

/* a * b + c. The product of two floats is exact in double, so one rounding of the sum and one to
 * float remain: what fma() gives but in rare cases of double rounding, at a fraction of its cost
 * where it is a function call. */
static inline vf vf_fma(vf a, vf b, vf c) {
    BNI_EACH(l) a.lane[l] = (float)((double)a.lane[l] * (double)b.lane[l] + (double)c.lane[l]);
    return a;
}

/* max(a, 0); NaN stays NaN. Comparisons are quiet: no NaN raises FE_INVALID in this one or the next
 * two. */
static inline vf vf_relu(vf a) {
    BNI_EACH(l) a.lane[l] = bni_is_negative(a.lane[l]) ? 0.0f : a.lane[l];
    return a;
}

/* a where z > 0, else 0. */
static inline vf vf_where_positive(vf z, vf a) {
    BNI_EACH(l) a.lane[l] = bni_is_positive(z.lane[l]) ? a.lane[l] : 0.0f;
    return a;
}

/* a where z is 0, else b. */
static inline vf vf_where_zero(vf z, vf a, vf b) {
    BNI_EACH(l) b.lane[l] = z.lane[l] == 0.0f ? a.lane[l] : b.lane[l];
    return b;
}

static inline vd vd_load(const double *from) {
    vd v;
    memcpy(v.lane, from, sizeof v.lane);
    return v;
}

static inline void vd_store(double *to, vd v) {
    memcpy(to, v.lane, sizeof v.lane);
}

/* The doubles of floats. */
static inline vd vd_from(vf a) {
    vd v;
    BNI_EACH(l) v.lane[l] = (double)a.lane[l];
    return v;
}

static inline vd vd_add(vd a, vd b) {
    BNI_EACH(l) a.lane[l] += b.lane[l];
    return a;
}
