/* See moments.h; and the exported calls on bn_moments. */
#include "moments.h"
#include "layer.h"

#include <stdlib.h>
#include <string.h>

/* Rows of sheets that are summed up about one pivot before they become moments and are merged. More
 * of them make the merge cheaper, fewer keep the sums short: 256 rows of at most BNI_PANEL columns
 * are 2^17 values, which is what the bound at merge_block stands on. */
#define BLOCK_ROWS BNI_SHEET_ROWS

/* ---- Moments of a task ---------------------------------------------------------------------- */

/* The values of each feature at the first place that it has in a row. */
static void gather(const bni_cut *cut, const bni_sheet *sheet, size_t row, size_t features,
                   float *values) {
    const float *x = sheet->x + row * sheet->x_stride;
    if (cut->shape->spatial == 1) {
        memcpy(values, x, features * sizeof *values);
        return;
    }
    for (size_t f = 0; f < features; f++) {
        values[f] = bni_load_float(x + f * cut->shape->spatial);
    }
}

/* The part of a chunk that is summed up about one pivot: sheets from the walk's present one on. */
typedef struct block {
    bni_walk walk;
    bni_sheet sheet;
    bool more;   /* there is a sheet */
    size_t rows; /* of the sheets before */
} block;

/* Goes to the next sheet. Returns whether it is of the same block. */
static bool next_in_block(block *b) {
    b->rows += b->sheet.rows;
    b->more = bni_walk_next(&b->walk, &b->sheet);
    return b->more && b->rows + b->sheet.rows <= BLOCK_ROWS;
}

/* Writes the pivot of a block: for each feature a value of the block, of a row with the greatest
 * weight in it. Its weight is then at least the average of n rows, and with W the block's weight, m
 * its mean and M2 its sum of squares about it,
 *
 *     sum of w * (x - p)^2 = M2 + W * (p - m)^2 <= M2 * (1 + W / w_p) <= M2 * (1 + n)
 *
 * Returns whether there is a row with a weight at all. */
static bool set_pivot(block b, size_t features, float *pivot) {
    const bni_cut *cut = b.walk.cut;
    float greatest = 0.0f;
    if (cut->shape->weight == NULL) {
        gather(cut, &b.sheet, 0, features, pivot);
        return true;
    }
    memset(pivot, 0, features * sizeof *pivot);
    do {
        for (size_t r = 0; r < b.sheet.rows; r++) {
            const float weight = bni_weight(&b.sheet, r);
            if (weight > greatest) {
                greatest = weight;
                gather(cut, &b.sheet, r, features, pivot);
            }
        }
    } while (next_in_block(&b));
    return greatest > 0.0f;
}

/* The sum of the weights in a sheet, for each of so many features. */
static double sheet_weight(const bni_cut *cut, const bni_sheet *sheet, size_t features) {
    const size_t own =
        cut->layout == BNI_PLANES || cut->layout == BNI_FEW ? sheet->cols : sheet->cols / features;
    double weights = (double)sheet->rows;
    if (sheet->weight != NULL) {
        weights = 0.0;
        for (size_t r = 0; r < sheet->rows; r++) {
            weights += (double)bni_weight(sheet, r);
        }
    }
    weights *= (double)own;
    if (sheet->tail != 0) {
        weights += (double)sheet->tail *
                   (sheet->weight == NULL ? 1.0 : (double)bni_weight(sheet, sheet->rows));
    }
    return weights;
}

/* Block by block: the sums about a pivot within the block's data, then their merge. A column that
 * is constant has deviations from its pivot that are exactly zero. */
void bni_task_moments(const bn_kernels *kernels, const bni_cut *cut, const float *x, bni_task task,
                      bni_part *part) {
    const size_t features = bni_group_size(cut, task.group);
    const size_t width = features * cut->inner * cut->outer;
    float pivot[BNI_PANEL], columns[BNI_PANEL];
    double s1[BNI_PANEL], s2[BNI_PANEL];
    const bni_sheet data = {.x = x};
    block b = {.walk = bni_walk_begin(cut, kernels, &data, BNI_READS, task)};
    b.more = bni_walk_next(&b.walk, &b.sheet);
    bni_sums sums = {0.0, part->one, part->two};
    memset(sums.mean, 0, features * sizeof *sums.mean);
    memset(sums.m2, 0, features * sizeof *sums.m2);
    while (b.more) {
        b.rows = 0;
        const bool weighs = set_pivot(b, features, pivot);
        const float *column_pivot = bni_expand(cut, features, pivot, columns);
        memset(s1, 0, width * sizeof *s1);
        memset(s2, 0, width * sizeof *s2);
        double count = 0.0;
        do {
            kernels->moments(&b.sheet, column_pivot, s1, s2);
            count += sheet_weight(cut, &b.sheet, features);
        } while (next_in_block(&b));
        if (weighs) {
            kernels->fold(s1, cut->outer, features, cut->inner);
            kernels->fold(s2, cut->outer, features, cut->inner);
            kernels->merge_block(&sums, features, count, pivot, s1, s2);
        }
    }
    part->count = sums.count;
}

void bni_merge_moments(const bn_kernels *kernels, bni_part *into, const bni_part *part,
                       size_t features) {
    const bni_sums other = {part->count, part->one, part->two};
    bni_sums sums = {into->count, into->one, into->two};
    kernels->merge(&sums, &other, features);
    into->count = sums.count;
}

/* ---- bn_moments ----------------------------------------------------------------------------- */

bn_status bn_moments_init(bn_moments *moments, size_t num_features) {
    if (moments == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (num_features == 0 || num_features > BNI_MOST_FEATURES) {
        return BN_STATUS_BAD_SHAPE;
    }
    /* mean and m2; those of a batch that is being added; those of the chunks. */
    const size_t padded = bni_padded(num_features);
    const size_t bytes = (4 * padded + bni_two_pass_scratch(num_features)) * sizeof(double);
    double *arrays = malloc(bytes);
    if (arrays == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    memset(arrays, 0, 2 * padded * sizeof *arrays);
    *moments = (bn_moments){.num_features = num_features,
                            .mean = arrays,
                            .m2 = arrays + padded,
                            .internal = {.owned = arrays,
                                         .owned_bytes = bytes,
                                         .kernels = bni_kernels_select(),
                                         .tuning = &bni_tuning_default,
                                         .scratch = arrays + 2 * padded}};
    return BN_STATUS_OK;
}

void bn_moments_free(bn_moments *moments) {
    if (moments != NULL) {
        free(moments->internal.owned);
        memset(moments, 0, sizeof *moments);
    }
}

static bni_sums sums_of(const bn_moments *moments) {
    return (bni_sums){moments->count, moments->mean, moments->m2};
}

/* Merges other data's moments into moments, unless the result is not finite. The sum is formed in
 * scratch first, so that nothing is lost. `scratch` holds two arrays of padded features. */
static bn_status add_sums(bn_moments *moments, const bni_sums *other, double *scratch) {
    const size_t features = moments->num_features;
    const bni_sums own = sums_of(moments);
    bni_sums merged = {0.0, scratch, scratch + bni_padded(features)};
    moments->internal.kernels->merge(&merged, &own, features);
    moments->internal.kernels->merge(&merged, other, features);
    if (merged.count == 0.0) {
        return BN_STATUS_OK;
    }
    bool finite = bni_finite_double(merged.count);
    for (size_t d = 0; d < features; d++) {
        finite = finite && bni_finite_double(merged.mean[d]) && bni_finite_double(merged.m2[d]);
    }
    if (!finite) {
        return BN_STATUS_NOT_FINITE;
    }
    memcpy(moments->mean, merged.mean, features * sizeof *merged.mean);
    memcpy(moments->m2, merged.m2, features * sizeof *merged.m2);
    moments->count = merged.count;
    return BN_STATUS_OK;
}

typedef struct add_work {
    const bn_kernels *kernels;
    const bni_cut *cut;
    const float *x;
} add_work;

static void sum_batch(void *context, bni_task task, bni_part *part) {
    const add_work *work = context;
    bni_task_moments(work->kernels, work->cut, work->x, task, part);
}

static void merge_batch(void *context, bni_part *into, const bni_part *part) {
    const add_work *work = context;
    bni_merge_moments(work->kernels, into, part, work->cut->shape->features);
}

bn_status bn_moments_add(bn_moments *moments, const bn_batch *batch, const void *x) {
    if (moments == NULL || batch == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (moments->internal.kernels == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    bni_shape shape;
    const bn_status status = bni_shape_make(&shape, batch, moments->num_features, BNI_STRIDES_X);
    if (status != BN_STATUS_OK || shape.n == 0) {
        return status;
    }
    if (x == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    const bni_region regions[] = {
        bni_region_of_x(&shape, x), bni_region_of_weights(&shape),
        bni_region_of_bytes(moments->internal.owned, moments->internal.owned_bytes)};
    if (bni_any_overlap(regions, (const unsigned[3]){1u << 1, 0, 0}, 3)) {
        return BN_STATUS_OVERLAP;
    }
    const size_t padded = bni_padded(moments->num_features);
    double *scratch = moments->internal.scratch;
    const bni_passes passes = {.sum = sum_batch, .merge = merge_batch};
    const bni_cut cut = bni_cut_sums(&shape, moments->internal.tuning);
    add_work work = {moments->internal.kernels, &cut, x};
    const bni_space space = {scratch, scratch + padded, scratch + 2 * padded};
    const bni_part part = bni_sum_pass(&passes, &work, &cut, 1, space);
    const bni_sums sums = {part.count, part.one, part.two};
    /* The chunks' moments are done with: their scratch is at least one pair of arrays. */
    return add_sums(moments, &sums, scratch + 2 * padded);
}

bn_status bn_moments_merge(bn_moments *into, const bn_moments *from) {
    if (into == NULL || from == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (into->internal.kernels == NULL || from->internal.kernels == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    if (into->num_features != from->num_features) {
        return BN_STATUS_BAD_SHAPE;
    }
    const bni_sums other = sums_of(from);
    return add_sums(into, &other, into->internal.scratch);
}

bn_status bn_layer_set_running(bn_layer *layer, const bn_moments *moments) {
    if (layer == NULL || moments == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!bni_layer_ready(layer) || moments->internal.kernels == NULL ||
        layer->running_mean == NULL) {
        return BN_STATUS_BAD_STATE;
    }
    if (layer->num_features != moments->num_features) {
        return BN_STATUS_BAD_SHAPE;
    }
    if (!(moments->count > 1.0)) {
        return BN_STATUS_TOO_FEW_VALUES;
    }
    const bni_sums sums = sums_of(moments);
    const double keep = 0.0;
    if (!bni_pending_running(layer, &sums, 0, layer->num_features, keep)) {
        return BN_STATUS_NOT_FINITE;
    }
    bni_commit_running(layer);
    return BN_STATUS_OK;
}
