/* stranger.c's sibling for the component mpi: one process is all of its communicator. */
#define OMPI_SKIP_MPICXX                                                                           \
    1 /* Open MPI's header has another interface for C++, with a library of its own */
#include <batchnorm/bn_mpi.h>

#include <stdio.h>

int main(int argc, char **argv) {
    const float x[2] = {9, 11}, dy[2] = {1, 0};
    float y[2], dx[2];
    bn_layer layer;
    MPI_Init(&argc, &argv);
    MPI_Comm comm = MPI_COMM_SELF;
    if (bn_layer_init(&layer, 1, NULL) != BN_STATUS_OK) {
        return 1;
    }
    bn_status status = bn_layer_set_comm(&layer, bn_mpi_comm(&comm));
    if (status == BN_STATUS_OK) {
        status = bn_layer_forward(&layer, 2, x, y);
    }
    if (status == BN_STATUS_OK) {
        status = bn_layer_backward(&layer, 2, x, dy, dx);
    }
    const bool right = status == BN_STATUS_OK && layer.saved_mean[0] == 10 && layer.dbeta[0] == 1;
    printf("%s\n", bn_status_string(status));
    bn_layer_free(&layer);
    MPI_Finalize();
    return !right;
}
