/*
 * What README.md shows of C, as it is there: readme.awk looks that each piece is in a program, and here
 * those that are in no other do what the text around them says.
 */
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- What is expected ------------------------------------------------------------------------ */

/* Values about 3, so that no mean is near 0. */
static void fill(float *values, size_t count) {
    static ref_random random = {15};
    ref_fill_normal(&random, values, count, 3, 2);
}

static bn_layer layer_new(size_t num_features, const bn_options *options) {
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, num_features, options));
    ref_random random = {16};
    ref_fill_layer(&random, &layer);
    return layer;
}

/* Before a forward, and its backward where there is a dy: what they are to give. */
static ref_result expect(const bn_layer *layer, const bn_batch *batch, const float *x,
                         const float *dy) {
    ref_result want = ref_forward(layer, batch, x);
    ref_running(&want, layer);
    if (dy) {
        ref_backward(&want, layer, batch, x, dy);
    }
    return want;
}

static void check_running(const ref_result *want, const bn_layer *layer) {
    const size_t features = layer->num_features;
    assert_within(ref_error_vector(features, layer->running_mean, want->running_mean, NULL),
                  REF_LIMIT);
    assert_within(ref_error_vector(features, layer->running_var, want->running_var, NULL),
                  REF_LIMIT);
}

/* After them. dx is NULL where there was no backward. */
static void check(ref_result *want, const bn_layer *layer, const bn_batch *batch, const float *y,
                  const float *dx) {
    const ref_errors errors = ref_measure(want, layer, batch, y, dx);
    assert_true(ref_within_limits(&errors));
    check_running(want, layer);
    ref_free(want);
}

static void check_inferred(const bn_layer *layer, const bn_batch *batch, const float *x,
                           const float *y) {
    bn_layer still = *layer;
    still.frozen = true;
    ref_result want = ref_forward(&still, batch, x);
    assert_within(
        ref_error_tensor(&want, y, ref_y_stride(batch, layer->num_features), want.y, want.y_scale),
        REF_LIMIT);
    ref_free(&want);
}

static void assert_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-6 * (1 + fabs(want)))) {
        fail_msg("%.9g is not %.9g", got, want);
    }
}

/* ---- Images ---------------------------------------------------------------------------------- */

enum { N = 4, C = 3, H = 2, W = 5, S = H * W, COUNT = N * C * S };

static void images_and_rows(void **state) {
    (void)state;
    float x[COUNT], y[COUNT], dy[COUNT], dx[COUNT];
    fill(x, COUNT);
    fill(dy, COUNT);
    bn_layer layer = layer_new(C, NULL);
    bn_status status;
    ref_result want = expect(&layer, &(bn_batch){.n = N, .spatial = S}, x, dy);

    bn_batch images = {.n = N, .spatial = H * W};
    status = bn_layer_forward_batch(&layer, &images, x, y);
    status = bn_layer_backward_batch(&layer, &images, x, dy, dx);

    assert_ok(status);
    check(&want, &layer, &images, y, dx);
    want = expect(&layer, &(bn_batch){.n = N * S}, x, NULL);

    status = bn_layer_forward(&layer, N * H * W, x, y);

    assert_ok(status);
    check(&want, &layer, &(bn_batch){.n = N * S}, y, NULL);
    assert_ok(bn_layer_infer_batch(&layer, &images, x, y));
    check_inferred(&layer, &images, x, y);
    bn_layer_free(&layer);
}

/* ---- Recipes --------------------------------------------------------------------------------- */

enum { ROWS = 2, D = 2, VALUES = ROWS * D };

static void running_values_of_one_batch(void **state) {
    (void)state;
    const size_t n = ROWS;
    const float x[VALUES] = {1, 10, 3, 30}, other[VALUES] = {11, 1, 13, 5};
    float y[VALUES];
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, D, NULL));

    layer.options.momentum = 0;
    bn_layer_forward(&layer, n, x, y);

    assert_near(layer.running_mean[0], 2);
    assert_near(layer.running_mean[1], 20);
    assert_near(layer.running_var[0], 2);
    assert_near(layer.running_var[1], 200);
    bn_layer_free(&layer);

    assert_ok(bn_layer_init(&layer, D, NULL));
    for (int batch = 0; batch < 2; batch++) {

        layer.options.momentum = layer.num_batches_tracked == 0 ? 0 : 0.9f;

        assert_ok(bn_layer_forward(&layer, n, batch == 0 ? x : other, y));
        assert_near(layer.running_mean[0], batch == 0 ? 2 : 0.9 * 2 + 0.1 * 12);
        assert_near(layer.running_var[1], batch == 0 ? 200 : 0.9 * 200 + 0.1 * 8);
    }
    bn_layer_free(&layer);
}

static void some_channels_are_frozen(void **state) {
    (void)state;
    enum { A = 1 };
    float x[COUNT], y[COUNT], gamma[C] = {2, 3, 4}, beta[C] = {1, 0, -1}, mean[C] = {1, 2, 3},
                              var[C] = {4, 5, 6};
    fill(x, COUNT);
    bn_layer trained, frozen;
    const bn_memory first = {
        .gamma = gamma, .beta = beta, .running_mean = mean, .running_var = var};
    assert_ok(bn_layer_init_with(&trained, A, NULL, &first));
    bn_layer whole = layer_new(C, NULL);
    memcpy(whole.gamma, gamma, sizeof gamma);
    memcpy(whole.beta, beta, sizeof beta);
    memcpy(whole.running_mean, mean, sizeof mean);
    memcpy(whole.running_var, var, sizeof var);

    bn_memory rest = {
        .gamma = gamma + A, .beta = beta + A, .running_mean = mean + A, .running_var = var + A};
    bn_layer_init_with(&frozen, C - A, NULL, &rest);
    frozen.frozen = true;
    bn_batch part = {.n = N, .spatial = S, .x_stride = C * S, .y_stride = C * S};
    bn_layer_forward_batch(&trained, &part, x, y);
    bn_layer_forward_batch(&frozen, &part, x + A * S, y + A * S);

    float by_batch[COUNT], by_running[COUNT];
    const bn_batch batch = {.n = N, .spatial = S};
    assert_ok(bn_layer_infer_batch(&whole, &batch, x, by_running));
    assert_ok(bn_layer_forward_batch(&whole, &batch, x, by_batch));
    for (size_t k = 0; k < COUNT; k++) {
        assert_near(y[k], k / S % C < A ? by_batch[k] : by_running[k]);
    }
    assert_near(mean[0], whole.running_mean[0]);
    assert_true(mean[1] == 2 && mean[2] == 3 && var[1] == 5 && var[2] == 6);
    bn_layer_free(&whole);
    bn_layer_free(&frozen);
    bn_layer_free(&trained);
}

static void gradients_add_up(void **state) {
    (void)state;
    enum { P = 3 };
    const size_t n = N;
    float x[P][N * C], y[P][N * C], dy[P][N * C], dx[P][N * C];
    fill(&x[0][0], sizeof x / sizeof(float));
    fill(&dy[0][0], sizeof dy / sizeof(float));
    bn_layer layer = layer_new(C, NULL);
    double dgamma[C] = {0}, dbeta[C] = {0};
    layer.dgamma[0] = 1; /* of the batch before */
    for (int p = 0; p < P; p++) {
        ref_result want = expect(&layer, &(bn_batch){.n = N}, x[p], dy[p]);
        for (size_t c = 0; c < C; c++) {
            dgamma[c] += want.dgamma[c];
            dbeta[c] += want.dbeta[c];
        }

        bn_batch part = {.n = n, .accumulate_grads = p > 0};
        bn_layer_forward_batch(&layer, &part, x[p], y[p]);
        bn_layer_backward_batch(&layer, &part, x[p], dy[p], dx[p]);

        memcpy(want.dgamma, dgamma, sizeof dgamma);
        memcpy(want.dbeta, dbeta, sizeof dbeta);
        check(&want, &layer, &part, y[p], dx[p]);
    }
    bn_layer_free(&layer);
}

static void two_inputs_before_any_backward(void **state) {
    (void)state;
    const size_t n = N;
    float xa[N * C], ya[N * C], dya[N * C], dxa[N * C], xb[N * C], yb[N * C], dyb[N * C],
        dxb[N * C];
    fill(xa, N * C);
    fill(dya, N * C);
    fill(xb, N * C);
    fill(dyb, N * C);
    bn_layer layer = layer_new(C, NULL), apart = layer_new(C, NULL);
    void *cache_a = malloc(bn_cache_bytes(C)), *cache_b = malloc(bn_cache_bytes(C));
    assert_true(cache_a && cache_b);

    bn_batch a = {.n = n, .cache = cache_a},
             b = {.n = n, .cache = cache_b, .accumulate_grads = true};
    bn_layer_forward_batch(&layer, &a, xa, ya);
    bn_layer_forward_batch(&layer, &b, xb, yb);
    bn_layer_backward_batch(&layer, &a, xa, dya, dxa);
    bn_layer_backward_batch(&layer, &b, xb, dyb, dxb);

    float y[N * C], dx[N * C];
    assert_ok(bn_layer_forward(&apart, n, xa, y));
    assert_ok(bn_layer_backward(&apart, n, xa, dya, dx));
    assert_same_bits(ya, y, N * C);
    assert_same_bits(dxa, dx, N * C);
    const bn_batch adding = {.n = n, .accumulate_grads = true};
    assert_ok(bn_layer_forward(&apart, n, xb, y));
    assert_ok(bn_layer_backward_batch(&apart, &adding, xb, dyb, dx));
    assert_same_bits(yb, y, N * C);
    assert_same_bits(dxb, dx, N * C);
    assert_same_bits(layer.dgamma, apart.dgamma, C);
    assert_same_bits(layer.running_var, apart.running_var, C);
    free(cache_a);
    free(cache_b);
    bn_layer_free(&apart);
    bn_layer_free(&layer);
}

static void a_forward_is_computed_again(void **state) {
    (void)state;
    float x[COUNT], y[COUNT], first[COUNT];
    fill(x, COUNT);
    bn_layer layer = layer_new(C, NULL);
    bn_batch batch = {.n = N, .spatial = S};
    assert_ok(bn_layer_forward_batch(&layer, &batch, x, first));
    snapshot before = snapshot_take(&layer);

    batch.skip_running_update = true;
    bn_layer_forward_batch(&layer, &batch, x, y);

    snapshot_check(&before, &layer);
    assert_same_bits(y, first, COUNT);

    bn_layer moved = layer;

    assert_ok(bn_layer_infer_batch(&moved, &batch, x, y));
    check_inferred(&moved, &batch, x, y);
    bn_layer_free(&moved);
    snapshot_free(&before);
}

static void no_positions_are_no_batch(void **state) {
    (void)state;
    float x[COUNT], y[COUNT];
    fill(x, COUNT);
    bn_layer layer = layer_new(C, NULL);
    const size_t n = N, w = W;
    for (size_t h = 0; h <= H; h += H) {

        bn_batch batch = {.n = h * w == 0 ? 0 : n, .spatial = h * w};

        assert_ok(bn_layer_forward_batch(&layer, &batch, x, y));
        assert_int_equal(layer.num_batches_tracked, h == 0 ? 0 : 1);
    }
    bn_layer_free(&layer);
}

/* ---- Half precision -------------------------------------------------------------------------- */

static void halves(void **state) {
    (void)state;
    const size_t count = COUNT;
    float floats[COUNT], other[COUNT], dfloats[COUNT];
    uint16_t x[COUNT], y[COUNT], dy[COUNT], dx[COUNT], rounded[COUNT];
    fill(floats, COUNT);
    memcpy(other, floats, sizeof other);

    bn_bf16_from_float(count, floats, x);
    bn_bf16_to_float(count, x, floats);

    for (size_t k = 0; k < COUNT; k++) {
        assert_true(floats[k] == (float)ref_rounded(BN_DTYPE_BF16, other[k]));
    }
    fill(dfloats, COUNT);
    bn_bf16_from_float(count, dfloats, dy);
    bn_bf16_to_float(count, dy, dfloats);
    bn_layer layer = layer_new(C, NULL), same = layer_new(C, NULL);
    bn_status status;

    bn_batch batch = {.n = N, .spatial = H * W, .dtype = BN_DTYPE_BF16};
    status = bn_layer_forward_batch(&layer, &batch, x, y);
    status = bn_layer_backward_batch(&layer, &batch, x, dy, dx);
    status = bn_layer_infer_batch(&layer, &batch, x, x);

    assert_ok(status);
    const bn_batch images = {.n = N, .spatial = S};
    assert_ok(bn_layer_forward_batch(&same, &images, floats, other));
    bn_bf16_from_float(count, other, rounded);
    assert_memory_equal(y, rounded, sizeof y);
    assert_ok(bn_layer_backward_batch(&same, &images, floats, dfloats, other));
    bn_bf16_from_float(count, other, rounded);
    assert_memory_equal(dx, rounded, sizeof dx);
    assert_same_bits(layer.running_mean, same.running_mean, C);
    assert_same_bits(layer.running_var, same.running_var, C);
    assert_same_bits(layer.dgamma, same.dgamma, C);
    assert_same_bits(layer.dbeta, same.dbeta, C);
    assert_ok(bn_layer_infer_batch(&same, &images, floats, other));
    bn_bf16_from_float(count, other, rounded);
    assert_memory_equal(x, rounded, sizeof x);
    bn_layer_free(&same);
    bn_layer_free(&layer);
}

/* ---- A batch in parts ------------------------------------------------------------------------ */

static void a_batch_in_parts(void **state) {
    (void)state;
    enum { P = 3, EACH = 2 };
    float x[P][EACH * C], y[P][EACH * C], dy[P][EACH * C], dx[P][EACH * C];
    fill(&x[0][0], P * EACH * C);
    fill(&dy[0][0], P * EACH * C);
    bn_batch part[P] = {{.n = EACH}, {.n = EACH}, {.n = EACH}};
    part[1].skip_running_update = part[2].skip_running_update = true;
    bn_layer layer = layer_new(C, NULL);
    bn_moments moments;
    bn_gradients gradients;
    assert_ok(bn_moments_init(&moments, C));
    assert_ok(bn_gradients_init(&gradients, C));
    const bn_batch whole = {.n = P * EACH};
    ref_result want = expect(&layer, &whole, &x[0][0], &dy[0][0]);

    for (int p = 0; p < P; p++)
        bn_moments_add(&moments, &part[p], x[p]);
    for (int p = 0; p < P; p++)
        bn_layer_forward_by(&layer, &moments, &part[p], x[p], y[p]);
    for (int p = 0; p < P; p++)
        bn_gradients_add(&gradients, &layer, &part[p], x[p], dy[p]);
    for (int p = 0; p < P; p++)
        bn_layer_backward_by(&layer, &gradients, &part[p], x[p], dy[p], dx[p]);
    bn_layer_set_gradients(&layer, &gradients, false);

    check(&want, &layer, &whole, &y[0][0], &dx[0][0]);
    assert_int_equal(layer.num_batches_tracked, 1);
    bn_gradients_free(&gradients);
    bn_moments_free(&moments);
    bn_layer_free(&layer);
}

/* ---- Many workers ---------------------------------------------------------------------------- */

#if defined(_POSIX_BARRIERS) && _POSIX_BARRIERS > 0

enum { WORKERS = 3, SHARE = 2 };

typedef struct team {
    pthread_barrier_t barrier;
    const double *sent[WORKERS];
} team;

typedef struct worker {
    team *team;
    size_t rank;
    double sums[2 * C + 5];
    const float *x, *dy;
    float *y, *dx;
    bn_layer layer;
} worker;

static double sum_over_ranks(const double *const *sent, size_t k) {
    double sum = 0;
    for (size_t rank = 0; rank < WORKERS; rank++) {
        sum += sent[rank][k];
    }
    return sum;
}

static int add_up(void *context, double *values, size_t count) {
    worker *self = context;
    self->team->sent[self->rank] = values;
    pthread_barrier_wait(&self->team->barrier);
    for (size_t k = 0; k < count; k++)
        self->sums[k] = sum_over_ranks(self->team->sent, k);
    pthread_barrier_wait(&self->team->barrier);
    memcpy(values, self->sums, count * sizeof *values);
    return 0;
}

/* What a call says of its arguments is the same on all workers: then none waits. */
static void *work(void *argument) {
    worker *const of = argument;
    worker self = *of;
    bn_layer layer = self.layer;

    bn_layer_set_comm(&layer, (bn_comm){add_up, &self});

    bn_layer_forward(&layer, SHARE, self.x, self.y);
    bn_layer_backward(&layer, SHARE, self.x, self.dy, self.dx);
    of->layer = layer;
    return NULL;
}

static void workers_share_a_batch(void **state) {
    (void)state;
    enum { ALL = WORKERS * SHARE * C };
    float x[ALL], y[ALL] = {0}, dy[ALL], dx[ALL] = {0};
    fill(x, ALL);
    fill(dy, ALL);
    team all = {.sent = {NULL}};
    worker workers[WORKERS];
    pthread_t threads[WORKERS];
    assert_int_equal(pthread_barrier_init(&all.barrier, NULL, WORKERS), 0);
    bn_options alone = bn_options_default();
    alone.num_threads = 1;
    for (size_t rank = 0; rank < WORKERS; rank++) {
        const size_t at = rank * SHARE * C;
        workers[rank] = (worker){.team = &all,
                                 .rank = rank,
                                 .x = x + at,
                                 .dy = dy + at,
                                 .y = y + at,
                                 .dx = dx + at,
                                 .layer = layer_new(C, &alone)};
    }
    const bn_batch batch = {.n = WORKERS * SHARE};
    ref_result want = expect(&workers[0].layer, &batch, x, dy);
    for (size_t rank = 0; rank < WORKERS; rank++) {
        assert_int_equal(pthread_create(&threads[rank], NULL, work, &workers[rank]), 0);
    }
    for (size_t rank = 0; rank < WORKERS; rank++) {
        assert_int_equal(pthread_join(threads[rank], NULL), 0);
    }
    for (size_t rank = 1; rank < WORKERS; rank++) {
        assert_same_bits(workers[rank].layer.dgamma, workers[0].layer.dgamma, C);
        assert_same_bits(workers[rank].layer.running_var, workers[0].layer.running_var, C);
        bn_layer_free(&workers[rank].layer);
    }
    check(&want, &workers[0].layer, &batch, y, dx);
    bn_layer_free(&workers[0].layer);
    pthread_barrier_destroy(&all.barrier);
}

#endif

/* ---- Exchange -------------------------------------------------------------------------------- */

#ifdef BN_TEST_SAFETENSORS

#include <batchnorm/bn_safetensors.h>

/* In the folder where the test runs. */
static void a_layer_in_a_file(void **state) {
    (void)state;
    bn_layer saved = layer_new(C, NULL), layer;
    assert_ok(bn_layer_init(&layer, C, NULL));
    assert_ok(bn_layer_save_safetensors(&saved, "model.safetensors", "layer1.0.bn1"));
    bn_status status;

    status = bn_layer_load_safetensors(&layer, "model.safetensors", "layer1.0.bn1");
    status = bn_layer_save_safetensors(&layer, "model.safetensors", "layer1.0.bn1");

    assert_ok(status);
    assert_same_bits(layer.gamma, saved.gamma, C);
    assert_same_bits(layer.running_var, saved.running_var, C);
    assert_int_equal(unlink("model.safetensors"), 0);
    bn_layer_free(&layer);
    bn_layer_free(&saved);
}

#endif

/* ---- From other frameworks ------------------------------------------------------------------- */

/* A framework's arrays, and a batch that it works on. */
typedef struct framework {
    float gamma[C], beta[C], mean[C], var[C], dgamma[C], dbeta[C];
    float x[COUNT], y[COUNT], dy[COUNT], dx[COUNT];
} framework;

static framework framework_new(void) {
    framework f = {.gamma = {2, 3, -4},
                   .beta = {1, 0, -1},
                   .mean = {1, 2, 3},
                   .var = {4, 5, 6},
                   .dbeta = {7, 8, 9}};
    fill(f.x, COUNT);
    fill(f.dy, COUNT);
    return f;
}

static size_t channel_of(const bn_batch *batch, size_t k) {
    return k / ref_spatial(batch) % C;
}

/* act'(z), with which z is to be multiplied for act(z) */
static double slope(const bn_layer *layer, double z) {
    const bool leaky = layer->options.activation == BN_ACTIVATION_LEAKY_RELU && z <= 0;
    return leaky ? 0.1 : 1;
}

/* Normalized by this mean and variance under the framework's own eps. */
static void check_by(const framework *f, const bn_layer *layer, const bn_batch *batch, double eps,
                     const double *mean, const double *var) {
    for (size_t k = 0; k < COUNT; k++) {
        const size_t c = channel_of(batch, k);
        const double xhat = ((double)f->x[k] - mean[c]) / sqrt(var[c] + eps);
        const double z = (double)f->gamma[c] * xhat + (double)f->beta[c];
        assert_near((double)f->y[k], slope(layer, z) * z);
    }
}

static void statistics(const framework *f, const bn_batch *batch, double mean[C], double var[C]) {
    for (size_t c = 0; c < C; c++) {
        mean[c] = var[c] = 0;
    }
    for (size_t k = 0; k < COUNT; k++) {
        mean[channel_of(batch, k)] += (double)f->x[k] / (N * S);
    }
    for (size_t k = 0; k < COUNT; k++) {
        const double from = (double)f->x[k] - mean[channel_of(batch, k)];
        var[channel_of(batch, k)] += from * from / (N * S);
    }
}

/* A step of training, after which running values have so much of the batch's, its variance times
 * correction, and gradients were added to where they are so in the framework; inference by them. */
static void check_framework(framework *f, bn_layer *layer, const bn_batch *batch, double eps,
                            double fresh, double correction, bool adds) {
    double mean[C], var[C], running_mean[C], running_var[C], dbeta[C];
    statistics(f, batch, mean, var);
    for (size_t c = 0; c < C; c++) {
        running_mean[c] = (1 - fresh) * (double)layer->running_mean[c] + fresh * mean[c];
        running_var[c] = (1 - fresh) * (double)layer->running_var[c] + fresh * correction * var[c];
        dbeta[c] = adds ? (double)layer->dbeta[c] : 0;
    }
    assert_ok(bn_layer_forward_batch(layer, batch, f->x, f->y));
    check_by(f, layer, batch, eps, mean, var);
    assert_ok(bn_layer_backward_batch(layer, batch, f->x, f->dy, f->dx));
    for (size_t k = 0; k < COUNT; k++) {
        dbeta[channel_of(batch, k)] += (double)f->dy[k] * slope(layer, (double)f->y[k]);
    }
    for (size_t c = 0; c < C; c++) {
        assert_near((double)layer->running_mean[c], running_mean[c]);
        assert_near((double)layer->running_var[c], running_var[c]);
        assert_near((double)layer->dbeta[c], dbeta[c]);
    }
    assert_ok(bn_layer_infer_batch(layer, batch, f->x, f->y));
    check_by(f, layer, batch, eps, running_mean, running_var);
}

/* The layer begins with what the framework has, which is divided by `by`. */
static void check_start(const framework *f, const bn_layer *layer, bool has_gradients, double by) {
    assert_true(layer->gamma == f->gamma && layer->beta == f->beta);
    assert_true(!has_gradients || (layer->dgamma == f->dgamma && layer->dbeta == f->dbeta));
    for (size_t c = 0; c < C; c++) {
        assert_near((double)layer->running_mean[c], (double)f->mean[c] / by);
        assert_near((double)layer->running_var[c], (double)f->var[c] / by);
    }
}

#define UNBIASED (N * S / (N * S - 1.0))

static void from_pytorch(void **state) {
    (void)state;
    framework f = framework_new();
    float *weight = f.gamma, *bias = f.beta, *weight_grad = f.dgamma, *bias_grad = f.dbeta,
          *running_mean = f.mean, *running_var = f.var;
    const int64_t num_batches_tracked = 1;
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    options.momentum = 1 - 0.1f;
    bn_memory torch = {.gamma = weight,
                       .beta = bias,
                       .dgamma = weight_grad,
                       .dbeta = bias_grad,
                       .running_mean = running_mean,
                       .running_var = running_var};
    status = bn_layer_init_with(&layer, C, &options, &torch);
    layer.num_batches_tracked = (uint64_t)num_batches_tracked;
    bn_batch batch = {.n = N, .spatial = H * W, .accumulate_grads = true};

    assert_ok(status);
    check_start(&f, &layer, true, 1);
    check_framework(&f, &layer, &batch, 1e-5, 0.1, UNBIASED, true);
    layer.options.momentum = BN_MOMENTUM_CUMULATIVE; /* momentum=None */
    check_framework(&f, &layer, &batch, 1e-5, 1 / 3.0, UNBIASED, true);
    bn_layer_free(&layer);
}

static void from_keras(void **state) {
    (void)state;
    framework f = framework_new();
    float *gamma = f.gamma, *beta = f.beta, *moving_mean = f.mean, *moving_variance = f.var;
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    options.momentum = 0.99f;
    options.eps = 1e-3f;
    options.biased_running_var = true;
    bn_memory keras = {
        .gamma = gamma, .beta = beta, .running_mean = moving_mean, .running_var = moving_variance};
    status = bn_layer_init_with(&layer, C, &options, &keras);
    bn_batch batch = {.n = N * H * W};

    assert_ok(status);
    check_start(&f, &layer, false, 1);
    check_framework(&f, &layer, &batch, 1e-3, 0.01, 1, false);
    bn_layer_free(&layer);
}

static void from_flax(void **state) {
    (void)state;
    framework f = framework_new();
    float *scale = f.gamma, *bias = f.beta, *mean = f.mean, *var = f.var;
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    options.momentum = 0.99f;
    options.biased_running_var = true;
    bn_memory flax = {.gamma = scale, .beta = bias, .running_mean = mean, .running_var = var};
    status = bn_layer_init_with(&layer, C, &options, &flax);
    bn_batch batch = {.n = N * H * W};

    assert_ok(status);
    check_start(&f, &layer, false, 1);
    check_framework(&f, &layer, &batch, 1e-5, 0.01, 1, false);
    bn_layer_free(&layer);
}

static void from_onnx(void **state) {
    (void)state;
    framework f = framework_new();
    float *scale = f.gamma, *B = f.beta, *input_mean = f.mean, *input_var = f.var;
    float running_mean[C], running_var[C];
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    options.biased_running_var = true;
    memcpy(running_mean, input_mean, C * sizeof *input_mean);
    memcpy(running_var, input_var, C * sizeof *input_var);
    bn_memory onnx = {
        .gamma = scale, .beta = B, .running_mean = running_mean, .running_var = running_var};
    status = bn_layer_init_with(&layer, C, &options, &onnx);
    bn_batch batch = {.n = N, .spatial = H * W};

    assert_ok(status);
    check_start(&f, &layer, false, 1);
    check_framework(&f, &layer, &batch, 1e-5, 0.1, 1, false);
    assert_true(f.mean[0] == 1 && f.var[C - 1] == 6);
    bn_layer_free(&layer);
}

static void from_cudnn(void **state) {
    (void)state;
    framework f = framework_new();
    float *bnScale = f.gamma, *bnBias = f.beta, *dBnScaleResult = f.dgamma,
          *dBnBiasResult = f.dbeta, *resultRunningMean = f.mean, *resultRunningVariance = f.var;
    const double exponentialAverageFactor = 0.25, epsilon = 1e-4;
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    options.momentum = (float)(1 - exponentialAverageFactor);
    options.eps = (float)epsilon;
    bn_memory cudnn = {.gamma = bnScale,
                       .beta = bnBias,
                       .dgamma = dBnScaleResult,
                       .dbeta = dBnBiasResult,
                       .running_mean = resultRunningMean,
                       .running_var = resultRunningVariance};
    status = bn_layer_init_with(&layer, C, &options, &cudnn);
    bn_batch batch = {.n = N, .spatial = H * W};

    assert_ok(status);
    check_start(&f, &layer, true, 1);
    check_framework(&f, &layer, &batch, 1e-4, 0.25, UNBIASED, false);
    bn_layer_free(&layer);
}

static void from_caffe(void **state) {
    (void)state;
    framework f = framework_new();
    const float weight = 2.5f, *const bn_blobs[3] = {f.mean, f.var, &weight};
    float *const scale_blobs[2] = {f.gamma, f.beta};
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    bn_memory caffe = {.gamma = scale_blobs[0], .beta = scale_blobs[1]};
    status = bn_layer_init_with(&layer, C, &options, &caffe);
    float w = *bn_blobs[2];
    for (int c = 0; c < C && w > 0; c++) {
        layer.running_mean[c] = bn_blobs[0][c] / w;
        layer.running_var[c] = bn_blobs[1][c] / w;
    }
    bn_batch batch = {.n = N, .spatial = H * W};

    assert_ok(status);
    check_start(&f, &layer, false, 2.5);
    for (int step = 0; step < 2; step++) {

        layer.options.momentum = 0.999f * w / (0.999f * w + 1);
        w = 0.999f * w + 1;

        check_framework(&f, &layer, &batch, 1e-5,
                        1 / (step == 0 ? 0.999 * 2.5 + 1 : 0.999 * (0.999 * 2.5 + 1) + 1), UNBIASED,
                        false);
    }
    bn_layer_free(&layer);
}

static void from_darknet(void **state) {
    (void)state;
    framework f = framework_new();
    const struct {
        int batch, out_c, out_h, out_w;
        float *scales, *biases, *scale_updates, *bias_updates, *rolling_mean, *rolling_variance;
    } l = {N, C, H, W, f.gamma, f.beta, f.dgamma, f.dbeta, f.mean, f.var};
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    options.momentum = 0.99f;
    options.activation = BN_ACTIVATION_LEAKY_RELU;
    options.activation_slope = 0.1f;
    bn_memory darknet = {.gamma = l.scales,
                         .beta = l.biases,
                         .dgamma = l.scale_updates,
                         .dbeta = l.bias_updates,
                         .running_mean = l.rolling_mean,
                         .running_var = l.rolling_variance};
    status = bn_layer_init_with(&layer, (size_t)l.out_c, &options, &darknet);
    bn_batch batch = {
        .n = (size_t)l.batch, .spatial = (size_t)(l.out_h * l.out_w), .accumulate_grads = true};

    assert_ok(status);
    check_start(&f, &layer, true, 1);
    check_framework(&f, &layer, &batch, 1e-5, 0.01, UNBIASED, true);
    bn_layer_free(&layer);
}

static void from_numpydl(void **state) {
    (void)state;
    framework f = framework_new();
    float *gamma = f.gamma, *beta = f.beta;
    bn_layer layer;
    bn_status status;
    bn_options options = bn_options_default();

    options.eps = 1e-6f;
    options.track_running = false;
    bn_memory numpydl = {.gamma = gamma, .beta = beta};
    status = bn_layer_init_with(&layer, C, &options, &numpydl);

    assert_ok(status);
    const bn_batch batch = {.n = N * S};
    double mean[C], var[C];
    for (size_t k = 0; k < COUNT; k++) {
        f.x[k] *= 0.01f; /* so that eps matters */
    }
    statistics(&f, &batch, mean, var);
    assert_ok(bn_layer_forward(&layer, batch.n, f.x, f.y));
    check_by(&f, &layer, &batch, 1e-6, mean, var);
    assert_ok(bn_layer_infer(&layer, batch.n, f.x, f.y));
    check_by(&f, &layer, &batch, 1e-6, mean, var);
    bn_layer_free(&layer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_and_rows),
        cmocka_unit_test(running_values_of_one_batch),
        cmocka_unit_test(some_channels_are_frozen),
        cmocka_unit_test(gradients_add_up),
        cmocka_unit_test(two_inputs_before_any_backward),
        cmocka_unit_test(a_forward_is_computed_again),
        cmocka_unit_test(no_positions_are_no_batch),
        cmocka_unit_test(halves),
        cmocka_unit_test(a_batch_in_parts),
#if defined(_POSIX_BARRIERS) && _POSIX_BARRIERS > 0
        cmocka_unit_test(workers_share_a_batch),
#endif
#ifdef BN_TEST_SAFETENSORS
        cmocka_unit_test(a_layer_in_a_file),
#endif
        cmocka_unit_test(from_pytorch),
        cmocka_unit_test(from_keras),
        cmocka_unit_test(from_flax),
        cmocka_unit_test(from_onnx),
        cmocka_unit_test(from_cudnn),
        cmocka_unit_test(from_caffe),
        cmocka_unit_test(from_darknet),
        cmocka_unit_test(from_numpydl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
