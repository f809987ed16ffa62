/* See moments.h; and the exported calls on bn_moments. */
#include "moments.h"
#include "exact.h"
#include "layer.h"
#include "machine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows of sheets that are summed up about one pivot before they become moments and are merged; one
 * sheet may be more. More of them make the merge cheaper, fewer follow data that drifts. */
#define BLOCK_ROWS BNI_SHEET_ROWS

/* The least eps that outweighs whatever squares lose that are subnormal in float. */
#define LEAST_EPS 0x1p-100

/* ---- Moments of a task ----------------------------------------------------------------------
 *
 * Block by block: sums about a pivot within the block's data, then their merge. A run of deviations
 * from the pivot p errs by some units of its sum of squares (data_template.h), so p has to be near:
 * with W the block's weight, m its mean and M2 its sum of squares about it,
 *
 *     sum of w * (x - p)^2 = M2 + W * (p - m)^2
 *
 * Where p is the mean of values of weight K >= W before the block, W * (p - m)^2 is at most twice what
 * merging the block adds to M2 for the distance of the means, K*W/(K + W) * (p - m)^2: all blocks'
 * squares together are at most 3 times the M2 of all. So blocks grow as 32, 32, 64, 128, ... rows, up
 * to BLOCK_ROWS. The first one's pivot is the mean of its first half; that of any other that outweighs
 * all before it, as weights may have it, is its own mean. */

/* The values of each feature so many elements behind the first that it has in a sheet. */
static void gather(const bn_kernels *kernels, const bni_cut *cut, const bni_sheet *sheet,
                   size_t offset, size_t features, float *values) {
    const bni_type type = cut->shape->type;
    const void *const x = bni_at(sheet->at.x, offset, type);
    if (cut->shape->spatial > 1) {
        for (size_t f = 0; f < features; f++) {
            values[f] = bni_load_element(x, f * cut->shape->spatial, type);
        }
    } else if (type == BNI_F32) {
        memcpy(values, x, features * sizeof *values);
    } else {
        kernels->data[type].to_floats(features, x, values);
    }
}

/* The part of a chunk that is summed up about one pivot: sheets from the walk's present one on. */
typedef struct block {
    bni_walk walk;
    bni_sheet sheet;
    bool more;           /* there is a sheet */
    size_t rows, before; /* of the sheets of this block before; of all blocks before (bni_depth) */
} block;

static void next_sheet(block *b) {
    b->rows += bni_depth(&b->sheet.form);
    b->more = bni_walk_next(&b->walk, &b->sheet);
}

/* Goes to the next sheet. Returns whether it is of the same block. */
static bool next_in_block(block *b) {
    next_sheet(b);
    return b->more && b->rows + bni_depth(&b->sheet.form) <= bni_smaller(b->before, BLOCK_ROWS);
}

/* The sum of the weights in a sheet, for each of so many features. */
static double sheet_weight(const bn_kernels *kernels, const bni_cut *cut, const bni_sheet *sheet,
                           size_t features) {
    const bni_form *form = &sheet->form;
    const size_t own = cut->layout == BNI_PLANES ? form->cols : form->cols / features;
    double weights = (double)form->rows;
    if (bni_weighs_columns(form)) {
        return kernels->data[BNI_F32].weigh(form);
    }
    if (form->weight != NULL) {
        weights = 0.0;
        for (size_t r = 0; r < form->rows; r++) {
            weights += (double)bni_weight(form, r);
        }
    }
    return weights * (double)own;
}

/* The sums of a block, or of its beginning, with room to form them in. */
typedef struct block_sums {
    const bn_kernels *kernels;
    const bni_cut *cut;
    size_t features;
    double count;
    _Alignas(BNI_LINE) float pivot[BNI_PANEL], columns[BNI_PANEL];
    double s1[BNI_PANEL], s2[BNI_PANEL];
} block_sums;

static const float *begin_sums(block_sums *sums) {
    const bni_cut *cut = sums->cut;
    const size_t width = sums->features * cut->inner * cut->outer;
    memset(sums->s1, 0, width * sizeof *sums->s1);
    memset(sums->s2, 0, width * sizeof *sums->s2);
    sums->count = 0.0;
    return bni_expand(cut, sums->features, sums->pivot, sums->columns);
}

static void add_sheet(block_sums *sums, const bni_sheet *sheet, const float *column_pivot) {
    sums->kernels->data[sums->cut->shape->type].moments(sheet, column_pivot, sums->s1, sums->s2);
    sums->count += sheet_weight(sums->kernels, sums->cut, sheet, sums->features);
}

static void end_sums(block_sums *sums) {
    const bni_cut *cut = sums->cut;
    sums->kernels->features.fold(sums->s1, cut->outer, sums->features, cut->inner);
    sums->kernels->features.fold(sums->s2, cut->outer, sums->features, cut->inner);
}

/* To the mean, by the sums about the pivot. */
static void move_pivot(block_sums *sums) {
    end_sums(sums);
    if (sums->count > 0.0) {
        sums->kernels->features.move_pivot(sums->pivot, sums->s1, sums->features, sums->count);
    }
}

/* The first half of a sheet, at least a row. */
static bni_sheet first_half(const bni_sheet *sheet) {
    bni_sheet half = *sheet;
    if (half.form.plane_stride != 0) {
        half.form.cols = bni_divide_up(half.form.cols, 2);
    } else {
        half.form.rows = bni_divide_up(half.form.rows, 2);
    }
    return half;
}

/* About a value of the first row, which no float deviation of an ordinary batch is far from. */
static void pivot_of_first(block_sums *sums, const bni_sheet *sheet) {
    gather(sums->kernels, sums->cut, sheet, 0, sums->features, sums->pivot);
    if (!sheet->form.few) {
        const bni_sheet half = first_half(sheet);
        add_sheet(sums, &half, begin_sums(sums));
        move_pivot(sums);
    }
}

/* The values at the first row, or column of planes, that weighs more than the greatest before. */
static void gather_heavier(block_sums *sums, const bni_sheet *sheet, float *greatest) {
    const bni_form *form = &sheet->form;
    const bool columns = bni_weighs_columns(form);
    const size_t count = columns ? form->cols : form->rows;
    size_t found = count;
    for (size_t k = 0; k < count; k++) {
        const float weight = columns ? bni_column_weight(form, k) : bni_weight(form, k);
        if (weight > *greatest) {
            *greatest = weight;
            found = k;
        }
    }
    if (found < count) {
        gather(sums->kernels, sums->cut, sheet, columns ? found : found * form->x_stride,
               sums->features, sums->pivot);
    }
}

/* The block's mean, by its sums about a value of a row with the greatest weight w in it: where n rows
 * have the weight W, w is at least W / n and the squares about that value are at most n + 1 times M2.
 * (Or of a column, where they have weights: n is then at most BNI_SHEET_ELEMENTS, and a mean by such
 * sums is off by at most 2^-24 * 4 * 2^7 deviations.) Not if all of them together have no more
 * weight than what came before. */
static void pivot_of_weighted(block_sums *sums, block b, const bni_sums *before) {
    const block begin = b;
    float greatest = 0.0f;
    double count = 0.0;
    do {
        count += sheet_weight(sums->kernels, sums->cut, &b.sheet, sums->features);
    } while (next_in_block(&b));
    if (count > before->count) {
        b = begin;
        do {
            gather_heavier(sums, &b.sheet, &greatest);
        } while (next_in_block(&b));
        if (begin.sheet.form.few) {
            return; /* sums in double need none that is nearer */
        }
        b = begin;
        const float *column_pivot = begin_sums(sums);
        do {
            add_sheet(sums, &b.sheet, column_pivot);
        } while (next_in_block(&b));
        move_pivot(sums);
    }
}

static void set_pivot(block_sums *sums, const block *b, const bni_sums *before) {
    for (size_t f = 0; f < sums->features; f++) {
        sums->pivot[f] = (float)before->mean[f]; /* 0 of nothing */
    }
    if (sums->cut->shape->weight != NULL) {
        pivot_of_weighted(sums, *b, before);
    } else if (b->before == 0) {
        pivot_of_first(sums, &b->sheet);
    }
}

/* eps outweighs whatever squares lose that are subnormal in float, if it is not itself so little. */
static bool moments_held(const bn_kernels *kernels, const double *mean, const double *m2,
                         size_t features, double eps) {
    const double least = eps >= LEAST_EPS ? 0.0 : BNI_LEAST_PRODUCTS;
    return kernels->features.held(mean, m2, features, least, false);
}

/* Each feature that float runs did not hold, alone: none depends on others. */
static void moments_exactly(const bn_kernels *kernels, const bni_sums *sums, bni_feature of,
                            double eps) {
    for (; of.place < bni_group_size(of.cut, of.task.group); of.place++) {
        double *mean = &sums->mean[of.place], *m2 = &sums->m2[of.place];
        if (!moments_held(kernels, mean, m2, 1, eps)) {
            bni_exact_moments(&of, mean, m2);
        }
    }
}

void bni_task_moments(const bn_kernels *kernels, const bni_cut *cut, const void *x, double eps,
                      bni_task task, bni_part *part) {
    const size_t features = bni_group_size(cut, task.group);
    const bni_buffers data = {.x = x};
    const bni_trial trial = bni_trial_begin();
    block b = {.walk = bni_walk_begin(cut, &data, BNI_READS, task)};
    bni_sums all = {0.0, part->one, part->two};
    block_sums sums;
    sums.kernels = kernels;
    sums.cut = cut;
    sums.features = features;
    BNI_ASSERT(features * cut->inner * cut->outer <= BNI_PANEL);
    memset(all.mean, 0, features * sizeof *all.mean);
    memset(all.m2, 0, features * sizeof *all.m2);
    for (next_sheet(&b); b.more; b.before += b.rows) {
        b.rows = 0;
        set_pivot(&sums, &b, &all);
        const float *column_pivot = begin_sums(&sums);
        do {
            add_sheet(&sums, &b.sheet, column_pivot);
        } while (next_in_block(&b));
        end_sums(&sums);
        if (sums.count > 0.0) {
            kernels->features.merge_block(&all, features, sums.count, sums.pivot, sums.s1, sums.s2);
        }
    }
    if (!moments_held(kernels, all.mean, all.m2, features, eps)) {
        bni_trial_undo(trial);
        moments_exactly(kernels, &all, (bni_feature){cut, &data, task, 0}, eps);
    }
    part->count = all.count;
}

void bni_merge_moments(const bn_kernels *kernels, bni_part *into, const bni_part *part,
                       size_t features) {
    const bni_sums other = {part->count, part->one, part->two};
    bni_sums sums = {into->count, into->one, into->two};
    kernels->features.merge(&sums, &other, features);
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
    const size_t bytes = (4 * padded + bni_two_pass_scratch(num_features, 1)) * sizeof(double);
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
                                         .tuning = &bni_machine_here()->tuning,
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
 * scratch first, so that nothing is lost. `scratch` holds two arrays. */
static bn_status add_sums(bn_moments *moments, const bni_sums *other, double *scratch) {
    const size_t features = moments->num_features;
    const bni_sums own = sums_of(moments);
    bni_sums merged = {0.0, scratch, scratch + features};
    moments->internal.kernels->features.merge(&merged, &own, features);
    moments->internal.kernels->features.merge(&merged, other, features);
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
    const void *x;
} add_work;

static void sum_batch(void *context, bni_task task, bni_part *part) {
    const add_work *work = context;
    bni_task_moments(work->kernels, work->cut, work->x, 0.0, task, part);
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
    const bni_region regions[] = {bni_region_of_x(&shape, x), bni_region_of_weights(&shape),
                                  bni_region_of_positions(&shape)};
    const bni_arrays arrays = {
        {bni_span_of_bytes(moments->internal.owned, moments->internal.owned_bytes)}, 1};
    if (bni_any_overlap(regions, (const unsigned[3]){1u << 1 | 1u << 2, 1u << 2}, 3, &arrays)) {
        return BN_STATUS_OVERLAP;
    }
    const size_t padded = bni_padded(moments->num_features);
    double *scratch = moments->internal.scratch;
    const bni_passes passes = {.sum = sum_batch, .merge = merge_batch};
    const bni_cut cut = bni_cut_sums(&shape, moments->internal.tuning, BNI_Y);
    add_work work = {moments->internal.kernels, &cut, x};
    const bni_space space = {scratch, scratch + padded, scratch + 2 * padded};
    const bni_part part = bni_sum_pass(&passes, &work, &cut, 1, space);
    const bni_sums sums = {shape.values, part.one, part.two}; /* W as training takes it */
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

bool bni_are_moments(const bn_moments *moments) {
    bool good = bni_finite_double(moments->count);
    for (size_t d = 0; d < moments->num_features; d++) {
        good = good && !bni_is_negative(moments->m2[d]);
    }
    return good;
}

/* Sees whether all running values would be finite, or makes them such: some features at a time, as a
 * layer that only infers has no scratch. */
static bool set_running(bn_layer *layer, const bn_moments *moments, bool commit) {
    float mean[BNI_NARROW], mean_rest[BNI_NARROW], var[BNI_NARROW], var_rest[BNI_NARROW];
    const bni_running next = {
        .mean = mean, .mean_rest = mean_rest, .var = var, .var_rest = var_rest};
    for (size_t first = 0; first < layer->num_features; first += BNI_NARROW) {
        const size_t features = bni_smaller(layer->num_features - first, BNI_NARROW);
        const bni_sums sums = {moments->count, moments->mean + first, moments->m2 + first};
        if (!bni_next_running(layer, &sums, first, features, 0.0, &next)) {
            return false;
        }
        if (commit) {
            bni_commit_running(layer, &next, first, features);
        }
    }
    return true;
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
    if (layer->internal.options.inference_only && layer->internal.borrows) {
        return BN_STATUS_BAD_STATE; /* what a model shares, or cannot be written */
    }
    if (!(moments->count > 1.0)) {
        return BN_STATUS_TOO_FEW_VALUES;
    }
    if (!bni_are_moments(moments)) {
        return BN_STATUS_NOT_FINITE;
    }
    return set_running(layer, moments, false) && set_running(layer, moments, true)
               ? BN_STATUS_OK
               : BN_STATUS_NOT_FINITE;
}
