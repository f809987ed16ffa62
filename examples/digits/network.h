/*
 * The network: dense layers 64 -> 128 -> 64 -> 10, after each but the last batch normalization and
 * ReLU (or ReLU alone, to compare), then softmax and cross-entropy.
 */
#ifndef DIGITS_NETWORK_H
#define DIGITS_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <batchnorm/bn_layer.h>

enum { MAX_BATCH = 32 };

/* What follows a hidden layer. */
typedef enum network_kind {
    BATCH_NORM,      /* and ReLU */
    BATCH_NORM_BF16, /* the same; its x, y, dy and dx are bfloat16, all else is float */
    RELU_ALONE,
    NUM_KINDS
} network_kind;

typedef struct network network;

typedef struct score {
    double loss; /* the sum over the digits seen */
    size_t correct;
} score;

/* One of several that train the same network together, each on its rows of every batch. */
typedef struct worker {
    size_t rank, count;
    bn_comm comm;      /* of zeros where count is 1 */
    bool synchronized; /* normalizes by the statistics of all rows; else each worker by its own */
} worker;

/* Makes a network with random weights; the same seed gives the same weights to all kinds and to all
 * workers. Returns NULL where memory runs out. */
network *network_new(network_kind kind, uint64_t seed, const worker *self);
void network_free(network *net);

/* One step of gradient descent with momentum on x[n][64], labels[n], a worker's rows of a batch of
 * `all` <= MAX_BATCH. Adds to *sum how the network did on the batch before the step. */
void network_train(network *net, size_t n, size_t all, const float *x, const int *labels,
                   float learning_rate, score *sum);

/* Adds to *sum how the network does on a batch, normalizing by the running statistics. */
void network_test(network *net, size_t n, const float *x, const int *labels, score *sum);

#endif /* DIGITS_NETWORK_H */
