/*
 * The table that compares, and the curves as a file.
 */
#include "results.h"

/* One that serves both networks, and a fifth and five times as much. */
const float learning_rates[NUM_RATES] = {0.02F, 0.1F, 0.5F};

const char *const kind_names[NUM_KINDS] = {"with batch normalization",
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

static void print_curve_end(const curve *c) {
    int reached = 0;
    while (reached < EPOCHS && c->epochs[reached].test_accuracy < 95)
        reached++;
    printf(" |  %6.4f  %6.2f %%", c->epochs[EPOCHS - 1].loss, final_accuracy(c));
    if (reached < EPOCHS)
        printf("  %5d", reached + 1);
    else
        printf("  %5s", "never");
}

void results_print(const results *res) {
    printf("\n              | with batch normalization | the same of bfloat16     | without\n"
           "learning rate");
    for (int k = 0; k < NUM_KINDS; k++)
        printf(" |    loss      test   95 %%");
    printf("\n");
    for (int r = 0; r < NUM_RATES; r++) {
        printf("%13g", (double)learning_rates[r]);
        for (int k = 0; k < NUM_KINDS; k++)
            print_curve_end(&res->mean[k][r]);
        printf("\n");
    }
    printf(
        "Means over %d splits: training loss and test accuracy after %d epochs; the first epoch\n"
        "with a test accuracy of 95 %%\n"
        "\nAt learning rate %g, as shown epoch by epoch:\n",
        NUM_SEEDS, EPOCHS, (double)learning_rates[MAIN_RATE]);
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
