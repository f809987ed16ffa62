/* SPDX-License-Identifier: MIT */
/** @file
 * Batch normalization, forward and backward.
 *
 * The layer is that of S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network
 * Training by Reducing Internal Covariate Shift", 2015, arXiv:1502.03167 ("the paper" below):
 * forward is its algorithm 1, backward the chain rule of its section 3, inference its algorithm 2.
 *
 * For feature d, over the values x[i,d] of all samples i (and all positions, where there are any),
 * with weights w[i] that are 1 unless given and W = sum of w (times the positions; where positions
 * have weights too, w is the product of a sample's and a position's, and W the sum of the
 * products):
 *
 *     mean[d]   = sum_i w[i] x[i,d] / W
 *     var[d]    = sum_i w[i] (x[i,d] - mean[d])^2 / W
 *     invstd[d] = 1 / sqrt(var[d] + eps)
 *     xhat[i,d] = (x[i,d] - mean[d]) * invstd[d]
 *     y[i,d]    = act(gamma[d] * xhat[i,d] + beta[d] + residual[i,d])
 *
 *     g         = dy * act'(.)
 *     dbeta[d]  = sum_i g[i,d]
 *     dgamma[d] = sum_i g[i,d] * xhat[i,d]
 *     dx[i,d]   = gamma[d] * invstd[d] * (g[i,d] - w[i]/W * (dbeta[d] + xhat[i,d] * dgamma[d]))
 *     dresidual = g
 *
 * with act and its derivative act' as bn_activation names them, and
 *
 *     running_mean = momentum * running_mean + (1 - momentum) * mean
 *     running_var  = momentum * running_var  + (1 - momentum) * var * W/(W-1)
 *
 * Rules that hold for every call, so that they are not repeated at each:
 *
 * - Errors. A call that does not return BN_STATUS_OK leaves the layer bit for bit as it was, and
 *   has written no output if an argument was at fault. BN_STATUS_NOT_FINITE comes from the data:
 *   what is written then is said at the call. Nothing is printed, nothing exits or aborts.
 * - A layer that was never initialized but is all zero, or that was freed, is BN_STATUS_BAD_STATE.
 * - Empty batches. n = 0 is BN_STATUS_OK whatever the buffers are (they may be NULL): nothing is
 *   read, y and dx stay, dgamma and dbeta become zero (or stay, where a batch says to add to them),
 *   no batch is counted, and what an earlier forward left for backward stays too. Parts of a batch
 *   (bn_layer_forward_by) and the shares of workers (bn_layer_set_comm) may be empty beside others
 *   that are not: what is said there holds then.
 * - Buffers. y may be x; dx may be dy or x; dresidual may be dy; inputs of one shape may be the
 *   same. "The same" is the same first element and the same stride. Any other overlap of elements,
 *   of inputs too and with the layer's own arrays, is BN_STATUS_OVERLAP; what lies between strided
 *   rows is nobody's, so that slices of one wide buffer do not overlap. No alignment is asked for.
 * - Threads. Two calls that change a layer (all that take it without const) must not run at the
 *   same time, nor one of them with any other call on the same layer. Calls that take it const may
 *   run in any number at once. Calls on different layers are independent, unless these share memory
 *   of the caller's (see bn_memory). All this holds for bn_moments and bn_gradients too. The threads that a call
 *   starts are OpenMP's, a team for each thread that calls. Its runtime ends the process where it
 *   cannot start one, and GCC's does not survive a fork() in the child: num_threads = 1 never enters
 *   it.
 * - Allocation. Only bn_layer_init, bn_layer_init_with, bn_moments_init and bn_gradients_init allocate; OpenMP's
 *   runtime has memory of its own for its threads. A call uses at most 32 KiB of stack, beside what
 *   OpenMP's runtime takes of the caller's where threads share the work.
 * - Floating-point environment. It is the caller's, in all threads that work on a call: rounding
 *   mode, flush to zero, traps; and what they raise, the caller has raised. No call raises
 *   FE_INVALID, FE_DIVBYZERO or FE_OVERFLOW where its data does not: a NaN that is quiet stays so.
 * - Bits. For one instruction set, results do not depend on the number of threads, on the alignment
 *   of buffers, or on what ran before; but where two NaNs meet, which of them it is that remains.
 *   32-bit x86 needs -msse2 -mfpmath=sse for that, and for what is said of exceptions and of half
 *   types: x87 registers hold more digits than a float or a double.
 */
#ifndef BATCHNORM_BN_LAYER_H
#define BATCHNORM_BN_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** The version. It is written here alone; CMakeLists.txt reads it.
 * @{ */
#define BN_VERSION_MAJOR 0
#define BN_VERSION_MINOR 2
#define BN_VERSION_PATCH 0
/** @} */

/* BN_SHARED is defined for whoever links the shared library, by its CMake target. It matters on
 * Windows alone: elsewhere a declaration is the same for both forms of the library. */
#ifdef BN_API /* whoever compiles the sources themselves may know better */
#elif defined(_WIN32) && defined(BN_SHARED)
#ifdef BN_BUILDING
#define BN_API __declspec(dllexport)
#else
#define BN_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define BN_API __attribute__((visibility("default")))
#else
#define BN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** @defgroup batchnorm_types Types
 * @{ */

/** What a call has to say. The values are never renumbered; new ones are added at the end. */
typedef enum bn_status {
    BN_STATUS_OK = 0,       /**< all that was asked for is done */
    BN_STATUS_NULL_POINTER, /**< a pointer that must be given is NULL */
    BN_STATUS_BAD_OPTION, /**< eps < 0 or not finite, momentum outside [0, 1], a weight < 0, ... */
    BN_STATUS_BAD_SHAPE,  /**< zero features, a stride shorter than its row, sizes that overflow */
    BN_STATUS_OVERLAP,    /**< buffers that overlap without being the same */
    BN_STATUS_TOO_FEW_VALUES, /**< training on one value a feature: its variance says nothing */
    BN_STATUS_BAD_STATE,     /**< backward with no forward before it, or with another batch shape */
    BN_STATUS_NOT_FINITE,    /**< a NaN or Inf reached the statistics or the gradients */
    BN_STATUS_OUT_OF_MEMORY, /**< malloc failed, or the memory given is too small */
    BN_STATUS_UNSUPPORTED,   /**< not in this build; so far no call returns it */
    BN_STATUS_COMM_FAILED, /**< the reduction across workers failed, or another worker was at fault */
    BN_STATUS_IO,          /**< a file could not be opened, read or written */
    BN_STATUS_BAD_FORMAT   /**< a file's content is not what it should be */
} bn_status;

/** What follows the scale and shift (and the residual, where there is one). NaN stays NaN in all of
 * them. Where act' is 0, g is 0 whatever dy is. */
typedef enum bn_activation {
    BN_ACTIVATION_NONE = 0,   /**< act(z) = z */
    BN_ACTIVATION_RELU,       /**< act(z) = max(z, 0); act'(z) = 1 where z > 0, else 0 */
    BN_ACTIVATION_LEAKY_RELU, /**< act(z) = z where z > 0, else slope * z; act'(z) = 1 where z > 0,
                                 else slope: activation_slope. PyTorch's is 0.01, Darknet's 0.1 */
    BN_ACTIVATION_CLIP        /**< act(z) = min(max(z, 0), max); act'(z) = 1 where 0 < z < max, else
                                 0. max is activation_max; ReLU6's is 6 */
} bn_activation;

/** The element type of x, y, dy, dx, residual and dresidual. Parameters, weights, statistics and the
 * gradients of parameters are float beside all of them.
 *
 * A half type's elements are its bits, uint16_t in memory, at any address (an odd one too). They
 * are computed with as the floats that they are: mean, invstd, running values, dgamma and dbeta
 * have the bits that a batch of these floats gives, and y, dx and dresidual are the floats that it
 * gives, rounded once more, to nearest even: what is beyond the largest becomes Inf, subnormals are
 * kept, and a NaN stays a NaN (quiet, with its sign).
 *
 * Where a residual and an activation meet, backward sees z only as y was rounded: what became 0 or
 * max counts as such. Backward's dtype is forward's. */
typedef enum bn_dtype {
    BN_DTYPE_F32 = 0, /**< float */
    BN_DTYPE_BF16,    /**< bfloat16: the upper half of a float's bits */
    BN_DTYPE_F16      /**< IEEE 754 binary16: 5 bits of exponent, largest 65504, least 2^-24 */
} bn_dtype;

/** As momentum: the plain average over all batches seen. Batch k (from 0) takes part with weight
 * 1/(k+1), k being num_batches_tracked. PyTorch's momentum=None. */
#define BN_MOMENTUM_CUMULATIVE (-1.0f)

/** How the workers of one batch add up: see bn_layer_set_comm. Zero: there is one worker. */
typedef struct bn_comm {
    /** Replaces values[0..count) by their sums over all workers, in the place of the values, and
     * returns 0; or returns anything else, and what values hold then does not matter. Every worker
     * must get the same bits. NaN and Inf come too, and must go through as addition has them. It is
     * called by the thread that called the library. */
    int (*allreduce_sum)(void *context, double *values, size_t count);
    void *context; /**< allreduce_sum's first argument */
} bn_comm;

/** How a layer works; bn_options_default() gives the values in brackets. eps, momentum and
 * num_threads may be changed in layer.options between calls, the rest is read at init. */
typedef struct bn_options {
    float eps;        /**< added to the variance under the root; >= 0 and finite. With 0 a variance
                           of 0 is BN_STATUS_NOT_FINITE in training and gives Inf or NaN in
                           inference [1e-5] */
    float momentum;   /**< the weight of the OLD running value, as in NumpyDL, Keras, Flax and
                           Caffe; PyTorch's momentum=m is 1-m here. In [0, 1], or
                           BN_MOMENTUM_CUMULATIVE; with 0 the old value may be anything. Where no
                           running value is updated it is not looked at, but by init [0.9] */
    float gamma_init; /**< every gamma at init; finite [1] */
    float beta_init;  /**< every beta at init; finite [0] */
    bool scale;       /**< learn gamma; without it gamma is 1 and its pointers are NULL [true] */
    bool shift;       /**< learn beta; without it beta is 0 and its pointers are NULL [true] */
    bool track_running; /**< keep running values; without them inference normalizes by the batch
                           it is given [true] */
    bool biased_running_var;  /**< running_var takes var itself, not var * W/(W-1) [false] */
    bn_activation activation; /**< [BN_ACTIVATION_NONE] */
    int num_threads;          /**< 0: as many as there are; 1: none but the caller's; < 0 is
                                 BN_STATUS_BAD_OPTION. May be lowered between calls, to 1 in a child
                                 that was forked; never above what init saw [0] */
    float activation_slope; /**< of BN_ACTIVATION_LEAKY_RELU, where alone it is looked at; >= 0 and
                                 finite; 0 gives BN_ACTIVATION_RELU's bits [0.01] */
    float activation_max;   /**< of BN_ACTIVATION_CLIP, where alone it is looked at; > 0 and
                                 finite [6] */
    bool inference_only;    /**< no gradients, cache or scratch: forward and backward are
                                 BN_STATUS_BAD_STATE [false] */
} bn_options;

/** Where a layer lives, apart from what it does. Zero: the library allocates all of it.
 *
 * The six arrays are the caller's own, [D] each and of any alignment: a model's tensors serve in
 * place. Their content is taken as it is (no gamma_init, no running_var of 1), and they are the
 * layer's gamma, beta, ... until it is freed; which of them a call writes is what it writes
 * anyway. Those that are NULL are the layer's own. One that the options have no use for is
 * BN_STATUS_BAD_OPTION (gamma without scale); an inference_only layer ignores dgamma, dbeta and
 * scratch, and as no call on it writes the others but bn_layer_load_safetensors
 * (bn_safetensors.h), which refuses those that overlap, these may be the same array. Else nothing
 * that is given may overlap, as far as it is needed.
 *
 * A scratch is where a call works. Nothing stays in it: layers that do not run forward or backward
 * at the same time may share one. A block has room for all the rest. */
typedef struct bn_memory {
    float *gamma;         /**< [D]; NULL: the layer's own */
    float *beta;          /**< as gamma */
    float *dgamma;        /**< as gamma */
    float *dbeta;         /**< as gamma */
    float *running_mean;  /**< as gamma */
    float *running_var;   /**< as gamma */
    void *scratch;        /**< of any alignment; NULL: the layer's own */
    size_t scratch_bytes; /**< at least bn_scratch_bytes(D, num_threads) where scratch is given */
    void *block;          /**< of any alignment; NULL: malloc */
    size_t block_bytes;   /**< at least bn_layer_bytes(D, options, memory) where block is given */
} bn_memory;

/** A batch normalization layer. The caller owns the struct, bn_layer_init or bn_layer_init_with
 * fills it; the arrays live until bn_layer_free. The struct may be moved, as nothing points into
 * it, but not copied: two copies share all arrays, but each has its own count of batches and its
 * own idea of which forward came last, and freeing both frees twice. Everything above the private
 * part may be read at any time, and gamma, beta, dgamma, dbeta, the running values and their count
 * may be written between calls (by an optimizer, by a loader). Pointers, num_features and what is
 * private are the library's to set.
 *
 * The running values are floats, but where nobody has written over them the layer knows them to 48
 * bits. It averages by those, and infers by the mean's (of the variance a float's are enough):
 * inference equals training's normalization by the same statistics, however large the mean is, and
 * a long average does not stall. What is written into running_mean[d] or running_var[d] counts
 * from then on, as it is, unless it is the float that was there already. Floats alone are what a
 * copy of the arrays has, saved or sent; and all that an inference_only layer knows. */
typedef struct bn_layer {
    size_t num_features; /**< D */
    bn_options options;  /**< as given to init, or the defaults */
    bool frozen;         /**< settable at any time; forward then normalizes by the running values
                              and updates nothing, and backward is that of constants */
    float *gamma;        /**< [D]; NULL where not learned */
    float *beta;         /**< [D]; NULL where not learned */
    float *dgamma;       /**< [D]; written by backward, 0 at init; NULL where not learned, or in a
                              layer that only infers */
    float *dbeta;        /**< as dgamma */
    float *running_mean; /**< [D]; 0 at init; NULL without track_running */
    float *running_var;  /**< [D]; 1 at init; NULL without track_running */
    uint64_t num_batches_tracked; /**< training batches that the running values have seen */
    float *saved_mean;   /**< [D]; the layer's own cache: written by forward, read by backward; NULL
                              in a layer that only infers */
    float *saved_invstd; /**< as saved_mean */

    /** @cond private from here on */
    struct {
        bn_options options; /* as init read them */
        void *owned;        /* what bn_layer_free gives back; NULL: nothing */
        void *block;        /* where the layer's own arrays are */
        size_t block_bytes;
        bool borrows;                     /* some are elsewhere */
        const struct bn_kernels *kernels; /* the instruction set, chosen at init */
        const struct bni_tuning *tuning;  /* from which sizes on what is done: src/tuning.h */
        float *mean_rest, *invstd_rest;   /* [D]; mean = saved_mean + mean_rest to 48 bits */
        /* [D] each; NULL in a layer that only infers: what running_mean and running_var have beyond
         * float, as long as they are what was seen */
        float *mean_seen, *running_mean_rest, *var_seen, *running_var_rest;
        void *scratch; /* where a call works: src/memory.h */
        size_t scratch_bytes;
        size_t n, spatial; /* the shape of the forward before */
        int type;          /* of its elements: src/kernels/element.h */
        int forward;       /* of which kind it was: src/memory.h */
        bn_comm comm;
    } internal;
    /** @endcond */
} bn_layer;

/** What one call works on. Zero means the default in every field, so that
 *
 *     bn_batch batch = {.n = 8, .spatial = 28 * 28};
 *
 * is 8 samples of D x 28 x 28. Element (i, d, s) is at x[i*x_stride + d*S + s]; channels-last data
 * (N x H x W x C) is n = N*H*W rows with spatial 1. */
typedef struct bn_batch {
    size_t n;                   /**< samples: the rows of an N x D buffer */
    size_t spatial;             /**< S, positions a feature; 0 or 1: an N x D buffer. As 0 is one
                                     position, and not none, a tensor with no positions (H or W is 0)
                                     must come as n = 0 */
    size_t x_stride;            /**< elements from one sample to the next in x and dx; 0: D*S */
    size_t y_stride;            /**< the same in y, dy, residual and dresidual; 0: D*S */
    bn_dtype dtype;             /**< of x, y, dy, dx, residual, dresidual */
    const float *sample_weight; /**< [n], >= 0 and finite; 0 leaves a padded sample out of the
                                   statistics. It is normalized all the same, but what x it has
                                   touches nothing else: where dy is 0 it may even be NaN.
                                   NULL: all 1 */
    const float
        *position_weight; /**< [n][S] without gaps, for N x C x S, likewise: 0 leaves a padded
                                     position out, of all features. Multiplies sample_weight: w is
                                     the product as a float, and not beyond FLT_MAX before it is
                                     rounded. NULL: all 1 */
    const void *residual; /**< added before the activation; NULL: none. In backward only whether
                                   it is NULL matters */
    const void *y;        /**< backward: forward's y, needed where a residual and an activation
                                   meet, and not read elsewhere */
    void *dresidual;      /**< backward: g, written where a residual was given; NULL: not wanted;
                              may be dy */
    bool
        skip_running_update; /**< this forward leaves the running values and their count as they are
                              (recomputation) */
    void *cache; /**< bn_cache_bytes(D) of the caller's, of any alignment: forward leaves there what
                    backward needs, so that one layer can run forward on several inputs before any
                    backward. To be given to backward with the batch that forward had; it may be
                    copied and moved. NULL: the layer's own, which each forward overwrites */
    bool accumulate_grads; /**< this backward adds to dgamma and dbeta */
} bn_batch;

/** A learned parameter, as an optimizer wants it. */
typedef struct bn_param {
    const char *name; /**< "weight" or "bias", PyTorch's names of gamma and beta */
    float *value;     /**< [count] */
    float *grad;      /**< [count]; what backward wrote; NULL in a layer that only infers */
    size_t count;     /**< D */
} bn_param;

/** Count, mean and sum of squared deviations of data that does not come in one piece. The caller
 * owns the struct, bn_moments_init fills it. All but the private part may be read between calls:
 * mean[d] is the mean so far, m2[d]/count the biased variance. count and what is in the arrays may
 * be written too, by whoever reduces them over several machines: see bn_moments_merge for how. */
typedef struct bn_moments {
    size_t num_features; /**< D */
    double count;        /**< W so far: the sum of the weights of all positions */
    double *mean;        /**< [D] */
    double *m2;          /**< [D]; sum of w * (x - mean)^2 */

    /** @cond private from here on */
    struct {
        void *owned;
        size_t owned_bytes;
        const struct bn_kernels *kernels;
        const struct bni_tuning *tuning;
        double *scratch;
    } internal;
    /** @endcond */
} bn_moments;

/** The gradient sums of a batch that does not come in one piece. The caller owns the struct,
 * bn_gradients_init fills it. All but the private part may be read between calls, and count and
 * what is in the arrays may be written, by whoever reduces them over several machines: all of them
 * add up. */
typedef struct bn_gradients {
    size_t num_features; /**< D */
    double count;        /**< W of all that was added: the sum of the weights of all positions */
    double *sum_g;       /**< [D]; sum of g: dbeta */
    double *sum_gx;      /**< [D]; sum of g * (x - mean), with the mean that forward normalized by;
                            dgamma = sum_gx * invstd */

    /** @cond private from here on */
    struct {
        void *owned;
        size_t owned_bytes;
        double *scratch;
        float *invstd, *invstd_rest; /* [D], of the forward whose gradients these are */
        float *coef;                 /* where a part's scale and shift are */
        int forward;                 /* its kind: src/memory.h; none as long as nothing was added */
    } internal;
    /** @endcond */
} bn_gradients;

/** @} */
/** @defgroup batchnorm_life Options and the life of a layer
 * @{ */

/** Returns the options that a layer has by default: see bn_options. */
BN_API bn_options bn_options_default(void);

/** Makes *layer a layer of num_features features and allocates all that it will ever need.
 * options may be NULL: the defaults. *layer may hold anything before (it is not freed), and is not
 * touched unless BN_STATUS_OK is returned. The environment variable BN_ISA names the widest
 * instruction set that the layer may use (see bn_layer_isa); a name that is not known is ignored.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER   layer is NULL
 * @retval BN_STATUS_BAD_SHAPE      num_features is 0, or so large that sizes overflow
 * @retval BN_STATUS_BAD_OPTION     an option is outside the values that bn_options names
 * @retval BN_STATUS_OUT_OF_MEMORY  malloc failed */
BN_API bn_status bn_layer_init(bn_layer *layer, size_t num_features, const bn_options *options);

/** Returns how many bytes a block must have for such a layer, at an address of any alignment, beside
 * what `memory` gives: at least 1. 0 where num_features, an option or memory is bad, as
 * bn_layer_init_with says, which alone looks for overlaps. options and memory may be NULL: the
 * defaults; all of it. memory's block is not looked at.
 *
 * Beside parameters, gradients and running values these are at most 48*D + 512 bytes with a shared
 * scratch; 160*D + 1024 with num_threads 1; 640*D + 4096 otherwise. */
BN_API size_t bn_layer_bytes(size_t num_features, const bn_options *options,
                             const bn_memory *memory);

/** bn_layer_init in the caller's memory, as far as it is given: see bn_memory. memory may be NULL:
 * all of it is allocated. All that is given is in use until bn_layer_free, and must not be moved.
 *
 * A layer of inference_only on four arrays of the caller's (gamma, beta, running_mean, running_var)
 * allocates nothing and needs no bn_layer_free: on a stack variable init and bn_layer_infer are one
 * stateless call.
 *
 * Returns what bn_layer_init returns, and
 * @retval BN_STATUS_BAD_OPTION     memory gives an array that the options have no use for
 * @retval BN_STATUS_OVERLAP        what memory gives overlaps
 * @retval BN_STATUS_OUT_OF_MEMORY  a scratch or block has fewer bytes than it must have */
BN_API bn_status bn_layer_init_with(bn_layer *layer, size_t num_features, const bn_options *options,
                                    const bn_memory *memory);

/** Returns how many bytes a scratch must have, at an address of any alignment, for all layers of at most
 * so many features with num_threads as in their options (where these differ, the largest of what
 * bn_scratch_bytes says for each). 0 where most_features is 0 or too large, or num_threads < 0. */
BN_API size_t bn_scratch_bytes(size_t most_features, int num_threads);

/** Returns how many bytes a batch's cache has: some 16 a feature. 0 where num_features is 0 or too
 * large. */
BN_API size_t bn_cache_bytes(size_t num_features);

/** Gives back what init allocated (nothing of the caller's) and zeroes *layer. layer may be NULL,
 * zeroed, or freed before. */
BN_API void bn_layer_free(bn_layer *layer);

/** Writes the learned parameters into params and returns how many there are: 0, 1 or 2; 0 too where
 * layer or params is NULL. gamma ("weight") comes before beta ("bias"). The names are static, the
 * arrays the layer's. */
BN_API size_t bn_layer_params(const bn_layer *layer, bn_param params[2]);

/** @} */
/** @defgroup batchnorm_rows Row-major N x D
 * @{ */

/** Trains on a batch: y = act(gamma * xhat + beta) with the batch's own mean and variance, which it
 * keeps for backward and mixes into the running values (paper, algorithm 1; formulas on top of
 * bn_layer.h). A frozen layer normalizes by the running values instead and changes none of them.
 *
 * x[n][D] is read, y[n][D] written; y may be x, but backward wants x as it was.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER    layer, x or y is NULL
 * @retval BN_STATUS_BAD_OPTION      layer->options.eps, .momentum or .num_threads was set to a bad
 *                                   value
 * @retval BN_STATUS_BAD_SHAPE       n*D floats do not fit into the address space
 * @retval BN_STATUS_OVERLAP         y overlaps x without being x, or the layer's arrays
 * @retval BN_STATUS_TOO_FEW_VALUES  n is 1 and the layer is not frozen
 * @retval BN_STATUS_BAD_STATE       the layer was not initialized, is inference_only, or is frozen
 *                                   without running values
 * @retval BN_STATUS_NOT_FINITE      a mean or invstd would be NaN or Inf, a feature's squared
 *                                   deviations from its mean add up to more than 2^252, or a
 *                                   running value that this call updates would be NaN or Inf: y and
 *                                   the cache are written, the running values and their count are
 *                                   not
 * @retval BN_STATUS_COMM_FAILED     as bn_layer_set_comm says */
BN_API bn_status bn_layer_forward(bn_layer *layer, size_t n, const float *x, float *y);

/** Normalizes by the running values (paper, algorithm 2):
 *
 *     y = act(gamma * (x - running_mean) / sqrt(running_var + eps) + beta)
 *
 * They are taken as they are: where a caller has set one to NaN, or a variance below -eps, y is NaN.
 * A layer without running values normalizes by the mean and variance of the batch it is given. The
 * layer is not changed: any number of threads may call this at once.
 *
 * x[n][D] is read, y[n][D] written; y may be x.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER    layer, x or y is NULL
 * @retval BN_STATUS_BAD_OPTION      layer->options.eps or .num_threads was set to a bad value
 * @retval BN_STATUS_BAD_SHAPE       n*D floats do not fit into the address space
 * @retval BN_STATUS_OVERLAP         y overlaps x without being x, or the layer's arrays
 * @retval BN_STATUS_BAD_STATE       the layer was not initialized
 * @retval BN_STATUS_TOO_FEW_VALUES  n is 1 and the layer has no running values
 * @retval BN_STATUS_NOT_FINITE      the layer has no running values, and a mean or invstd is NaN or
 *                                   Inf, or a feature's squared deviations from its mean add up to
 *                                   more than 2^252; y is written */
BN_API bn_status bn_layer_infer(const bn_layer *layer, size_t n, const float *x, float *y);

/** Differentiates the layer's last forward: writes dx, and dgamma and dbeta where they are learned
 * (formulas on top of bn_layer.h). x must be what that forward had. Where another forward came
 * between, which takes the place of the first in the layer's own cache, one of another n is
 * BN_STATUS_BAD_STATE here, but one of the same n goes unnoticed and makes the gradients wrong:
 * such forwards want caches of their own (bn_batch.cache). It knows whether that forward was a
 * training or a frozen one; after a frozen one dx = gamma * invstd * g. gamma must be what forward
 * saw; with an activation and no residual beta too, as act' is then rebuilt from x and the
 * parameters. Backward may be called again.
 *
 * x[n][D] (forward's x) and dy[n][D] are read, dx[n][D] written; dx may be dy or x.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  layer, x, dy or dx is NULL
 * @retval BN_STATUS_BAD_OPTION    layer->options.eps or .num_threads was set to a bad value
 * @retval BN_STATUS_BAD_SHAPE     n*D floats do not fit into the address space
 * @retval BN_STATUS_OVERLAP       dx overlaps x or dy without being it, or the layer's arrays
 * @retval BN_STATUS_BAD_STATE     the layer was not initialized or is inference_only, there was no
 *                                 forward, or its n was another (n = 0 is always allowed); or it
 *                                 normalized by the moments of more than this batch
 *                                 (bn_layer_forward_by), or one of both is of many workers, the
 *                                 other not
 * @retval BN_STATUS_NOT_FINITE    a gradient that is learned would be NaN or Inf: dx is written,
 *                                 dgamma and dbeta are not
 * @retval BN_STATUS_COMM_FAILED   as bn_layer_set_comm says */
BN_API bn_status bn_layer_backward(bn_layer *layer, size_t n, const float *x, const float *dy,
                                   float *dx);

/** @} */
/** @defgroup batchnorm_batches Everything else a batch can be
 * @{ */

/** bn_layer_forward for any bn_batch: positions, strides, weights, a residual, a cache,
 * skip_running_update. The element type is batch->dtype. batch->y, dresidual and accumulate_grads
 * are not looked at.
 *
 * Returns what bn_layer_forward returns, and
 * @retval BN_STATUS_NULL_POINTER    batch is NULL
 * @retval BN_STATUS_BAD_OPTION      dtype is none of bn_dtype; a weight, or the product of a
 *                                   sample's and a position's, is negative, NaN or Inf
 * @retval BN_STATUS_BAD_SHAPE       a stride is shorter than D*S, or a product of sizes overflows
 * @retval BN_STATUS_OVERLAP         y overlaps the residual or the weights, the cache anything, or
 *                                   inputs overlap in part
 * @retval BN_STATUS_TOO_FEW_VALUES  W <= 1 and the layer is not frozen */
BN_API bn_status bn_layer_forward_batch(bn_layer *layer, const bn_batch *batch, const void *x,
                                        void *y);

/** bn_layer_infer for any bn_batch. The weights are checked always, and used where the layer has no
 * running values. skip_running_update, cache and the fields of backward are not looked
 * at.
 *
 * Returns what bn_layer_infer returns, and what bn_layer_forward_batch adds;
 * BN_STATUS_TOO_FEW_VALUES comes only without running values. */
BN_API bn_status bn_layer_infer_batch(const bn_layer *layer, const bn_batch *batch, const void *x,
                                      void *y);

/** bn_layer_backward for any bn_batch: the one that forward was given, with y and dresidual added
 * where they are wanted. batch->residual must be what it was for forward (its content is not read).
 *
 * Returns what bn_layer_backward returns, and
 * @retval BN_STATUS_NULL_POINTER    batch is NULL; a residual and an activation meet and batch->y
 *                                   is NULL
 * @retval BN_STATUS_BAD_OPTION      dtype is none of bn_dtype; a weight, or the product of a
 *                                   sample's and a position's, is negative, NaN or Inf; dresidual
 *                                   is given without a residual
 * @retval BN_STATUS_BAD_SHAPE       a stride is shorter than D*S, or a product of sizes overflows
 * @retval BN_STATUS_OVERLAP         dresidual overlaps anything but dy as a whole, dx overlaps the
 *                                   weights or y, the cache anything, or inputs overlap in part
 * @retval BN_STATUS_TOO_FEW_VALUES  W <= 1 and forward was not frozen
 * @retval BN_STATUS_BAD_STATE       n, spatial or dtype is not that of the forward before;
 *                                   batch->cache is no cache of a layer of this size
 * @retval BN_STATUS_NOT_FINITE      with accumulate_grads also where a sum would leave float; dx
 *                                   and dresidual are written */
BN_API bn_status bn_layer_backward_batch(bn_layer *layer, const bn_batch *batch, const void *x,
                                         const void *dy, void *dx);

/** @} */
/** @defgroup batchnorm_folding Inference folded away
 *
 * The folds: inference becomes part of the linear layer before or after, so that the layer itself
 * need not run. How the other layer's weights lie in memory decides which call it is and with what
 * sizes; a wrong one goes unnoticed. D is this layer's num_features, `in` and `out` are the
 * channels of the other, kh and kw the sizes of its kernel (with one dimension or three it is the
 * same).
 *
 *     the layer before            its weights               the call: bn_layer_...
 *     dense (PyTorch's Linear)    [D][in]                   fold(in)
 *     dense (Keras, TensorFlow)   [in][D]                   fold_transposed(1, in, 1)
 *     convolution                 [D][in][kh][kw]           fold(in*kh*kw)
 *       grouped                   [D][in/groups][kh][kw]    fold(in/groups*kh*kw)
 *       depthwise                 [D][1][kh][kw]            fold(kh*kw)
 *       HWIO (Keras, TensorFlow)  [kh][kw][in][D]           fold_transposed(1, kh*kw*in, 1)
 *       HWIO, grouped             [kh][kw][in/groups][D]    fold_transposed(1, kh*kw*in/groups, 1)
 *       HWIO, depthwise           [kh][kw][in][D/in]        fold_transposed(1, kh*kw, 1)
 *     transposed convolution      [in][D/groups][kh][kw]    fold_transposed(groups, in/groups,
 *                                                               kh*kw)
 *       (Keras, TensorFlow)       [kh][kw][D][in]           fold_transposed(1, kh*kw, in)
 *
 *     the layer after
 *     dense                       [out][D]                  fold_next(out, 1)
 *       of flattened N x D x S    [out][D*S]                fold_next(out, S)
 *       of flattened N x S x D    [out][S*D]                fold_next(out*S, 1), into a bias of
 *                                                               out*S zeros: those of an output
 *                                                               are then added to its own
 *     convolution                 [out][D][kh][kw]          fold_next(out, kh*kw)
 *
 * Weights and bias are the caller's and may have any alignment. A layer without a bias is folded
 * with one of zeros, and has it from then on. What is written is computed in double and rounded
 * once. Whether the other layer pads with zeros matters to fold_next alone.
 *
 * @{ */

/** Writes inference as one multiplication and addition a feature, before the activation:
 *
 *     scale[d] = gamma[d] / sqrt(running_var[d] + eps)
 *     shift[d] = beta[d] - running_mean[d] * scale[d]
 *
 * so that y = act(scale*x + shift), which is less exact than bn_layer_infer where the mean is large
 * beside the deviation: scale*x and shift then cancel. scale[D] and shift[D] are the caller's and
 * must not overlap each other or the layer's arrays. May run with other calls that take the layer
 * const.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  layer, scale or shift is NULL
 * @retval BN_STATUS_BAD_OPTION    layer->options.eps was set to a bad value
 * @retval BN_STATUS_OVERLAP       scale, shift and the layer's arrays overlap
 * @retval BN_STATUS_BAD_STATE     the layer was not initialized, or has no running values
 * @retval BN_STATUS_NOT_FINITE    a scale or shift would be NaN or Inf: nothing is written */
BN_API bn_status bn_layer_affine(const bn_layer *layer, float *scale, float *shift);

/** Folds inference into the linear layer before it, out = weight * in + bias, in place:
 *
 *     weight[d][k] = scale[d] * weight[d][k]
 *     bias[d]      = scale[d] * bias[d] + shift[d]
 *
 * with bn_layer_affine's scale and shift; the activation stays to be applied. weight is row-major
 * [D][fan_in], all that belongs to one output together: see the table of the folds for what that
 * is, and for weights [fan_in][D], which this call would take and fold wrong. bias is [D]. fan_in
 * may be 0: then weight may be NULL. May run with other calls that take the layer const.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  layer, weight or bias is NULL
 * @retval BN_STATUS_BAD_OPTION    layer->options.eps was set to a bad value
 * @retval BN_STATUS_BAD_SHAPE     D*fan_in floats do not fit into the address space
 * @retval BN_STATUS_OVERLAP       weight, bias and the layer's arrays overlap
 * @retval BN_STATUS_BAD_STATE     the layer was not initialized, or has no running values
 * @retval BN_STATUS_NOT_FINITE    a weight or bias would become NaN or Inf: nothing is written */
BN_API bn_status bn_layer_fold(const bn_layer *layer, size_t fan_in, float *weight, float *bias);

/** Folds inference into a transposed convolution before it, or into any linear layer before it whose
 * weights have the outputs behind the inputs (see the table of the folds), in place:
 *
 *     weight[g][f][j][k] = scale[d] * weight[g][f][j][k]      where d = g * (D/groups) + j
 *     bias[d]            = scale[d] * bias[d] + shift[d]
 *
 * with bn_layer_affine's scale and shift; the activation stays to be applied. weight is row-major
 * [groups][fan_in][D/groups][kernel]: PyTorch's ConvTranspose has [in][out/groups][kh][kw], where
 * in = groups*fan_in, and kernel is kh*kw. bias is [D]. fan_in or kernel may be 0: then weight may
 * be NULL. May run with other calls that take the layer const.
 *
 * Returns what bn_layer_fold returns, but
 * @retval BN_STATUS_BAD_SHAPE  groups is 0 or does not divide D; fan_in*D*kernel floats do not fit
 *                              into the address space */
BN_API bn_status bn_layer_fold_transposed(const bn_layer *layer, size_t groups, size_t fan_in,
                                          size_t kernel, float *weight, float *bias);

/** Folds inference into the dense layer or convolution after it (pre-activation networks), which
 * then takes x instead of y = scale*x + shift, in place:
 *
 *     bias[o]         = bias[o] + sum over d and k of shift[d] * weight[o][d][k]
 *     weight[o][d][k] = scale[d] * weight[o][d][k]
 *
 * with bn_layer_affine's scale and shift, the sum in double and of the weights as they were. weight
 * is row-major [fan_out][D][kernel], bias [fan_out]. fan_out or kernel may be 0: then weight may be
 * NULL, and with fan_out 0 bias too. May run with other calls that take the layer const.
 *
 * Exact only where every output has all its D*kernel inputs: where a convolution pads y with zeros,
 * the folded one must pad x with what becomes zero, feature d with
 *
 *     -shift[d] / scale[d] = running_mean[d] - beta[d] / scale[d]
 *
 * so a caller writes that border around x and runs the convolution without padding, or, where a
 * scale is 0, does not fold. With zeros around x all outputs at the border are wrong.
 *
 * An activation would be between the two layers, and a convolution in several groups has other
 * weights: neither can be folded so. Weights [D][fan_out], as Keras and TensorFlow have them, must
 * be transposed first: this call would take them and fold them wrong.
 *
 * Returns what bn_layer_fold returns, but
 * @retval BN_STATUS_BAD_SHAPE  fan_out*D*kernel or fan_out floats do not fit into the address space
 * @retval BN_STATUS_BAD_STATE  also where the layer has an activation */
BN_API bn_status bn_layer_fold_next(const bn_layer *layer, size_t fan_out, size_t kernel,
                                    float *weight, float *bias);

/** @} */
/** @defgroup batchnorm_statistics Statistics of data that does not come in one piece
 * @{ */

/** Makes *moments the moments of nothing: count 0. Allocates. *moments may hold anything before, and
 * is not touched unless BN_STATUS_OK is returned.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER   moments is NULL
 * @retval BN_STATUS_BAD_SHAPE      num_features is 0, or so large that sizes overflow
 * @retval BN_STATUS_OUT_OF_MEMORY  malloc failed */
BN_API bn_status bn_moments_init(bn_moments *moments, size_t num_features);

/** Gives back what bn_moments_init allocated and zeroes *moments, which may be NULL, zeroed or freed
 * before. */
BN_API void bn_moments_free(bn_moments *moments);

/** Adds a batch to the moments: afterwards they are those of all the data added so far, whatever the
 * pieces and their order (up to rounding in double precision). The pieces' moments are merged by
 * the pairwise formula of T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the
 * Sample Variance", The American Statistician 37 (1983).
 *
 * Of batch, n, spatial, x_stride, dtype and both weights are looked at (and whether y_stride is x's,
 * for the order of sums alone). x is only read. A batch of
 * one value, or of no weight, may be added. All work is done by the caller's thread.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  moments, batch or x is NULL
 * @retval BN_STATUS_BAD_OPTION    dtype is none of bn_dtype; a weight, or the product of a sample's
 *                                 and a position's, is negative, NaN or Inf
 * @retval BN_STATUS_BAD_SHAPE     x_stride is shorter than D*S, or a product of sizes overflows
 * @retval BN_STATUS_OVERLAP       inputs overlap in part, or anything and the moments' arrays
 * @retval BN_STATUS_BAD_STATE     the moments were not initialized
 * @retval BN_STATUS_NOT_FINITE    a mean or a sum of squares is NaN or Inf: the moments stay as
 *                                 they were */
BN_API bn_status bn_moments_add(bn_moments *moments, const bn_batch *batch, const void *x);

/** Merges the moments of other data into these, as if it had been added here. `from` stays, and may
 * be `into` itself (its data then counts twice).
 *
 * Moments do not add up, as they are about different means. An engine that knows nothing but sums
 * reduces them over workers in two steps: count and count * mean, which give the common count and
 * mean; and then m2 + count * (mean - common mean)^2, with a worker's own count and mean, which is
 * m2 of all.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  into or from is NULL
 * @retval BN_STATUS_BAD_SHAPE     they have different numbers of features
 * @retval BN_STATUS_BAD_STATE     one of them was not initialized
 * @retval BN_STATUS_NOT_FINITE    a merged value would be NaN or Inf: `into` stays as it was */
BN_API bn_status bn_moments_merge(bn_moments *into, const bn_moments *from);

/** Replaces the running values by the mean and variance of a population (paper, algorithm 2, steps 7
 * to 10): running_mean = mean and running_var = m2/count * W/(W-1), or m2/count with
 * biased_running_var. num_batches_tracked stays.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER    layer or moments is NULL
 * @retval BN_STATUS_BAD_SHAPE       they have different numbers of features
 * @retval BN_STATUS_BAD_STATE       one of them was not initialized, or the layer has no running
 *                                   values; or it is inference_only and memory of the caller's was
 *                                   given
 * @retval BN_STATUS_TOO_FEW_VALUES  moments->count is at most 1
 * @retval BN_STATUS_NOT_FINITE      a mean or a variance is NaN or Inf, or beyond float; count is
 *                                   Inf, or an m2 below 0 */
BN_API bn_status bn_layer_set_running(bn_layer *layer, const bn_moments *moments);

/** @} */
/** @defgroup batchnorm_parts A batch in parts
 *
 * A batch that does not fit into memory, comes as micro-batches or lies on several machines is
 * still one batch: statistics and gradients are those of the whole. For all parts, in any order,
 *
 *     bn_moments_add(&moments, part, x)                 then what other workers have is merged
 *     bn_layer_forward_by(&layer, &moments, part, x, y)
 *     bn_gradients_add(&gradients, &layer, part, x, dy) then what other workers have is added
 *     bn_layer_backward_by(&layer, &gradients, part, x, dy, dx)
 *
 * each line for all parts before the next, and bn_layer_set_gradients once. Parts may be of any
 * size, empty, masked. One part alone gives the bits of bn_layer_forward and bn_layer_backward,
 * with the exception of features whose squared deviations add up to something, but less than
 * 2^-90. A bn_comm plays no part in these calls: whoever has several workers reduces moments and
 * gradients by himself.
 *
 * A part's backward reads what its forward left in batch->cache. The layer's own cache serves all
 * parts of a whole, whatever their shapes, until the forward of another whole takes its place.
 *
 * @{ */

/** Normalizes a part of a batch by the moments of the whole:
 *
 *     y = act(gamma * (x - mean) / sqrt(m2/count + eps) + beta + residual)
 *
 * The running values and their count change as bn_layer_forward would change them with the whole,
 * by this part alone, even if it is empty: all calls but one must have skip_running_update. An
 * empty part leaves a cache too. A frozen layer normalizes by its running values, whatever
 * the moments are.
 *
 * batch, x and y are as in bn_layer_forward_batch; the weights matter to moments alone, but are
 * checked.
 *
 * Returns what bn_layer_forward_batch returns, without BN_STATUS_COMM_FAILED, but
 * @retval BN_STATUS_NULL_POINTER    moments is NULL, too
 * @retval BN_STATUS_BAD_SHAPE       moments are of another number of features, too
 * @retval BN_STATUS_OVERLAP         moments' arrays overlap y or the cache, too
 * @retval BN_STATUS_BAD_STATE       moments were not initialized, too
 * @retval BN_STATUS_TOO_FEW_VALUES  moments->count is not above 1 and the layer is not frozen; but
 *                                   where it is 0 an empty part is BN_STATUS_OK, as an empty batch
 * @retval BN_STATUS_NOT_FINITE      of moments, where also count is Inf or an m2 below 0 */
BN_API bn_status bn_layer_forward_by(bn_layer *layer, const bn_moments *moments,
                                     const bn_batch *batch, const void *x, void *y);

/** Makes *gradients those of nothing: count 0 and sums 0. Allocates. *gradients may hold anything
 * before, and is not touched unless BN_STATUS_OK is returned.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER   gradients is NULL
 * @retval BN_STATUS_BAD_SHAPE      num_features is 0, or so large that sizes overflow
 * @retval BN_STATUS_OUT_OF_MEMORY  malloc failed */
BN_API bn_status bn_gradients_init(bn_gradients *gradients, size_t num_features);

/** Gives back what bn_gradients_init allocated and zeroes *gradients, which may be NULL, zeroed or
 * freed before. */
BN_API void bn_gradients_free(bn_gradients *gradients);

/** Adds a part of a batch:
 *
 *     sum_g[d]  += sum_i g[i,d]
 *     sum_gx[d] += sum_i g[i,d] * (x[i,d] - mean[d])
 *     count     += W
 *
 * with what the part's forward left in batch->cache, or in the layer. The first part also says by
 * which invstd, and whether that forward was frozen: parts of one batch alone may be added. An
 * empty part says it too, and its batch->cache is read where it is given. To begin with another
 * batch, set count and all sums to 0, and add a part, if only an empty one, before sums from
 * elsewhere are written there. The forward may also have been bn_layer_forward of a whole
 * batch of the part's shape.
 *
 * batch, x and dy are as in bn_layer_backward_batch, batch->residual and batch->y with them;
 * dresidual and accumulate_grads are not looked at. All work is done by the caller's thread:
 * several parts may be worked on at once, each into gradients of its own.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  gradients, layer, batch, x or dy is NULL; a residual and an
 *                                 activation meet and batch->y is NULL
 * @retval BN_STATUS_BAD_OPTION    layer->options.eps or .num_threads was set to a bad value; dtype
 *                                 is none of bn_dtype; a weight, or the product of a sample's and a
 *                                 position's, is negative, NaN or Inf
 * @retval BN_STATUS_BAD_SHAPE     gradients are of another number of features than the layer; a
 *                                 stride is shorter than D*S, or a product of sizes overflows
 * @retval BN_STATUS_OVERLAP       inputs overlap in part, or anything and the arrays of gradients
 *                                 or layer
 * @retval BN_STATUS_BAD_STATE     gradients or layer were not initialized, the layer is
 *                                 inference_only, there was no forward or one of another dtype, or
 *                                 batch->cache is of another n or spatial; what was added before
 *                                 was of a frozen forward and this is not, or the other way round
 * @retval BN_STATUS_NOT_FINITE    a sum is NaN or Inf: gradients stay as they were */
BN_API bn_status bn_gradients_add(bn_gradients *gradients, const bn_layer *layer,
                                  const bn_batch *batch, const void *x, const void *dy);

/** Adds the gradients of other parts of the same batch. `from` stays, and may be `into` itself.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  into or from is NULL
 * @retval BN_STATUS_BAD_SHAPE     they have different numbers of features
 * @retval BN_STATUS_BAD_STATE     one of them was not initialized, or one is of a frozen forward
 *                                 and the other is not
 * @retval BN_STATUS_NOT_FINITE    a sum would be NaN or Inf: `into` stays as it was */
BN_API bn_status bn_gradients_merge(bn_gradients *into, const bn_gradients *from);

/** Writes dx of a part, by the gradients of the whole:
 *
 *     dx = gamma * invstd * (g - w/count * (sum_g + (x - mean) * invstd^2 * sum_gx))
 *
 * or gamma * invstd * g after a frozen forward; and dresidual = g where the batch asks for it. The
 * layer is not changed: parts may be worked on at once, each by a thread of its own. An empty part
 * is BN_STATUS_OK, and nothing is written.
 *
 * batch, x, dy and dx are as in bn_layer_backward_batch; accumulate_grads is not looked at.
 *
 * Returns what bn_gradients_add returns, but
 * @retval BN_STATUS_NULL_POINTER    dx is NULL, too
 * @retval BN_STATUS_BAD_OPTION      dresidual is given without a residual, too
 * @retval BN_STATUS_OVERLAP         what bn_layer_backward_batch says, or dx or dresidual and the
 *                                   arrays of gradients
 * @retval BN_STATUS_TOO_FEW_VALUES  gradients->count is not above 1 and forward was not frozen
 * @retval BN_STATUS_NOT_FINITE      forward was not frozen, and count is Inf, a sum NaN or Inf, or
 *                                   a gradient that is learned would be; dx and dresidual are
 *                                   written */
BN_API bn_status bn_layer_backward_by(const bn_layer *layer, const bn_gradients *gradients,
                                      const bn_batch *batch, const void *x, const void *dy,
                                      void *dx);

/** Makes the gradients of the whole the layer's: dbeta = sum_g and dgamma = sum_gx * invstd, or
 * adds them. Of nothing they are 0. invstd is that of what was added last into sums of nothing, if only
 * an empty part; where nothing ever was, as sums came from elsewhere alone, that of the layer's last
 * forward.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  layer or gradients is NULL
 * @retval BN_STATUS_BAD_SHAPE     they have different numbers of features
 * @retval BN_STATUS_BAD_STATE     one of them was not initialized, the layer is inference_only, or
 *                                 there are sums, but was no forward
 * @retval BN_STATUS_NOT_FINITE    a gradient that is learned would be NaN or Inf: nothing is
 *                                 written */
BN_API bn_status bn_layer_set_gradients(bn_layer *layer, const bn_gradients *gradients,
                                        bool accumulate);

/** @} */
/** @defgroup batchnorm_workers Many workers, one batch
 * @{ */

/** Makes the layer one of several workers', each with a share of every batch: from then on
 * bn_layer_forward and bn_layer_backward (and _batch) reduce over all of them, and each worker
 * gets what one with all the rows would get: y and dx of its own rows, running values, dgamma and
 * dbeta of the whole. These are sums over all rows, as ever: where every worker's loss is the mean
 * over its own rows, dy is too large by the number of workers, and so are they. A comm of zeros
 * makes the worker alone again.
 *
 * All workers must make the same calls in the same order, with layers of the same D, options,
 * frozen, running values and, where gradients are added to, gradients. Forward calls allreduce_sum
 * twice, with D + 5 values, and backward once, with 2*D + 5, whatever the number of workers; a
 * frozen forward, inference, and the calls on parts, moments and gradients not at all.
 *
 * Shares may be of any size. A worker with n = 0 takes part: it has nothing to read and to write
 * but running values, gradients and the cache. Where all have n = 0, calls do what they do of an
 * empty batch (but a frozen layer's forward, which asks nobody, leaves its cache).
 *
 * Forward and backward go together: where the one reduced and the other would not, or the other way
 * round, backward is BN_STATUS_BAD_STATE.
 *
 * A worker whose arguments are at fault takes part all the same and returns its own status; the
 * others return BN_STATUS_COMM_FAILED. (An empty share that has no cache of forward's is at fault
 * only where others are not empty. Where layer is NULL or was not initialized, the others wait.) What
 * a NaN or Inf in one share makes BN_STATUS_NOT_FINITE is that at all. A reduction that fails is
 * BN_STATUS_COMM_FAILED. In all these cases running values, their count, dgamma and dbeta stay as
 * they were at every worker.
 *
 * A worker whose reduction has failed takes part in the others of the same call, so that all learn
 * of it. Of a call's last one nobody can learn: where that fails on some workers alone, it is these
 * that have not changed. They are then a step behind the others, and must take running values or
 * gradients from one of them.
 *
 * Not while any other call on the layer runs. The scratch must not be in use by another layer
 * while a worker waits for others.
 *
 * Returns BN_STATUS_OK, or
 * @retval BN_STATUS_NULL_POINTER  layer is NULL; allreduce_sum is NULL and context is not
 * @retval BN_STATUS_BAD_STATE     the layer was not initialized or is inference_only */
BN_API bn_status bn_layer_set_comm(bn_layer *layer, bn_comm comm);

/** @} */
/** @defgroup batchnorm_halves Half types
 * @{ */

/** Converts n values to or from a half type, for programs that have no converter of their own:
 * bfloat16, the upper half of a float's bits, and IEEE 754's binary16. A half is its bits.
 *
 * To a half type they round to nearest, ties to even, whatever the rounding mode: what is beyond
 * the largest becomes Inf, subnormals are kept, a NaN stays a NaN (quiet, with its sign and the
 * upper bits of its payload). From a half type they are exact, and make a NaN quiet.
 *
 * from[n] is read, to[n] written; both have any alignment. They must not overlap: where they do, or
 * one is NULL, or n elements do not fit into the address space, nothing is written. Any number of
 * threads may call these at once. The first call reads BN_ISA, for all.
 * @{ */
BN_API void bn_bf16_from_float(size_t n, const float *from, uint16_t *to);
BN_API void bn_bf16_to_float(size_t n, const uint16_t *from, float *to);
BN_API void bn_f16_from_float(size_t n, const float *from, uint16_t *to);
BN_API void bn_f16_to_float(size_t n, const uint16_t *from, float *to);
/** @} */

/** @} */
/** @defgroup batchnorm_names Names
 * @{ */

/** Returns a static sentence that says what a status means; never NULL, whatever the value. */
BN_API const char *bn_status_string(bn_status status);

/** Returns the version of the library that is linked, "MAJOR.MINOR.PATCH"; static. */
BN_API const char *bn_version(void);

/** Returns the instruction set that the layer's arithmetic uses: "avx512" (F, BW and VL), "avx2" (with
 * FMA and F16C) or "sse2" on x86-64, "neon" on AArch64, "scalar" (portable C) elsewhere or where BN_ISA
 * asks for it; static. NULL where layer is NULL or was not initialized. */
BN_API const char *bn_layer_isa(const bn_layer *layer);

/** @} */

#ifdef __cplusplus
}
#endif

#endif /* BATCHNORM_BN_LAYER_H */
