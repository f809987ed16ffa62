/*
 * Training: the epochs of one network, alone or as one of several workers.
 */
#ifndef DIGITS_TRAINING_H
#define DIGITS_TRAINING_H

#include "dataset.h"
#include "network.h"
#include "results.h"

enum { FIRST_SEED = 1998 }; /* the year of the data; the others follow */

/* Trains a new network of each of the first num_kinds kinds, side by side. The seed alone decides the
 * split, the weights that training starts from and the order of the digits, so that all compare. Of
 * each batch a worker (NULL: alone) has its rows; it tests by itself. */
void train(dataset *data, int num_kinds, float learning_rate, uint64_t seed,
           const worker *worker_or_null, bool print, curve curves[]);

#endif /* DIGITS_TRAINING_H */
