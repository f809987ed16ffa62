/* See plan.h. */
#include "plan.h"

#include <string.h>

static size_t fewest_rows(size_t columns) {
    return columns % (2 * BNI_PAD) == 0 ? BNI_FOLD_ROWS : bni_divide_up(columns, BNI_FOLD_COLUMNS);
}

static bool folds_wide(const bni_shape *shape) {
    const bool shares_lines = shape->features >= BNI_FOLD_BELOW && shape->features % BNI_PAD != 0;
    return shape->elements >= (shares_lines ? BNI_ASKEW_ELEMENTS : BNI_FAR_ELEMENTS);
}

/* Samples side by side so that a row is whole vectors, and tiles where they fit; 1: no fold. */
static size_t samples_to_fold(const bni_shape *shape) {
    const size_t features = shape->features;
    const bool wide = folds_wide(shape);
    const bool dense = shape->x_stride == features && shape->y_stride == features;
    if (!dense || shape->weight != NULL || features > BNI_PANEL ||
        (!wide && (features >= BNI_FOLD_BELOW || features % BNI_FOLD_WIDTH == 0))) {
        return 1;
    }
    const size_t most = BNI_PANEL / features;
    for (size_t multiple = BNI_FOLD_WIDTH; multiple >= BNI_PAD; multiple /= 2) {
        const size_t power = features & (~features + 1); /* of two, that divides it */
        const size_t samples = multiple / bni_smaller(power, multiple);
        if (samples <= most && shape->n / samples >= fewest_rows(samples * features)) {
            return wide ? most / samples * samples : samples;
        }
    }
    return wide ? most : 1;
}

/* So many features, or a few less, whose planes together are whole cache lines of floats: if the first
 * group begins on one, all do. */
static size_t whole_lines(size_t features, size_t spatial) {
    size_t step = 1;
    while (step * spatial % BNI_PAD != 0) {
        step *= 2;
    }
    return features < step ? features : features / step * step;
}

static void set_groups(bni_cut *cut, size_t features) {
    cut->group_features = features;
    cut->groups = bni_divide_up(cut->shape->features, features);
}

/* Features of a group of planes: so many that a sample's are a run in memory, or as many as fill a
 * sheet; but not more than L2 holds for the second pass. */
static size_t planes_together(const bni_shape *shape) {
    const size_t run = bni_divide_up(BNI_PLANE_RUN, shape->spatial);
    const size_t sheet = BNI_SHEET_ELEMENTS / shape->spatial / shape->n;
    const size_t fitting = BNI_PLANE_GROUP / shape->spatial / shape->n;
    const size_t wanted = bni_smaller(run > sheet ? run : sheet, BNI_NARROW);
    return fitting == 0 ? 1 : bni_smaller(wanted, fitting);
}

/* Whether expanding values a feature into values a column costs more than going through planes one by
 * one. Weights of positions are those of a plane's columns. */
static bool is_planes(const bni_shape *shape) {
    return shape->position != NULL || shape->spatial >= BNI_PLANE_MIN ||
           (shape->n <= BNI_FEW_SAMPLES &&
            shape->spatial >= BNI_FEW_FIRST + BNI_FEW_MORE * (shape->n - 1));
}

/* ---- Chunks --------------------------------------------------------------------------------- */

/* Groups of an N x D batch are the largest, so no other shape has fewer groups and more chunks. */
size_t bni_most_chunks(size_t features) {
    return bni_divide_up(BNI_TASKS, bni_divide_up(features, BNI_PANEL));
}

/* Cuts the units into chunks. */
static void set_chunks(bni_cut *cut) {
    const double by_size = cut->shape->elements / (double)BNI_TASK_ELEMENTS;
    const size_t tasks = by_size < (double)BNI_TASKS ? (size_t)by_size : BNI_TASKS;
    const bool whole = cut->groups >= BNI_WHOLE_GROUPS || tasks <= cut->groups;
    const size_t chunks = whole ? 1 : bni_divide_up(tasks, cut->groups);
    size_t units = bni_divide_up(cut->units, chunks);
    if (cut->layout != BNI_PLANES) {
        units = bni_divide_up(units, BNI_CHUNK_STEP) * BNI_CHUNK_STEP;
    }
    cut->chunk_units = units;
    cut->chunks = bni_divide_up(cut->units, units);
}

bni_cut bni_cut_sums(const bni_shape *shape, const bni_tuning *tuning, bni_output output) {
    bni_cut cut = {.shape = shape,
                   .tuning = tuning,
                   .layout = BNI_ROWS,
                   .outer = 1,
                   .inner = 1,
                   .units = shape->n};
    size_t features = BNI_PANEL;
    if (shape->n == 0) {
        return cut;
    }
    if (shape->spatial == 1) {
        cut.outer = samples_to_fold(shape);
        if (cut.outer > 1) {
            cut.layout = BNI_FOLDED;
            cut.units = bni_divide_up(shape->n, cut.outer);
        }
    } else if (is_planes(shape)) {
        cut.layout = BNI_PLANES;
        features = planes_together(shape);
    } else {
        cut.inner = shape->spatial;
        features = whole_lines(BNI_PANEL / shape->spatial, shape->spatial);
    }
    cut.streams =
        shape->elements >= (output == BNI_Y ? tuning->stream_from : tuning->stream_dx_from);
    set_groups(&cut, bni_smaller(shape->features, features));
    cut.panel_cols = cut.group_features * cut.inner;
    set_chunks(&cut);
    BNI_ASSERT(cut.chunks <= bni_most_chunks(shape->features));
    return cut;
}

bni_cut bni_cut_writes(const bni_cut *sums, size_t most_features) {
    bni_cut wide = *sums;
    const bni_shape *shape = wide.shape;
    if (wide.layout == BNI_PLANES || shape->spatial >= wide.tuning->planes_from) {
        const size_t each = bni_divide_up(shape->features * shape->n, BNI_TASKS);
        wide.layout = BNI_PLANES;
        wide.inner = 1;
        wide.units = shape->n;
        set_groups(&wide, bni_smaller(bni_smaller(shape->features, most_features), each));
        wide.chunk_units = 1;
        wide.chunks = wide.units;
    } else if (wide.layout == BNI_ROWS && shape->spatial == 1) {
        set_groups(&wide, bni_smaller(shape->features, most_features));
        wide.panel_cols = wide.group_features;
        set_chunks(&wide);
    }
    wide.linear = wide.layout != BNI_ROWS || shape->spatial == 1;
    return wide;
}

/* Only rows of N x D have groups of more features than that. */
bni_cut bni_cut_narrow(const bni_cut *sums) {
    bni_cut narrow = *sums;
    set_groups(&narrow, bni_smaller(narrow.group_features, BNI_NARROW));
    return narrow;
}

size_t bni_group_size(const bni_cut *cut, size_t group) {
    return bni_smaller(cut->group_features, cut->shape->features - bni_group_first(cut, group));
}

/* Whether the batch is so large that what sums come to next is fetched. Of planes side by side each
 * sample is a jump. */
static bool is_fetched(const bni_cut *cut, bool two) {
    const bni_tuning *tuning = cut->tuning;
    const bool planes = cut->layout == BNI_PLANES, jumps = planes && cut->group_features > 1;
    const double from = planes ? (two && !jumps ? tuning->fetch_two_from : tuning->fetch_from)
                               : (two ? tuning->fetch_two_rows_from : tuning->fetch_rows_from);
    return cut->shape->elements >= from;
}

/* How many elements ahead a pass that writes fetches. */
static size_t write_ahead(const bni_cut *cut, bni_pass pass) {
    if (pass == BNI_WRITES && cut->linear && cut->streams) {
        return cut->tuning->inputs_ahead;
    }
    if (pass == BNI_FOLLOWS && !cut->streams && is_fetched(cut, false)) {
        return cut->tuning->output_ahead;
    }
    return 0;
}

/* How many elements ahead the lines are fetched that rows or planes share: the next ones in memory
 * that are far enough away; behind the sums of a group, those of a next sample. */
static size_t part_ahead(const bni_cut *cut, bni_pass pass, size_t sample) {
    const size_t unit = cut->layout == BNI_ROWS     ? sample
                        : cut->layout == BNI_FOLDED ? cut->outer * cut->shape->features
                        : pass == BNI_FOLLOWS       ? sample
                                                    : cut->shape->spatial;
    return bni_divide_up(cut->tuning->parts_ahead, unit) * unit;
}

bni_walk bni_walk_begin(const bni_cut *cut, const bni_buffers *data, bni_pass pass, bni_task task) {
    const size_t begin = task.chunk * cut->chunk_units;
    const size_t ahead = write_ahead(cut, pass);
    const size_t sample = data->out != NULL ? cut->shape->y_stride : cut->shape->x_stride;
    return (bni_walk){.cut = cut,
                      .data = *data,
                      .hints = {.x_ahead = ahead,
                                .dy_ahead = ahead,
                                .past_l2 = cut->tuning->past_l2,
                                .part_ahead = part_ahead(cut, pass, sample),
                                .stream = cut->streams},
                      .pass = pass,
                      .group = task.group,
                      .begin = begin,
                      .unit = begin,
                      .end = bni_smaller(begin + cut->chunk_units, cut->units)};
}

#define PAGE ((size_t)4096)

/* How many rows of a stride begin at different places in a page. */
static size_t rows_apart(size_t bytes) {
    const size_t power = bytes & (~bytes + 1); /* the greatest power of two that divides it */
    return power >= PAGE ? 1 : PAGE / power;
}

/* Whether a pass fetches what sums come to next. */
static bool fetches(const bni_walk *walk) {
    return walk->pass == BNI_READS && is_fetched(walk->cut, walk->data.dy != NULL);
}

/* The rows to write in a band. */
static size_t band_rows(const bni_walk *walk, const bni_form *form) {
    const bni_tuning *tuning = walk->cut->tuning;
    const bni_type type = walk->cut->shape->type;
    const size_t line = bni_line_of(type);
    const bool alike = form->x_stride % line == 0 && form->y_stride % line == 0;
    if (walk->hints.stream) {
        const bool far = walk->cut->shape->elements >= tuning->far_from;
        return !alike ? 1 : far ? tuning->far_rows : tuning->stream_rows;
    }
    return bni_smaller(2 * rows_apart(form->x_stride * bni_bytes_of(type)),
                       bni_divide_up(tuning->write_elements, form->cols));
}

/* The most rows, or lines of a plane, of a sheet in which each has so many columns. Of those that sums
 * are formed of whole runs, and never more than came before them (moments.c). */
static size_t most_deep(const bni_walk *walk, size_t cols) {
    const size_t most = bni_divide_up(BNI_SHEET_ELEMENTS, cols);
    if (walk->pass != BNI_READS) {
        return most;
    }
    const size_t before = walk->depth < BNI_FIRST_ROWS ? BNI_FIRST_ROWS : walk->depth;
    return bni_smaller(most < BNI_RUN ? BNI_RUN : most, before) / BNI_RUN * BNI_RUN;
}

/* The rows of a sheet whose columns are known, of so many that are left, and the bands to take them
 * in. The sheets of what is left are of a size: each can fetch the next. full_cols: the columns that
 * a whole sheet has. */
static void set_rows(bni_walk *walk, size_t left, size_t full_cols, bni_sheet *sheet) {
    const size_t most = bni_smaller(most_deep(walk, full_cols), BNI_SHEET_ROWS);
    size_t rows = left <= most ? left : bni_divide_up(left, bni_divide_up(left, most));
    if (walk->pass == BNI_READS && rows < left) {
        rows = bni_divide_up(rows, BNI_RUN) * BNI_RUN;
    }
    sheet->form.rows = rows;
    sheet->hints.band = walk->pass == BNI_READS ? rows : band_rows(walk, &sheet->form);
    if (walk->pass == BNI_WRITES &&
        sheet->hints.x_ahead != 0) { /* what this band has is too near */
        const size_t x_band = sheet->hints.band * sheet->form.x_stride;
        const size_t y_band = sheet->hints.band * sheet->form.y_stride;
        const size_t bands = bni_divide_up(sheet->hints.x_ahead, x_band);
        sheet->hints.x_ahead = bands * x_band;
        sheet->hints.dy_ahead = bands * y_band;
    }
    walk->depth += rows;
}

/* Makes a sheet whose first element is at these offsets from the buffers' beginnings, field by
 * field and in its place: a copy is made of 16-byte loads, which wait for the 8-byte stores before
 * them to reach L1, behind all outputs that are still on their way. */
static inline void begin_sheet(const bni_walk *walk, size_t x, size_t y, bni_sheet *sheet) {
    const size_t bytes = bni_bytes_of(walk->cut->shape->type);
    bni_place(&sheet->at, &walk->data, x * bytes, y * bytes);
    sheet->form.planes = 1;
    sheet->form.plane_stride = 0;
    sheet->form.weight = NULL;
    sheet->form.weight_step = 0;
    sheet->form.position = NULL;
    sheet->form.few = walk->cut->shape->few;
    sheet->hints.x_ahead = walk->hints.x_ahead;
    sheet->hints.dy_ahead = walk->hints.dy_ahead;
    sheet->hints.past_l2 = walk->hints.past_l2;
    sheet->hints.part_ahead = walk->hints.part_ahead;
    sheet->hints.stream = walk->hints.stream;
}

/* ---- What is fetched ahead ------------------------------------------------------------------ */

/* Has fetched what is so many units ahead in the group; behind the chunk's last unit, what the next
 * task begins with: the next group's part of the chunk, or the next chunk. Differences of places
 * may wrap around. */
static void fetch_units(const bni_walk *walk, size_t units, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    size_t elements = 0;
    if (!fetches(walk)) {
        return;
    }
    if (units >= walk->end - walk->unit) {
        if (walk->group + 1 < cut->groups) {
            units -= walk->end - walk->begin;
            elements = cut->group_features * cut->shape->spatial;
        } else {
            elements -= bni_group_first(cut, walk->group) * cut->shape->spatial;
        }
    }
    sheet->hints.x_ahead = units * cut->shape->x_stride + elements;
    sheet->hints.dy_ahead = units * cut->shape->y_stride + elements;
}

/* How many rows of so many elements are fetched ahead: whole runs, as what is nearer is read in the
 * same one. */
static size_t rows_ahead(const bni_walk *walk, size_t row) {
    return bni_divide_up(walk->cut->tuning->sums_ahead, BNI_RUN * row) * BNI_RUN;
}

/* Has fetched what is so far ahead in a run of elements of which so many are left. */
static void fetch_run(const bni_walk *walk, size_t ahead, size_t left, bni_sheet *sheet) {
    if (fetches(walk) && left > ahead) {
        sheet->hints.x_ahead = ahead;
        sheet->hints.dy_ahead = ahead;
    }
}

/* ---- Sheets --------------------------------------------------------------------------------- */

static const float *weight_at(const float *weights, size_t at) {
    return weights == NULL ? NULL : weights + at;
}

static void next_of_rows(bni_walk *walk, size_t x, size_t y, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    const size_t left = walk->end - walk->unit;
    begin_sheet(walk, x, y, sheet);
    sheet->form.cols = bni_group_size(cut, walk->group) * cut->inner;
    sheet->form.x_stride = cut->shape->x_stride;
    sheet->form.y_stride = cut->shape->y_stride;
    sheet->form.weight = weight_at(cut->shape->weight, walk->unit);
    sheet->form.weight_step = 1;
    sheet->form.position = weight_at(cut->shape->position, walk->unit);
    set_rows(walk, left, cut->panel_cols, sheet);
    fetch_units(walk, rows_ahead(walk, cut->shape->x_stride), sheet);
    walk->unit += sheet->form.rows;
}

/* A chunk is one run, from its first unit to its last, or to the last sample; the elements behind the
 * last full row are a row of their own. */
static void next_of_fold(bni_walk *walk, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    const size_t width = cut->outer * cut->shape->features;
    const size_t begin = walk->unit * width;
    const size_t end = bni_smaller(walk->end * width, cut->shape->n * cut->shape->features);
    const size_t left = end - begin - walk->done;
    begin_sheet(walk, begin + walk->done, begin + walk->done, sheet);
    sheet->form.cols = bni_smaller(left, width);
    sheet->form.x_stride = width;
    sheet->form.y_stride = width;
    set_rows(walk, left / sheet->form.cols, sheet->form.cols, sheet);
    fetch_run(walk, rows_ahead(walk, width) * width, left, sheet);
    walk->done += sheet->form.rows * sheet->form.cols;
    if (walk->done == end - begin) {
        walk->unit = walk->end;
    }
}

/* All planes of the group in one sample, which together are a sheet or little more; or so much of the
 * group's one plane. What is fetched ahead of a short plane is the next sample's. */
static void next_of_planes(bni_walk *walk, size_t x, size_t y, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    const size_t spatial = cut->shape->spatial, left = spatial - walk->done;
    const bool alone = cut->group_features == 1;
    begin_sheet(walk, x + walk->done, y + walk->done, sheet);
    sheet->form.rows = 1;
    sheet->form.cols = alone ? bni_smaller(left, most_deep(walk, BNI_PAD) * BNI_PAD) : spatial;
    sheet->form.planes = bni_group_size(cut, walk->group);
    sheet->form.plane_stride = spatial;
    sheet->form.x_stride = spatial;
    sheet->form.y_stride = spatial;
    sheet->hints.band = 1;
    sheet->form.weight = weight_at(cut->shape->weight, walk->unit * cut->shape->weight_step);
    sheet->form.position = weight_at(cut->shape->position, walk->unit * spatial + walk->done);
    if (alone && spatial >= 2 * cut->tuning->sums_ahead) {
        fetch_run(walk, cut->tuning->sums_ahead, left, sheet);
    } else {
        fetch_units(walk, 1, sheet);
    }
    walk->depth += bni_depth(&sheet->form);
    walk->done += sheet->form.cols;
    if (walk->done == spatial) {
        walk->done = 0;
        walk->unit++;
    }
}

bool bni_walk_next(bni_walk *walk, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    if (walk->unit == walk->end) {
        return false;
    }
    const size_t first = bni_group_first(cut, walk->group) * cut->shape->spatial;
    const size_t x = walk->unit * cut->shape->x_stride + first;
    const size_t y = walk->unit * cut->shape->y_stride + first;
    switch (cut->layout) {
    case BNI_ROWS:
        next_of_rows(walk, x, y, sheet);
        break;
    case BNI_FOLDED:
        next_of_fold(walk, sheet);
        break;
    case BNI_PLANES:
        next_of_planes(walk, x, y, sheet);
        break;
    }
    return true;
}

static void repeat(const float *values, size_t features, size_t each, float *columns) {
    for (size_t f = features; f-- > 0;) { /* from behind, as the values may be in front */
        const float value = bni_load_float(values + f);
        for (size_t i = 0; i < each; i++) {
            columns[f * each + i] = value;
        }
    }
}

const float *bni_expand(const bni_cut *cut, size_t features, const float *values,
                        float columns[BNI_PANEL]) {
    const size_t period = features * cut->inner;
    const size_t cols = period * cut->outer;
    BNI_ASSERT(values == NULL || cols == features || cols <= BNI_PANEL);
    if (values == NULL || cols == features) {
        return values;
    }
    if (cut->inner == 1) {
        memmove(columns, values, features * sizeof *columns);
    } else {
        repeat(values, features, cut->inner, columns);
    }
    for (size_t o = 1; o < cut->outer; o++) {
        memcpy(columns + o * period, columns, period * sizeof *columns);
    }
    return columns;
}
