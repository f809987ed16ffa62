/*
 * A network's layers on one scratch, and in one block.
 *
 * What a call works with is nobody's between calls, so layers that do not train at the same time share
 * it (bn_memory.scratch, bn_scratch_bytes). All else comes out of a block that the program cuts up
 * (bn_memory.block, bn_layer_bytes).
 */
#include "example.h"

enum { LAYERS = 5, N = 32, WIDEST = 256 };

static const size_t features[LAYERS] = {16, 64, 256, 64, 10};

/* So that pieces begin at cache lines. */
static size_t whole_lines(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

int main(void) {
    const bn_options options = bn_options_default();
    const size_t scratch_bytes = bn_scratch_bytes(WIDEST, options.num_threads);
    bn_memory memory = {.scratch = malloc(scratch_bytes), .scratch_bytes = scratch_bytes};
    CLAIM(memory.scratch != NULL);
    size_t apart = 0, together = 0;
    for (size_t l = 0; l < LAYERS; l++) {
        apart += bn_layer_bytes(features[l], &options, NULL);
        together += whole_lines(bn_layer_bytes(features[l], &options, &memory));
    }
    printf("%d layers: %zu bytes apart, or %zu and a scratch of %zu\n", LAYERS, apart, together,
           scratch_bytes);
    CLAIM(together + scratch_bytes < apart);

    char *all = malloc(together);
    CLAIM(all != NULL);
    bn_layer network[LAYERS], alone[LAYERS];
    size_t used = 0;
    for (size_t l = 0; l < LAYERS; l++) {
        memory.block = all + used;
        memory.block_bytes = bn_layer_bytes(features[l], &options, &memory);
        used += whole_lines(memory.block_bytes);
        MUST(bn_layer_init_with(&network[l], features[l], &options, &memory));
        MUST(bn_layer_init(&alone[l], features[l], &options));
    }

    static float x[N * WIDEST], y[2][N * WIDEST], dx[2][N * WIDEST];
    uint64_t random = 12;
    float largest = 0;
    for (size_t l = 0; l < LAYERS; l++) {
        const size_t count = N * features[l];
        random_fill(&random, -2, 3, count, x);
        MUST(bn_layer_forward(&network[l], N, x, y[0]));
        MUST(bn_layer_forward(&alone[l], N, x, y[1]));
        MUST(bn_layer_backward(&network[l], N, x, y[0], dx[0]));
        MUST(bn_layer_backward(&alone[l], N, x, y[1], dx[1]));
        largest = fmaxf(largest, largest_difference(count, y[0], y[1]));
        largest = fmaxf(largest, largest_difference(count, dx[0], dx[1]));
    }
    printf("on one scratch against apart: largest difference %.1e\n", (double)largest);
    CLAIM(largest == 0);
    for (size_t l = 0; l < LAYERS; l++) {
        bn_layer_free(&network[l]); /* nothing of ours */
        bn_layer_free(&alone[l]);
    }
    free(all);
    free(memory.scratch);
    return EXIT_SUCCESS;
}
