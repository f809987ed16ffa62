/* The life of a layer: options, memory, parameters, names. */
#include "layer.h"
#include "machine.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- Options -------------------------------------------------------------------------------- */

/* A static one: its padding is zero too, and layers made by it can be compared by their bytes. */
static const bn_options default_options = {.eps = 1e-5f,
                                           .momentum = 0.9f,
                                           .gamma_init = 1.0f,
                                           .beta_init = 0.0f,
                                           .scale = true,
                                           .shift = true,
                                           .track_running = true,
                                           .biased_running_var = false,
                                           .activation = BN_ACTIVATION_NONE,
                                           .num_threads = 0,
                                           .activation_slope = 0.01f,
                                           .activation_max = 6.0f,
                                           .inference_only = false};

bn_options bn_options_default(void) {
    return default_options;
}

bool bni_momentum_good(float momentum) {
    return bni_finite(momentum) &&
           ((momentum >= 0.0f && momentum <= 1.0f) || momentum == BN_MOMENTUM_CUMULATIVE);
}

/* What it does not use may be anything, as in options that were written by hand. */
static bool activation_good(const bn_options *options) {
    switch (options->activation) {
    case BN_ACTIVATION_NONE:
    case BN_ACTIVATION_RELU:
        return true;
    case BN_ACTIVATION_LEAKY_RELU:
        return bni_not_negative(options->activation_slope);
    case BN_ACTIVATION_CLIP:
        return bni_finite(options->activation_max) && bni_is_positive(options->activation_max);
    }
    return false;
}

static bool options_good(const bn_options *options) {
    return bni_not_negative(options->eps) &&
           (!options->track_running || options->inference_only ||
            bni_momentum_good(options->momentum)) &&
           bni_finite(options->gamma_init) && bni_finite(options->beta_init) &&
           options->num_threads >= 0 && activation_good(options);
}

bn_status bni_check_batch(const bn_layer *layer, const bn_batch *batch, bool trains,
                          bni_shape *shape) {
    if (layer == NULL || batch == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!bni_layer_ready(layer)) {
        return BN_STATUS_BAD_STATE;
    }
    if (!bni_not_negative(layer->options.eps) || layer->options.num_threads < 0) {
        return BN_STATUS_BAD_OPTION;
    }
    const bn_status status = bni_shape_make(shape, batch, layer->num_features, BNI_STRIDES_BOTH);
    const bool may = !trains || !layer->internal.options.inference_only;
    return status == BN_STATUS_OK && !may ? BN_STATUS_BAD_STATE : status;
}

int bni_threads(const bn_layer *layer) {
    const int most = layer->internal.options.num_threads, now = layer->options.num_threads;
    return most == 0 || (now != 0 && now < most) ? now : most;
}

void bni_layer_affine_part(const bn_layer *layer, const bni_cache *cache, size_t first,
                           size_t features, float *scale, float *shift) {
    layer->internal.kernels->features.affine(
        cache, layer->gamma == NULL ? NULL : layer->gamma + first,
        layer->beta == NULL ? NULL : layer->beta + first, features, scale, shift);
}

bni_activation bni_layer_activation(const bn_layer *layer) {
    const bn_options *options = &layer->internal.options;
    bni_activation act = {.slope = options->activation_slope, .max = options->activation_max};
    switch (options->activation) {
    case BN_ACTIVATION_LEAKY_RELU:
        act.curve = act.slope > 0.0f ? BNI_LEAKY : BNI_RELU;
        break;
    case BN_ACTIVATION_RELU:
        act.curve = BNI_RELU;
        break;
    case BN_ACTIVATION_CLIP:
        act.curve = BNI_CLIP;
        break;
    default:
        act.curve = BNI_LINEAR;
    }
    return act;
}

/* ---- Init and free -------------------------------------------------------------------------- */

/* Makes the layer, its own arrays at the first cache line of a block. */
static void build(bn_layer *layer, size_t features, const bn_options *options,
                  const bn_memory *memory, void *block, size_t bytes) {
    memset(layer, 0, sizeof *layer);
    layer->num_features = features;
    layer->options = layer->internal.options = *options;
    layer->internal.kernels = bni_kernels_select();
    layer->internal.tuning = &bni_machine_here()->tuning;
    bni_memory_give(layer, memory, bytes == 0 ? NULL : bni_first_line(block), bytes);
}

/* What a block of any alignment must hold. */
static size_t unaligned_bytes(size_t bytes) {
    return bytes == 0 ? 1 : bytes + (BNI_LINE - 1);
}

static const bn_memory all_own = {0};

/* Checks what init is given and counts the bytes of the layer's own arrays. */
static bn_status measure(size_t features, const bn_options *options, const bn_memory *memory,
                         size_t *bytes) {
    if (features == 0 || features > BNI_MOST_FEATURES) {
        return BN_STATUS_BAD_SHAPE;
    }
    return options_good(options) ? bni_memory_measure(features, options, memory, bytes)
                                 : BN_STATUS_BAD_OPTION;
}

size_t bn_layer_bytes(size_t num_features, const bn_options *options, const bn_memory *memory) {
    size_t bytes;
    const bn_status status = measure(num_features, options == NULL ? &default_options : options,
                                     memory == NULL ? &all_own : memory, &bytes);
    return status == BN_STATUS_OK ? unaligned_bytes(bytes) : 0;
}

bn_status bn_layer_init_with(bn_layer *layer, size_t num_features, const bn_options *options,
                             const bn_memory *memory) {
    const bn_options *chosen = options == NULL ? &default_options : options;
    const bn_memory *given = memory == NULL ? &all_own : memory;
    size_t bytes;
    if (layer == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    const bn_status status = measure(num_features, chosen, given, &bytes);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (given->block != NULL && given->block_bytes < unaligned_bytes(bytes)) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    if (bni_memory_overlaps(num_features, chosen, given, unaligned_bytes(bytes))) {
        return BN_STATUS_OVERLAP;
    }
    void *owned = NULL;
    if (given->block == NULL && bytes > 0) {
        owned = malloc(unaligned_bytes(bytes));
        if (owned == NULL) {
            return BN_STATUS_OUT_OF_MEMORY;
        }
    }
    build(layer, num_features, chosen, given, owned == NULL ? given->block : owned, bytes);
    layer->internal.owned = owned;
    return BN_STATUS_OK;
}

bn_status bn_layer_init(bn_layer *layer, size_t num_features, const bn_options *options) {
    return bn_layer_init_with(layer, num_features, options, NULL);
}

void bn_layer_free(bn_layer *layer) {
    if (layer != NULL) {
        free(layer->internal.owned);
        memset(layer, 0, sizeof *layer);
    }
}

size_t bn_layer_params(const bn_layer *layer, bn_param params[2]) {
    size_t count = 0;
    if (layer == NULL || params == NULL) {
        return 0;
    }
    if (layer->gamma != NULL) {
        params[count++] = (bn_param){"weight", layer->gamma, layer->dgamma, layer->num_features};
    }
    if (layer->beta != NULL) {
        params[count++] = (bn_param){"bias", layer->beta, layer->dbeta, layer->num_features};
    }
    return count;
}

/* ---- Running values ------------------------------------------------------------------------- */

bool bni_next_running(const bn_layer *layer, const bni_sums *sums, size_t first, size_t features,
                      double keep, const bni_running *into) {
    const bni_running old = bni_running_of(layer, first);
    return layer->internal.kernels->features.running(
        sums, features, layer->internal.options.biased_running_var, keep, &old, into);
}

void bni_commit_running(bn_layer *layer, const bni_running *next, size_t first, size_t features) {
    const bni_running of = bni_running_of(layer, first);
    const size_t bytes = features * sizeof(float);
    memcpy(of.mean, next->mean, bytes);
    memcpy(of.var, next->var, bytes);
    if (of.mean_seen != NULL) {
        memcpy(of.mean_seen, next->mean, bytes);
        memcpy(of.mean_rest, next->mean_rest, bytes);
        memcpy(of.var_seen, next->var, bytes);
        memcpy(of.var_rest, next->var_rest, bytes);
    }
}

/* ---- Names ---------------------------------------------------------------------------------- */

const char *bn_status_string(bn_status status) {
    switch (status) {
    case BN_STATUS_OK:
        return "success";
    case BN_STATUS_NULL_POINTER:
        return "a pointer that must be given is NULL";
    case BN_STATUS_BAD_OPTION:
        return "an option or a weight is outside its allowed values";
    case BN_STATUS_BAD_SHAPE:
        return "a size is zero, a stride is shorter than its row, or sizes overflow";
    case BN_STATUS_OVERLAP:
        return "buffers overlap without being the same";
    case BN_STATUS_TOO_FEW_VALUES:
        return "training needs more than one value a feature";
    case BN_STATUS_BAD_STATE:
        return "the call does not fit the layer's state or the forward before it";
    case BN_STATUS_NOT_FINITE:
        return "a NaN or Inf reached the statistics or the gradients";
    case BN_STATUS_OUT_OF_MEMORY:
        return "out of memory";
    case BN_STATUS_UNSUPPORTED:
        return "not supported in this build";
    case BN_STATUS_COMM_FAILED:
        return "the reduction across workers failed";
    case BN_STATUS_IO:
        return "a file could not be opened, read or written";
    case BN_STATUS_BAD_FORMAT:
        return "a file's content is not what it should be";
    }
    return "unknown status";
}

/* Two steps, so that the numbers and not their names become the string. */
#define TEXT_OF(number) #number
#define TEXT(number)    TEXT_OF(number)

const char *bn_version(void) {
    return TEXT(BN_VERSION_MAJOR) "." TEXT(BN_VERSION_MINOR) "." TEXT(BN_VERSION_PATCH);
}

const char *bn_layer_isa(const bn_layer *layer) {
    return layer == NULL || !bni_layer_ready(layer) ? NULL : layer->internal.kernels->name;
}
