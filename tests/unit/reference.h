/*
 * What the layer should compute: the formulas on top of bn_layer.h in double precision, as plainly
 * as they can be written, and the means to measure how far the library is from them.
 *
 * The reference takes the arguments of the library's own calls and reads the same public fields:
 * of the layer num_features, options, frozen, gamma, beta and the running values, never what the
 * library computed (the cache, dgamma, dbeta). But tensors are floats here whatever batch->dtype: of a
 * half type they hold its values. Forward changes the running values, so the reference goes first:
 *
 *     ref_result want = ref_forward(&layer, &batch, x);
 *     ref_backward(&want, &layer, &batch, x, dy);
 *     ref_running(&want, &layer);
 *     bn_layer_forward_batch(&layer, &batch, x, y);
 *     bn_layer_backward_batch(&layer, &batch, x, dy, dx);
 *     ref_errors errors = ref_measure(&want, &layer, &batch, y, dx);
 *     assert_true(ref_within_limits(&errors));
 *     ref_free(&want);
 *
 * Nothing here depends on cmocka; memory that cannot be had aborts.
 */
#ifndef BN_TESTS_REFERENCE_H
#define BN_TESTS_REFERENCE_H

#include <batchnorm/bn_layer.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- The layer ------------------------------------------------------------------------------- */

/* Everything that a forward and its backward give. Tensors are [n][D][S] without gaps, whatever the
 * strides of the batch; vectors are [D]. All of it is zero until it was computed. */
typedef struct ref_result {
    size_t n, num_features, spatial; /* spatial is at least 1 */
    bn_dtype dtype;
    double rounding; /* of y and dx to a half type, in its ulps: 0.5 */
    double weight;   /* W */
    double *y, *dx, *dresidual;
    double *mean,
        *mean_rest;         /* the mean is mean + mean_rest; |mean_rest| is below a double's ulp */
    double *var, *invstd;   /* var is the biased one */
    double *dgamma, *dbeta; /* of this batch alone */
    double *running_mean, *running_var;
    /* What they are measured by: see ref_errors. */
    double *y_scale, *dx_scale, *mean_scale, *dgamma_scale, *dbeta_scale;
} ref_result;

/* Makes an empty result for batches of this shape; ref_forward does it by itself. */
ref_result ref_alloc(size_t n, size_t num_features, size_t spatial);
void ref_free(ref_result *result);

/* Running values, with what the layer knows of them beyond float. */
double ref_running_mean(const bn_layer *layer, size_t d);
double ref_running_var(const bn_layer *layer, size_t d);

/* Computes weight, mean, var, invstd, y and their scales. The batch's statistics, or the running ones
 * where the layer is frozen (then W stays that of the batch): inference is the forward of a frozen
 * layer. */
ref_result ref_forward(const bn_layer *layer, const bn_batch *batch, const float *x);

/* Computes dx, dgamma, dbeta, dresidual and their scales from what ref_forward left in result.
 * batch->y, dresidual and accumulate_grads are not looked at. */
void ref_backward(ref_result *result, const bn_layer *layer, const bn_batch *batch, const float *x,
                  const float *dy);

/* Its two halves: dgamma, dbeta, what dx is measured by, and g, as it is, in dresidual; then dx from
 * these, as of a batch of result->weight, with dresidual rounded to its type. */
void ref_sums(ref_result *result, const bn_layer *layer, const bn_batch *batch, const float *x,
              const float *dy);
void ref_dx(ref_result *result, const bn_layer *layer, const bn_batch *batch, const float *x);

/* Computes running_mean and running_var as they should be after this batch, from the layer's as
 * they are before. */
void ref_running(ref_result *result, const bn_layer *layer);

/* What a batch leaves unsaid. */
size_t ref_spatial(const bn_batch *batch);                       /* at least 1 */
size_t ref_x_stride(const bn_batch *batch, size_t num_features); /* D*S where it is 0 */
size_t ref_y_stride(const bn_batch *batch, size_t num_features);
double ref_weight(const bn_batch *batch, size_t i, size_t s); /* of sample i, position s */

/* ---- How far the library is from it ---------------------------------------------------------- */

/* Errors are counted in units of 2^-24 (half an ulp of 1, the largest relative error of one
 * rounding to float), relative to
 *
 *     y           the largest |y| of its feature before the activation: ReLU may leave as little as
 *                 it likes of it. Under running values also the largest |gamma * xhat|, which beta
 *                 may then cancel in a whole feature; a batch's own xhat has both signs. A slope
 *                 above 1 makes it, and dx's, so many times larger
 *     dx          the largest |gamma * invstd * dy| of its feature
 *     mean        its own value, or the deviation where that is larger: it is in y by the deviation
 *     dgamma      its own value, or the root of the sum of its addends' squares, (g * xhat)^2, where
 *                 that is larger: as much as they come to where they cancel by chance; and |dbeta|,
 *                 which is what the mean's own error, in every xhat, adds up to, and 2^-24 * |mean *
 *                 invstd * dbeta|, as the cache knows the mean to 48 bits
 *     dbeta       its own value, or the root of the sum of g^2
 *     running_mean, where a test measures it, as mean
 *     dresidual and the other vectors: the element's own value
 *
 * and the worst element counts. What should be 0 relative to 0 must be 0; a NaN is infinitely far. Of
 * y and dx of a half type errors are what is beyond the rounding to it.
 */
#define REF_UNIT     (1.0 / 16777216.0)
#define REF_LIMIT    4.0 /* of y, mean, invstd, dgamma, dbeta and the running values */
#define REF_LIMIT_DX 6.0

typedef struct ref_errors {
    double y, dx, dresidual, mean, invstd, dgamma, dbeta;
} ref_errors;

/* Measures what the layer's calls left: y, dx (laid out as batch says), batch->dresidual, the
 * cache, dgamma and dbeta. Where y, dx or batch->dresidual is NULL its error is 0; so are dgamma's
 * and dbeta's where dx is NULL or they are not learned. */
ref_errors ref_measure(const ref_result *want, const bn_layer *layer, const bn_batch *batch,
                       const float *y, const float *dx);

/* Says whether all errors are within REF_LIMIT and REF_LIMIT_DX, and dresidual exact. */
bool ref_within_limits(const ref_errors *errors);

/* The largest |act'(z)| that there is, and at least 1. */
double ref_steepest(const bn_options *options);

/* What a mean is measured by. */
double ref_mean_scale(double mean, double var);

/* The pieces of ref_measure. A scale is [D] or NULL: then every element is measured by itself, with
 * no rounding forgiven. */
double ref_error_tensor(const ref_result *shape, const float *got, size_t stride,
                        const double *want, const double *scale);
double ref_error_vector(size_t count, const float *got, const double *want, const double *scale);

/* Writes the largest |value| of each feature of a [n][D][S] tensor without gaps. */
void ref_largest(const ref_result *shape, const double *tensor, double *largest);

/* |got - want| in units of |scale|; 0 where subnormal floats are no nearer to each other. */
double ref_units(double got, double want, double scale);

/* ---- Half types ------------------------------------------------------------------------------ */

/* The bits of a half: the nearest to value, of two the even one. And the value of such bits. */
uint16_t ref_half(bn_dtype dtype, double value);
double ref_value(bn_dtype dtype, uint16_t bits);

/* The value that an element of this type has for it; of float, value itself. */
double ref_rounded(bn_dtype dtype, double value);

/* From the last digit of value, as a half, to the next; of float 0. */
double ref_ulp(bn_dtype dtype, double value);

/* Arrays of halves have any alignment. */
void ref_to_halves(bn_dtype dtype, size_t count, const float *from, void *to);
void ref_from_halves(bn_dtype dtype, size_t count, const void *from, float *to);

/* ---- Data ------------------------------------------------------------------------------------ */

/* A generator of pseudorandom numbers: the same on every machine, any seed is a good one. */
typedef struct ref_random {
    uint64_t state;
} ref_random;

uint64_t ref_bits(ref_random *random);  /* 64 bits */
double ref_uniform(ref_random *random); /* in [0, 1) */
double ref_normal(ref_random *random);  /* mean 0, variance 1 */

void ref_fill_uniform(ref_random *random, float *values, size_t count, double low, double high);
void ref_fill_normal(ref_random *random, float *values, size_t count, double mean, double spread);

/* Fills what the layer has of gamma, beta and running values: gamma in [0.5, 1.5) with either sign,
 * beta and running_mean near 0, running_var in [0.5, 1.5). */
void ref_fill_layer(ref_random *random, bn_layer *layer);

/* Allocate zeroed arrays of at least one element; free() gives them back. */
float *ref_floats(size_t count);
double *ref_doubles(size_t count);

/* ---- Kinds of weights ---- */

/* Of samples, but for the last two: of positions, and of both. */
typedef enum weighting {
    WEIGHTS_NONE,
    WEIGHTS_MASK,
    WEIGHTS_REAL,
    WEIGHTS_POSITIONS,
    WEIGHTS_BOTH,
    WEIGHTS_KINDS
} weighting;

#endif /* BN_TESTS_REFERENCE_H */
