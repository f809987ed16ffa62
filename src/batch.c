/* See batch.h. */
#include "batch.h"
#include "parallel.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Elements of a sheet, 64 KiB: what is asked of a kernel at once. */
#define SHEET_ELEMENTS ((size_t)16384)

/* A kernel goes down a tile's columns through the rows of a band before it turns to the next tile.
 * Where sums are formed the band is the sheet, which L2 holds while the tiles go over it: with rows
 * of 1024 columns, 16 of them cost 1.58 ns a vector of 16 floats where 4 cost 1.76 and 1
 * costs 3.24.
 *
 * Passes that write take 8 KiB: with rows of 4 KiB a load meets the address that was stored to in
 * the row before in its low 12 bits, and waits for it. 2 rows cost 1.67 ns, 8 cost 3.00; narrower
 * rows do not care. And 4 rows where stores are streamed: the write buffers of a core are few, and
 * a line that leaves one before it is full costs twice (65536 x 256: 7.8 ms with 4 rows, 12.4 with
 * 8). Rows of one tile, which are planes, lie one behind the other and need no such care. */
#define WRITE_ELEMENTS ((size_t)2048)
#define STREAM_ROWS    ((size_t)4)

/* Batches of at least so many elements, 4 MiB, are fetched ahead of the kernels: rows further down,
 * so many elements (64 KiB) away. Below it the data is in L2 or the processor keeps up by itself.
 */
#define FETCH_FROM  1048576.0
#define FETCH_AHEAD ((size_t)16384)

/* Outputs of at least so many elements, 32 MiB, are written past the caches: beside as much input
 * they would leave them before anyone reads them, and take the input with them. */
#define STREAM_ELEMENTS 8388608.0

/* Columns that a plane is cut into: a tile of the widest kernels, half of it where sums are formed,
 * so that a plane is read from its first element to its last. */
#define PLANE_WIDTH ((size_t)64)

/* Planes at least this large are taken one by one (BNI_PLANES): 1 KiB of floats, where the part
 * behind the last full row of PLANE_WIDTH is at most a fifth. */
#define PLANE_MIN ((size_t)256)

/* Rows narrower than this are folded: at 256 columns the part vector at a row's end costs at most
 * 1 of 17. */
#define FOLD_BELOW ((size_t)256)

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t divide_up(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

/* Samples side by side so that a row is whole vectors, and whole tiles where they fit; 1: no fold.
 */
static size_t samples_to_fold(size_t features, size_t n) {
    if (features >= FOLD_BELOW || features % PLANE_WIDTH == 0) {
        return 1;
    }
    for (size_t multiple = PLANE_WIDTH; multiple >= BNI_PAD; multiple /= 2) {
        size_t samples = 1;
        while (samples * features % multiple != 0) {
            samples++;
        }
        if (samples * features <= BNI_PANEL && samples <= n) {
            return samples;
        }
    }
    return 1;
}

static void choose_layout(bni_batch *batch, bool dense) {
    batch->outer = 1;
    batch->inner = 1;
    batch->units = batch->n;
    batch->layout = BNI_ROWS;
    batch->group_features = smaller(batch->features, BNI_PANEL);
    if (batch->spatial == 1) {
        if (dense && batch->weight == NULL) {
            batch->outer = samples_to_fold(batch->features, batch->n);
        }
        if (batch->outer > 1) {
            batch->layout = BNI_FOLDED;
            batch->units = divide_up(batch->n, batch->outer);
        }
    } else if (batch->spatial < PLANE_MIN) {
        batch->inner = batch->spatial;
        batch->group_features = smaller(batch->features, BNI_PANEL / batch->spatial);
    } else {
        batch->layout = BNI_PLANES;
        batch->inner = PLANE_WIDTH;
        batch->group_features = 1;
    }
    batch->groups = divide_up(batch->features, batch->group_features);
}

/* a * b, or false where it exceeds limit. */
static bool multiply(size_t a, size_t b, size_t limit, size_t *product) {
    if (b != 0 && a > limit / b) {
        return false;
    }
    *product = a * b;
    return true;
}

/* A stride: the row if it is 0, at least the row, and n of them within what a pointer can span. */
static bool make_stride(size_t given, size_t row, size_t n, size_t *stride) {
    const size_t limit = (size_t)PTRDIFF_MAX / sizeof(float);
    size_t all;
    *stride = given == 0 ? row : given;
    return *stride >= row && multiply(n, *stride, limit, &all);
}

static bn_status sum_weights(const float *weight, size_t n, double *sum) {
    double total = 0.0;
    for (size_t i = 0; i < n; i++) {
        const float w = bni_load_float(weight + i);
        if (!(w >= 0.0f && w <= FLT_MAX)) {
            return BN_STATUS_BAD_OPTION;
        }
        total += (double)w;
    }
    *sum = total;
    return BN_STATUS_OK;
}

bn_status bni_batch_make(bni_batch *batch, const bn_batch *from, size_t features,
                         bni_strides strides) {
    if (from->dtype == BN_DTYPE_BF16 || from->dtype == BN_DTYPE_F16) {
        return BN_STATUS_UNSUPPORTED;
    }
    if (from->dtype != BN_DTYPE_F32) {
        return BN_STATUS_BAD_OPTION;
    }
    *batch = (bni_batch){.n = from->n,
                         .features = features,
                         .spatial = from->spatial == 0 ? 1 : from->spatial,
                         .weight = from->sample_weight};
    const size_t y_stride = strides == BNI_STRIDES_BOTH ? from->y_stride : 0;
    size_t row;
    if (!multiply(features, batch->spatial, (size_t)PTRDIFF_MAX / sizeof(float), &row) ||
        !make_stride(from->x_stride, row, batch->n, &batch->x_stride) ||
        !make_stride(y_stride, row, batch->n, &batch->y_stride)) {
        return BN_STATUS_BAD_SHAPE;
    }
    if (batch->n == 0) {
        return BN_STATUS_OK;
    }
    double weights = (double)batch->n;
    if (batch->weight != NULL) {
        const bn_status status = sum_weights(batch->weight, batch->n, &weights);
        if (status != BN_STATUS_OK) {
            return status;
        }
    }
    batch->values = weights * (double)batch->spatial;
    batch->elements = (double)batch->n * (double)row;
    choose_layout(batch, batch->x_stride == row && batch->y_stride == row);
    bni_cut(batch);
    return BN_STATUS_OK;
}

/* ---- Overlap -------------------------------------------------------------------------------- */

static bni_region region(const void *start, size_t rows, size_t row, size_t stride) {
    return (bni_region){start, rows, row * sizeof(float), stride * sizeof(float)};
}

bni_region bni_region_of_x(const bni_batch *batch, const void *x) {
    return region(x, batch->n, batch->features * batch->spatial, batch->x_stride);
}

bni_region bni_region_of_y(const bni_batch *batch, const void *y) {
    return region(y, batch->n, batch->features * batch->spatial, batch->y_stride);
}

bni_region bni_region_of_weights(const bni_batch *batch) {
    return region(batch->weight, 1, batch->n, batch->n);
}

bni_region bni_region_of_bytes(const void *start, size_t bytes) {
    return (bni_region){start, 1, bytes, bytes};
}

/* Both go upward, so one step through the rows of both meets every pair that can touch. It is only
 * taken where the regions' spans do touch: strided slices of one buffer. */
static bool rows_touch(bni_region a, bni_region b) {
    uintptr_t a_row = (uintptr_t)a.start;
    uintptr_t b_row = (uintptr_t)b.start;
    size_t i = 0, j = 0;
    while (i < a.rows && j < b.rows) {
        if (a_row + a.row_bytes <= b_row) {
            a_row += a.stride_bytes;
            i++;
        } else if (b_row + b.row_bytes <= a_row) {
            b_row += b.stride_bytes;
            j++;
        } else {
            return true;
        }
    }
    return false;
}

static uintptr_t region_end(bni_region a) {
    return (uintptr_t)a.start + (a.rows - 1) * a.stride_bytes + a.row_bytes;
}

static bool is_empty(bni_region a) {
    return a.start == NULL || a.rows == 0 || a.row_bytes == 0;
}

bool bni_overlap(bni_region a, bni_region b, bni_sharing allowed) {
    if (is_empty(a) || is_empty(b)) {
        return false;
    }
    if (region_end(a) <= (uintptr_t)b.start || region_end(b) <= (uintptr_t)a.start) {
        return false;
    }
    const bool same = a.start == b.start && a.rows == b.rows && a.row_bytes == b.row_bytes &&
                      (a.stride_bytes == b.stride_bytes || a.rows == 1);
    if (same) {
        return allowed == BNI_APART;
    }
    return rows_touch(a, b);
}

bool bni_any_overlap(const bni_region *regions, const unsigned *same, size_t count) {
    for (size_t i = 0; i < count; i++) {
        for (size_t j = i + 1; j < count; j++) {
            const bni_sharing allowed = (same[i] >> j & 1u) != 0 ? BNI_SAME_OR_APART : BNI_APART;
            if (bni_overlap(regions[i], regions[j], allowed)) {
                return true;
            }
        }
    }
    return false;
}

/* ---- Sheets --------------------------------------------------------------------------------- */

size_t bni_group_size(const bni_batch *batch, size_t group) {
    return smaller(batch->group_features, batch->features - bni_group_first(batch, group));
}

bni_walk bni_walk_begin(const bni_batch *batch, const bni_sheet *data, bni_pass pass, size_t group,
                        size_t chunk) {
    const size_t begin = chunk * batch->chunk_units;
    bni_sheet buffers = *data;
    buffers.stream = batch->elements >= STREAM_ELEMENTS;
    return (bni_walk){.batch = batch,
                      .data = buffers,
                      .pass = pass,
                      .group = group,
                      .unit = begin,
                      .end = smaller(begin + batch->chunk_units, batch->units)};
}

/* Rows so that there are so many elements, or few more. */
static size_t rows_of(size_t elements, size_t cols) {
    return divide_up(elements, cols);
}

/* The rows of a sheet whose columns are known, of so many that are left, and how to go over them.
 */
static void set_rows(const bni_walk *walk, size_t left, bni_sheet *sheet) {
    const size_t cols = sheet->cols;
    sheet->rows = smaller(left, smaller(rows_of(SHEET_ELEMENTS, cols), BNI_SHEET_ROWS));
    sheet->band = sheet->rows;
    if (walk->pass == BNI_WRITES && cols > PLANE_WIDTH) {
        sheet->band = walk->data.stream ? STREAM_ROWS : rows_of(WRITE_ELEMENTS, cols);
    }
    sheet->ahead = rows_of(FETCH_AHEAD, cols);
    if (walk->batch->elements < FETCH_FROM || left < sheet->rows + sheet->ahead) {
        sheet->ahead = 0;
    }
}

static const float *input_at(const float *start, size_t offset) {
    return start == NULL ? NULL : start + offset;
}

static float *output_at(float *start, size_t offset) {
    return start == NULL ? NULL : start + offset;
}

/* A sheet whose first element is at these offsets from the buffers' beginnings. */
static bni_sheet sheet_at(const bni_sheet *data, size_t x, size_t y) {
    return (bni_sheet){.stream = data->stream,
                       .x = input_at(data->x, x),
                       .dx = output_at(data->dx, x),
                       .residual = input_at(data->residual, y),
                       .out = output_at(data->out, y),
                       .y = input_at(data->y, y),
                       .dy = input_at(data->dy, y),
                       .dresidual = output_at(data->dresidual, y)};
}

/* The next rows of a run of elements without gaps; the elements behind the last full row are a row
 * of their own. Returns whether the run ends with them. */
static bool next_of_run(bni_walk *walk, size_t x, size_t y, size_t length, size_t width,
                        bni_sheet *sheet) {
    const size_t left = length - walk->done;
    *sheet = sheet_at(&walk->data, x + walk->done, y + walk->done);
    sheet->cols = smaller(left, width);
    set_rows(walk, left / sheet->cols, sheet);
    sheet->x_stride = width;
    sheet->y_stride = width;
    walk->done += sheet->rows * sheet->cols;
    return walk->done == length;
}

bool bni_walk_next(bni_walk *walk, bni_sheet *sheet) {
    const bni_batch *batch = walk->batch;
    if (walk->unit == walk->end) {
        return false;
    }
    const size_t column = bni_group_first(batch, walk->group) * batch->spatial;
    const size_t x = walk->unit * batch->x_stride + column;
    const size_t y = walk->unit * batch->y_stride + column;
    switch (batch->layout) {
    case BNI_ROWS:
        *sheet = sheet_at(&walk->data, x, y);
        sheet->cols = bni_group_size(batch, walk->group) * batch->inner;
        set_rows(walk, walk->end - walk->unit, sheet);
        sheet->x_stride = batch->x_stride;
        sheet->y_stride = batch->y_stride;
        sheet->weight = input_at(batch->weight, walk->unit);
        sheet->weight_step = 1;
        walk->unit += sheet->rows;
        return true;
    case BNI_FOLDED: {
        /* The chunk is one run, from its first unit to its last, or to the last sample. */
        const size_t width = batch->outer * batch->features;
        const size_t begin = walk->unit * width;
        const size_t end = smaller(walk->end * width, batch->n * batch->features);
        if (next_of_run(walk, begin, begin, end - begin, width, sheet)) {
            walk->unit = walk->end;
        }
        return true;
    }
    default: {
        const float *weight = input_at(batch->weight, walk->unit);
        const size_t width = walk->pass == BNI_READS ? PLANE_WIDTH / 2 : PLANE_WIDTH;
        if (next_of_run(walk, x, y, batch->spatial, width, sheet)) {
            walk->unit++;
            walk->done = 0;
        }
        sheet->weight = weight;
        sheet->weight_step = 0;
        return true;
    }
    }
}

const float *bni_expand(const bni_batch *batch, size_t features, const float *values,
                        float columns[BNI_PANEL]) {
    const size_t inner = batch->inner;
    const size_t period = features * inner;
    if (values == NULL || period * batch->outer == features) {
        return values;
    }
    for (size_t f = 0; f < features; f++) {
        for (size_t i = 0; i < inner; i++) {
            columns[f * inner + i] = values[f];
        }
    }
    for (size_t o = 1; o < batch->outer; o++) {
        memcpy(columns + o * period, columns, period * sizeof *columns);
    }
    for (size_t c = batch->outer * period; c < bni_padded(batch->outer * period); c++) {
        columns[c] = 0.0f; /* kernels load whole vectors */
    }
    return columns;
}
