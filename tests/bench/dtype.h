/* The element types of x, dy, y and dx that are measured. */
#ifndef BN_BENCH_DTYPE_H
#define BN_BENCH_DTYPE_H

#include <batchnorm/bn_layer.h>

#include <stdbool.h>
#include <stddef.h>

/* What --dtype takes, and what is printed: f32, bf16, f16. */
const char *dtype_name(bn_dtype dtype);

/* Finds the type of a name; false where there is none. */
bool dtype_find(const char *name, bn_dtype *dtype);

size_t dtype_size(bn_dtype dtype);

/* Converts count values, to a half type by rounding. */
void dtype_from_floats(bn_dtype dtype, size_t count, const float *from, void *to);
void dtype_to_floats(bn_dtype dtype, size_t count, const void *from, float *to);

/* The most that rounding a float of about this value to the type costs, half an ulp; 0 for floats. */
double dtype_rounding(bn_dtype dtype, double value);

#endif
