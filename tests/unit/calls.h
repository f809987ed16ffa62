/*
 * Every call of the library, in every way that it goes: for tests of what holds for all of them.
 */
#ifndef BN_TESTS_CALLS_H
#define BN_TESTS_CALLS_H

#include "support.h"

/* What a rig may have beside its data, bit by bit. */
enum {
    WITH_WEIGHTS = 1,
    WITH_RESIDUAL = 2,
    WITH_RELU = 4,
    WITH_STRIDES = 8,
    ACCUMULATING = 16,
    CUMULATIVE = 32,
    NO_SCALE = 64,
    NO_SHIFT = 128,
    UNTRACKED = 256,
    FROZEN = 512, /* and not untracked */
    KINDS = 1024,
    WITH_POSITIONS = 1024, /* with any of these kinds */
    WITH_LEAKY = 2048,     /* these two in the place of WITH_RELU */
    WITH_CLIP = 4096,
    WITH_BF16 = 8192, /* one of these at most */
    WITH_F16 = 16384,
    FLOAT_KINDS = 8 * KINDS, /* those below have no half type */
    EVERYTHING = WITH_WEIGHTS | WITH_RESIDUAL | WITH_RELU,
    ALL_KINDS = 4 * FLOAT_KINDS
};

/* Whether there is such a kind below ALL_KINDS. Of those with weights of positions and with activations
 * other than ReLU a fifth will do, of those with a half type one in 31, as emulation is slow. */
bool kind_exists(unsigned kind);

/* A trial, and what the calls need that take no batch. */
typedef struct rig {
    trial t;
    bn_moments moments, other;
    bn_gradients gradients, whole;
    float *scale, *shift; /* [D] */
    void *memory;         /* for a layer in a block */
} rig;

/* shape: n, D and S */
rig rig_new(const size_t shape[3], unsigned kind, int num_threads);
void rig_free(rig *r);

/* All calls that work, in an order in which each is BN_STATUS_OK, as often as one likes. (Backward of a
 * batch is not, between the forward of a part and the next of a batch.) They neither pack nor unpack. */
typedef struct library_call {
    const char *name;
    bn_status (*make)(rig *r);
} library_call;

enum { CALLS_ON_BATCHES = 10, CALLS_ON_DATA = 13, CALLS = 21 };
extern const library_call calls[CALLS]; /* first those that take a batch, then those with data */

/* The calls on batches, which can be made again and again on the same data, and what they give. Of any
 * kind but ACCUMULATING. */
typedef struct routine {
    rig r;
    snapshot before, after;
    void *y, *dx; /* after them, as calls find them */
} routine;

routine routine_new(const size_t shape[3], unsigned kind, int num_threads);
void routine_free(routine *of);

/* Makes them, and says whether all is bit for bit as it was. In threads and signals' handlers, too:
 * nothing is asserted or allocated. */
bool routine_do(routine *of);

/* Shapes that take every way through the library: rows in one group and in several, folded rows,
 * small and large planes. The small ones end with part vectors, the large ones are for several
 * threads. */
enum { SMALL_SHAPES = 7, LARGE_SHAPES = 9 };
extern const size_t small_shapes[SMALL_SHAPES][3], large_shapes[LARGE_SHAPES][3];

#endif /* BN_TESTS_CALLS_H */
