/*
 * Prints in Markdown how exact the library, its peers and plain loops are where sums are long: a
 * million rows, of mean 0 and of mean 1000, each value at most 2 away, on one thread.
 *
 *     peers [PROGRAM]    PROGRAM, torch_accuracy.py, adds PyTorch's row
 *
 * Errors are in units of 2^-24 of what reference.h says: of y and dx of the feature's largest. Fails
 * where the library is outside its limits.
 */
#include "check.h"
#include "contestant.h"

#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

static const bench_shape shape = {1000000, 16, 1, CLASS_BETWEEN, ""};

static bool make_library(bench_contestant *made, const bench_problem *p, bench_direction d) {
    return library_make(made, p, d, 1);
}

static bool make_onednn(bench_contestant *made, const bench_problem *p, bench_direction d) {
    return onednn_make(made, p, d, 0);
}

typedef bool make_function(bench_contestant *made, const bench_problem *p, bench_direction d);

static void print_error(double error) {
    printf(" %.*f |", error < 100 ? 1 : 0, error);
}

/* torch_accuracy.py prints such a row too. Returns false where the library is outside its limits. */
static bool print_row(make_function *make, const bench_problem *p, bench_check *c, double mean) {
    bench_contestant which;
    check_errors errors[DIRECTIONS];
    for (bench_direction d = FORWARD; d <= BACKWARD; d++) {
        if (!make(&which, p, d)) {
            return true;
        }
        errors[d] = check_measure(c, &which, d);
        which.end(which.state);
    }
    const double y = errors[FORWARD].tensor, dx = errors[BACKWARD].tensor;
    const char *name = make == make_onednn ? onednn_version() : which.name;
    printf("| %g | %s | %.1f |", mean, name, fmax(0, -log10(y * REF_UNIT)));
    print_error(y);
    print_error(errors[FORWARD].mean);
    print_error(dx);
    printf("\n");
    return which.role != ROLE_LIBRARY ||
           (y <= REF_LIMIT && errors[FORWARD].mean <= REF_LIMIT && dx <= REF_LIMIT_DX);
}

/* Hands x, dy, gamma and beta to the program. */
static void run_torch(const char *program, const bench_problem *p, double mean) {
    char command[4096];
    snprintf(command, sizeof command, "'%s' %zu %zu %g", program, shape.n, shape.c, mean);
    fflush(stdout);
    FILE *to = popen(command, "w");
    if (to != NULL) {
        const size_t count = shape_elements(&shape);
        fwrite(p->x, sizeof(float), count, to);
        fwrite(p->dy, sizeof(float), count, to);
        fwrite(p->gamma, sizeof(float), shape.c, to);
        fwrite(p->beta, sizeof(float), shape.c, to);
    }
    if (to == NULL || pclose(to) != 0) {
        fprintf(stderr, "peers: no row of PyTorch\n");
    }
}

int main(int argc, char **argv) {
    static make_function *const makes[] = {make_library, make_onednn, textbook_make};
    bool within = true;
    signal(SIGPIPE, SIG_IGN); /* a program that has ended is told of by pclose */
    omp_set_num_threads(1);
    printf("| one thread, mean of x | | right digits of y | error of y | of the mean | of dx |\n"
           "| --- | --- | --- | --- | --- | --- |\n");
    for (double mean = 0; mean <= 1000; mean += 1000) {
        bench_problem p = problem_make(&shape, BN_DTYPE_F32, mean);
        bench_check c = check_make(&p, shape_elements(&shape));
        for (size_t k = 0; k < sizeof makes / sizeof *makes; k++) {
            within = print_row(makes[k], &p, &c, mean) && within;
        }
        if (argc > 1) {
            run_torch(argv[1], &p, mean);
        }
        check_free(&c);
        problem_free(&p);
    }
    return within ? EXIT_SUCCESS : EXIT_FAILURE;
}
