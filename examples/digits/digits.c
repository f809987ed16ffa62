/*
 * Trains a small network on hand-written digits, with batch normalization (of floats, of bfloat16)
 * and without, and shows what the layer changes.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../example.h"
#include "dataset.h"
#include "network.h"
#include "results.h"
#include "training.h"

#ifndef DIGITS_CSV /* the build gives the path in the source tree */
#define DIGITS_CSV "digits.csv"
#endif

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

/* ---- Training -------------------------------------------------------------------------------- */

/* Trains all there is to compare, what is shown first. */
static void train_all(dataset *data, results *out) {
    train(data, NUM_KINDS, learning_rates[MAIN_RATE], FIRST_SEED, NULL, true, out->shown);
    /* Were it floats after all, nothing else would show. */
    CLAIM(out->shown[BATCH_NORM_BF16].epochs[0].loss != out->shown[BATCH_NORM].epochs[0].loss);
    printf("\nMeans over %d splits at each learning rate: training loss and test accuracy in %%\n"
           "after %d epochs, and the first epoch with a test accuracy of 95 %%\n",
           NUM_SEEDS, EPOCHS);
    results_print_head("rate", NUM_KINDS, "  loss    test   95 %");
    for (int r = 0; r < NUM_RATES; r++) {
        for (uint64_t seed = FIRST_SEED; seed < FIRST_SEED + NUM_SEEDS; seed++) {
            curve one[NUM_KINDS];
            const bool known = r == MAIN_RATE && seed == FIRST_SEED;
            if (!known)
                train(data, NUM_KINDS, learning_rates[r], seed, NULL, false, one);
            for (int k = 0; k < NUM_KINDS; k++)
                curve_add_to_mean(&out->mean[k][r], known ? &out->shown[k] : &one[k]);
        }
        results_print_row(out, r);
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
    printf("A network learns to read hand-written digits, three times from the same weights:\n"
           "with batch normalization, with the same in bfloat16, and with ReLU alone.\n"
           "(64 -> 128 -> 64 -> 10, softmax and cross-entropy; %d digits of 8 x 8 pixels\n"
           "to train, %d to test; SGD, momentum 0.9, batches of %d, learning rate falling\n"
           "to 0)\n",
           NUM_TRAIN, NUM_TEST, MAX_BATCH);
    train_all(&data, &res);
    results_draw(&res);
    results_print_end(&res);
    return curves == NULL || write_curves(&res, curves, args.curves) ? EXIT_SUCCESS : EXIT_FAILURE;
}
