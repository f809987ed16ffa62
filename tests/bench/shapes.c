/* See shapes.h. */
#include "shapes.h"

#include <stdio.h>

/* A layer of a network, of one image and of eight, in both layouts. */
#define LAYER(c, s, note)                                                                          \
    {1, c, s, CLASS_ONE, note}, {s, c, 1, CLASS_ONE_LAST, note ", channels last"},                 \
        {8, c, s, CLASS_EIGHT, note}, {                                                            \
        8 * (s), c, 1, CLASS_EIGHT_LAST, note ", channels last"                                    \
    }

const bench_shape shapes[] = {
    {8, 64, 1, CLASS_CALL, "a very small layer"},
    {32, 10, 1, CLASS_CALL, "the classes of a small problem"},
    {32, 64, 1, CLASS_CALL, "a small hidden layer"},
    {1, 1024, 1, CLASS_CALL, "one sample"},
    {128, 100, 1, CLASS_CALL, "features that fill no vector"},
    {128, 256, 1, CLASS_CACHED, "a hidden layer"},
    {256, 1024, 1, CLASS_CACHED, "a hidden layer"},
    {1024, 512, 1, CLASS_CACHED, "a large batch"},
    {1024, 1000, 1, CLASS_CACHED, "features that fill no vector"},
    {1024, 1024, 1, CLASS_CACHED, "a large batch"},
    {256, 2048, 1, CLASS_WIDE, "a wide layer"},
    {2048, 2048, 1, CLASS_WIDE, "a wide layer"},
    {128, 4096, 1, CLASS_WIDE, "a wide layer"},
    {1024, 4096, 1, CLASS_WIDE, "a wide layer"},
    {16384, 1024, 1, CLASS_MEMORY, "beyond the caches"},
    {65536, 256, 1, CLASS_MEMORY, "beyond the caches"},
    {20000, 1000, 1, CLASS_MEMORY, "beyond the caches, rows that share cache lines"},
    {1000000, 10, 1, CLASS_BETWEEN, "a table of few columns"},
    {1000000, 16, 1, CLASS_BETWEEN, "a table of few columns"},
    {1000000, 64, 1, CLASS_MEMORY, "a table"},
    {8 * 3136, 64, 1, CLASS_BETWEEN, "images, channels last"},
    {32 * 12544, 64, 1, CLASS_MEMORY, "images, channels last"},
    {32 * 3136, 256, 1, CLASS_MEMORY, "images, channels last"},
    {32 * 784, 512, 1, CLASS_BETWEEN, "images, channels last"},
    {32 * 49, 2048, 1, CLASS_BETWEEN, "images, channels last"},
    {8, 64, 3136, CLASS_PLANES, "images"},
    {32, 64, 12544, CLASS_PLANES, "images"},
    {32, 256, 3136, CLASS_PLANES, "images"},
    {32, 512, 784, CLASS_PLANES, "images"},
    {64, 288, 1225, CLASS_PLANES, "images, planes that share cache lines"},
    {32, 2048, 49, CLASS_PLANES, "images"},
    {32, 2048, 64, CLASS_PLANES, "images"},
    LAYER(64, 12544, "ResNet-50"),
    LAYER(256, 3136, "ResNet-50"),
    LAYER(512, 784, "ResNet-50"),
    LAYER(1024, 196, "ResNet-50"),
    LAYER(2048, 49, "ResNet-50"),
    LAYER(96, 3136, "DenseNet-121"),
    LAYER(480, 196, "DenseNet-121"),
    LAYER(992, 49, "DenseNet-121"),
};
const size_t shape_count = sizeof shapes / sizeof shapes[0];

size_t shape_elements(const bench_shape *shape) {
    return shape->n * shape->c * shape->s;
}

bool shape_has(const bench_shape *shape, bench_direction d) {
    return d == INFERENCE || shape->n * shape->s > 1;
}

const char *shape_class_name(shape_class c) {
    static const char *const names[CLASSES] = {
        [CLASS_CALL] = "small calls",
        [CLASS_CACHED] = "N x D in cache",
        [CLASS_WIDE] = "rows of 2048 and 4096",
        [CLASS_BETWEEN] = "N x D below 64 MiB",
        [CLASS_MEMORY] = "N x D from 64 MiB on",
        [CLASS_PLANES] = "N x C x S",
        [CLASS_EIGHT] = "8 images",
        [CLASS_EIGHT_LAST] = "8 images channels last",
        [CLASS_ONE] = "one image",
        [CLASS_ONE_LAST] = "one image channels last",
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
