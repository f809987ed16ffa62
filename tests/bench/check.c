/* See check.h. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_FEATURES = 3 };

/* A peer may be inaccurate, but not by a hundredth. */
#define PEER_LIMIT (0.01 / REF_UNIT)

/* Copies the chosen features' values out of a tensor of the problem's shape and type. */
static void pick(const bench_check *c, const bench_problem *p, const void *from, float *to) {
    const bench_shape *shape = p->shape;
    const size_t plane = shape->s * dtype_size(p->dtype);
    for (size_t i = 0; i < shape->n; i++) {
        for (size_t k = 0; k < c->layer.num_features; k++, to += shape->s) {
            const char *at = (const char *)from + (i * shape->c + c->feature[k]) * plane;
            dtype_to_floats(p->dtype, shape->s, at, to);
        }
    }
}

static float *picked_vector(const bench_check *c, const float *from) {
    float *to = ref_floats(c->layer.num_features);
    for (size_t k = 0; k < c->layer.num_features; k++) {
        to[k] = from[c->feature[k]];
    }
    return to;
}

/* Gradients of gamma and beta are sums of many terms of either sign: an error is measured by the
 * larger of the sum and of what such a sum comes to by chance. */
static double *gradient_scale(const bench_check *c, const double *gradient) {
    double *scale = ref_doubles(c->layer.num_features);
    for (size_t k = 0; k < c->layer.num_features; k++) {
        scale[k] = fabs(gradient[k]) + sqrt(c->trained.weight);
    }
    return scale;
}

bench_check check_make(const bench_problem *p, size_t values) {
    const bench_shape *shape = p->shape;
    size_t features = values / (shape->n * shape->s);
    features = features < FEWEST_FEATURES ? FEWEST_FEATURES : features;
    features = features < shape->c ? features : shape->c;

    bench_check c = {.layer = {.num_features = features, .options = {.eps = PROBLEM_EPS}},
                     .batch = {.n = shape->n, .spatial = shape->s}};
    c.feature = bench_allocate(features * sizeof *c.feature);
    for (size_t k = 0; k < features; k++) {
        c.feature[k] = features > 1 ? k * (shape->c - 1) / (features - 1) : 0;
    }
    c.layer.gamma = picked_vector(&c, p->gamma);
    c.layer.beta = picked_vector(&c, p->beta);
    c.layer.running_mean = picked_vector(&c, p->running_mean);
    c.layer.running_var = picked_vector(&c, p->running_var);

    float *x = ref_floats(shape->n * features * shape->s);
    float *dy = ref_floats(shape->n * features * shape->s);
    pick(&c, p, p->x, x);
    pick(&c, p, p->dy, dy);
    c.trained = ref_forward(&c.layer, &c.batch, x);
    ref_backward(&c.trained, &c.layer, &c.batch, x, dy);
    c.layer.frozen = true;
    c.frozen = ref_forward(&c.layer, &c.batch, x);
    c.dgamma_scale = gradient_scale(&c, c.trained.dgamma);
    c.dbeta_scale = gradient_scale(&c, c.trained.dbeta);
    free(dy);
    c.got = x;
    return c;
}

void check_free(bench_check *c) {
    ref_free(&c->trained);
    ref_free(&c->frozen);
    free(c->layer.gamma);
    free(c->layer.beta);
    free(c->layer.running_mean);
    free(c->layer.running_var);
    free(c->dgamma_scale);
    free(c->dbeta_scale);
    free(c->feature);
    free(c->got);
    *c = (bench_check){0};
}

static double vector_error(const bench_check *c, const float *got, const double *want,
                           const double *scale) {
    float *picked = picked_vector(c, got);
    const double error = ref_error_vector(c->layer.num_features, picked, want, scale);
    free(picked);
    return error;
}

/* Of what c->got holds. A float within its limit is rounded to a half once more. */
static double tensor_error(const bench_check *c, bn_dtype dtype, const double *want,
                           const double *scale) {
    double worst = 0;
    size_t k = 0;
    for (size_t i = 0; i < c->batch.n; i++) {
        for (size_t d = 0; d < c->layer.num_features; d++) {
            for (size_t s = 0; s < c->batch.spatial; s++, k++) {
                const double off =
                    fabs((double)c->got[k] - want[k]) - dtype_rounding(dtype, want[k]);
                worst = fmax(worst, ref_units(off < 0 ? 0 : off, 0, scale[d]));
            }
        }
    }
    return worst;
}

check_errors check_measure(bench_check *c, const bench_contestant *which, bench_direction d) {
    /* NaNs, so that what another contestant left is not taken for a result. */
    const bench_problem *p = which->problem;
    void *out = which->out != NULL ? which->out : p->out;
    memset(out, 0xff, problem_bytes(p));
    which->call(which->state);
    pick(c, p, out, c->got);

    const ref_result *want = d == INFERENCE ? &c->frozen : &c->trained;
    check_errors errors = {.tensor = tensor_error(c, p->dtype, d == BACKWARD ? want->dx : want->y,
                                                  d == BACKWARD ? want->dx_scale : want->y_scale)};
    if (d == FORWARD && which->mean != NULL) {
        errors.mean = vector_error(c, which->mean, want->mean, want->mean_scale);
    }
    if (d == BACKWARD) {
        errors.parameters = fmax(vector_error(c, which->dgamma, want->dgamma, c->dgamma_scale),
                                 vector_error(c, which->dbeta, want->dbeta, c->dbeta_scale));
    }
    return errors;
}

double check_contestant(bench_check *c, const bench_contestant *which, bench_direction d) {
    const check_errors errors = check_measure(c, which, d);
    const bool library = which->role == ROLE_LIBRARY || which->role == ROLE_FLOAT32;
    const double limit = !library ? PEER_LIMIT : d == BACKWARD ? REF_LIMIT_DX : REF_LIMIT;
    if (!(errors.tensor <= limit && errors.parameters <= (library ? REF_LIMIT : PEER_LIMIT))) {
        char name[CASE_NAME];
        case_name(which->problem->shape, d, name);
        fprintf(stderr,
                "\nbench: WRONG RESULT: %s, %s: the largest error of %s is %.4g units of 2^-24, of "
                "dgamma and dbeta %.4g; allowed are %.4g\n",
                which->name, name, d == BACKWARD ? "dx" : "y", errors.tensor, errors.parameters,
                limit);
        exit(EXIT_FAILURE);
    }
    return errors.tensor;
}
