/*
 * The layer against answers that it had no part in: cases from a file, whose float64 results are
 * PyTorch's own (autograd's for the gradients). The environment variable BN_GOLDEN_FILE names
 * another file of the same format:
 *
 *     case NAME
 *     shape N D S
 *     options EPS MOMENTUM SCALE SHIFT UNBIASED RELU FROZEN STEPS     (MOMENTUM may be
 * "cumulative") TAG COUNT VALUES...         gamma, beta; running_mean0, running_var0 step I then,
 * of this step: weight, residual, x, dy (floats); y, dx, dgamma, dbeta, dresidual, mean, invstd
 *     ...                         after the last: running_mean, running_var, "tracked COUNT", infer
 *     end
 */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef BN_GOLDEN_FILE
#error "BN_GOLDEN_FILE must name the file of cases"
#endif

/* ---- The file -------------------------------------------------------------------------------- */

/* Values are kept as both types: nine digits name a float, not the double of the same digits. */
typedef struct array {
    char tag[16];
    int step; /* -1 before the first */
    size_t count;
    float *floats;
    double *doubles;
} array;

enum { MOST_ARRAYS = 128, MOST_CASES = 256 };

typedef struct golden_case {
    char name[64];
    size_t n, num_features, spatial;
    bn_options options;
    bool frozen;
    int steps;
    uint64_t tracked;
    array arrays[MOST_ARRAYS];
    size_t num_arrays;
} golden_case;

static golden_case *cases[MOST_CASES];
static struct CMUnitTest tests[3 * MOST_CASES + 1]; /* the first one counts the cases */
static size_t num_cases;

/* What the file says is either understood or the end of the program: a case must not go missing. */
static void demand(bool condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "%s, case %zu: %s\n", "golden file", num_cases, what);
        exit(EXIT_FAILURE);
    }
}

/* The next word of the text, or "" at its end; lines that begin with # are skipped. */
static const char *next_word(char **text) {
    static const char space[] = " \t\r\n";
    char *word = *text + strspn(*text, space);
    while (*word == '#') {
        word += strcspn(word, "\n");
        word += strspn(word, space);
    }
    char *end = word + strcspn(word, space);
    *text = *end ? end + 1 : end;
    *end = '\0';
    return word;
}

static double next_double(char **text, float *as_float) {
    const char *word = next_word(text);
    char *end;
    double value = strtod(word, &end);
    demand(*word && !*end, "a number was expected");
    if (as_float) {
        *as_float = strtof(word, NULL);
    }
    return value;
}

static size_t next_count(char **text) {
    double value = next_double(text, NULL);
    demand(value >= 0 && value <= 1e9 && value == floor(value), "a count was expected");
    return (size_t)value;
}

static void read_options(golden_case *c, char **text) {
    c->options = bn_options_default();
    next_double(text, &c->options.eps);
    const char *momentum = next_word(text);
    c->options.momentum =
        strcmp(momentum, "cumulative") == 0 ? BN_MOMENTUM_CUMULATIVE : strtof(momentum, NULL);
    c->options.scale = next_count(text) != 0;
    c->options.shift = next_count(text) != 0;
    c->options.biased_running_var = next_count(text) == 0;
    c->options.activation = next_count(text) != 0 ? BN_ACTIVATION_RELU : BN_ACTIVATION_NONE;
    c->frozen = next_count(text) != 0;
    c->steps = (int)next_count(text);
    demand(c->steps > 0, "a case has at least one step");
}

static void read_array(golden_case *c, const char *tag, int step, char **text) {
    static const char *const tags[] = {"gamma",
                                       "beta",
                                       "running_mean0",
                                       "running_var0",
                                       "weight",
                                       "residual",
                                       "x",
                                       "dy",
                                       "y",
                                       "dx",
                                       "dgamma",
                                       "dbeta",
                                       "dresidual",
                                       "mean",
                                       "invstd",
                                       "infer",
                                       "running_mean",
                                       "running_var"};
    bool known = false;
    for (size_t k = 0; k < sizeof tags / sizeof *tags; k++) {
        known = known || strcmp(tag, tags[k]) == 0;
    }
    demand(known, "a tag was expected");
    demand(c->num_arrays < MOST_ARRAYS, "too many arrays");
    array *a = &c->arrays[c->num_arrays++];
    snprintf(a->tag, sizeof a->tag, "%s", tag);
    a->step = step;
    a->count = next_count(text);
    a->floats = ref_floats(a->count);
    a->doubles = ref_doubles(a->count);
    for (size_t k = 0; k < a->count; k++) {
        a->doubles[k] = next_double(text, &a->floats[k]);
    }
}

static golden_case *read_case(char **text) {
    golden_case *c = calloc(1, sizeof *c);
    demand(c != NULL, "out of memory");
    snprintf(c->name, sizeof c->name, "%s", next_word(text));
    int step = -1;
    for (;;) {
        const char *tag = next_word(text);
        if (strcmp(tag, "end") == 0) {
            demand(step + 1 == c->steps, "not as many steps as announced");
            return c;
        } else if (strcmp(tag, "shape") == 0) {
            c->n = next_count(text);
            c->num_features = next_count(text);
            c->spatial = next_count(text);
        } else if (strcmp(tag, "options") == 0) {
            read_options(c, text);
        } else if (strcmp(tag, "step") == 0) {
            demand((int)next_count(text) == ++step, "steps come in order");
        } else if (strcmp(tag, "tracked") == 0) {
            c->tracked = next_count(text);
        } else {
            read_array(c, tag, step, text);
        }
    }
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    demand(file && fseek(file, 0, SEEK_END) == 0, "cannot be opened");
    long size = ftell(file);
    demand(size > 0, "is empty");
    rewind(file);
    char *text = calloc((size_t)size + 1, 1);
    demand(text && fread(text, 1, (size_t)size, file) == (size_t)size, "cannot be read");
    fclose(file);
    return text;
}

static void read_cases(char *text) {
    const char *word = next_word(&text);
    for (; *word; word = next_word(&text)) {
        demand(strcmp(word, "case") == 0, "a case was expected");
        demand(num_cases < MOST_CASES, "too many cases");
        cases[num_cases] = read_case(&text);
        num_cases++;
    }
}

static void free_cases(void) {
    for (size_t k = 0; k < num_cases; k++) {
        for (size_t a = 0; a < cases[k]->num_arrays; a++) {
            free(cases[k]->arrays[a].floats);
            free(cases[k]->arrays[a].doubles);
        }
        free(cases[k]);
    }
}

/* ---- A case ---------------------------------------------------------------------------------- */

/* An array of the case, of exactly this size; NULL where there is none. */
static const array *find(const golden_case *c, int step, const char *tag, size_t count) {
    for (size_t k = 0; k < c->num_arrays; k++) {
        const array *a = &c->arrays[k];
        if (a->step == step && strcmp(a->tag, tag) == 0) {
            assert_int_equal(a->count, count);
            return a;
        }
    }
    return NULL;
}

/* The same of one that must be there. */
static const array *need(const golden_case *c, int step, const char *tag, size_t count) {
    const array *a = find(c, step, tag, count);
    if (!a) {
        fail_msg("%s: no %s in step %d", c->name, tag, step);
    }
    return a;
}

static void copy(float *to, const array *from) {
    memcpy(to, from->floats, from->count * sizeof *to);
}

static void expect(double *to, const array *from) {
    memcpy(to, from->doubles, from->count * sizeof *to);
}

static size_t values(const golden_case *c) {
    return c->n * c->num_features * c->spatial;
}

static bn_layer make_layer(const golden_case *c) {
    bn_layer layer;
    size_t features = c->num_features;
    assert_int_equal(bn_layer_init(&layer, features, &c->options), BN_STATUS_OK);
    layer.frozen = c->frozen;
    if (c->options.scale) {
        copy(layer.gamma, need(c, -1, "gamma", features));
    }
    if (c->options.shift) {
        copy(layer.beta, need(c, -1, "beta", features));
    }
    copy(layer.running_mean, need(c, -1, "running_mean0", features));
    copy(layer.running_var, need(c, -1, "running_var0", features));
    return layer;
}

static bn_batch make_batch(const golden_case *c, int step) {
    const array *weight = find(c, step, "weight", c->n);
    const array *residual = find(c, step, "residual", values(c));
    return (bn_batch){.n = c->n,
                      .spatial = c->spatial,
                      .sample_weight = weight ? weight->floats : NULL,
                      .residual = residual ? residual->floats : NULL};
}

/* The file's answers of one step in the form of a result. */
static ref_result read_answers(const golden_case *c, const bn_layer *layer, int step) {
    size_t features = c->num_features;
    ref_result want = ref_alloc(c->n, features, c->spatial);
    expect(want.y, need(c, step, "y", values(c)));
    expect(want.dx, need(c, step, "dx", values(c)));
    expect(want.mean, need(c, step, "mean", features));
    expect(want.invstd, need(c, step, "invstd", features));
    if (layer->gamma) {
        expect(want.dgamma, need(c, step, "dgamma", features));
    }
    if (layer->beta) {
        expect(want.dbeta, need(c, step, "dbeta", features));
    }
    if (find(c, step, "residual", values(c))) {
        expect(want.dresidual, need(c, step, "dresidual", values(c)));
    }
    ref_largest(&want, need(c, step, "dy", values(c))->doubles, want.dx_scale);
    for (size_t d = 0; d < features; d++) {
        want.dx_scale[d] *= fabs((layer->gamma ? (double)layer->gamma[d] : 1) * want.invstd[d]);
    }
    return want;
}

/* The reference must agree far better than a float can: a hundredth of a unit leaves PyTorch room
 * for its own rounding in double, which with an offset of 1e6 is 1e6 * 2^-53 of the spread. */
static void assert_near(size_t count, const double *got, const double *want) {
    double largest = 0;
    for (size_t k = 0; k < count; k++) {
        largest = fmax(largest, fabs(want[k]));
    }
    for (size_t k = 0; k < count; k++) {
        assert_true(ref_units(got[k], want[k], largest) <= 0.01);
    }
}

/* Takes from the reference what errors are measured by: the file knows neither y before the
 * activation nor the addends of sums. */
static void check_reference(const golden_case *c, ref_result *want, const bn_layer *layer,
                            const bn_batch *batch, const float *x, const float *dy) {
    ref_result got = ref_forward(layer, batch, x);
    ref_backward(&got, layer, batch, x, dy);
    assert_near(values(c), got.y, want->y);
    assert_near(values(c), got.dx, want->dx);
    assert_near(c->num_features, got.mean, want->mean);
    assert_near(c->num_features, got.invstd, want->invstd);
    if (layer->gamma) {
        assert_near(c->num_features, got.dgamma, want->dgamma);
    }
    if (layer->beta) {
        assert_near(c->num_features, got.dbeta, want->dbeta);
    }
    if (batch->residual) {
        assert_near(values(c), got.dresidual, want->dresidual);
    }
    const size_t bytes = c->num_features * sizeof(double);
    memcpy(want->y_scale, got.y_scale, bytes);
    memcpy(want->mean_scale, got.mean_scale, bytes);
    memcpy(want->dgamma_scale, got.dgamma_scale, bytes);
    memcpy(want->dbeta_scale, got.dbeta_scale, bytes);
    ref_free(&got);
}

static void check_step(const golden_case *c, bn_layer *layer, int step) {
    const float *x = need(c, step, "x", values(c))->floats;
    const float *dy = need(c, step, "dy", values(c))->floats;
    float *y = ref_floats(values(c)), *dx = ref_floats(values(c));
    float *dresidual = ref_floats(values(c));
    bn_batch batch = make_batch(c, step);
    ref_result want = read_answers(c, layer, step);

    check_reference(c, &want, layer, &batch, x, dy);
    assert_int_equal(bn_layer_forward_batch(layer, &batch, x, y), BN_STATUS_OK);
    batch.y = y;
    batch.dresidual = batch.residual ? dresidual : NULL;
    assert_int_equal(bn_layer_backward_batch(layer, &batch, x, dy, dx), BN_STATUS_OK);
    ref_errors e = ref_measure(&want, layer, &batch, y, dx);
    if (!ref_within_limits(&e)) {
        fail_msg("step %d: y %.3g, dx %.3g, mean %.3g, invstd %.3g, dgamma %.3g, dbeta %.3g, "
                 "dresidual %.3g units",
                 step, e.y, e.dx, e.mean, e.invstd, e.dgamma, e.dbeta, e.dresidual);
    }

    ref_free(&want);
    free(y);
    free(dx);
    free(dresidual);
}

/* A running value is rounded to float after every step, in units of what it is then, and a mean may
 * end as less than it was in between. So it is measured by the largest that it was after any step,
 * and a mean by the deviations of the batches too. */
static double *running_scale(const golden_case *c, const char *tag) {
    size_t features = c->num_features;
    double *scale = ref_doubles(features), *mean = ref_doubles(features);
    ref_result shape = {.n = 1, .num_features = features, .spatial = 1};
    ref_largest(&shape, need(c, c->steps - 1, tag, features)->doubles, scale);
    expect(mean, need(c, -1, "running_mean0", features));
    for (int k = 0; strcmp(tag, "running_mean") == 0 && k < c->steps; k++) {
        double momentum = (double)c->options.momentum;
        double keep = c->options.momentum == BN_MOMENTUM_CUMULATIVE ? k / (k + 1.0) : momentum;
        const double *batch_mean = need(c, k, "mean", features)->doubles;
        const double *invstd = need(c, k, "invstd", features)->doubles;
        for (size_t d = 0; d < features; d++) {
            mean[d] = keep * mean[d] + (1 - keep) * batch_mean[d];
            scale[d] = fmax(scale[d], fmax(fabs(mean[d]), 1 / invstd[d]));
        }
    }
    free(mean);
    return scale;
}

static void check_running(const golden_case *c, const bn_layer *layer) {
    const char *tags[] = {"running_mean", "running_var"};
    const float *got[] = {layer->running_mean, layer->running_var};
    for (int k = 0; k < 2; k++) {
        const double *want = need(c, c->steps - 1, tags[k], c->num_features)->doubles;
        double *scale = running_scale(c, tags[k]);
        double units = ref_error_vector(c->num_features, got[k], want, scale);
        free(scale);
        if (!(units <= REF_LIMIT)) {
            fail_msg("%s: %.3g units", tags[k], units);
        }
    }
    assert_int_equal(layer->num_batches_tracked, c->tracked);
}

/* Inference is exact to REF_LIMIT, by the file's answers too, which are made with running values in
 * double: the layer knows its own to more digits than float. */
static void check_infer(const golden_case *c, bn_layer *layer) {
    int last = c->steps - 1;
    const float *x = need(c, last, "x", values(c))->floats;
    float *y = ref_floats(values(c));
    bn_batch batch = make_batch(c, last);
    batch.sample_weight = NULL;
    assert_int_equal(bn_layer_infer_batch(layer, &batch, x, y), BN_STATUS_OK);

    layer->frozen = true;
    ref_result want = ref_forward(layer, &batch, x);
    const size_t row = c->num_features * c->spatial;
    const double *exact = need(c, last, "infer", values(c))->doubles;
    double held = ref_error_tensor(&want, y, row, want.y, want.y_scale);
    double filed = ref_error_tensor(&want, y, row, exact, want.y_scale);
    free(y);
    ref_free(&want);
    if (!(held <= REF_LIMIT && filed <= REF_LIMIT)) {
        fail_msg("infer: %.3g units, from the file %.3g", held, filed);
    }
}

static void case_agrees(void **state) {
    const golden_case *c = *state;
    bn_layer layer = make_layer(c);
    for (int step = 0; step < c->steps; step++) {
        check_step(c, &layer, step);
    }
    check_running(c, &layer);
    check_infer(c, &layer);
    bn_layer_free(&layer);
}

/* ---- The same in half types ------------------------------------------------------------------ */

/* Tensors as they are after rounding to the type: false where that leaves Inf of them. */
static bool take_step(trial *t, const golden_case *c, int step) {
    const array *weight = find(c, step, "weight", c->n);
    copy(t->x, need(c, step, "x", values(c)));
    copy(t->dy, need(c, step, "dy", values(c)));
    if (t->residual) {
        copy(t->residual, need(c, step, "residual", values(c)));
    }
    t->batch.sample_weight = weight ? weight->floats : NULL;
    trial_pack(t);
    bool finite = true;
    for (size_t k = 0; k < values(c); k++) {
        finite = finite && isfinite(t->x[k]);
    }
    return finite;
}

/* The answers to rounded inputs are the reference's, which has given those of the file. */
static void case_agrees_in(const golden_case *c, bn_dtype dtype) {
    trial t = trial_new(c->num_features, &c->options,
                        (bn_batch){.n = c->n, .spatial = c->spatial, .dtype = dtype});
    bn_layer_free(&t.layer);
    t.layer = make_layer(c);
    if (find(c, 0, "residual", values(c))) {
        trial_add_residual(&t);
    }
    bool finite = true;
    for (int step = 0; finite && step < c->steps; step++) {
        finite = take_step(&t, c, step);
        if (finite) {
            trial_check(&t);
        } else {
            assert_status(trial_forward(&t, t.x, t.y), BN_STATUS_NOT_FINITE);
        }
    }
    if (finite) {
        t.batch.sample_weight = NULL;
        trial_check_infer(&t);
    }
    trial_free(&t);
}

static void case_agrees_in_bfloat16(void **state) {
    case_agrees_in(*state, BN_DTYPE_BF16);
}

static void case_agrees_in_float16(void **state) {
    case_agrees_in(*state, BN_DTYPE_F16);
}

/* ---- All of them ----------------------------------------------------------------------------- */

static const char *other_file;

static void no_case_is_missing(void **state) {
    (void)state;
    if (other_file) {
        assert_true(num_cases > 0);
    } else {
        assert_int_equal(num_cases, 32);
    }
}

int main(void) {
    other_file = getenv("BN_GOLDEN_FILE");
    char *text = read_file(other_file ? other_file : BN_GOLDEN_FILE);
    read_cases(text);
    free(text);

    tests[0] = (struct CMUnitTest)cmocka_unit_test(no_case_is_missing);
    for (size_t k = 0; k < num_cases; k++) {
        static void (*const ways[])(void **) = {case_agrees, case_agrees_in_bfloat16,
                                                case_agrees_in_float16};
        for (size_t way = 0; way < COUNT_OF(ways); way++) {
            tests[COUNT_OF(ways) * k + way + 1] = (struct CMUnitTest){
                .name = cases[k]->name, .test_func = ways[way], .initial_state = cases[k]};
        }
    }
    /* The macro around this function takes arrays of one size only. */
    int failed = _cmocka_run_group_tests("golden", tests, 3 * num_cases + 1, NULL, NULL);
    free_cases();
    return failed;
}
