/*
 * Every variant of every kernel, for each element type, on data of a few KB: each array, of data and of what belongs to
 * columns or features, ends at a page that may not be touched, or begins behind one. All numbers are
 * multiples of small powers of two, so that whatever the order of operations the result is exact: it
 * must be equal to the plain formula's, or the element nearest to it.
 */
#include "support.h"

#include "kernels/kernels.h"

#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Memory ---------------------------------------------------------------------------------- */

enum { X, RESIDUAL, Y, DY, DX, WEIGHT, POSITION, OUT, DRESIDUAL, BUFFERS };
enum { CENTER, SCALE, SHIFT, SLOPE, OFFSET, SUM1, SUM2, EXTRA1, EXTRA2, ARRAYS };
static guarded buffers[BUFFERS], arrays[ARRAYS];

static int map_memory(void **state) {
    (void)state;
    for (size_t k = 0; k < BUFFERS; k++) {
        buffers[k] = guarded_new(32768);
    }
    for (size_t k = 0; k < ARRAYS; k++) {
        arrays[k] = guarded_new(16384);
    }
    return 0;
}

static int unmap_memory(void **state) {
    (void)state;
    for (size_t k = 0; k < BUFFERS; k++) {
        guarded_free(&buffers[k]);
    }
    for (size_t k = 0; k < ARRAYS; k++) {
        guarded_free(&arrays[k]);
    }
    return 0;
}

/* Multiples of step, some of either sign. Every array is different. */
static void *fill_multiples(float *values, size_t count, float step, unsigned which) {
    for (size_t k = 0; k < count; k++) {
        values[k] = step * (float)((int)((k * 7 + which * 5 + k / 13) % 31) - 15);
    }
    return values;
}

static float *floats(const guarded *g, size_t count, bool at_end) {
    return guarded_place(g, count * sizeof(float), at_end);
}

static double *sums(size_t which, size_t count, bool at_end) {
    double *values = guarded_place(&arrays[which], count * sizeof *values, at_end);
    for (size_t k = 0; k < count; k++) {
        values[k] = 0.25 * (double)k;
    }
    return values;
}

/* ---- Sheets ---------------------------------------------------------------------------------- */

typedef struct form {
    size_t rows, cols, gap, planes, plane_gap; /* planes: 0, or one row each */
} form;

/* Below, at and above the widths of vectors and tiles, rows that are streamed from their first whole
 * line on (256 columns and more), planes of whole and broken lines and runs. */
static const form forms[] = {
    {1, 1, 0, 0, 0},    {3, 7, 0, 0, 0},   {4, 16, 0, 0, 0},   {5, 33, 3, 0, 0},
    {2, 64, 16, 0, 0},  {3, 131, 1, 0, 0}, {3, 256, 0, 0, 0},  {4, 300, 0, 0, 0},
    {3, 300, 20, 0, 0}, {2, 509, 3, 0, 0}, {2, 512, 16, 0, 0}, {9, 40, 0, 0, 0},
    {17, 70, 2, 0, 0},  {1, 9, 0, 5, 0},   {1, 16, 0, 3, 0},   {1, 49, 0, 7, 0},
    {1, 300, 0, 3, 4},  {1, 127, 0, 2, 1}, {1, 128, 0, 2, 0},  {1, 144, 0, 1, 16},
    {1, 256, 0, 2, 0},  {1, 400, 0, 3, 0}, {1, 321, 0, 2, 15}, {1, 1, 0, 3, 0}};

typedef struct setting {
    const form *of;
    bni_type type;
    bool at_end, stream, ahead, weighted, positions; /* positions: and weighted */
    size_t band, shift; /* where an output begins, in bytes, unless it ends at the guard */
} setting;

/* How many values belong to columns: one a plane. */
static size_t columns_of(const form *f) {
    return f->planes == 0 ? f->cols : f->planes;
}

static size_t stride_of(const form *f) {
    return f->cols + f->gap;
}

static size_t plane_of(const form *f) {
    return f->cols + f->plane_gap;
}

static size_t count_of(const form *f) {
    return f->planes == 0 ? (f->rows - 1) * stride_of(f) + f->cols
                          : f->planes * plane_of(f) - f->plane_gap;
}

static size_t bytes_of(const setting *s) {
    return count_of(s->of) * bni_bytes_of(s->type);
}

static void *output(const setting *s, size_t which) {
    char *values = guarded_place(&buffers[which], bytes_of(s), s->at_end);
    values += s->at_end ? 0 : s->shift;
    fill_pattern(values, bytes_of(s));
    return values;
}

/* Every type has these multiples. */
static const void *input(const setting *s, size_t which, float step) {
    float values[4096];
    const size_t count = count_of(s->of);
    unsigned char *placed = guarded_place(&buffers[which], bytes_of(s), s->at_end);
    assert_true(count <= COUNT_OF(values));
    fill_multiples(values, count, step, (unsigned)which);
    if (s->type == BNI_F32) {
        return memcpy(placed, values, bytes_of(s));
    }
    for (size_t k = 0; k < count; k++) {
        const uint16_t half =
            (uint16_t)(s->type == BNI_BF16 ? bni_bf16_of(values[k]) : bni_f16_of(values[k]));
        assert_true(bni_nearest_element(values[k], s->type) == values[k]);
        memcpy(placed + k * sizeof half, &half, sizeof half);
    }
    return placed;
}

static bni_sheet sheet_of(const setting *s) {
    static const float weights[] = {0.5f, 0, 2, 1, 0.25f, 1};
    const form *f = s->of;
    const size_t ahead = s->ahead ? 40 : 0;
    bni_sheet sheet = {.at = {.x = input(s, X, 0.125f)},
                       .form = {.rows = f->rows,
                                .cols = f->cols,
                                .x_stride = stride_of(f),
                                .y_stride = stride_of(f),
                                .planes = f->planes == 0 ? 1 : f->planes,
                                .plane_stride = f->planes == 0 ? 0 : plane_of(f)},
                       .hints = {.band = s->band < f->rows ? s->band : f->rows,
                                 .x_ahead = ahead,
                                 .dy_ahead = ahead,
                                 .part_ahead = 64,
                                 .stream = s->stream}};
    if (s->weighted) {
        const size_t count = f->planes == 0 ? f->rows : 1;
        float *placed = floats(&buffers[WEIGHT], count, s->at_end);
        for (size_t r = 0; r < count; r++) {
            placed[r] = weights[(r + f->planes) % COUNT_OF(weights)];
        }
        sheet.form.weight = placed;
        sheet.form.weight_step = f->planes == 0;
    }
    if (s->positions) {
        const size_t count = f->planes == 0 ? f->rows : f->cols;
        float *placed = floats(&buffers[POSITION], count, s->at_end);
        for (size_t k = 0; k < count; k++) {
            placed[k] = weights[(k / 3 + k + f->cols) % COUNT_OF(weights)];
        }
        sheet.form.position = placed;
    }
    return sheet;
}

/* Multiples of step and what is added to them, a value a column. */
static const float *coefficient(const setting *s, size_t which, float step, float more) {
    const size_t count = columns_of(s->of);
    float *values = floats(&arrays[which], count, s->at_end);
    fill_multiples(values, count, step, (unsigned)which);
    for (size_t c = 0; c < count; c++) {
        values[c] += more;
    }
    return values;
}

/* shift is an odd multiple of 1/1024, and d * scale one of 1/64: no y is 0. */
static bni_coef coef_of(const setting *s, bool constant) {
    return (bni_coef){.center = coefficient(s, CENTER, 0.25f, 0),
                      .scale = coefficient(s, SCALE, 0.125f, 0),
                      .shift = coefficient(s, SHIFT, 1.0f / 512, 1.0f / 1024),
                      .slope = constant ? NULL : coefficient(s, SLOPE, 0.25f, 0),
                      .offset = constant ? NULL : coefficient(s, OFFSET, 0.125f, 0)};
}

/* One element of a sheet. */
typedef struct place {
    size_t at, column, row;
    bni_type type;
} place;

/* The next element, in any order; false behind the last. Begins with k = 0. */
static bool next_place(const setting *s, size_t k, place *p) {
    const form *f = s->of;
    const size_t row = k / f->cols, in = k % f->cols;
    if (f->planes == 0) {
        *p = (place){row * stride_of(f) + in, in, row, s->type};
        return row < f->rows;
    }
    *p = (place){row * plane_of(f) + in, row, 0, s->type};
    return row < f->planes;
}

static double value_at(const void *values, place p) {
    return (double)bni_load_element(values, p.at, p.type);
}

static double weight_at(const bni_sheet *sheet, place p) {
    const bni_form *f = &sheet->form;
    const double weight = f->weight == NULL ? 1.0 : (double)f->weight[p.row * f->weight_step];
    const size_t at = f->plane_stride == 0 ? p.row : p.at % f->plane_stride;
    return f->position == NULL ? weight : weight * (double)f->position[at];
}

static double z_at(const bni_sheet *sheet, const bni_coef *coef, place p) {
    const double d = value_at(sheet->at.x, p) - (double)coef->center[p.column];
    return d * (double)coef->scale[p.column] + (double)coef->shift[p.column];
}

/* Every activation, linear and ReLU first. As y multiples of 1 meet max, and 0. */
static const bni_activation activations[] = {
    {.curve = BNI_LINEAR},
    {.curve = BNI_RELU},
    {.curve = BNI_LEAKY, .slope = 0.25f},
    {.curve = BNI_LEAKY, .slope = 4},
    {.curve = BNI_CLIP, .max = 3},
    {.curve = BNI_CLIP, .max = 0.25f},
};

static double act_of(const bni_activation *act, double z) {
    switch (act->curve) {
    case BNI_RELU:
        return z > 0 ? z : 0.0;
    case BNI_LEAKY:
        return z > 0 ? z : (double)act->slope * z;
    case BNI_CLIP:
        return z > 0 ? fmin(z, (double)act->max) : 0.0;
    default:
        return z;
    }
}

static double g_at(const bni_sheet *sheet, const bni_coef *coef, const bni_activation *act,
                   place p) {
    const double dy = value_at(sheet->at.dy, p);
    if (act->curve == BNI_LINEAR) {
        return dy;
    }
    const double z = act->by_y ? value_at(sheet->at.y, p) : z_at(sheet, coef, p);
    const double below = act->curve == BNI_LEAKY ? (double)act->slope * dy : 0.0;
    return z > 0 && (act->curve != BNI_CLIP || z < (double)act->max) ? dy : below;
}

static void describe_setting(const setting *s, const char *kernel, int variant) {
    const form *f = s->of;
    print_error("%s %d, type %d: %zu x %zu + %zu, %zu planes, band %zu, shift %zu%s%s%s%s\n",
                kernel, variant, (int)s->type, f->rows, f->cols, f->gap, f->planes, s->band,
                s->shift, s->at_end ? ", at the end" : "", s->stream ? ", streamed" : "",
                s->ahead ? ", ahead" : "",
                s->positions  ? ", weighted twice"
                : s->weighted ? ", weighted"
                              : "");
}

/* out[element] is what it should be, and is then as if it had not been written. */
static void check_element(const setting *s, const char *kernel, int variant, void *out, place p,
                          double exact) {
    const double want = (double)bni_nearest_element((float)exact, s->type);
    const double got = value_at(out, p);
    if (got != want) {
        describe_setting(s, kernel, variant);
        print_error("element %zu is %g, not %g\n", p.at, got, want);
        fail();
    }
    fill_pattern(bni_out_at(out, p.at, s->type), bni_bytes_of(s->type));
}

/* ---- Kernels over data ----------------------------------------------------------------------- */

static void check_normalize(const setting *s, const bni_data_kernels *kernels) {
    for (int variant = 0; variant < 2 * (int)COUNT_OF(activations); variant++) {
        const bni_activation *act = &activations[variant / 2];
        bni_sheet sheet = sheet_of(s);
        const bni_coef coef = coef_of(s, true);
        sheet.at.residual = variant & 1 ? input(s, RESIDUAL, 0.125f) : NULL;
        void *out = sheet.at.out = output(s, OUT);
        kernels->normalize(&sheet, &coef, *act);
        place p;
        for (size_t k = 0; next_place(s, k, &p); k++) {
            const double z = z_at(&sheet, &coef, p) +
                             (sheet.at.residual == NULL ? 0.0 : value_at(sheet.at.residual, p));
            check_element(s, "normalize", variant, out, p, act_of(act, z));
        }
        assert_pattern(out, bytes_of(s));
    }
}

static void check_grad_input(const setting *s, const bni_data_kernels *kernels) {
    for (int variant = 0; variant < 8 * (int)COUNT_OF(activations); variant++) {
        bni_activation act = activations[variant / 8];
        const bool constant = variant & 1;
        act.by_y = variant & 2 && act.curve != BNI_LINEAR;
        bni_sheet sheet = sheet_of(s);
        const bni_coef coef = coef_of(s, constant);
        sheet.at.dy = input(s, DY, 0.5f);
        sheet.at.y = act.by_y ? input(s, Y, 1.0f) : NULL;
        void *dresidual = sheet.at.dresidual = variant & 4 ? output(s, DRESIDUAL) : NULL;
        void *dx = sheet.at.dx = output(s, DX);
        kernels->grad_input(&sheet, &coef, act);
        place p;
        for (size_t k = 0; next_place(s, k, &p); k++) {
            const double g = g_at(&sheet, &coef, &act, p);
            const double d = value_at(sheet.at.x, p) - (double)coef.center[p.column];
            const double through =
                constant ? 0.0
                         : weight_at(&sheet, p) *
                               (d * (double)coef.slope[p.column] + (double)coef.offset[p.column]);
            check_element(s, "grad_input", variant, dx, p,
                          (double)coef.scale[p.column] * (g + through));
            if (dresidual != NULL) {
                check_element(s, "grad_input's dresidual", variant, dresidual, p, g);
            }
        }
        assert_pattern(dx, bytes_of(s));
    }
}

/* s1 and s2, as they were and what the elements of each column add. */
static void check_sums(const setting *s, const char *kernel, int variant, const double *s1,
                       const double *s2, const double *add1, const double *add2) {
    for (size_t c = 0; c < columns_of(s->of); c++) {
        const double before = 0.25 * (double)c;
        if (s1[c] != before + add1[c] || s2[c] != before + add2[c]) {
            describe_setting(s, kernel, variant);
            print_error("column %zu: %g and %g, not %g and %g\n", c, s1[c], s2[c], before + add1[c],
                        before + add2[c]);
            fail();
        }
    }
}

static void check_moments(const setting *s, const bni_data_kernels *kernels) {
    const bni_sheet sheet = sheet_of(s);
    const float *pivot = coefficient(s, CENTER, 0.25f, 0);
    double *s1 = sums(SUM1, columns_of(s->of), s->at_end);
    double *s2 = sums(SUM2, columns_of(s->of), s->at_end);
    double add1[2 * BNI_PANEL] = {0}, add2[2 * BNI_PANEL] = {0}, total = 0;
    kernels->moments(&sheet, pivot, s1, s2);
    place p;
    for (size_t k = 0; next_place(s, k, &p); k++) {
        const double d = value_at(sheet.at.x, p) - (double)pivot[p.column];
        add1[p.column] += weight_at(&sheet, p) * d;
        add2[p.column] += weight_at(&sheet, p) * d * d;
        total += p.column == 0 ? weight_at(&sheet, p) : 0;
    }
    check_sums(s, "moments", 0, s1, s2, add1, add2);
    if (bni_weighs_columns(&sheet.form)) {
        assert_true(kernels->weigh(&sheet.form) == total);
    }
}

static void check_grad_sums(const setting *s, const bni_data_kernels *kernels) {
    for (int variant = 0; variant < 2 * (int)COUNT_OF(activations); variant++) {
        bni_activation act = activations[variant / 2];
        act.by_y = variant & 1 && act.curve != BNI_LINEAR;
        bni_sheet sheet = sheet_of(s);
        bni_coef coef = coef_of(s, true);
        sheet.at.dy = input(s, DY, 0.5f);
        sheet.at.y = act.by_y ? input(s, Y, 1.0f) : NULL;
        if (act.curve == BNI_LINEAR || act.by_y) {
            coef.scale = coef.shift = NULL;
        }
        double *s1 = sums(SUM1, columns_of(s->of), s->at_end);
        double *s2 = sums(SUM2, columns_of(s->of), s->at_end);
        double add1[2 * BNI_PANEL] = {0}, add2[2 * BNI_PANEL] = {0};
        kernels->grad_sums(&sheet, &coef, act, s1, s2);
        place p;
        for (size_t k = 0; next_place(s, k, &p); k++) {
            const double g = g_at(&sheet, &coef, &act, p);
            add1[p.column] += g;
            add2[p.column] += g * (value_at(sheet.at.x, p) - (double)coef.center[p.column]);
        }
        check_sums(s, "grad_sums", variant, s1, s2, add1, add2);
    }
}

/* Of half types a twelfth of the places, each with other forms and settings. */
static void check_variants_of(void (*check)(const setting *s, const bni_data_kernels *kernels),
                              bool writes, bni_type type) {
    static const size_t bands[] = {1, 2, 100}, places[] = {0, 1, 4, 15};
    const bni_data_kernels *kernels = &bni_kernels_select()->data[type];
    for (size_t k = 0; k < COUNT_OF(forms); k++) {
        for (unsigned bits = 0; bits < 32; bits++) {
            setting s = {.of = &forms[k],
                         .type = type,
                         .at_end = bits & 1,
                         .stream = bits & 2,
                         .ahead = bits & 4,
                         .weighted = bits & 8,
                         .positions = bits & 16,
                         .band = 100};
            if ((s.stream && !writes) || (s.positions && !s.weighted)) {
                continue;
            }
            for (size_t m = 0; m < (writes ? COUNT_OF(bands) * COUNT_OF(places) : 1); m++) {
                const size_t begin = writes ? places[m / COUNT_OF(bands)] : 0;
                s.band = writes ? bands[m % COUNT_OF(bands)] : 100;
                s.shift = begin * bni_bytes_of(type) + (type != BNI_F32 && begin == 4);
                if (type == BNI_F32 || !writes || (m + bits + k) % 12 == 0) {
                    check(&s, kernels);
                }
            }
        }
    }
}

static void check_variants(void (*check)(const setting *s, const bni_data_kernels *kernels),
                           bool writes) {
    for (bni_type type = BNI_F32; type < BNI_TYPES; type++) {
        check_variants_of(check, writes, type);
    }
}

static void every_normalize_is_right(void **state) {
    (void)state;
    check_variants(check_normalize, true);
}

static void every_grad_input_is_right(void **state) {
    (void)state;
    check_variants(check_grad_input, true);
}

/* Whatever the sums came to: where the weight is 0 they are not looked at. */
static void at_weight_0_dx_is_that_of_constants(void **state) {
    (void)state;
    size_t found[2] = {0, 0};
    for (size_t k = 0; k < COUNT_OF(forms) * BNI_TYPES; k++) {
        const setting s = {.of = &forms[k / BNI_TYPES],
                           .type = (bni_type)(k % BNI_TYPES),
                           .weighted = true,
                           .positions = true,
                           .band = 100};
        bni_sheet sheet = sheet_of(&s);
        const bni_coef coef = coef_of(&s, false);
        for (size_t c = 0; c < columns_of(s.of); c++) {
            floats(&arrays[SLOPE], columns_of(s.of), false)[c] = NAN;
            floats(&arrays[OFFSET], columns_of(s.of), false)[c] = NAN;
        }
        sheet.at.dy = input(&s, DY, 0.5f);
        void *dx = sheet.at.dx = output(&s, DX);
        bni_kernels_select()->data[s.type].grad_input(&sheet, &coef, (bni_activation){0});
        place p;
        for (size_t m = 0; next_place(&s, m, &p); m++) {
            if (weight_at(&sheet, p) == 0) {
                check_element(&s, "grad_input at weight 0", 0, dx, p,
                              (double)coef.scale[p.column] * value_at(sheet.at.dy, p));
                found[s.of->planes > 0]++;
            }
        }
    }
    assert_true(found[0] > 100 && found[1] > 100);
}

static void every_moments_is_right(void **state) {
    (void)state;
    check_variants(check_moments, false);
}

static void every_grad_sums_is_right(void **state) {
    (void)state;
    check_variants(check_grad_sums, false);
}

/* ---- Activations of what is no ordinary number ------------------------------------------------- */

static const float odd_numbers[] = {
    NAN,        -NAN, INFINITY, -INFINITY,     FLT_MAX,       -FLT_MAX, 0.0f,  -0.0f,   0x1p-149f,
    -0x1p-149f, 3.0f, -3.0f,    0x1.7ffffep1f, 0x1.800002p1f, 1.0f,     -1.0f, FLT_MIN, -FLT_MIN};
enum { ODD = COUNT_OF(odd_numbers), PAIRS = ODD * ODD };

/* By comparisons that any NaN fails. The sign of a 0 is ReLU's. */
static float odd_act(const bni_activation *act, float z, float relu) {
    if (act->curve == BNI_LINEAR || isnan(z)) {
        return z;
    }
    if (act->curve == BNI_LEAKY) {
        return z > 0 ? z : act->slope * z;
    }
    const float most = act->curve == BNI_CLIP ? act->max : INFINITY;
    return z > 0 ? fminf(z, most) : z < 0 ? 0.0f : relu;
}

static float odd_g(const bni_activation *act, float z, float dy) {
    const float below = act->curve == BNI_LEAKY ? act->slope * dy : 0.0f;
    const bool on = isgreater(z, 0.0f) && (act->curve != BNI_CLIP || z < act->max);
    return act->curve == BNI_LINEAR || on ? dy : below;
}

/* Bits, but that NaNs are alike. */
static void assert_like(float got, float want, const char *what, size_t k) {
    if (!(isnan(got) && isnan(want)) && memcmp(&got, &want, sizeof got) != 0) {
        print_error("%s, pair %zu: %a, not %a\n", what, k, (double)got, (double)want);
        fail();
    }
}

/* z is x itself, and y. Each pair of a z and a dy is a column, or an element of a plane. */
static void check_odd(const bn_kernels *kernels, bni_activation act, bool plane) {
    static float x[PAIRS], dy[PAIRS], relu[PAIRS], y[PAIRS], dx[PAIRS], g[PAIRS];
    static float center[PAIRS], scale[PAIRS], shift[PAIRS];
    const bni_coef coef = {.center = center, .scale = scale, .shift = shift};
    bool overflows = false;
    for (size_t k = 0; k < PAIRS; k++) {
        x[k] = odd_numbers[k % ODD];
        dy[k] = odd_numbers[k / ODD];
        scale[k] = 1;
        shift[k] = -0.0f;
    }
    const bni_sheet sheet = {.at = {.x = x, .y = x, .dy = dy, .out = y, .dx = dx, .dresidual = g},
                             .form = {.rows = 1,
                                      .cols = PAIRS,
                                      .x_stride = PAIRS,
                                      .y_stride = PAIRS,
                                      .planes = 1,
                                      .plane_stride = plane ? PAIRS : 0},
                             .hints = {.band = 1}};
    bni_sheet first = sheet;
    first.at.out = relu;
    kernels->data[BNI_F32].normalize(&first, &coef, activations[1]);
    for (int by_y = 0; by_y < 2; by_y++) {
        act.by_y = by_y && act.curve != BNI_LINEAR;
        feclearexcept(FE_ALL_EXCEPT);
        kernels->data[BNI_F32].normalize(&sheet, &coef, act);
        kernels->data[BNI_F32].grad_input(&sheet, &coef, act);
        const int raised = fetestexcept(FE_INVALID | FE_OVERFLOW | FE_DIVBYZERO);
        for (size_t k = 0; k < PAIRS; k++) {
            assert_like(y[k], odd_act(&act, x[k], relu[k]), "act", k);
            assert_like(g[k], odd_g(&act, x[k], dy[k]), "g", k);
            assert_like(dx[k], g[k], "dx", k);
            overflows =
                overflows || (isinf(y[k]) && isfinite(x[k])) || (isinf(g[k]) && isfinite(dy[k]));
        }
        assert_true(raised == 0 || (overflows && raised == FE_OVERFLOW));
    }
}

static void activations_of_odd_numbers_are_right(void **state) {
    (void)state;
    const bn_kernels *kernels = bni_kernels_select();
    for (size_t k = 0; k < COUNT_OF(activations); k++) {
        check_odd(kernels, activations[k], false);
        check_odd(kernels, activations[k], true);
    }
    check_odd(kernels, (bni_activation){.curve = BNI_CLIP, .max = FLT_MAX}, false);
    check_odd(kernels, (bni_activation){.curve = BNI_CLIP, .max = 0x1p-149f}, false);
    check_odd(kernels, (bni_activation){.curve = BNI_LEAKY, .slope = FLT_MAX}, false);
    check_odd(kernels, (bni_activation){.curve = BNI_LEAKY, .slope = 0x1p-149f}, false);
}

/* ---- Kernels over features ------------------------------------------------------------------- */

static void fold_adds_a_features_columns(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{1, 5, 1}, {3, 5, 1}, {1, 3, 7},  {1, 2, 8},
                                       {1, 3, 9}, {2, 3, 8}, {1, 1, 32}, {1, 4, 33}};
    const bn_kernels *kernels = bni_kernels_select();
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        const size_t outer = shapes[k][0], features = shapes[k][1], inner = shapes[k][2];
        double *s = sums(SUM1, outer * features * inner, true), want[8] = {0};
        for (size_t c = 0; c < outer * features * inner; c++) {
            want[c / inner % features] += s[c];
        }
        kernels->features.fold(s, outer, features, inner);
        for (size_t f = 0; f < features; f++) {
            assert_true(s[f] == want[f]);
        }
    }
}

/* All of them at their arrays' last feature: what reads or writes one more is at the guard. */
static void features_end_where_they_end(void **state) {
    (void)state;
    const bn_kernels *kernels = bni_kernels_select();
    for (size_t features = 1; features <= 35; features++) {
        float *of[ARRAYS];
        double *mean = sums(SUM1, features, true), *m2 = sums(SUM2, features, true);
        double *other1 = sums(EXTRA1, features, true), *other2 = sums(EXTRA2, features, true);
        for (size_t k = 0; k < ARRAYS; k++) {
            of[k] = floats(k < SUM1 ? &arrays[k] : &buffers[k - SUM1], features, true);
            fill_multiples(of[k], features, 0.5f, (unsigned)k);
        }
        bni_sums into = {4, mean, m2}, from = {4, other1, other2};
        const bni_cache cache = {of[CENTER], of[SCALE], of[SHIFT], of[SLOPE]};
        kernels->features.merge(&into, &from, features); /* the same: the count is twice as large */
        assert_true(into.count == 8 && mean[features - 1] == 0.25 * (double)(features - 1));
        assert_true(m2[features - 1] == 0.5 * (double)(features - 1));

        into.count = 0;
        kernels->features.merge_block(&into, features, 2, of[CENTER], other1, other2);
        assert_true(mean[features - 1] ==
                    (double)of[CENTER][features - 1] + 0.125 * (double)(features - 1));

        for (size_t d = 0; d < features; d++) {
            mean[d] = 3;
            m2[d] = 8 * 0.75;
            of[OFFSET][d] = 2;
        }
        into.count = 8;
        assert_true(kernels->features.finish_moments(&into, features, 0.25, &cache));
        assert_true(of[CENTER][features - 1] == 3 && of[SHIFT][features - 1] == 1);

        for (size_t d = 0; d < features; d++) {
            of[OFFSET][d] = 3.75f;
        }
        /* Running values of which nothing more is known, and then those that were seen as they are. */
        bni_running old = {.mean = of[OFFSET], .var = of[OFFSET]};
        kernels->features.running_affine(&old, NULL, NULL, features, 0.25, of[EXTRA1], of[SUM2]);
        assert_true(of[EXTRA1][features - 1] == 0.5f && of[SUM2][features - 1] == 0);
        old = (bni_running){of[EXTRA1], of[EXTRA1], of[SUM1], of[OFFSET], of[OFFSET], of[SUM1]};
        for (size_t d = 0; d < features; d++) {
            of[SUM1][d] = 0x1p-40f;
        }
        kernels->features.running_affine(&old, NULL, of[OFFSET], features, 0.25, of[CENTER],
                                         of[SUM2]);
        assert_true(of[CENTER][features - 1] == 0.5f && of[SUM2][features - 1] == 3.75f);
        kernels->features.finish_running(&old, features, 0.25, &cache);
        assert_true(of[CENTER][features - 1] == 0.5f && of[SCALE][features - 1] == 0x1p-40f);
        assert_true(of[SHIFT][features - 1] == 0.5f && of[SLOPE][features - 1] == 0);
        kernels->features.affine(&cache, of[OFFSET], of[EXTRA1], features, of[SUM1], of[SUM2]);
        assert_true(of[SUM1][features - 1] == 1.875f && of[SUM2][features - 1] == 0.5f);

        old = (bni_running){.mean = of[OFFSET], .var = of[EXTRA1]};
        const bni_running next = {
            .mean = of[SUM1], .mean_rest = of[SUM2], .var = of[SLOPE], .var_rest = of[SCALE]};
        assert_true(kernels->features.running(&into, features, true, 0.5, &old, &next));
        assert_true(of[SUM1][features - 1] == 3.375f && of[SLOPE][features - 1] == 0.625f);
        assert_true(of[SUM2][features - 1] == 0 && of[SCALE][features - 1] == 0);
        for (size_t d = 0; d < features; d++) {
            of[SCALE][d] = of[SLOPE][d] = 0; /* no rests */
        }
        assert_true(kernels->features.finish_gradients(&cache, other1, other2, false, features,
                                                       0.125, true, true, of[OFFSET], of[EXTRA1],
                                                       of[SUM1], of[SUM2]));
        assert_true((double)of[EXTRA1][features - 1] == other1[features - 1]);
        assert_true((double)of[OFFSET][features - 1] == 0.5 * other2[features - 1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_normalize_is_right),
                                       cmocka_unit_test(every_grad_input_is_right),
                                       cmocka_unit_test(at_weight_0_dx_is_that_of_constants),
                                       cmocka_unit_test(every_moments_is_right),
                                       cmocka_unit_test(every_grad_sums_is_right),
                                       cmocka_unit_test(activations_of_odd_numbers_are_right),
                                       cmocka_unit_test(fold_adds_a_features_columns),
                                       cmocka_unit_test(features_end_where_they_end)};
    return cmocka_run_group_tests(tests, map_memory, unmap_memory);
}
