/* See shapes.h. */
#include "shapes.h"

#include <stdio.h>

#define IMAGES "images, N x C x S"
#define ROWS   "the same images, channels last"

const bench_shape shapes[] = {
    {32, 64, 1, "a small hidden layer"},
    {128, 100, 1, "features that fill no vector"},
    {128, 256, 1, "a hidden layer"},
    {256, 1024, 1, "a hidden layer"},
    {1024, 512, 1, "a large batch"},
    {1024, 1000, 1, "features that fill no vector"},
    {1024, 1024, 1, "a large batch"},
    {1024, 4096, 1, "a wide layer"},
    {16384, 1024, 1, "beyond the caches"},
    {65536, 256, 1, "beyond the caches"},
    {20000, 1000, 1, "beyond the caches, rows that share cache lines"},
    {1000000, 10, 1, "a table of few columns"},
    {1000000, 16, 1, "a table of few columns"},
    {1000000, 64, 1, "a table"},
    {8, 64, 3136, IMAGES},
    {32, 64, 12544, IMAGES},
    {32, 256, 3136, IMAGES},
    {32, 512, 784, IMAGES},
    {64, 288, 1225, IMAGES ", planes that share cache lines"},
    {32, 2048, 49, IMAGES},
    {32, 2048, 64, IMAGES},
    {8 * 3136, 64, 1, ROWS},
    {32 * 12544, 64, 1, ROWS},
    {32 * 3136, 256, 1, ROWS},
    {32 * 784, 512, 1, ROWS},
    {32 * 49, 2048, 1, ROWS},
    {32 * 64, 2048, 1, ROWS},
};
const size_t shape_count = sizeof shapes / sizeof shapes[0];

size_t shape_elements(const bench_shape *shape) {
    return shape->n * shape->c * shape->s;
}

shape_class shape_class_of(const bench_shape *shape) {
    const size_t elements = shape_elements(shape);
    if (shape->s > 1) {
        return CLASS_PLANES;
    }
    if (elements < (size_t)128 * 256) {
        return CLASS_SMALL;
    }
    if (elements <= (size_t)1024 * 4096) {
        return CLASS_CACHED;
    }
    return elements * sizeof(float) < (size_t)64 << 20 ? CLASS_BETWEEN : CLASS_MEMORY;
}

const char *shape_class_name(shape_class c) {
    static const char *const names[CLASSES] = {
        [CLASS_SMALL] = "N x D below 128x256",
        [CLASS_CACHED] = "N x D, 128x256 to 1024x4096",
        [CLASS_BETWEEN] = "N x D between those",
        [CLASS_MEMORY] = "N x D from 64 MiB on",
        [CLASS_PLANES] = "N x C x S",
    };
    return names[c];
}

const char *direction_name(bench_direction d) {
    static const char *const names[DIRECTIONS] = {
        [FORWARD] = "forward", [BACKWARD] = "backward", [INFERENCE] = "inference"};
    return names[d];
}

size_t direction_arrays(bench_direction d) {
    return d == BACKWARD ? 3 : 2;
}

void shape_name(const bench_shape *shape, char name[CASE_NAME]) {
    snprintf(name, CASE_NAME, "%zux%zux%zu", shape->n, shape->c, shape->s);
}

void case_name(const bench_shape *shape, bench_direction d, char name[CASE_NAME]) {
    snprintf(name, CASE_NAME, "%zux%zux%zu %s", shape->n, shape->c, shape->s, direction_name(d));
}
