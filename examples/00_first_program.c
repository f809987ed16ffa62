#include <batchnorm/bn_layer.h>
#include <stdio.h>

int main(void) {
    float x[4][2] = {{1, 10}, {2, 20}, {3, 30}, {4, 40}}; /* N = 4 samples, D = 2 features */
    float dy[4][2] = {{1, 0}, {0, 1}, {0, 0}, {0, 0}};    /* the loss's gradient, from above */
    float y[4][2], dx[4][2];
    bn_layer layer;
    bn_status status = bn_layer_init(&layer, 2, NULL);
    if (status == BN_STATUS_OK) /* train: normalize by the batch */
        status = bn_layer_forward(&layer, 4, &x[0][0], &y[0][0]);
    if (status == BN_STATUS_OK)
        status = bn_layer_backward(&layer, 4, &x[0][0], &dy[0][0], &dx[0][0]);
    for (int d = 0; d < 2 && status == BN_STATUS_OK; d++) { /* a step of gradient descent */
        layer.gamma[d] -= 0.1f * layer.dgamma[d];
        layer.beta[d] -= 0.1f * layer.dbeta[d];
    }
    if (status == BN_STATUS_OK) /* use: by the running values */
        status = bn_layer_infer(&layer, 4, &x[0][0], &y[0][0]);
    printf("%s: y[0] = %.4f %.4f\n", bn_status_string(status), y[0][0], y[0][1]);
    bn_layer_free(&layer);
    return status != BN_STATUS_OK;
}
