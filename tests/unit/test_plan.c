/*
 * How a batch is cut: in every pass each element is in exactly one sheet, sheets keep their limits,
 * and the order of sums depends on the shape alone.
 */
#include "support.h"

#include "plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const bni_tuning usual = BNI_TUNING_DEFAULT;
static const bni_tuning other = {0, 0, 0, 0, 0, 0, 0, 24, 8, true, 32, 8, 100, 1, 2, 0, 40};

enum { MOST_WRITTEN = 700 };

typedef struct marks {
    unsigned char *times; /* how often each element was in a sheet */
    const char *x;        /* never read */
    size_t count;
} marks;

static void mark(marks *m, size_t first, size_t cols) {
    assert_true(first + cols <= m->count);
    for (size_t c = 0; c < cols; c++) {
        m->times[first + c]++;
    }
}

/* Where the weight is of the position that an element of x has. */
static const float *position_of(const bni_shape *shape, size_t at) {
    const size_t in_sample = at % shape->x_stride;
    return shape->position == NULL ? NULL
                                   : shape->position + at / shape->x_stride * shape->spatial +
                                         in_sample % shape->spatial;
}

static void mark_sheet(marks *m, const bni_shape *shape, const bni_sheet *sheet) {
    const size_t bytes = shape->type == BNI_F32 ? 4 : 2;
    const size_t from = (size_t)((const char *)sheet->at.x - m->x), at = from / bytes;
    assert_true(from % bytes == 0);
    assert_ptr_equal(sheet->form.position, position_of(shape, at));
    for (size_t p = 0; p < sheet->form.planes; p++) {
        const size_t plane = at + p * sheet->form.plane_stride;
        for (size_t r = 0; r < sheet->form.rows; r++) {
            mark(m, plane + r * sheet->form.x_stride, sheet->form.cols);
        }
    }
}

static void check_limits(const bni_cut *cut, bni_pass pass, const bni_sheet *sheet) {
    const bni_form *form = &sheet->form;
    const bool wide = pass == BNI_WRITES && cut->layout == BNI_ROWS && cut->inner == 1;
    assert_true(sheet->hints.band >= 1 && form->rows >= 1 && form->cols >= 1 && form->planes >= 1);
    assert_true((form->plane_stride != 0) == (cut->layout == BNI_PLANES));
    if (form->plane_stride == 0) {
        assert_true(form->rows <= BNI_SHEET_ROWS && form->planes == 1);
        assert_true(form->cols <= (wide ? cut->group_features : BNI_PANEL));
    } else {
        assert_true(form->rows == 1 && form->cols <= form->plane_stride);
        assert_true(pass == BNI_WRITES || form->planes <= BNI_NARROW);
        assert_true(form->planes > 1 || form->cols <= BNI_SHEET_ELEMENTS);
    }
}

/* Every task of a cut. */
static void check_cut(const bni_cut *cut, bni_pass pass, marks *m) {
    const bni_shape *shape = cut->shape;
    const bni_buffers data = {.x = m->x};
    memset(m->times, 0, m->count);
    assert_true(cut->groups * cut->group_features >= shape->features);
    assert_true((cut->groups - 1) * cut->group_features < shape->features);
    for (size_t group = 0; group < cut->groups; group++) {
        for (size_t chunk = 0; chunk < cut->chunks; chunk++) {
            bni_walk walk = bni_walk_begin(cut, &data, pass, (bni_task){group, chunk});
            bni_sheet sheet;
            while (bni_walk_next(&walk, &sheet)) {
                check_limits(cut, pass, &sheet);
                mark_sheet(m, shape, &sheet);
            }
        }
    }
    for (size_t i = 0; i < m->count; i++) {
        const bool inside = i % shape->x_stride < shape->features * shape->spatial;
        if (m->times[i] != inside) {
            print_error("%zu x %zu x %zu, stride %zu, pass %d: element %zu is in %d sheets\n",
                        shape->n, shape->features, shape->spatial, shape->x_stride, (int)pass, i,
                        m->times[i]);
            fail();
        }
    }
}

static void check_same_sums(const bni_cut *a, const bni_cut *b) {
    assert_true(a->layout == b->layout && a->outer == b->outer && a->inner == b->inner);
    assert_true(a->group_features == b->group_features && a->panel_cols == b->panel_cols);
    assert_true(a->chunks == b->chunks && a->chunk_units == b->chunk_units);
}

/* The rows of every sheet that sums are formed of, in their order: with the same ones, for each
 * tuning, type and panel, sums are added up in the same order. */
static uint64_t rows_of_sums(const bni_cut *cut, const char *x, size_t group) {
    const bni_buffers data = {.x = x};
    uint64_t digest = 0;
    for (size_t chunk = 0; chunk < cut->chunks; chunk++) {
        bni_walk walk = bni_walk_begin(cut, &data, BNI_READS, (bni_task){group, chunk});
        bni_sheet sheet;
        while (bni_walk_next(&walk, &sheet)) {
            digest = digest * 31 + bni_depth(&sheet.form);
        }
        digest = digest * 31 + 7;
    }
    return digest;
}

static void check_shape(const bni_shape *shape, marks *m) {
    const bni_cut sums = bni_cut_sums(shape, &usual, BNI_Y);
    const bni_cut tuned = bni_cut_sums(shape, &other, BNI_DX);
    const bni_cut narrow = bni_cut_narrow(&sums);
    const bni_cut *const cuts[] = {&sums, &tuned};
    bni_shape floats = *shape;
    floats.type = BNI_F32;
    const bni_cut of_floats = bni_cut_sums(&floats, &usual, BNI_Y);
    check_same_sums(&sums, &tuned);
    check_same_sums(&sums, &of_floats);
    assert_true(sums.chunks <= bni_most_chunks(shape->features));
    assert_true(narrow.group_features <= BNI_NARROW && narrow.chunks == sums.chunks);
    check_cut(&narrow, BNI_READS, m);
    const uint64_t order = rows_of_sums(&sums, m->x, 0);
    assert_true(rows_of_sums(&tuned, m->x, 0) == order);
    assert_true(rows_of_sums(&of_floats, m->x, 0) == order);
    for (size_t group = 0; sums.layout == BNI_ROWS && group < narrow.groups; group++) {
        assert_true(rows_of_sums(&narrow, m->x, group) == order);
    }
    for (size_t k = 0; k < COUNT_OF(cuts); k++) {
        const bni_cut whole = bni_cut_writes(cuts[k], shape->features);
        const bni_cut parts = bni_cut_writes(cuts[k], MOST_WRITTEN);
        check_cut(cuts[k], BNI_READS, m);
        check_cut(cuts[k], BNI_FOLLOWS, m);
        check_cut(&whole, BNI_WRITES, m);
        check_cut(&parts, BNI_WRITES, m);
        assert_true(parts.layout != BNI_ROWS || parts.group_features <= MOST_WRITTEN);
    }
}

/* In [1, most], small ones as likely as large ones. */
static size_t any_size(ref_random *random, size_t most) {
    const double size = exp(ref_uniform(random) * log((double)most + 1.0));
    return size > (double)most ? most : (size_t)size;
}

static void every_element_is_in_one_sheet_of_each_pass(void **state) {
    (void)state;
    enum { ELEMENTS = 1 << 20 };
    static const float weights[1]; /* whether there are any is all that is looked at */
    ref_random random = {1};
    float *x = malloc(ELEMENTS * sizeof *x);
    marks m = {.times = malloc(ELEMENTS), .x = (const char *)x};
    assert_true(x != NULL && m.times != NULL);
    for (int k = 0; k < 400; k++) {
        bni_shape shape = {
            .features = any_size(&random, 3000), .spatial = 1, .type = (bni_type)(k / 2 % 3)};
        if (k % 2) {
            shape.spatial = any_size(&random, 3000);
        }
        const size_t row = shape.features * shape.spatial;
        shape.x_stride = shape.y_stride = row + (k % 5 == 0 ? any_size(&random, 70) : 0);
        if (shape.x_stride > ELEMENTS) {
            continue;
        }
        shape.n = any_size(&random, k % 3 == 2    ? BNI_FEW_SAMPLES + 1
                                    : k % 10 == 1 ? ELEMENTS / shape.x_stride
                                                  : 1 + 65536 / shape.x_stride);
        shape.n = shape.n * shape.x_stride > ELEMENTS ? 1 : shape.n;
        shape.weight = k % 7 == 0 ? weights : NULL;
        shape.position = k % 7 == 0 && k % 4 < 2 ? x : NULL; /* never read either */
        shape.elements = (double)shape.n * (double)row;
        shape.values = (double)shape.n * (double)shape.spatial;
        m.count = (shape.n - 1) * shape.x_stride + row;
        check_shape(&shape, &m);
    }
    free(m.times);
    free(x);
}

/* Sizes that are said to be far apart: nothing is allocated for them. */
static void the_largest_batches_have_chunks_that_scratch_holds(void **state) {
    (void)state;
    for (size_t features = 1; features <= (size_t)1 << 20; features += features / 3 + 1) {
        for (size_t n = 2; n <= (size_t)1 << 24; n *= 4) {
            const bni_shape shape = {.n = n,
                                     .features = features,
                                     .spatial = 1,
                                     .x_stride = features,
                                     .y_stride = features,
                                     .elements = (double)n * (double)features,
                                     .values = (double)n};
            const bni_cut cut = bni_cut_sums(&shape, &usual, BNI_Y);
            assert_true(cut.chunks >= 1 && cut.chunks <= bni_most_chunks(features));
            assert_true(cut.chunks * cut.chunk_units >= cut.units);
            assert_true((cut.chunks - 1) * cut.chunk_units < cut.units);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_is_in_one_sheet_of_each_pass),
        cmocka_unit_test(the_largest_batches_have_chunks_that_scratch_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
