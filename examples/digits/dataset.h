/*
 * The hand-written digits: reading them, splitting them into what trains and what tests.
 */
#ifndef DIGITS_DATASET_H
#define DIGITS_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NUM_DIGITS = 1797,
    NUM_TRAIN = 1437,
    NUM_TEST = NUM_DIGITS - NUM_TRAIN,
    NUM_PIXELS = 64,
    NUM_CLASSES = 10
};

typedef struct digit {
    float pixels[NUM_PIXELS]; /* 8 x 8, row-major; from 0 to 1 */
    int label;                /* 0 to 9 */
} digit;

typedef struct dataset {
    digit digits[NUM_DIGITS];
    size_t train[NUM_TRAIN], test[NUM_TEST]; /* which digits, once split */
} dataset;

/* Reads the CSV file at path: NUM_DIGITS lines of NUM_PIXELS pixels, 0 to 16, and the class. Where
 * that is not what it finds, it says on stderr what is wrong in which line and returns false. */
bool dataset_read(dataset *data, const char *path);

/* Splits the digits by chance. */
void dataset_split(dataset *data, uint64_t seed);

/* Copies the n digits that chosen names into a batch x[n][NUM_PIXELS], labels[n]. */
void dataset_batch(const dataset *data, size_t n, const size_t *chosen, float *x, int *labels);

#endif /* DIGITS_DATASET_H */
