/*
 * Trains a small network on hand-written digits, with batch normalization and without, and shows
 * what the layer changes.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../example.h"
#include "dataset.h"
#include "network.h"
#include "results.h"

#ifndef DIGITS_CSV /* the build gives the path in the source tree */
#define DIGITS_CSV "digits.csv"
#endif

enum { FIRST_SEED = 1998 }; /* the year of the data; the others follow */

typedef struct arguments {
    const char *csv;
    const char *curves; /* NULL: not wanted */
    bool help;
} arguments;

static const char usage[] =
    "usage: digits [--csv FILE] [--curves FILE] [--help]\n"
    "  --csv FILE     the data, instead of " DIGITS_CSV "\n"
    "  --curves FILE  write loss and accuracy of every epoch to FILE, as a table\n"
    "  --help         print this\n";

static double seconds_now(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- Training -------------------------------------------------------------------------------- */

static size_t min_size(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Goes through the training digits once. The rate falls linearly from start to 0 over all epochs,
 * so that the last steps settle. */
static score train_epoch(network *net, const dataset *data, const size_t order[NUM_TRAIN],
                         int number, float start) {
    float x[MAX_BATCH * NUM_PIXELS];
    int labels[MAX_BATCH];
    score sum = {0};
    for (size_t i = 0; i < NUM_TRAIN; i += MAX_BATCH) {
        const size_t n = min_size(MAX_BATCH, NUM_TRAIN - i);
        const float done = ((float)number + (float)i / NUM_TRAIN) / EPOCHS;
        dataset_batch(data, n, order + i, x, labels);
        network_train(net, n, x, labels, start * (1 - done), &sum);
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

/* Trains a new network. The seed alone decides the split, the weights that training starts from and
 * the order of the digits, so that networks with and without batch normalization compare. */
static curve train(dataset *data, bool batch_norm, float learning_rate, uint64_t seed, bool print) {
    curve result;
    size_t order[NUM_TRAIN];
    dataset_split(data, seed);
    memcpy(order, data->train, sizeof order);
    network *net = network_new(batch_norm, seed);
    if (net == NULL) {
        fprintf(stderr, "digits: out of memory\n");
        exit(EXIT_FAILURE);
    }
    if (print)
        printf("\n%s batch normalization, learning rate %g\n"
               "epoch    loss  train accuracy  test accuracy  seconds\n",
               batch_norm ? "With" : "Without", (double)learning_rate);
    const double start = seconds_now();
    for (int e = 0; e < EPOCHS; e++) {
        random_shuffle(&seed, NUM_TRAIN, order);
        const score trained = train_epoch(net, data, order, e, learning_rate);
        const score tested = test(net, data);
        result.epochs[e] =
            (epoch){trained.loss / NUM_TRAIN, 100.0 * (double)trained.correct / NUM_TRAIN,
                    100.0 * (double)tested.correct / NUM_TEST};
        if (print)
            printf("%5d  %6.4f  %12.2f %%  %11.2f %%  %7.2f\n", e + 1, result.epochs[e].loss,
                   result.epochs[e].train_accuracy, result.epochs[e].test_accuracy,
                   seconds_now() - start);
    }
    network_free(net);
    return result;
}

/* Trains all there is to compare, what is shown first. */
static void train_all(dataset *data, results *out) {
    out->shown_with = train(data, true, learning_rates[MAIN_RATE], FIRST_SEED, true);
    out->shown_without = train(data, false, learning_rates[MAIN_RATE], FIRST_SEED, true);
    printf("\nNow at %d learning rates, on %d splits and first weights each ...\n", NUM_RATES,
           NUM_SEEDS);
    for (int r = 0; r < NUM_RATES; r++)
        for (uint64_t seed = FIRST_SEED; seed < FIRST_SEED + NUM_SEEDS; seed++) {
            const bool known = r == MAIN_RATE && seed == FIRST_SEED;
            const curve with =
                known ? out->shown_with : train(data, true, learning_rates[r], seed, false);
            const curve without =
                known ? out->shown_without : train(data, false, learning_rates[r], seed, false);
            curve_add_to_mean(&out->with[r], &with);
            curve_add_to_mean(&out->without[r], &without);
        }
}

/* ---- The program ----------------------------------------------------------------------------- */

static bool parse_arguments(int argc, char **argv, arguments *out) {
    *out = (arguments){.csv = DIGITS_CSV};
    for (int i = 1; i < argc; i++) {
        const char **file = NULL;
        if (strcmp(argv[i], "--csv") == 0)
            file = &out->csv;
        else if (strcmp(argv[i], "--curves") == 0)
            file = &out->curves;
        else if (strcmp(argv[i], "--help") == 0)
            out->help = true;
        else {
            fprintf(stderr, "digits: %s: unknown argument\n%s", argv[i], usage);
            return false;
        }
        if (file != NULL && i + 1 == argc) {
            fprintf(stderr, "digits: %s: a file name must follow\n%s", argv[i], usage);
            return false;
        }
        if (file != NULL)
            *file = argv[++i];
    }
    return true;
}

static void complain_of_curves(const char *path) {
    fprintf(stderr, "digits: %s: cannot be written: %s\n", path, strerror(errno));
}

static bool write_curves(const results *res, FILE *file, const char *path) {
    results_write_curves(res, file);
    const bool failed = ferror(file);
    if (fclose(file) != 0 || failed) {
        complain_of_curves(path);
        return false;
    }
    return true;
}

int main(int argc, char **argv) {
    static dataset data;
    static results res;
    arguments args;
    FILE *curves = NULL;
    if (!parse_arguments(argc, argv, &args))
        return EXIT_FAILURE;
    if (args.help) {
        fputs(usage, stdout);
        return EXIT_SUCCESS;
    }
    if (!dataset_read(&data, args.csv))
        return EXIT_FAILURE;
    if (args.curves != NULL && (curves = fopen(args.curves, "w")) == NULL) {
        complain_of_curves(args.curves);
        return EXIT_FAILURE;
    }

    setvbuf(stdout, NULL, _IOLBF, 0); /* a line at a time, into a pipe too */
    printf("Hand-written digits of 8 x 8 pixels: %d to train, %d to test\n"
           "Network 64 -> 128 -> 64 -> 10, softmax and cross-entropy, after each hidden layer\n"
           "batch normalization and ReLU, or ReLU alone\n"
           "SGD with momentum 0.9 in batches of %d, the learning rate falling linearly to 0\n",
           NUM_TRAIN, NUM_TEST, MAX_BATCH);
    train_all(&data, &res);
    results_print(&res);
    return curves == NULL || write_curves(&res, curves, args.curves) ? EXIT_SUCCESS : EXIT_FAILURE;
}
