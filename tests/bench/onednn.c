/*
 * oneDNN as a contestant, called the way it is fastest: everything but the execution is prepared
 * once; N x D buffers are N x C x 1 x 1 in channels-last order, which its vector code asks for (4
 * dimensions, channels innermost), images N x C x S x 1 in the order they are in.
 *
 * What it writes is at a multiple of 64 bytes, and in a second variant 16 bytes further on: with the
 * channels innermost it writes past the caches where it can, whatever the size, and within caches the
 * other is often the faster.
 *
 * Version 3 differs from 2 in how descriptors are made. Run with 2.6; with 3 it is only known to
 * compile.
 */
#include "contestant.h"

#include <oneapi/dnnl/dnnl.h>

#include <stdio.h>
#include <stdlib.h>

#if DNNL_CPU_THREADING_RUNTIME != DNNL_RUNTIME_OMP
#error "this oneDNN does not use OpenMP: its number of threads cannot be set"
#endif

enum {
    SRC,
    DST,
    MEAN,
    VARIANCE,
    SCALE,
    SHIFT,
    DIFF_DST,
    DIFF_SRC,
    DIFF_SCALE,
    DIFF_SHIFT,
    MEMORIES
};

typedef struct state {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[MEMORIES];
    dnnl_exec_arg_t args[MEMORIES];
    int arg_count;
    float *vectors;
} state;

static void must(dnnl_status_t status) {
    if (status != dnnl_success) {
        fprintf(stderr, "bench: oneDNN failed with status %d\n", (int)status);
        exit(EXIT_FAILURE);
    }
}

/* False where oneDNN has no such primitive. */
static bool there(dnnl_status_t status) {
    if (status != dnnl_unimplemented) {
        must(status);
    }
    return status == dnnl_success;
}

/* ---- What the versions do differently -------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3

static void make_memory(state *s, int which, int dimensions, const dnnl_dims_t sizes,
                        dnnl_data_type_t type, dnnl_format_tag_t order, void *data) {
    dnnl_memory_desc_t desc;
    must(dnnl_memory_desc_create_with_tag(&desc, dimensions, sizes, type, order));
    must(dnnl_memory_create(&s->memory[which], desc, s->engine, data));
    must(dnnl_memory_desc_destroy(desc));
}

static bool describe(dnnl_primitive_desc_t *made, const state *s, dnnl_prop_kind_t kind,
                     unsigned flags, const_dnnl_primitive_desc_t hint) {
    const_dnnl_memory_desc_t desc;
    must(dnnl_memory_get_memory_desc(s->memory[SRC], &desc));
    return there(hint == NULL ? dnnl_batch_normalization_forward_primitive_desc_create(
                                    made, s->engine, kind, desc, desc, PROBLEM_EPS, flags, NULL)
                              : dnnl_batch_normalization_backward_primitive_desc_create(
                                    made, s->engine, kind, desc, desc, desc, PROBLEM_EPS, flags,
                                    hint, NULL));
}

#else

static void make_memory(state *s, int which, int dimensions, const dnnl_dims_t sizes,
                        dnnl_data_type_t type, dnnl_format_tag_t order, void *data) {
    dnnl_memory_desc_t desc;
    must(dnnl_memory_desc_init_by_tag(&desc, dimensions, sizes, type, order));
    must(dnnl_memory_create(&s->memory[which], &desc, s->engine, data));
}

static bool describe(dnnl_primitive_desc_t *made, const state *s, dnnl_prop_kind_t kind,
                     unsigned flags, const_dnnl_primitive_desc_t hint) {
    const dnnl_memory_desc_t *desc;
    dnnl_batch_normalization_desc_t operation;
    must(dnnl_memory_get_memory_desc(s->memory[SRC], &desc));
    must(hint == NULL ? dnnl_batch_normalization_forward_desc_init(&operation, kind, desc,
                                                                   PROBLEM_EPS, flags)
                      : dnnl_batch_normalization_backward_desc_init(&operation, kind, desc, desc,
                                                                    PROBLEM_EPS, flags));
    return there(dnnl_primitive_desc_create(made, &operation, NULL, s->engine, hint));
}

#endif

/* ---- The contestant -------------------------------------------------------------------------- */

static void call(void *context) {
    const state *s = context;
    must(dnnl_primitive_execute(s->primitive, s->stream, s->arg_count, s->args));
    must(dnnl_stream_wait(s->stream));
}

static void set_args(state *s, bench_direction d) {
    static const int names[MEMORIES] = {
        [SRC] = DNNL_ARG_SRC,
        [DST] = DNNL_ARG_DST,
        [MEAN] = DNNL_ARG_MEAN,
        [VARIANCE] = DNNL_ARG_VARIANCE,
        [SCALE] = DNNL_ARG_SCALE,
        [SHIFT] = DNNL_ARG_SHIFT,
        [DIFF_DST] = DNNL_ARG_DIFF_DST,
        [DIFF_SRC] = DNNL_ARG_DIFF_SRC,
        [DIFF_SCALE] = DNNL_ARG_DIFF_SCALE,
        [DIFF_SHIFT] = DNNL_ARG_DIFF_SHIFT,
    };
    const unsigned both = 1u << SRC | 1u << MEAN | 1u << VARIANCE | 1u << SCALE | 1u << SHIFT;
    const unsigned backward = 1u << DIFF_DST | 1u << DIFF_SRC | 1u << DIFF_SCALE | 1u << DIFF_SHIFT;
    const unsigned wanted = both | (d == BACKWARD ? backward : 1u << DST);
    s->arg_count = 0;
    for (int which = 0; which < MEMORIES; which++) {
        if (wanted >> which & 1u) {
            s->args[s->arg_count++] = (dnnl_exec_arg_t){names[which], s->memory[which]};
        }
    }
}

static void end(void *context) {
    state *s = context;
    must(dnnl_primitive_destroy(s->primitive));
    for (int which = 0; which < MEMORIES; which++) {
        must(dnnl_memory_destroy(s->memory[which]));
    }
    must(dnnl_stream_destroy(s->stream));
    must(dnnl_engine_destroy(s->engine));
    free(s->vectors);
    free(s);
}

/* False where there is none for the type. */
static bool make_primitive(state *s, bench_direction d, unsigned flags) {
    dnnl_primitive_desc_t desc, backward;
    if (!describe(&desc, s, d == INFERENCE ? dnnl_forward_inference : dnnl_forward_training, flags,
                  NULL)) {
        return false;
    }
    must(dnnl_primitive_create(&s->primitive, desc));
    set_args(s, d == BACKWARD ? FORWARD : d);
    bool made = true;
    if (d == BACKWARD) { /* which reads what a forward left in mean and variance */
        call(s);
        must(dnnl_primitive_destroy(s->primitive));
        s->primitive = NULL;
        made = describe(&backward, s, dnnl_backward, flags, desc);
        if (made) {
            must(dnnl_primitive_create(&s->primitive, backward));
            must(dnnl_primitive_desc_destroy(backward));
            set_args(s, BACKWARD);
        }
    }
    must(dnnl_primitive_desc_destroy(desc));
    return made;
}

/* oneDNN takes its inputs without const, and does not write to them. */
static void *input(const void *data) {
    union {
        const void *in;
        void *out;
    } pointer = {.in = data};
    return pointer.out;
}

bool onednn_make(bench_contestant *made, const bench_problem *p, bench_direction d,
                 size_t variant) {
    static const dnnl_data_type_t types[] = {
        [BN_DTYPE_F32] = dnnl_f32, [BN_DTYPE_BF16] = dnnl_bf16, [BN_DTYPE_F16] = dnnl_f16};
    if (variant > (p->shape->s == 1)) {
        return false;
    }
    void *const out = (char *)p->out + (variant == 0 ? 0 : 16);
    state *s = bench_allocate(sizeof *s);
    const size_t c = p->shape->c;
    s->vectors = bench_allocate(4 * c * sizeof *s->vectors);
    float *const mean = s->vectors, *const variance = mean + c;
    float *const dgamma = variance + c, *const dbeta = dgamma + c;
    must(dnnl_engine_create(&s->engine, dnnl_cpu, 0));
    must(dnnl_stream_create(&s->stream, s->engine, dnnl_stream_default_flags));

    const dnnl_dims_t sizes = {(dnnl_dim_t)p->shape->n, (dnnl_dim_t)c, (dnnl_dim_t)p->shape->s, 1};
    const dnnl_dims_t vector = {(dnnl_dim_t)c};
    const dnnl_format_tag_t order = p->shape->s > 1 ? dnnl_abcd : dnnl_acdb;
    void *const data[MEMORIES] = {
        [SRC] = input(p->x),
        [DST] = out,
        [MEAN] = d == INFERENCE ? input(p->running_mean) : mean,
        [VARIANCE] = d == INFERENCE ? input(p->running_var) : variance,
        [SCALE] = input(p->gamma),
        [SHIFT] = input(p->beta),
        [DIFF_DST] = input(p->dy),
        [DIFF_SRC] = out,
        [DIFF_SCALE] = dgamma,
        [DIFF_SHIFT] = dbeta,
    };
    for (int which = 0; which < MEMORIES; which++) {
        const bool tensor = which == SRC || which == DST || which == DIFF_DST || which == DIFF_SRC;
        make_memory(s, which, tensor ? 4 : 1, tensor ? sizes : vector,
                    tensor ? types[p->dtype] : dnnl_f32, tensor ? order : dnnl_a, data[which]);
    }

    const unsigned flags = (unsigned)dnnl_use_scale | (unsigned)dnnl_use_shift |
                           (d == INFERENCE ? (unsigned)dnnl_use_global_stats : 0u);
    if (!make_primitive(s, d, flags)) {
        end(s);
        return false;
    }
    *made = (bench_contestant){.name = variant == 0 ? "oneDNN" : "oneDNN+16",
                               .role = ROLE_PEER,
                               .problem = p,
                               .state = s,
                               .call = call,
                               .end = end,
                               .mean = mean,
                               .dgamma = dgamma,
                               .dbeta = dbeta,
                               .out = out};
    return true;
}

const char *onednn_version(void) {
    static char text[32];
    const dnnl_version_t *version = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    return text;
}
