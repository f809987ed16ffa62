/*
 * The reference of reference.h. Plain loops, a feature at a time: nothing here is clever except the
 * sums, which keep what their rounding loses.
 */
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Sums ------------------------------------------------------------------------------------ */

/* A sum in twice the precision of double (D. Knuth's TwoSum). Not long double: some machines, and
 * valgrind, have none. */
typedef struct sum {
    double value, rest;
} sum;

static void sum_add(sum *s, double term) {
    double total = s->value + term;
    double part = total - s->value;
    s->rest += (s->value - (total - part)) + (term - part);
    s->value = total;
}

static double sum_total(sum s) {
    return s.value + s.rest;
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

size_t ref_spatial(const bn_batch *batch) {
    return batch->spatial > 0 ? batch->spatial : 1;
}

size_t ref_x_stride(const bn_batch *batch, size_t num_features) {
    return batch->x_stride > 0 ? batch->x_stride : num_features * ref_spatial(batch);
}

size_t ref_y_stride(const bn_batch *batch, size_t num_features) {
    return batch->y_stride > 0 ? batch->y_stride : num_features * ref_spatial(batch);
}

/* Where feature d of sample i begins in a tensor without gaps. */
static size_t plane(const ref_result *shape, size_t i, size_t d) {
    return (i * shape->num_features + d) * shape->spatial;
}

double ref_weight(const bn_batch *batch, size_t i, size_t s) {
    float sample = batch->sample_weight ? batch->sample_weight[i] : 1;
    float position =
        batch->position_weight ? batch->position_weight[i * ref_spatial(batch) + s] : 1;
    return (double)(sample * position);
}

static double gamma_of(const bn_layer *layer, size_t d) {
    return layer->gamma ? (double)layer->gamma[d] : 1.0;
}

/* ---- The layer ------------------------------------------------------------------------------- */

ref_result ref_alloc(size_t n, size_t num_features, size_t spatial) {
    ref_result r = {.n = n, .num_features = num_features, .spatial = spatial};
    double **tensors[] = {&r.y, &r.dx, &r.dresidual};
    double **vectors[] = {&r.mean,       &r.mean_rest,    &r.var,         &r.invstd,  &r.dgamma,
                          &r.dbeta,      &r.running_mean, &r.running_var, &r.y_scale, &r.dx_scale,
                          &r.mean_scale, &r.dgamma_scale, &r.dbeta_scale};
    for (size_t k = 0; k < sizeof tensors / sizeof *tensors; k++) {
        *tensors[k] = ref_doubles(n * num_features * spatial);
    }
    for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++) {
        *vectors[k] = ref_doubles(num_features);
    }
    return r;
}

void ref_free(ref_result *r) {
    double *arrays[] = {r->y,         r->dx,           r->dresidual,    r->mean,
                        r->mean_rest, r->var,          r->invstd,       r->dgamma,
                        r->dbeta,     r->running_mean, r->running_var,  r->y_scale,
                        r->dx_scale,  r->mean_scale,   r->dgamma_scale, r->dbeta_scale};
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) {
        free(arrays[k]);
    }
    *r = (ref_result){0};
}

/* x - mean without what rounding the mean to one double would cost. */
static double centered(const ref_result *r, size_t d, float x) {
    return ((double)x - r->mean[d]) - r->mean_rest[d];
}

static double xhat(const ref_result *r, size_t d, float x) {
    return centered(r, d, x) * r->invstd[d];
}

/* sum of w * (x - mean)^power over a feature; what has weight 0 is not read. */
static double moment(const ref_result *r, const bn_batch *batch, const float *x, size_t d,
                     int power) {
    size_t stride = ref_x_stride(batch, r->num_features);
    sum total = {0};
    for (size_t i = 0; i < r->n; i++) {
        for (size_t s = 0; s < r->spatial; s++) {
            double w = ref_weight(batch, i, s);
            if (w > 0) {
                double c = centered(r, d, x[i * stride + d * r->spatial + s]);
                sum_add(&total, w * (power == 1 ? c : c * c));
            }
        }
    }
    return sum_total(total);
}

/* The deviations from a mean average to what that mean is off by. */
static void batch_statistics(ref_result *r, const bn_batch *batch, const float *x, size_t d) {
    r->mean[d] = moment(r, batch, x, d, 1) / r->weight;
    r->mean_rest[d] = moment(r, batch, x, d, 1) / r->weight;
    r->var[d] = moment(r, batch, x, d, 2) / r->weight;
}

static double activated(const bn_options *options, double z) {
    switch (options->activation) {
    case BN_ACTIVATION_RELU:
        return z <= 0 ? 0.0 : z;
    case BN_ACTIVATION_LEAKY_RELU:
        return z <= 0 ? (double)options->activation_slope * z : z;
    case BN_ACTIVATION_CLIP:
        return z <= 0 ? 0.0 : z > (double)options->activation_max ? options->activation_max : z;
    default:
        return z;
    }
}

/* g, a product of two floats: rounded to float it is what float arithmetic gives. Where backward sees
 * y it is a rounded one, and so is what counts as the clip's max. */
static float gradient(const bn_options *options, bn_dtype seen_as, double z, float dy) {
    const double y = ref_rounded(seen_as, z);
    switch (options->activation) {
    case BN_ACTIVATION_RELU:
        return y > 0 ? dy : 0;
    case BN_ACTIVATION_LEAKY_RELU:
        return y > 0 ? dy : (float)((double)options->activation_slope * (double)dy);
    case BN_ACTIVATION_CLIP:
        return y > 0 && y < ref_rounded(seen_as, (double)options->activation_max) ? dy : 0;
    default:
        return dy;
    }
}

double ref_steepest(const bn_options *options) {
    const bool leaky = options->activation == BN_ACTIVATION_LEAKY_RELU;
    return leaky ? fmax(1.0, (double)options->activation_slope) : 1.0;
}

double ref_mean_scale(double mean, double var) {
    return fmax(fabs(mean), sqrt(var));
}

/* A running value with what the layer knows of it beyond float. */
static double known(float value, const float *seen, const float *rest, size_t d) {
    const bool same = seen != NULL && memcmp(&value, seen + d, sizeof value) == 0;
    return (double)value + (same ? (double)rest[d] : 0.0);
}

double ref_running_mean(const bn_layer *layer, size_t d) {
    return known(layer->running_mean[d], layer->internal.mean_seen,
                 layer->internal.running_mean_rest, d);
}

double ref_running_var(const bn_layer *layer, size_t d) {
    return known(layer->running_var[d], layer->internal.var_seen, layer->internal.running_var_rest,
                 d);
}

ref_result ref_forward(const bn_layer *layer, const bn_batch *batch, const float *x) {
    ref_result r = ref_alloc(batch->n, layer->num_features, ref_spatial(batch));
    r.dtype = batch->dtype;
    r.rounding = 0.5;
    size_t x_stride = ref_x_stride(batch, r.num_features);
    size_t y_stride = ref_y_stride(batch, r.num_features);
    const float *residual = batch->residual;

    sum weight = {0};
    for (size_t i = 0; i < r.n; i++) {
        for (size_t s = 0; s < r.spatial; s++) {
            sum_add(&weight, ref_weight(batch, i, s));
        }
    }
    r.weight = sum_total(weight);

    for (size_t d = 0; d < r.num_features; d++) {
        if (layer->frozen) {
            r.mean[d] = ref_running_mean(layer, d);
            r.var[d] = ref_running_var(layer, d);
        } else {
            batch_statistics(&r, batch, x, d);
        }
        r.invstd[d] = 1.0 / sqrt(r.var[d] + (double)layer->options.eps);
        r.mean_scale[d] = ref_mean_scale(r.mean[d], r.var[d]);

        double beta = layer->beta ? (double)layer->beta[d] : 0.0;
        for (size_t i = 0; i < r.n; i++) {
            for (size_t s = 0; s < r.spatial; s++) {
                size_t at = d * r.spatial + s;
                double scaled = gamma_of(layer, d) * xhat(&r, d, x[i * x_stride + at]);
                double z = scaled + beta + (residual ? (double)residual[i * y_stride + at] : 0.0);
                double size = layer->frozen ? fmax(fabs(z), fabs(scaled)) : fabs(z);
                r.y_scale[d] = fmax(r.y_scale[d], size * ref_steepest(&layer->options));
                r.y[plane(&r, i, d) + s] = activated(&layer->options, z);
            }
        }
    }
    return r;
}

void ref_backward(ref_result *result, const bn_layer *layer, const bn_batch *batch, const float *x,
                  const float *dy) {
    ref_sums(result, layer, batch, x, dy);
    ref_dx(result, layer, batch, x);
}

void ref_sums(ref_result *r, const bn_layer *layer, const bn_batch *batch, const float *x,
              const float *dy) {
    size_t x_stride = ref_x_stride(batch, r->num_features);
    size_t y_stride = ref_y_stride(batch, r->num_features);
    bn_dtype seen_as = batch->residual ? batch->dtype : BN_DTYPE_F32;

    for (size_t d = 0; d < r->num_features; d++) {
        double factor = gamma_of(layer, d) * r->invstd[d];
        sum dbeta = {0}, dgamma = {0};
        double dbeta_squares = 0, dgamma_squares = 0;
        r->dx_scale[d] = 0;
        for (size_t i = 0; i < r->n; i++) {
            for (size_t s = 0; s < r->spatial; s++) {
                size_t at = d * r->spatial + s, to = plane(r, i, d) + s;
                float dy_at = dy[i * y_stride + at];
                double g = (double)gradient(&layer->options, seen_as, r->y[to], dy_at);
                double size = (double)dy_at * ref_steepest(&layer->options);
                r->dresidual[to] = g;
                double term = g * xhat(r, d, x[i * x_stride + at]);
                sum_add(&dbeta, g);
                sum_add(&dgamma, term);
                dbeta_squares += g * g;
                dgamma_squares += term * term;
                r->dx_scale[d] = fmax(r->dx_scale[d], fabs(factor * size));
            }
        }
        r->dbeta[d] = sum_total(dbeta);
        r->dgamma[d] = sum_total(dgamma);
        r->dbeta_scale[d] = fmax(fabs(r->dbeta[d]), sqrt(dbeta_squares));
        r->dgamma_scale[d] = fmax(fabs(r->dgamma[d]), sqrt(dgamma_squares)) +
                             fabs(r->dbeta[d]) * (1 + REF_UNIT * fabs(r->mean[d] * r->invstd[d]));
    }
}

void ref_dx(ref_result *r, const bn_layer *layer, const bn_batch *batch, const float *x) {
    size_t x_stride = ref_x_stride(batch, r->num_features);
    for (size_t d = 0; d < r->num_features; d++) {
        double factor = gamma_of(layer, d) * r->invstd[d];
        for (size_t i = 0; i < r->n; i++) {
            for (size_t s = 0; s < r->spatial; s++) {
                double share = layer->frozen ? 0.0 : ref_weight(batch, i, s) / r->weight;
                size_t from = i * x_stride + d * r->spatial + s, to = plane(r, i, d) + s;
                double g = r->dresidual[to];
                if (share > 0) {
                    g -= share * (r->dbeta[d] + xhat(r, d, x[from]) * r->dgamma[d]);
                }
                r->dx[to] = factor * g;
                r->dresidual[to] = ref_rounded(r->dtype, r->dresidual[to]);
            }
        }
    }
}

void ref_running(ref_result *r, const bn_layer *layer) {
    double k = (double)layer->num_batches_tracked;
    double keep = layer->options.momentum == BN_MOMENTUM_CUMULATIVE
                      ? k / (k + 1)
                      : (double)layer->options.momentum;
    double correction = layer->options.biased_running_var ? 1.0 : r->weight / (r->weight - 1);
    if (layer->frozen) {
        keep = 1;
    }
    for (size_t d = 0; d < r->num_features; d++) {
        r->running_mean[d] = keep * ref_running_mean(layer, d) + (1 - keep) * r->mean[d];
        r->running_var[d] = keep * ref_running_var(layer, d) + (1 - keep) * r->var[d] * correction;
    }
}

/* ---- Errors ---------------------------------------------------------------------------------- */

double ref_units(double got, double want, double scale) {
    const double off = fabs(got - want);
    if (got == want || off <= 0x1p-149) {
        return 0;
    }
    double units = off / (fabs(scale) * REF_UNIT);
    return isnan(units) ? INFINITY : units;
}

/* ref_units of an element of y or dx. The value that would follow the largest stands for Inf, as
 * rounding has it. */
static double units_of(const ref_result *shape, double got, double want, double scale) {
    if (shape->dtype == BN_DTYPE_F32) {
        return ref_units(got, want, scale);
    }
    const double next = shape->dtype == BN_DTYPE_BF16 ? 0x1p128 : 0x1p16;
    const double forgiven = shape->rounding * ref_ulp(shape->dtype, fmin(fabs(want), next / 2));
    const double to = fmax(-next, fmin(want, next));
    const double off = isinf(got) ? copysign(next, got) - to : got - to;
    return ref_units(fabs(off) <= forgiven ? 0 : fabs(off) - forgiven, 0, scale);
}

double ref_error_tensor(const ref_result *shape, const float *got, size_t stride,
                        const double *want, const double *scale) {
    double worst = 0;
    for (size_t i = 0; i < shape->n; i++) {
        for (size_t d = 0; d < shape->num_features; d++) {
            for (size_t s = 0; s < shape->spatial; s++) {
                double at = (double)got[i * stride + d * shape->spatial + s];
                double value = want[plane(shape, i, d) + s];
                worst = fmax(worst, scale ? units_of(shape, at, value, scale[d])
                                          : ref_units(at, value, value));
            }
        }
    }
    return worst;
}

double ref_error_vector(size_t count, const float *got, const double *want, const double *scale) {
    ref_result shape = {.n = 1, .num_features = count, .spatial = 1};
    return ref_error_tensor(&shape, got, count, want, scale);
}

void ref_largest(const ref_result *shape, const double *tensor, double *largest) {
    memset(largest, 0, shape->num_features * sizeof *largest);
    for (size_t i = 0; i < shape->n; i++) {
        for (size_t d = 0; d < shape->num_features; d++) {
            for (size_t s = 0; s < shape->spatial; s++) {
                largest[d] = fmax(largest[d], fabs(tensor[plane(shape, i, d) + s]));
            }
        }
    }
}

ref_errors ref_measure(const ref_result *want, const bn_layer *layer, const bn_batch *batch,
                       const float *y, const float *dx) {
    size_t features = want->num_features;
    size_t x_stride = ref_x_stride(batch, features), y_stride = ref_y_stride(batch, features);
    ref_errors errors = {
        .mean = ref_error_vector(features, layer->saved_mean, want->mean, want->mean_scale),
        .invstd = ref_error_vector(features, layer->saved_invstd, want->invstd, NULL)};
    if (y) {
        errors.y = ref_error_tensor(want, y, y_stride, want->y, want->y_scale);
    }
    if (dx) {
        errors.dx = ref_error_tensor(want, dx, x_stride, want->dx, want->dx_scale);
    }
    if (dx && layer->dgamma) {
        errors.dgamma = ref_error_vector(features, layer->dgamma, want->dgamma, want->dgamma_scale);
    }
    if (dx && layer->dbeta) {
        errors.dbeta = ref_error_vector(features, layer->dbeta, want->dbeta, want->dbeta_scale);
    }
    if (batch->dresidual) {
        errors.dresidual =
            ref_error_tensor(want, batch->dresidual, y_stride, want->dresidual, NULL);
    }
    return errors;
}

bool ref_within_limits(const ref_errors *e) {
    return e->y <= REF_LIMIT && e->dx <= REF_LIMIT_DX && e->dresidual <= 0 &&
           e->mean <= REF_LIMIT && e->invstd <= REF_LIMIT && e->dgamma <= REF_LIMIT &&
           e->dbeta <= REF_LIMIT;
}

/* ---- Half types ------------------------------------------------------------------------------ */

/* Of a significand, with the first digit, which is not stored. */
static int digits_of(bn_dtype dtype) {
    return dtype == BN_DTYPE_BF16 ? 8 : 11;
}

/* The exponent of the least subnormal. */
static int least_of(bn_dtype dtype) {
    return dtype == BN_DTYPE_BF16 ? -133 : -24;
}

static int last_place(bn_dtype dtype, double value) {
    int exponent = 0;
    frexp(value, &exponent);
    const int last = exponent - digits_of(dtype), least = least_of(dtype);
    return value == 0 || last < least ? least : last;
}

/* ldexp takes most of some tests' time. */
static double power_of_two(int exponent) {
    const uint64_t bits = (uint64_t)(1023 + exponent) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double ref_ulp(bn_dtype dtype, double value) {
    return dtype == BN_DTYPE_F32 ? 0 : power_of_two(last_place(dtype, value));
}

/* Bits count the halves from 0 on, so many a binade; what would follow the largest is Inf's. */
uint16_t ref_half(bn_dtype dtype, double value) {
    const unsigned binade = 1u << (digits_of(dtype) - 1), infinity = 0x8000 - binade;
    unsigned bits = isnan(value) ? infinity + binade / 2 : infinity;
    if (isfinite(value)) {
        const int last = last_place(dtype, value);
        const double ulps = nearbyint(fabs(value) * power_of_two(-last));
        bits = (unsigned)(last - least_of(dtype)) * binade + (unsigned)ulps;
        bits = bits < infinity ? bits : infinity;
    }
    return (uint16_t)(signbit(value) ? bits | 0x8000 : bits);
}

double ref_value(bn_dtype dtype, uint16_t bits) {
    const int binade = 1 << (digits_of(dtype) - 1), size = bits & 0x7FFF;
    const int exponent = size / binade, stored = size % binade;
    double value = stored * power_of_two(least_of(dtype));
    if (size >= 0x8000 - binade) {
        value = stored == 0 ? INFINITY : NAN;
    } else if (exponent > 0) {
        value = (binade + stored) * power_of_two(least_of(dtype) + exponent - 1);
    }
    return bits & 0x8000 ? -value : value;
}

double ref_rounded(bn_dtype dtype, double value) {
    return dtype == BN_DTYPE_F32 ? value : ref_value(dtype, ref_half(dtype, value));
}

void ref_to_halves(bn_dtype dtype, size_t count, const float *from, void *to) {
    for (size_t k = 0; k < count; k++) {
        const uint16_t bits = ref_half(dtype, (double)from[k]);
        memcpy((unsigned char *)to + k * sizeof bits, &bits, sizeof bits);
    }
}

void ref_from_halves(bn_dtype dtype, size_t count, const void *from, float *to) {
    for (size_t k = 0; k < count; k++) {
        uint16_t bits;
        memcpy(&bits, (const unsigned char *)from + k * sizeof bits, sizeof bits);
        to[k] = (float)ref_value(dtype, bits);
    }
}

/* ---- Data ------------------------------------------------------------------------------------ */

/* SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators"). */
uint64_t ref_bits(ref_random *random) {
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

double ref_uniform(ref_random *random) {
    return (double)(ref_bits(random) >> 11) * 0x1p-53;
}

/* Box and Muller's transform; 1 - u keeps the logarithm away from 0. */
double ref_normal(ref_random *random) {
    const double two_pi = 6.283185307179586;
    double radius = sqrt(-2 * log(1 - ref_uniform(random)));
    return radius * cos(two_pi * ref_uniform(random));
}

void ref_fill_uniform(ref_random *random, float *values, size_t count, double low, double high) {
    for (size_t k = 0; k < count; k++) {
        values[k] = (float)(low + (high - low) * ref_uniform(random));
    }
}

void ref_fill_normal(ref_random *random, float *values, size_t count, double mean, double spread) {
    for (size_t k = 0; k < count; k++) {
        values[k] = (float)(mean + spread * ref_normal(random));
    }
}

void ref_fill_layer(ref_random *random, bn_layer *layer) {
    size_t count = layer->num_features;
    if (layer->gamma) {
        ref_fill_uniform(random, layer->gamma, count, 0.5, 1.5);
        for (size_t d = 0; d < count; d++) {
            layer->gamma[d] *= ref_bits(random) >> 63 ? -1.0f : 1.0f;
        }
    }
    if (layer->beta) {
        ref_fill_normal(random, layer->beta, count, 0, 0.3);
    }
    if (layer->running_mean) {
        ref_fill_normal(random, layer->running_mean, count, 0, 0.1);
        ref_fill_uniform(random, layer->running_var, count, 0.5, 1.5);
    }
}

static void *zeroed(size_t count, size_t size) {
    void *memory = calloc(count > 0 ? count : 1, size);
    if (!memory) {
        abort();
    }
    return memory;
}

float *ref_floats(size_t count) {
    return zeroed(count, sizeof(float));
}

double *ref_doubles(size_t count) {
    return zeroed(count, sizeof(double));
}
