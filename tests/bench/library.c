/* The library as a contestant. */
#include "contestant.h"

#include <batchnorm/bn_layer.h>

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct state {
    bn_layer layer;
    bn_batch batch;
    const bench_problem *problem;
} state;

static void must(bn_status status) {
    if (status != BN_STATUS_OK) {
        fprintf(stderr, "bench: the library failed: %s\n", bn_status_string(status));
        exit(EXIT_FAILURE);
    }
}

static void forward(void *context) {
    state *s = context;
    must(bn_layer_forward_batch(&s->layer, &s->batch, s->problem->x, s->problem->out));
}

static void backward(void *context) {
    state *s = context;
    must(bn_layer_backward_batch(&s->layer, &s->batch, s->problem->x, s->problem->dy,
                                 s->problem->out));
}

static void inference(void *context) {
    state *s = context;
    must(bn_layer_infer_batch(&s->layer, &s->batch, s->problem->x, s->problem->out));
}

static void end(void *context) {
    state *s = context;
    bn_layer_free(&s->layer);
    free(s);
}

bool library_make(bench_contestant *made, const bench_problem *p, bench_direction d, int threads) {
    static void (*const calls[DIRECTIONS])(void *) = {
        [FORWARD] = forward, [BACKWARD] = backward, [INFERENCE] = inference};
    state *s = bench_allocate(sizeof *s);
    *s = (state){.batch = {.n = p->shape->n, .spatial = p->shape->s, .dtype = p->dtype},
                 .problem = p};

    bn_options options = bn_options_default();
    options.eps = PROBLEM_EPS;
    options.momentum = PROBLEM_MOMENTUM;
    options.num_threads = threads == omp_get_num_procs() && threads > 1 ? 0 : threads;
    must(bn_layer_init(&s->layer, p->shape->c, &options));

    const size_t bytes = p->shape->c * sizeof(float);
    memcpy(s->layer.gamma, p->gamma, bytes);
    memcpy(s->layer.beta, p->beta, bytes);
    memcpy(s->layer.running_mean, p->running_mean, bytes);
    memcpy(s->layer.running_var, p->running_var, bytes);
    if (d == BACKWARD) {
        forward(s);
    }
    *made = (bench_contestant){.name = "batchnorm",
                               .role = ROLE_LIBRARY,
                               .problem = p,
                               .state = s,
                               .call = calls[d],
                               .end = end,
                               .mean = s->layer.saved_mean,
                               .dgamma = s->layer.dgamma,
                               .dbeta = s->layer.dbeta};
    return true;
}

bool float32_make(bench_contestant *made, const bench_problem *floats, bench_direction d,
                  int threads) {
    library_make(made, floats, d, threads);
    made->name = "float32";
    made->role = ROLE_FLOAT32;
    return true;
}
