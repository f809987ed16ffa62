/* A stranger's program that uses the installed component mpi, in C or in C++, without mpiexec. */
#include <batchnorm/bn_mpi.h>

#include <stdio.h>

int main(int argc, char **argv) {
    const float x[4] = {1, 2, 3, 4}, dy[4] = {1, 0, 0, 1};
    float y[4], dx[4];
    bn_layer layer;
    MPI_Init(&argc, &argv);
    MPI_Comm comm = MPI_COMM_WORLD;
    bn_status status = bn_layer_init(&layer, 2, NULL);
    if (status == BN_STATUS_OK) {
        status = bn_layer_set_comm(&layer, bn_mpi_comm(&comm));
    }
    if (status == BN_STATUS_OK) {
        status = bn_layer_forward(&layer, 2, x, y);
    }
    if (status == BN_STATUS_OK) {
        status = bn_layer_backward(&layer, 2, x, dy, dx);
    }
    printf("%s: y[0] = %g\n", bn_status_string(status), (double)y[0]);
    bn_layer_free(&layer);
    MPI_Finalize();
    return status == BN_STATUS_OK && y[0] < -0.9f && y[0] > -1.0f ? 0 : 1;
}
