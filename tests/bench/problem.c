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

/* Cuts at most MOST_ARRAYS arrays of so many floats each out of one allocation. */
static void *allocate(size_t floats, size_t count, float **arrays) {
    const size_t pages = (floats * sizeof(float) + PAGE - 1) / PAGE + 1; /* with room behind */
    char *memory = present(aligned_alloc(PAGE, count * pages * PAGE), count * pages * PAGE);
    for (size_t k = 0; k < count; k++) {
        arrays[k] = (float *)(void *)(memory + k * (pages * PAGE + STAGGER));
    }
    return memory;
}

bench_problem problem_make(const bench_shape *shape) {
    enum { X, DY, OUT, TENSORS };
    enum { GAMMA, BETA, MEAN, VAR, VECTORS };
    const size_t elements = shape_elements(shape), features = shape->c;
    float *tensor[TENSORS], *vector[VECTORS];
    bench_problem p = {.shape = shape};
    p.memory[0] = allocate(elements, TENSORS, tensor);
    p.memory[1] = allocate(features, VECTORS, vector);

    ref_random random = {elements};
    ref_fill_uniform(&random, tensor[X], elements, -1, 3);
    ref_fill_uniform(&random, tensor[DY], elements, -1, 1);
    memset(tensor[OUT], 0, elements * sizeof(float));
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

void problem_free(bench_problem *p) {
    free(p->memory[0]);
    free(p->memory[1]);
    *p = (bench_problem){0};
}
