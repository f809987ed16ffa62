/* SPDX-License-Identifier: MIT */
/** @file
 * Workers that are processes of MPI. */
#ifndef BATCHNORM_BN_MPI_H
#define BATCHNORM_BN_MPI_H

#include <batchnorm/bn_layer.h>

#include <mpi.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Returns the bn_comm of all processes of a communicator, for bn_layer_set_comm on each of them:
 *
 *     MPI_Comm comm = MPI_COMM_WORLD;
 *     bn_layer_set_comm(&layer, bn_mpi_comm(&comm));
 *
 * The communicator is the caller's: *comm must stay where it is and be open as long as a layer has
 * it, and what else goes over it must not come between its processes' calls. What happens where
 * MPI fails is its error handler's to say: with MPI_ERRORS_ARE_FATAL, its default, the program
 * ends; with MPI_ERRORS_RETURN the call returns BN_STATUS_COMM_FAILED. That is also what calls
 * return where comm is NULL, *comm is MPI_COMM_NULL or an intercommunicator, or MPI is not there
 * (any more). MPI is called by the thread that called the library: MPI_THREAD_FUNNELED is enough
 * for one that calls it from the main thread. */
BN_API bn_comm bn_mpi_comm(MPI_Comm *comm);

#ifdef __cplusplus
}
#endif

#endif /* BATCHNORM_BN_MPI_H */
