/* See memory.h; and the exported calls that say how much memory is wanted. */
#include "memory.h"

#include <stdint.h>
#include <string.h>

/* ---- Arrays one behind the other ------------------------------------------------------------ */

/* To a multiple of a power of two. */
static size_t round_up(size_t bytes, size_t unit) {
    return (bytes + (unit - 1)) & ~(unit - 1);
}

/* What an array takes. Those that are no longer than a few cache lines share lines, or these would be
 * most of what small layers take. */
static size_t array_bytes(size_t bytes) {
    return round_up(bytes, bytes < 4 * BNI_LINE ? BNI_LINE / 4 : BNI_LINE);
}

/* Hands out memory piece by piece; with start NULL it only counts. */
typedef struct memory_cut {
    char *start;
    size_t used;
} memory_cut;

static void *take(memory_cut *cut, size_t bytes) {
    void *piece = cut->start == NULL ? NULL : cut->start + cut->used;
    cut->used += array_bytes(bytes);
    return piece;
}

void *bni_first_line(void *memory) {
    return (char *)memory + (BNI_LINE - (uintptr_t)memory % BNI_LINE) % BNI_LINE;
}

/* ---- Scratch -------------------------------------------------------------------------------- */

/* Two arrays of doubles, six of floats, and what chunks need, which depends on the threads. */
static size_t chunks_at(size_t features) {
    return round_up(2 * array_bytes(features * sizeof(double)) +
                        6 * array_bytes(features * sizeof(float)),
                    BNI_LINE);
}

static size_t scratch_bytes(size_t most_features, int num_threads) {
    return chunks_at(most_features) +
           bni_two_pass_scratch(most_features, num_threads) * sizeof(double);
}

bni_scratch bni_scratch_of(const bn_layer *layer) {
    const size_t features = layer->num_features;
    const size_t doubles = array_bytes(features * sizeof(double));
    const size_t floats = array_bytes(features * sizeof(float));
    char *const start = layer->internal.scratch, *const arrays = start + 2 * doubles;
    bni_scratch s;
    s.sums.one = (double *)start;
    s.sums.two = (double *)(start + doubles);
    s.sums.chunks = (double *)(start + chunks_at(features));
    s.scale = (float *)arrays;
    s.shift = (float *)(arrays + floats);
    s.dgamma = s.running.mean = (float *)(arrays + 2 * floats);
    s.dbeta = s.running.mean_rest = (float *)(arrays + 3 * floats);
    s.slope = s.running.var = (float *)(arrays + 4 * floats);
    s.offset = s.running.var_rest = (float *)(arrays + 5 * floats);
    s.running.mean_seen = s.running.var_seen = NULL;
    return s;
}

size_t bn_scratch_bytes(size_t most_features, int num_threads) {
    const bool good = most_features > 0 && most_features <= BNI_MOST_FEATURES && num_threads >= 0;
    return good ? scratch_bytes(most_features, num_threads) + (BNI_LINE - 1) : 0;
}

/* ---- A layer's memory ----------------------------------------------------------------------- */

/* An array that is wanted: the caller's as it is, or one of the layer's own that begins with a value. */
static float *give(memory_cut *cut, bool wanted, float *given, size_t count, float value) {
    if (!wanted || given != NULL) {
        return wanted ? given : NULL;
    }
    float *own = take(cut, count * sizeof *own);
    for (size_t i = 0; own != NULL && i < count; i++) {
        own[i] = value;
    }
    return own;
}

/* What is known of running values beyond float: nothing yet. */
static void take_rests(memory_cut *cut, bn_layer *layer, size_t features, bool wanted) {
    layer->internal.mean_seen = give(cut, wanted, NULL, features, 0.0f);
    layer->internal.running_mean_rest = give(cut, wanted, NULL, features, 0.0f);
    layer->internal.var_seen = give(cut, wanted, NULL, features, 0.0f);
    layer->internal.running_var_rest = give(cut, wanted, NULL, features, 0.0f);
}

static void take_layer(memory_cut *cut, bn_layer *layer, size_t features, const bn_options *options,
                       const bn_memory *memory) {
    const bool trains = !options->inference_only, tracks = options->track_running;
    const bool scale = options->scale, shift = options->shift;
    layer->gamma = give(cut, scale, memory->gamma, features, options->gamma_init);
    layer->beta = give(cut, shift, memory->beta, features, options->beta_init);
    layer->dgamma = give(cut, scale && trains, memory->dgamma, features, 0.0f);
    layer->dbeta = give(cut, shift && trains, memory->dbeta, features, 0.0f);
    layer->running_mean = give(cut, tracks, memory->running_mean, features, 0.0f);
    layer->running_var = give(cut, tracks, memory->running_var, features, 1.0f);
    if (trains) {
        take_rests(cut, layer, features, tracks);
        layer->saved_mean = give(cut, true, NULL, features, 0.0f);
        layer->saved_invstd = give(cut, true, NULL, features, 0.0f);
        layer->internal.mean_rest = take(cut, features * sizeof(float));
        layer->internal.invstd_rest = take(cut, features * sizeof(float));
        const size_t bytes = scratch_bytes(features, options->num_threads);
        layer->internal.scratch_bytes = bytes;
        cut->used = round_up(cut->used, BNI_LINE);
        layer->internal.scratch =
            memory->scratch != NULL ? bni_first_line(memory->scratch) : take(cut, bytes);
    }
}

/* What is given must be what the options ask for: a model's gamma that nobody looks at would be an
 * error that nobody sees. */
static bool gives_what_is_used(const bn_options *options, const bn_memory *memory) {
    const bool trains = !options->inference_only;
    return (options->scale || (memory->gamma == NULL && (!trains || memory->dgamma == NULL))) &&
           (options->shift || (memory->beta == NULL && (!trains || memory->dbeta == NULL))) &&
           (options->track_running ||
            (memory->running_mean == NULL && memory->running_var == NULL));
}

enum { GIVEN = 6, SCRATCH = GIVEN, BLOCK, GIVEN_REGIONS };

/* Inference alone reads them, and models share constants. */
bool bni_memory_overlaps(size_t features, const bn_options *options, const bn_memory *memory,
                         size_t block_bytes) {
    const size_t bytes = features * sizeof(float);
    const bool trains = !options->inference_only;
    const bni_region regions[GIVEN_REGIONS] = {
        bni_region_of_bytes(memory->gamma, bytes),
        bni_region_of_bytes(memory->beta, bytes),
        bni_region_of_bytes(memory->running_mean, bytes),
        bni_region_of_bytes(memory->running_var, bytes),
        bni_region_of_bytes(trains ? memory->dgamma : NULL, bytes),
        bni_region_of_bytes(trains ? memory->dbeta : NULL, bytes),
        [SCRATCH] = bni_region_of_bytes(trains ? memory->scratch : NULL,
                                        bn_scratch_bytes(features, options->num_threads)),
        [BLOCK] = bni_region_of_bytes(memory->block, block_bytes)};
    const unsigned shared = trains ? 0u : (1u << GIVEN) - 1u;
    unsigned same[GIVEN_REGIONS] = {0};
    for (size_t k = 0; k < GIVEN; k++) {
        same[k] = shared;
    }
    return bni_any_overlap(regions, same, GIVEN_REGIONS, &(bni_arrays){.count = 0});
}

bn_status bni_memory_measure(size_t features, const bn_options *options, const bn_memory *memory,
                             size_t *bytes) {
    if (!gives_what_is_used(options, memory)) {
        return BN_STATUS_BAD_OPTION;
    }
    if (memory->scratch != NULL && !options->inference_only &&
        memory->scratch_bytes < bn_scratch_bytes(features, options->num_threads)) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    memory_cut cut = {.start = NULL};
    bn_layer unused = {0};
    take_layer(&cut, &unused, features, options, memory);
    *bytes = cut.used;
    return BN_STATUS_OK;
}

void bni_memory_give(bn_layer *layer, const bn_memory *memory, void *block, size_t bytes) {
    memory_cut cut = {.start = block};
    layer->internal.block = block;
    layer->internal.block_bytes = bytes;
    layer->internal.borrows = memory->gamma != NULL || memory->beta != NULL ||
                              memory->dgamma != NULL || memory->dbeta != NULL ||
                              memory->running_mean != NULL || memory->running_var != NULL ||
                              memory->scratch != NULL;
    take_layer(&cut, layer, layer->num_features, &layer->internal.options, memory);
}

bni_arrays bni_arrays_of(const bn_layer *layer) {
    bni_arrays arrays;
    arrays.count = 1;
    arrays.spans[0] = bni_span_of_bytes(layer->internal.block, layer->internal.block_bytes);
    if (layer->internal.borrows) {
        const float *const each[] = {layer->gamma, layer->beta,         layer->dgamma,
                                     layer->dbeta, layer->running_mean, layer->running_var};
        for (; arrays.count <= GIVEN; arrays.count++) {
            arrays.spans[arrays.count] =
                bni_span_of_bytes(each[arrays.count - 1], layer->num_features * sizeof(float));
        }
        arrays.spans[arrays.count++] =
            bni_span_of_bytes(layer->internal.scratch, layer->internal.scratch_bytes);
    }
    return arrays;
}

bni_running bni_running_of(const bn_layer *layer, size_t first) {
    bni_running of = {.mean = layer->running_mean + first, .var = layer->running_var + first};
    if (layer->internal.mean_seen != NULL) {
        of.mean_seen = layer->internal.mean_seen + first;
        of.mean_rest = layer->internal.running_mean_rest + first;
        of.var_seen = layer->internal.var_seen + first;
        of.var_rest = layer->internal.running_var_rest + first;
    }
    return of;
}

static double known_value(const float *value, const float *seen, const float *rest) {
    const float now = bni_load_float(value);
    return (double)now + (seen == NULL ? 0.0 : (double)bni_rest_of(now, *seen, *rest));
}

void bni_running_at(const bn_layer *layer, size_t d, double *mean, double *var) {
    const bni_running of = bni_running_of(layer, d);
    *mean = known_value(of.mean, of.mean_seen, of.mean_rest);
    *var = known_value(of.var, of.var_seen, of.var_rest);
}

/* ---- Caches --------------------------------------------------------------------------------- */

/* What a cache of the caller's begins with, in front of four arrays. The last word is made of the
 * others: memory that holds something else is not taken for a cache. */
enum { CACHE_FEATURES, CACHE_N, CACHE_SPATIAL, CACHE_TYPE, CACHE_KIND, CACHE_CHECK, CACHE_WORDS };

typedef struct cache_head {
    uint64_t words[CACHE_WORDS];
} cache_head;

static uint64_t check_of(const cache_head *head) {
    uint64_t check = 0x626e20636163686bu; /* any number that is not common */
    for (size_t w = 0; w < CACHE_CHECK; w++) {
        check = (check ^ head->words[w]) * 0x9e3779b97f4a7c15u; /* odd: no two differ alike */
        check ^= check >> 32;
    }
    return check;
}

size_t bn_cache_bytes(size_t num_features) {
    const bool good = num_features > 0 && num_features <= BNI_MOST_FEATURES;
    return good ? sizeof(cache_head) + 4 * num_features * sizeof(float) : 0;
}

bni_region bni_region_of_cache(const bn_layer *layer, const void *cache) {
    return bni_region_of_bytes(cache, bn_cache_bytes(layer->num_features));
}

bni_cache bni_cache_of(const bn_layer *layer, void *cache) {
    const size_t features = layer->num_features;
    if (cache == NULL) {
        return (bni_cache){layer->saved_mean, layer->internal.mean_rest, layer->saved_invstd,
                           layer->internal.invstd_rest};
    }
    float *arrays = (float *)((char *)cache + sizeof(cache_head));
    return (bni_cache){arrays, arrays + features, arrays + 2 * features, arrays + 3 * features};
}

void bni_cache_sign(bn_layer *layer, void *cache, bni_forward forward) {
    if (cache == NULL) {
        layer->internal.forward = forward.kind;
        layer->internal.n = forward.n;
        layer->internal.spatial = forward.spatial;
        layer->internal.type = (int)forward.type;
        return;
    }
    cache_head head = {{layer->num_features, forward.n, forward.spatial, (uint64_t)forward.type,
                        (uint64_t)forward.kind}};
    head.words[CACHE_CHECK] = check_of(&head);
    memcpy(cache, &head, sizeof head);
}

bni_forward bni_cache_read(const bn_layer *layer, const void *cache) {
    cache_head head;
    if (cache == NULL) {
        return (bni_forward){layer->internal.n, layer->internal.spatial,
                             (bni_type)layer->internal.type, layer->internal.forward};
    }
    memcpy(&head, cache, sizeof head);
    if (head.words[CACHE_CHECK] != check_of(&head) ||
        head.words[CACHE_FEATURES] != layer->num_features) {
        return (bni_forward){.kind = BNI_FORWARD_NONE};
    }
    return (bni_forward){(size_t)head.words[CACHE_N], (size_t)head.words[CACHE_SPATIAL],
                         (bni_type)head.words[CACHE_TYPE], (int)head.words[CACHE_KIND]};
}
