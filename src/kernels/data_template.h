/*
 * The arithmetic over data, written once. A kernels_*.c file includes a vector vocabulary (simd_*.h)
 * and then this file, and has BNI_DATA_KERNELS, an initializer of bni_data_kernels for each element type.
 * The vocabulary: BNI_LANES, BNI_TILE, BNI_SUMS_TILE, BNI_VARIANTS, BNI_FUSED, types vf, vd, vh and vhh and their
 * functions (simd_base.h). The element type is a parameter, which is a constant where it comes to
 * loading and storing.
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
 * Where there are many runs, that is far from what happens. Where a feature has few values it is not,
 * and y would be off by more than 4 units: moments are in double throughout there.
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
_Static_assert(BNI_SUMS_TILE >= LINE, "a line of a plane is summed up at once");
_Static_assert(BNI_RUN == 2 * BNI_QUAD, "a run is two quads");

/* Rows of a sheet. */
typedef struct band {
    size_t begin, end;
} band;

BNI_INLINE size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Rows of at least so many columns are streamed from their first whole line on, whatever their
 * alignment. The line that a row shares with the next, of 16 or more, is stored to in the ordinary
 * way, and so read before. */
#define LEAD_COLUMNS ((size_t)256)

BNI_INLINE bool has_lead(const bni_sheet *sheet, size_t stride, const bni_type type) {
    const bool rows_alike = stride % bni_line_of(type) == 0 || sheet->hints.band == 1;
    return sheet->form.cols >= LEAD_COLUMNS && rows_alike;
}

/* The elements from here to the next multiple of so many. */
BNI_INLINE size_t elements_to(const void *here, size_t multiple, const bni_type type) {
    return (multiple - (uintptr_t)here / bni_bytes_of(type) % multiple) % multiple;
}

/* The columns that are stored at once: of a half type two vectors. */
BNI_INLINE size_t columns_at_once(const bni_type type) {
    return type == BNI_F32 ? BNI_LANES : 2 * BNI_LANES;
}

/* The columns of a row that is streamed before its first whole vector. */
BNI_INLINE size_t lead_columns(const bni_sheet *sheet, const void *out, size_t stride, size_t row,
                               const bni_type type) {
    return has_lead(sheet, stride, type)
               ? elements_to(bni_at(out, row * stride, type), columns_at_once(type), type)
               : 0;
}

/* Whether an address is a multiple of an element's size. */
BNI_INLINE bool is_aligned(const void *out, const bni_type type) {
    return (uintptr_t)out % bni_bytes_of(type) == 0;
}

/* Whether rows can be streamed: they have a lead, or all begin at cache lines. */
BNI_INLINE bool can_stream(const bni_sheet *sheet, const void *out, size_t stride,
                           const bni_type type) {
    const size_t line = bni_line_of(type);
    const bool lines = elements_to(out, line, type) == 0 && stride % line == 0;
    return sheet->hints.stream && is_aligned(out, type) && (lines || has_lead(sheet, stride, type));
}

/* Data, and 0 in the lanes that have no column. */
BNI_INLINE vf load_or_zero(const void *from, size_t lanes, const bni_type type) {
    const bool whole = lanes == BNI_LANES;
    if (type == BNI_F32) {
        return whole ? vf_load(from) : vf_load_part(from, lanes, vf_set1(0.0f));
    }
    const vh halves = whole ? vh_load(from) : vh_load_part(from, lanes);
    return type == BNI_BF16 ? vf_from_bf16(halves) : vf_from_f16(halves);
}

/* Data, and `rest` in the lanes that have no column. */
BNI_INLINE vf load(const void *from, size_t lanes, vf rest, const bni_type type) {
    if (type == BNI_F32) {
        return lanes == BNI_LANES ? vf_load(from) : vf_load_part(from, lanes, rest);
    }
    const vf data = load_or_zero(from, lanes, type);
    return lanes == BNI_LANES ? data : vf_part(data, lanes, rest);
}

/* What belongs to a vector's columns, or to a plane, which has one value; the missing lanes are 0. */
BNI_INLINE vf load_coef(const float *of, size_t lanes, const bool plane) {
    const vf zero = vf_set1(0.0f);
    if (plane) {
        const vf all = vf_set1(bni_load_float(of));
        return lanes == BNI_LANES ? all : vf_part(all, lanes, zero);
    }
    return load_or_zero(of, lanes, BNI_F32);
}

/* Adds to a sum a column. */
BNI_INLINE void add_sum(double *to, size_t lanes, vd sum) {
    if (lanes == BNI_LANES) {
        vd_store(to, vd_add(vd_load(to), sum));
    } else {
        double lane[BNI_LANES];
        vd_store(lane, sum);
        for (size_t l = 0; l < lanes; l++) {
            to[l] += lane[l];
        }
    }
}

BNI_INLINE void store_halves(void *to, size_t lanes, vh halves, const bool stream) {
    if (lanes != BNI_LANES) {
        vh_store_part(to, lanes, halves);
    } else if (stream) {
        vh_stream(to, halves);
    } else {
        vh_store(to, halves);
    }
}

BNI_INLINE void store(void *to, size_t lanes, vf v, const bool stream, const bni_type type) {
    if (type != BNI_F32) {
        store_halves(to, lanes, type == BNI_BF16 ? vh_bf16(v) : vh_f16(v), stream);
    } else if (lanes != BNI_LANES) {
        vf_store_part(to, lanes, v);
    } else if (stream) {
        vf_stream(to, v);
    } else {
        vf_store(to, v);
    }
}

/* Stores vector v of some that are side by side, whose first is at `to`; of a half type by two, where
 * there are two. */
BNI_INLINE void store_next(void *to, size_t v, const size_t vectors, size_t lanes, const vf *row,
                           const bool stream, const bni_type type) {
    if (type == BNI_F32 || vectors % 2 != 0) {
        store(bni_out_at(to, v * BNI_LANES, type), lanes, row[v], stream, type);
    } else if (v % 2 != 0) {
        void *const at = bni_out_at(to, (v - 1) * BNI_LANES, type);
        const vhh halves =
            type == BNI_BF16 ? vhh_bf16(row[v - 1], row[v]) : vhh_f16(row[v - 1], row[v]);
        if (stream) {
            vhh_stream(at, halves);
        } else {
            vhh_store(at, halves);
        }
    }
}

/* Calls tile(sheet, band, first column, vectors, lanes that count of each vector, whether the
 * output is streamed, ...) over the columns of a band of an output: BNI_TILE vectors at a time, with
 * constants for the last two, and the others one by one. What is streamed begins `lead` columns into
 * the band. */
#define BNI_WRITE_COLUMNS(tile, sheet, band, lead, cols, stream, ...)                              \
    do {                                                                                           \
        size_t c_ = (lead);                                                                        \
        for (; c_ + BNI_TILE * BNI_LANES <= (cols); c_ += BNI_TILE * BNI_LANES) {                  \
            if (stream) {                                                                          \
                tile(sheet, band, c_, BNI_TILE, BNI_LANES, true, __VA_ARGS__);                     \
            } else {                                                                               \
                tile(sheet, band, c_, BNI_TILE, BNI_LANES, false, __VA_ARGS__);                    \
            }                                                                                      \
        }                                                                                          \
        for (size_t one_ = (lead) == 0 ? c_ : 0; one_ < (cols);) {                                 \
            const bool leads_ = one_ < (lead);                                                     \
            const size_t left_ = least(BNI_LANES, (leads_ ? (lead) : (cols)) - one_);              \
            tile(sheet, band, one_, 1, left_, stream && !(leads_ && left_ == BNI_LANES),           \
                 __VA_ARGS__);                                                                     \
            one_ += left_;                                                                         \
            one_ = leads_ && one_ == (lead) ? c_ : one_;                                           \
        }                                                                                          \
    } while (0)

/* The same over all bands. */
#define BNI_WRITE_ROWS(tile, sheet, out, stride, type, ...)                                        \
    do {                                                                                           \
        const bool stream_ = can_stream(sheet, out, stride, type);                                 \
        const size_t rows_ = (sheet)->form.rows, cols_ = (sheet)->form.cols;                       \
        for (band b_ = {0, 0}; b_.begin < rows_; b_.begin = b_.end) {                              \
            const size_t lead_ = stream_ ? lead_columns(sheet, out, stride, b_.begin, type) : 0;   \
            b_.end = least(b_.begin + (sheet)->hints.band, rows_);                                 \
            BNI_WRITE_COLUMNS(tile, sheet, b_, lead_, cols_, stream_, __VA_ARGS__);                \
        }                                                                                          \
    } while (0)

/* Into L2, where it does not displace what is being worked on, or past it. The address may be beyond a
 * buffer's end: there the processor fetches nothing. */
BNI_INLINE void fetch_input(const void *at, size_t ahead, bool past_l2, const bni_type type) {
    const void *there = (const void *)((uintptr_t)at + ahead * bni_bytes_of(type));
    if (past_l2) {
        __builtin_prefetch(there, 0, 0);
    } else {
        __builtin_prefetch(there, 0, 2);
    }
}

/* To be written: a line that was fetched to be read is asked for a second time when it is stored to.
 */
BNI_INLINE void fetch_output(const void *at, size_t ahead, const bni_type type) {
    __builtin_prefetch((const void *)((uintptr_t)at + ahead * bni_bytes_of(type)), 1, 2);
}

/* What a row of a tile has fetched, each line once; in a streamed output the line at its part vector. */
BNI_INLINE void fetch_row(const void *x, const void *dy, const void *out, const size_t vectors,
                          size_t lanes, const bni_hints *hints, const bool stream,
                          const bni_type type) {
    if (hints->x_ahead != 0) {
        BNI_EACH_VECTOR(v) {
            const size_t at = v * BNI_LANES;
            if (at % bni_line_of(type) != 0) {
                continue;
            }
            if (!stream) {
                fetch_output(bni_at(out, at, type), hints->x_ahead, type);
                continue;
            }
            fetch_input(bni_at(x, at, type), hints->x_ahead, hints->past_l2, type);
            if (dy != NULL) {
                fetch_input(bni_at(dy, at, type), hints->dy_ahead, hints->past_l2, type);
            }
        }
    }
    if (stream && lanes != BNI_LANES) {
        fetch_output(out, hints->part_ahead, type);
    }
}

/* The elements of a plane that are written in the ordinary way: those before its first whole line, or
 * all where a plane that shares lines is too short for streaming to pay. */
BNI_INLINE size_t ordinary_of_plane(const bni_sheet *sheet, const void *out, size_t at,
                                    const bni_type type) {
    const size_t cols = sheet->form.cols, line = bni_line_of(type);
    const void *const begin = bni_at(out, at, type);
    const size_t lead = elements_to(begin, line, type);
    if (!sheet->hints.stream || !is_aligned(out, type) ||
        (cols < LEAD_COLUMNS && (lead != 0 || cols % line != 0))) {
        return cols;
    }
    fetch_output(begin, sheet->hints.part_ahead, type);
    return least(lead, cols);
}

/* Calls vectors(sheet, first element, how many vectors, lanes that count of each, whether it is
 * streamed, ...) over so many elements of a plane. A half type's vector may be half a line: that is
 * streamed where all of it is. */
#define BNI_WRITE_PIECE(vectors, sheet, at, count, stream, type, ...)                              \
    do {                                                                                           \
        const size_t end_ = (at) + (count), whole_ = end_ - (count) % bni_line_of(type);           \
        size_t c_ = (at);                                                                          \
        for (; c_ + BNI_TILE * BNI_LANES <= end_; c_ += BNI_TILE * BNI_LANES) {                    \
            vectors(sheet, c_, BNI_TILE, BNI_LANES, stream, __VA_ARGS__);                          \
        }                                                                                          \
        for (; c_ + BNI_LANES <= end_; c_ += BNI_LANES) {                                          \
            const bool in_line_ = type == BNI_F32 || c_ < whole_;                                  \
            vectors(sheet, c_, 1, BNI_LANES, (stream) && in_line_, __VA_ARGS__);                   \
        }                                                                                          \
        if (c_ < end_) {                                                                           \
            vectors(sheet, c_, 1, end_ - c_, stream, __VA_ARGS__);                                 \
        }                                                                                          \
    } while (0)

/* The lines of a run that are so many elements further on, where anything is fetched. */
BNI_INLINE void fetch_lines(const void *at, size_t step, size_t lines, size_t ahead, bool past_l2,
                            const bni_type type) {
    for (size_t r = 0; ahead != 0 && r < lines; r++) {
        fetch_input(bni_at(at, r * step, type), ahead, past_l2, type);
    }
}

/* The activations that have loops of their own, as constants. */
static const bni_activation linear = {.curve = BNI_LINEAR};
static const bni_activation relu = {.curve = BNI_RELU};
static const bni_activation relu_by_y = {.curve = BNI_RELU, .by_y = true};

BNI_INLINE vf activate(vf z, const bni_activation act) {
    switch (act.curve) {
    case BNI_RELU:
        return vf_relu(z);
    case BNI_LEAKY:
        return vf_leaky(z, vf_set1(act.slope), z);
    case BNI_CLIP:
        return vf_clip(z, vf_set1(act.max));
    default:
        return z;
    }
}

/* g = dy * act'(z); d is x - center, which is looked at only to rebuild z. */
BNI_INLINE vf gradient_at(const bni_buffers *of, size_t at, size_t lanes, vf d, vf scale, vf shift,
                          const bni_activation act, const bni_type type) {
    const vf dy = load_or_zero(bni_at(of->dy, at, type), lanes, type);
    if (act.curve == BNI_LINEAR) {
        return dy;
    }
    const vf z =
        act.by_y ? load_or_zero(bni_at(of->y, at, type), lanes, type) : vf_fma(d, scale, shift);
    switch (act.curve) {
    case BNI_LEAKY:
        return vf_leaky(z, vf_set1(act.slope), dy);
    case BNI_CLIP:
        return vf_where_between(z, vf_set1(act.max), dy);
    default:
        return vf_where_positive(z, dy);
    }
}

/* A row of weight 0 may have an x that is no number. */
BNI_INLINE bool is_left_out(const bni_form *form, size_t row) {
    return bni_weight(form, row) == 0.0f;
}

/* ---- Sums ----------------------------------------------------------------------------------- */

/* What is summed up, as constants: a value v and its product with d = x - center. Of moments, center
 * is the pivot and v = w * d; else v = g. Only of planes may columns have weights of their own. */
typedef struct terms {
    bni_type type;
    bool moments, weighted, columns;
    bool plain; /* no weights, and the rest is known: whole runs are unrolled */
    bool few;   /* moments, all in double */
    bni_activation act;
} terms;

/* The sums, or the coefficients, of a line's columns. */
typedef struct line_sums {
    vf one[BNI_SUMS_TILE], two[BNI_SUMS_TILE];
} line_sums;

typedef struct line_doubles {
    vd one[BNI_SUMS_TILE], two[BNI_SUMS_TILE];
} line_doubles;

typedef struct line_coef {
    vf center[BNI_SUMS_TILE], scale[BNI_SUMS_TILE], shift[BNI_SUMS_TILE];
} line_coef;

/* Lines below each other: the first one's offsets in x and in all others, how far it is to the next,
 * and the first one's row, or which of a plane's lines it is. */
typedef struct lines {
    size_t x, y, x_step, y_step, row;
} lines;

/* c: the first column, or the plane. */
BNI_INLINE line_coef load_line(const bni_coef *coef, size_t c, const size_t vectors, size_t lanes,
                               const bool plane, const terms of) {
    const bool rebuilds = !of.moments && bni_rebuilds(of.act);
    const vf zero = vf_set1(0.0f);
    line_coef line;
    BNI_EACH_VECTOR(v) {
        const size_t column = plane ? c : c + v * BNI_LANES;
        line.center[v] = load_coef(coef->center + column, lanes, plane);
        line.scale[v] = rebuilds ? load_coef(coef->scale + column, lanes, plane) : zero;
        line.shift[v] = rebuilds ? load_coef(coef->shift + column, lanes, plane) : zero;
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

/* Of so many columns, those that vector v has. */
BNI_INLINE size_t lanes_of(size_t columns, size_t v) {
    const size_t before = v * BNI_LANES;
    return columns >= before + BNI_LANES ? BNI_LANES : columns > before ? columns - before : 0;
}

/* Of vector v of a plane's line. */
BNI_INLINE vf column_weights(const bni_form *form, size_t line, size_t v, size_t lanes) {
    const float *from = form->position + line * BNI_PAD + v * BNI_LANES;
    return vf_mul(vf_set1(bni_weight(form, 0)), load_or_zero(from, lanes, BNI_F32));
}

/* Lanes that have no column have x = center and dy = 0, and weight 0 where columns have weights. */
BNI_INLINE void add_line(const bni_sheet *sheet, lines at, const bool first, const size_t vectors,
                         size_t columns, const line_coef *coef, const terms of, line_sums *to) {
    const vf zero = vf_set1(0.0f);
    const bool left_out = of.weighted && is_left_out(&sheet->form, at.row);
    const bool weighs = of.moments && of.weighted;
    const vf weight = weighs ? vf_set1(bni_weight(&sheet->form, at.row)) : zero;
    if (of.moments && left_out) {
        return;
    }
    BNI_EACH_VECTOR(v) {
        const size_t x = at.x + v * BNI_LANES, y = at.y + v * BNI_LANES;
        const size_t lanes = lanes_of(columns, v);
        const vf center = coef->center[v];
        const vf own = of.columns ? column_weights(&sheet->form, at.row, v, lanes) : weight;
        vf here = load(bni_at(sheet->at.x, x, of.type), lanes, center, of.type);
        if (of.columns && of.moments) {
            here = vf_where_zero(own, center, here);
        }
        vf d = vf_sub(here, center);
        const vf value = !of.moments ? gradient_at(&sheet->at, y, lanes, d, coef->scale[v],
                                                   coef->shift[v], of.act, of.type)
                         : weighs    ? vf_mul(own, d)
                                     : d;
        if (left_out) { /* where its gradient is 0 it adds nothing */
            d = vf_where_zero(value, zero, d);
        } else if (of.columns && !of.moments) {
            d = vf_where_zero(own, vf_where_zero(value, zero, d), d);
        }
        to->one[v] = first ? value : vf_add(to->one[v], value);
        to->two[v] = first ? vf_mul(value, d) : vf_fma(value, d, to->two[v]);
    }
}

BNI_INLINE void clear_lines(line_sums *to, const size_t vectors) {
    BNI_EACH_VECTOR(v) to->one[v] = to->two[v] = vf_set1(0.0f);
}

/* A whole run of whole lines, unrolled. */
BNI_INLINE void whole_run(const bni_sheet *sheet, lines at, const size_t vectors,
                          const line_coef *coef, const terms of, line_sums *run) {
    line_sums quad;
    BNI_UNROLL for (size_t r = 0; r < BNI_RUN; r++) {
        add_line(sheet, lines_below(at, r), r % BNI_QUAD == 0, vectors, vectors * BNI_LANES, coef,
                 of, r < BNI_QUAD ? run : &quad);
    }
    add_lines(run, &quad, vectors);
}

/* At most a run of lines of so many columns, the last of `last` columns. */
BNI_INLINE void part_run(const bni_sheet *sheet, lines at, size_t count, const size_t vectors,
                         size_t columns, size_t last, const line_coef *coef, const terms of,
                         line_sums *run) {
    line_sums quad;
    clear_lines(run, vectors);
    clear_lines(&quad, vectors);
    BNI_ROLLED for (size_t r = 0; r < count; r++) {
        if (r == BNI_QUAD) {
            *run = quad;
            clear_lines(&quad, vectors);
        }
        add_line(sheet, lines_below(at, r), false, vectors, r + 1 < count ? columns : last, coef,
                 of, &quad);
    }
    add_lines(run, &quad, vectors);
}

/* A line of moments, in double. */
BNI_INLINE void add_few(const bni_sheet *sheet, lines at, const size_t vectors, size_t columns,
                        const line_coef *coef, const terms of, line_doubles *to) {
    const float row_weight = of.weighted ? bni_weight(&sheet->form, at.row) : 1.0f;
    if (row_weight == 0.0f) { /* x may be no number */
        return;
    }
    BNI_EACH_VECTOR(v) {
        const size_t lanes = lanes_of(columns, v);
        const vf center = coef->center[v];
        vf x = load(bni_at(sheet->at.x, at.x + v * BNI_LANES, of.type), lanes, center, of.type);
        vf weight = vf_set1(row_weight);
        if (of.columns) {
            weight = column_weights(&sheet->form, at.row, v, lanes);
            x = vf_where_zero(weight, center, x);
        }
        const vd d = vd_sub(vd_from(x), vd_from(center));
        const vd value = of.weighted ? vd_mul(vd_from(weight), d) : d;
        to->one[v] = vd_add(to->one[v], value);
        to->two[v] = vd_add(to->two[v], vd_mul(value, d));
    }
}

/* At most a run, in the way that is known for it. */
BNI_INLINE void run_sums(const bni_sheet *sheet, lines at, size_t count, const size_t vectors,
                         size_t columns, size_t last, const line_coef *coef, const terms of,
                         line_doubles *sums) {
    line_sums run;
    if (of.few) {
        BNI_EACH_VECTOR(v) sums->one[v] = sums->two[v] = vd_from(vf_set1(0.0f));
        BNI_ROLLED for (size_t r = 0; r < count; r++) {
            add_few(sheet, lines_below(at, r), vectors, r + 1 < count ? columns : last, coef, of,
                    sums);
        }
        return;
    }
    fetch_lines(bni_at(sheet->at.x, at.x, of.type), at.x_step, count, sheet->hints.x_ahead,
                sheet->hints.past_l2, of.type);
    if (!of.moments) {
        fetch_lines(bni_at(sheet->at.dy, at.y, of.type), at.y_step, count, sheet->hints.dy_ahead,
                    sheet->hints.past_l2, of.type);
    }
    if (of.plain && vectors >= LINE && count == BNI_RUN && last == vectors * BNI_LANES) {
        whole_run(sheet, at, vectors, coef, of, &run);
    } else {
        part_run(sheet, at, count, vectors, columns, last, coef, of, &run);
    }
    BNI_EACH_VECTOR(v) {
        sums->one[v] = vd_from(run.one[v]);
        sums->two[v] = vd_from(run.two[v]);
    }
}

BNI_INLINE void sums_tile(const bni_sheet *sheet, band run_rows, size_t c, const size_t vectors,
                          size_t lanes, const bni_coef *coef, double *s1, double *s2,
                          const terms of) {
    const bni_form *form = &sheet->form;
    const lines at = {run_rows.begin * form->x_stride + c, run_rows.begin * form->y_stride + c,
                      form->x_stride, form->y_stride, run_rows.begin};
    const size_t columns = vectors == 1 ? lanes : vectors * BNI_LANES;
    const line_coef line = load_line(coef, c, vectors, lanes, false, of);
    line_doubles run;
    run_sums(sheet, at, run_rows.end - run_rows.begin, vectors, columns, columns, &line, of, &run);
    BNI_EACH_VECTOR(v) {
        add_sum(s1 + c + v * BNI_LANES, lanes, run.one[v]);
        add_sum(s2 + c + v * BNI_LANES, lanes, run.two[v]);
    }
}

/* Run by run. */
BNI_INLINE void sums_of_rows(const bni_sheet *sheet, const bni_coef *coef, double *s1, double *s2,
                             const terms of) {
    const size_t tile = BNI_SUMS_TILE * BNI_LANES, cols = sheet->form.cols;
    for (band run = {0, 0}; run.begin < sheet->form.rows; run.begin = run.end) {
        size_t c = 0;
        run.end = least(run.begin + BNI_RUN, sheet->form.rows);
        for (; c + tile <= cols; c += tile) {
            sums_tile(sheet, run, c, BNI_SUMS_TILE, BNI_LANES, coef, s1, s2, of);
        }
        for (; c < cols; c += BNI_LANES) {
            sums_tile(sheet, run, c, 1, least(cols - c, BNI_LANES), coef, s1, s2, of);
        }
    }
}

BNI_INLINE line_doubles no_doubles(void) {
    line_doubles none;
    BNI_UNROLL for (size_t v = 0; v < LINE; v++) none.one[v] = none.two[v] = vd_from(vf_set1(0.0f));
    return none;
}

/* All columns of a line, half to half. */
BNI_INLINE double add_columns(vd line[BNI_SUMS_TILE]) {
    BNI_UNROLL for (size_t half = LINE / 2; half > 0; half /= 2) {
        for (size_t v = 0; v < half; v++) {
            line[v] = vd_add(line[v], line[v + half]);
        }
    }
    return vd_total(line[0]);
}

/* Runs of a plane's lines, of which the last may be short. */
BNI_INLINE void sums_of_planes(const bni_sheet *sheet, const bni_coef *coef, double *s1, double *s2,
                               const terms of) {
    const size_t count = (sheet->form.cols + BNI_PAD - 1) / BNI_PAD;
    const size_t left = sheet->form.cols - (count - 1) * BNI_PAD;
    for (size_t p = 0; p < sheet->form.planes; p++) {
        const line_coef line = load_line(coef, p, LINE, BNI_LANES, true, of);
        line_doubles sums = no_doubles();
        for (size_t i = 0; i < count; i += BNI_RUN) {
            const size_t first = p * sheet->form.plane_stride + i * BNI_PAD;
            const lines at = {first, first, BNI_PAD, BNI_PAD, i};
            line_doubles run;
            run_sums(sheet, at, least(count - i, BNI_RUN), LINE, BNI_PAD,
                     count - i > BNI_RUN ? BNI_PAD : left, &line, of, &run);
            BNI_UNROLL for (size_t v = 0; v < LINE; v++) {
                sums.one[v] = vd_add(sums.one[v], run.one[v]);
                sums.two[v] = vd_add(sums.two[v], run.two[v]);
            }
        }
        s1[p] += add_columns(sums.one);
        s2[p] += add_columns(sums.two);
    }
}

/* By a copy of the sheet, of which the compiler knows that no sum is stored into it. */
BNI_INLINE void sums_of(const bni_sheet *sheet, const bni_coef *coef, double *s1, double *s2,
                        const terms of) {
    const bni_sheet own = *sheet;
    const bni_coef values = *coef;
    if (own.form.plane_stride != 0) {
        const bool columns = of.weighted && own.form.position != NULL;
        const terms planes = {of.type, of.moments, of.weighted, columns, of.plain, of.few, of.act};
        sums_of_planes(&own, &values, s1, s2, planes);
    } else {
        sums_of_rows(&own, &values, s1, s2, of);
    }
}

BNI_INLINE void moments(const bni_sheet *sheet, const float *pivot, double *s1, double *s2,
                        const bni_type type) {
    const bni_coef coef = {.center = pivot};
    bni_check_sheet(sheet, BNI_PANEL);
    const bool weighted = sheet->form.weight != NULL;
    if (sheet->form.few) {
        sums_of(sheet, &coef, s1, s2,
                (terms){type, .moments = true, .weighted = weighted, .few = true});
    } else if (BNI_VARIANTS && !weighted) {
        sums_of(sheet, &coef, s1, s2, (terms){type, .moments = true, .plain = true});
    } else {
        sums_of(sheet, &coef, s1, s2, (terms){type, .moments = true, .weighted = weighted});
    }
}

static double weigh(const bni_form *form) {
    line_doubles sum = no_doubles();
    for (size_t i = 0; i * BNI_PAD < form->cols; i++) {
        vf line[BNI_SUMS_TILE];
        BNI_UNROLL for (size_t v = 0; v < LINE; v++) {
            line[v] = column_weights(form, i, v, lanes_of(form->cols - i * BNI_PAD, v));
        }
        BNI_UNROLL for (size_t v = 0; v < LINE; v++) {
            sum.one[v] = vd_add(sum.one[v], vd_from(line[v]));
        }
    }
    return add_columns(sum.one);
}

BNI_INLINE void grad_sums(const bni_sheet *sheet, const bni_coef *coef, bni_activation act,
                          double *s1, double *s2, const bni_type type) {
    bni_check_sheet(sheet, BNI_PANEL);
    const bool weighted = sheet->form.weight != NULL;
    if (!BNI_VARIANTS || weighted || act.curve > BNI_RELU) {
        sums_of(sheet, coef, s1, s2, (terms){type, .weighted = weighted, .act = act});
    } else if (act.curve == BNI_LINEAR) {
        sums_of(sheet, coef, s1, s2, (terms){type, .plain = true, .act = linear});
    } else if (act.by_y) {
        sums_of(sheet, coef, s1, s2, (terms){type, .plain = true, .act = relu_by_y});
    } else {
        sums_of(sheet, coef, s1, s2, (terms){type, .plain = true, .act = relu});
    }
}

/* ---- Normalize ------------------------------------------------------------------------------ */

/* What turns the x of a vector into y. */
typedef struct vector_affine {
    vf center, scale, shift;
} vector_affine;

/* c: the first column, or the plane. */
BNI_INLINE vector_affine load_affine(const bni_coef *coef, size_t c, size_t lanes,
                                     const bool plane) {
    return (vector_affine){load_coef(coef->center + c, lanes, plane),
                           load_coef(coef->scale + c, lanes, plane),
                           load_coef(coef->shift + c, lanes, plane)};
}

/* What is known of a call before. */
typedef struct output_kind {
    bni_type type;
    bool residual;
    bni_activation act;
} output_kind;

/* add: the residual, where there is one. */
BNI_INLINE vf normalized(const void *x, const void *add, size_t lanes, const vector_affine *by,
                         const output_kind kind) {
    const vf d = vf_sub(load_or_zero(x, lanes, kind.type), by->center);
    vf z = vf_fma(d, by->scale, by->shift);
    if (kind.residual) {
        z = vf_add(z, load_or_zero(add, lanes, kind.type));
    }
    return activate(z, kind.act);
}

/* Some vectors side by side, each with its own of the coefficients, or all with one. */
BNI_INLINE void normalize_row(const void *x, const void *add, void *y, const size_t vectors,
                              size_t lanes, const vector_affine *by, const size_t each,
                              const output_kind kind, const bool stream) {
    vf row[BNI_TILE];
    BNI_EACH_VECTOR(v) {
        const size_t at = v * BNI_LANES;
        row[v] =
            normalized(bni_at(x, at, kind.type), kind.residual ? bni_at(add, at, kind.type) : NULL,
                       lanes, &by[v * each], kind);
        store_next(y, v, vectors, lanes, row, stream, kind.type);
    }
}

BNI_INLINE void normalize_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                               size_t lanes, const bool stream, const bni_coef *coef,
                               const output_kind kind) {
    const bni_form *form = &sheet->form;
    const size_t first = rows.begin * form->y_stride + c;
    const void *x = bni_at(sheet->at.x, rows.begin * form->x_stride + c, kind.type);
    const void *add = kind.residual ? bni_at(sheet->at.residual, first, kind.type) : NULL;
    void *y = bni_out_at(sheet->at.out, first, kind.type);
    vector_affine by[BNI_TILE];
    BNI_EACH_VECTOR(v) by[v] = load_affine(coef, c + v * BNI_LANES, lanes, false);
    for (size_t r = rows.begin; r < rows.end; r++) {
        fetch_row(x, NULL, y, vectors, lanes, &sheet->hints, stream, kind.type);
        normalize_row(x, add, y, vectors, lanes, by, 1, kind, stream);
        x = bni_at(x, form->x_stride, kind.type);
        y = bni_out_at(y, form->y_stride, kind.type);
        add = kind.residual ? bni_at(add, form->y_stride, kind.type) : NULL;
    }
}

BNI_INLINE void normalize_vectors(const bni_sheet *sheet, size_t at, const size_t vectors,
                                  size_t lanes, const bool stream, const bni_coef *coef,
                                  size_t plane, const vector_affine *whole,
                                  const output_kind kind) {
    const vector_affine by = lanes == BNI_LANES ? *whole : load_affine(coef, plane, lanes, true);
    const void *x = bni_at(sheet->at.x, at, kind.type);
    const void *add = kind.residual ? bni_at(sheet->at.residual, at, kind.type) : NULL;
    void *y = bni_out_at(sheet->at.out, at, kind.type);
    fetch_row(x, NULL, y, vectors, BNI_LANES, &sheet->hints, stream, kind.type);
    normalize_row(x, add, y, vectors, lanes, &by, 0, kind, stream);
}

BNI_INLINE void normalize_planes(const bni_sheet *sheet, const bni_coef *coef,
                                 const output_kind kind) {
    for (size_t p = 0; p < sheet->form.planes; p++) {
        const size_t at = p * sheet->form.plane_stride;
        const size_t first = ordinary_of_plane(sheet, sheet->at.out, at, kind.type);
        const vector_affine by = load_affine(coef, p, BNI_LANES, true);
        BNI_WRITE_PIECE(normalize_vectors, sheet, at, first, false, kind.type, coef, p, &by, kind);
        BNI_WRITE_PIECE(normalize_vectors, sheet, at + first, sheet->form.cols - first, true,
                        kind.type, coef, p, &by, kind);
    }
}

BNI_INLINE void normalize_sheet(const bni_sheet *sheet, const bni_coef *coef,
                                const output_kind kind) {
    const bni_sheet own = *sheet;
    const bni_coef values = *coef;
    if (own.form.plane_stride != 0) {
        normalize_planes(&own, &values, kind);
    } else {
        BNI_WRITE_ROWS(normalize_tile, &own, own.at.out, own.form.y_stride, kind.type, &values,
                       kind);
    }
}

BNI_INLINE void normalize(const bni_sheet *sheet, const bni_coef *coef, bni_activation act,
                          const bni_type type) {
    bni_check_sheet(sheet, SIZE_MAX);
    if (!BNI_VARIANTS || act.curve > BNI_RELU) {
        normalize_sheet(sheet, coef, (output_kind){type, sheet->at.residual != NULL, act});
    } else if (sheet->at.residual == NULL) {
        if (act.curve == BNI_RELU) {
            normalize_sheet(sheet, coef, (output_kind){type, false, relu});
        } else {
            normalize_sheet(sheet, coef, (output_kind){type, false, linear});
        }
    } else {
        if (act.curve == BNI_RELU) {
            normalize_sheet(sheet, coef, (output_kind){type, true, relu});
        } else {
            normalize_sheet(sheet, coef, (output_kind){type, true, linear});
        }
    }
}

/* ---- The gradient of the input -------------------------------------------------------------- */

/* What turns the x and dy of a vector into dx. */
typedef struct vector_coef {
    vector_affine affine;
    vf slope, offset;
} vector_coef;

BNI_INLINE vector_coef load_vector_coef(const bni_coef *coef, size_t c, size_t lanes,
                                        const bool plane) {
    const vf zero = vf_set1(0.0f);
    const bool constant = coef->slope == NULL;
    return (vector_coef){load_affine(coef, c, lanes, plane),
                         constant ? zero : load_coef(coef->slope + c, lanes, plane),
                         constant ? zero : load_coef(coef->offset + c, lanes, plane)};
}

/* How the vectors of a row are gone through. Of constant statistics x is not looked at, but to
 * rebuild z; nor for the gradient itself in a row of weight 0, which is `direct`. The weight is a
 * plane's first factor where its columns have their own. */
typedef struct row_way {
    bool looks_at_x, direct;
    vf weight;
} row_way;

BNI_INLINE row_way way_of_row(const bni_form *form, size_t row, bool constant,
                              const bni_activation act) {
    const float weight = form->weight == NULL ? 1.0f : bni_weight(form, row);
    return (row_way){!constant || bni_rebuilds(act), constant || weight == 0.0f, vf_set1(weight)};
}

/* What is known of a call before: the activation, and whether there are neither weights nor constant
 * statistics nor a gradient of the residual. */
typedef struct input_kind {
    bni_type type;
    bni_activation act;
    bool plain;
} input_kind;

/* position: the second factors of the lanes' weights, or NULL. */
BNI_INLINE vf input_gradient(const bni_sheet *sheet, size_t in, size_t out, size_t lanes,
                             const float *position, const vector_coef *by, const row_way *way,
                             const input_kind kind) {
    const vf center = by->affine.center, scale = by->affine.scale;
    vf d = vf_set1(0.0f);
    if (kind.plain || way->looks_at_x) {
        d = vf_sub(load(bni_at(sheet->at.x, in, kind.type), lanes, center, kind.type), center);
    }
    vf g = gradient_at(&sheet->at, out, lanes, d, scale, by->affine.shift, kind.act, kind.type);
    if (!kind.plain && sheet->at.dresidual != NULL) {
        store(bni_out_at(sheet->at.dresidual, out, kind.type), lanes, g, false, kind.type);
    }
    if (kind.plain) {
        g = vf_add(vf_fma(d, by->slope, by->offset), g);
    } else if (!way->direct && position != NULL) { /* where the weight is 0, whatever x is, g */
        const vf zero = vf_set1(0.0f);
        const vf weight = vf_mul(way->weight, load_or_zero(position, lanes, BNI_F32));
        const vf through = vf_fma(vf_where_zero(weight, zero, d), by->slope, by->offset);
        g = vf_where_zero(weight, g, vf_fma(weight, through, g));
    } else if (!way->direct) {
        g = vf_fma(way->weight, vf_fma(d, by->slope, by->offset), g);
    }
    return vf_mul(scale, g);
}

/* Some vectors side by side, each with its own of the coefficients, or all with one. */
BNI_INLINE void grad_input_row(const bni_sheet *sheet, size_t in, size_t out, const size_t vectors,
                               size_t lanes, const float *position, const vector_coef *by,
                               const size_t each, const row_way *way, const input_kind kind,
                               const bool stream) {
    void *const dx = bni_out_at(sheet->at.dx, in, kind.type);
    vf row[BNI_TILE];
    fetch_row(bni_at(sheet->at.x, in, kind.type), bni_at(sheet->at.dy, out, kind.type), dx, vectors,
              lanes, &sheet->hints, stream, kind.type);
    BNI_EACH_VECTOR(v) {
        const size_t at = v * BNI_LANES;
        row[v] = input_gradient(sheet, in + at, out + at, lanes,
                                position == NULL ? NULL : position + at, &by[v * each], way, kind);
        store_next(dx, v, vectors, lanes, row, stream, kind.type);
    }
}

BNI_INLINE void grad_input_tile(const bni_sheet *sheet, band rows, size_t c, const size_t vectors,
                                size_t lanes, const bool stream, const bni_coef *coef,
                                const input_kind kind) {
    const bni_form *form = &sheet->form;
    vector_coef by[BNI_TILE];
    BNI_EACH_VECTOR(v) by[v] = load_vector_coef(coef, c + v * BNI_LANES, lanes, false);
    for (size_t r = rows.begin; r < rows.end; r++) {
        const row_way way = way_of_row(form, r, coef->slope == NULL, kind.act);
        grad_input_row(sheet, r * form->x_stride + c, r * form->y_stride + c, vectors, lanes, NULL,
                       by, 1, &way, kind, stream);
    }
}

BNI_INLINE void grad_input_vectors(const bni_sheet *sheet, size_t at, const size_t vectors,
                                   size_t lanes, const bool stream, const bni_coef *coef,
                                   size_t plane, const vector_coef *whole, const row_way *way,
                                   const input_kind kind) {
    const vector_coef by = lanes == BNI_LANES ? *whole : load_vector_coef(coef, plane, lanes, true);
    const bool columns = !kind.plain && sheet->form.position != NULL;
    const float *position =
        columns ? sheet->form.position + (at - plane * sheet->form.plane_stride) : NULL;
    grad_input_row(sheet, at, at, vectors, lanes, position, &by, 0, way, kind, stream);
}

BNI_INLINE void grad_input_planes(const bni_sheet *sheet, const bni_coef *coef,
                                  const input_kind kind) {
    const row_way way = way_of_row(&sheet->form, 0, coef->slope == NULL, kind.act);
    for (size_t p = 0; p < sheet->form.planes; p++) {
        const size_t at = p * sheet->form.plane_stride;
        const size_t first = ordinary_of_plane(sheet, sheet->at.dx, at, kind.type);
        const vector_coef by = load_vector_coef(coef, p, BNI_LANES, true);
        BNI_WRITE_PIECE(grad_input_vectors, sheet, at, first, false, kind.type, coef, p, &by, &way,
                        kind);
        BNI_WRITE_PIECE(grad_input_vectors, sheet, at + first, sheet->form.cols - first, true,
                        kind.type, coef, p, &by, &way, kind);
    }
}

BNI_INLINE void grad_input_sheet(const bni_sheet *sheet, const bni_coef *coef,
                                 const input_kind kind) {
    const bni_sheet own = *sheet;
    const bni_coef values = *coef;
    if (own.form.plane_stride != 0) {
        grad_input_planes(&own, &values, kind);
    } else {
        BNI_WRITE_ROWS(grad_input_tile, &own, own.at.dx, own.form.x_stride, kind.type, &values,
                       kind);
    }
}

BNI_INLINE void grad_input(const bni_sheet *sheet, const bni_coef *coef, bni_activation act,
                           const bni_type type) {
    bni_check_sheet(sheet, SIZE_MAX);
    const bool plain =
        sheet->form.weight == NULL && coef->slope != NULL && sheet->at.dresidual == NULL;
    if (!BNI_VARIANTS || !plain || act.curve > BNI_RELU) {
        grad_input_sheet(sheet, coef, (input_kind){type, act, false});
    } else if (act.curve == BNI_LINEAR) {
        grad_input_sheet(sheet, coef, (input_kind){type, linear, true});
    } else if (act.by_y) {
        grad_input_sheet(sheet, coef, (input_kind){type, relu_by_y, true});
    } else {
        grad_input_sheet(sheet, coef, (input_kind){type, relu, true});
    }
}

/* ---- Conversions ---------------------------------------------------------------------------- */

BNI_INLINE void to_floats(size_t count, const void *from, float *to, const bni_type type) {
    for (size_t i = 0; i < count; i += BNI_LANES) {
        const size_t lanes = least(count - i, BNI_LANES);
        const vf floats = load_or_zero(bni_at(from, i, type), lanes, type);
        store(to + i, lanes, vf_quiet(floats), false, BNI_F32);
    }
}

BNI_INLINE void from_floats(size_t count, const float *from, void *to, const bni_type type) {
    size_t i = 0;
    for (; i + 2 * BNI_LANES <= count; i += 2 * BNI_LANES) {
        const vf both[2] = {vf_load(from + i), vf_load(from + i + BNI_LANES)};
        store_next(bni_out_at(to, i, type), 1, 2, BNI_LANES, both, false, type);
    }
    for (; i < count; i += BNI_LANES) {
        const size_t lanes = least(count - i, BNI_LANES);
        store(bni_out_at(to, i, type), lanes, load_or_zero(from + i, lanes, BNI_F32), false, type);
    }
}

/* ---- Tables --------------------------------------------------------------------------------- */

#define BNI_DEFINE_KERNELS(name, type)                                                             \
    static void moments_##name(const bni_sheet *sheet, const float *pivot, double *s1,             \
                               double *s2) {                                                       \
        moments(sheet, pivot, s1, s2, type);                                                       \
    }                                                                                              \
    static void normalize_##name(const bni_sheet *sheet, const bni_coef *coef,                     \
                                 bni_activation act) {                                             \
        normalize(sheet, coef, act, type);                                                         \
    }                                                                                              \
    static void grad_sums_##name(const bni_sheet *sheet, const bni_coef *coef, bni_activation act, \
                                 double *s1, double *s2) {                                         \
        grad_sums(sheet, coef, act, s1, s2, type);                                                 \
    }                                                                                              \
    static void grad_input_##name(const bni_sheet *sheet, const bni_coef *coef,                    \
                                  bni_activation act) {                                            \
        grad_input(sheet, coef, act, type);                                                        \
    }

#define BNI_DEFINE_CONVERSIONS(name, type)                                                         \
    static void to_floats_##name(size_t count, const void *from, float *to) {                      \
        to_floats(count, from, to, type);                                                          \
    }                                                                                              \
    static void from_floats_##name(size_t count, const float *from, void *to) {                    \
        from_floats(count, from, to, type);                                                        \
    }

#define BNI_KERNELS_OF(name)                                                                       \
    .moments = moments_##name, .weigh = weigh, .normalize = normalize_##name,                      \
    .grad_sums = grad_sums_##name, .grad_input = grad_input_##name

#define BNI_CONVERSIONS_OF(name) .to_floats = to_floats_##name, .from_floats = from_floats_##name

BNI_DEFINE_KERNELS(f32, BNI_F32)
BNI_DEFINE_KERNELS(bf16, BNI_BF16)
BNI_DEFINE_KERNELS(f16, BNI_F16)
BNI_DEFINE_CONVERSIONS(bf16, BNI_BF16)
BNI_DEFINE_CONVERSIONS(f16, BNI_F16)

#define BNI_DATA_KERNELS                                                                           \
    {                                                                                              \
        [BNI_F32] = {BNI_KERNELS_OF(f32)},                                                         \
        [BNI_BF16] = {BNI_KERNELS_OF(bf16), BNI_CONVERSIONS_OF(bf16)}, [BNI_F16] = {               \
            BNI_KERNELS_OF(f16),                                                                   \
            BNI_CONVERSIONS_OF(f16)                                                                \
        }                                                                                          \
    }
