/* See shape.h. */
#include "shape.h"

#include <float.h>
#include <string.h>

/* From so many values on, a million random features have y within 3.7 units by sums in runs. */
#define FEW_VALUES 24.0

/* a * b, or false where it exceeds limit. */
static bool multiply(size_t a, size_t b, size_t limit, size_t *product) {
    if (b != 0 && a > limit / b) {
        return false;
    }
    *product = a * b;
    return true;
}

/* A stride: the row if it is 0, at least the row, and n of them within a limit. */
static bool make_stride(size_t given, size_t row, size_t n, size_t limit, size_t *stride) {
    size_t all;
    *stride = given == 0 ? row : given;
    return *stride >= row && multiply(n, *stride, limit, &all);
}

/* Whether all are finite and at least 0, and the greatest: as bits, which ascend with values. */
static bool find_greatest(const float *weight, size_t count, float *greatest) {
    uint32_t most = 0;
    for (size_t k = 0; k < count; k++) {
        const uint32_t bits = bni_float_bits(bni_load_float(weight + k));
        const uint32_t magnitude =
            bits == 0x80000000u ? 0 : bits; /* of -0; no other sign is good */
        most = magnitude > most ? magnitude : most;
    }
    memcpy(greatest, &most, sizeof most);
    return most < BNI_INF_BITS;
}

/* The sum of products that are rounded to float, as they are wherever they weigh something. Some side
 * by side, so that not every addition waits for the one before. */
static double sum_products(float factor, const float *weight, size_t count) {
    enum { LANES = 8 };
    double lane[LANES] = {0.0}, sum = 0.0;
    const size_t whole = count / LANES * LANES;
    for (size_t k = 0; k < whole; k += LANES) {
        for (size_t l = 0; l < LANES; l++) {
            lane[l] += (double)(factor * bni_load_float(weight + k + l));
        }
    }
    for (size_t k = whole; k < count; k++) {
        sum += (double)(factor * bni_load_float(weight + k));
    }
    for (size_t l = 0; l < LANES; l++) {
        sum += lane[l];
    }
    return sum;
}

/* The sum of the weights of all positions. */
static bn_status sum_weights(const bni_shape *shape, double *sum) {
    double total = 0.0;
    for (size_t i = 0; i < shape->n; i++) {
        const float w = bni_load_float(shape->weight + i * shape->weight_step);
        if (!bni_not_negative(w)) {
            return BN_STATUS_BAD_OPTION;
        }
        if (shape->position == NULL) {
            total += (double)w;
            continue;
        }
        const float *position = shape->position + i * shape->spatial;
        float greatest;
        if (!find_greatest(position, shape->spatial, &greatest) ||
            (double)w * (double)greatest > (double)FLT_MAX) {
            return BN_STATUS_BAD_OPTION;
        }
        total += sum_products(w, position, shape->spatial);
    }
    *sum = shape->position == NULL ? total * (double)shape->spatial : total;
    return BN_STATUS_OK;
}

/* Weights of positions are a second factor: the first is then 1, where no samples have theirs, or
 * they are themselves where there is but one position. */
static void set_first_factor(bni_shape *shape) {
    static const float one = 1.0f;
    if (shape->position != NULL && shape->weight == NULL) {
        const bool alone = shape->spatial == 1;
        shape->weight = alone ? shape->position : &one;
        shape->weight_step = alone;
        shape->position = alone ? NULL : shape->position;
    }
}

static bool type_of(bn_dtype dtype, bni_type *type) {
    switch (dtype) {
    case BN_DTYPE_F32:
        *type = BNI_F32;
        return true;
    case BN_DTYPE_BF16:
        *type = BNI_BF16;
        return true;
    case BN_DTYPE_F16:
        *type = BNI_F16;
        return true;
    default:
        return false;
    }
}

bn_status bni_shape_make(bni_shape *shape, const bn_batch *from, size_t features,
                         bni_strides strides) {
    bni_type type;
    if (!type_of(from->dtype, &type)) {
        return BN_STATUS_BAD_OPTION;
    }
    *shape = (bni_shape){.n = from->n,
                         .features = features,
                         .spatial = from->spatial == 0 ? 1 : from->spatial,
                         .type = type,
                         .weight = from->sample_weight,
                         .weight_step = 1,
                         .position = from->position_weight};
    const size_t y_stride = strides == BNI_STRIDES_BOTH ? from->y_stride : 0;
    const size_t most = (size_t)PTRDIFF_MAX / bni_bytes_of(type); /* what a pointer can span */
    size_t row;
    if (!multiply(features, shape->spatial, most, &row) ||
        !make_stride(from->x_stride, row, shape->n, most, &shape->x_stride) ||
        !make_stride(y_stride, row, shape->n, most, &shape->y_stride)) {
        return BN_STATUS_BAD_SHAPE;
    }
    if (strides == BNI_STRIDES_X && from->y_stride >= row) {
        shape->y_stride = from->y_stride; /* so that sums are cut as forward's */
    }
    if (shape->n == 0) {
        return BN_STATUS_OK;
    }
    set_first_factor(shape);
    const double count = (double)shape->n * (double)shape->spatial;
    shape->values = count;
    shape->elements = (double)shape->n * (double)row;
    const bn_status weighed =
        shape->weight == NULL ? BN_STATUS_OK : sum_weights(shape, &shape->values);
    shape->few = count < FEW_VALUES || shape->values < FEW_VALUES;
    return weighed;
}

/* ---- Overlap -------------------------------------------------------------------------------- */

static bni_region region(const void *start, size_t rows, size_t row, size_t stride, bni_type type) {
    const size_t bytes = bni_bytes_of(type);
    return (bni_region){start, rows, row * bytes, stride * bytes};
}

bni_region bni_region_of_x(const bni_shape *shape, const void *x) {
    return region(x, shape->n, shape->features * shape->spatial, shape->x_stride, shape->type);
}

bni_region bni_region_of_y(const bni_shape *shape, const void *y) {
    return region(y, shape->n, shape->features * shape->spatial, shape->y_stride, shape->type);
}

bni_region bni_region_of_weights(const bni_shape *shape) {
    return region(shape->weight_step == 0 ? NULL : shape->weight, shape->n, 1, 1, BNI_F32);
}

bni_region bni_region_of_positions(const bni_shape *shape) {
    return region(shape->position, shape->n, shape->spatial, shape->spatial, BNI_F32);
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

static bool touches_array(bni_region region, bni_span span, const bni_arrays *arrays) {
    for (size_t a = 0; a < arrays->count; a++) {
        const bni_span array = arrays->spans[a];
        if (span.begin < array.end && array.begin < span.end) {
            const size_t bytes = array.end - array.begin;
            if (rows_touch(region, bni_region_of_bytes((const void *)array.begin, bytes))) {
                return true;
            }
        }
    }
    return false;
}

bool bni_any_overlap(const bni_region *regions, const unsigned *same, size_t count,
                     const bni_arrays *arrays) {
    bni_span spans[BNI_MOST_REGIONS];
    BNI_ASSERT(count <= BNI_MOST_REGIONS);
    for (size_t j = 0; j < count; j++) {
        spans[j] = span_of(regions[j]);
        if (regions[j].start == NULL) {
            continue;
        }
        if (touches_array(regions[j], spans[j], arrays)) {
            return true;
        }
        for (size_t i = 0; i < j; i++) {
            if (spans[i].begin < spans[j].end && spans[j].begin < spans[i].end &&
                overlap(regions[i], regions[j], (same[i] >> j & 1u) != 0)) {
                return true;
            }
        }
    }
    return false;
}
