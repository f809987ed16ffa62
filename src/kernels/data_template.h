/*
 * The arithmetic over data, written once. A kernels_*.c file includes a vector vocabulary (simd_*.h)
 * and then this file, and has BNI_DATA_KERNELS, an initializer of bni_data_kernels. The vocabulary:
 * BNI_LANES, BNI_TILE, BNI_VARIANTS, types vf and vd and their functions (simd_base.h).
 *
 * Where outputs are written, a kernel walks a sheet tile by tile: some vectors side by side, down the
 * rows of a band, so that coefficients are loaded once a tile and stay in registers. Where sums are
 * formed it goes line by line through the rows of a run. The columns left over go vector by vector,
 * the last with a part load. Each column is added up from its first row to its last in a lane of its
 * own, so no result depends on how columns fall into tiles, or on the vectors' width.
 *
 * Sums. Deviations from a pivot near the mean are exact in float, or within one unit (2^-24) of
 * themselves, and so are added up in float over a run of BNI_RUN rows, and the run's sums in double.
 * A run is two quads: three additions one behind the other in each, and one of both. With the rounding
 * of a deviation, twice in its square, and of the product, a run's sum of squares errs by at most
 * 2 + 1 + 4 units of itself, and invstd, its root, by 3.5. Weights make it one unit more, 4 in all.
 */
#include "kernels/data.h"

#include <stdint.h>

/* A variant of a kernel is a call with constants. Without optimization each has a function's frame
 * of its own: in one function, all variants' variables together take up to 120 KiB of stack. */
#ifdef __OPTIMIZE__
#define BNI_INLINE static inline __attribute__((always_inline))
#else
#define BNI_INLINE static inline
#endif

/* Loops over a tile are unrolled whole: only then do its arrays become registers. */
#ifdef __clang__
#define BNI_UNROLL _Pragma("unroll")
#define BNI_ROLLED _Pragma("nounroll")
#else
#define BNI_UNROLL _Pragma("GCC unroll 16")
#define BNI_ROLLED _Pragma("GCC unroll 1")
#endif
#define BNI_EACH_VECTOR(v) BNI_UNROLL for (size_t v = 0; v < vectors; v++)

/* The vectors of a cache line: what is summed up side by side. */
#define LINE (BNI_PAD / BNI_LANES)

_Static_assert(BNI_PAD % BNI_LANES == 0, "whole lines are whole vectors");
_Static_assert(BNI_PLANE_WIDTH / BNI_LANES >= BNI_TILE, "a row of a plane is a tile or more");
_Static_assert(BNI_SUMS_TILE >= LINE, "a line of a plane is summed up at once");
_Static_assert(BNI_RUN == 2 * BNI_QUAD, "a run is two quads");

/* A band of rows, in a plane that begins `at` elements into the sheet and `column` values into what
 * belongs to columns. */
typedef struct band {
    size_t at, column, begin, end;
} band;

BNI_INLINE size_t plane_values(const bni_sheet *sheet) {
    return sheet->form.broadcast ? 1 : BNI_PLANE_WIDTH;
}

/* No rows yet, of a plane. */
BNI_INLINE band plane_band(const bni_sheet *sheet, size_t p) {
    return (band){p * sheet->form.plane_stride, p * plane_values(sheet), 0, 0};
}

BNI_INLINE size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Rows of at least so many columns are streamed from their first whole line on, whatever their
 * alignment. The line that a row shares with the next, of 16 or more, is stored to in the ordinary
 * way, and so read before. */
#define LEAD_COLUMNS ((size_t)256)

BNI_INLINE bool has_lead(const bni_sheet *sheet, size_t stride) {
    const bool rows_alike = stride % BNI_PAD == 0 || sheet->hints.band == 1;
    return sheet->form.plane_stride == 0 && sheet->form.cols >= LEAD_COLUMNS && rows_alike;
}

/* The elements from here to the next multiple of so many. */
BNI_INLINE size_t elements_to(const float *here, size_t multiple) {
    return (multiple - (uintptr_t)here / sizeof *here % multiple) % multiple;
}

/* The columns of a row that is streamed before its first whole vector. */
BNI_INLINE size_t lead_columns(const bni_sheet *sheet, const float *out, size_t stride,
                               size_t row) {
    return has_lead(sheet, stride) ? elements_to(out + row * stride, BNI_LANES) : 0;
}

/* Whether an output can be streamed: its rows have a lead, or all rows of all planes begin at
 * multiples of 16 bytes. */
BNI_INLINE bool can_stream(const bni_sheet *sheet, const float *out, size_t stride) {
    const bool quarters = (uintptr_t)out % 16 == 0 && stride % 4 == 0 &&
                          (sheet->form.planes == 1 || sheet->form.plane_stride % 4 == 0);
    return sheet->hints.stream && (uintptr_t)out % sizeof *out == 0 &&
           (quarters || has_lead(sheet, stride));
}

BNI_INLINE vf load(const float *from, size_t part, vf rest) {
    return part == 0 ? vf_load(from) : vf_load_part(from, part, rest);
}

/* The coefficients of a vector at column c of a band; the missing lanes are 0. */
BNI_INLINE vf load_coef(const bni_sheet *sheet, band rows, const float *of, size_t c, size_t part) {
    if (sheet->form.broadcast) {
        return part == 0 ? vf_set1(of[rows.column]) : vf_part(vf_set1(of[rows.column]), part);
    }
    return load(of + rows.column + c, part, vf_set1(0.0f));
}

/* Adds to a sum a column. */
BNI_INLINE void add_sum(double *to, size_t part, vf sum) {
    if (part == 0) {
        vd_store(to, vd_add(vd_load(to), vd_from(sum)));
    } else {
        double lane[BNI_LANES];
        vd_store(lane, vd_from(sum));
        for (size_t l = 0; l < part; l++) {
            to[l] += lane[l];
        }
    }
}

BNI_INLINE void store(float *to, size_t part, vf v, const bool stream) {
    if (part != 0) {
        vf_store_part(to, part, v);
    } else if (stream) {
        vf_stream(to, v);
    } else {
        vf_store(to, v);
    }
}

/* Calls tile(sheet, band, first column, vectors, lanes of the last vector or 0 for all, whether the
 * output is streamed, ...) over the columns of a band of an output: BNI_TILE vectors at a time, with
 * constants for the last two, and the others one by one. Whole vectors begin `lead` columns into the
 * band. */
#define BNI_WRITE_COLUMNS(tile, sheet, band, lead, cols, stream, ...)                              \
    do {                                                                                           \
        size_t c_ = (lead);                                                                        \
        for (; c_ + BNI_TILE * BNI_LANES <= (cols); c_ += BNI_TILE * BNI_LANES) {                  \
            if (stream) {                                                                          \
                tile(sheet, band, c_, BNI_TILE, 0, true, __VA_ARGS__);                             \
            } else {                                                                               \
                tile(sheet, band, c_, BNI_TILE, 0, false, __VA_ARGS__);                            \
            }                                                                                      \
        }                                                                                          \
        bool first_ = (lead) != 0;                                                                 \
        for (size_t one_ = first_ ? 0 : c_; first_ || one_ < (cols);) {                            \
            const size_t left_ = first_ ? (lead) : least(BNI_LANES, (cols)-one_);                  \
            tile(sheet, band, one_, 1, left_ == BNI_LANES ? 0 : left_, stream, __VA_ARGS__);       \
            one_ = first_ ? c_ : one_ + left_;                                                     \
            first_ = false;                                                                        \
        }                                                                                          \
    } while (0)

/* The same over all bands of all planes; a plane's tail is a band of its own, and goes through the
 * same code, which is large. */
#define BNI_WRITE_TILES(tile, sheet, out, stride, ...)                                             \
    do {                                                                                           \
        const bool stream_ = can_stream(sheet, out, stride);                                       \
        for (size_t p_ = 0; p_ < (sheet)->form.planes; p_++) {                                     \
            const size_t full_ = (sheet)->form.rows, end_ = full_ + ((sheet)->form.tail != 0);     \
            band b_ = plane_band(sheet, p_);                                                       \
            for (; b_.begin < end_; b_.begin = b_.end) {                                           \
                const bool whole_ = b_.begin < full_;                                              \
                const size_t cols_ = whole_ ? (sheet)->form.cols : (sheet)->form.tail;             \
                const size_t lead_ = stream_ ? lead_columns(sheet, out, stride, b_.begin) : 0;     \
                b_.end = whole_ ? least(b_.begin + (sheet)->hints.band, full_) : end_;             \
                BNI_WRITE_COLUMNS(tile, sheet, b_, lead_, cols_, stream_, __VA_ARGS__);            \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* Into L2, where it does not displace what is being worked on. The address may be beyond a buffer's
 * end: there the processor fetches nothing. */
BNI_INLINE void fetch_input(const float *at, size_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)at + ahead * sizeof *at), 0, 2);
}

/* To be written: a line that was fetched to be read is asked for a second time when it is stored to.
 */
BNI_INLINE void fetch_output(const float *at, size_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)at + ahead * sizeof *at), 1, 2);
}

/* What a row of a tile has fetched; in a streamed output the line at its part vector. */
BNI_INLINE void fetch_row(const float *x, const float *dy, const float *out, const size_t vectors,
                          size_t part, const bni_hints *hints, const bool stream) {
    if (hints->x_ahead != 0) {
        BNI_EACH_VECTOR(v) {
            if (!stream) {
                fetch_output(out + v * BNI_LANES, hints->x_ahead);
                continue;
            }
            fetch_input(x + v * BNI_LANES, hints->x_ahead);
            if (dy != NULL) {
                fetch_input(dy + v * BNI_LANES, hints->dy_ahead);
            }
        }
    }
    if (stream && part != 0) {
        fetch_output(out, hints->part_ahead);
    }
}

/* Whether an output is streamed, but some of its planes begin within a line. They are taken
 * apart: as all columns of a plane belong to one feature, its rows may begin anywhere, and do so
 * on its first whole line. Not in the loops over bands, where it would cost the other planes. */
BNI_INLINE bool planes_askew(const bni_sheet *sheet, const float *out) {
    const bool apart = sheet->form.planes > 1 && sheet->form.plane_stride % BNI_PAD != 0;
    return sheet->hints.stream && sheet->form.plane_stride != 0 &&
           (uintptr_t)out % sizeof *out == 0 && (apart || elements_to(out, BNI_PAD) != 0);
}

/* Two sheets for the parts of one plane after the other: what is before the first whole line, and
 * the rest. */
typedef struct parts {
    bni_sheet lead, rest;
} parts;

BNI_INLINE void parts_begin(parts *of, const bni_sheet *sheet) {
    of->rest = *sheet;
    of->rest.form.planes = 1;
    of->lead = of->rest;
    of->lead.hints.stream = false;
    of->lead.hints.x_ahead = 0;
    of->lead.form.tail = 0;
}

BNI_INLINE void parts_take(parts *of, const bni_sheet *sheet, const float *out, size_t p) {
    const size_t at = p * sheet->form.plane_stride;
    const size_t all = sheet->form.rows * sheet->form.cols + sheet->form.tail;
    const size_t first = least(elements_to(out + at, BNI_PAD), all);
    bni_place(&of->lead.at, &sheet->at, at, at);
    of->lead.form.rows = first == 0 ? 0 : 1;
    of->lead.form.cols = first;
    bni_place(&of->rest.at, &sheet->at, at + first, at + first);
    of->rest.form.rows = (all - first) / sheet->form.cols;
    of->rest.form.tail = (all - first) % sheet->form.cols;
    of->rest.hints.stream = all > first;
    fetch_output(out + at, sheet->hints.part_ahead);
}

BNI_INLINE bni_coef coef_of_plane(const bni_sheet *sheet, const bni_coef *coef, size_t p) {
    const size_t column = p * plane_values(sheet);
    return (bni_coef){.center = coef->center + column,
                      .scale = coef->scale + column,
                      .shift = coef->shift + column,
                      .slope = bni_input_at(coef->slope, column),
                      .offset = bni_input_at(coef->offset, column)};
}

/* Calls kernel(sheet, coefficients, argument) for the parts of all planes. */
#define BNI_FOR_PARTS(kernel, sheet, out, coef, argument)                                          \
    do {                                                                                           \
        parts of_;                                                                                 \
        parts_begin(&of_, sheet);                                                                  \
        for (size_t p_ = 0; p_ < (sheet)->form.planes; p_++) {                                     \
            const bni_coef coef_ = coef_of_plane(sheet, coef, p_);                                 \
            parts_take(&of_, sheet, out, p_);                                                      \
            kernel(&of_.lead, &coef_, argument);                                                   \
            kernel(&of_.rest, &coef_, argument);                                                   \
        }                                                                                          \
    } while (0)

/* The lines of a run that are so many elements further on, where anything is fetched. */
BNI_INLINE void fetch_lines(const float *at, size_t step, size_t lines, size_t ahead) {
    for (size_t r = 0; ahead != 0 && r < lines; r++) {
        fetch_input(at + r * step, ahead);
    }
}

BNI_INLINE const float *x_at(const bni_sheet *sheet, size_t offset) {
    return (const float *)sheet->at.x + offset;
}

BNI_INLINE const float *dy_at(const bni_sheet *sheet, size_t offset) {
    return (const float *)sheet->at.dy + offset;
}

/* g = dy * act'(.); d is x - center, which only BNI_MASK_X looks at. */
BNI_INLINE vf gradient_at(const bni_buffers *of, size_t at, size_t part, vf d, vf scale, vf shift,
                          const bni_mask mask) {
    const vf zero = vf_set1(0.0f);
    const vf dy = load((const float *)of->dy + at, part, zero);
    switch (mask) {
    case BNI_MASK_X:
        return vf_where_positive(vf_fma(d, scale, shift), dy);
    case BNI_MASK_Y:
        return vf_where_positive(load((const float *)of->y + at, part, zero), dy);
    default:
        return dy;
    }
}

/* A row of weight 0 may have an x that is no number. */
BNI_INLINE bool is_left_out(const bni_form *form, size_t row) {
    return bni_weight(form, row) == 0.0f;
}

/* ---- Sums ----------------------------------------------------------------------------------- */

/* What is summed up, as constants: a value v and its product with d = x - center. Of moments, center
 * is the pivot and v = w * d; else v = g. */
typedef struct terms {
    bool moments, weighted;
    bni_mask mask;
} terms;

/* The sums, or the coefficients, of a line's columns. */
typedef struct line_sums {
    vf one[BNI_SUMS_TILE], two[BNI_SUMS_TILE];
} line_sums;

typedef struct line_coef {
    vf center[BNI_SUMS_TILE], scale[BNI_SUMS_TILE], shift[BNI_SUMS_TILE];
} line_coef;

/* Lines below each other: the first one's offsets in x and in all others, how far it is to the next,
 * and the first one's row. */
typedef struct lines {
    size_t x, y, x_step, y_step, row;
} lines;

BNI_INLINE line_coef load_line(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                               size_t part, const bni_coef *coef, const terms of) {
    const bool rebuilds = !of.moments && of.mask == BNI_MASK_X;
    line_coef line;
    BNI_EACH_VECTOR(v) {
        const size_t column = c + v * BNI_LANES;
        line.center[v] = load_coef(sheet, rows, coef->center, column, part);
        line.scale[v] = line.shift[v] = vf_set1(0.0f);
        if (rebuilds) {
            line.scale[v] = load_coef(sheet, rows, coef->scale, column, part);
            line.shift[v] = load_coef(sheet, rows, coef->shift, column, part);
        }
    }
    return line;
}

BNI_INLINE lines lines_below(lines at, size_t rows) {
    at.x += rows * at.x_step;
    at.y += rows * at.y_step;
    at.row += rows;
    return at;
}

BNI_INLINE void add_lines(line_sums *to, const line_sums *from, const size_t vectors) {
    BNI_EACH_VECTOR(v) {
        to->one[v] = vf_add(to->one[v], from->one[v]);
        to->two[v] = vf_add(to->two[v], from->two[v]);
    }
}

/* In a part vector the missing lanes have x = center and dy = 0. */
BNI_INLINE void add_line(const bni_sheet *sheet, lines at, const bool first, const size_t vectors,
                         size_t part, const line_coef *coef, const terms of, line_sums *to) {
    const vf zero = vf_set1(0.0f);
    const bool left_out = of.weighted && is_left_out(&sheet->form, at.row);
    const bool weighs = of.moments && of.weighted;
    const vf weight = weighs ? vf_set1(bni_weight(&sheet->form, at.row)) : zero;
    if (of.moments && left_out) {
        return;
    }
    BNI_EACH_VECTOR(v) {
        const size_t x = at.x + v * BNI_LANES, y = at.y + v * BNI_LANES;
        const vf center = coef->center[v];
        vf d = vf_sub(load(x_at(sheet, x), part, center), center);
        const vf value = !of.moments ? gradient_at(&sheet->at, y, part, d, coef->scale[v],
                                                   coef->shift[v], of.mask)
                         : weighs    ? vf_mul(weight, d)
                                     : d;
        if (left_out) { /* where its gradient is 0 it adds nothing */
            d = vf_where_zero(value, zero, d);
        }
        to->one[v] = first ? value : vf_add(to->one[v], value);
        to->two[v] = first ? vf_mul(value, d) : vf_fma(value, d, to->two[v]);
    }
}

BNI_INLINE void quad_sums(const bni_sheet *sheet, lines at, const size_t count, const bool unrolled,
                          const size_t vectors, size_t part, const line_coef *coef, const terms of,
                          line_sums *quad) {
    BNI_EACH_VECTOR(v) quad->one[v] = quad->two[v] = vf_set1(0.0f);
    if (unrolled) {
        BNI_UNROLL for (size_t r = 0; r < BNI_QUAD; r++) {
            add_line(sheet, lines_below(at, r), r == 0, vectors, part, coef, of, quad);
        }
    } else {
        BNI_ROLLED for (size_t r = 0; r < count; r++) {
            add_line(sheet, lines_below(at, r), false, vectors, part, coef, of, quad);
        }
    }
}

/* Whole runs of whole lines are unrolled, where no weights are looked at. */
BNI_INLINE void run_sums(const bni_sheet *sheet, lines at, size_t count, const size_t vectors,
                         size_t part, const bool whole, const line_coef *coef, const terms of,
                         line_sums *run) {
    line_sums other;
    fetch_lines(x_at(sheet, at.x), at.x_step, count, sheet->hints.x_ahead);
    if (!of.moments) {
        fetch_lines(dy_at(sheet, at.y), at.y_step, count, sheet->hints.dy_ahead);
    }
    if (BNI_VARIANTS && whole && !of.weighted && count == BNI_RUN) {
        quad_sums(sheet, at, BNI_QUAD, true, vectors, part, coef, of, run);
        quad_sums(sheet, lines_below(at, BNI_QUAD), BNI_QUAD, true, vectors, part, coef, of,
                  &other);
        add_lines(run, &other, vectors);
        return;
    }
    line_sums *to = run;
    for (size_t r = 0; r == 0 || r < count; r += BNI_QUAD) {
        quad_sums(sheet, lines_below(at, r), least(count - r, BNI_QUAD), false, vectors, part, coef,
                  of, to);
        if (r != 0) {
            add_lines(run, &other, vectors);
        }
        to = &other;
    }
}

/* A band is a run. */
BNI_INLINE void sums_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                          size_t part, const bni_coef *coef, double *s1, double *s2,
                          const terms of) {
    const bni_form *form = &sheet->form;
    const lines at = {rows.at + rows.begin * form->x_stride + c,
                      rows.at + rows.begin * form->y_stride + c, form->x_stride, form->y_stride,
                      rows.begin};
    const line_coef line = load_line(sheet, rows, c, vectors, part, coef, of);
    line_sums run;
    run_sums(sheet, at, rows.end - rows.begin, vectors, part, vectors == BNI_SUMS_TILE && part == 0,
             &line, of, &run);
    BNI_EACH_VECTOR(v) {
        add_sum(s1 + rows.column + c + v * BNI_LANES, part, run.one[v]);
        add_sum(s2 + rows.column + c + v * BNI_LANES, part, run.two[v]);
    }
}

/* The columns of a run. */
BNI_INLINE void sums_columns(const bni_sheet *sheet, band rows, size_t cols, const bni_coef *coef,
                             double *s1, double *s2, const terms of) {
    const size_t tile = BNI_SUMS_TILE * BNI_LANES;
    size_t c = 0;
    for (; c + tile <= cols; c += tile) {
        sums_tile(sheet, rows, c, BNI_SUMS_TILE, 0, coef, s1, s2, of);
    }
    for (; c < cols; c += BNI_LANES) {
        sums_tile(sheet, rows, c, 1, cols - c < BNI_LANES ? cols - c : 0, coef, s1, s2, of);
    }
}

/* Adds up a line's columns as fold does. */
BNI_INLINE double add_columns(double s[BNI_PAD]) {
    for (size_t l = 0; l < 8; l++) {
        s[l] += s[l + 8];
    }
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

/* What is left of a plane's columns behind its whole lines: a quad of its own. */
BNI_INLINE void add_rest(const bni_sheet *sheet, size_t at, size_t left, const line_coef *coef,
                         const terms of, line_sums *run) {
    BNI_UNROLL for (size_t v = 0; v < LINE; v++) {
        const size_t c = v * BNI_LANES;
        if (c < left) {
            const line_coef vector = {{coef->center[v]}, {coef->scale[v]}, {coef->shift[v]}};
            line_sums rest;
            quad_sums(sheet, (lines){at + c, at + c, 0, 0, 0}, 1, false, 1,
                      left - c < BNI_LANES ? left - c : 0, &vector, of, &rest);
            run->one[v] = vf_add(run->one[v], rest.one[0]);
            run->two[v] = vf_add(run->two[v], rest.two[0]);
        }
    }
}

/* Planes that are one row each: runs of a line's columns. */
BNI_INLINE void sums_of_planes(const bni_sheet *sheet, const bni_coef *coef, double *s1, double *s2,
                               const terms of) {
    const size_t full = sheet->form.cols / BNI_PAD, left = sheet->form.cols % BNI_PAD;
    for (size_t p = 0; p < sheet->form.planes; p++) {
        const band rows = plane_band(sheet, p);
        const line_coef line = load_line(sheet, rows, 0, LINE, 0, coef, of);
        double one[BNI_PAD] = {0}, two[BNI_PAD] = {0};
        for (size_t i = 0; i <= full; i += BNI_RUN) {
            const size_t at = rows.at + i * BNI_PAD;
            line_sums run;
            run_sums(sheet, (lines){at, at, BNI_PAD, BNI_PAD, 0}, least(full - i, BNI_RUN), LINE, 0,
                     true, &line, of, &run);
            if (full - i < BNI_RUN) { /* the last */
                add_rest(sheet, rows.at + full * BNI_PAD, left, &line, of, &run);
            }
            BNI_UNROLL for (size_t v = 0; v < LINE; v++) {
                add_sum(one + v * BNI_LANES, 0, run.one[v]);
                add_sum(two + v * BNI_LANES, 0, run.two[v]);
            }
        }
        s1[p] += add_columns(one);
        s2[p] += add_columns(two);
    }
}

/* Run by run; the tail of a plane is a row behind them. */
BNI_INLINE void sums_of_rows(const bni_sheet *sheet, const bni_coef *coef, double *s1, double *s2,
                             const terms of) {
    const size_t full = sheet->form.rows, end = full + (sheet->form.tail != 0);
    for (size_t p = 0; p < sheet->form.planes; p++) {
        band rows = plane_band(sheet, p);
        for (; rows.begin < end; rows.begin = rows.end) {
            const bool whole = rows.begin < full;
            rows.end = whole ? least(rows.begin + BNI_RUN, full) : end;
            sums_columns(sheet, rows, whole ? sheet->form.cols : sheet->form.tail, coef, s1, s2,
                         of);
        }
    }
}

BNI_INLINE void sums_of(const bni_sheet *sheet, const bni_coef *coef, double *s1, double *s2,
                        const terms of) {
    const bni_sheet own = *sheet;
    const bni_coef values = *coef;
    if (sheet->form.broadcast) {
        sums_of_planes(&own, &values, s1, s2, of);
    } else {
        sums_of_rows(&own, &values, s1, s2, of);
    }
}

static void moments(const bni_sheet *sheet, const float *pivot, double *s1, double *s2) {
    const bni_coef coef = {.center = pivot};
    const bool weighted = sheet->form.weight != NULL;
    if (BNI_VARIANTS && !weighted) {
        sums_of(sheet, &coef, s1, s2, (terms){.moments = true});
    } else {
        sums_of(sheet, &coef, s1, s2, (terms){.moments = true, .weighted = weighted});
    }
}

static void grad_sums(const bni_sheet *sheet, const bni_coef *coef, bni_mask mask, double *s1,
                      double *s2) {
    const bool weighted = sheet->form.weight != NULL;
    if (!BNI_VARIANTS || weighted) {
        sums_of(sheet, coef, s1, s2, (terms){.weighted = weighted, .mask = mask});
        return;
    }
    switch (mask) {
    case BNI_MASK_X:
        sums_of(sheet, coef, s1, s2, (terms){.mask = BNI_MASK_X});
        break;
    case BNI_MASK_Y:
        sums_of(sheet, coef, s1, s2, (terms){.mask = BNI_MASK_Y});
        break;
    default:
        sums_of(sheet, coef, s1, s2, (terms){.mask = BNI_MASK_NONE});
        break;
    }
}

/* ---- Normalize ------------------------------------------------------------------------------ */

BNI_INLINE void normalize_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                               size_t part, const bool stream, const bni_coef *coef,
                               const bool residual, const bool relu) {
    const vf zero = vf_set1(0.0f);
    vf center[BNI_TILE], scale[BNI_TILE], shift[BNI_TILE];
    BNI_EACH_VECTOR(v) {
        const size_t column = c + v * BNI_LANES;
        center[v] = load_coef(sheet, rows, coef->center, column, part);
        scale[v] = load_coef(sheet, rows, coef->scale, column, part);
        shift[v] = load_coef(sheet, rows, coef->shift, column, part);
    }
    const bni_form *form = &sheet->form;
    const size_t first = rows.at + rows.begin * form->y_stride + c;
    const float *x = x_at(sheet, rows.at + rows.begin * form->x_stride + c);
    float *y = (float *)sheet->at.out + first;
    const float *add = residual ? (const float *)sheet->at.residual + first : NULL;
    for (size_t r = rows.begin; r < rows.end; r++) {
        fetch_row(x, NULL, y, vectors, part, &sheet->hints, stream);
        BNI_EACH_VECTOR(v) {
            const vf d = vf_sub(load(x + v * BNI_LANES, part, zero), center[v]);
            vf z = vf_fma(d, scale[v], shift[v]);
            if (residual) {
                z = vf_add(z, load(add + v * BNI_LANES, part, zero));
            }
            store(y + v * BNI_LANES, part, relu ? vf_relu(z) : z, stream);
        }
        x += form->x_stride;
        y += form->y_stride;
        add = residual ? add + form->y_stride : NULL;
    }
}

BNI_INLINE void normalize_sheet(const bni_sheet *sheet, const bni_coef *coef, const bool residual,
                                const bool relu) {
    const bni_sheet own = *sheet;
    const bni_coef values = *coef;
    BNI_WRITE_TILES(normalize_tile, &own, own.at.out, own.form.y_stride, &values, residual, relu);
}

static void normalize(const bni_sheet *sheet, const bni_coef *coef, bool relu) {
    if (planes_askew(sheet, sheet->at.out)) {
        BNI_FOR_PARTS(normalize, sheet, sheet->at.out, coef, relu);
    } else if (!BNI_VARIANTS) {
        normalize_sheet(sheet, coef, sheet->at.residual != NULL, relu);
    } else if (sheet->at.residual == NULL) {
        if (relu) {
            normalize_sheet(sheet, coef, false, true);
        } else {
            normalize_sheet(sheet, coef, false, false);
        }
    } else {
        if (relu) {
            normalize_sheet(sheet, coef, true, true);
        } else {
            normalize_sheet(sheet, coef, true, false);
        }
    }
}

/* ---- The gradient of the input -------------------------------------------------------------- */

/* Of constant statistics x is not looked at, but for the mask. */
BNI_INLINE void grad_input_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                                size_t part, const bool stream, const bni_coef *coef,
                                const bni_mask mask) {
    const vf zero = vf_set1(0.0f);
    const bool constant = coef->slope == NULL;
    vf center[BNI_TILE], scale[BNI_TILE], shift[BNI_TILE], slope[BNI_TILE], offset[BNI_TILE];
    BNI_EACH_VECTOR(v) {
        const size_t column = c + v * BNI_LANES;
        center[v] = load_coef(sheet, rows, coef->center, column, part);
        scale[v] = load_coef(sheet, rows, coef->scale, column, part);
        shift[v] = load_coef(sheet, rows, coef->shift, column, part);
        slope[v] = constant ? zero : load_coef(sheet, rows, coef->slope, column, part);
        offset[v] = constant ? zero : load_coef(sheet, rows, coef->offset, column, part);
    }
    const bni_form *form = &sheet->form;
    const bni_buffers *at = &sheet->at;
    const bool looks_at_x = !constant || mask == BNI_MASK_X;
    for (size_t r = rows.begin; r < rows.end; r++) {
        const size_t in = rows.at + r * form->x_stride + c, out = rows.at + r * form->y_stride + c;
        const float *x = (const float *)at->x + in;
        float *dx = (float *)at->dx + in;
        vf d[BNI_TILE], g[BNI_TILE];
        fetch_row(x, (const float *)at->dy + out, dx, vectors, part, &sheet->hints, stream);
        BNI_EACH_VECTOR(v) {
            d[v] = looks_at_x ? vf_sub(load(x + v * BNI_LANES, part, center[v]), center[v]) : zero;
            g[v] = gradient_at(at, out + v * BNI_LANES, part, d[v], scale[v], shift[v], mask);
        }
        if (at->dresidual != NULL) {
            BNI_EACH_VECTOR(v) {
                store((float *)at->dresidual + out + v * BNI_LANES, part, g[v], false);
            }
        }
        if (!constant && !(form->weight != NULL && is_left_out(form, r))) {
            const vf weight = vf_set1(form->weight == NULL ? 1.0f : bni_weight(form, r));
            BNI_EACH_VECTOR(v) {
                g[v] = vf_fma(weight, vf_fma(d[v], slope[v], offset[v]), g[v]);
            }
        }
        BNI_EACH_VECTOR(v) store(dx + v * BNI_LANES, part, vf_mul(scale[v], g[v]), stream);
    }
}

BNI_INLINE void grad_input_sheet(const bni_sheet *sheet, const bni_coef *coef,
                                 const bni_mask mask) {
    const bni_sheet own = *sheet;
    const bni_coef values = *coef;
    BNI_WRITE_TILES(grad_input_tile, &own, own.at.dx, own.form.x_stride, &values, mask);
}

static void grad_input(const bni_sheet *sheet, const bni_coef *coef, bni_mask mask) {
    if (planes_askew(sheet, sheet->at.dx)) {
        BNI_FOR_PARTS(grad_input, sheet, sheet->at.dx, coef, mask);
        return;
    }
    if (!BNI_VARIANTS) {
        grad_input_sheet(sheet, coef, mask);
        return;
    }
    switch (mask) {
    case BNI_MASK_X:
        grad_input_sheet(sheet, coef, BNI_MASK_X);
        break;
    case BNI_MASK_Y:
        grad_input_sheet(sheet, coef, BNI_MASK_Y);
        break;
    default:
        grad_input_sheet(sheet, coef, BNI_MASK_NONE);
        break;
    }
}

#define BNI_DATA_KERNELS                                                                           \
    {                                                                                              \
        .tile = BNI_TILE * BNI_LANES, .moments = moments, .normalize = normalize,                  \
        .grad_sums = grad_sums, .grad_input = grad_input                                           \
    }
