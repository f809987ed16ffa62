/* See shape.h. */
#include "shape.h"

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
        if (!bni_not_negative(w)) {
            return BN_STATUS_BAD_OPTION;
        }
        total += (double)w;
    }
    *sum = total;
    return BN_STATUS_OK;
}

bn_status bni_shape_make(bni_shape *shape, const bn_batch *from, size_t features,
                         bni_strides strides) {
    if (from->dtype == BN_DTYPE_BF16 || from->dtype == BN_DTYPE_F16) {
        return BN_STATUS_UNSUPPORTED;
    }
    if (from->dtype != BN_DTYPE_F32) {
        return BN_STATUS_BAD_OPTION;
    }
    *shape = (bni_shape){.n = from->n,
                         .features = features,
                         .spatial = from->spatial == 0 ? 1 : from->spatial,
                         .weight = from->sample_weight};
    const size_t y_stride = strides == BNI_STRIDES_BOTH ? from->y_stride : 0;
    size_t row;
    if (!multiply(features, shape->spatial, (size_t)PTRDIFF_MAX / sizeof(float), &row) ||
        !make_stride(from->x_stride, row, shape->n, &shape->x_stride) ||
        !make_stride(y_stride, row, shape->n, &shape->y_stride)) {
        return BN_STATUS_BAD_SHAPE;
    }
    if (shape->n == 0) {
        return BN_STATUS_OK;
    }
    double weights = (double)shape->n;
    if (shape->weight != NULL) {
        const bn_status status = sum_weights(shape->weight, shape->n, &weights);
        if (status != BN_STATUS_OK) {
            return status;
        }
    }
    shape->values = weights * (double)shape->spatial;
    shape->elements = (double)shape->n * (double)row;
    return BN_STATUS_OK;
}

/* ---- Overlap -------------------------------------------------------------------------------- */

static bni_region region(const void *start, size_t rows, size_t row, size_t stride) {
    return (bni_region){start, rows, row * sizeof(float), stride * sizeof(float)};
}

bni_region bni_region_of_x(const bni_shape *shape, const void *x) {
    return region(x, shape->n, shape->features * shape->spatial, shape->x_stride);
}

bni_region bni_region_of_y(const bni_shape *shape, const void *y) {
    return region(y, shape->n, shape->features * shape->spatial, shape->y_stride);
}

bni_region bni_region_of_weights(const bni_shape *shape) {
    return region(shape->weight, 1, shape->n, shape->n);
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

/* Whether two regions whose spans touch overlap in a way that is not allowed. */
static bool overlap(bni_region a, bni_region b, bool may_be_same) {
    const bool same = a.start == b.start && a.rows == b.rows && a.row_bytes == b.row_bytes &&
                      (a.stride_bytes == b.stride_bytes || a.rows == 1);
    return same ? !may_be_same : rows_touch(a, b);
}

/* Nothing where there is no region. */
static bni_span span_of(bni_region a) {
    const uintptr_t begin = (uintptr_t)a.start;
    if (a.start == NULL || a.rows == 0 || a.row_bytes == 0) {
        return (bni_span){0, 0};
    }
    return (bni_span){begin, begin + (a.rows - 1) * a.stride_bytes + a.row_bytes};
}

bool bni_touch(const bni_region *regions, size_t count, const bni_span *arrays,
               size_t array_count) {
    for (size_t r = 0; r < count; r++) {
        const bni_span span = span_of(regions[r]);
        for (size_t a = 0; a < array_count; a++) {
            if (span.begin < arrays[a].end && arrays[a].begin < span.end) {
                const size_t bytes = arrays[a].end - arrays[a].begin;
                const void *start = (const void *)arrays[a].begin;
                if (rows_touch(regions[r], bni_region_of_bytes(start, bytes))) {
                    return true;
                }
            }
        }
    }
    return false;
}

bool bni_any_overlap(const bni_region *regions, const unsigned *same, size_t count) {
    bni_span spans[BNI_MOST_REGIONS];
    for (size_t j = 0; j < count; j++) {
        spans[j] = span_of(regions[j]);
        for (size_t i = 0; regions[j].start != NULL && i < j; i++) {
            if (spans[i].begin < spans[j].end && spans[j].begin < spans[i].end &&
                overlap(regions[i], regions[j], (same[i] >> j & 1u) != 0)) {
                return true;
            }
        }
    }
    return false;
}
