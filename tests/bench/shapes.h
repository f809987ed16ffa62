/* The shapes and directions that are measured, and how they are named and classed. */
#ifndef BN_BENCH_SHAPES_H
#define BN_BENCH_SHAPES_H

#include <stddef.h>

typedef struct bench_shape {
    size_t n, c, s;   /* s = 1: N x D; else N x C x S */
    const char *note; /* where the shape comes from; never NULL */
} bench_shape;

extern const bench_shape shapes[];
extern const size_t shape_count;

size_t shape_elements(const bench_shape *shape);

/* What limits a batch: the cost of a call, a cache, or memory. */
typedef enum shape_class {
    CLASS_SMALL,   /* N x D below 128 x 256 */
    CLASS_CACHED,  /* N x D up to 1024 x 4096 */
    CLASS_BETWEEN, /* N x D above that, but below 64 MiB a buffer */
    CLASS_MEMORY,  /* N x D from 64 MiB a buffer on, twice what the largest common caches hold */
    CLASS_PLANES,  /* N x C x S */
    CLASSES
} shape_class;

shape_class shape_class_of(const bench_shape *shape);
const char *shape_class_name(shape_class c);

typedef enum bench_direction { FORWARD, BACKWARD, INFERENCE, DIRECTIONS } bench_direction;

const char *direction_name(bench_direction d);

/* How many arrays of the shape's size must move at least once: x and y, or x, dy and dx. */
size_t direction_arrays(bench_direction d);

/* What --filter looks into, and --list prints: "NxCxS direction". */
enum { CASE_NAME = 64 };
void shape_name(const bench_shape *shape, char name[CASE_NAME]);
void case_name(const bench_shape *shape, bench_direction d, char name[CASE_NAME]);

#endif
