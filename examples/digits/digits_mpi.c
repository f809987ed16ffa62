/*
 * Trains the network on hand-written digits by several processes, each with its rows of every batch,
 * as in `mpiexec -n 4 digits_mpi`: with the statistics of all rows, and with each process's own.
 */
#include <stdio.h>
#include <stdlib.h>

#include <batchnorm/bn_mpi.h>

#include "training.h"

#ifndef DIGITS_CSV /* the build gives the path in the source tree */
#define DIGITS_CSV "digits.csv"
#endif

static double final_accuracy(dataset *data, worker *self, bool synchronized) {
    const bool print = self->rank == 0;
    self->synchronized = synchronized;
    if (print)
        printf("\nStatistics of %s", synchronized ? "all rows" : "each process's own rows");
    curve trained;
    train(data, 1, learning_rates[MAIN_RATE], FIRST_SEED, self, print, &trained); /* BATCH_NORM */
    return trained.epochs[EPOCHS - 1].test_accuracy;
}

int main(int argc, char **argv) {
    static dataset data;
    int rank, count;
    if (!dataset_read(&data, argc > 1 ? argv[1] : DIGITS_CSV))
        return EXIT_FAILURE;
    MPI_Init(&argc, &argv);
    MPI_Comm comm = MPI_COMM_WORLD;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &count);
    worker self = {.rank = (size_t)rank, .count = (size_t)count, .comm = bn_mpi_comm(&comm)};

    if (rank == 0)
        printf("%d processes, with at most %d rows each of batches of %d\n", count,
               (MAX_BATCH + count - 1) / count, MAX_BATCH);
    const double own = final_accuracy(&data, &self, false);
    const double all = final_accuracy(&data, &self, true);
    if (rank == 0)
        printf("\nA process tests by its own running values, here by the first one's:\n"
               "test accuracy with batch normalization of own rows: %.2f %%\n"
               "test accuracy with batch normalization: %.2f %%\n",
               own, all);
    MPI_Finalize();
    return EXIT_SUCCESS;
}
