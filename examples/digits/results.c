/*
 * The tables that compare, the curves as a picture and as a file.
 */
#include "results.h"

#include <math.h>
#include <stdbool.h>

/* One that serves both networks, and a fifth and five times as much. */
const float learning_rates[NUM_RATES] = {0.02F, 0.1F, 0.5F};

static const char *const kind_names[NUM_KINDS] = {"with batch normalization",
                                                  "with batch normalization of bfloat16",
                                                  "without batch normalization"};

void curve_add_to_mean(curve *mean, const curve *one) {
    for (int e = 0; e < EPOCHS; e++) {
        mean->epochs[e].loss += one->epochs[e].loss / NUM_SEEDS;
        mean->epochs[e].train_accuracy += one->epochs[e].train_accuracy / NUM_SEEDS;
        mean->epochs[e].test_accuracy += one->epochs[e].test_accuracy / NUM_SEEDS;
    }
}

static double final_accuracy(const curve *c) {
    return c->epochs[EPOCHS - 1].test_accuracy;
}

static int first_at_95(const curve *c) {
    for (int e = 0; e < EPOCHS; e++)
        if (c->epochs[e].test_accuracy >= 95)
            return e + 1;
    return 0;
}

void results_print_head(const char *row, int num_kinds, const char *columns) {
    static const char *const titles[NUM_KINDS] = {"batch normalization", "the same in bfloat16",
                                                  "ReLU alone"};
    printf("%5s", "");
    for (int k = 0; k < num_kinds; k++)
        printf(" | %21s", titles[k]);
    printf("\n%5s", row);
    for (int k = 0; k < num_kinds; k++)
        printf(" | %s", columns);
    printf("\n");
}

void results_print_row(const results *res, int r) {
    printf("%5g", (double)learning_rates[r]);
    for (int k = 0; k < NUM_KINDS; k++) {
        const curve *c = &res->mean[k][r];
        const int first = first_at_95(c);
        printf(" | %6.4f %7.2f ", c->epochs[EPOCHS - 1].loss, final_accuracy(c));
        if (first > 0)
            printf("%6d", first);
        else
            printf("%6s", "never");
    }
    printf("\n");
}

/* The row of the picture that a test accuracy is in: two rows are a factor of two of the error. */
static int row_of(const epoch *at) {
    return (int)lround(2 * log2(fmax(100 - at->test_accuracy, 1)));
}

void results_draw(const results *res) {
    printf("\nTest error in %% over the epochs: o with batch normalization, x ReLU alone\n\n    ");
    for (int r = 0; r < NUM_RATES; r++)
        printf("  learning rate %-8g", (double)learning_rates[r]);
    for (int row = row_of(&(epoch){0}); row >= 0; row--) {
        printf(row % 2 == 0 ? "\n%3d " : "\n    ", 1 << row / 2);
        for (int r = 0; r < NUM_RATES; r++) {
            printf(" |");
            for (int e = 0; e < EPOCHS; e++) {
                const bool with = row_of(&res->mean[BATCH_NORM][r].epochs[e]) == row;
                const bool without = row_of(&res->mean[RELU_ALONE][r].epochs[e]) == row;
                printf("%c", with ? 'o' : without ? 'x' : ' ');
            }
            printf("  ");
        }
    }
    printf("\n    ");
    for (int r = 0; r < NUM_RATES; r++)
        printf(" +----+----+----+----+  ");
    printf("\n    ");
    for (int r = 0; r < NUM_RATES; r++)
        printf("      5   10   15   20  ");
    printf("\n");
}

void results_print_end(const results *res) {
    printf("\nAt learning rate %g, as shown epoch by epoch:\n", (double)learning_rates[MAIN_RATE]);
    for (int k = NUM_KINDS; k-- > 0;)
        printf("test accuracy %s: %.2f %%\n", kind_names[k], final_accuracy(&res->shown[k]));
}

void results_write_curves(const results *res, FILE *file) {
    fprintf(file, "# Means over %d splits; accuracy in %%", NUM_SEEDS);
    for (int k = 0; k < NUM_KINDS; k++)
        fprintf(file, "; %s", kind_names[k]);
    fputs("\n# rate epoch", file);
    for (int k = 0; k < NUM_KINDS; k++)
        fputs("    loss  train   test", file);
    fputs("\n", file);
    for (int r = 0; r < NUM_RATES; r++) {
        for (int e = 0; e < EPOCHS; e++) {
            fprintf(file, "%6g %5d", (double)learning_rates[r], e + 1);
            for (int k = 0; k < NUM_KINDS; k++) {
                const epoch *at = &res->mean[k][r].epochs[e];
                fprintf(file, " %7.4f %6.2f %6.2f", at->loss, at->train_accuracy,
                        at->test_accuracy);
            }
            fputs("\n", file);
        }
        fputs(r + 1 < NUM_RATES ? "\n\n" : "", file);
    }
}
