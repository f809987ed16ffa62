/*
 * What the tests of the layer's behaviour share: cmocka, comparisons that say where they failed,
 * snapshots of a layer, and trials: a layer, a batch and its buffers, filled and ready to run.
 */
#ifndef BN_TESTS_SUPPORT_H
#define BN_TESTS_SUPPORT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <batchnorm/bn_layer.h>

#include "reference.h"

#include <stdbool.h>

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* ---- Comparisons ----------------------------------------------------------------------------- */

#define assert_status(call, expected)                                                              \
    support_assert_status((call), (expected), #call, __FILE__, __LINE__)
#define assert_ok(call) assert_status(call, BN_STATUS_OK)

/* Floats, compared as bits: a NaN equals itself, 0 and -0 differ. */
#define assert_same_bits(got, want, count)                                                         \
    support_assert_same_bits((got), (want), (count), #got, __FILE__, __LINE__)

/* error, in the units of reference.h, is at most limit. */
#define assert_within(error, limit)                                                                \
    support_assert_within((error), (limit), #error, __FILE__, __LINE__)

/* What outputs hold before a call that may not write them. */
void fill_pattern(void *memory, size_t bytes);
#define assert_pattern(memory, bytes)                                                              \
    support_assert_pattern((memory), (bytes), #memory, __FILE__, __LINE__)

float *copy_floats(const float *values, size_t count);

void support_assert_status(bn_status got, bn_status expected, const char *call, const char *file,
                           int line);
void support_assert_same_bits(const float *got, const float *want, size_t count, const char *what,
                              const char *file, int line);
void support_assert_within(double error, double limit, const char *what, const char *file,
                           int line);
void support_assert_pattern(const void *memory, size_t bytes, const char *what, const char *file,
                            int line);

/* Has this thread do without subnormal numbers, where it can. fesetenv undoes it. */
void set_flushing(void);

/* ---- Guard pages ----------------------------------------------------------------------------- */

/* Memory between two pages whose every access ends the program. */
typedef struct guarded {
    unsigned char *pages, *start;
    size_t bytes, all;
} guarded;

guarded guarded_new(size_t bytes);
void guarded_free(guarded *g);

/* So many bytes, the first behind the one guard or the last before the other. */
void *guarded_place(const guarded *g, size_t bytes, bool at_end);

/* bn_layer_init_with, all in a block. */
bn_status init_in_block(bn_layer *layer, size_t num_features, const bn_options *options,
                        void *block, size_t bytes);

/* ---- Snapshots ------------------------------------------------------------------------------- */

/* A layer's struct and copies of all its arrays, the rests of the cache included. */
enum {
    SNAPSHOT_GAMMA,
    SNAPSHOT_BETA,
    SNAPSHOT_DGAMMA,
    SNAPSHOT_DBETA,
    SNAPSHOT_RUNNING_MEAN,
    SNAPSHOT_RUNNING_VAR,
    SNAPSHOT_MEAN,
    SNAPSHOT_INVSTD,
    SNAPSHOT_MEAN_REST,
    SNAPSHOT_INVSTD_REST,
    SNAPSHOT_MEAN_SEEN,
    SNAPSHOT_RUNNING_MEAN_REST,
    SNAPSHOT_VAR_SEEN,
    SNAPSHOT_RUNNING_VAR_REST,
    SNAPSHOT_ARRAYS
};
typedef struct snapshot {
    bn_layer layer;
    float *arrays[SNAPSHOT_ARRAYS];
} snapshot;

snapshot snapshot_take(const bn_layer *layer);
void snapshot_check(const snapshot *before, const bn_layer *layer); /* bit for bit the same */
/* The arrays alone, and without those of a set of bits. */
void snapshot_check_arrays(const snapshot *before, const bn_layer *layer, unsigned but);
void snapshot_restore_running(const snapshot *before, bn_layer *layer); /* with their rests */
void snapshot_free(snapshot *before);

/* ---- Trials ---------------------------------------------------------------------------------- */

/* What of a trial has the batch's type. */
enum { TRIAL_X, TRIAL_DX, TRIAL_Y, TRIAL_DY, TRIAL_RESIDUAL, TRIAL_DRESIDUAL, TRIAL_TENSORS };

/* Inputs hold random values and, between strided rows, NaN, so that reading there shows; outputs
 * start as fill_pattern leaves them. No buffer is longer than its batch needs. The same arguments
 * always give the same data.
 *
 * Of a half type the floats are its values, which calls find as halves, most at odd addresses. A trial
 * of floats whose batch is then given a half type is as its maker has it: calls find what t has. */
typedef struct trial {
    bn_layer layer;
    bn_batch batch;
    size_t x_count; /* elements of x and dx, from the first to the last */
    size_t y_count; /* the same of y, dy, residual and dresidual */
    float *x, *dx, *y, *dy;
    float *sample_weight, *position_weight, *residual, *dresidual; /* NULL until added */
    unsigned char *halves[TRIAL_TENSORS];                          /* NULL where floats will do */
} trial;

trial trial_new(size_t num_features, const bn_options *options, bn_batch batch);
void trial_free(trial *t);

/* Prints shape and kind to the error output. */
void trial_describe(const trial *t);

/* Weights in [0.75, 2); of 3 samples or more, one has weight 0. */
void trial_add_weights(trial *t);

/* A weight a position in [0.75, 2); from the third value on, some are 0. */
void trial_add_positions(trial *t);

/* A residual, and for backward y and dresidual. */
void trial_add_residual(trial *t);

/* Where calls find an element of a tensor, or where it would end; how many bytes it has; and the
 * batch that they are given. NULL is nowhere. */
void *trial_at(const trial *t, const float *element);
size_t trial_width(const trial *t);
bn_batch trial_batch(const trial *t);

/* For whoever makes calls himself: before them inputs are rounded to the batch's type and put where
 * they are found; afterwards all tensors are taken from there. Of floats there is nothing to do. */
void trial_pack(trial *t);
void trial_unpack(trial *t);

/* Calls on tensors of the trial's, or any pointers of a float one's. */
bn_status trial_forward(trial *t, const float *x, float *y);
bn_status trial_backward(trial *t, const float *x, const float *dy, float *dx);
bn_status trial_infer(trial *t, const float *x, float *y);

/* Forward and backward, both BN_STATUS_OK. */
void trial_run(trial *t);

/* trial_run against the reference: y, dx, dresidual, the cache, the gradients and the running
 * values within reference.h's limits, and nothing written between rows. */
void trial_check(trial *t);

/* Its pieces: has dx measured by its terms, as where there are weights; compares, by reference.h's
 * limits, what there is of y, dx, dresidual, gradients and running values. */
void trial_scale_dx(const trial *t, ref_result *want);
void trial_check_errors(const trial *t, const ref_result *want);

/* The same of another way to run it, which gets the context. */
void trial_check_run(trial *t, void (*run)(trial *t, const void *context), const void *context);

/* What was run in one way is within reference.h's limits of what was run in another: all that
 * trial_check looks at. The two have the same shape and strides. */
void trial_check_near(const trial *got, const trial *want);

/* Inference against the reference, into y; the layer stays bit for bit as it was. */
void trial_check_infer(trial *t);

/* Everything that trial_run wrote is the same, bit for bit: y, dx, dresidual and the layer's
 * arrays. The two have the same shape and strides. */
void trial_check_same(const trial *got, const trial *want);

#endif /* BN_TESTS_SUPPORT_H */
