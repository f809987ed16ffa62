/*
 * What the trainings give, to compare: learning curves with batch normalization and without.
 */
#ifndef DIGITS_RESULTS_H
#define DIGITS_RESULTS_H

#include <stdio.h>

#include "network.h"

enum { NUM_SEEDS = 3, EPOCHS = 20, NUM_RATES = 3, MAIN_RATE = 1 };

extern const float learning_rates[NUM_RATES];

typedef struct epoch {
    double loss, train_accuracy; /* of the batches as they came, each before its step */
    double test_accuracy;
} epoch;

typedef struct curve {
    epoch epochs[EPOCHS];
} curve;

typedef struct results {
    curve mean[NUM_KINDS][NUM_RATES]; /* over the seeds */
    curve shown[NUM_KINDS];           /* what is printed epoch by epoch */
} results;

/* Adds one of NUM_SEEDS curves to their mean, which starts as all zero. */
void curve_add_to_mean(curve *mean, const curve *one);

/* Prints two lines above a table of num_kinds columns: what a row is, and the parts of a column. */
void results_print_head(const char *row, int num_kinds, const char *columns);

/* Prints how the curves of a learning rate end. */
void results_print_row(const results *res, int rate);

/* Draws the curves in plain characters, as many lines as a terminal has at least. */
void results_draw(const results *res);

/* Prints the test accuracies of what was shown. */
void results_print_end(const results *res);

/* Writes a block of lines a learning rate, two empty lines between, as gnuplot's `index` wants it.
 */
void results_write_curves(const results *res, FILE *file);

#endif /* DIGITS_RESULTS_H */
