/* The life of a layer: options, memory, parameters, names. */
#include "layer.h"
#include "machine.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- Options -------------------------------------------------------------------------------- */

bn_options bn_options_default(void) {
    return (bn_options){.eps = 1e-5f,
                        .momentum = 0.9f,
                        .gamma_init = 1.0f,
                        .beta_init = 0.0f,
                        .scale = true,
                        .shift = true,
                        .track_running = true,
                        .biased_running_var = false,
                        .activation = BN_ACTIVATION_NONE,
                        .num_threads = 0};
}

bool bni_momentum_good(float momentum) {
    return bni_finite(momentum) &&
           ((momentum >= 0.0f && momentum <= 1.0f) || momentum == BN_MOMENTUM_CUMULATIVE);
}

static bool options_good(const bn_options *options) {
    return bni_not_negative(options->eps) &&
           (!options->track_running || bni_momentum_good(options->momentum)) &&
           bni_finite(options->gamma_init) && bni_finite(options->beta_init) &&
           options->num_threads >= 0 &&
           (options->activation == BN_ACTIVATION_NONE || options->activation == BN_ACTIVATION_RELU);
}

bn_status bni_check_batch(const bn_layer *layer, const bn_batch *batch, bni_shape *shape) {
    if (layer == NULL || batch == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    if (!bni_layer_ready(layer)) {
        return BN_STATUS_BAD_STATE;
    }
    if (!bni_not_negative(layer->options.eps) || layer->options.num_threads < 0) {
        return BN_STATUS_BAD_OPTION;
    }
    return bni_shape_make(shape, batch, layer->num_features, BNI_STRIDES_BOTH);
}

int bni_threads(const bn_layer *layer) {
    const int most = layer->internal.options.num_threads, now = layer->options.num_threads;
    return most == 0 || (now != 0 && now < most) ? now : most;
}

/* ---- Memory --------------------------------------------------------------------------------- */

/* Hands out a block's memory piece by piece; with start NULL it only counts. */
typedef struct memory_cut {
    char *start;
    size_t used;
} memory_cut;

static void *take(memory_cut *cut, size_t bytes) {
    void *piece = cut->start == NULL ? NULL : cut->start + cut->used;
    cut->used += (bytes + (BNI_LINE - 1)) / BNI_LINE * BNI_LINE;
    return piece;
}

static float *take_floats(memory_cut *cut, size_t count) {
    return take(cut, count * sizeof(float));
}

static double *take_doubles(memory_cut *cut, size_t count) {
    return take(cut, count * sizeof(double));
}

static bni_scratch take_scratch(memory_cut *cut, size_t features) {
    bni_scratch scratch;
    scratch.sums.one = take_doubles(cut, features);
    scratch.sums.two = take_doubles(cut, features);
    scratch.sums.chunks = take_doubles(cut, bni_two_pass_scratch(features));
    scratch.scale = take_floats(cut, features);
    scratch.shift = take_floats(cut, features);
    scratch.slope = take_floats(cut, features);
    scratch.offset = take_floats(cut, features);
    scratch.pending1 = take_floats(cut, features);
    scratch.pending2 = take_floats(cut, features);
    return scratch;
}

/* Gives the layer its arrays. */
static void take_layer(memory_cut *cut, bn_layer *layer, size_t features,
                       const bn_options *options) {
    if (options->scale) {
        layer->gamma = take_floats(cut, features);
        layer->dgamma = take_floats(cut, features);
    }
    if (options->shift) {
        layer->beta = take_floats(cut, features);
        layer->dbeta = take_floats(cut, features);
    }
    if (options->track_running) {
        layer->running_mean = take_floats(cut, features);
        layer->running_var = take_floats(cut, features);
    }
    layer->saved_mean = take_floats(cut, features);
    layer->saved_invstd = take_floats(cut, features);
    layer->internal.mean_rest = take_floats(cut, features);
    layer->internal.invstd_rest = take_floats(cut, features);
    layer->internal.scratch = take_scratch(cut, features).sums.one;
}

bni_scratch bni_scratch_of(const bn_layer *layer) {
    memory_cut cut = {.start = (char *)layer->internal.scratch};
    return take_scratch(&cut, layer->num_features);
}

bni_cache bni_cache_of(const bn_layer *layer, size_t first) {
    return (bni_cache){layer->saved_mean + first, layer->internal.mean_rest + first,
                       layer->saved_invstd + first, layer->internal.invstd_rest + first};
}

void bni_layer_affine_part(const bn_layer *layer, const bni_cache *cache, size_t first,
                           size_t features, float *scale, float *shift) {
    layer->internal.kernels->features.affine(
        cache, layer->gamma == NULL ? NULL : layer->gamma + first,
        layer->beta == NULL ? NULL : layer->beta + first, features, scale, shift);
}

bni_region bni_region_of_layer(const bn_layer *layer) {
    return bni_region_of_bytes(layer->internal.block, layer->internal.block_bytes);
}

/* ---- Init and free -------------------------------------------------------------------------- */

/* Checks what init is given and counts the bytes of the arrays. */
static bn_status measure(size_t features, const bn_options *options, size_t *bytes) {
    if (features == 0 || features > BNI_MOST_FEATURES) {
        return BN_STATUS_BAD_SHAPE;
    }
    if (!options_good(options)) {
        return BN_STATUS_BAD_OPTION;
    }
    memory_cut cut = {.start = NULL};
    bn_layer unused = {0};
    take_layer(&cut, &unused, features, options);
    *bytes = cut.used;
    return BN_STATUS_OK;
}

static void fill(float *array, size_t count, float value) {
    for (size_t i = 0; array != NULL && i < count; i++) {
        array[i] = value;
    }
}

/* Makes the layer in memory that is large enough, at the first cache line of it. */
static void build(bn_layer *layer, size_t features, const bn_options *options, void *memory,
                  size_t bytes) {
    const size_t skip = (BNI_LINE - (uintptr_t)memory % BNI_LINE) % BNI_LINE;
    char *block = (char *)memory + skip;
    memset(block, 0, bytes);
    *layer = (bn_layer){.num_features = features, .options = *options};
    layer->internal.options = *options;
    layer->internal.block = block;
    layer->internal.block_bytes = bytes;
    layer->internal.kernels = bni_kernels_select();
    layer->internal.tuning = &bni_machine_here()->tuning;
    memory_cut cut = {.start = block};
    take_layer(&cut, layer, features, options);
    fill(layer->gamma, features, options->gamma_init);
    fill(layer->beta, features, options->beta_init);
    fill(layer->running_var, features, 1.0f);
}

bn_status bn_layer_init(bn_layer *layer, size_t num_features, const bn_options *options) {
    const bn_options defaults = bn_options_default();
    const bn_options *chosen = options == NULL ? &defaults : options;
    size_t bytes;
    if (layer == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    const bn_status status = measure(num_features, chosen, &bytes);
    if (status != BN_STATUS_OK) {
        return status;
    }
    void *memory = malloc(bytes + BNI_LINE - 1);
    if (memory == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    build(layer, num_features, chosen, memory, bytes);
    layer->internal.owned = memory;
    return BN_STATUS_OK;
}

size_t bn_layer_bytes(size_t num_features, const bn_options *options) {
    const bn_options defaults = bn_options_default();
    size_t bytes;
    const bn_status status = measure(num_features, options == NULL ? &defaults : options, &bytes);
    return status == BN_STATUS_OK ? bytes + BNI_LINE - 1 : 0;
}

bn_status bn_layer_init_in(bn_layer *layer, size_t num_features, const bn_options *options,
                           void *memory, size_t bytes) {
    const bn_options defaults = bn_options_default();
    const bn_options *chosen = options == NULL ? &defaults : options;
    size_t needed;
    if (layer == NULL || memory == NULL) {
        return BN_STATUS_NULL_POINTER;
    }
    const bn_status status = measure(num_features, chosen, &needed);
    if (status != BN_STATUS_OK) {
        return status;
    }
    if (bytes < needed + BNI_LINE - 1) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    build(layer, num_features, chosen, memory, needed);
    return BN_STATUS_OK;
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

bool bni_pending_running(const bn_layer *layer, const bni_sums *sums, size_t first, size_t features,
                         double keep) {
    const bni_scratch scratch = bni_scratch_of(layer);
    return layer->internal.kernels->features.running(
        sums, features, layer->internal.options.biased_running_var, keep,
        layer->running_mean + first, layer->running_var + first, scratch.pending1 + first,
        scratch.pending2 + first);
}

void bni_commit_running(bn_layer *layer) {
    const bni_scratch scratch = bni_scratch_of(layer);
    const size_t bytes = layer->num_features * sizeof(float);
    memcpy(layer->running_mean, scratch.pending1, bytes);
    memcpy(layer->running_var, scratch.pending2, bytes);
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
