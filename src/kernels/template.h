/*
 * The arithmetic, written once. A kernels_*.c file includes a vector vocabulary (simd_*.h) and then
 * this file, and has a table of kernels for that instruction set. Parameters:
 *
 * BNI_TABLE   name of the table
 * BNI_NAME    what bn_layer_isa calls it
 * and the vocabulary: BNI_LANES, BNI_TILE, BNI_SUM_TILE, types vf and vd and their functions.
 *
 * A kernel walks a sheet tile by tile: some vectors side by side, down all rows, so that sums
 * and coefficients are loaded once a tile and stay in registers. The columns left over go vector by
 * vector, the last with a part load. Each column is added up from its first row to its last in a
 * lane of its own, so no result depends on how columns fall into tiles, or on the vectors' width.
 *
 * Sums are in double. A product of two floats is exact there, and after 2^20 terms a sum still has
 * some 33 correct bits beyond what cancels, so that results round to the nearest float or next to
 * it. The data is small beside what the sums need: a float's conversion and two double operations
 * cost less than fetching the float from memory.
 */
#include "kernels/kernels.h"

#include <math.h>
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
#else
#define BNI_UNROLL _Pragma("GCC unroll 16")
#endif
#define BNI_EACH_VECTOR(v) BNI_UNROLL for (size_t v = 0; v < vectors; v++)

_Static_assert(BNI_PAD % BNI_LANES == 0, "whole lines are whole vectors");
_Static_assert(BNI_PLANE_WIDTH / BNI_LANES >= BNI_TILE, "a row of a plane is a tile or more");

/* A band of rows, in a plane that begins `at` elements into the sheet and `column` values into what
 * belongs to columns. */
typedef struct band {
    size_t at, column, begin, end;
} band;

BNI_INLINE size_t plane_values(const bni_sheet *sheet) {
    return sheet->broadcast ? 1 : BNI_PLANE_WIDTH;
}

/* Rows of at least so many columns are streamed from their first whole line on, whatever their
 * alignment. The line that a row shares with the next, of 16 or more, is stored to in the ordinary
 * way, and so read before. */
#define LEAD_COLUMNS ((size_t)256)

BNI_INLINE bool has_lead(const bni_sheet *sheet, size_t stride) {
    const bool rows_alike = stride % BNI_PAD == 0 || sheet->band == 1;
    return sheet->plane_stride == 0 && sheet->cols >= LEAD_COLUMNS && rows_alike;
}

/* The elements from here to the next multiple of so many. */
BNI_INLINE size_t elements_to(const float *here, size_t multiple) {
    return (multiple - (uintptr_t)here / sizeof *here % multiple) % multiple;
}

/* The columns of a row before its first whole vector; none where no output is given. */
BNI_INLINE size_t lead_columns(const bni_sheet *sheet, const float *out, size_t stride,
                               size_t row) {
    const bool any = out != NULL && has_lead(sheet, stride);
    return any ? elements_to(out + row * stride, BNI_LANES) : 0;
}

/* Whether an output can be streamed: its rows have a lead, or all rows of all planes begin at
 * multiples of 16 bytes. */
BNI_INLINE bool can_stream(const bni_sheet *sheet, const float *out, size_t stride) {
    const bool quarters = (uintptr_t)out % 16 == 0 && stride % 4 == 0 &&
                          (sheet->planes == 1 || sheet->plane_stride % 4 == 0);
    return sheet->stream && (uintptr_t)out % sizeof *out == 0 &&
           (quarters || has_lead(sheet, stride));
}

/* Calls tile(sheet, band, first column, vectors, lanes of the last vector or 0 for all, ...)
 * over the columns of a band, `most` vectors at a time; vectors is a constant in each call.
 * Whole vectors begin `lead` columns into the band; what is before and behind them are part
 * vectors. */
#define BNI_FOR_COLUMNS(tile, most, sheet, band, lead, cols, ...)                                  \
    do {                                                                                           \
        size_t c_ = (lead);                                                                        \
        for (; c_ + (most)*BNI_LANES <= (cols); c_ += (most)*BNI_LANES) {                          \
            tile(sheet, band, c_, most, 0, __VA_ARGS__);                                           \
        }                                                                                          \
        for (; c_ + BNI_LANES <= (cols); c_ += BNI_LANES) {                                        \
            tile(sheet, band, c_, 1, 0, __VA_ARGS__);                                              \
        }                                                                                          \
        const size_t parts_[2][2] = {{0, (lead)}, {c_, (cols)-c_}};                                \
        for (size_t i_ = (lead) == 0 ? 1 : 0; i_ < 2; i_++) {                                      \
            if (parts_[i_][1] != 0) {                                                              \
                tile(sheet, band, parts_[i_][0], 1, parts_[i_][1], __VA_ARGS__);                   \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* The same over all bands of all planes; a plane's tail is a band of its own, and goes through the
 * same code, which is large. out: what is streamed (lead_columns), or NULL. */
#define BNI_FOR_TILES(tile, most, sheet, out, stride, ...)                                         \
    for (size_t p_ = 0; p_ < (sheet)->planes; p_++) {                                              \
        const size_t at_ = p_ * (sheet)->plane_stride;                                             \
        const size_t column_ = p_ * plane_values(sheet);                                           \
        const size_t full_ = (sheet)->rows, end_ = full_ + ((sheet)->tail != 0);                   \
        for (size_t r_ = 0, next_; r_ < end_; r_ = next_) {                                        \
            next_ = r_ < full_ ? least(r_ + (sheet)->band, full_) : end_;                          \
            const size_t cols_ = r_ < full_ ? (sheet)->cols : (sheet)->tail;                       \
            const size_t lead_ = lead_columns(sheet, out, stride, r_);                             \
            const band b_ = {at_, column_, r_, next_};                                             \
            BNI_FOR_COLUMNS(tile, most, sheet, b_, lead_, cols_, __VA_ARGS__);                     \
        }                                                                                          \
    }

BNI_INLINE size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

BNI_INLINE vf load(const float *from, size_t part, vf rest) {
    return part == 0 ? vf_load(from) : vf_load_part(from, part, rest);
}

/* The coefficients of a vector at column c of a band; the missing lanes are 0. */
BNI_INLINE vf load_coef(const bni_sheet *sheet, band rows, const float *of, size_t c, size_t part) {
    if (sheet->broadcast) {
        return part == 0 ? vf_set1(of[rows.column]) : vf_part(vf_set1(of[rows.column]), part);
    }
    return load(of + rows.column + c, part, vf_set1(0.0f));
}

/* The same of a sum a column. */

BNI_INLINE vd load_sum(const double *from, size_t part) {
    double lane[BNI_LANES] = {0};
    if (part == 0) {
        return vd_load(from);
    }
    memcpy(lane, from, part * sizeof *lane);
    return vd_load(lane);
}

BNI_INLINE void store_sum(double *to, size_t part, vd sum) {
    double lane[BNI_LANES];
    if (part == 0) {
        vd_store(to, sum);
    } else {
        vd_store(lane, sum);
        memcpy(to, lane, part * sizeof *lane);
    }
}

BNI_INLINE vd load_wide(const float *from, size_t part, vf rest) {
    return part == 0 ? vd_load_floats(from) : vd_from(vf_load_part(from, part, rest));
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

/* All tiles of a sheet that is written, the tile's last two arguments constants: whether the output
 * is streamed, and whether anything is fetched ahead. */
#define BNI_WRITE_TILES(tile, sheet, out, stride, ...)                                             \
    do {                                                                                           \
        const bool stream_ = can_stream(sheet, out, stride), ahead_ = (sheet)->x_ahead != 0;       \
        if (stream_ && ahead_) {                                                                   \
            BNI_FOR_TILES(tile, BNI_TILE, sheet, out, stride, __VA_ARGS__, true, true);            \
        } else if (stream_) {                                                                      \
            BNI_FOR_TILES(tile, BNI_TILE, sheet, out, stride, __VA_ARGS__, true, false);           \
        } else if (ahead_) {                                                                       \
            BNI_FOR_TILES(tile, BNI_TILE, sheet, NULL, 0, __VA_ARGS__, false, true);               \
        } else {                                                                                   \
            BNI_FOR_TILES(tile, BNI_TILE, sheet, NULL, 0, __VA_ARGS__, false, false);              \
        }                                                                                          \
    } while (0)

/* Into L2, where it does not displace what is being worked on. The address may be beyond a buffer's
 * end: there the processor fetches nothing. */
BNI_INLINE void fetch_line(uintptr_t address) {
    __builtin_prefetch((const void *)address, 0, 2);
}

BNI_INLINE void fetch_input(const float *at, size_t ahead) {
    fetch_line((uintptr_t)at + ahead * sizeof *at);
}

/* To be written: a line that was fetched to be read is asked for a second time when it is stored to.
 */
BNI_INLINE void fetch_output(const float *at, size_t ahead) {
    __builtin_prefetch((const void *)((uintptr_t)at + ahead * sizeof *at), 1, 2);
}

/* Whether an output is streamed, but some of its planes begin within a line. They are taken
 * apart: as all columns of a plane belong to one feature, its rows may begin anywhere, and do so
 * on its first whole line. Not in the loops over bands, where it would cost the other planes. */
BNI_INLINE bool planes_askew(const bni_sheet *sheet, const float *out) {
    const bool apart = sheet->planes > 1 && sheet->plane_stride % BNI_PAD != 0;
    return sheet->stream && sheet->plane_stride != 0 && (uintptr_t)out % sizeof *out == 0 &&
           (apart || elements_to(out, BNI_PAD) != 0);
}

/* Two sheets for the parts of one plane after the other: what is before the first whole line, and
 * the rest. */
typedef struct parts {
    bni_sheet lead, rest;
} parts;

BNI_INLINE void parts_begin(parts *of, const bni_sheet *sheet) {
    of->rest = *sheet;
    of->rest.planes = 1;
    of->lead = of->rest;
    of->lead.stream = false;
    of->lead.x_ahead = 0;
    of->lead.tail = 0;
}

BNI_INLINE void parts_take(parts *of, const bni_sheet *sheet, const float *out, size_t p) {
    const size_t at = p * sheet->plane_stride;
    const size_t all = sheet->rows * sheet->cols + sheet->tail;
    const size_t first = least(elements_to(out + at, BNI_PAD), all);
    bni_place(&of->lead, sheet, at, at);
    of->lead.rows = first == 0 ? 0 : 1;
    of->lead.cols = first;
    bni_place(&of->rest, sheet, at + first, at + first);
    of->rest.rows = (all - first) / sheet->cols;
    of->rest.tail = (all - first) % sheet->cols;
    of->rest.stream = all > first;
    fetch_output(out + at, sheet->part_ahead);
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
        for (size_t p_ = 0; p_ < (sheet)->planes; p_++) {                                          \
            const bni_coef coef_ = coef_of_plane(sheet, coef, p_);                                 \
            parts_take(&of_, sheet, out, p_);                                                      \
            kernel(&of_.lead, &coef_, argument);                                                   \
            kernel(&of_.rest, &coef_, argument);                                                   \
        }                                                                                          \
    } while (0)

/* What a tile fetches that goes down many rows: for each row as much. Tiles take a band in
 * columns, which no prefetcher of the processor follows. This goes through what is ahead of the
 * band in the order of the addresses, where its rows lie one behind the other and are short, and
 * else at the tile's own places: from 3 KiB on the processor helps there, as it follows one run
 * in each of some 32 pages (a sheet of two tensors has as many). */
#define IN_ORDER_COLUMNS ((size_t)512)

typedef struct fetch {
    uintptr_t at;
    size_t step; /* bytes */
    bool any;
} fetch;

BNI_INLINE fetch fetch_from(const float *first, size_t stride, size_t ahead, const bni_sheet *sheet,
                            band rows, size_t c, size_t vectors) {
    const bool in_order = stride == sheet->cols && stride <= IN_ORDER_COLUMNS;
    const size_t skip = rows.at + rows.begin * stride + ahead;
    const size_t start = in_order ? c * (rows.end - rows.begin) : c;
    const size_t step = in_order ? vectors * BNI_LANES : stride;
    return (fetch){(uintptr_t)first + (skip + start) * sizeof *first, step * sizeof *first,
                   ahead != 0};
}

/* Once for each 64 bytes, the line of most processors; of two tensors in turn. also: NULL where there
 * is one tensor. */
BNI_INLINE void fetch_row(fetch *f, fetch *also, const size_t vectors) {
    if (f->any) {
        BNI_UNROLL for (size_t i = 0; i < vectors * BNI_LANES * sizeof(float); i += 64) {
            fetch_line(f->at + i);
            if (also != NULL) {
                fetch_line(also->at + i);
            }
        }
        f->at += f->step;
        if (also != NULL) {
            also->at += also->step;
        }
    }
}

/* ---- Moments -------------------------------------------------------------------------------- */

/* In a part vector the missing lanes are the pivot, and add nothing. */
BNI_INLINE void moments_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                             size_t part, const float *pivot, double *s1, double *s2,
                             const bool weighted) {
    vf rest[BNI_SUM_TILE];
    vd center[BNI_SUM_TILE], sum[BNI_SUM_TILE], square[BNI_SUM_TILE];
    BNI_EACH_VECTOR(v) {
        rest[v] = load(pivot + rows.column + c + v * BNI_LANES, part, vf_set1(0.0f));
        center[v] = vd_from(rest[v]);
        sum[v] = load_sum(s1 + rows.column + c + v * BNI_LANES, part);
        square[v] = load_sum(s2 + rows.column + c + v * BNI_LANES, part);
    }
    fetch next = fetch_from(sheet->x, sheet->x_stride, sheet->x_ahead, sheet, rows, c, vectors);
    const float *x = sheet->x + rows.at + rows.begin * sheet->x_stride + c;
    for (size_t r = rows.begin; r < rows.end; r++, x += sheet->x_stride) {
        const float w = weighted ? bni_weight(sheet, r) : 1.0f;
        fetch_row(&next, NULL, vectors);
        if (weighted && w == 0.0f) {
            continue;
        }
        const vd weight = vd_set1((double)w);
        BNI_EACH_VECTOR(v) {
            const vd d = vd_sub(load_wide(x + v * BNI_LANES, part, rest[v]), center[v]);
            const vd wd = weighted ? vd_mul(weight, d) : d;
            sum[v] = vd_accumulate(sum[v], wd);
            square[v] = vd_fma(wd, d, square[v]);
        }
    }
    BNI_EACH_VECTOR(v) {
        store_sum(s1 + rows.column + c + v * BNI_LANES, part, sum[v]);
        store_sum(s2 + rows.column + c + v * BNI_LANES, part, square[v]);
    }
}

/* The columns of one plane that is one row: 16 of them on every machine, added up as fold does. */
#define PLANE_VECTORS (16 / BNI_LANES)

BNI_INLINE double add_columns(const vd sum[PLANE_VECTORS]) {
    double s[16];
    for (size_t v = 0; v < PLANE_VECTORS; v++) {
        vd_store(s + v * BNI_LANES, sum[v]);
    }
    for (size_t l = 0; l < 8; l++) {
        s[l] += s[l + 8];
    }
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

/* Calls add(c, part, v) for the vectors of a plane: c its first column, part as in a tile. */
#define BNI_FOR_PLANE(cols, add)                                                                   \
    do {                                                                                           \
        size_t c_ = 0;                                                                             \
        for (; c_ + 16 <= (cols); c_ += 16) {                                                      \
            BNI_UNROLL for (size_t v_ = 0; v_ < PLANE_VECTORS; v_++) {                             \
                add(c_ + v_ * BNI_LANES, 0, v_);                                                   \
            }                                                                                      \
        }                                                                                          \
        BNI_UNROLL for (size_t v_ = 0; v_ < PLANE_VECTORS; v_++) {                                 \
            const size_t at_ = c_ + v_ * BNI_LANES;                                                \
            if (at_ + BNI_LANES <= (cols)) {                                                       \
                add(at_, 0, v_);                                                                   \
            } else if (at_ < (cols)) {                                                             \
                add(at_, (cols)-at_, v_);                                                          \
            }                                                                                      \
        }                                                                                          \
    } while (0)

static void moments_of_planes(const bni_sheet *sheet, const float *pivot, double *s1, double *s2) {
    const double weight = sheet->weight == NULL ? 1.0 : (double)bni_weight(sheet, 0);
    if (weight == 0.0) {
        return;
    }
    for (size_t p = 0; p < sheet->planes; p++) {
        const float *x = sheet->x + p * sheet->plane_stride;
        const vf center = vf_set1(pivot[p]);
        const vd origin = vd_from(center);
        vd sum[PLANE_VECTORS], square[PLANE_VECTORS];
        for (size_t v = 0; v < PLANE_VECTORS; v++) {
            sum[v] = square[v] = vd_set1(0.0);
        }
#define ADD_MOMENTS(c, part, v)                                                                    \
    do {                                                                                           \
        const vd d_ = vd_sub(load_wide(x + (c), part, center), origin);                            \
        sum[v] = vd_accumulate(sum[v], d_);                                                        \
        square[v] = vd_fma(d_, d_, square[v]);                                                     \
    } while (0)
        BNI_FOR_PLANE(sheet->cols, ADD_MOMENTS);
#undef ADD_MOMENTS
        s1[p] += weight * add_columns(sum);
        s2[p] += weight * add_columns(square);
    }
}

static void moments(const bni_sheet *sheet, const float *pivot, double *s1, double *s2) {
    if (sheet->broadcast) {
        moments_of_planes(sheet, pivot, s1, s2);
    } else if (sheet->weight == NULL) {
        BNI_FOR_TILES(moments_tile, BNI_SUM_TILE, sheet, NULL, 0, pivot, s1, s2, false);
    } else {
        BNI_FOR_TILES(moments_tile, BNI_SUM_TILE, sheet, NULL, 0, pivot, s1, s2, true);
    }
}

/* ---- Normalize ------------------------------------------------------------------------------ */

BNI_INLINE void normalize_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                               size_t part, const bni_coef *coef, const bool residual,
                               const bool relu, const bool stream, const bool ahead) {
    const vf zero = vf_set1(0.0f);
    vf center[BNI_TILE], scale[BNI_TILE], shift[BNI_TILE];
    BNI_EACH_VECTOR(v) {
        const size_t column = c + v * BNI_LANES;
        center[v] = load_coef(sheet, rows, coef->center, column, part);
        scale[v] = load_coef(sheet, rows, coef->scale, column, part);
        shift[v] = load_coef(sheet, rows, coef->shift, column, part);
    }
    const size_t first = rows.at + rows.begin * sheet->y_stride + c;
    const float *x = sheet->x + rows.at + rows.begin * sheet->x_stride + c;
    float *y = sheet->out + first;
    const float *add = residual ? sheet->residual + first : NULL;
    for (size_t r = rows.begin; r < rows.end; r++) {
        BNI_EACH_VECTOR(v) {
            if (ahead && stream) {
                fetch_input(x + v * BNI_LANES, sheet->x_ahead);
            } else if (ahead) {
                fetch_output(y + v * BNI_LANES, sheet->x_ahead);
            }
            if (stream && part != 0) {
                fetch_output(y, sheet->part_ahead);
            }
            const vf d = vf_sub(load(x + v * BNI_LANES, part, zero), center[v]);
            vf z = vf_fma(d, scale[v], shift[v]);
            if (residual) {
                z = vf_add(z, load(add + v * BNI_LANES, part, zero));
            }
            store(y + v * BNI_LANES, part, relu ? vf_relu(z) : z, stream);
        }
        x += sheet->x_stride;
        y += sheet->y_stride;
        add = residual ? add + sheet->y_stride : NULL;
    }
}

BNI_INLINE void normalize_sheet(const bni_sheet *sheet, const bni_coef *coef, const bool residual,
                                const bool relu) {
    BNI_WRITE_TILES(normalize_tile, sheet, sheet->out, sheet->y_stride, coef, residual, relu);
}

static void normalize(const bni_sheet *sheet, const bni_coef *coef, bool relu) {
    if (planes_askew(sheet, sheet->out)) {
        BNI_FOR_PARTS(normalize, sheet, sheet->out, coef, relu);
    } else if (sheet->residual == NULL) {
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

/* ---- Gradients ------------------------------------------------------------------------------ */

/* g = dy * act'(.); d is x - center, which only BNI_MASK_X looks at. */
BNI_INLINE vf gradient_at(const bni_sheet *sheet, size_t at, size_t part, vf d, vf scale, vf shift,
                          const bni_mask mask) {
    const vf zero = vf_set1(0.0f);
    const vf dy = load(sheet->dy + at, part, zero);
    switch (mask) {
    case BNI_MASK_X:
        return vf_where_positive(vf_fma(d, scale, shift), dy);
    case BNI_MASK_Y:
        return vf_where_positive(load(sheet->y + at, part, zero), dy);
    default:
        return dy;
    }
}

/* A row of weight 0 may have an x that is no number: where its gradient is 0 it adds nothing. */
BNI_INLINE bool is_left_out(const bni_sheet *sheet, size_t row) {
    return sheet->weight != NULL && bni_weight(sheet, row) == 0.0f;
}

/* x - center is taken in double: it is exact there. In a part vector the missing lanes have dy = 0
 * and x = center. */
BNI_INLINE void grad_sums_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                               size_t part, const bni_coef *coef, double *s1, double *s2,
                               const bni_mask mask, const bool weighted) {
    const vf zero = vf_set1(0.0f);
    const bool rebuilds = mask == BNI_MASK_X;
    vf center[BNI_SUM_TILE], scale[BNI_SUM_TILE], shift[BNI_SUM_TILE];
    vd origin[BNI_SUM_TILE], sum[BNI_SUM_TILE], product[BNI_SUM_TILE];
    BNI_EACH_VECTOR(v) {
        const size_t column = c + v * BNI_LANES;
        center[v] = load(coef->center + rows.column + column, part, zero);
        scale[v] = rebuilds ? load(coef->scale + rows.column + column, part, zero) : zero;
        shift[v] = rebuilds ? load(coef->shift + rows.column + column, part, zero) : zero;
        origin[v] = vd_from(center[v]);
        sum[v] = load_sum(s1 + rows.column + column, part);
        product[v] = load_sum(s2 + rows.column + column, part);
    }
    fetch x_next = fetch_from(sheet->x, sheet->x_stride, sheet->x_ahead, sheet, rows, c, vectors);
    fetch dy_next =
        fetch_from(sheet->dy, sheet->y_stride, sheet->dy_ahead, sheet, rows, c, vectors);
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = sheet->x + rows.at + r * sheet->x_stride + c;
        const bool left_out = weighted && is_left_out(sheet, r);
        fetch_row(&x_next, &dy_next, vectors);
        BNI_EACH_VECTOR(v) {
            const size_t at = rows.at + r * sheet->y_stride + c + v * BNI_LANES;
            vd value = load_wide(x + v * BNI_LANES, part, center[v]);
            vd g = load_wide(sheet->dy + at, part, zero);
            if (mask != BNI_MASK_NONE || left_out) {
                const vf narrow = load(x + v * BNI_LANES, part, center[v]);
                const vf gradient = gradient_at(sheet, at, part, vf_sub(narrow, center[v]),
                                                scale[v], shift[v], mask);
                g = vd_from(gradient);
                if (left_out) {
                    value = vd_from(vf_where_zero(gradient, center[v], narrow));
                }
            }
            sum[v] = vd_accumulate(sum[v], g);
            product[v] = vd_fma(g, vd_sub(value, origin[v]), product[v]);
        }
    }
    BNI_EACH_VECTOR(v) {
        store_sum(s1 + rows.column + c + v * BNI_LANES, part, sum[v]);
        store_sum(s2 + rows.column + c + v * BNI_LANES, part, product[v]);
    }
}

BNI_INLINE void grad_sums_of_planes(const bni_sheet *sheet, const bni_coef *coef, double *s1,
                                    double *s2, const bni_mask mask) {
    const vf zero = vf_set1(0.0f);
    const bool left_out = is_left_out(sheet, 0), rebuilds = mask == BNI_MASK_X;
    for (size_t p = 0; p < sheet->planes; p++) {
        const size_t at = p * sheet->plane_stride;
        const vf center = vf_set1(coef->center[p]);
        const vf scale = rebuilds ? vf_set1(coef->scale[p]) : zero;
        const vf shift = rebuilds ? vf_set1(coef->shift[p]) : zero;
        const vd origin = vd_from(center);
        vd sum[PLANE_VECTORS], product[PLANE_VECTORS];
        for (size_t v = 0; v < PLANE_VECTORS; v++) {
            sum[v] = product[v] = vd_set1(0.0);
        }
#define ADD_GRADIENTS(c, part, v)                                                                  \
    do {                                                                                           \
        const vf x_ = load(sheet->x + at + (c), part, center);                                     \
        const vf g_ = gradient_at(sheet, at + (c), part, vf_sub(x_, center), scale, shift, mask);  \
        const vd wide_ = vd_from(g_);                                                              \
        const vd value_ = vd_from(left_out ? vf_where_zero(g_, center, x_) : x_);                  \
        sum[v] = vd_accumulate(sum[v], wide_);                                                     \
        product[v] = vd_fma(wide_, vd_sub(value_, origin), product[v]);                            \
    } while (0)
        BNI_FOR_PLANE(sheet->cols, ADD_GRADIENTS);
#undef ADD_GRADIENTS
        s1[p] += add_columns(sum);
        s2[p] += add_columns(product);
    }
}

BNI_INLINE void grad_sums_masked(const bni_sheet *sheet, const bni_coef *coef, double *s1,
                                 double *s2, const bni_mask mask) {
    if (sheet->broadcast) {
        grad_sums_of_planes(sheet, coef, s1, s2, mask);
    } else if (sheet->weight == NULL) {
        BNI_FOR_TILES(grad_sums_tile, BNI_SUM_TILE, sheet, NULL, 0, coef, s1, s2, mask, false);
    } else {
        BNI_FOR_TILES(grad_sums_tile, BNI_SUM_TILE, sheet, NULL, 0, coef, s1, s2, mask, true);
    }
}

static void grad_sums(const bni_sheet *sheet, const bni_coef *coef, bni_mask mask, double *s1,
                      double *s2) {
    switch (mask) {
    case BNI_MASK_X:
        grad_sums_masked(sheet, coef, s1, s2, BNI_MASK_X);
        break;
    case BNI_MASK_Y:
        grad_sums_masked(sheet, coef, s1, s2, BNI_MASK_Y);
        break;
    default:
        grad_sums_masked(sheet, coef, s1, s2, BNI_MASK_NONE);
        break;
    }
}

BNI_INLINE void grad_input_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                                size_t part, const bni_coef *coef, const bni_mask mask,
                                const bool constant, const bool stream, const bool ahead) {
    const vf zero = vf_set1(0.0f);
    vf center[BNI_TILE], scale[BNI_TILE], shift[BNI_TILE], slope[BNI_TILE], offset[BNI_TILE];
    BNI_EACH_VECTOR(v) {
        const size_t column = c + v * BNI_LANES;
        center[v] = load_coef(sheet, rows, coef->center, column, part);
        scale[v] = load_coef(sheet, rows, coef->scale, column, part);
        shift[v] = load_coef(sheet, rows, coef->shift, column, part);
        slope[v] = constant ? zero : load_coef(sheet, rows, coef->slope, column, part);
        offset[v] = constant ? zero : load_coef(sheet, rows, coef->offset, column, part);
    }
    for (size_t r = rows.begin; r < rows.end; r++) {
        const float *x = sheet->x + rows.at + r * sheet->x_stride + c;
        float *dx = sheet->dx + rows.at + r * sheet->x_stride + c;
        const vf weight = vf_set1(sheet->weight == NULL ? 1.0f : bni_weight(sheet, r));
        const bool direct = constant || is_left_out(sheet, r);
        BNI_EACH_VECTOR(v) {
            const size_t at = rows.at + r * sheet->y_stride + c + v * BNI_LANES;
            if (ahead && stream) {
                fetch_input(x + v * BNI_LANES, sheet->x_ahead);
                fetch_input(sheet->dy + at, sheet->dy_ahead);
            } else if (ahead) {
                fetch_output(dx + v * BNI_LANES, sheet->x_ahead);
            }
            if (stream && part != 0) {
                fetch_output(dx, sheet->part_ahead);
            }
            const vf d = constant && mask != BNI_MASK_X
                             ? zero
                             : vf_sub(load(x + v * BNI_LANES, part, center[v]), center[v]);
            const vf g = gradient_at(sheet, at, part, d, scale[v], shift[v], mask);
            const vf through = direct ? g : vf_fma(weight, vf_fma(d, slope[v], offset[v]), g);
            if (sheet->dresidual != NULL) {
                store(sheet->dresidual + at, part, g, false);
            }
            store(dx + v * BNI_LANES, part, vf_mul(scale[v], through), stream);
        }
    }
}

BNI_INLINE void grad_input_sheet(const bni_sheet *sheet, const bni_coef *coef, const bni_mask mask,
                                 const bool constant) {
    BNI_WRITE_TILES(grad_input_tile, sheet, sheet->dx, sheet->x_stride, coef, mask, constant);
}

BNI_INLINE void grad_input_masked(const bni_sheet *sheet, const bni_coef *coef,
                                  const bni_mask mask) {
    if (coef->slope == NULL) {
        grad_input_sheet(sheet, coef, mask, true);
    } else {
        grad_input_sheet(sheet, coef, mask, false);
    }
}

static void grad_input(const bni_sheet *sheet, const bni_coef *coef, bni_mask mask) {
    if (planes_askew(sheet, sheet->dx)) {
        BNI_FOR_PARTS(grad_input, sheet, sheet->dx, coef, mask);
        return;
    }
    switch (mask) {
    case BNI_MASK_X:
        grad_input_masked(sheet, coef, BNI_MASK_X);
        break;
    case BNI_MASK_Y:
        grad_input_masked(sheet, coef, BNI_MASK_Y);
        break;
    default:
        grad_input_masked(sheet, coef, BNI_MASK_NONE);
        break;
    }
}

/* ---- Over features: plain loops that the compiler vectorizes -------------------------------- */

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
                ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
        }
    }
    for (size_t o = 1; o < outer; o++) {
        for (size_t f = 0; f < features; f++) {
            s[f] += s[o * features + f];
        }
    }
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

/* The block's own moments come from its sums about a pivot that is one of its values. With n values
 * the sum of squares about it is at most n + 1 times the one about the mean, so that subtracting
 * the mean's part loses at most log2(n + 1) of 53 bits: moments.c bounds n by 2^17. */
static void merge_block(bni_sums *into, size_t features, double count, const float *pivot,
                        const double *s1, const double *s2) {
    double *restrict mean = into->mean;
    double *restrict m2 = into->m2;
    const double part = 1.0 / count;
    const double total = into->count + count;
    const double share = count / total;
    const double between = into->count * share;
    const bool first = into->count == 0.0;
    for (size_t d = 0; d < features; d++) {
        const double shift = s1[d] * part;
        const double own = s2[d] - s1[d] * shift;
        const double positive = isless(own, 0.0) ? 0.0 : own; /* NaN stays */
        const double center = (double)pivot[d];
        if (first) {
            mean[d] = center + shift;
            m2[d] = positive;
        } else {
            const double delta = (center - mean[d]) + shift;
            mean[d] += delta * share;
            m2[d] += positive + delta * delta * between;
        }
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
BNI_INLINE void split(double value, float *nearest, float *rest) {
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
        bad |= not_finite(mean_near[d]) | !bni_within(m2[d], BNI_MOST_M2);
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

static void running_scale(const float *restrict var, const float *restrict gamma, size_t features,
                          double eps, float *restrict scale) {
    for (size_t d = 0; d < features; d++) {
        float nearest, rest;
        split(1.0 / sqrt((double)var[d] + eps), &nearest, &rest);
        const double invstd = (double)nearest + (double)rest;
        scale[d] = (float)(gamma == NULL ? invstd : (double)gamma[d] * invstd);
    }
}

/* keep * old + (1 - keep) * value; an old value without weight may be anything. */
BNI_INLINE float mix(double keep, float old, double value) {
    return (float)((keep == 0.0 ? 0.0 : keep * (double)old) + (1.0 - keep) * value);
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
    for (size_t d = 0; d < features; d++) {
        const double invstd = (double)invstd_near[d] + (double)invstd_rest[d];
        const double slope = gamma == NULL ? invstd : (double)gamma[d] * invstd;
        const double start = beta == NULL ? 0.0 : (double)beta[d];
        scale[d] = (float)slope;
        /* No rest, as in running values: beta to its bit, whatever the slope. */
        const double rest = (double)mean_rest[d];
        shift[d] = (float)(start - rest * (rest == 0.0 ? 0.0 : slope));
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
        dgamma[d] = (float)(scale ? gradient : 0.0); /* what is not learned may be beyond float */
        dbeta[d] = (float)(shift ? s1[d] : 0.0);
        slope[d] = (float)per_value;
        offset[d] = (float)(s1[d] * -share - rest * per_value);
        bad |= not_finite(dgamma[d]) | not_finite(dbeta[d]);
    }
    return bad == 0;
}

const bn_kernels BNI_TABLE = {
    .name = BNI_NAME,
    .tile = BNI_TILE * BNI_LANES,
    .moments = moments,
    .normalize = normalize,
    .grad_sums = grad_sums,
    .grad_input = grad_input,
    .fold = fold,
    .merge = merge,
    .merge_block = merge_block,
    .finish_moments = finish_moments,
    .finish_running = finish_running,
    .running_scale = running_scale,
    .running = running,
    .affine = affine,
    .finish_gradients = finish_gradients,
};

#undef BNI_TABLE
#undef BNI_NAME
#undef BNI_LANES
#undef BNI_TILE
#undef BNI_SUM_TILE
#undef BNI_INLINE
#undef BNI_UNROLL
#undef BNI_EACH_VECTOR
#undef BNI_FOR_COLUMNS
#undef BNI_FOR_TILES
#undef BNI_WRITE_TILES
#undef BNI_FOR_PARTS
#undef BNI_FOR_PLANE
#undef PLANE_VECTORS
