/*
 * Not a test: prints a digest of all that the library computes, a line a case. A change that is to
 * leave every bit as it was has the same lines before and after, for each instruction set:
 *
 *     BN_ISA=avx2 build/tests/tests/bits >before       (and after it, and diff)
 *     bits 5000 7                                      5000 random cases, another seed
 */
#include "calls.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, by numbers: the same for either order of their bytes. */
static uint64_t digest(uint64_t hash, uint32_t number) {
    return (hash ^ number) * UINT64_C(0x100000001B3);
}

static uint64_t digest_floats(uint64_t hash, const float *values, size_t count) {
    for (size_t k = 0; values != NULL && k < count; k++) {
        uint32_t bits;
        memcpy(&bits, &values[k], sizeof bits);
        hash = digest(hash, bits);
    }
    return hash;
}

static uint64_t digest_doubles(uint64_t hash, const double *values, size_t count) {
    for (size_t k = 0; k < count; k++) {
        uint64_t bits;
        memcpy(&bits, &values[k], sizeof bits);
        hash = digest(digest(hash, (uint32_t)bits), (uint32_t)(bits >> 32));
    }
    return hash;
}

static uint64_t digest_layer(uint64_t hash, const bn_layer *layer) {
    const size_t features = layer->num_features;
    const float *const arrays[] = {layer->dgamma,
                                   layer->dbeta,
                                   layer->running_mean,
                                   layer->running_var,
                                   layer->saved_mean,
                                   layer->saved_invstd,
                                   layer->internal.mean_rest,
                                   layer->internal.invstd_rest};
    for (size_t k = 0; k < COUNT_OF(arrays); k++) {
        hash = digest_floats(hash, arrays[k], features);
    }
    return hash;
}

static void print_case(const size_t shape[3], unsigned kind, int num_threads) {
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    rig r = rig_new(shape, kind, num_threads);
    trial *t = &r.t;
    for (size_t k = 0; k < CALLS_ON_BATCHES; k++) {
        const bn_status status = calls[k].make(&r);
        trial_unpack(t);
        hash = digest(hash, status);
        hash = digest_floats(hash, t->y, t->y_count);
        hash = digest_floats(hash, t->dx, t->x_count);
        hash = digest_floats(hash, t->dresidual, t->y_count);
        hash = digest_layer(hash, &t->layer);
    }
    hash = digest_doubles(hash, r.moments.mean, shape[1]);
    hash = digest_doubles(hash, r.moments.m2, shape[1]);
    hash = digest_doubles(hash, r.whole.sum_g, shape[1]);
    hash = digest_doubles(hash, r.whole.sum_gx, shape[1]);
    printf("%zux%zux%zu %x %016" PRIx64 "\n", shape[0], shape[1], shape[2], kind, hash);
    rig_free(&r);
}

/* In [1, most], small ones as likely as large ones. */
static size_t any_size(ref_random *random, size_t most) {
    size_t bound = 1;
    while (bound < most && ref_uniform(random) < 0.8) {
        bound *= 2;
    }
    bound = bound < most ? bound : most;
    return 1 + (size_t)(ref_uniform(random) * (double)bound);
}

int main(int argc, char **argv) {
    const long cases = argc > 1 ? atol(argv[1]) : 1000;
    ref_random random = {argc > 2 ? (uint64_t)atol(argv[2]) : 1};
    for (size_t k = 0; k < SMALL_SHAPES + LARGE_SHAPES; k++) {
        const size_t *shape = k < SMALL_SHAPES ? small_shapes[k] : large_shapes[k - SMALL_SHAPES];
        print_case(shape, 0, 1);
        print_case(shape, EVERYTHING, 2);
        print_case(shape, FROZEN | WITH_RELU | WITH_STRIDES, 1);
        print_case(shape, UNTRACKED | WITH_WEIGHTS, 2);
    }
    for (long k = 0; k < cases; k++) {
        const size_t features = any_size(&random, 6000);
        const size_t spatial = ref_uniform(&random) < 0.5 ? 1 : any_size(&random, 3000);
        const size_t most = 400000 / (features * spatial) + 1;
        const size_t shape[3] = {1 + any_size(&random, most), features, spatial};
        unsigned kind = (unsigned)(ref_bits(&random) % KINDS);
        kind &= kind & FROZEN ? ~(unsigned)UNTRACKED : ~0u;
        print_case(shape, kind, 1 + (int)(k % 3));
    }
    for (size_t k = 0; k < 10 * SMALL_SHAPES; k++) {
        static const unsigned kinds[] = {0, WITH_WEIGHTS, WITH_RESIDUAL, FROZEN,
                                         UNTRACKED | WITH_RESIDUAL | WITH_WEIGHTS};
        const unsigned kind = kinds[k / 2 % 5] | (k % 2 ? WITH_LEAKY : WITH_CLIP);
        print_case(small_shapes[k / 10], kind, 1 + (int)(k % 3));
    }
    for (size_t k = 0; k < SMALL_SHAPES + LARGE_SHAPES; k++) {
        const size_t *shape = k < SMALL_SHAPES ? small_shapes[k] : large_shapes[k - SMALL_SHAPES];
        print_case(shape, WITH_POSITIONS | EVERYTHING, 1);
        print_case(shape, WITH_POSITIONS | UNTRACKED | WITH_STRIDES, 2);
    }
    for (size_t k = 0; k < SMALL_SHAPES + LARGE_SHAPES; k++) {
        const size_t *shape = k < SMALL_SHAPES ? small_shapes[k] : large_shapes[k - SMALL_SHAPES];
        print_case(shape, WITH_BF16 | EVERYTHING, 1);
        print_case(shape, WITH_F16 | WITH_LEAKY | WITH_STRIDES, 2);
    }
    return 0;
}
