/*
 * The rigs and calls of calls.h.
 */
#include "calls.h"

#include <stdlib.h>
#include <string.h>

bool kind_exists(unsigned kind) {
    const unsigned activation = kind & (WITH_RELU | WITH_LEAKY | WITH_CLIP);
    const unsigned type = kind & (WITH_BF16 | WITH_F16);
    const bool taken = kind < KINDS || kind % (type == 0 ? 5 : 31) == 0;
    return taken && (!(kind & FROZEN) || !(kind & UNTRACKED)) &&
           (activation & (activation - 1)) == 0 && (type & (type - 1)) == 0;
}

rig rig_new(const size_t shape[3], unsigned kind, int num_threads) {
    const size_t row = shape[1] * shape[2];
    bn_options options = bn_options_default();
    bn_batch batch = {.n = shape[0], .spatial = shape[2]};
    options.num_threads = num_threads;
    options.scale = !(kind & NO_SCALE);
    options.shift = !(kind & NO_SHIFT);
    options.track_running = !(kind & UNTRACKED);
    batch.accumulate_grads = kind & ACCUMULATING;
    batch.dtype = kind & WITH_BF16 ? BN_DTYPE_BF16 : kind & WITH_F16 ? BN_DTYPE_F16 : BN_DTYPE_F32;
    if (kind & CUMULATIVE) {
        options.momentum = BN_MOMENTUM_CUMULATIVE;
    }
    if (kind & WITH_RELU) {
        options.activation = BN_ACTIVATION_RELU;
    }
    if (kind & (WITH_LEAKY | WITH_CLIP)) {
        options.activation = kind & WITH_LEAKY ? BN_ACTIVATION_LEAKY_RELU : BN_ACTIVATION_CLIP;
        options.activation_slope = 0.1f;
        options.activation_max = 0.75f;
    }
    if (kind & WITH_STRIDES) {
        batch.x_stride = row + 3;
        batch.y_stride = row + 17;
    }
    rig r = {.t = trial_new(shape[1], &options, batch)};
    if (kind & WITH_WEIGHTS) {
        trial_add_weights(&r.t);
    }
    if (kind & WITH_POSITIONS) {
        trial_add_positions(&r.t);
    }
    if (kind & WITH_RESIDUAL) {
        trial_add_residual(&r.t);
    }
    r.t.layer.frozen = kind & FROZEN;
    assert_ok(bn_moments_init(&r.moments, shape[1]));
    assert_ok(bn_moments_init(&r.other, shape[1]));
    assert_ok(bn_gradients_init(&r.gradients, shape[1]));
    assert_ok(bn_gradients_init(&r.whole, shape[1]));
    r.scale = ref_floats(shape[1]);
    r.shift = ref_floats(shape[1]);
    r.memory = malloc(bn_layer_bytes(shape[1], &options, NULL));
    assert_non_null(r.memory);
    return r;
}

void rig_free(rig *r) {
    trial_free(&r->t);
    bn_moments_free(&r->moments);
    bn_moments_free(&r->other);
    bn_gradients_free(&r->gradients);
    bn_gradients_free(&r->whole);
    free(r->scale);
    free(r->shift);
    free(r->memory);
}

/* x and the like of its trial, as calls find them. */
#define AT(name) trial_at(&r->t, r->t.name)

static bn_status make_forward_batch(rig *r) {
    const bn_batch batch = trial_batch(&r->t);
    return bn_layer_forward_batch(&r->t.layer, &batch, AT(x), AT(y));
}

static bn_status make_backward_batch(rig *r) {
    const bn_batch batch = trial_batch(&r->t);
    return bn_layer_backward_batch(&r->t.layer, &batch, AT(x), AT(dy), AT(dx));
}

static bn_status make_infer_batch(rig *r) {
    const bn_batch batch = trial_batch(&r->t);
    return bn_layer_infer_batch(&r->t.layer, &batch, AT(x), AT(y));
}

static bn_status make_forward_by(rig *r) {
    const bn_batch batch = trial_batch(&r->t);
    return bn_layer_forward_by(&r->t.layer, &r->moments, &batch, AT(x), AT(y));
}

/* Of any number of calls the last one counts, or the sums would grow. */
static void begin_again(bn_gradients *gradients) {
    gradients->count = 0;
    memset(gradients->sum_g, 0, gradients->num_features * sizeof *gradients->sum_g);
    memset(gradients->sum_gx, 0, gradients->num_features * sizeof *gradients->sum_gx);
}

static bn_status make_gradients_add(rig *r) {
    const bn_batch batch = trial_batch(&r->t);
    begin_again(&r->gradients);
    return bn_gradients_add(&r->gradients, &r->t.layer, &batch, AT(x), AT(dy));
}

static bn_status make_gradients_merge(rig *r) {
    begin_again(&r->whole);
    return bn_gradients_merge(&r->whole, &r->gradients);
}

static bn_status make_backward_by(rig *r) {
    const bn_batch batch = trial_batch(&r->t);
    return bn_layer_backward_by(&r->t.layer, &r->whole, &batch, AT(x), AT(dy), AT(dx));
}

static bn_status make_set_gradients(rig *r) {
    return bn_layer_set_gradients(&r->t.layer, &r->whole, r->t.batch.accumulate_grads);
}

/* The calls without a batch are of floats; what is between strided rows is nothing for them. */
static bool dense(const rig *r) {
    return r->t.batch.x_stride == 0 && r->t.batch.spatial == 1 && r->t.batch.dtype == BN_DTYPE_F32;
}

static bn_status make_forward(rig *r) {
    return dense(r) ? bn_layer_forward(&r->t.layer, r->t.batch.n, r->t.x, r->t.y) : BN_STATUS_OK;
}

static bn_status make_backward(rig *r) {
    return dense(r) ? bn_layer_backward(&r->t.layer, r->t.batch.n, r->t.x, r->t.dy, r->t.dx)
                    : BN_STATUS_OK;
}

static bn_status make_infer(rig *r) {
    return dense(r) ? bn_layer_infer(&r->t.layer, r->t.batch.n, r->t.x, r->t.y) : BN_STATUS_OK;
}

static bn_status make_moments_add(rig *r) {
    const bn_batch batch = trial_batch(&r->t);
    const bn_status first = bn_moments_add(&r->moments, &batch, AT(x));
    return first != BN_STATUS_OK ? first : bn_moments_add(&r->moments, &batch, AT(x));
}

static bn_status make_moments_merge(rig *r) {
    const bn_status first = bn_moments_merge(&r->other, &r->moments);
    return first != BN_STATUS_OK ? first : bn_moments_merge(&r->other, &r->moments);
}

static bn_status make_set_running(rig *r) {
    const bool tracked = r->t.layer.running_mean != NULL;
    return tracked ? bn_layer_set_running(&r->t.layer, &r->moments) : BN_STATUS_OK;
}

static bn_status make_affine(rig *r) {
    const bool tracked = r->t.layer.running_mean != NULL;
    return tracked ? bn_layer_affine(&r->t.layer, r->scale, r->shift) : BN_STATUS_OK;
}

static bn_status make_fold(rig *r) {
    const bool tracked = r->t.layer.running_mean != NULL;
    return tracked ? bn_layer_fold(&r->t.layer, 1, r->scale, r->shift) : BN_STATUS_OK;
}

static bn_status make_fold_transposed(rig *r) {
    const bool tracked = r->t.layer.running_mean != NULL;
    return tracked ? bn_layer_fold_transposed(&r->t.layer, 1, 1, 1, r->scale, r->shift)
                   : BN_STATUS_OK;
}

static bn_status make_fold_next(rig *r) {
    const bool folds =
        r->t.layer.running_mean != NULL && r->t.layer.options.activation == BN_ACTIVATION_NONE;
    return folds ? bn_layer_fold_next(&r->t.layer, 1, 1, r->scale, r->shift) : BN_STATUS_OK;
}

static bn_status make_layers(rig *r) {
    bn_layer layer;
    const bn_options *options = &r->t.layer.options;
    const size_t features = r->t.layer.num_features,
                 bytes = bn_layer_bytes(features, options, NULL);
    bn_status status = init_in_block(&layer, features, options, r->memory, bytes);
    if (status == BN_STATUS_OK) {
        bn_layer_free(&layer);
        status = bn_layer_init(&layer, features, options);
    }
    if (status == BN_STATUS_OK) {
        bn_layer_free(&layer);
    }
    return status;
}

static bn_status make_moments(rig *r) {
    bn_moments moments;
    const bn_status status = bn_moments_init(&moments, r->t.layer.num_features);
    if (status == BN_STATUS_OK) {
        bn_moments_free(&moments);
    }
    return status;
}

static bn_status make_gradients(rig *r) {
    bn_gradients gradients;
    const bn_status status = bn_gradients_init(&gradients, r->t.layer.num_features);
    if (status == BN_STATUS_OK) {
        bn_gradients_free(&gradients);
    }
    return status;
}

const library_call calls[CALLS] = {{"bn_layer_forward_batch", make_forward_batch},
                                   {"bn_layer_backward_batch", make_backward_batch},
                                   {"bn_layer_infer_batch", make_infer_batch},
                                   {"bn_moments_add", make_moments_add},
                                   {"bn_moments_merge", make_moments_merge},
                                   {"bn_layer_forward_by", make_forward_by},
                                   {"bn_gradients_add", make_gradients_add},
                                   {"bn_gradients_merge", make_gradients_merge},
                                   {"bn_layer_backward_by", make_backward_by},
                                   {"bn_layer_set_gradients", make_set_gradients},
                                   {"bn_layer_forward", make_forward},
                                   {"bn_layer_backward", make_backward},
                                   {"bn_layer_infer", make_infer},
                                   {"bn_layer_set_running", make_set_running},
                                   {"bn_layer_affine", make_affine},
                                   {"bn_layer_fold", make_fold},
                                   {"bn_layer_fold_transposed", make_fold_transposed},
                                   {"bn_layer_fold_next", make_fold_next},
                                   {"bn_layer_init and free", make_layers},
                                   {"bn_moments_init and free", make_moments},
                                   {"bn_gradients_init and free", make_gradients}};

/* ---- Routines -------------------------------------------------------------------------------- */

static bool calls_succeed(rig *r) {
    bool good = true;
    for (size_t k = 0; k < CALLS_ON_BATCHES; k++) {
        good = calls[k].make(r) == BN_STATUS_OK && good;
    }
    return good;
}

static size_t bytes_of(const trial *t, const float *tensor) {
    return (tensor == t->y ? t->y_count : t->x_count) * trial_width(t);
}

static void *copy_of(const trial *t, const float *tensor) {
    void *const copy = malloc(bytes_of(t, tensor));
    assert_non_null(copy);
    return memcpy(copy, trial_at(t, tensor), bytes_of(t, tensor));
}

routine routine_new(const size_t shape[3], unsigned kind, int num_threads) {
    routine of = {.r = rig_new(shape, kind, num_threads)};
    trial *t = &of.r.t;
    of.before = snapshot_take(&t->layer);
    assert_true(calls_succeed(&of.r));
    of.after = snapshot_take(&t->layer);
    of.y = copy_of(t, t->y);
    of.dx = copy_of(t, t->dx);
    return of;
}

void routine_free(routine *of) {
    snapshot_free(&of->before);
    snapshot_free(&of->after);
    free(of->y);
    free(of->dx);
    rig_free(&of->r);
}

static void empty_moments(bn_moments *moments) {
    const size_t bytes = moments->num_features * sizeof *moments->mean;
    moments->count = 0;
    memset(moments->mean, 0, bytes);
    memset(moments->m2, 0, bytes);
}

static bool same(const float *values, const float *want, size_t count) {
    return values == NULL || memcmp(values, want, count * sizeof *values) == 0;
}

bool routine_do(routine *of) {
    trial *t = &of->r.t;
    const size_t features = t->layer.num_features;
    float *const *const want = of->after.arrays;
    if (t->layer.running_mean) {
        snapshot_restore_running(&of->before, &t->layer);
    }
    t->layer.num_batches_tracked = of->before.layer.num_batches_tracked;
    empty_moments(&of->r.moments);
    empty_moments(&of->r.other);
    fill_pattern(trial_at(t, t->y), bytes_of(t, t->y));
    fill_pattern(trial_at(t, t->dx), bytes_of(t, t->dx));
    return calls_succeed(&of->r) && memcmp(trial_at(t, t->y), of->y, bytes_of(t, t->y)) == 0 &&
           memcmp(trial_at(t, t->dx), of->dx, bytes_of(t, t->dx)) == 0 &&
           same(t->layer.dgamma, want[SNAPSHOT_DGAMMA], features) &&
           same(t->layer.dbeta, want[SNAPSHOT_DBETA], features) &&
           same(t->layer.running_mean, want[SNAPSHOT_RUNNING_MEAN], features) &&
           same(t->layer.running_var, want[SNAPSHOT_RUNNING_VAR], features);
}

const size_t small_shapes[SMALL_SHAPES][3] = {{7, 43, 1},  {300, 7, 1},  {3, 1030, 1}, {9, 10, 30},
                                              {5, 34, 49}, {3, 34, 684}, {2, 3, 1700}};

const size_t large_shapes[LARGE_SHAPES][3] = {{5000, 64, 1}, {60000, 5, 1},  {300, 1030, 1},
                                              {60, 5000, 1}, {1100, 10, 30}, {70, 1100, 4},
                                              {40, 34, 300}, {3, 40, 2500},  {130, 1, 2100}};
