/* Where a layer's arrays are: its own block, a scratch, the caller's parameters and caches. */
#ifndef BNI_MEMORY_H
#define BNI_MEMORY_H

#include "shape.h"
#include "two_pass.h"

/* The most features: all arrays and the scratch, at most 700 bytes a feature, are then far from
 * overflowing a size. */
#define BNI_MOST_FEATURES ((size_t)PTRDIFF_MAX / 1024)

/* Checks the memory that init is given, with good options, and counts the bytes that a layer needs
 * of its own, at a cache line. */
bn_status bni_memory_measure(size_t features, const bn_options *options, const bn_memory *memory,
                             size_t *bytes);

/* Whether memory that was given overlaps, as far as it is used: so many bytes of a block. */
bool bni_memory_overlaps(size_t features, const bn_options *options, const bn_memory *memory,
                         size_t block_bytes);

/* Gives the layer its arrays: the caller's, and others in so many bytes from block on. Of its own,
 * what is read before it is written begins with its value. */
void bni_memory_give(bn_layer *layer, const bn_memory *memory, void *block, size_t bytes);

/* The first cache line from an address on. */
void *bni_first_line(void *memory);

/* Where a call works. Nothing in it lives longer than a call, so that layers may share it. Arrays
 * have D elements. */
typedef struct bni_scratch {
    bni_space sums;       /* moments (mean, m2) or gradient sums */
    float *scale, *shift; /* bni_coef, a value a feature */
    /* Results, until it is known that they stand: forward's running values in the places of
     * backward's gradients and coefficients. */
    bni_running running;
    float *dgamma, *dbeta, *slope, *offset;
} bni_scratch;

bni_scratch bni_scratch_of(const bn_layer *layer);

/* The layer's arrays, wherever they are, which nothing else may touch. */
bni_arrays bni_arrays_of(const bn_layer *layer);

/* The running values, with what the layer knows of them, from a feature on. */
bni_running bni_running_of(const bn_layer *layer, size_t first);

/* The same of running values that are in the scratch. */
static inline bni_running bni_running_from(bni_running of, size_t first) {
    return (bni_running){.mean = of.mean + first,
                         .mean_rest = of.mean_rest + first,
                         .var = of.var + first,
                         .var_rest = of.var_rest + first};
}

/* The running values of one feature, to all digits that are known. */
void bni_running_at(const bn_layer *layer, size_t d, double *mean, double *var);

/* ---- Caches ---- */

/* Which forward it was that a cache is of: none; by the batch's own statistics; by running values;
 * by the statistics of a whole of which the batch is a part, or one of several workers' shares. */
enum {
    BNI_FORWARD_NONE,
    BNI_FORWARD_TRAINING,
    BNI_FORWARD_FROZEN,
    BNI_FORWARD_PART,
    BNI_FORWARD_SHARE
};

typedef struct bni_forward {
    size_t n, spatial;
    bni_type type;
    int kind;
} bni_forward;

/* The arrays of a batch's cache, which is the layer's own where the batch names none. */
bni_cache bni_cache_of(const bn_layer *layer, void *cache);

static inline bni_cache bni_cache_from(bni_cache cache, size_t first) {
    return (bni_cache){cache.mean + first, cache.mean_rest + first, cache.invstd + first,
                       cache.invstd_rest + first};
}

/* NULL where the batch names none. */
bni_region bni_region_of_cache(const bn_layer *layer, const void *cache);

void bni_cache_sign(bn_layer *layer, void *cache, bni_forward forward);

/* Which forward a cache is of: BNI_FORWARD_NONE where it is none of a layer of this size. */
bni_forward bni_cache_read(const bn_layer *layer, const void *cache);

#endif
