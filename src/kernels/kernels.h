/*
 * The contract between the library and its arithmetic: one table of functions per instruction set.
 *
 * Kernels know neither layers nor batches. All data comes as sheets: rows of columns, where each
 * column belongs to one feature. What belongs to a column (a pivot, a sum, a coefficient) comes in
 * arrays of as many elements as there are columns. Nothing is read or written past a row's end, be
 * it of data or of these arrays. Data needs no alignment, not even that of float.
 *
 * No kernel raises a floating-point exception that its data does not: lanes of a vector that have
 * no column are zeros throughout.
 */
#ifndef BNI_KERNELS_H
#define BNI_KERNELS_H

#include "kernels/bits.h"

#include <stddef.h>

/* The floats of a cache line, and the most that any kernel moves at once. */
#define BNI_PAD ((size_t)16)

/* The most columns of a sheet that sums are formed of, or that has a value a column made for it.
 * Wide enough that a row of a panel is a run of 2 KiB; narrow enough that a panel's sums and
 * coefficients stay in L1 and take less than half of the 32 KiB of stack that a call may use. */
#define BNI_PANEL ((size_t)512)

/* Columns that each feature has where planes are cut into rows. A row is narrower: where sums are
 * formed it has half of them, on every machine, as each column is a sum of its own; where outputs
 * are written, a tile of the kernels: a plane is then gone through from its first element to its
 * last. */
#define BNI_PLANE_WIDTH ((size_t)64)

/* Rows of columns, or several planes of such: plane p begins p * plane_stride elements further on
 * and has its columns BNI_PLANE_WIDTH further on, and all its rows but a last one of `tail` columns
 * lie one behind the other. Buffers that a kernel does not name may be anything. x and dx, and
 * likewise all others, share a stride; outputs may be inputs, but never overlap them otherwise. */
typedef struct bni_sheet {
    size_t rows, cols;
    size_t x_stride, y_stride; /* elements from a row to the next: of x and dx; of all others */
    size_t planes, plane_stride, tail; /* 1, 0 and 0 where there are no planes; a plane's stride is
                                          never 0 */
    const float *x;
    const float *residual; /* NULL: none */
    float *out;            /* normalize: y */
    const float *y;        /* gradients, with BNI_MASK_Y: forward's y */
    const float *dy;
    float *dx;
    float *dresidual;    /* NULL: not wanted */
    const float *weight; /* row r has weight[r*weight_step]; NULL: all 1 */
    size_t weight_step;
    bool
        broadcast; /* of planes: a coefficient has one value a plane, not one a column, and a plane's
                       sums have BNI_FEW_WIDTH columns */
    size_t band;   /* rows to go down a tile's columns before the next tile; divides the work of a
                    sheet into bands of whole rows */
    /* What is so many elements ahead of each place in x and in dy is fetched while that place is
     * worked on; 0: nothing. Passes that write without streaming fetch their output so. */
    size_t x_ahead, dy_ahead;
    /* The same in a streamed output, for the lines that two rows or planes share: these are
     * stored to in the ordinary way, and streamed stores would wait behind each. */
    size_t part_ahead;
    /* The outputs are not read again soon: write them past the caches. The caller sees to it that
     * they are written before what follows: bni_publish. */
    bool stream;
} bni_sheet;

/* An element of a buffer that may not be there: NULL then. */
static inline const float *bni_input_at(const float *start, size_t offset) {
    return start == NULL ? NULL : start + offset;
}

static inline float *bni_output_at(float *start, size_t offset) {
    return start == NULL ? NULL : start + offset;
}

/* Puts a sheet's buffers at these offsets from another's: x and dx; all others. */
static inline void bni_place(bni_sheet *sheet, const bni_sheet *from, size_t x, size_t y) {
    sheet->x = bni_input_at(from->x, x);
    sheet->dx = bni_output_at(from->dx, x);
    sheet->residual = bni_input_at(from->residual, y);
    sheet->out = bni_output_at(from->out, y);
    sheet->y = bni_input_at(from->y, y);
    sheet->dy = bni_input_at(from->dy, y);
    sheet->dresidual = bni_output_at(from->dresidual, y);
}

/* The weight of a row, where there are weights. */
static inline float bni_weight(const bni_sheet *sheet, size_t row) {
    return bni_load_float(sheet->weight + row * sheet->weight_step);
}

/* What turns x into y and dy into dx, a value a column:
 *
 *     y  = act(fma(x - center, scale, shift) + residual)
 *     dx = scale * (g + w * fma(x - center, slope, offset))
 *
 * center is the mean rounded to float and the rounding's rest is inside shift and offset, so that
 * x - center is exact wherever x is near the mean, however far both are from zero. */
typedef struct bni_coef {
    const float *center;
    const float *scale, *shift;  /* grad_sums looks at them only with BNI_MASK_X */
    const float *slope, *offset; /* NULL: constant statistics, dx = scale * g */
} bni_coef;

/* Where the derivative of the activation comes from. */
typedef enum bni_mask {
    BNI_MASK_NONE, /* no activation: g = dy */
    BNI_MASK_X,    /* g = dy where fma(x - center, scale, shift) > 0, rebuilt to forward's bit */
    BNI_MASK_Y     /* g = dy where y > 0 */
} bni_mask;

/* Values of a feature, as count, mean and sum of squared deviations: three arrays, one count. */
typedef struct bni_sums {
    double count;
    double *mean, *m2;
} bni_sums;

/* The cache that forward leaves for backward: mean = center + center_rest, invstd likewise. */
typedef struct bni_cache {
    float *mean, *mean_rest, *invstd, *invstd_rest;
} bni_cache;

typedef struct bn_kernels {
    const char *name;
    size_t tile; /* columns side by side in normalize and grad_input; at most BNI_PLANE_WIDTH */

    /* ---- over data ---- */

    /* s1[c] += sum of w * (x - pivot[c]), s2[c] += sum of w * (x - pivot[c])^2, in double. A row of
     * weight 0 is not read. */
    void (*moments)(const bni_sheet *sheet, const float *pivot, double *s1, double *s2);

    void (*normalize)(const bni_sheet *sheet, const bni_coef *coef, bool relu);

    /* s1[c] += sum of g, s2[c] += sum of g * (x - center[c]), in double. */
    void (*grad_sums)(const bni_sheet *sheet, const bni_coef *coef, bni_mask mask, double *s1,
                      double *s2);

    void (*grad_input)(const bni_sheet *sheet, const bni_coef *coef, bni_mask mask);

    /* ---- over features ---- */

    /* s[d] = the sum of all columns of feature d, where column (o*features + d)*inner + i belongs
     * to d for all o < outer, i < inner. */
    void (*fold)(double *s, size_t outer, size_t features, size_t inner);

    /* Merges a block of data, given by its sums about a pivot, into `into`. */
    void (*merge_block)(bni_sums *into, size_t features, double count, const float *pivot,
                        const double *s1, const double *s2);

    /* Merges the moments of other data into `into`; either may be empty. */
    void (*merge)(bni_sums *into, const bni_sums *from, size_t features);

    /* cache = mean and invstd = 1 / sqrt(m2/count + eps). False where one is NaN or Inf, or where
     * deviations may be beyond float. */
    bool (*finish_moments)(const bni_sums *sums, size_t features, double eps,
                           const bni_cache *cache);

    /* cache = mean and 1 / sqrt(var + eps) of running values. */
    void (*finish_running)(const float *mean, const float *var, size_t features, double eps,
                           const bni_cache *cache);

    /* scale = gamma / sqrt(var + eps), with the bits that finish_running and affine give; gamma may
     * be NULL. */
    void (*running_scale)(const float *var, const float *gamma, size_t features, double eps,
                          float *scale);

    /* mean = keep * old_mean + (1 - keep) * the moments' mean, and var likewise with m2/count, or
     * m2/(count - 1) where not biased. With keep = 0 the old values may be anything. False where a
     * result is NaN or Inf, or beyond float. */
    bool (*running)(const bni_sums *sums, size_t features, bool biased, double keep,
                    const float *old_mean, const float *old_var, float *mean, float *var);

    /* scale = gamma * invstd and shift = beta - mean_rest * scale; gamma and beta may be NULL. */
    void (*affine)(const bni_cache *cache, const float *gamma, const float *beta, size_t features,
                   float *scale, float *shift);

    /* From the gradient sums: dbeta = s1, dgamma = (s2 - mean_rest * s1) * invstd, and the slope and
     * offset of bni_coef, where share is 1/W, or 0 of constant statistics. Gradients that are
     * not learned (scale, shift) are 0. False where one is NaN or Inf. */
    bool (*finish_gradients)(const bni_cache *cache, const double *s1, const double *s2,
                             size_t features, double share, bool scale, bool shift, float *dgamma,
                             float *dbeta, float *slope, float *offset);
} bn_kernels;

extern const bn_kernels bni_kernels_scalar;
extern const bn_kernels bni_kernels_sse2, bni_kernels_avx2, bni_kernels_avx512; /* x86-64 */
extern const bn_kernels bni_kernels_neon;                                       /* AArch64 */

/* The best table that this machine, and the environment variable BN_ISA, allow. */
const bn_kernels *bni_kernels_select(void);

#endif
