/*
 * One layer, many forwards before any backward: a recurrent network, h[t] = relu(bn(x[t] + u*h[t-1])).
 *
 * Backward wants what the forward of its own step has left. The layer's own cache holds the last
 * step's; so each step gets a cache of the caller's (bn_batch.cache, bn_cache_bytes). Gradients add up
 * over the steps, and the running values see all of them.
 */
#include "example.h"

enum { T = 4, N = 16, D = 3, COUNT = N * D };

typedef struct network {
    bn_layer layer;
    float u[D];
    float x[T][COUNT], input[T][COUNT], h[T][COUNT], target[COUNT];
    void *caches[T];
} network;

/* Half the mean squared error of the last h. */
static double forward(network *net) {
    double loss = 0;
    for (size_t t = 0; t < T; t++) {
        for (size_t k = 0; k < COUNT; k++)
            net->input[t][k] = net->x[t][k] + (t == 0 ? 0 : net->u[k % D] * net->h[t - 1][k]);
        const bn_batch batch = {.n = N, .cache = net->caches[t]};
        MUST(bn_layer_forward_batch(&net->layer, &batch, net->input[t], net->h[t]));
    }
    for (size_t k = 0; k < COUNT; k++) {
        const double error = (double)net->h[T - 1][k] - (double)net->target[k];
        loss += 0.5 * error * error / COUNT;
    }
    return loss;
}

/* The gradient of u; gamma's and beta's are the layer's. */
static void backward(network *net, float du[D]) {
    float dh[COUNT], dinput[COUNT];
    for (size_t k = 0; k < COUNT; k++)
        dh[k] = (net->h[T - 1][k] - net->target[k]) / COUNT;
    for (size_t d = 0; d < D; d++)
        du[d] = 0;
    for (size_t t = T; t-- > 0;) {
        const bn_batch batch = {.n = N, .cache = net->caches[t], .accumulate_grads = t != T - 1};
        MUST(bn_layer_backward_batch(&net->layer, &batch, net->input[t], dh, dinput));
        for (size_t k = 0; t > 0 && k < COUNT; k++) {
            du[k % D] += dinput[k] * net->h[t - 1][k];
            dh[k] = dinput[k] * net->u[k % D];
        }
    }
}

/* The slope of the loss along one parameter, from both sides of it. */
static double slope(network *net, float *parameter) {
    const float before = *parameter, step = 4e-3F;
    *parameter = before + step;
    const double above = forward(net);
    *parameter = before - step;
    const double below = forward(net);
    *parameter = before;
    return (above - below) / (2 * (double)step);
}

int main(void) {
    static network net;
    bn_options options = bn_options_default();
    options.activation = BN_ACTIVATION_RELU;
    options.beta_init = 4; /* away from the bend, so that differences are slopes */
    MUST(bn_layer_init(&net.layer, D, &options));
    uint64_t random = 11;
    random_fill(&random, -1, 1, T * COUNT, net.x[0]);
    random_fill(&random, 0, 8, COUNT, net.target);
    random_fill(&random, 0.3F, 0.9F, D, net.u);
    for (size_t t = 0; t < T; t++) {
        net.caches[t] = malloc(bn_cache_bytes(D));
        CLAIM(net.caches[t] != NULL);
    }

    float du[D];
    double largest = 0;
    forward(&net);
    backward(&net, du);
    for (size_t d = 0; d < D; d++) {
        printf("unit %zu: du %8.5f  dgamma %8.5f  dbeta %8.5f\n", d, (double)du[d],
               (double)net.layer.dgamma[d], (double)net.layer.dbeta[d]);
        largest = fmax(largest, fabs(du[d] - slope(&net, &net.u[d])));
        largest = fmax(largest, fabs(net.layer.dgamma[d] - slope(&net, &net.layer.gamma[d])));
        largest = fmax(largest, fabs(net.layer.dbeta[d] - slope(&net, &net.layer.beta[d])));
    }
    printf("against slopes of the loss: largest difference %.1e\n", largest);
    CLAIM(largest < 1e-4);
    CLAIM(net.layer.num_batches_tracked == T * (1 + 2 * 3 * D));
    for (size_t t = 0; t < T; t++)
        free(net.caches[t]);
    bn_layer_free(&net.layer);
    return EXIT_SUCCESS;
}
