/*
 * The contract of the arithmetic over data: a table of kernels per instruction set and element type.
 *
 * Kernels know neither layers nor batches. All data comes as sheets: rows of columns, where each
 * column belongs to one feature. What belongs to a column (a pivot, a sum, a coefficient) comes in
 * arrays of as many elements as there are columns. Nothing is read or written past a row's end, be
 * it of data or of these arrays. Data needs no alignment, not even that of its element type.
 *
 * No kernel raises a floating-point exception that its data does not: lanes of a vector that have
 * no column are zeros throughout.
 *
 * Elements of a half type are computed with as the floats that they are, in the same order: sums have
 * the same bits. What is stored is rounded once more.
 */
#ifndef BNI_DATA_H
#define BNI_DATA_H

#include "kernels/element.h"

#include <stddef.h>

/* The floats of a cache line, and the columns of a plane's line, whatever their type. */
#define BNI_PAD ((size_t)16)

/* Its bytes. Arrays begin at one, so that no two share a line and no vector is in two. */
#define BNI_LINE ((size_t)64)

/* The elements of a cache line. */
static inline size_t bni_line_of(bni_type type) {
    return BNI_LINE / bni_bytes_of(type);
}

/* The most columns of a sheet that sums are formed of, or that has a value a column made for it.
 * Wide enough that a row of a panel is a run of 2 KiB; narrow enough that a panel's sums and
 * coefficients stay in L1 and take less than half of the 32 KiB of stack that a call may use. */
#define BNI_PANEL ((size_t)512)

/* Rows, or lines of a plane, that are summed up in float before their sums go to double: two quads. */
#define BNI_RUN  ((size_t)8)
#define BNI_QUAD ((size_t)4)

/* Where the elements of a sheet lie. What a kernel does not name may be anything. Outputs may be
 * inputs, but never overlap them otherwise. */
typedef struct bni_buffers {
    const void *x;
    const void *residual; /* NULL: none */
    const void *y;        /* gradients by y: forward's */
    const void *dy;
    void *out; /* normalize: y */
    void *dx;
    void *dresidual; /* NULL: not wanted */
} bni_buffers;

/* Rows of columns, or planes. A plane is one row of one feature's elements, with one value of what
 * belongs to columns; the next begins plane_stride elements further on. x and dx, and likewise all
 * others, share a stride. */
typedef struct bni_form {
    size_t rows, cols;
    size_t x_stride, y_stride;   /* elements from a row to the next: of x and dx; of all others */
    size_t planes, plane_stride; /* 1 and 0 where there are no planes */
    const float *weight;         /* row r has weight[r*weight_step]; NULL: all 1 */
    size_t weight_step;
    const float *position; /* a second factor, where there is the first: of rows position[r], of a
                              plane's column position[c]; NULL: all 1 */
    bool few; /* a feature has so few values that its moments are formed in double throughout */
} bni_form;

/* How many rows, or lines of a cache line's length, there are to sum up a column's elements. */
static inline size_t bni_depth(const bni_form *form) {
    return form->plane_stride == 0 ? form->rows : (form->cols + BNI_PAD - 1) / BNI_PAD;
}

/* What changes no result. */
typedef struct bni_hints {
    size_t band; /* rows to go down a tile's columns before the next tile, where outputs are
                    written; divides the work of a sheet into bands of whole rows */
    /* What is so many elements ahead of each place in x and in dy is fetched while that place is
     * worked on; 0: nothing. Passes that write without streaming fetch their output so. */
    size_t x_ahead, dy_ahead;
    bool past_l2; /* inputs that are fetched need not be kept in L2 */
    /* The same in a streamed output, for the lines that two rows or planes share: these are
     * stored to in the ordinary way, and streamed stores would wait behind each. */
    size_t part_ahead;
    /* The outputs are not read again soon: write them past the caches. The caller sees to it that
     * they are written before what follows: bni_run. */
    bool stream;
} bni_hints;

typedef struct bni_sheet {
    bni_buffers at;
    bni_form form;
    bni_hints hints;
} bni_sheet;

/* What every kernel is promised; most_cols: of a sheet of rows. */
static inline void bni_check_sheet(const bni_sheet *sheet, size_t most_cols) {
    const bni_form *form = &sheet->form;
    BNI_ASSERT(form->rows >= 1 && form->cols >= 1 && form->planes >= 1 && sheet->hints.band >= 1);
    BNI_ASSERT(form->position == NULL || form->weight != NULL);
    if (form->plane_stride == 0) {
        BNI_ASSERT(form->planes == 1 && form->cols <= most_cols);
        BNI_ASSERT(form->x_stride >= form->cols && form->y_stride >= form->cols);
    } else {
        BNI_ASSERT(form->rows == 1 && form->cols <= form->plane_stride);
    }
    (void)form;
    (void)most_cols;
}

/* A place in a buffer that may not be there: NULL then. */
static inline const void *bni_input_at(const void *start, size_t bytes) {
    return start == NULL ? NULL : (const char *)start + bytes;
}

static inline void *bni_output_at(void *start, size_t bytes) {
    return start == NULL ? NULL : (char *)start + bytes;
}

/* Puts buffers so many bytes from others: x and dx; all others. */
static inline void bni_place(bni_buffers *at, const bni_buffers *from, size_t x, size_t y) {
    at->x = bni_input_at(from->x, x);
    at->dx = bni_output_at(from->dx, x);
    at->residual = bni_input_at(from->residual, y);
    at->out = bni_output_at(from->out, y);
    at->y = bni_input_at(from->y, y);
    at->dy = bni_input_at(from->dy, y);
    at->dresidual = bni_output_at(from->dresidual, y);
}

/* The weight of a row, where there are weights; of a plane only the first factor. */
static inline float bni_weight(const bni_form *form, size_t row) {
    const float weight = bni_load_float(form->weight + row * form->weight_step);
    return form->position == NULL || form->plane_stride != 0
               ? weight
               : weight * bni_load_float(form->position + row);
}

/* Whether the columns of planes have weights of their own, and the weight of one then. */
static inline bool bni_weighs_columns(const bni_form *form) {
    return form->position != NULL && form->plane_stride != 0;
}

static inline float bni_column_weight(const bni_form *form, size_t column) {
    return bni_weight(form, 0) * bni_load_float(form->position + column);
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
    const float *scale, *shift;  /* grad_sums looks at them only to rebuild z */
    const float *slope, *offset; /* NULL: constant statistics, dx = scale * g */
} bni_coef;

/* The activation: act(z), where NaN stays NaN, and g = dy * act'(z). Those behind BNI_RELU have no
 * loops of their own: they share one. */
typedef enum bni_curve {
    BNI_LINEAR,
    BNI_RELU,  /* z where z > 0, else 0;          g = dy where z > 0, else 0 */
    BNI_LEAKY, /* z where z > 0, else slope * z;  g = dy where z > 0, else slope * dy */
    BNI_CLIP   /* min(max(z, 0), max);            g = dy where 0 < z < max, else 0 */
} bni_curve;

typedef struct bni_activation {
    bni_curve curve;
    /* Gradients: forward's y stands for z, as both are above 0 and both below max, or as y was rounded to
     * be: max then is too. Else z is fma(x - center, scale, shift), rebuilt to forward's bit. */
    bool by_y;
    float slope, max; /* where the curve has one: > 0 and finite; max may be Inf by y */
} bni_activation;

/* Whether gradients rebuild z from x. */
static inline bool bni_rebuilds(bni_activation act) {
    return act.curve != BNI_LINEAR && !act.by_y;
}

typedef struct bni_data_kernels {
    /* s1[c] += sum of w * (x - pivot[c]), s2[c] += sum of w * (x - pivot[c])^2: in float over the
     * runs of a sheet, each of which is then added in double; of few values in double each. What has
     * weight 0 adds nothing, whatever its x is. */
    void (*moments)(const bni_sheet *sheet, const float *pivot, double *s1, double *s2);

    /* The sum of the weights of a plane's columns, which have their own, in double. */
    double (*weigh)(const bni_form *form);

    void (*normalize)(const bni_sheet *sheet, const bni_coef *coef, bni_activation act);

    /* s1[c] += sum of g, s2[c] += sum of g * (x - center[c]), in runs likewise. */
    void (*grad_sums)(const bni_sheet *sheet, const bni_coef *coef, bni_activation act, double *s1,
                      double *s2);

    void (*grad_input)(const bni_sheet *sheet, const bni_coef *coef, bni_activation act);

    /* Of half types: the floats of so many elements, and the elements nearest to so many floats, at
     * addresses of any alignment, which do not overlap. NaN becomes quiet. */
    void (*to_floats)(size_t count, const void *from, float *to);
    void (*from_floats)(size_t count, const float *from, void *to);
} bni_data_kernels;

#endif
