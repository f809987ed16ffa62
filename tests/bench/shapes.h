/* The shapes and directions that are measured, and how they are named and classed. */
#ifndef BN_BENCH_SHAPES_H
#define BN_BENCH_SHAPES_H

#include <stdbool.h>
#include <stddef.h>

/* What limits a batch, and where it comes from: a figure is given for each class. */
typedef enum shape_class {
    CLASS_CALL,    /* the cost of a call */
    CLASS_CACHED,  /* N x D, 128 x 256 to 1024 x 1024 */
    CLASS_WIDE,    /* rows of 2048 and 4096 within caches */
    CLASS_BETWEEN, /* N x D above that, but below 64 MiB a buffer */
    CLASS_MEMORY,  /* N x D from 64 MiB a buffer on, twice what the largest common caches hold */
    CLASS_PLANES,  /* N x C x S of many images */
    CLASS_EIGHT,   /* networks' layers, 8 images */
    CLASS_EIGHT_LAST,
    CLASS_ONE, /* the same, one image */
    CLASS_ONE_LAST,
    CLASSES
} shape_class;

typedef struct bench_shape {
    size_t n, c, s; /* s = 1: N x D; else N x C x S */
    shape_class class;
    const char *note; /* where the shape comes from; never NULL */
} bench_shape;

extern const bench_shape shapes[];
extern const size_t shape_count;

size_t shape_elements(const bench_shape *shape);
const char *shape_class_name(shape_class c);

typedef enum bench_direction { FORWARD, BACKWARD, INFERENCE, DIRECTIONS } bench_direction;

const char *direction_name(bench_direction d);

/* Whether there is such a call: training needs more than one value a feature. */
bool shape_has(const bench_shape *shape, bench_direction d);

/* How many arrays of the shape's size must move at least once: x and y, or x, dy and dx. */
size_t direction_arrays(bench_direction d);

/* What --filter looks into, and --list prints: "NxCxS direction". */
enum { CASE_NAME = 64 };
void shape_name(const bench_shape *shape, char name[CASE_NAME]);
void case_name(const bench_shape *shape, bench_direction d, char name[CASE_NAME]);

#endif
