/*
 * See training.h.
 */
#include "training.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../example.h"

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Goes through the training digits once. The rate falls linearly from start to 0 over all epochs,
 * so that the last steps settle. */
static score train_epoch(network *net, const dataset *data, const size_t order[NUM_TRAIN],
                         int number, float start, const worker *self) {
    float x[MAX_BATCH * NUM_PIXELS];
    int labels[MAX_BATCH];
    score sum = {0};
    for (size_t i = 0; i < NUM_TRAIN; i += MAX_BATCH) {
        const size_t all = min_size(MAX_BATCH, NUM_TRAIN - i);
        const size_t first = all * self->rank / self->count;
        const size_t n = all * (self->rank + 1) / self->count - first;
        const float done = ((float)number + (float)i / NUM_TRAIN) / EPOCHS;
        dataset_batch(data, n, order + i + first, x, labels);
        network_train(net, n, all, x, labels, start * (1 - done), &sum);
    }
    return sum;
}

static score test(network *net, const dataset *data) {
    float x[MAX_BATCH * NUM_PIXELS];
    int labels[MAX_BATCH];
    score sum = {0};
    for (size_t i = 0; i < NUM_TEST; i += MAX_BATCH) {
        const size_t n = min_size(MAX_BATCH, NUM_TEST - i);
        dataset_batch(data, n, data->test + i, x, labels);
        network_test(net, n, x, labels, &sum);
    }
    return sum;
}

void train(dataset *data, int num_kinds, float learning_rate, uint64_t seed,
           const worker *worker_or_null, bool print, curve curves[]) {
    static const worker alone = {.count = 1};
    const worker *self = worker_or_null != NULL ? worker_or_null : &alone;
    network *nets[NUM_KINDS];
    size_t order[NUM_TRAIN];
    dataset_split(data, seed);
    memcpy(order, data->train, sizeof order);
    for (int k = 0; k < num_kinds; k++)
        if ((nets[k] = network_new((network_kind)k, seed, self)) == NULL) {
            fprintf(stderr, "digits: out of memory\n");
            exit(EXIT_FAILURE);
        }
    if (print) {
        printf("\nEpoch by epoch at learning rate %g: training loss, training and test accuracy\n",
               (double)learning_rate);
        results_print_head("epoch", num_kinds, "  loss   train   test");
    }
    for (int e = 0; e < EPOCHS; e++) {
        random_shuffle(&seed, NUM_TRAIN, order);
        if (print)
            printf("%5d", e + 1);
        for (int k = 0; k < num_kinds; k++) {
            epoch *at = &curves[k].epochs[e];
            const score trained = train_epoch(nets[k], data, order, e, learning_rate, self);
            const score tested = test(nets[k], data);
            *at = (epoch){trained.loss / NUM_TRAIN, 100.0 * (double)trained.correct / NUM_TRAIN,
                          100.0 * (double)tested.correct / NUM_TEST};
            if (print)
                printf(" | %6.4f %7.2f %6.2f", at->loss, at->train_accuracy, at->test_accuracy);
        }
        if (print)
            printf("\n");
    }
    for (int k = 0; k < num_kinds; k++)
        network_free(nets[k]);
}
