/*
 * A layer goes to a file that PyTorch reads (bn_layer_save_safetensors), and comes back into a model's own
 * arrays (bn_layer_load_safetensors).
 *
 * In Python, with the package safetensors:
 *
 *     state = safetensors.torch.load_file("exchange.safetensors")
 *     model.load_state_dict(state)        # with a BatchNorm1d(6) that is called "bn" in it
 */
#include "example.h"

#include <batchnorm/bn_safetensors.h>

enum { N = 64, D = 6 };

int main(void) {
    static const char path[] = "exchange.safetensors";
    static float x[N * D], y[N * D], again[N * D];
    uint64_t random = 14;
    random_fill(&random, -3, 5, N * D, x);

    bn_layer layer;
    MUST(bn_layer_init(&layer, D, NULL));
    for (int step = 0; step < 20; step++)
        MUST(bn_layer_forward(&layer, N, x, y));
    remove(path); /* else what else is in there would stay */
    MUST(bn_layer_save_safetensors(&layer, path, "bn"));

    float weight[D], bias[D], mean[D], var[D]; /* a model's */
    bn_options options = bn_options_default();
    options.inference_only = true;
    const bn_memory memory = {
        .gamma = weight, .beta = bias, .running_mean = mean, .running_var = var};
    bn_layer loaded;
    MUST(bn_layer_init_with(&loaded, D, &options, &memory));
    MUST(bn_layer_load_safetensors(&loaded, path, "bn"));
    CLAIM(largest_difference(D, mean, layer.running_mean) == 0);
    CLAIM(largest_difference(D, var, layer.running_var) == 0);
    CLAIM(loaded.num_batches_tracked == 20);

    /* The layer that trained knows its running values to more digits than the file has. */
    MUST(bn_layer_infer(&layer, N, x, y));
    MUST(bn_layer_infer(&loaded, N, x, again));
    const float difference = largest_difference(N * D, y, again);
    printf("inference before and after: largest difference %.1e\n", (double)difference);
    CLAIM(difference < 1e-6F);

    loaded.options.eps = 1e-3F; /* Keras's: what was trained with another is not taken */
    CLAIM(bn_layer_load_safetensors(&loaded, path, "bn") == BN_STATUS_BAD_OPTION);
    bn_layer_free(&loaded);
    bn_layer_free(&layer);
    remove(path);
    return EXIT_SUCCESS;
}
