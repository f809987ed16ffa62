/*
 * Any bytes at all as a sequence of calls on a layer, good ones and bad ones. After each:
 *
 *   - its status is one that its arguments deserve, and what failed has changed nothing;
 *   - nothing was written but outputs;
 *   - a second layer, elsewhere in memory and of another alignment, number of threads and row of tuning,
 *     which never saw the calls that failed, has the same bits;
 *   - data without extremes raised no exception and gave what the reference says.
 *
 * The library is compiled with its thresholds lowered (small.h), so that small batches take all ways.
 */
#define _POSIX_C_SOURCE 200809L /* setenv */
#include "fuzz.h"

#include "../unit/support.h"

#include "memory.h"
#include "tuning.h"

#include <fenv.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* ---- The input ------------------------------------------------------------------------------- */

static const uint8_t *input;
static size_t input_left;

/* Behind its end there are zeros. */
static unsigned next(void) {
    return input_left > 0 ? (input_left--, (unsigned)*input++) : 0;
}

static bool once_in(unsigned many) {
    return next() % many == many - 1;
}

#define PICK(table) ((table)[next() % COUNT_OF(table)])

static const float wild[] = {NAN,     INFINITY, -INFINITY, 3e38f, -3e38f,   1e-45f,
                             -1e-38f, 1e20f,    -1e-20f,   -0.0f, 65504.0f, -1.0f};
static const float all_eps[] = {1e-5f, 1e-3f, 1.0f, 0.0f, -1.0f, NAN, INFINITY, 1e-40f};
static const float momenta[] = {0.9f, 0.5f, 0.0f, 1.0f, BN_MOMENTUM_CUMULATIVE, 1.5f, NAN, -0.5f};

enum { UNIFORM, WHOLE, CONSTANT, FAR, WILD, KINDS_OF_DATA };
static float value_of(unsigned kind, ref_random *random) {
    const double uniform = ref_uniform(random);
    switch (kind) {
    case WHOLE:
        return (float)floor(5 * uniform) - 2;
    case CONSTANT:
        return 0.7f;
    case FAR:
        return (float)(1000 + uniform);
    case WILD:
        return wild[(size_t)(uniform * COUNT_OF(wild))];
    default:
        return (float)(-1.5 + 4 * uniform);
    }
}

/* ---- Two worlds ------------------------------------------------------------------------------ */

/* What a batch's calls read and write, each in a slot of an arena or two. */
enum { X, Y, DY, DX, RESIDUAL, DRESIDUAL, SAMPLE, POSITION, CACHE, THINGS };
enum { SLOT = 6144, ARENA = (THINGS + 2) * SLOT, MOST_ELEMENTS = 1200, MOST_FEATURES = 300 };
enum { NOWHERE = ARENA };

/* Ways of large batches for small ones. What decides speed decides no bit. */
static const bni_tuning tunings[] = {
    BNI_TUNING_DEFAULT,
    {0, 0, 0, 0, 0, 0, 0, 16, 8, true, 32, 4, 64, 1, 1, 0, 2},
    {0, 0, HUGE_VAL, 0, HUGE_VAL, 0, 0, 16, 2048, false, 64, 4, 64, 3, 2, 0, 99},
    {HUGE_VAL, HUGE_VAL, 0, HUGE_VAL, 0, HUGE_VAL, 0, 64, 8, true, 32, 256, 16384, 2, 2, HUGE_VAL,
     20}};

enum { GIVEN_SCRATCH = 6, GIVEN_BLOCK, GIVEN };
typedef struct world {
    bn_layer layer;
    bn_moments moments[2];
    bn_gradients gradients[2];
    unsigned char *arena, *given[GIVEN], *scratch; /* given: to be freed */
    size_t scratch_bytes;
    float results[2 * MOST_FEATURES];
} world;

static world worlds[2];
static const bn_layer *const layer = &worlds[0].layer;

/* Which forward a cache is of, as its caller knows: of the layer's own, and two more. */
enum { NONE, TRAINING, FROZEN, PART, SHARE, UNKNOWN };
typedef struct known_forward {
    int kind;
    size_t n, spatial;
    bn_dtype dtype;
    double x;
} known_forward;
static known_forward forwards[3];
static int summed[2]; /* of what kind of forward gradients are */

/* The second worker sends what the first does, but that its rows are greater by 1: then its mean is as
 * far from the common one. */
static unsigned failing, reductions;
static double greater; /* W, in forward's first reduction */
static int reduce(void *context, double *values, size_t count) {
    MUST(context == NULL && count <= 2 * layer->num_features + 5);
    for (size_t k = 0; k < count; k++) {
        values[k] *= 2;
        values[k] += reductions == 0 && k < layer->num_features ? greater : 0;
    }
    return failing >> reductions++ & 1u ? 7 : 0;
}

static bool has_workers(void) {
    return layer->internal.comm.allreduce_sum != NULL;
}

/* NaNs are all the same. */
static void same_floats(const void *a, const void *b, size_t count) {
    float one, two;
    MUST((a == NULL) == (b == NULL));
    for (size_t at = 0; a != NULL && at < count * sizeof one; at += sizeof one) {
        memcpy(&one, (const char *)a + at, sizeof one);
        memcpy(&two, (const char *)b + at, sizeof two);
        MUST(memcmp(&one, &two, sizeof one) == 0 || (isnan(one) && isnan(two)));
    }
}

/* All that both worlds' callers may look at, but tensors. */
static void same_worlds(void) {
    world *const a = &worlds[0], *const b = &worlds[1];
    snapshot one = snapshot_take(&a->layer), two = snapshot_take(&b->layer);
    for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
        same_floats(one.arrays[k], two.arrays[k], one.layer.num_features);
    }
    MUST(one.layer.num_batches_tracked == two.layer.num_batches_tracked);
    snapshot_free(&one);
    snapshot_free(&two);
    same_floats(a->results, b->results, COUNT_OF(a->results));
    for (size_t k = 0; k < 2; k++) {
        const bn_moments *m = &a->moments[k], *n = &b->moments[k];
        const bn_gradients *g = &a->gradients[k], *h = &b->gradients[k];
        const size_t bytes = layer->num_features * sizeof(double);
        MUST(m->count == n->count && memcmp(m->mean, n->mean, bytes) == 0);
        MUST(g->count == h->count && memcmp(m->m2, n->m2, bytes) == 0);
        MUST(memcmp(g->sum_g, h->sum_g, bytes) == 0 && memcmp(g->sum_gx, h->sum_gx, bytes) == 0);
    }
}

static bool good_momentum(float momentum) {
    return (momentum >= 0 && momentum <= 1) || momentum == BN_MOMENTUM_CUMULATIVE;
}

static bool good_eps(float eps) {
    return eps >= 0 && isfinite(eps);
}

/* Sometimes bad ones; says whether they are good. */
static bool make_options(bn_options *options) {
    static const float maxima[] = {0.7f, 6.0f, 1e-30f, 0.0f, NAN}, slopes[] = {0.1f, 0, 2, -1};
    const unsigned bits = next(), more = next();
    *options = bn_options_default();
    options->scale = !(bits & 1);
    options->shift = !(bits & 2);
    options->track_running = bits % 16 < 12;
    options->biased_running_var = bits & 16;
    options->activation = (bn_activation)(more % 4);
    options->inference_only = more % 16 == 15;
    options->num_threads = (int)(more >> 4) % 4;
    options->eps = bits & 32 ? PICK(all_eps) : 1e-5f;
    options->momentum = bits & 32 ? PICK(momenta) : 0.9f;
    options->activation_max = bits & 64 ? PICK(maxima) : 0.7f;
    options->activation_slope = bits & 64 ? PICK(slopes) : 0.1f;
    if ((bits & 192) == 192) {
        options->activation = once_in(8) ? (bn_activation)7 : options->activation;
        options->num_threads -= once_in(8) ? 4 : 0;
        options->gamma_init = once_in(4) ? PICK(wild) : 1;
        options->beta_init = once_in(4) ? PICK(wild) : 0;
    }
    const int curve = (int)options->activation;
    return good_eps(options->eps) && options->num_threads >= 0 && curve < 4 &&
           (curve != BN_ACTIVATION_LEAKY_RELU || options->activation_slope >= 0) &&
           (curve != BN_ACTIVATION_CLIP || options->activation_max > 0) &&
           (!options->track_running || options->inference_only ||
            good_momentum(options->momentum)) &&
           isfinite(options->gamma_init) && isfinite(options->beta_init);
}

static unsigned char *give(world *w, size_t which, size_t bytes, unsigned shift) {
    w->given[which] = malloc(bytes + shift);
    MUST(w->given[which] != NULL);
    return w->given[which] + shift;
}

/* A layer in its caller's memory, some of it: arrays, scratch, block, all no larger than they must be.
 * False where init refuses. */
static bool make_layer(world *w, size_t features, const bn_options *options, bool good) {
    const unsigned which = next(), shift = next() % 16, bad = next();
    const bool trains = !options->inference_only;
    const bool wanted[] = {options->scale,           options->shift,
                           options->scale && trains, options->shift && trains,
                           options->track_running,   options->track_running};
    bn_memory memory = {0};
    float **const members[] = {&memory.gamma, &memory.beta,         &memory.dgamma,
                               &memory.dbeta, &memory.running_mean, &memory.running_var};
    for (size_t k = 0; k < COUNT_OF(members); k++) {
        if (which >> k & 1u && wanted[k]) {
            const float first[] = {options->gamma_init, options->beta_init, 0, 0, 0, 1};
            unsigned char *const array = give(w, k, features * sizeof(float), shift);
            for (size_t d = 0; d < features; d++) {
                memcpy(array + d * sizeof(float), &first[k], sizeof(float));
            }
            *members[k] = (float *)(void *)array;
        }
    }
    const size_t scratch = bn_scratch_bytes(features, options->num_threads);
    if (which & 64 && scratch > 0) {
        memory.scratch = w->scratch = give(w, GIVEN_SCRATCH, scratch, shift);
        memory.scratch_bytes = w->scratch_bytes = scratch;
    }
    const size_t block = bn_layer_bytes(features, options, &memory);
    MUST((block > 0) == good);
    if (which & 128) {
        memory.block = give(w, GIVEN_BLOCK, block, shift);
        memory.block_bytes = block;
    }
    if (good && bad % 8 == 7) { /* too little of one, or too much is asked for */
        bn_memory less = memory;
        less.block_bytes -= memory.block != NULL;
        less.scratch_bytes -= memory.scratch != NULL && trains;
        const bool same =
            less.block_bytes == memory.block_bytes && less.scratch_bytes == memory.scratch_bytes;
        MUST(bn_layer_init_with(&w->layer, same ? SIZE_MAX / (bad + 1) : features, options,
                                &less) == (same ? BN_STATUS_BAD_SHAPE : BN_STATUS_OUT_OF_MEMORY));
        return false;
    }
    const bn_status status = bn_layer_init_with(&w->layer, features, options, &memory);
    MUST(status == (good ? BN_STATUS_OK : BN_STATUS_BAD_OPTION));
    return good;
}

/* ---- Batches --------------------------------------------------------------------------------- */

/* A batch with places in the arena instead of addresses. */
typedef struct spec {
    bn_batch batch;
    size_t at[THINGS];
    unsigned cache; /* 0: the layer's own */
    int on_gamma;   /* this thing is where gamma is; -1: none */
    bool huge;      /* a size overflows */
} spec;

typedef struct region {
    size_t at, rows, row, stride; /* bytes */
} region;

static bool weighs(int thing) {
    return thing == SAMPLE || thing == POSITION;
}

static size_t width_of(const spec *s, int thing) {
    return weighs(thing) || (s->batch.dtype != BN_DTYPE_BF16 && s->batch.dtype != BN_DTYPE_F16) ? 4
                                                                                                : 2;
}

static region region_of(const spec *s, int thing) {
    const size_t features = layer->num_features, spatial = ref_spatial(&s->batch);
    const size_t width = width_of(s, thing), at = s->at[thing];
    const bool of_x = thing == X || thing == DX;
    const size_t stride =
        of_x ? ref_x_stride(&s->batch, features) : ref_y_stride(&s->batch, features);
    return thing == SAMPLE     ? (region){at, s->batch.n, width, width}
           : thing == POSITION ? (region){at, s->batch.n, spatial * width, spatial * width}
           : thing == CACHE    ? (region){at, 1, bn_cache_bytes(features), 0}
                            : (region){at, s->batch.n, features * spatial * width, stride * width};
}

static bool touch(const region *a, const region *b) {
    for (size_t i = 0; i < a->rows; i++) {
        for (size_t j = 0; j < b->rows; j++) {
            const size_t one = a->at + i * a->stride, two = b->at + j * b->stride;
            if (one < two + b->row && two < one + a->row) {
                return true;
            }
        }
    }
    return false;
}

static bool same_region(const region *a, const region *b) {
    return a->at == b->at && a->rows == b->rows && a->row == b->row &&
           (a->rows == 1 || a->stride == b->stride);
}

/* A thing's values without gaps; NULL: it is nowhere. */
static float *read_values(const world *w, const spec *s, int thing) {
    const region r = region_of(s, thing);
    const size_t width = width_of(s, thing), each = r.row / width;
    if (s->at[thing] == NOWHERE || s->on_gamma == thing) {
        return NULL;
    }
    float *const values = ref_floats(r.rows * each);
    for (size_t i = 0; i < r.rows; i++) {
        const unsigned char *const row = w->arena + r.at + i * r.stride;
        if (width == sizeof *values) {
            memcpy(values + i * each, row, r.row);
        } else {
            ref_from_halves(s->batch.dtype, each, row, values + i * each);
        }
    }
    return values;
}

/* New content, in both worlds. */
static void fill(const spec *s, int thing, unsigned kind, unsigned seed, bool spoil) {
    static const float masks[] = {0, 1, 1, 2};
    ref_random random = {seed};
    const region r = region_of(s, thing);
    const size_t width = width_of(s, thing), all = r.rows * r.row / width;
    const size_t spoilt = spoil ? (size_t)ref_bits(&random) % (all + 1) : SIZE_MAX;
    for (size_t i = 0, k = 0; i < r.rows; i++) {
        for (size_t at = r.at + i * r.stride; at < r.at + i * r.stride + r.row; at += width, k++) {
            float value = value_of(k == spoilt ? WILD : kind, &random);
            if (weighs(thing) && kind != WILD && k != spoilt) {
                value = kind == UNIFORM ? 1 + value / 4 : masks[ref_bits(&random) % 4];
            }
            for (size_t w = 0; w < 2; w++) {
                if (width == sizeof value) {
                    memcpy(worlds[w].arena + at, &value, sizeof value);
                } else {
                    ref_to_halves(s->batch.dtype, 1, &value, worlds[w].arena + at);
                }
            }
        }
    }
}

static const size_t all_n[] = {2, 3, 1, 0, 4, 5, 8, 9, 16, 17, 33, 65, 150, 300};
static const size_t all_features[] = {3, 1, 2, 4, 5, 7, 8, 15, 16, 17, 33, 64, 65, 100, 257, 300};
static const size_t all_spatial[] = {1, 0, 2, 3, 4, 7, 8, 9, 16, 17, 30, 49, 63, 100, 257};

static bn_batch make_shape(size_t features) {
    static const size_t more[] = {0, 0, 0, 1, 3, 17};
    bn_batch batch = {.n = PICK(all_n), .spatial = PICK(all_spatial)};
    while (features * batch.spatial > MOST_ELEMENTS) {
        batch.spatial /= 2;
    }
    const size_t row = features * ref_spatial(&batch);
    const unsigned strides = next();
    batch.x_stride = more[strides % 6] == 0 ? 0 : row + more[strides % 6];
    batch.y_stride = more[strides / 6 % 6] == 0 ? 0 : row + more[strides / 6 % 6];
    while (batch.n * (row + 17) > MOST_ELEMENTS + 17) {
        batch.n /= 2;
    }
    batch.dtype = (bn_dtype)(next() % 3);
    return batch;
}

/* Another batch: mostly a good one, with places of its own for everything. */
static void make_spec(spec *s) {
    static const unsigned char aligned_to[] = {0, 0, 4, 1, 7, 64};
    *s = (spec){.batch = make_shape(layer->num_features), .on_gamma = -1};
    const unsigned has = next(), kind = next() % KINDS_OF_DATA, seed = next(),
                   shift = PICK(aligned_to);
    const bool absent[THINGS] = {[RESIDUAL] = !(has & 1),
                                 [DRESIDUAL] = (has & 3) != 3,
                                 [SAMPLE] = !(has & 4),
                                 [POSITION] = !(has & 8)};
    for (int thing = 0; thing < THINGS; thing++) {
        s->at[thing] = absent[thing]
                           ? NOWHERE
                           : (size_t)thing * SLOT + (shift == 7 ? 7u + (unsigned)thing : shift);
    }
    s->batch.skip_running_update = (has & 48) == 48;
    s->batch.accumulate_grads = (has & 192) == 64;
    for (int thing = 0; thing < CACHE; thing++) {
        if (thing != Y && thing != DX && thing != DRESIDUAL && !absent[thing]) {
            fill(s, thing, weighs(thing) && seed % 8 != 7 ? seed % 2 : kind, seed + (unsigned)thing,
                 has >= 240 && seed % 7 == (unsigned)thing);
        }
    }
}

/* Makes it worse, or shares memory, which may be allowed. */
static void change_spec(spec *s) {
    const int one = (int)(next() % CACHE), two = (int)(next() % THINGS);
    const size_t row = layer->num_features * ref_spatial(&s->batch);
    const size_t apart[] = {0, 0, 0, 1, 4, region_of(s, X).row, region_of(s, one).stride};
    size_t *const sizes[] = {&s->batch.n, &s->batch.spatial, &s->batch.x_stride,
                             &s->batch.y_stride};
    switch (next() % 8) {
    case 0:
    case 1:
    case 2:
        s->at[one] = s->at[two] == NOWHERE ? NOWHERE : s->at[two] + PICK(apart);
        break;
    case 3:
        s->at[one] = NOWHERE;
        break;
    case 4:
        s->batch.x_stride = row > 1 ? row - 1 : 0;
        break;
    case 5:
        s->batch.y_stride = row > 1 ? row - 1 : 0;
        break;
    case 6:
        s->on_gamma = layer->gamma != NULL && !weighs(one) ? one : -1;
        break;
    default:
        if (two % 2 == 0 || s->batch.n < 2) {
            s->batch.dtype = (bn_dtype)(3 + next());
        } else {
            *sizes[one % 4] = SIZE_MAX / (width_of(s, X) == 4 ? 1u + next() % 2 : 1u);
            s->huge = true;
        }
    }
}

/* ---- What a call may return ------------------------------------------------------------------- */

enum { FORWARD, INFER, BACKWARD, MOMENTS_ADD, FORWARD_BY, GRADIENTS_ADD, BACKWARD_BY, ON_BATCHES };

#define THING(name)  (1u << (name))
#define FAULT(name)  (1u << BN_STATUS_##name)
#define WEIGHTS      (THING(SAMPLE) | THING(POSITION))
#define TO_NORMALIZE (THING(X) | THING(RESIDUAL) | WEIGHTS)
#define TO_BACKWARD  (THING(X) | THING(DY) | THING(Y) | THING(CACHE) | WEIGHTS)
static const struct {
    unsigned reads, writes;
    bool trains, differentiates, changes;
} calls_on_batches[ON_BATCHES] = {
    [FORWARD] = {TO_NORMALIZE, THING(Y) | THING(CACHE), true, false, true},
    [INFER] = {TO_NORMALIZE, THING(Y), false, false, false},
    [BACKWARD] = {TO_BACKWARD, THING(DX) | THING(DRESIDUAL), true, true, true},
    [MOMENTS_ADD] = {THING(X) | WEIGHTS, 0, false, false, false},
    [FORWARD_BY] = {TO_NORMALIZE, THING(Y) | THING(CACHE), true, false, true},
    [GRADIENTS_ADD] = {TO_BACKWARD, 0, true, true, false},
    [BACKWARD_BY] = {TO_BACKWARD, THING(DX) | THING(DRESIDUAL), true, true, false}};

static bool reads(int kind, int thing) {
    return calls_on_batches[kind].reads >> thing & 1u;
}

static bool writes(int kind, int thing) {
    return calls_on_batches[kind].writes >> thing & 1u;
}

/* Inputs may be the same, and these pairs. */
static bool may_share(int kind, int one, int two) {
    const unsigned pair = THING(one) | THING(two), inputs = calls_on_batches[kind].reads;
    return (pair & ~(inputs & ~THING(CACHE))) == 0 || pair == (THING(X) | THING(Y)) ||
           pair == (THING(DX) | THING(X)) || pair == (THING(DX) | THING(DY)) ||
           pair == (THING(DRESIDUAL) | THING(DY));
}

static bool needs_y(const spec *s) {
    return s->at[RESIDUAL] != NOWHERE && layer->options.activation != BN_ACTIVATION_NONE;
}

static bool uses(int kind, const spec *s, int thing) {
    const bool y = thing != Y || !calls_on_batches[kind].differentiates || needs_y(s);
    return (reads(kind, thing) || writes(kind, thing)) && y && s->at[thing] != NOWHERE;
}

static bool overlap(int kind, const spec *s) {
    for (int one = 0; one < THINGS; one++) {
        const region a = region_of(s, one);
        if (uses(kind, s, one) && s->on_gamma == one) {
            return true;
        }
        for (int two = 0; two < one; two++) {
            const region b = region_of(s, two);
            if (uses(kind, s, one) && uses(kind, s, two) && s->on_gamma != one &&
                s->on_gamma != two && touch(&a, &b) &&
                !(same_region(&a, &b) && may_share(kind, one, two))) {
                return true;
            }
        }
    }
    return false;
}

/* W; NaN where a weight is bad. */
static double weigh(const spec *s) {
    const size_t spatial = ref_spatial(&s->batch);
    float *const samples = read_values(&worlds[0], s, SAMPLE);
    float *const positions = read_values(&worlds[0], s, POSITION);
    double sum = 0;
    for (size_t k = 0; k < s->batch.n * spatial; k++) {
        const float sample = samples ? samples[k / spatial] : 1,
                    position = positions ? positions[k] : 1;
        const double product = (double)sample * (double)position;
        sum += sample >= 0 && position >= 0 && isfinite(sample) && isfinite(position) &&
                       product <= (double)FLT_MAX
                   ? (double)(float)product
                   : NAN;
    }
    free(samples);
    free(positions);
    return sum;
}

/* NONE: of nothing, or of sums that were set to 0. */
static int summed_of(size_t which) {
    const bn_gradients *g = &worlds[0].gradients[which];
    bool any = g->count != 0;
    for (size_t d = 0; d < g->num_features; d++) {
        any = any || g->sum_g[d] != 0 || g->sum_gx[d] != 0;
    }
    return any ? summed[which] : NONE;
}

/* Whether sums of both kinds are of different batches for sure; or perhaps. */
static unsigned faults_of_kinds(int one, int two, unsigned *maybe) {
    const bool differ = one != NONE && two != NONE && (one == FROZEN) != (two == FROZEN);
    *maybe |= one == UNKNOWN || two == UNKNOWN ? FAULT(BAD_STATE) : 0;
    return differ && one != UNKNOWN && two != UNKNOWN ? FAULT(BAD_STATE) : 0;
}

/* Of the forward before. */
static unsigned faults_of_cache(int kind, const spec *s, unsigned *maybe) {
    const known_forward *f = &forwards[s->cache];
    const bool same = f->n == s->batch.n && f->spatial == ref_spatial(&s->batch);
    const bool parts = kind != BACKWARD && s->cache == 0 && f->kind != TRAINING;
    const bool reduced = kind == BACKWARD && has_workers();
    const bool fits = f->dtype == s->batch.dtype && (same || parts) &&
                      (kind != BACKWARD ||
                       (f->kind != PART && (f->kind == FROZEN || (f->kind == SHARE) == reduced)));
    *maybe |= (kind != BACKWARD && f->kind == SHARE) || f->kind == UNKNOWN ? FAULT(BAD_STATE) : 0;
    return f->kind != UNKNOWN && (f->kind == NONE || !fits) ? FAULT(BAD_STATE) : 0;
}

/* With too few values, as the call sees them; about 1 the order of a sum decides. */
static unsigned faults_of_count(int kind, const spec *s, double values, unsigned *maybe) {
    const known_forward *f = &forwards[s->cache];
    const bool constant = calls_on_batches[kind].differentiates ? f->kind == FROZEN
                          : calls_on_batches[kind].trains       ? layer->frozen
                                                                : layer->running_mean != NULL;
    const double count = kind == FORWARD_BY    ? worlds[0].moments[0].count
                         : kind == BACKWARD_BY ? worlds[0].gradients[0].count
                         : kind != INFER       ? values * (1 + has_workers())
                                               : values;
    if (kind == MOMENTS_ADD || kind == GRADIENTS_ADD) {
        return 0;
    }
    *maybe |= fabs(count - 1) < 1e-5 || f->kind == UNKNOWN ? FAULT(TOO_FEW_VALUES) : 0;
    const bool few = count < 1 - 1e-5 || count == 1;
    return !constant && f->kind != UNKNOWN && few ? FAULT(TOO_FEW_VALUES) : 0;
}

/* All that is wrong; and in *maybe what may be said too. */
static unsigned faults_of(int kind, const spec *s, unsigned *maybe) {
    const size_t row = layer->num_features * ref_spatial(&s->batch);
    const bool of_layer = kind != MOMENTS_ADD, normalizes = kind == FORWARD || kind == FORWARD_BY;
    const bool differentiates = calls_on_batches[kind].differentiates,
               trains = calls_on_batches[kind].trains;
    const bool updates = normalizes && !layer->frozen && layer->running_mean != NULL &&
                         !s->batch.skip_running_update;
    const bool needs[THINGS] = {
        [X] = true, [Y] = normalizes || kind == INFER || needs_y(s), [DY] = true, [DX] = true};
    unsigned faults = trains && layer->options.inference_only ? FAULT(BAD_STATE) : 0;
    for (int thing = 0; thing < THINGS; thing++) {
        const bool missing = needs[thing] && s->at[thing] == NOWHERE;
        faults |= missing && (reads(kind, thing) || writes(kind, thing)) ? FAULT(NULL_POINTER) : 0;
    }
    const double values = s->huge ? 2 : weigh(s);
    faults |= !s->huge && overlap(kind, s) ? FAULT(OVERLAP) : 0;
    faults |=
        isnan(values) || (int)s->batch.dtype > BN_DTYPE_F16 ||
                (of_layer && (!good_eps(layer->options.eps) || layer->options.num_threads < 0)) ||
                (updates && !good_momentum(layer->options.momentum)) ||
                ((kind == BACKWARD || kind == BACKWARD_BY) && s->at[DRESIDUAL] != NOWHERE &&
                 s->at[RESIDUAL] == NOWHERE)
            ? FAULT(BAD_OPTION)
            : 0;
    faults |= (s->huge && (kind != MOMENTS_ADD || s->batch.y_stride < SIZE_MAX / 8)) ||
                      (s->batch.x_stride != 0 && s->batch.x_stride < row) ||
                      (of_layer && s->batch.y_stride != 0 && s->batch.y_stride < row)
                  ? FAULT(BAD_SHAPE)
                  : 0;
    faults |= normalizes && layer->frozen && layer->running_mean == NULL ? FAULT(BAD_STATE) : 0;
    faults |= differentiates ? faults_of_cache(kind, s, maybe) : 0;
    faults |= faults_of_count(kind, s, values, maybe);
    faults |= kind == GRADIENTS_ADD || kind == BACKWARD_BY
                  ? faults_of_kinds(summed_of(0), forwards[s->cache].kind, maybe)
                  : 0;
    *maybe |= failing != 0 && has_workers() && (kind == FORWARD || kind == BACKWARD)
                  ? FAULT(COMM_FAILED)
                  : 0;
    if (s->huge) {
        *maybe |= ~(FAULT(OK) | FAULT(NOT_FINITE));
    }
    if (s->batch.n == 0) {
        *maybe |= faults | FAULT(BAD_STATE);
        faults = 0;
    }
    return faults;
}

/* ---- The reference ---------------------------------------------------------------------------- */

/* The first world's layer and sums as they were when they were looked at, and such a layer on aligned
 * arrays, as the reference wants them. */
static snapshot seen;
static bn_layer image;
enum { MEAN, M2, SUM_G, SUM_GX, SUMS };
static double sums_seen[SUMS][MOST_FEATURES], counts_seen[SUMS];

static double *sums_of(size_t which, double *count) {
    const bn_moments *m = &worlds[0].moments[0];
    const bn_gradients *g = &worlds[0].gradients[0];
    double *const sums[SUMS] = {m->mean, m->m2, g->sum_g, g->sum_gx};
    *count = which <= M2 ? m->count : g->count;
    return sums[which];
}

static void look(void) {
    snapshot_free(&seen);
    seen = snapshot_take(layer);
    image = *layer;
    image.gamma = seen.arrays[SNAPSHOT_GAMMA];
    image.beta = seen.arrays[SNAPSHOT_BETA];
    image.dgamma = seen.arrays[SNAPSHOT_DGAMMA];
    image.dbeta = seen.arrays[SNAPSHOT_DBETA];
    image.running_mean = seen.arrays[SNAPSHOT_RUNNING_MEAN];
    image.running_var = seen.arrays[SNAPSHOT_RUNNING_VAR];
    for (size_t k = 0; k < SUMS; k++) {
        memcpy(sums_seen[k], sums_of(k, &counts_seen[k]), layer->num_features * sizeof(double));
    }
}

/* But where they may have changed. */
static void same_sums(bool moments, bool gradients) {
    for (size_t k = 0; k < SUMS; k++) {
        double count;
        const double *const now = sums_of(k, &count);
        if (!(k <= M2 ? moments : gradients)) {
            MUST(count == counts_seen[k]);
            MUST(memcmp(now, sums_seen[k], layer->num_features * sizeof *now) == 0);
        }
    }
}

/* Without extremes, of which a quiet NaN is none. */
static bool tame(const float *values, size_t count, float least, float most) {
    bool good = true;
    for (size_t k = 0; values != NULL && k < count; k++) {
        uint32_t bits;
        memcpy(&bits, values + k, sizeof bits);
        const float size = fabsf(values[k]);
        good = good && (isnan(size) ? (bits & 0x400000u) != 0
                                    : size == 0 || (size >= least && size <= most));
    }
    return good;
}

static bool tame_sums(const double *values, size_t count) {
    bool good = true;
    for (size_t k = 0; k < count; k++) {
        good = good && fabs(values[k]) <= 0x1p40;
    }
    return good;
}

static bool tame_layer(void) {
    const size_t features = layer->num_features;
    bool good = layer->options.eps >= 1e-6f && good_momentum(layer->options.momentum) &&
                tame(image.gamma, features, 0x1p-10f, 0x1p11f) &&
                tame(image.beta, features, 0x1p-10f, 0x1p11f) &&
                tame(image.running_mean, features, 0, 0x1p11f) &&
                tame(image.running_var, features, 0, 0x1p21f) &&
                tame(image.dgamma, features, 0, 0x1p30f) && tame(image.dbeta, features, 0, 0x1p30f);
    for (size_t k = SNAPSHOT_GAMMA; k <= SNAPSHOT_RUNNING_VAR; k++) {
        for (size_t d = 0; seen.arrays[k] != NULL && d < features; d++) {
            good = good && !isnan(seen.arrays[k][d]) &&
                   (k != SNAPSHOT_RUNNING_VAR || seen.arrays[k][d] >= 0);
        }
    }
    return good;
}

/* What a call should give: a trial of its inputs, as floats without gaps, and of its layer. */
typedef struct expectation {
    trial t;
    ref_result want;
    bool calm;  /* no exception is due */
    bool known; /* and the reference says what comes */
    bool updates;
    double x; /* tells one x from another */
} expectation;

static void *address(const world *w, const spec *s, int thing) {
    return s->at[thing] == NOWHERE ? NULL
           : s->on_gamma == thing  ? (void *)w->layer.gamma
                                   : w->arena + s->at[thing];
}

/* The arrays of a cache: mean, its rest, invstd, its rest. */
static void read_cache(const spec *s, float arrays[4][MOST_FEATURES]) {
    const bni_cache cache = bni_cache_of(layer, address(&worlds[0], s, CACHE));
    const float *const from[4] = {cache.mean, cache.mean_rest, cache.invstd, cache.invstd_rest};
    for (size_t k = 0; k < 4; k++) {
        memcpy(arrays[k], from[k], layer->num_features * sizeof(float));
    }
}

/* Has the reference normalize by these, to 48 bits. */
static void normalize_by(bn_layer *like, size_t d, double mean, double var) {
    static float arrays[4][MOST_FEATURES];
    like->frozen = true;
    like->running_mean = like->internal.mean_seen = arrays[0];
    like->running_var = like->internal.var_seen = arrays[1];
    like->internal.running_mean_rest = arrays[2];
    like->internal.running_var_rest = arrays[3];
    arrays[0][d] = (float)mean;
    arrays[1][d] = (float)var;
    arrays[2][d] = (float)(mean - (double)arrays[0][d]);
    arrays[3][d] = (float)(var - (double)arrays[1][d]);
}

/* Whether x deviates from the mean by more than a mean of 48 bits errs; and, where backward asks the
 * reference's z for its sign, no z is so near to where act' changes that rounding decides. */
static bool decided(const expectation *e, bool by_sign) {
    bn_layer plain = e->t.layer;
    plain.options.activation = BN_ACTIVATION_NONE;
    ref_result z = ref_forward(&plain, &e->t.batch, e->t.x);
    const double max = plain.options.activation_max;
    bool good = true;
    for (size_t d = 0; d < z.num_features; d++) {
        double largest = 0;
        for (size_t i = 0; i < z.n; i++) {
            for (size_t p = 0; p < z.spatial; p++) {
                const size_t k = (i * z.num_features + d) * z.spatial + p;
                const double near = 0x1p-18 * z.y_scale[d];
                largest = fmax(largest, fabs((double)e->t.x[k] - z.mean[d]));
                good = good && (!by_sign ||
                                (fabs(z.y[k]) > near && fabs(z.y[k] - max) > near + 1e-5 * max));
            }
        }
        good = good && largest >= 0x1p-18 * fabs(z.mean[d]);
    }
    ref_free(&z);
    return good;
}

/* The statistics that the call normalizes by, where they are not the batch's; false where they are
 * extreme. */
static bool take_statistics(int kind, const spec *s, bn_layer *like) {
    const bn_moments *m = &worlds[0].moments[0];
    const bn_gradients *g = &worlds[0].gradients[0];
    const bool of_moments = kind == FORWARD_BY || kind == MOMENTS_ADD,
               of_gradients = kind == BACKWARD_BY || kind == GRADIENTS_ADD;
    const size_t features = layer->num_features;
    bool good =
        (!of_moments ||
         (m->count < 0x1p20 && tame_sums(m->mean, features) && tame_sums(m->m2, features))) &&
        (!of_gradients ||
         (g->count < 0x1p20 && tame_sums(g->sum_g, features) && tame_sums(g->sum_gx, features))) &&
        (kind != FORWARD_BY || layer->frozen || m->count > 1.01) &&
        (kind != BACKWARD_BY || forwards[s->cache].kind == FROZEN || g->count > 1.01);
    if (kind == FORWARD_BY && !layer->frozen) {
        for (size_t d = 0; good && d < m->num_features; d++) {
            good = fabs(m->mean[d]) < 0x1p11;
            normalize_by(like, d, m->mean[d], m->m2[d] / m->count);
        }
    } else if (calls_on_batches[kind].differentiates) {
        float cache[4][MOST_FEATURES];
        read_cache(s, cache);
        for (size_t d = 0; d < layer->num_features; d++) {
            const double mean = (double)cache[0][d] + (double)cache[1][d],
                         invstd = (double)cache[2][d] + (double)cache[3][d];
            good = good && fabs(mean) < 0x1p11 && invstd > 0x1p-11 && invstd < 0x1p11;
            normalize_by(like, d, mean, 1 / (invstd * invstd));
        }
        like->options.eps = 0;
    } else if (kind == INFER || kind == MOMENTS_ADD) {
        like->frozen = kind == INFER && image.running_mean != NULL;
    }
    return good;
}

static void expect_gradients(int kind, const spec *s, expectation *e) {
    const bn_gradients *g = &worlds[0].gradients[0];
    const known_forward *f = &forwards[s->cache];
    const size_t features = layer->num_features, all = s->batch.n * features * e->want.spatial;
    ref_result *want = &e->want;
    if (needs_y(s)) {
        for (size_t k = 0; k < all; k++) {
            want->y[k] = (double)e->t.y[k];
        }
    }
    e->t.batch.residual = s->at[RESIDUAL] == NOWHERE ? NULL : e->t.x;
    e->t.layer.frozen = f->kind == FROZEN;
    ref_sums(want, &e->t.layer, &e->t.batch, e->t.x, e->t.dy);
    if (kind == BACKWARD && has_workers()) {
        double *const sums[] = {want->dgamma, want->dbeta, want->dgamma_scale, want->dbeta_scale};
        for (size_t k = 0; k < COUNT_OF(sums) * features; k++) {
            sums[k / features][k % features] *= 2;
        }
        want->weight *= 2;
    }
    for (size_t d = 0; kind == BACKWARD_BY && d < features; d++) {
        want->dbeta[d] = g->sum_g[d];
        want->dgamma[d] = g->sum_gx[d] * want->invstd[d];
        want->weight = g->count;
    }
    ref_dx(want, &e->t.layer, &e->t.batch, e->t.x);
    /* Sums of others' rows, too, and of rows that are not really there: dy says nothing of dx's size. */
    if (e->t.sample_weight || e->t.position_weight || kind == BACKWARD_BY || has_workers()) {
        trial_scale_dx(&e->t, want);
    }
    for (size_t d = 0; kind == BACKWARD && s->batch.accumulate_grads && d < features; d++) {
        const double old[] = {image.dgamma ? (double)image.dgamma[d] : 0,
                              image.dbeta ? (double)image.dbeta[d] : 0};
        want->dgamma[d] += old[0];
        want->dbeta[d] += old[1];
        want->dgamma_scale[d] += fabs(old[0]);
        want->dbeta_scale[d] += fabs(old[1]);
    }
}

static expectation expect(int kind, const spec *s, bool good) {
    const world *w = &worlds[0];
    const bool differentiates = calls_on_batches[kind].differentiates;
    expectation e = {
        .t = {.layer = image,
              .batch = {.n = s->batch.n, .spatial = s->batch.spatial, .dtype = s->batch.dtype}}};
    e.updates =
        (kind == FORWARD_BY ? w->moments[0].count > 0 : kind == FORWARD && s->batch.n > 0) &&
        !layer->frozen && layer->running_mean != NULL && !s->batch.skip_running_update;
    if (!good || s->on_gamma >= 0 || s->huge || s->batch.n == 0) {
        return e;
    }
    trial *const t = &e.t;
    float **const inputs[] = {[X] = &t->x,
                              [Y] = &t->y,
                              [DY] = &t->dy,
                              [RESIDUAL] = &t->residual,
                              [SAMPLE] = &t->sample_weight,
                              [POSITION] = &t->position_weight};
    bool finite = true;
    e.calm = tame_layer() && take_statistics(kind, s, &t->layer) && weigh(s) > 0.1;
    for (int thing = 0; thing <= POSITION; thing++) {
        if (reads(kind, thing) && uses(kind, s, thing)) {
            const region r = region_of(s, thing);
            const size_t count = r.rows * r.row / width_of(s, thing);
            float *const values = *inputs[thing] = read_values(w, s, thing);
            e.calm = e.calm &&
                     tame(values, count, thing == Y ? 0 : 0x1p-10f, thing == Y ? 0x1p30f : 0x1p10f);
            for (size_t k = 0; k < count; k++) {
                finite = finite && !isnan(values[k]);
                e.x = thing == X ? e.x / 3 + (double)values[k] : e.x;
            }
            e.calm = e.calm && (finite || width_of(s, thing) == 4); /* a half may have been loud */
        }
    }
    t->batch.sample_weight = t->sample_weight;
    t->batch.position_weight = t->position_weight;
    t->batch.residual = t->residual;
    /* Of another x than forward's dgamma may cancel where dx, of as large an xhat, does not. */
    const known_forward *f = &forwards[s->cache];
    e.known = e.calm && finite && !(differentiates && f->kind == UNKNOWN) &&
              !(kind == BACKWARD && f->kind != FROZEN && f->x != e.x);
    if (!e.known) {
        return e;
    }
    e.want = ref_forward(&t->layer, &t->batch, t->x);
    if (kind == FORWARD && !layer->frozen &&
        has_workers()) { /* of rows of which half are greater */
        for (size_t d = 0; d < layer->num_features; d++) {
            normalize_by(&t->layer, d, e.want.mean[d] + 0.5, e.want.var[d] + 0.25);
        }
        ref_free(&e.want);
        e.want = ref_forward(&t->layer, &t->batch, t->x);
    }
    e.known = decided(&e, differentiates && !needs_y(s) &&
                              layer->options.activation != BN_ACTIVATION_NONE);
    if (e.updates) {
        const double own = e.want.weight * (1 + has_workers());
        e.want.weight = kind == FORWARD_BY ? w->moments[0].count : own;
        ref_running(&e.want, &image);
    }
    if (differentiates) {
        expect_gradients(kind, s, &e);
    }
    return e;
}

static void expectation_free(expectation *e) {
    e->t.layer = (bn_layer){0};
    trial_free(&e->t);
    ref_free(&e->want);
}

static void near_to(double got, double want, double scale) {
    const double units = ref_units(got, want, scale);
    if (!(units <= 2 * REF_LIMIT)) {
        fprintf(stderr, "%g, not %g: %g units of %g\n", got, want, units, scale);
        abort();
    }
}

/* What these are with others, which also have a count; squares are about their mean. */
static void check_moments(const double *mean, const double *m2, double count) {
    const bn_moments *now = &worlds[0].moments[0];
    const double before = counts_seen[MEAN], all = before + count,
                 share = all > 0 ? count / all : 0;
    near_to(now->count, all, all);
    for (size_t d = 0; d < now->num_features; d++) {
        const double apart = mean[d] - sums_seen[MEAN][d];
        const double squares = sums_seen[M2][d] + m2[d] + apart * apart * before * share;
        const double middle = sums_seen[MEAN][d] + apart * share;
        near_to(now->mean[d], middle, fmax(fabs(middle), all > 0 ? sqrt(squares / all) : 0));
        near_to(now->m2[d], squares, squares);
    }
}

static void check_sums(const ref_result *want) {
    const bn_gradients *now = &worlds[0].gradients[0];
    const double all = counts_seen[SUM_G] + want->weight;
    near_to(now->count, all, all);
    for (size_t d = 0; d < now->num_features; d++) {
        const double g = sums_seen[SUM_G][d], gx = sums_seen[SUM_GX][d], each = want->invstd[d];
        near_to(now->sum_g[d], g + want->dbeta[d], fabs(g) + want->dbeta_scale[d]);
        near_to(now->sum_gx[d], gx + want->dgamma[d] / each,
                fabs(gx) + want->dgamma_scale[d] / each);
    }
}

/* What was written, in the trial. */
static void check_near(int kind, const spec *s, expectation *e) {
    trial *const t = &e->t;
    float cache[4][MOST_FEATURES];
    for (size_t d = 0; d < layer->num_features; d++) {
        cache[0][d] = (float)e->want.mean[d];
        cache[2][d] = (float)e->want.invstd[d];
    }
    free(t->y);
    t->y = writes(kind, Y) ? read_values(&worlds[0], s, Y) : NULL;
    t->dx = writes(kind, DX) ? read_values(&worlds[0], s, DX) : NULL;
    t->dresidual = writes(kind, DRESIDUAL) ? read_values(&worlds[0], s, DRESIDUAL) : NULL;
    t->batch.dresidual = t->dresidual;
    if (writes(kind, CACHE)) {
        read_cache(s, cache);
    }
    t->layer = image;
    t->layer.saved_mean = cache[0];
    t->layer.saved_invstd = cache[2];
    t->layer.running_mean = e->updates ? image.running_mean : NULL;
    t->layer.frozen = !e->updates;
    t->layer.dgamma = kind == BACKWARD ? image.dgamma : NULL;
    t->layer.dbeta = kind == BACKWARD ? image.dbeta : NULL;
    trial_check_errors(t, &e->want);
}

/* ---- Calls on batches ------------------------------------------------------------------------- */

/* Where the short calls do, the second world makes them. */
static bool is_short(const world *w, const spec *s) {
    const bn_batch *b = &s->batch;
    return w == &worlds[1] && b->spatial <= 1 && b->x_stride == 0 && b->y_stride == 0 &&
           b->dtype == BN_DTYPE_F32 && !b->skip_running_update && !b->accumulate_grads &&
           s->at[RESIDUAL] == NOWHERE && s->at[DRESIDUAL] == NOWHERE && s->at[SAMPLE] == NOWHERE &&
           s->at[POSITION] == NOWHERE && s->cache == 0;
}

static bn_status make_call(world *w, int kind, const spec *s) {
    bn_batch batch = s->batch;
    void *const x = address(w, s, X), *const y = address(w, s, Y), *const dy = address(w, s, DY);
    void *const dx = address(w, s, DX);
    batch.residual = address(w, s, RESIDUAL);
    batch.dresidual = address(w, s, DRESIDUAL);
    batch.sample_weight = address(w, s, SAMPLE);
    batch.position_weight = address(w, s, POSITION);
    batch.cache = address(w, s, CACHE);
    batch.y = y;
    reductions = 0;
    if (w->scratch != NULL && !w->layer.options.inference_only) {
        memset(w->scratch, next() % 2 ? 0xff : 0x3f, w->scratch_bytes); /* nothing stays in it */
    }
    switch (kind) {
    case FORWARD:
        return is_short(w, s) ? bn_layer_forward(&w->layer, batch.n, x, y)
                              : bn_layer_forward_batch(&w->layer, &batch, x, y);
    case INFER:
        return is_short(w, s) ? bn_layer_infer(&w->layer, batch.n, x, y)
                              : bn_layer_infer_batch(&w->layer, &batch, x, y);
    case BACKWARD:
        return is_short(w, s) ? bn_layer_backward(&w->layer, batch.n, x, dy, dx)
                              : bn_layer_backward_batch(&w->layer, &batch, x, dy, dx);
    case MOMENTS_ADD:
        return bn_moments_add(&w->moments[0], &batch, x);
    case FORWARD_BY:
        return bn_layer_forward_by(&w->layer, &w->moments[0], &batch, x, y);
    case GRADIENTS_ADD:
        return bn_gradients_add(&w->gradients[0], &w->layer, &batch, x, dy);
    default:
        return bn_layer_backward_by(&w->layer, &w->gradients[0], &batch, x, dy, dx);
    }
}

static unsigned char arena_before[ARENA];

/* But for the outputs the first world's arena is as it was. What is there is in the second's too. */
static void check_arenas(int kind, const spec *s, bool wrote) {
    unsigned char *const one = worlds[0].arena, *const two = worlds[1].arena;
    for (int thing = 0; wrote && thing < THINGS; thing++) {
        const region r = region_of(s, thing);
        if (!writes(kind, thing) || !uses(kind, s, thing)) {
            continue;
        }
        if (thing == CACHE) {
            same_floats(one + r.at, two + r.at, r.row / sizeof(float));
        } else {
            float *const a = read_values(&worlds[0], s, thing);
            float *const b = read_values(&worlds[1], s, thing);
            same_floats(a, b, r.rows * r.row / width_of(s, thing));
            free(a);
            free(b);
        }
        for (size_t at = r.at, i = 0; i < r.rows; i++, at += r.stride) {
            memcpy(arena_before + at, one + at, r.row);
            memcpy(two + at, one + at, r.row);
            if (thing != CACHE && at + r.row > (size_t)CACHE * SLOT) {
                forwards[1].kind = forwards[2].kind = UNKNOWN;
            }
        }
    }
    MUST(memcmp(arena_before, one, ARENA) == 0);
    MUST(memcmp(one, two, ARENA) == 0);
}

static void remember(int kind, const spec *s, double x) {
    const bool left = kind == FORWARD ? s->batch.n > 0 || (layer->frozen && has_workers())
                                      : layer->frozen || worlds[0].moments[0].count > 0;
    if (left) {
        forwards[s->cache] = (known_forward){.kind = layer->frozen     ? FROZEN
                                                     : kind != FORWARD ? PART
                                                     : has_workers()   ? SHARE
                                                                       : TRAINING,
                                             .n = s->batch.n,
                                             .spatial = ref_spatial(&s->batch),
                                             .dtype = s->batch.dtype,
                                             .x = x};
    }
}

/* The arrays that a call may have changed, as bits of a snapshot's. */
static unsigned may_change(int kind, const spec *s, bn_status status) {
    enum {
        CACHED = 1 << SNAPSHOT_MEAN | 1 << SNAPSHOT_INVSTD | 1 << SNAPSHOT_MEAN_REST |
                 1 << SNAPSHOT_INVSTD_REST,
        RUNNING = 1 << SNAPSHOT_RUNNING_MEAN | 1 << SNAPSHOT_RUNNING_VAR | 1 << SNAPSHOT_MEAN_SEEN |
                  1 << SNAPSHOT_VAR_SEEN | 1 << SNAPSHOT_RUNNING_MEAN_REST |
                  1 << SNAPSHOT_RUNNING_VAR_REST,
        LEARNED = 1 << SNAPSHOT_DGAMMA | 1 << SNAPSHOT_DBETA
    };
    const bool ok = status == BN_STATUS_OK, done = ok || status == BN_STATUS_NOT_FINITE;
    const bool normalizes = kind == FORWARD || kind == FORWARD_BY;
    const bool updates = ok && normalizes && !layer->frozen && !s->batch.skip_running_update;
    return (normalizes && done && s->cache == 0 ? CACHED : 0u) | (updates ? RUNNING : 0u) |
           (kind == BACKWARD && ok ? LEARNED : 0u);
}

static void check_call(int kind, const spec *s) {
    static const int serious = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;
    const int was = summed_of(0);
    unsigned maybe = 0;
    failing = has_workers() ? next() & next() & 3u : 0;
    greater = has_workers() && kind == FORWARD && !s->huge ? weigh(s) : 0;
    const unsigned faults = faults_of(kind, s, &maybe);
    look();
    expectation e = expect(kind, s, faults == 0);
    memcpy(arena_before, worlds[0].arena, ARENA);
    feclearexcept(FE_ALL_EXCEPT);
    const bn_status status = make_call(&worlds[0], kind, s);
    const int raised = fetestexcept(serious);
    const bool ok = status == BN_STATUS_OK, done = ok || status == BN_STATUS_NOT_FINITE;
    if (done ? faults != 0 : ((faults | maybe) >> status & 1u) == 0) {
        fprintf(stderr, "call %d: %s, faults %x, maybe %x\n", kind, bn_status_string(status),
                faults, maybe);
        abort();
    }
    MUST(!done || !has_workers() || (failing & ((1u << reductions) - 1)) == 0);
    MUST(!e.known || status != BN_STATUS_NOT_FINITE);
    MUST(!e.calm || (raised & (s->batch.dtype == BN_DTYPE_F16 ? ~FE_OVERFLOW : -1)) == 0);

    /* What failed, and what takes things const, has changed nothing. */
    if (!done || !calls_on_batches[kind].changes) {
        snapshot_check(&seen, layer);
    }
    snapshot_check_arrays(&seen, layer, may_change(kind, s, status));
    MUST(layer->num_batches_tracked == seen.layer.num_batches_tracked + (ok && e.updates));
    same_sums(ok && kind == MOMENTS_ADD, ok && kind == GRADIENTS_ADD);

    const bool wrote = done || status == BN_STATUS_COMM_FAILED;
    if (wrote) {
        MUST(make_call(&worlds[1], kind, s) == status);
    }
    check_arenas(kind, s, wrote);
    if ((kind == FORWARD || kind == FORWARD_BY) && wrote) {
        if (done) {
            remember(kind, s, e.x);
        } else if (s->cache > 0) {
            forwards[s->cache].kind = UNKNOWN;
        }
    }
    same_worlds();
    if (e.known && ok && kind == MOMENTS_ADD) {
        for (size_t d = 0; d < layer->num_features; d++) {
            e.want.var[d] *= e.want.weight;
        }
        check_moments(e.want.mean, e.want.var, e.want.weight);
    } else if (e.known && ok && kind == GRADIENTS_ADD) {
        check_sums(&e.want);
    } else if (e.known && ok) {
        look();
        check_near(kind, s, &e);
    }
    if (ok && kind == GRADIENTS_ADD && was == NONE && forwards[s->cache].kind != NONE) {
        summed[0] = forwards[s->cache].kind;
    }
    expectation_free(&e);
}

/* ---- Other calls ------------------------------------------------------------------------------ */

enum {
    AFFINE,
    FOLD,
    FOLD_TRANSPOSED,
    FOLD_NEXT,
    SET_RUNNING,
    SET_GRADIENTS,
    MERGE_MOMENTS,
    MERGE_GRADIENTS,
    OTHERS
};

/* On one world; a size overflows where it is huge. */
static bn_status make_other(world *w, unsigned which, bool twice, bool huge) {
    const size_t features = w->layer.num_features, size = huge ? SIZE_MAX / 3 : 1;
    float *const one = w->results, *const two = w->results + MOST_FEATURES;
    switch (which) {
    case AFFINE:
        return bn_layer_affine(&w->layer, one, two);
    case FOLD:
        return bn_layer_fold(&w->layer, size, one, two);
    case FOLD_TRANSPOSED:
        return bn_layer_fold_transposed(&w->layer, twice ? features : 1, size, 1, one, two);
    case FOLD_NEXT:
        return bn_layer_fold_next(&w->layer, size, 1, one, two);
    case SET_RUNNING:
        return bn_layer_set_running(&w->layer, &w->moments[0]);
    case SET_GRADIENTS:
        return bn_layer_set_gradients(&w->layer, &w->gradients[0], twice);
    case MERGE_MOMENTS:
        return bn_moments_merge(&w->moments[0], &w->moments[twice]);
    default:
        return bn_gradients_merge(&w->gradients[0], &w->gradients[twice]);
    }
}

static void check_fold(unsigned which, const float *before) {
    const float *const after = worlds[0].results;
    double bias = (double)before[MOST_FEATURES], size = fabs(bias);
    for (size_t d = 0; d < layer->num_features; d++) {
        const double gamma = image.gamma ? (double)image.gamma[d] : 1,
                     beta = image.beta ? (double)image.beta[d] : 0;
        const double scale = gamma / sqrt(ref_running_var(&image, d) + (double)layer->options.eps);
        const double moved = ref_running_mean(&image, d) * scale, shift = beta - moved;
        const double weight = which == AFFINE ? 1 : (double)before[d];
        const double own = which == AFFINE ? 0 : scale * (double)before[MOST_FEATURES + d];
        near_to((double)after[d], weight * scale, weight * scale);
        bias += shift * weight;
        size += (fabs(beta) + fabs(moved)) * fabs(weight);
        if (which != FOLD_NEXT) {
            near_to((double)after[MOST_FEATURES + d], own + shift,
                    fabs(own) + fabs(beta) + fabs(moved));
        }
    }
    if (which == FOLD_NEXT) {
        near_to((double)after[MOST_FEATURES], bias, size);
    }
}

static unsigned faults_of_other(unsigned which, bool twice, bool huge, unsigned *maybe) {
    const bool fold = which <= FOLD_NEXT, infers = layer->options.inference_only;
    const bool needs_running = fold || which == SET_RUNNING;
    const bool activated = layer->options.activation != BN_ACTIVATION_NONE;
    unsigned faults = (needs_running && layer->running_mean == NULL) ||
                              (which == FOLD_NEXT && activated) ||
                              (which == SET_GRADIENTS && infers) ||
                              (which == SET_RUNNING && infers && layer->internal.borrows)
                          ? FAULT(BAD_STATE)
                          : 0;
    faults |= fold && !good_eps(layer->options.eps) ? FAULT(BAD_OPTION) : 0;
    faults |= huge ? FAULT(BAD_SHAPE) : 0;
    faults |= which == SET_RUNNING && !(worlds[0].moments[0].count > 1) ? FAULT(TOO_FEW_VALUES) : 0;
    *maybe |= which == SET_GRADIENTS && summed[0] == NONE ? FAULT(BAD_STATE) : 0;
    return faults |
           (which == MERGE_GRADIENTS ? faults_of_kinds(summed_of(0), summed_of(twice), maybe) : 0);
}

static void check_other(void) {
    const unsigned which = next() % OTHERS, bits = next();
    const bool twice = bits & 1, huge = bits % 16 == 15 && which >= FOLD && which <= FOLD_NEXT;
    const bool fold = which <= FOLD_NEXT;
    const bn_moments *m = &worlds[0].moments[0], *more = &worlds[0].moments[1];
    const bn_gradients *g = &worlds[0].gradients[0];
    float old[2 * MOST_FEATURES];
    ref_random random = {bits};
    look();
    const bool calm = tame_layer();
    float *const was = image.dbeta ? copy_floats(image.dbeta, layer->num_features) : NULL;
    for (size_t k = 0; bits & 64 && k < COUNT_OF(old); k++) {
        worlds[0].results[k] = worlds[1].results[k] = value_of(bits % 4, &random);
    }
    memcpy(old, worlds[0].results, sizeof old);
    unsigned maybe = 0;
    const unsigned faults = faults_of_other(which, twice, huge, &maybe);
    const int kinds[] = {summed_of(0), summed_of(twice)};
    feclearexcept(FE_ALL_EXCEPT);
    const bn_status status = make_other(&worlds[0], which, twice, huge);
    const bool ok = status == BN_STATUS_OK;
    MUST(!fold || !calm || !fetestexcept(FE_INVALID | FE_DIVBYZERO));
    MUST((((faults != 0 ? faults : FAULT(OK) | FAULT(NOT_FINITE)) | maybe) >> status & 1u) != 0);
    if (!ok || (which != SET_RUNNING && which != SET_GRADIENTS)) {
        snapshot_check(&seen, layer);
    }
    same_sums(ok && which == MERGE_MOMENTS, ok && which == MERGE_GRADIENTS);
    MUST((ok && fold) || memcmp(old, worlds[0].results, sizeof old) == 0);
    MUST(!ok || make_other(&worlds[1], which, twice, huge) == status);
    same_worlds();
    if (ok && fold && calm && tame(old, COUNT_OF(old), 0x1p-10f, 0x1p11f)) {
        check_fold(which, old);
    } else if (ok && which == MERGE_MOMENTS) {
        check_moments(twice ? more->mean : sums_seen[MEAN], twice ? more->m2 : sums_seen[M2],
                      twice ? more->count : counts_seen[M2]);
    } else if (ok && which == MERGE_GRADIENTS) {
        summed[0] = kinds[0] == NONE && kinds[1] != NONE ? kinds[1] : summed[0];
        for (size_t d = 0; d < g->num_features; d++) {
            const double of = twice ? worlds[0].gradients[1].sum_gx[d] : sums_seen[SUM_GX][d];
            MUST(g->sum_gx[d] == sums_seen[SUM_GX][d] + of);
        }
    }
    look();
    for (size_t d = 0; ok && d < layer->num_features; d++) {
        if (which == SET_RUNNING) {
            const double over = layer->options.biased_running_var ? m->count : m->count - 1;
            near_to((double)image.running_mean[d], m->mean[d], m->mean[d]);
            near_to((double)image.running_var[d], m->m2[d] / over, m->m2[d] / over);
        } else if (which == SET_GRADIENTS && image.dbeta && g->count > 0) {
            const double added = twice ? (double)was[d] : 0;
            near_to((double)image.dbeta[d], g->sum_g[d] + added, fabs(g->sum_g[d]) + fabs(added));
        }
    }
    free(was);
}

/* What a caller may write. */
static void change_state(void) {
    const unsigned what = next() % 10, kind = next() % KINDS_OF_DATA, seed = next();
    const float eps = PICK(all_eps), momentum = PICK(momenta);
    for (size_t k = 0; k < 2; k++) {
        world *const w = &worlds[k];
        const size_t features = w->layer.num_features, bytes = features * sizeof(double);
        float *const arrays[] = {w->layer.gamma, w->layer.beta, w->layer.running_mean,
                                 w->layer.running_var};
        const int most = w->layer.internal.options.num_threads;
        ref_random random = {seed};
        switch (what) {
        case 0:
            w->layer.options.eps = seed % 2 ? 1e-5f : eps;
            w->layer.options.momentum = seed % 2 ? 0.9f : momentum;
            break;
        case 1:
            w->layer.options.num_threads = seed % 16 == 15 ? -1
                                           : most == 0     ? (int)(seed % 4)
                                                           : 1 + (int)seed % most;
            break;
        case 2:
            w->layer.frozen = !w->layer.frozen;
            break;
        case 3:
            memcpy(w->arena + (CACHE + 1) * SLOT, w->arena + CACHE * SLOT, SLOT);
            forwards[2] = forwards[1];
            break;
        case 4:
            w->gradients[0].count = 0;
            memset(w->gradients[0].sum_g, 0, bytes);
            memset(w->gradients[0].sum_gx, 0, bytes);
            w->gradients[0].sum_g[features - 1] = seed % 8 > 5 ? 1e80 : 0;
            break;
        case 5:
            memset(w->moments[seed % 2].mean, 0, bytes);
            memset(w->moments[seed % 2].m2, 0, bytes);
            w->moments[seed % 2].count = seed % 8 > 5 ? 9 : 0;
            w->moments[seed % 2].m2[features - 1] = seed % 8 > 5 ? 1e80 : 0;
            break;
        case 6:
            MUST(bn_layer_set_comm(&w->layer, (bn_comm){seed % 2 ? reduce : NULL, NULL}) ==
                 (w->layer.options.inference_only ? BN_STATUS_BAD_STATE : BN_STATUS_OK));
            break;
        default:
            for (size_t d = 0; arrays[seed % 4] != NULL && d < features; d++) {
                const float value = value_of(kind, &random);
                const float written = seed % 4 == 3 && kind != WILD ? fabsf(value) : value;
                memcpy(arrays[seed % 4] + d, &written, sizeof written);
            }
        }
    }
}

/* ---- All of it -------------------------------------------------------------------------------- */

static void free_world(world *w) {
    bn_layer_free(&w->layer);
    for (size_t k = 0; k < 2; k++) {
        bn_moments_free(&w->moments[k]);
        bn_gradients_free(&w->gradients[k]);
    }
    for (size_t k = 0; k < GIVEN; k++) {
        free(w->given[k]);
    }
}

static bool make_worlds(void) {
    static unsigned char arenas[2][ARENA + 64];
    const size_t features = PICK(all_features);
    bn_options options;
    memset(worlds, 0, sizeof worlds);
    memset(forwards, 0, sizeof forwards);
    memset(summed, 0, sizeof summed);
    memset(arenas, 0xff, sizeof arenas); /* NaN, so that reading there shows */
    const bool good = make_options(&options);
    if (!make_layer(&worlds[0], features, &options, good)) {
        return false;
    }
    options.num_threads = 1;
    MUST(bn_layer_init(&worlds[1].layer, features, &options) == BN_STATUS_OK);
    const bool joined = once_in(8) && !options.inference_only;
    for (size_t k = 0; k < 2; k++) {
        world *const w = &worlds[k];
        const bni_tuning *tuning = &PICK(tunings);
        w->arena = arenas[k] + next() % 64;
        w->layer.internal.comm = (bn_comm){joined ? reduce : NULL, NULL};
        w->layer.internal.tuning = tuning;
        for (size_t m = 0; m < 2; m++) {
            MUST(bn_moments_init(&w->moments[m], features) == BN_STATUS_OK);
            MUST(bn_gradients_init(&w->gradients[m], features) == BN_STATUS_OK);
            w->moments[m].internal.tuning = tuning;
        }
    }
    return true;
}

/* Calls on the batch, or one a little worse; some in their order, so that many work. */
static void call(const spec *s, unsigned cache) {
    static const signed char orders[][4] = {{FORWARD, BACKWARD, BACKWARD, -1},
                                            {FORWARD, GRADIENTS_ADD, BACKWARD_BY, -1},
                                            {MOMENTS_ADD, FORWARD_BY, GRADIENTS_ADD, BACKWARD_BY}};
    spec changed = *s;
    changed.cache = cache;
    changed.at[CACHE] = cache == 0 ? NOWHERE : (CACHE + cache - 1) * SLOT;
    if (once_in(4)) {
        change_spec(&changed);
    }
    const unsigned what = next();
    const signed char alone[4] = {(signed char)(what % ON_BATCHES), -1, -1, -1};
    const signed char *const kinds = what & 128 ? orders[what % COUNT_OF(orders)] : alone;
    for (int k = 0; k < 4 && kinds[k] >= 0; k++) {
        if (kinds[k] != MOMENTS_ADD || changed.on_gamma < 0) { /* it knows no gamma */
            check_call(kinds[k], &changed);
        }
    }
}

static void one_step(spec *s) {
    const unsigned what = next();
    switch (what % 8) {
    case 0:
        make_spec(s);
        break;
    case 1:
        change_state();
        break;
    case 2:
        check_other();
        break;
    default:
        call(s, what / 8 % 4 == 3 ? 1 + what / 32 % 2 : 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    input = bytes;
    input_left = count;
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* where what support.h compares differs */
    if (make_worlds()) {
        spec s;
        make_spec(&s);
        for (int k = 0; k < 24 && input_left > 0; k++) {
            one_step(&s);
        }
    }
    free_world(&worlds[0]);
    free_world(&worlds[1]);
    snapshot_free(&seen);
    seen = (snapshot){0};
    return 0;
}
