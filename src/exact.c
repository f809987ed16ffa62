/* See exact.h. */
#include "exact.h"

#include <fenv.h>

/* An element: its offsets, and its weight. */
typedef struct element {
    const bni_sheet *sheet;
    size_t x, y;
    double weight;
    bni_type type;
} element;

typedef void (*visit)(void *sums, element of);

/* A run of a row's columns; of a plane all of them. */
static void visit_columns(element first, size_t columns, visit add, void *sums) {
    const bni_form *form = &first.sheet->form;
    for (size_t c = 0; c < columns; c++) {
        const element each = {first.sheet, first.x + c, first.y + c,
                              bni_weighs_columns(form) ? (double)bni_column_weight(form, c)
                                                       : first.weight,
                              first.type};
        add(sums, each);
    }
}

static element first_of_row(const bni_sheet *sheet, size_t row, size_t at, bni_type type) {
    const bni_form *form = &sheet->form;
    return (element){sheet, at + row * form->x_stride, at + row * form->y_stride,
                     form->weight == NULL ? 1.0 : (double)bni_weight(form, row), type};
}

/* The last row of a fold may be short. */
static void visit_rows(const bni_feature *of, const bni_sheet *sheet, visit add, void *sums) {
    const size_t inner = of->cut->inner;
    const size_t step = bni_group_size(of->cut, of->task.group) * inner;
    for (size_t r = 0; r < sheet->form.rows; r++) {
        for (size_t c = of->place * inner; c < sheet->form.cols; c += step) {
            visit_columns(first_of_row(sheet, r, c, of->cut->shape->type), inner, add, sums);
        }
    }
}

static void visit_all(const bni_feature *of, visit add, void *sums) {
    bni_walk walk = bni_walk_begin(of->cut, of->data, BNI_READS, of->task);
    bni_sheet sheet;
    while (bni_walk_next(&walk, &sheet)) {
        if (sheet.form.plane_stride != 0) {
            visit_columns(
                first_of_row(&sheet, 0, of->place * sheet.form.plane_stride, of->cut->shape->type),
                sheet.form.cols, add, sums);
        } else {
            visit_rows(of, &sheet, add, sums);
        }
    }
}

/* ---- Moments: the mean, and then the squares about it ---------------------------------------
 *
 * All about the first value that has weight: where there is no other value, that is the mean, and the
 * squares are 0, whatever the weights. */

typedef struct exact_moments {
    double count, pivot, sum, shift, squares;
} exact_moments;

/* A row of weight 0 may have an x that is no number. */
static void add_value(void *sums, element of) {
    exact_moments *m = sums;
    if (of.weight != 0.0) {
        const double x = (double)bni_load_element(of.sheet->at.x, of.x, of.type);
        m->pivot = m->count == 0.0 ? x : m->pivot;
        m->count += of.weight;
        m->sum += of.weight * (x - m->pivot);
    }
}

static void add_square(void *sums, element of) {
    exact_moments *m = sums;
    if (of.weight != 0.0) {
        const double d =
            ((double)bni_load_element(of.sheet->at.x, of.x, of.type) - m->pivot) - m->shift;
        m->squares += of.weight * d * d;
    }
}

void bni_exact_moments(const bni_feature *feature, double *mean, double *m2) {
    exact_moments m = {0};
    visit_all(feature, add_value, &m);
    m.shift = m.count > 0.0 ? m.sum / m.count : 0.0;
    visit_all(feature, add_square, &m);
    *mean = m.pivot + m.shift;
    *m2 = m.squares;
}

/* ---- Gradients ------------------------------------------------------------------------------ */

typedef struct exact_gradients {
    float center, scale, shift;
    bni_activation act;
    double one, two;
} exact_gradients;

/* Forward's y, or the same z as in forward: of its sign always, but what rounds to max where z is
 * rounded twice may be its neighbour. */
static float place_of(const exact_gradients *g, element of, float x) {
    return g->act.by_y ? bni_load_element(of.sheet->at.y, of.y, of.type)
                       : (float)((double)(x - g->center) * (double)g->scale + (double)g->shift);
}

/* The g of the kernels, rounded as theirs. */
static float gradient_of(const exact_gradients *g, element of, float x) {
    const float dy = bni_load_element(of.sheet->at.dy, of.y, of.type);
    if (g->act.curve == BNI_LINEAR) {
        return dy;
    }
    const float z = place_of(g, of, x);
    const bool positive = bni_is_positive(z);
    switch (g->act.curve) {
    case BNI_LEAKY:
        return (positive ? 1.0f : g->act.slope) * dy;
    case BNI_CLIP:
        return positive && bni_float_bits(z) < bni_float_bits(g->act.max) ? dy : 0.0f;
    default:
        return positive ? dy : 0.0f;
    }
}

static void add_gradient(void *sums, element of) {
    exact_gradients *s = sums;
    const float x = bni_load_element(of.sheet->at.x, of.x, of.type);
    const double g = (double)gradient_of(s, of, x);
    s->one += g;
    if (!bni_is_zero(g) || of.weight != 0.0) {
        s->two += g * ((double)x - (double)s->center);
    }
}

void bni_exact_gradients(const bni_feature *feature, const bni_coef *coef, bni_activation act,
                         double *s1, double *s2) {
    const bni_cut *cut = feature->cut;
    const size_t column = feature->place * cut->inner;
    exact_gradients g = {.center = bni_load_float(coef->center + column), .act = act};
    if (bni_rebuilds(act)) {
        g.scale = coef->scale[column];
        g.shift = coef->shift[column];
    }
    visit_all(feature, add_gradient, &g);
    *s1 = g.one;
    *s2 = g.two;
}

/* ---- Exceptions ----------------------------------------------------------------------------- */

/* A machine without one has no name for it either. */
#ifndef FE_INVALID
#define FE_INVALID 0
#endif
#ifndef FE_OVERFLOW
#define FE_OVERFLOW 0
#endif

/* Underflow is nobody's fault. */
static const int serious = FE_INVALID | FE_OVERFLOW;

bni_trial bni_trial_begin(void) {
    return (bni_trial){fetestexcept(serious)};
}

void bni_trial_undo(bni_trial trial) {
    feclearexcept(serious & ~trial.raised);
}
