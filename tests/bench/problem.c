/* See problem.h. */
#include "problem.h"

#include "../unit/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Arrays begin on a cache line, each elsewhere in its page: at the same place, loads behind stores
 * 4096 bytes apart are held up on many processors, the floor's too. */
enum { PAGE = 4096, STAGGER = 15 * 64, MOST_ARRAYS = PAGE / STAGGER };

static void *present(void *memory, size_t bytes) {
    if (memory == NULL) {
        fprintf(stderr, "bench: no memory for %zu bytes\n", bytes);
        exit(EXIT_FAILURE);
    }
    return memory;
}

void *bench_allocate(size_t bytes) {
    return present(calloc(1, bytes), bytes);
}

/* Cuts at most MOST_ARRAYS arrays of so many bytes each out of one allocation. */
static void *allocate(size_t bytes, size_t count, void **arrays) {
    const size_t pages = (bytes + PAGE - 1) / PAGE + 1; /* with room behind */
    char *memory = present(aligned_alloc(PAGE, count * pages * PAGE), count * pages * PAGE);
    for (size_t k = 0; k < count; k++) {
        arrays[k] = memory + k * (pages * PAGE + STAGGER);
    }
    return memory;
}

enum { X, DY, OUT, TENSORS };

size_t problem_bytes(const bench_problem *p) {
    return shape_elements(p->shape) * dtype_size(p->dtype);
}

/* As a half type has them. Piece by piece: there is no second buffer. */
static void round_values(bn_dtype dtype, float *values, size_t count) {
    uint16_t halves[1024];
    const size_t most = sizeof halves / sizeof halves[0];
    for (size_t k = 0; k < count && dtype != BN_DTYPE_F32; k += most) {
        const size_t now = count - k < most ? count - k : most;
        dtype_from_floats(dtype, now, values + k, halves);
        dtype_to_floats(dtype, now, halves, values + k);
    }
}

bench_problem problem_make(const bench_shape *shape, bn_dtype values, double mean) {
    enum { GAMMA, BETA, MEAN, VAR, VECTORS };
    const size_t elements = shape_elements(shape), features = shape->c;
    void *tensor[TENSORS], *vector[VECTORS];
    bench_problem p = {.shape = shape, .dtype = BN_DTYPE_F32};
    p.memory[0] = allocate(problem_bytes(&p), TENSORS, tensor);
    p.memory[1] = allocate(features * sizeof(float), VECTORS, vector);

    ref_random random = {elements};
    ref_fill_uniform(&random, tensor[X], elements, mean - 2, mean + 2);
    ref_fill_uniform(&random, tensor[DY], elements, -1, 1);
    round_values(values, tensor[X], elements);
    round_values(values, tensor[DY], elements);
    memset(tensor[OUT], 0, problem_bytes(&p));
    ref_fill_uniform(&random, vector[GAMMA], features, 0.5, 1.5);
    ref_fill_uniform(&random, vector[BETA], features, -1, 1);
    ref_fill_uniform(&random, vector[MEAN], features, 0.5, 1.5);
    ref_fill_uniform(&random, vector[VAR], features, 0.5, 1.5);

    p.x = tensor[X];
    p.dy = tensor[DY];
    p.out = tensor[OUT];
    p.gamma = vector[GAMMA];
    p.beta = vector[BETA];
    p.running_mean = vector[MEAN];
    p.running_var = vector[VAR];
    return p;
}

bench_problem problem_in(const bench_problem *floats, bn_dtype dtype) {
    const size_t elements = shape_elements(floats->shape);
    void *tensor[TENSORS];
    bench_problem p = *floats;
    p.dtype = dtype;
    p.memory[0] = allocate(problem_bytes(&p), TENSORS, tensor);
    p.memory[1] = NULL;
    dtype_from_floats(dtype, elements, floats->x, tensor[X]);
    dtype_from_floats(dtype, elements, floats->dy, tensor[DY]);
    memset(tensor[OUT], 0, problem_bytes(&p));
    p.x = tensor[X];
    p.dy = tensor[DY];
    p.out = tensor[OUT];
    return p;
}

void problem_free(bench_problem *p) {
    free(p->memory[0]);
    free(p->memory[1]);
    *p = (bench_problem){0};
}
