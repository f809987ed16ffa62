/*
 * Forward, backward and the optimizer, in plain loops around the library's layer.
 */
#include "network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../example.h"
#include "dataset.h"

enum { NUM_LAYERS = 3, NUM_HIDDEN = NUM_LAYERS - 1, MAX_WIDTH = 128, MAX_WEIGHTS = 64 * MAX_WIDTH };

static const size_t widths[NUM_LAYERS + 1] = {NUM_PIXELS, MAX_WIDTH, 64, NUM_CLASSES};
static const float sgd_momentum = 0.9F;

/* What goes into batch normalization and comes out of it, or its gradient. */
typedef union activations {
    float f32[MAX_BATCH * MAX_WIDTH];
    uint16_t bf16[MAX_BATCH * MAX_WIDTH];
} activations;

typedef struct dense {
    size_t fan_in, fan_out;
    float weight[MAX_WEIGHTS], dweight[MAX_WEIGHTS]; /* [fan_in][fan_out] */
    float bias[MAX_WIDTH], dbias[MAX_WIDTH];
    bn_layer norm;   /* all zero where there is none */
    activations z;   /* in * weight + bias, kept for backward; the last layer keeps neither */
    activations out; /* after normalization and ReLU */
} dense;

struct network {
    bool batch_norm;
    bn_dtype dtype; /* of activations */
    worker self;
    dense layers[NUM_LAYERS];
    size_t num_params;
    bn_param params[NUM_LAYERS * 4]; /* all that is learned, the library's and our own alike */
    float velocity[NUM_LAYERS * 4][MAX_WEIGHTS];
    /* Gradients of this worker's rows alone, which are added up over all. */
    size_t num_partial;
    bn_param partial[NUM_LAYERS * 4];
};

/* ---- Loops ----------------------------------------------------------------------------------- */

/* c[m][n] += a * b[k][n], where element (i, p) of a is at a[i * row + p * column], so that a may be
 * a transposed matrix. The inner loop runs along rows of b and c, which compilers vectorize without
 * being allowed to reorder sums. */
static void multiply_add(size_t m, size_t k, size_t n, const float *a, size_t row, size_t column,
                         const float *restrict b, float *restrict c) {
    for (size_t i = 0; i < m; i++)
        for (size_t p = 0; p < k; p++) {
            const float factor = a[i * row + p * column];
            for (size_t j = 0; j < n; j++)
                c[i * n + j] += factor * b[p * n + j];
        }
}

static void transpose(size_t rows, size_t columns, const float *restrict a, float *restrict t) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            t[j * rows + i] = a[i * columns + j];
}

static void relu(size_t count, const float *restrict z, float *restrict out) {
    for (size_t i = 0; i < count; i++)
        out[i] = z[i] > 0 ? z[i] : 0;
}

static void relu_backward(size_t count, const float *restrict z, float *restrict d) {
    for (size_t i = 0; i < count; i++)
        d[i] = z[i] > 0 ? d[i] : 0;
}

/* Products want floats: activations are rounded behind one and widened before the next. */
static void store(const network *net, size_t count, const float *from, activations *to) {
    if (net->dtype == BN_DTYPE_BF16)
        bn_bf16_from_float(count, from, to->bf16);
    else
        memcpy(to->f32, from, count * sizeof(float));
}

/* Returns the activations as floats: themselves, or in room. */
static const float *load(const network *net, size_t count, const activations *from, float *room) {
    if (net->dtype != BN_DTYPE_BF16)
        return from->f32;
    bn_bf16_to_float(count, from->bf16, room);
    return room;
}

/* ---- The network ----------------------------------------------------------------------------- */

static void add_param(network *net, bn_param param) {
    net->params[net->num_params++] = param;
    net->partial[net->num_partial++] = param;
}

/* The gradients of a layer that has workers are of all rows already. */
static void add_norm(network *net, bn_layer *norm) {
    bn_param params[2];
    const size_t count = bn_layer_params(norm, params);
    if (net->self.synchronized)
        MUST(bn_layer_set_comm(norm, net->self.comm));
    for (size_t k = 0; k < count; k++)
        add_param(net, params[k]);
    net->num_partial -= net->self.synchronized ? count : 0;
}

static void layer_init(network *net, dense *layer, size_t fan_in, size_t fan_out, bool batch_norm,
                       uint64_t *random) {
    layer->fan_in = fan_in;
    layer->fan_out = fan_out;
    /* Variance 2 / fan_in, which keeps the scale of activations through ReLU (He et al. 2015). */
    const float limit = sqrtf(6.0F / (float)fan_in);
    random_fill(random, -limit, limit, fan_in * fan_out, layer->weight);
    add_param(net, (bn_param){"weight", layer->weight, layer->dweight, fan_in * fan_out});
    if (!batch_norm) {
        add_param(net, (bn_param){"bias", layer->bias, layer->dbias, fan_out});
        return;
    }
    /* A bias would be subtracted again with the mean: beta takes its place. */
    bn_options options = bn_options_default();
    options.activation = BN_ACTIVATION_RELU;
    options.num_threads = 1; /* 32 rows are less work than waking a thread */
    MUST(bn_layer_init(&layer->norm, fan_out, &options));
    add_norm(net, &layer->norm);
}

network *network_new(network_kind kind, uint64_t seed, const worker *self) {
    network *net = calloc(1, sizeof *net);
    if (net == NULL)
        return NULL;
    net->batch_norm = kind != RELU_ALONE;
    net->dtype = kind == BATCH_NORM_BF16 ? BN_DTYPE_BF16 : BN_DTYPE_F32;
    net->self = *self;
    for (size_t l = 0; l < NUM_LAYERS; l++)
        layer_init(net, &net->layers[l], widths[l], widths[l + 1],
                   net->batch_norm && l < NUM_HIDDEN, &seed);
    return net;
}

void network_free(network *net) {
    if (net == NULL)
        return;
    for (size_t l = 0; l < NUM_LAYERS; l++)
        bn_layer_free(&net->layers[l].norm);
    free(net);
}

/* Leaves the logits in z[n][10]; its room is used for all layers. */
static void forward(network *net, size_t n, const float *x, bool training, float *z) {
    const bn_batch batch = {.n = n, .dtype = net->dtype};
    float room[MAX_BATCH * MAX_WIDTH];
    const float *in = x;
    for (size_t l = 0; l < NUM_LAYERS; l++) {
        dense *layer = &net->layers[l];
        const size_t count = n * layer->fan_out;
        for (size_t i = 0; i < n; i++)
            memcpy(z + i * layer->fan_out, layer->bias, layer->fan_out * sizeof(float));
        multiply_add(n, layer->fan_in, layer->fan_out, in, layer->fan_in, 1, layer->weight, z);
        if (l == NUM_HIDDEN)
            break;
        store(net, count, z, &layer->z);
        if (!net->batch_norm)
            relu(count, layer->z.f32, layer->out.f32);
        else if (training)
            MUST(bn_layer_forward_batch(&layer->norm, &batch, &layer->z, &layer->out));
        else
            MUST(bn_layer_infer_batch(&layer->norm, &batch, &layer->z, &layer->out));
        in = load(net, count, &layer->out, room);
    }
}

/* d[n][10] is the gradient of the logits. */
static void backward(network *net, size_t n, const float *x, const float *d) {
    const bn_batch batch = {.n = n, .dtype = net->dtype};
    float transposed[MAX_WEIGHTS];
    float din[MAX_BATCH * MAX_WIDTH], in_room[MAX_BATCH * MAX_WIDTH], d_room[MAX_BATCH * MAX_WIDTH];
    activations dz;
    for (size_t l = NUM_LAYERS; l-- > 0;) {
        dense *layer = &net->layers[l];
        const size_t fan_in = layer->fan_in;
        const size_t fan_out = layer->fan_out;
        if (l < NUM_HIDDEN) {
            store(net, n * fan_out, d, &dz);
            if (net->batch_norm)
                MUST(bn_layer_backward_batch(&layer->norm, &batch, &layer->z, &dz, &dz));
            else
                relu_backward(n * fan_out, layer->z.f32, dz.f32);
            d = load(net, n * fan_out, &dz, d_room);
        }
        memset(layer->dbias, 0, sizeof layer->dbias);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < fan_out; j++)
                layer->dbias[j] += d[i * fan_out + j];

        const float *in = l > 0 ? load(net, n * fan_in, &net->layers[l - 1].out, in_room) : x;
        memset(layer->dweight, 0, sizeof layer->dweight);
        multiply_add(fan_in, n, fan_out, in, 1, fan_in, d, layer->dweight);
        if (l > 0) {
            transpose(fan_in, fan_out, layer->weight, transposed);
            memset(din, 0, sizeof din);
            multiply_add(n, fan_out, fan_in, d, fan_out, 1, transposed, din);
            d = din;
        }
    }
}

/* Softmax and cross-entropy. Writes the gradient of the mean loss of a batch of `all`, of which n are
 * here, into d[n][10], which may be NULL. */
static void measure(size_t n, size_t all, const float *logits, const int *labels, float *d,
                    score *sum) {
    for (size_t i = 0; i < n; i++) {
        const float *logit = logits + i * NUM_CLASSES;
        float power[NUM_CLASSES];
        float total = 0;
        int best = 0;
        for (int c = 1; c < NUM_CLASSES; c++)
            best = logit[c] > logit[best] ? c : best;
        for (int c = 0; c < NUM_CLASSES; c++)
            total += power[c] = expf(logit[c] - logit[best]);
        sum->loss += logf(total) - (logit[labels[i]] - logit[best]);
        sum->correct += best == labels[i];
        for (int c = 0; d != NULL && c < NUM_CLASSES; c++)
            d[i * NUM_CLASSES + (size_t)c] =
                (power[c] / total - (float)(c == labels[i])) / (float)all;
    }
}

/* All have the same weights before a step, and so they must have the same gradients. */
static void add_up(const worker *self, size_t count, double *values) {
    if (self->count > 1 && self->comm.allreduce_sum(self->comm.context, values, count) != 0) {
        fprintf(stderr, "digits: the workers cannot add up\n");
        exit(EXIT_FAILURE);
    }
}

static void add_up_gradients(network *net) {
    double sums[MAX_WEIGHTS];
    for (size_t k = 0; net->self.count > 1 && k < net->num_partial; k++) {
        const bn_param *param = &net->partial[k];
        for (size_t i = 0; i < param->count; i++)
            sums[i] = (double)param->grad[i];
        add_up(&net->self, param->count, sums);
        for (size_t i = 0; i < param->count; i++)
            param->grad[i] = (float)sums[i];
    }
}

static void descend(network *net, float learning_rate) {
    for (size_t k = 0; k < net->num_params; k++) {
        const bn_param *param = &net->params[k];
        float *velocity = net->velocity[k];
        for (size_t i = 0; i < param->count; i++) {
            velocity[i] = sgd_momentum * velocity[i] + param->grad[i];
            param->value[i] -= learning_rate * velocity[i];
        }
    }
}

void network_train(network *net, size_t n, size_t all, const float *x, const int *labels,
                   float learning_rate, score *sum) {
    float z[MAX_BATCH * MAX_WIDTH], d[MAX_BATCH * NUM_CLASSES];
    score own = {0};
    forward(net, n, x, true, z);
    measure(n, all, z, labels, d, &own);
    backward(net, n, x, d);
    add_up_gradients(net);
    descend(net, learning_rate);

    double scores[] = {own.loss, (double)own.correct};
    add_up(&net->self, 2, scores);
    sum->loss += scores[0];
    sum->correct += (size_t)scores[1];
}

void network_test(network *net, size_t n, const float *x, const int *labels, score *sum) {
    float z[MAX_BATCH * MAX_WIDTH];
    forward(net, n, x, false, z);
    measure(n, n, z, labels, NULL, sum);
}
