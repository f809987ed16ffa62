/* stranger.c's sibling for the component safetensors: what needs cJSON is linked and runs. */
#include <batchnorm/bn_safetensors.h>

#include <stdio.h>

int main(void) {
    bn_layer layer;
    if (bn_layer_init(&layer, 2, NULL) != BN_STATUS_OK) {
        return 1;
    }
    layer.gamma[1] = 3;
    bn_status status = bn_layer_save_safetensors(&layer, "stranger.safetensors", "bn");
    layer.gamma[1] = 4;
    if (status == BN_STATUS_OK) {
        status = bn_layer_load_safetensors(&layer, "stranger.safetensors", "bn");
    }
    const bool right = status == BN_STATUS_OK && layer.gamma[1] == 3;
    printf("%s\n", bn_status_string(status));
    remove("stranger.safetensors");
    bn_layer_free(&layer);
    return !right;
}
