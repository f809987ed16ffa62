/*
 * Training: the epochs of one network, alone or as one of several workers.
 */
#ifndef DIGITS_TRAINING_H
#define DIGITS_TRAINING_H

#include "dataset.h"
#include "network.h"
#include "results.h"

enum { FIRST_SEED = 1998 }; /* the year of the data; the others follow */

/* Trains a new network. The seed alone decides the split, the weights that training starts from and
 * the order of the digits, so that networks of all kinds compare. Of each batch a worker (NULL:
 * alone) has its rows; it tests by itself. */
curve train(dataset *data, network_kind kind, float learning_rate, uint64_t seed,
            const worker *worker_or_null, bool print);

#endif /* DIGITS_TRAINING_H */
