/*
 * Batch normalization as a C programmer writes it down from the formulas: float sums, mean and then
 * variance, plain loops in the order of memory. Compiled with what such a program is compiled with,
 * -O3 -march=native.
 */
#include "contestant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct state {
    const bench_problem *problem;
    const float *x, *dy;
    float *out;
    size_t n, c, s;
    float *mean, *var, *invstd, *running_mean, *running_var, *dgamma, *dbeta;
} state;

static void zero(float *values, size_t count) {
    memset(values, 0, count * sizeof *values);
}

/* Turns the sums of squares into variance and invstd, and updates the running values. */
static void finish_statistics(state *t) {
    float m = (float)(t->n * t->s);
    for (size_t d = 0; d < t->c; d++) {
        t->var[d] /= m;
        t->invstd[d] = 1.0f / sqrtf(t->var[d] + PROBLEM_EPS);
        t->running_mean[d] =
            PROBLEM_MOMENTUM * t->running_mean[d] + (1 - PROBLEM_MOMENTUM) * t->mean[d];
        t->running_var[d] =
            PROBLEM_MOMENTUM * t->running_var[d] + (1 - PROBLEM_MOMENTUM) * t->var[d] * m / (m - 1);
    }
}

/* ---- N x D ----------------------------------------------------------------------------------- */

static void rows_normalize(const state *t, const float *mean, const float *invstd) {
    const float *restrict x = t->x, *gamma = t->problem->gamma, *beta = t->problem->beta;
    float *restrict y = t->out;
    for (size_t i = 0; i < t->n; i++) {
        for (size_t d = 0; d < t->c; d++) {
            y[i * t->c + d] = gamma[d] * (x[i * t->c + d] - mean[d]) * invstd[d] + beta[d];
        }
    }
}

static void rows_forward(void *context) {
    state *t = context;
    const float *restrict x = t->x;
    float *restrict mean = t->mean, *restrict var = t->var;
    zero(mean, t->c);
    zero(var, t->c);
    for (size_t i = 0; i < t->n; i++) {
        for (size_t d = 0; d < t->c; d++) {
            mean[d] += x[i * t->c + d];
        }
    }
    for (size_t d = 0; d < t->c; d++) {
        mean[d] /= (float)t->n;
    }
    for (size_t i = 0; i < t->n; i++) {
        for (size_t d = 0; d < t->c; d++) {
            float centered = x[i * t->c + d] - mean[d];
            var[d] += centered * centered;
        }
    }
    finish_statistics(t);
    rows_normalize(t, t->mean, t->invstd);
}

static void rows_backward(void *context) {
    state *t = context;
    const float *restrict x = t->x, *restrict dy = t->dy;
    const float *restrict mean = t->mean, *restrict invstd = t->invstd;
    const float *restrict gamma = t->problem->gamma;
    float *restrict dx = t->out, *restrict dgamma = t->dgamma, *restrict dbeta = t->dbeta;
    zero(dgamma, t->c);
    zero(dbeta, t->c);
    for (size_t i = 0; i < t->n; i++) {
        for (size_t d = 0; d < t->c; d++) {
            dbeta[d] += dy[i * t->c + d];
            dgamma[d] += dy[i * t->c + d] * (x[i * t->c + d] - mean[d]) * invstd[d];
        }
    }
    for (size_t i = 0; i < t->n; i++) {
        for (size_t d = 0; d < t->c; d++) {
            float xhat = (x[i * t->c + d] - mean[d]) * invstd[d];
            dx[i * t->c + d] = gamma[d] * invstd[d] *
                               (dy[i * t->c + d] - (dbeta[d] + xhat * dgamma[d]) / (float)t->n);
        }
    }
}

/* ---- N x C x S ------------------------------------------------------------------------------- */

static void planes_normalize(const state *t, const float *mean, const float *invstd) {
    for (size_t i = 0; i < t->n; i++) {
        for (size_t d = 0; d < t->c; d++) {
            const float *restrict x = t->x + (i * t->c + d) * t->s;
            float *restrict y = t->out + (i * t->c + d) * t->s;
            float gamma = t->problem->gamma[d], beta = t->problem->beta[d];
            for (size_t s = 0; s < t->s; s++) {
                y[s] = gamma * (x[s] - mean[d]) * invstd[d] + beta;
            }
        }
    }
}

static void planes_forward(void *context) {
    state *t = context;
    for (size_t d = 0; d < t->c; d++) {
        float sum = 0, squares = 0;
        for (size_t i = 0; i < t->n; i++) {
            const float *x = t->x + (i * t->c + d) * t->s;
            for (size_t s = 0; s < t->s; s++) {
                sum += x[s];
            }
        }
        float mean = sum / (float)(t->n * t->s);
        for (size_t i = 0; i < t->n; i++) {
            const float *x = t->x + (i * t->c + d) * t->s;
            for (size_t s = 0; s < t->s; s++) {
                squares += (x[s] - mean) * (x[s] - mean);
            }
        }
        t->mean[d] = mean;
        t->var[d] = squares;
    }
    finish_statistics(t);
    planes_normalize(t, t->mean, t->invstd);
}

static void planes_backward(void *context) {
    state *t = context;
    float m = (float)(t->n * t->s);
    for (size_t d = 0; d < t->c; d++) {
        float mean = t->mean[d], invstd = t->invstd[d], dgamma = 0, dbeta = 0;
        float factor = t->problem->gamma[d] * invstd;
        for (size_t i = 0; i < t->n; i++) {
            const float *x = t->x + (i * t->c + d) * t->s;
            const float *dy = t->dy + (i * t->c + d) * t->s;
            for (size_t s = 0; s < t->s; s++) {
                dbeta += dy[s];
                dgamma += dy[s] * (x[s] - mean) * invstd;
            }
        }
        for (size_t i = 0; i < t->n; i++) {
            const float *restrict x = t->x + (i * t->c + d) * t->s;
            const float *restrict dy = t->dy + (i * t->c + d) * t->s;
            float *restrict dx = t->out + (i * t->c + d) * t->s;
            for (size_t s = 0; s < t->s; s++) {
                dx[s] = factor * (dy[s] - (dbeta + (x[s] - mean) * invstd * dgamma) / m);
            }
        }
        t->dgamma[d] = dgamma;
        t->dbeta[d] = dbeta;
    }
}

/* ---- The contestant -------------------------------------------------------------------------- */

static void inference(void *context) {
    state *t = context;
    for (size_t d = 0; d < t->c; d++) {
        t->invstd[d] = 1.0f / sqrtf(t->problem->running_var[d] + PROBLEM_EPS);
    }
    (t->s > 1 ? planes_normalize : rows_normalize)(t, t->problem->running_mean, t->invstd);
}

static void end(void *context) {
    state *t = context;
    free(t->mean);
    free(t);
}

bool textbook_make(bench_contestant *made, const bench_problem *p, bench_direction d) {
    if (p->dtype != BN_DTYPE_F32) {
        return false;
    }
    state *t = bench_allocate(sizeof *t);
    *t = (state){.problem = p,
                 .x = p->x,
                 .dy = p->dy,
                 .out = p->out,
                 .n = p->shape->n,
                 .c = p->shape->c,
                 .s = p->shape->s};
    float **vectors[] = {&t->mean,        &t->var,    &t->invstd, &t->running_mean,
                         &t->running_var, &t->dgamma, &t->dbeta};
    const size_t count = sizeof vectors / sizeof vectors[0];
    float *memory = bench_allocate(count * t->c * sizeof *memory);
    for (size_t k = 0; k < count; k++) {
        *vectors[k] = memory + k * t->c;
    }

    void (*const forward)(void *) = t->s > 1 ? planes_forward : rows_forward;
    void (*const calls[DIRECTIONS])(void *) = {[FORWARD] = forward,
                                               [BACKWARD] =
                                                   t->s > 1 ? planes_backward : rows_backward,
                                               [INFERENCE] = inference};
    if (d == BACKWARD) {
        forward(t);
    }
    *made = (bench_contestant){.name = "textbook",
                               .role = ROLE_TEXTBOOK,
                               .problem = p,
                               .state = t,
                               .call = calls[d],
                               .end = end,
                               .mean = t->mean,
                               .dgamma = t->dgamma,
                               .dbeta = t->dbeta};
    return true;
}
