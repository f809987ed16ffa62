/* See bn_mpi.h. */
#include "batchnorm/bn_mpi.h"

#include <limits.h>
#include <stdbool.h>

/* Whether there is somebody to talk to: what is asked of MPI outside of its life ends the program. */
static bool usable(const MPI_Comm *comm) {
    int begun = 0, ended = 0, inter = 0;
    if (comm == NULL || MPI_Initialized(&begun) != MPI_SUCCESS || !begun ||
        MPI_Finalized(&ended) != MPI_SUCCESS || ended || *comm == MPI_COMM_NULL) {
        return false;
    }
    return MPI_Comm_test_inter(*comm, &inter) == MPI_SUCCESS &&
           !inter; /* in place is not for those */
}

/* MPI counts in int: in several pieces, where there are more. */
static int allreduce_sum(void *context, double *values, size_t count) {
    MPI_Comm *comm = context;
    if (!usable(comm)) {
        return MPI_ERR_COMM;
    }
    int result = MPI_SUCCESS;
    while (count > 0 && result == MPI_SUCCESS) {
        const int piece = count < (size_t)INT_MAX ? (int)count : INT_MAX;
        result = MPI_Allreduce(MPI_IN_PLACE, values, piece, MPI_DOUBLE, MPI_SUM, *comm);
        values += piece;
        count -= (size_t)piece;
    }
    return result;
}

bn_comm bn_mpi_comm(MPI_Comm *comm) {
    return (bn_comm){.allreduce_sum = allreduce_sum, .context = comm};
}
