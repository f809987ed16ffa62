/* See plan.h. */
#include "plan.h"

#include <string.h>

/* Elements of a sheet, 64 KiB: what is asked of a kernel at once. */
#define SHEET_ELEMENTS ((size_t)16384)

/* A kernel goes down a tile's columns through the rows of a band before it turns to the next tile.
 * Where sums are formed the band is the sheet, which L2 holds while the tiles go over it: with rows
 * of 1024 columns, 16 of them cost 1.58 ns a vector of 16 floats where 4 cost 1.76 and 1 costs
 * 3.24.
 *
 * Passes that write take 32 KiB, but no more than 2 rows that begin at the same place in a page:
 * those share their sets in an 8-way L1, which x, dy and dx then overflow (256 x 1024, buffers
 * of malloc's alignment: inference takes 44 us with 2 rows, 70 with 8). And they take 2 rows
 * where stores are streamed: the write buffers of a core are few, and a line that leaves one
 * before it is full costs twice (65536 x 256: 7.8 ms with 4 rows, 12.4 with 8); or one, where
 * rows begin at different places in their lines, as whole vectors are streamed only to multiples
 * of their size. */
#define WRITE_ELEMENTS ((size_t)8192)
#define STREAM_ROWS    ((size_t)2)
#define PAGE           ((size_t)4096)

/* Where sums are formed of a batch that is not in L2 the next sheet is fetched meanwhile, or what is
 * so many elements, 64 KiB, further on. */
#define FETCH_AHEAD ((size_t)16384)

/* Passes that write go through memory in long runs, which processors follow by themselves: where L3
 * is the limit, fetching costs up to a tenth. But for two cases.
 *
 * From memory they do not follow far enough, as few lines are in a core's window at once beside the
 * coefficients: dx of 65536 x 256 takes 7.2 ns a vector of 16 floats, with what is 8 KiB ahead in
 * the inputs fetched 6.6, as much as dx = x + dy. From 4 to 64 KiB there is no difference. Where an
 * output cannot be streamed (short rows at odd places) it is fetched instead, and where it is
 * streamed, 16 KiB ahead, the lines that rows or planes share.
 *
 * Behind the sums of the same task only the output comes from afar: with what is 1 KiB ahead in it
 * fetched dx of 32 x 2048 x 64 takes 2.9 ns, without 3.3. */
#define MEMORY_AHEAD ((size_t)2048)
#define PART_AHEAD   ((size_t)4096)
#define OUTPUT_AHEAD ((size_t)256)

/* Planes at least this large are BNI_PLANES: 1 KiB of floats, where the part behind the last full
 * row of BNI_PLANE_WIDTH is at most a fifth. */
#define PLANE_MIN ((size_t)256)

/* Large planes of a group are together at least so many elements, 6 KiB. Each group begins with a
 * jump in memory, but the processor's prefetcher then runs some KiB ahead into planes that the next
 * group soon needs; and the less a group has, the more of it is still in L1 and L2 for the second
 * pass (32 x 512 x 784: forward 5.8 ns a vector of 16 floats and backward 10.6 with 32 KiB, 5.7 and
 * 9.2 with 6 KiB, 6.9 and 10.5 with 3 KiB). */
#define PLANE_RUN ((size_t)1536)

/* But a group of several has no more than 512 KiB of each tensor, so that L2 holds x and dy of
 * backward's first pass for the second (32 x 256 x 3136: 25 ms with three planes, 20.5 with
 * one). Small planes are not cut so: with rows of less than 4 KiB a group the second pass gains
 * less than the jumps cost (256 x 512 x 64 with 256 columns: backward 12.1 to 10.3 ns, but
 * forward 5.6 to 6.1). */
#define PLANE_GROUP ((size_t)131072)

_Static_assert((PLANE_RUN + PLANE_MIN - 1) / PLANE_MIN <= BNI_PANEL / BNI_PLANE_WIDTH,
               "the planes of a group have columns");

/* Rows narrower than this are folded: at 256 columns the part vector at a row's end costs at most
 * 1 of 17. */
#define FOLD_BELOW ((size_t)256)

/* And only so that enough rows remain: what is done for each column, before and after the sums, is
 * done for all samples of a row. For tiles' sake at least 64 (1024 x 10: forward takes 3.0 us with
 * 32 rows of 320, 2.5 with 64 of 160); for that of whole vectors, as part vectors cost more, a
 * sixteenth of the columns (256 x 10: 1.5 us not folded, 0.9 with 32 rows of 80; 128 x 100: 3.6 and
 * 3.4 with 32 rows of 400; 64 x 100: 2.0 and 2.2 with 16). */
#define FOLD_ROWS    ((size_t)64)
#define FOLD_COLUMNS ((size_t)16)

static size_t fewest_rows(size_t columns) {
    return columns % (2 * BNI_PAD) == 0 ? FOLD_ROWS : bni_divide_up(columns, FOLD_COLUMNS);
}

/* From so many elements on, 64 MiB, tensors come from memory, and narrow rows are folded into
 * rows as wide as a panel: tiles then go through as many pages as the processor follows (100352
 * x 256: forward 7.6 to 7.2 ns a vector of 16 floats, backward 16.7 to 16.0; 50176 x 512: 17.6
 * to 15.8). From L3 sums are up to 10 % slower so. Where outputs are streamed, half
 * as many, it also leaves fewer rows that share a line with the next (60000 x 300: inference 6.7 to
 * 5.1). */
#define FAR_ELEMENTS   16777216.0
#define ASKEW_ELEMENTS 8388608.0

static bool folds_wide(const bni_shape *shape) {
    const bool shares_lines = shape->features >= FOLD_BELOW && shape->features % BNI_PAD != 0;
    return shape->elements >= (shares_lines ? ASKEW_ELEMENTS : FAR_ELEMENTS);
}

/* Samples side by side so that a row is whole vectors, and tiles where they fit; 1: no fold. */
static size_t samples_to_fold(const bni_shape *shape) {
    const size_t features = shape->features;
    const bool wide = folds_wide(shape);
    const bool dense = shape->x_stride == features && shape->y_stride == features;
    if (!dense || shape->weight != NULL || features > BNI_PANEL ||
        (!wide && (features >= FOLD_BELOW || features % BNI_PLANE_WIDTH == 0))) {
        return 1;
    }
    const size_t most = BNI_PANEL / features;
    for (size_t multiple = BNI_PLANE_WIDTH; multiple >= BNI_PAD; multiple /= 2) {
        size_t samples = 1;
        while (samples * features % multiple != 0) {
            samples++;
        }
        if (samples <= most && shape->n / samples >= fewest_rows(samples * features)) {
            return wide ? most / samples * samples : samples;
        }
    }
    return wide ? most : 1;
}

/* So many features, or a few less, whose planes together are whole cache lines: if the first
 * group begins on one, all do (32 x 2048 x 49, inference: 1000 us with groups of 20 planes, 900
 * of 16). */
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

/* Features of a group of large planes. */
static size_t planes_together(const bni_shape *shape) {
    const size_t wanted = bni_divide_up(PLANE_RUN, shape->spatial);
    const size_t fitting = PLANE_GROUP / shape->spatial / shape->n;
    return fitting == 0 ? 1 : bni_smaller(wanted, fitting);
}

/* ---- Chunks --------------------------------------------------------------------------------- */

/* A batch of few groups is cut into chunks until it has about so many tasks: a multiple of common
 * core counts, and few enough that merging their sums costs little beside forming them. */
#define TASKS ((size_t)32)

/* A batch is not cut into tasks of fewer elements, 512 KiB: some 20 microseconds of work, well
 * above what handing it to another thread and merging its sums cost. */
#define TASK_ELEMENTS ((size_t)131072)

/* With so many groups there is work enough for threads without cutting any group into chunks, and a
 * group that is whole is read from memory once. */
#define WHOLE_GROUPS ((size_t)8)

/* Chunks of rows are multiples of so many, so that few sheets are short. */
#define CHUNK_STEP ((size_t)16)

/* Groups of an N x D batch are the largest, so no other shape has fewer groups and more chunks. */
size_t bni_most_chunks(size_t features) {
    return bni_divide_up(TASKS, bni_divide_up(features, BNI_PANEL));
}

/* Cuts the units into chunks. */
static void set_chunks(bni_cut *cut) {
    const double by_size = cut->shape->elements / (double)TASK_ELEMENTS;
    const size_t tasks = by_size < (double)TASKS ? (size_t)by_size : TASKS;
    const bool whole = cut->groups >= WHOLE_GROUPS || tasks <= cut->groups;
    const size_t chunks = whole ? 1 : bni_divide_up(tasks, cut->groups);
    size_t units = bni_divide_up(cut->units, chunks);
    if (cut->layout != BNI_PLANES) {
        units = bni_divide_up(units, CHUNK_STEP) * CHUNK_STEP;
    }
    cut->chunk_units = units;
    cut->chunks = bni_divide_up(cut->units, units);
}

bni_cut bni_cut_sums(const bni_shape *shape, const bni_tuning *tuning) {
    bni_cut cut = {.shape = shape,
                   .tuning = tuning,
                   .streams = shape->elements >= tuning->stream_from,
                   .layout = BNI_ROWS,
                   .outer = 1,
                   .inner = 1,
                   .units = shape->n};
    size_t features = BNI_PANEL;
    if (shape->spatial == 1) {
        cut.outer = samples_to_fold(shape);
        if (cut.outer > 1) {
            cut.layout = BNI_FOLDED;
            cut.units = bni_divide_up(shape->n, cut.outer);
        }
    } else if (shape->spatial < PLANE_MIN) {
        cut.inner = shape->spatial;
        features = whole_lines(BNI_PANEL / shape->spatial, shape->spatial);
    } else {
        cut.layout = BNI_PLANES;
        cut.inner = BNI_PLANE_WIDTH;
        features = planes_together(shape);
    }
    set_groups(&cut, bni_smaller(shape->features, features));
    cut.panel_cols = cut.group_features * cut.inner;
    set_chunks(&cut);
    return cut;
}

/* As many planes a task as have columns, unless that leaves too few tasks to share. */
static size_t planes_of_task(const bni_cut *cut) {
    return bni_smaller(bni_divide_up(cut->shape->features * cut->units, TASKS),
                       BNI_PANEL / BNI_PLANE_WIDTH);
}

bni_cut bni_cut_writes(const bni_cut *sums, size_t most_features) {
    bni_cut wide = *sums;
    wide.linear = wide.layout != BNI_ROWS || wide.shape->spatial == 1;
    if (wide.layout == BNI_ROWS && wide.shape->spatial == 1) {
        set_groups(&wide, bni_smaller(wide.shape->features, most_features));
        wide.panel_cols = wide.group_features;
        set_chunks(&wide);
    } else if (wide.layout == BNI_PLANES) {
        set_groups(&wide, bni_smaller(wide.shape->features, planes_of_task(sums)));
        wide.chunk_units = 1;
        wide.chunks = wide.units;
    }
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

/* How many elements ahead a pass that writes fetches. */
static size_t write_ahead(const bni_cut *cut, bni_pass pass) {
    if (pass == BNI_WRITES && cut->linear && cut->streams) {
        return MEMORY_AHEAD;
    }
    if (pass == BNI_FOLLOWS && !cut->streams && cut->shape->elements >= cut->tuning->fetch_from) {
        return OUTPUT_AHEAD;
    }
    return 0;
}

/* How many elements ahead the lines are fetched that rows or planes share: the next ones in memory
 * that are PART_AHEAD away or more; behind the sums of a group, those of a next sample. */
static size_t part_ahead(const bni_cut *cut, bni_pass pass, size_t sample) {
    const size_t unit = cut->layout == BNI_ROWS     ? sample
                        : cut->layout == BNI_FOLDED ? cut->outer * cut->shape->features
                        : pass == BNI_FOLLOWS       ? sample
                                                    : cut->shape->spatial;
    return bni_divide_up(PART_AHEAD, unit) * unit;
}

bni_walk bni_walk_begin(const bni_cut *cut, const bn_kernels *kernels, const bni_sheet *data,
                        bni_pass pass, bni_task task) {
    const size_t begin = task.chunk * cut->chunk_units;
    bni_sheet buffers = *data;
    buffers.stream = cut->streams;
    const size_t ahead = write_ahead(cut, pass);
    buffers.x_ahead = ahead;
    buffers.dy_ahead = ahead;
    buffers.part_ahead =
        part_ahead(cut, pass, data->out != NULL ? cut->shape->y_stride : cut->shape->x_stride);
    return (bni_walk){.cut = cut,
                      .data = buffers,
                      .pass = pass,
                      .plane_cols = pass == BNI_READS ? BNI_PLANE_WIDTH / 2 : kernels->tile,
                      .group = task.group,
                      .begin = begin,
                      .unit = begin,
                      .end = bni_smaller(begin + cut->chunk_units, cut->units)};
}

/* How many rows of a stride begin at different places in a page. */
static size_t rows_apart(size_t stride) {
    const size_t bytes = stride * sizeof(float);
    const size_t power = bytes & (~bytes + 1); /* the greatest power of two that divides it */
    return power >= PAGE ? 1 : PAGE / power;
}

static bool fetches(const bni_walk *walk) {
    return walk->pass == BNI_READS && walk->cut->shape->elements >= walk->cut->tuning->fetch_from;
}

/* The rows of a sheet whose columns are known, of so many that are left, and the bands to take them
 * in. The sheets of what is left are of a size: each can fetch the next. full_cols: the columns that
 * a whole sheet has. */
static void set_rows(const bni_walk *walk, size_t left, size_t full_cols, bni_sheet *sheet) {
    const size_t cols = sheet->cols;
    const size_t most = bni_smaller(bni_divide_up(SHEET_ELEMENTS, full_cols), BNI_SHEET_ROWS);
    sheet->rows = left <= most ? left : bni_divide_up(left, bni_divide_up(left, most));
    sheet->band = sheet->rows;
    if (walk->pass != BNI_READS && cols > walk->plane_cols) {
        const size_t apart = 2 * rows_apart(sheet->x_stride);
        const bool alike = sheet->x_stride % BNI_PAD == 0 && sheet->y_stride % BNI_PAD == 0;
        sheet->band = !walk->data.stream ? bni_smaller(apart, bni_divide_up(WRITE_ELEMENTS, cols))
                                         : (alike ? STREAM_ROWS : 1);
    }
}

/* Makes a sheet whose first element is at these offsets from the buffers' beginnings, field by
 * field and in its place: a copy is made of 16-byte loads, which wait for the 8-byte stores
 * before them to reach L1, behind all outputs that are still on their way (1024 x 1000: forward
 * 7.00 ns for 16 floats, so 6.87). */
static inline void begin_sheet(const bni_sheet *data, size_t x, size_t y, bni_sheet *sheet) {
    sheet->planes = 1;
    sheet->plane_stride = 0;
    sheet->tail = 0;
    sheet->stream = data->stream;
    sheet->x_ahead = data->x_ahead;
    sheet->dy_ahead = data->dy_ahead;
    sheet->part_ahead = data->part_ahead;
    bni_place(sheet, data, x, y);
    sheet->weight = NULL;
    sheet->weight_step = 0;
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
    sheet->x_ahead = units * cut->shape->x_stride + elements;
    sheet->dy_ahead = units * cut->shape->y_stride + elements;
}

/* Has fetched what is FETCH_AHEAD further on in a run of which so many elements are left. */
static void fetch_run(const bni_walk *walk, size_t left, bni_sheet *sheet) {
    if (fetches(walk) && left > FETCH_AHEAD) {
        sheet->x_ahead = FETCH_AHEAD;
        sheet->dy_ahead = FETCH_AHEAD;
    }
}

/* ---- Sheets --------------------------------------------------------------------------------- */

/* The next rows of a run of elements without gaps, of which `done` are done; the elements behind
 * the last full row are a row of their own. Returns whether the run ends with them. */
static bool next_of_run(bni_walk *walk, size_t x, size_t y, size_t length, size_t width,
                        bni_sheet *sheet) {
    const size_t left = length - walk->done;
    begin_sheet(&walk->data, x + walk->done, y + walk->done, sheet);
    sheet->cols = bni_smaller(left, width);
    sheet->x_stride = width;
    sheet->y_stride = width;
    set_rows(walk, left / sheet->cols, sheet->cols, sheet);
    walk->done += sheet->rows * sheet->cols;
    return walk->done == length;
}

static void next_of_rows(bni_walk *walk, size_t x, size_t y, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    const size_t left = walk->end - walk->unit;
    begin_sheet(&walk->data, x, y, sheet);
    sheet->cols = bni_group_size(cut, walk->group) * cut->inner;
    sheet->x_stride = cut->shape->x_stride;
    sheet->y_stride = cut->shape->y_stride;
    sheet->weight = bni_input_at(cut->shape->weight, walk->unit);
    sheet->weight_step = 1;
    set_rows(walk, left, cut->panel_cols, sheet);
    fetch_units(walk, sheet->rows, sheet);
    walk->unit += sheet->rows;
}

/* A chunk is one run, from its first unit to its last, or to the last sample. */
static void next_of_fold(bni_walk *walk, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    const size_t width = cut->outer * cut->shape->features;
    const size_t begin = walk->unit * width;
    const size_t end = bni_smaller(walk->end * width, cut->shape->n * cut->shape->features);
    const size_t done = walk->done;
    if (next_of_run(walk, begin, begin, end - begin, width, sheet)) {
        walk->unit = walk->end;
    }
    fetch_run(walk, end - begin - done, sheet);
}

/* All planes of the group in one sample: together they are a sheet or little more. */
static void next_of_planes(bni_walk *walk, size_t x, size_t y, bni_sheet *sheet) {
    const bni_cut *cut = walk->cut;
    const size_t width = walk->plane_cols;
    begin_sheet(&walk->data, x, y, sheet);
    sheet->rows = cut->shape->spatial / width;
    sheet->cols = width;
    sheet->x_stride = width;
    sheet->y_stride = width;
    sheet->planes = bni_group_size(cut, walk->group);
    sheet->plane_stride = cut->shape->spatial;
    sheet->tail = cut->shape->spatial % width;
    sheet->band = sheet->rows;
    fetch_units(walk, 1, sheet);
    walk->unit++;
}

/* The one plane of the group in one sample, sheet by sheet. What is fetched ahead of a short plane
 * is the next sample's. */
static void next_of_plane(bni_walk *walk, size_t x, size_t y, bni_sheet *sheet) {
    const size_t done = walk->done, spatial = walk->cut->shape->spatial;
    const bool ends = next_of_run(walk, x, y, spatial, walk->plane_cols, sheet);
    if (spatial < 2 * FETCH_AHEAD) {
        fetch_units(walk, 1, sheet);
    } else {
        fetch_run(walk, spatial - done, sheet);
    }
    sheet->plane_stride = spatial;
    if (ends) {
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
    case BNI_PLANES: {
        const float *weight = bni_input_at(cut->shape->weight, walk->unit);
        if (cut->group_features == 1) {
            next_of_plane(walk, x, y, sheet);
        } else {
            next_of_planes(walk, x, y, sheet);
        }
        sheet->weight = weight;
        sheet->weight_step = 0;
        break;
    }
    }
    return true;
}

static inline void repeat(const float *values, size_t features, size_t each, float *columns) {
    for (size_t f = 0; f < features; f++) {
        for (size_t i = 0; i < each; i++) {
            columns[f * each + i] = values[f];
        }
    }
}

const float *bni_expand(const bni_cut *cut, size_t features, const float *values,
                        float columns[BNI_PANEL]) {
    const size_t period = features * cut->inner;
    const size_t cols = period * cut->outer;
    if (values == NULL || cols == features) {
        return values;
    }
    /* Where the compiler knows the number it takes a fifth of the time. */
    switch (cut->inner) {
    case 1:
        repeat(values, features, 1, columns);
        break;
    case BNI_PLANE_WIDTH:
        repeat(values, features, BNI_PLANE_WIDTH, columns);
        break;
    default:
        repeat(values, features, cut->inner, columns);
        break;
    }
    for (size_t o = 1; o < cut->outer; o++) {
        memcpy(columns + o * period, columns, period * sizeof *columns);
    }
    return columns;
}
