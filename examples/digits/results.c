/*
 * The table that compares, and the curves as a file.
 */
#include "results.h"

/* One that serves both networks, and a fifth and five times as much. */
const float learning_rates[NUM_RATES] = {0.02F, 0.1F, 0.5F};

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
    printf(" |  %7.4f  %6.2f %%", c->epochs[EPOCHS - 1].loss, final_accuracy(c));
    if (reached < EPOCHS)
        printf("  %8d", reached + 1);
    else
        printf("  %8s", "never");
}

void results_print(const results *res) {
    printf("\n              |   with batch normalization    |  without\n"
           "learning rate |     loss      test  95 %% from |     loss      test  95 %% from\n");
    for (int r = 0; r < NUM_RATES; r++) {
        printf("%13g", (double)learning_rates[r]);
        print_curve_end(&res->with[r]);
        print_curve_end(&res->without[r]);
        printf("\n");
    }
    printf(
        "Means over %d splits: training loss and test accuracy after %d epochs; the first epoch\n"
        "with a test accuracy of 95 %%\n"
        "\nAt learning rate %g, as shown epoch by epoch:\n"
        "test accuracy without batch normalization: %.2f %%\n"
        "test accuracy with batch normalization: %.2f %%\n",
        NUM_SEEDS, EPOCHS, (double)learning_rates[MAIN_RATE], final_accuracy(&res->shown_without),
        final_accuracy(&res->shown_with));
}

void results_write_curves(const results *res, FILE *file) {
    fprintf(file,
            "# Means over %d splits; accuracy in %%\n"
            "#             with batch normalization  without\n"
            "# rate epoch    loss  train   test      loss  train   test\n",
            NUM_SEEDS);
    for (int r = 0; r < NUM_RATES; r++) {
        for (int e = 0; e < EPOCHS; e++) {
            const epoch *a = &res->with[r].epochs[e];
            const epoch *b = &res->without[r].epochs[e];
            fprintf(file, "%6g %5d %7.4f %6.2f %6.2f   %7.4f %6.2f %6.2f\n",
                    (double)learning_rates[r], e + 1, a->loss, a->train_accuracy, a->test_accuracy,
                    b->loss, b->train_accuracy, b->test_accuracy);
        }
        fputs(r + 1 < NUM_RATES ? "\n\n" : "", file);
    }
}
