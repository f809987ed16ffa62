/*
 * What the examples share: checks that end the program with a sentence, a comparison, and random
 * numbers that are the same on every machine.
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <batchnorm/bn_layer.h>

/* A call of the library that has to succeed. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        const bn_status must_status = (call);                                                      \
        if (must_status != BN_STATUS_OK) {                                                         \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,                          \
                    bn_status_string(must_status));                                                \
            exit(EXIT_FAILURE);                                                                    \
        }                                                                                          \
    } while (0)

/* A claim that has to hold; NaN compares false, so it fails the claim. */
#define CLAIM(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);         \
            exit(EXIT_FAILURE);                                                                    \
        }                                                                                          \
    } while (0)

/* Infinite where a difference is NaN or Inf, so that no claim of smallness passes on those. */
static inline float largest_difference(size_t count, const float *a, const float *b) {
    float largest = 0;
    for (size_t k = 0; k < count; k++) {
        const float difference = fabsf(a[k] - b[k]);
        if (!(difference <= FLT_MAX))
            return INFINITY;
        largest = fmaxf(largest, difference);
    }
    return largest;
}

/* splitmix64 (G. L. Steele, D. Lea and C. H. Flood, 2014): any seed will do. */
static inline uint64_t random_bits(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

/* Fills values[0..count) uniformly from [low, high]. The upper 24 bits of a draw fit a float. */
static inline void random_fill(uint64_t *state, float low, float high, size_t count,
                               float *values) {
    for (size_t i = 0; i < count; i++)
        values[i] = low + (high - low) * ((float)(random_bits(state) >> 40) * 0x1p-24F);
}

/* A permutation of order[0..count), all equally likely but for a bias below count / 2^64. */
static inline void random_shuffle(uint64_t *state, size_t count, size_t *order) {
    for (size_t i = count; i > 1; i--) {
        const size_t j = (size_t)(random_bits(state) % i);
        const size_t swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
}

#endif /* EXAMPLE_H */
