/*
 * A batch in parts is one batch: y, dx, dresidual, dgamma, dbeta, the running values and their count are
 * those of one call on the whole, however it is cut and whoever adds up; one part has its bits.
 */
#include "calls.h"

#include "memory.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- Cuts ------------------------------------------------------------------------------------ */

/* Some samples of a whole. */
typedef struct part {
    size_t first, n;
} part;

enum { MOST_PARTS = 300 };

/* All of them, in the order in which they are worked on. */
typedef struct cut {
    size_t count;
    part parts[MOST_PARTS];
} cut;

typedef enum cut_kind {
    CUT_ONE,
    CUT_UNEVEN,
    CUT_EMPTY_FIRST,
    CUT_EMPTY_BETWEEN,
    CUT_EMPTY_LAST,
    CUT_SHUFFLED,
    CUT_SAMPLES, /* one each, if there are not too many */
    CUT_KINDS
} cut_kind;

static void cut_off(cut *c, size_t first, size_t end) {
    c->parts[c->count++] = (part){first, end - first};
}

static void shuffle(cut *c) {
    ref_random random = {7};
    for (size_t k = c->count; k > 1; k--) {
        const size_t other = (size_t)(ref_bits(&random) % k);
        const part swap = c->parts[k - 1];
        c->parts[k - 1] = c->parts[other];
        c->parts[other] = swap;
    }
}

static void cut_evenly(cut *c, size_t n, size_t count) {
    for (size_t k = 0; k < count; k++) {
        cut_off(c, k * n / count, (k + 1) * n / count);
    }
}

static cut make_cut(cut_kind kind, size_t n) {
    const size_t third = 1 + (n - 1) / 3;
    cut c = {0};
    switch (kind) {
    case CUT_ONE:
        cut_off(&c, 0, n);
        break;
    case CUT_SHUFFLED:
        cut_evenly(&c, n, 7);
        shuffle(&c);
        break;
    case CUT_SAMPLES:
        cut_evenly(&c, n, n < MOST_PARTS ? n : MOST_PARTS);
        break;
    default:
        if (kind == CUT_EMPTY_FIRST) {
            cut_off(&c, 0, 0);
        }
        cut_off(&c, 0, 1);
        cut_off(&c, 1, third);
        if (kind == CUT_EMPTY_BETWEEN) {
            cut_off(&c, third, third);
        }
        cut_off(&c, third, n);
        if (kind == CUT_EMPTY_LAST) {
            cut_off(&c, n, n);
        }
    }
    return c;
}

/* ---- Parts of a trial ------------------------------------------------------------------------ */

/* How a whole is worked on in parts. */
typedef struct way {
    cut cut;
    bool apart;      /* moments and gradients of each part by themselves, then merged */
    bool caches;     /* one a part, of any alignment; else the layer's own for all */
    size_t updating; /* the part whose forward moves the running values */
} way;

/* A part's batch and buffers, as calls find them; an empty part has none. */
typedef struct piece {
    bn_batch batch;
    void *x, *dy, *y, *dx;
} piece;

static float *from(float *buffer, size_t offset) {
    return buffer == NULL ? NULL : buffer + offset;
}

static piece piece_of(const trial *t, const part *p) {
    const size_t features = t->layer.num_features, spatial = ref_spatial(&t->batch);
    const size_t x_at = p->first * ref_x_stride(&t->batch, features);
    const size_t y_at = p->first * ref_y_stride(&t->batch, features);
    piece of = {.batch = {.n = p->n, .spatial = t->batch.spatial, .dtype = t->batch.dtype}};
    if (p->n > 0) {
        of = (piece){t->batch, trial_at(t, t->x + x_at), trial_at(t, t->dy + y_at),
                     trial_at(t, t->y + y_at), trial_at(t, t->dx + x_at)};
        of.batch.n = p->n;
        of.batch.sample_weight = from(t->sample_weight, p->first);
        of.batch.position_weight = from(t->position_weight, p->first * spatial);
        of.batch.residual = trial_at(t, from(t->residual, y_at));
        of.batch.y = t->batch.y ? of.y : NULL;
        of.batch.dresidual = trial_at(t, from(t->dresidual, y_at));
    }
    return of;
}

/* The caches of a way, and the batch of its part k with what is its own. */
typedef struct work {
    trial *t;
    const way *how;
    unsigned char *caches; /* NULL: none */
    size_t cache_bytes;
} work;

static piece piece_at(const work *w, size_t k) {
    piece of = piece_of(w->t, &w->how->cut.parts[k]);
    of.batch.skip_running_update = k != w->how->updating;
    of.batch.cache = w->caches ? w->caches + k * w->cache_bytes + 1 : NULL;
    return of;
}

static work begin_work(trial *t, const way *how) {
    work w = {.t = t, .how = how, .cache_bytes = bn_cache_bytes(t->layer.num_features)};
    if (how->caches) {
        w.caches = malloc(how->cut.count * w.cache_bytes + 1);
        assert_non_null(w.caches);
    }
    trial_pack(t);
    return w;
}

static bn_moments new_moments(const trial *t) {
    bn_moments moments;
    assert_ok(bn_moments_init(&moments, t->layer.num_features));
    return moments;
}

static bn_gradients new_gradients(const trial *t) {
    bn_gradients gradients;
    assert_ok(bn_gradients_init(&gradients, t->layer.num_features));
    return gradients;
}

static void add_moments(const work *w, bn_moments *all) {
    for (size_t k = 0; k < w->how->cut.count; k++) {
        const piece of = piece_at(w, k);
        if (w->how->apart) {
            bn_moments own = new_moments(w->t);
            assert_ok(bn_moments_add(&own, &of.batch, of.x));
            assert_ok(bn_moments_merge(all, &own));
            bn_moments_free(&own);
        } else {
            assert_ok(bn_moments_add(all, &of.batch, of.x));
        }
    }
}

static void forward_by(const work *w, const bn_moments *moments) {
    for (size_t k = 0; k < w->how->cut.count; k++) {
        const piece of = piece_at(w, k);
        assert_ok(bn_layer_forward_by(&w->t->layer, moments, &of.batch, of.x, of.y));
    }
}

static void add_gradients(const work *w, bn_gradients *all) {
    for (size_t k = 0; k < w->how->cut.count; k++) {
        const piece of = piece_at(w, k);
        if (w->how->apart) {
            bn_gradients own = new_gradients(w->t);
            assert_ok(bn_gradients_add(&own, &w->t->layer, &of.batch, of.x, of.dy));
            assert_ok(bn_gradients_merge(all, &own));
            bn_gradients_free(&own);
        } else {
            assert_ok(bn_gradients_add(all, &w->t->layer, &of.batch, of.x, of.dy));
        }
    }
}

static void backward_by(const work *w, const bn_gradients *gradients) {
    for (size_t k = 0; k < w->how->cut.count; k++) {
        const piece of = piece_at(w, k);
        assert_ok(bn_layer_backward_by(&w->t->layer, gradients, &of.batch, of.x, of.dy, of.dx));
    }
}

static void copy_cache(bni_cache into, bni_cache from_cache, size_t features) {
    memcpy(into.mean, from_cache.mean, features * sizeof(float));
    memcpy(into.mean_rest, from_cache.mean_rest, features * sizeof(float));
    memcpy(into.invstd, from_cache.invstd, features * sizeof(float));
    memcpy(into.invstd_rest, from_cache.invstd_rest, features * sizeof(float));
}

/* All parts have the same statistics. They become the layer's, where trials look for them. */
static void end_work(work *w) {
    const size_t features = w->t->layer.num_features;
    const bni_cache own = bni_cache_of(&w->t->layer, NULL);
    for (size_t k = 0; w->caches && k < w->how->cut.count; k++) {
        const bni_cache cache = bni_cache_of(&w->t->layer, piece_at(w, k).batch.cache);
        if (k == 0) {
            copy_cache(own, cache, features);
        }
        assert_same_bits(cache.mean, own.mean, features);
        assert_same_bits(cache.mean_rest, own.mean_rest, features);
        assert_same_bits(cache.invstd, own.invstd, features);
        assert_same_bits(cache.invstd_rest, own.invstd_rest, features);
    }
    free(w->caches);
    trial_unpack(w->t);
}

static void run_in_parts(trial *t, const void *context) {
    const way *how = context;
    bn_moments moments = new_moments(t);
    bn_gradients gradients = new_gradients(t);
    work w = begin_work(t, how);
    add_moments(&w, &moments);
    forward_by(&w, &moments);
    add_gradients(&w, &gradients);
    backward_by(&w, &gradients);
    assert_ok(bn_layer_set_gradients(&t->layer, &gradients, t->batch.accumulate_grads));
    assert_true(ref_units(gradients.count, moments.count, moments.count) <= 0x1p-20);
    end_work(&w);
    bn_moments_free(&moments);
    bn_gradients_free(&gradients);
}

/* ---- The whole ------------------------------------------------------------------------------- */

/* Not the first batch of an average, which would be the variance of so few values itself: it may be off by
 * twice the limit, as two of it make an invstd's error. */
static rig new_rig(const size_t shape[3], unsigned kind, int num_threads) {
    rig r = rig_new(shape, kind, num_threads);
    r.t.layer.num_batches_tracked = 3;
    return r;
}

/* By the reference, and by one call on all. */
static void check_way(const size_t shape[3], unsigned kind, int num_threads, const way *how) {
    rig parts = new_rig(shape, kind, num_threads), whole = new_rig(shape, kind, num_threads);
    trial_check_run(&parts.t, run_in_parts, how);
    trial_run(&whole.t);
    trial_check_near(&parts.t, &whole.t);
    rig_free(&parts);
    rig_free(&whole);
}

/* Each in one of the ways, of one of the shapes, by the reference alone: of so much data, two results that
 * are both within its limits may here and there be on both sides of the truth, and further apart. */
static void all_kinds_in_parts_are_the_whole(void **state) {
    (void)state;
    ref_random random = {1};
    for (unsigned kind = 0; kind < ALL_KINDS; kind++) {
        if (kind_exists(kind)) {
            const size_t *shape = small_shapes[ref_bits(&random) % SMALL_SHAPES];
            const uint64_t bits = ref_bits(&random);
            way w = {.cut = make_cut((cut_kind)(bits / 4 % CUT_KINDS), shape[0]),
                     .apart = bits % 2,
                     .caches = bits / 2 % 2};
            w.updating = (size_t)(bits / 1024 % w.cut.count);
            rig r = new_rig(shape, kind, 1);
            trial_check_run(&r.t, run_in_parts, &w);
            rig_free(&r);
        }
    }
}

static const unsigned some_kinds[] = {0,
                                      EVERYTHING,
                                      WITH_POSITIONS | WITH_WEIGHTS | WITH_STRIDES,
                                      FROZEN | EVERYTHING,
                                      UNTRACKED | WITH_CLIP | NO_SCALE | WITH_RESIDUAL,
                                      WITH_BF16 | WITH_CLIP | WITH_RESIDUAL | WITH_STRIDES,
                                      WITH_F16 | WITH_LEAKY | WITH_WEIGHTS};

static void any_cut_is_the_whole(void **state) {
    (void)state;
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        for (cut_kind kind = 0; kind < CUT_KINDS; kind++) {
            for (size_t m = 0; m < 4; m++) {
                way w = {
                    .cut = make_cut(kind, small_shapes[k][0]), .apart = m % 2, .caches = m / 2};
                w.updating = m % w.cut.count;
                check_way(small_shapes[k], some_kinds[(k + kind + m) % COUNT_OF(some_kinds)], 1,
                          &w);
            }
        }
    }
}

static void large_parts_are_the_whole(void **state) {
    (void)state;
    for (size_t k = 0; k < LARGE_SHAPES; k++) {
        way w = {.cut = make_cut(k % 2 ? CUT_SHUFFLED : CUT_EMPTY_BETWEEN, large_shapes[k][0]),
                 .apart = k / 2 % 2,
                 .caches = k % 3 == 0,
                 .updating = 2};
        check_way(large_shapes[k], some_kinds[k % COUNT_OF(some_kinds)], 2, &w);
    }
}

/* The running values may be moved by a part that has no samples. */
static void an_empty_part_moves_the_running_values(void **state) {
    (void)state;
    static const struct {
        cut_kind kind;
        size_t at;
    } empties[] = {{CUT_EMPTY_FIRST, 0}, {CUT_EMPTY_BETWEEN, 2}, {CUT_EMPTY_LAST, 3}};
    static const unsigned kinds[] = {0, CUMULATIVE | WITH_WEIGHTS, UNTRACKED, FROZEN};
    for (size_t k = 0; k < COUNT_OF(empties) * COUNT_OF(kinds); k++) {
        const size_t *shape = small_shapes[k % SMALL_SHAPES];
        const way w = {.cut = make_cut(empties[k % COUNT_OF(empties)].kind, shape[0]),
                       .caches = k % 2,
                       .updating = empties[k % COUNT_OF(empties)].at};
        if (w.cut.parts[w.updating].n == 0) {
            check_way(shape, kinds[k / COUNT_OF(empties)], 1, &w);
        }
    }
}

/* More than one value is enough, and be it by a half. */
static void a_whole_of_little_more_than_one_value_is_trained_on(void **state) {
    (void)state;
    const float x[2] = {1, 3}, dy[2] = {1, 0}, weight[2] = {1, 0.5f};
    const bn_batch batch = {.n = 2, .sample_weight = weight};
    float y[2], dx[2];
    bn_layer layer;
    bn_moments moments;
    bn_gradients gradients;
    assert_ok(bn_layer_init(&layer, 1, NULL));
    assert_ok(bn_moments_init(&moments, 1));
    assert_ok(bn_gradients_init(&gradients, 1));
    assert_ok(bn_moments_add(&moments, &batch, x));
    assert_ok(bn_layer_forward_by(&layer, &moments, &batch, x, y));
    assert_ok(bn_gradients_add(&gradients, &layer, &batch, x, dy));
    assert_ok(bn_layer_backward_by(&layer, &gradients, &batch, x, dy, dx));
    assert_ok(bn_layer_set_running(&layer, &moments));
    bn_layer_free(&layer);
    bn_moments_free(&moments);
    bn_gradients_free(&gradients);
}

/* Of all samples in it the weight is 0. */
static void a_masked_part_is_a_part(void **state) {
    (void)state;
    static const size_t shape[] = {9, 10, 30};
    for (size_t masked = 0; masked < 3; masked++) {
        for (int positions = 0; positions < 2; positions++) {
            const unsigned kind = positions ? WITH_POSITIONS : WITH_WEIGHTS | WITH_RELU;
            const way w = {.cut = make_cut(CUT_UNEVEN, shape[0]), .caches = positions};
            const part of = w.cut.parts[masked];
            rig r = rig_new(shape, kind, 1), whole = rig_new(shape, kind, 1);
            const size_t each = positions ? shape[2] : 1;
            for (size_t i = of.first * each; i < (of.first + of.n) * each; i++) {
                (positions ? r.t.position_weight : r.t.sample_weight)[i] = 0;
                (positions ? whole.t.position_weight : whole.t.sample_weight)[i] = 0;
            }
            trial_check_run(&r.t, run_in_parts, &w);
            trial_run(&whole.t);
            trial_check_near(&r.t, &whole.t);
            rig_free(&r);
            rig_free(&whole);
        }
    }
}

/* Also where parts differ in their means by far more than by their spreads. */
static void large_offsets_cost_no_digits(void **state) {
    (void)state;
    static const float offsets[] = {1e4f, -1e5f, 1e6f};
    static const unsigned kinds[] = {0, EVERYTHING, WITH_POSITIONS | WITH_LEAKY};
    for (size_t k = 0; k < COUNT_OF(offsets) * SMALL_SHAPES; k++) {
        const size_t *shape = small_shapes[k % SMALL_SHAPES];
        for (size_t kind = 0; kind < 2 * COUNT_OF(kinds); kind++) {
            way w = {.cut = make_cut((cut_kind)(1 + (k + kind) % (CUT_KINDS - 1)), shape[0]),
                     .apart = kind % 2};
            rig r = rig_new(shape, kinds[kind / 2], 1);
            for (size_t i = 0; i < r.t.x_count; i++) {
                r.t.x[i] += offsets[k / SMALL_SHAPES];
                r.t.x[i] += kind % 2 == 1 && i > r.t.x_count / 2 ? 1e3f : 0.0f;
            }
            trial_check_run(&r.t, run_in_parts, &w);
            rig_free(&r);
        }
    }
}

/* ---- The same bits --------------------------------------------------------------------------- */

typedef void (*change)(rig *r);

static void change_nothing(rig *r) {
    (void)r;
}

/* Two of three features are constant. */
static void make_constant(rig *r) {
    const size_t features = r->t.layer.num_features, spatial = ref_spatial(&r->t.batch);
    const size_t stride = ref_x_stride(&r->t.batch, features);
    for (size_t k = 0; k < r->t.x_count; k++) {
        const size_t d = k % stride / spatial;
        if (d < features && d % 3 != 2) {
            r->t.x[k] = d % 3 == 0 ? 0.0f : 3.7f + 0.1f * (float)d;
        }
    }
}

/* No sum of them is exact, so that it matters in which order W was formed. */
static void spread_weights(rig *r) {
    ref_random random = {9};
    for (size_t i = 0; r->t.sample_weight && i < r->t.batch.n; i++) {
        r->t.sample_weight[i] = ldexpf(r->t.sample_weight[i], (int)(ref_bits(&random) % 70) - 35);
    }
}

static void check_one_part(const size_t shape[3], unsigned kind, int num_threads, bool caches,
                           change prepare) {
    rig got = rig_new(shape, kind, num_threads), want = rig_new(shape, kind, num_threads);
    const way w = {.cut = make_cut(CUT_ONE, shape[0]), .caches = caches, .apart = kind % 3 == 0};
    prepare(&got);
    prepare(&want);
    want.t.layer.num_batches_tracked = got.t.layer.num_batches_tracked = 5;
    run_in_parts(&got.t, &w);
    trial_run(&want.t);
    if (caches) { /* a copy of which is there */
        got.t.layer.internal.forward = want.t.layer.internal.forward;
    }
    trial_check_same(&got.t, &want.t);
    rig_free(&got);
    rig_free(&want);
}

static void one_part_has_the_bits_of_the_whole(void **state) {
    (void)state;
    for (unsigned kind = 0; kind < ALL_KINDS; kind++) {
        if (kind_exists(kind)) {
            check_one_part(small_shapes[kind % SMALL_SHAPES], kind, 1, kind % 2, change_nothing);
        }
    }
    for (size_t k = 0; k < LARGE_SHAPES * COUNT_OF(some_kinds); k++) {
        check_one_part(large_shapes[k % LARGE_SHAPES], some_kinds[k / LARGE_SHAPES],
                       1 + (int)(k % 3), k % 2, change_nothing);
    }
}

static void constant_features_have_the_bits_of_the_whole(void **state) {
    (void)state;
    static const unsigned kinds[] = {0,
                                     WITH_WEIGHTS,
                                     WITH_POSITIONS,
                                     EVERYTHING | WITH_POSITIONS,
                                     WITH_STRIDES | WITH_RELU,
                                     UNTRACKED | WITH_WEIGHTS | WITH_CLIP};
    for (size_t k = 0; k < SMALL_SHAPES * COUNT_OF(kinds); k++) {
        const size_t *shape = small_shapes[k % SMALL_SHAPES];
        check_one_part(shape, kinds[k / SMALL_SHAPES], 1, k % 2, make_constant);
        const way w = {.cut = make_cut(CUT_UNEVEN, shape[0])};
        rig r = rig_new(shape, kinds[k / SMALL_SHAPES], 1);
        make_constant(&r);
        trial_check_run(&r.t, run_in_parts, &w);
        rig_free(&r);
    }
}

static void the_weight_of_one_part_is_that_of_the_whole(void **state) {
    (void)state;
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        check_one_part(small_shapes[k], WITH_WEIGHTS, 1, false, spread_weights);
        check_one_part(small_shapes[k], WITH_WEIGHTS | WITH_POSITIONS, 1, true, spread_weights);
    }
    for (size_t k = 0; k < LARGE_SHAPES; k++) {
        check_one_part(large_shapes[k], WITH_WEIGHTS, 2, false, spread_weights);
    }
}

static void the_number_of_threads_does_not_matter(void **state) {
    (void)state;
    for (size_t k = 0; k < LARGE_SHAPES; k++) {
        const unsigned kind = some_kinds[k % COUNT_OF(some_kinds)];
        const way w = {.cut = make_cut(CUT_UNEVEN, large_shapes[k][0]), .updating = 1};
        rig one = rig_new(large_shapes[k], kind, 1);
        run_in_parts(&one.t, &w);
        for (int threads = 2; threads <= 4; threads += 2) {
            rig more = rig_new(large_shapes[k], kind, threads);
            run_in_parts(&more.t, &w);
            trial_check_same(&more.t, &one.t);
            rig_free(&more);
        }
        rig_free(&one);
    }
}

/* The parts' outputs in the place of their inputs; x is put back for backward. */
static void outputs_may_be_inputs(void **state) {
    (void)state;
    for (size_t k = 0; k < 2 * SMALL_SHAPES; k++) {
        const size_t *shape = small_shapes[k / 2];
        const unsigned type = k % 3 == 0 ? 0 : k % 3 == 1 ? WITH_BF16 : WITH_F16;
        const unsigned kind = type | (k % 4 < 2 ? WITH_LEAKY : WITH_WEIGHTS);
        const way w = {.cut = make_cut(CUT_UNEVEN, shape[0]), .caches = k % 2};
        rig apart = rig_new(shape, kind, 1), r = rig_new(shape, kind, 1);
        trial *t = &r.t;
        const size_t bytes = t->x_count * sizeof(float);
        const bool over_dy = k % 2;
        run_in_parts(&apart.t, &w);

        bn_moments moments = new_moments(t);
        bn_gradients gradients = new_gradients(t);
        work in_place = begin_work(t, &w);
        add_moments(&in_place, &moments);
        for (size_t p = 0; p < w.cut.count; p++) {
            const piece of = piece_at(&in_place, p);
            assert_ok(bn_layer_forward_by(&t->layer, &moments, &of.batch, of.x, of.x));
        }
        trial_unpack(t);
        memcpy(t->y, t->x, bytes);
        memcpy(t->x, apart.t.x, bytes);
        trial_pack(t);
        float *const y = copy_floats(t->y, t->y_count);
        add_gradients(&in_place, &gradients);
        for (size_t p = 0; p < w.cut.count; p++) {
            const piece of = piece_at(&in_place, p);
            assert_ok(bn_layer_backward_by(&t->layer, &gradients, &of.batch, of.x, of.dy,
                                           over_dy ? of.dy : of.x));
        }
        assert_ok(bn_layer_set_gradients(&t->layer, &gradients, false));
        end_work(&in_place);
        memcpy(t->y, y, bytes);
        memcpy(t->dx, over_dy ? t->dy : t->x, bytes);
        free(y);
        trial_check_same(t, &apart.t);
        bn_moments_free(&moments);
        bn_gradients_free(&gradients);
        rig_free(&apart);
        rig_free(&r);
    }
}

/* ---- What the layer keeps -------------------------------------------------------------------- */

static void set_gradients_adds_if_told_to(void **state) {
    (void)state;
    static const float olds[] = {0, 1, -100, 1e-6f};
    for (size_t k = 0; k < COUNT_OF(olds); k++) {
        const size_t *shape = small_shapes[k], features = shape[1];
        const way w = {.cut = make_cut(CUT_UNEVEN, shape[0])};
        rig plain = rig_new(shape, WITH_WEIGHTS, 1);
        rig r = rig_new(shape, WITH_WEIGHTS | ACCUMULATING, 1);
        for (size_t d = 0; d < features; d++) {
            r.t.layer.dgamma[d] = r.t.layer.dbeta[d] = plain.t.layer.dgamma[d] = olds[k];
        }
        run_in_parts(&plain.t, &w);
        run_in_parts(&r.t, &w);
        assert_same_bits(r.t.dx, plain.t.dx, plain.t.x_count);
        for (size_t d = 0; d < features; d++) {
            const float dgamma = olds[k] + plain.t.layer.dgamma[d];
            const float dbeta = olds[k] + plain.t.layer.dbeta[d];
            assert_same_bits(&r.t.layer.dgamma[d], &dgamma, 1);
            assert_same_bits(&r.t.layer.dbeta[d], &dbeta, 1);
        }
        rig_free(&plain);
        rig_free(&r);
    }
}

static void the_gradients_of_nothing_are_zero(void **state) {
    (void)state;
    rig r = rig_new(small_shapes[0], 0, 1);
    bn_layer *layer = &r.t.layer;
    const size_t features = layer->num_features;
    float *zeros = ref_floats(features);
    assert_ok(bn_layer_set_gradients(layer, &r.gradients, false)); /* before any forward, too */
    trial_run(&r.t);
    snapshot before = snapshot_take(layer);
    assert_ok(bn_layer_set_gradients(layer, &r.gradients, true));
    snapshot_check(&before, layer);
    assert_ok(bn_layer_set_gradients(layer, &r.gradients, false));
    assert_same_bits(layer->dgamma, zeros, features);
    assert_same_bits(layer->dbeta, zeros, features);
    free(zeros);
    snapshot_free(&before);
    rig_free(&r);
}

/* If all parts of a batch are empty, nothing happens. */
static void an_empty_whole_changes_nothing(void **state) {
    (void)state;
    for (unsigned kind = 0; kind <= FROZEN; kind += FROZEN) {
        rig r = rig_new(small_shapes[0], kind, 1);
        bn_layer *layer = &r.t.layer;
        trial_run(&r.t);
        snapshot before = snapshot_take(layer);
        const bn_batch empty = {0};
        assert_ok(bn_moments_add(&r.moments, &empty, NULL));
        assert_ok(bn_layer_forward_by(layer, &r.moments, &empty, NULL, NULL));
        assert_ok(bn_gradients_add(&r.gradients, layer, &empty, NULL, NULL));
        assert_ok(bn_layer_backward_by(layer, &r.gradients, &empty, NULL, NULL, NULL));
        assert_ok(bn_layer_set_gradients(layer, &r.gradients, true));
        before.layer.internal = layer->internal; /* which forward it was may have changed */
        snapshot_check(&before, layer);
        snapshot_free(&before);
        rig_free(&r);
    }
}

/* x and y of one whole, then of another, and then backward of both; as two layers would. */
static void two_wholes_may_interleave(void **state) {
    (void)state;
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        for (unsigned kind = 0; kind <= WITH_LEAKY; kind += WITH_LEAKY) {
            const size_t *shape = small_shapes[k], features = shape[1];
            const way ways[2] = {
                {.cut = make_cut(CUT_UNEVEN, shape[0]), .caches = true},
                {.cut = make_cut(CUT_EMPTY_BETWEEN, shape[0]), .caches = true, .apart = true}};
            rig want[2], got[2];
            bn_moments moments[2];
            bn_gradients gradients[2];
            work works[2];
            for (size_t m = 0; m < 2; m++) {
                want[m] = rig_new(shape, kind, 1);
                got[m] = rig_new(shape, kind, 1);
                for (size_t i = 0; m == 1 && i < want[m].t.x_count; i++) {
                    want[m].t.x[i] = got[m].t.x[i] = want[m].t.x[i] * want[m].t.x[i] + 3;
                }
                run_in_parts(&want[m].t, &ways[m]);
            }
            bn_layer layer = got[0].t.layer, spare = got[1].t.layer;
            for (size_t m = 0; m < 2; m++) {
                moments[m] = new_moments(&got[m].t);
                gradients[m] = new_gradients(&got[m].t);
                got[m].t.layer = layer;
                works[m] = begin_work(&got[m].t, &ways[m]);
                add_moments(&works[m], &moments[m]);
                forward_by(&works[m], &moments[m]);
                layer = got[m].t.layer;
            }
            for (size_t m = 0; m < 2; m++) {
                got[m].t.layer = layer;
                add_gradients(&works[m], &gradients[m]);
            }
            for (size_t m = 0; m < 2; m++) {
                backward_by(&works[m], &gradients[m]);
                assert_ok(bn_layer_set_gradients(&layer, &gradients[m], false));
                assert_same_bits(got[m].t.y, want[m].t.y, want[m].t.y_count);
                assert_same_bits(got[m].t.dx, want[m].t.dx, want[m].t.x_count);
                assert_same_bits(layer.dgamma, want[m].t.layer.dgamma, features);
                assert_same_bits(layer.dbeta, want[m].t.layer.dbeta, features);
                end_work(&works[m]);
                bn_moments_free(&moments[m]);
                bn_gradients_free(&gradients[m]);
            }
            assert_int_equal(layer.num_batches_tracked, 2);
            got[0].t.layer = layer;
            got[1].t.layer = spare;
            for (size_t m = 0; m < 2; m++) {
                rig_free(&want[m]);
                rig_free(&got[m]);
            }
        }
    }
}

/* The kind of the forward before is not that of a part. */
static void backward_of_a_batch_wants_its_own_forward(void **state) {
    (void)state;
    rig r = rig_new(small_shapes[0], 0, 1);
    trial *t = &r.t;
    const size_t n = t->batch.n;
    bn_batch own_cache = t->batch;
    own_cache.cache = malloc(bn_cache_bytes(t->layer.num_features));
    assert_non_null(own_cache.cache);
    assert_ok(bn_moments_add(&r.moments, &t->batch, t->x));
    const bn_batch batches[] = {t->batch, own_cache};
    for (size_t k = 0; k < COUNT_OF(batches); k++) {
        assert_ok(bn_layer_forward_by(&t->layer, &r.moments, &batches[k], t->x, t->y));
        snapshot before = snapshot_take(&t->layer);
        assert_status(bn_layer_backward_batch(&t->layer, &batches[k], t->x, t->dy, t->dx),
                      BN_STATUS_BAD_STATE);
        assert_status(bn_layer_backward(&t->layer, n, t->x, t->dy, t->dx), BN_STATUS_BAD_STATE);
        snapshot_check(&before, &t->layer);
        snapshot_free(&before);
    }
    assert_pattern(t->dx, t->x_count * sizeof(float));
    assert_ok(bn_layer_forward(&t->layer, n, t->x, t->y));
    assert_ok(bn_layer_backward(&t->layer, n, t->x, t->dy, t->dx));
    free(own_cache.cache);
    rig_free(&r);
}

/* ---- Gradients and moments from elsewhere ---------------------------------------------------- */

/* An engine that knows nothing but sums: on return all machines have that of all. */
static void allreduce(double *const *values, size_t machines, size_t count) {
    for (size_t k = 0; k < count; k++) {
        double sum = 0;
        for (size_t m = 0; m < machines; m++) {
            sum += values[m][k];
        }
        for (size_t m = 0; m < machines; m++) {
            values[m][k] = sum;
        }
    }
}

enum { MACHINES = 3 };

/* As bn_moments_merge says. */
static void reduce_moments(bn_moments *moments) {
    const size_t features = moments[0].num_features;
    double *first[MACHINES], *second[MACHINES];
    for (size_t m = 0; m < MACHINES; m++) {
        first[m] = ref_doubles(1 + features);
        second[m] = ref_doubles(features);
        first[m][0] = moments[m].count;
        for (size_t d = 0; d < features; d++) {
            first[m][1 + d] = moments[m].count * moments[m].mean[d];
        }
    }
    allreduce(first, MACHINES, 1 + features);
    for (size_t m = 0; m < MACHINES; m++) {
        for (size_t d = 0; d < features; d++) {
            const double common = first[m][1 + d] / first[m][0], off = moments[m].mean[d] - common;
            second[m][d] = moments[m].m2[d] + moments[m].count * off * off;
            moments[m].mean[d] = common;
        }
        moments[m].count = first[m][0];
    }
    allreduce(second, MACHINES, features);
    for (size_t m = 0; m < MACHINES; m++) {
        memcpy(moments[m].m2, second[m], features * sizeof(double));
        free(first[m]);
        free(second[m]);
    }
}

static void reduce_gradients(bn_gradients *gradients) {
    double *counts[MACHINES], *sum_g[MACHINES], *sum_gx[MACHINES];
    for (size_t m = 0; m < MACHINES; m++) {
        counts[m] = &gradients[m].count;
        sum_g[m] = gradients[m].sum_g;
        sum_gx[m] = gradients[m].sum_gx;
    }
    allreduce(counts, MACHINES, 1);
    allreduce(sum_g, MACHINES, gradients[0].num_features);
    allreduce(sum_gx, MACHINES, gradients[0].num_features);
}

/* Machines with a layer each, like the trial's, that has a part; the last one's is empty, and it adds no
 * gradients, not even those of nothing. */
static void run_on_machines(trial *t, const void *context) {
    const size_t features = t->layer.num_features, n = t->batch.n;
    const unsigned *kind = context;
    const size_t shape[3] = {n, features, ref_spatial(&t->batch)};
    const part parts[MACHINES] = {{0, n / 3}, {n / 3, n - n / 3}, {n, 0}};
    rig twins[MACHINES];
    bn_moments moments[MACHINES];
    bn_gradients gradients[MACHINES];
    trial_pack(t);
    for (size_t m = 0; m < MACHINES; m++) {
        const piece of = piece_of(t, &parts[m]);
        twins[m] = rig_new(shape, *kind, 1);
        moments[m] = new_moments(t);
        gradients[m] = new_gradients(t);
        assert_ok(bn_moments_add(&moments[m], &of.batch, of.x));
    }
    bn_layer *const layers[MACHINES] = {&t->layer, &twins[1].t.layer, &twins[2].t.layer};
    reduce_moments(moments);
    for (size_t m = 0; m < MACHINES; m++) {
        const piece of = piece_of(t, &parts[m]);
        assert_ok(bn_layer_forward_by(layers[m], &moments[m], &of.batch, of.x, of.y));
        if (of.batch.n > 0) {
            assert_ok(bn_gradients_add(&gradients[m], layers[m], &of.batch, of.x, of.dy));
        }
    }
    reduce_gradients(gradients);
    for (size_t m = 0; m < MACHINES; m++) {
        const piece of = piece_of(t, &parts[m]);
        assert_ok(bn_layer_backward_by(layers[m], &gradients[m], &of.batch, of.x, of.dy, of.dx));
        assert_ok(bn_layer_set_gradients(layers[m], &gradients[m], false));
    }
    trial_unpack(t);
    for (size_t m = 1; m < MACHINES; m++) {
        const float *const got[] = {layers[m]->dgamma, layers[m]->dbeta, layers[m]->running_mean,
                                    layers[m]->running_var};
        const float *const want[] = {t->layer.dgamma, t->layer.dbeta, t->layer.running_mean,
                                     t->layer.running_var};
        for (size_t k = 0; k < COUNT_OF(got); k++) {
            if (want[k]) {
                assert_same_bits(got[k], want[k], features);
            }
        }
        assert_int_equal(layers[m]->num_batches_tracked, t->layer.num_batches_tracked);
    }
    for (size_t m = 0; m < MACHINES; m++) {
        bn_moments_free(&moments[m]);
        bn_gradients_free(&gradients[m]);
        rig_free(&twins[m]);
    }
}

static void another_engine_may_add_up(void **state) {
    (void)state;
    static const unsigned kinds[] = {0,
                                     EVERYTHING,
                                     WITH_POSITIONS | WITH_CLIP,
                                     UNTRACKED,
                                     NO_SCALE | WITH_STRIDES,
                                     WITH_F16 | EVERYTHING};
    static const float offsets[] = {0, 1e4f};
    for (size_t k = 0; k < 2 * SMALL_SHAPES; k++) {
        for (size_t m = 0; m < COUNT_OF(kinds); m++) {
            const size_t *shape = small_shapes[k / 2];
            rig r = rig_new(shape, kinds[m], 1), whole = rig_new(shape, kinds[m], 1);
            for (size_t i = 0; i < r.t.x_count; i++) {
                r.t.x[i] += offsets[k % 2];
                whole.t.x[i] += offsets[k % 2];
            }
            trial_check_run(&r.t, run_on_machines, &kinds[m]);
            trial_run(&whole.t);
            trial_check_near(&r.t, &whole.t);
            rig_free(&r);
            rig_free(&whole);
        }
    }
}

/* Constants have no W: sums may be of samples that all weigh nothing, on a machine that added none. */
static void sums_of_constants_need_no_weight(void **state) {
    (void)state;
    rig r = rig_new(small_shapes[0], FROZEN | WITH_WEIGHTS, 1);
    rig want = rig_new(small_shapes[0], FROZEN | WITH_WEIGHTS, 1);
    const size_t features = r.t.layer.num_features;
    bn_layer *layer = &r.t.layer;
    memset(r.t.sample_weight, 0, r.t.batch.n * sizeof(float));
    memset(want.t.sample_weight, 0, r.t.batch.n * sizeof(float));
    trial_run(&want.t);
    assert_ok(bn_layer_forward_by(layer, &r.moments, &r.t.batch, r.t.x, r.t.y));
    assert_ok(bn_gradients_add(&r.gradients, layer, &r.t.batch, r.t.x, r.t.dy));
    assert_true(r.gradients.count == 0);
    memcpy(r.whole.sum_g, r.gradients.sum_g, features * sizeof(double));
    memcpy(r.whole.sum_gx, r.gradients.sum_gx, features * sizeof(double));
    assert_ok(bn_layer_backward_by(layer, &r.whole, &r.t.batch, r.t.x, r.t.dy, r.t.dx));
    assert_ok(bn_layer_set_gradients(layer, &r.whole, false));
    trial_check_same(&r.t, &want.t);
    rig_free(&r);
    rig_free(&want);
}

static void what_is_merged_into_itself_counts_twice(void **state) {
    (void)state;
    rig r = rig_new(large_shapes[0], 0, 1);
    const size_t features = r.t.layer.num_features;
    bn_gradients *twice = &r.gradients, *once = &r.whole;
    trial_run(&r.t);
    assert_ok(bn_gradients_add(once, &r.t.layer, &r.t.batch, r.t.x, r.t.dy));
    assert_ok(bn_gradients_merge(twice, once));
    assert_ok(bn_gradients_merge(twice, twice));
    assert_true(twice->count == 2 * once->count);
    for (size_t d = 0; d < features; d++) {
        assert_true(twice->sum_g[d] == 2 * once->sum_g[d]);
        assert_true(twice->sum_gx[d] == 2 * once->sum_gx[d]);
    }
    rig_free(&r);
}

/* The same structs for another batch: with all sums 0, what they were of before does not matter. */
static void to_begin_anew_takes_zeros(void **state) {
    (void)state;
    rig r = rig_new(small_shapes[0], 0, 1), want = rig_new(small_shapes[0], 0, 1);
    const size_t bytes = r.t.layer.num_features * sizeof(double);
    bn_layer *layer = &r.t.layer;
    const bn_batch first = {.n = r.t.batch.n, .skip_running_update = true};
    r.moments.count = 0;
    assert_ok(bn_moments_add(&r.moments, &first, r.t.dy));
    assert_ok(bn_layer_forward_by(layer, &r.moments, &first, r.t.dy, r.t.y));
    assert_ok(bn_gradients_add(&r.gradients, layer, &first, r.t.dy, r.t.x));
    r.moments.count = r.gradients.count = 0;
    memset(r.gradients.sum_g, 0, bytes);
    memset(r.gradients.sum_gx, 0, bytes);
    trial_run(&want.t);
    assert_ok(bn_moments_add(&r.moments, &r.t.batch, r.t.x));
    assert_ok(bn_layer_forward_by(layer, &r.moments, &r.t.batch, r.t.x, r.t.y));
    assert_ok(bn_gradients_add(&r.gradients, layer, &r.t.batch, r.t.x, r.t.dy));
    assert_ok(bn_layer_backward_by(layer, &r.gradients, &r.t.batch, r.t.x, r.t.dy, r.t.dx));
    assert_ok(bn_layer_set_gradients(layer, &r.gradients, false));
    trial_check_same(&r.t, &want.t);
    rig_free(&r);
    rig_free(&want);
}

/* ---- Many threads, one layer ----------------------------------------------------------------- */

enum { THREADS = 4 };

typedef struct worker {
    const bn_layer *layer;
    piece of;
    bn_gradients own;
    const bn_gradients *whole; /* NULL: own is to be made */
    int times;
    bn_status status;
    const bn_gradients *want; /* what own should be, each time; NULL: not known */
    const float *want_dx;
    size_t dx_count;
    bool differs;
} worker;

static bool own_differs(const worker *w) {
    const size_t bytes = w->layer->num_features * sizeof(double);
    return w->want != NULL && (memcmp(w->own.sum_g, w->want->sum_g, bytes) != 0 ||
                               memcmp(w->own.sum_gx, w->want->sum_gx, bytes) != 0);
}

static bool dx_differs(const worker *w) {
    return w->want_dx != NULL && memcmp(w->of.dx, w->want_dx, w->dx_count * sizeof(float)) != 0;
}

static void *run_worker(void *argument) {
    worker *w = argument;
    for (int k = 0; k < w->times && w->status == BN_STATUS_OK; k++) {
        if (w->whole != NULL) {
            w->status =
                bn_layer_backward_by(w->layer, w->whole, &w->of.batch, w->of.x, w->of.dy, w->of.dx);
            w->differs = w->differs || dx_differs(w);
        } else {
            bn_gradients_free(&w->own);
            w->status = bn_gradients_init(&w->own, w->layer->num_features);
            if (w->status == BN_STATUS_OK) {
                w->status = bn_gradients_add(&w->own, w->layer, &w->of.batch, w->of.x, w->of.dy);
                w->differs = w->differs || own_differs(w);
            }
        }
    }
    return NULL;
}

static void run_workers(worker *workers, size_t count) {
    pthread_t threads[THREADS];
    for (size_t k = 0; k < count; k++) {
        assert_int_equal(pthread_create(&threads[k], NULL, run_worker, &workers[k]), 0);
    }
    for (size_t k = 0; k < count; k++) {
        assert_int_equal(pthread_join(threads[k], NULL), 0);
        assert_ok(workers[k].status);
        assert_false(workers[k].differs);
    }
}

static void run_at_once(trial *t, const way *how) {
    bn_moments moments = new_moments(t);
    bn_gradients gradients = new_gradients(t);
    worker workers[THREADS] = {{0}};
    work w = begin_work(t, how);
    add_moments(&w, &moments);
    forward_by(&w, &moments);
    assert_in_range(how->cut.count, 1, THREADS);
    for (size_t k = 0; k < how->cut.count; k++) {
        workers[k].layer = &t->layer;
        workers[k].times = 10;
        workers[k].of = piece_at(&w, k);
    }
    snapshot before = snapshot_take(&t->layer);
    run_workers(workers, how->cut.count);
    for (size_t k = 0; k < how->cut.count; k++) {
        assert_ok(bn_gradients_merge(&gradients, &workers[k].own));
        bn_gradients_free(&workers[k].own);
        workers[k].whole = &gradients;
    }
    run_workers(workers, how->cut.count);
    snapshot_check(&before, &t->layer);
    assert_ok(bn_layer_set_gradients(&t->layer, &gradients, t->batch.accumulate_grads));
    end_work(&w);
    snapshot_free(&before);
    bn_moments_free(&moments);
    bn_gradients_free(&gradients);
}

static void parts_may_be_worked_on_at_once(void **state) {
    (void)state;
    static const size_t shapes[][3] = {
        {7, 43, 1}, {3000, 5, 1}, {300, 1030, 1}, {60, 10, 300}, {8, 34, 700}};
    for (size_t k = 0; k < 2 * COUNT_OF(shapes); k++) {
        for (size_t kind = 0; kind < COUNT_OF(some_kinds); kind++) {
            const size_t *shape = shapes[k / 2];
            const way w = {
                .cut = make_cut(CUT_EMPTY_BETWEEN, shape[0]), .apart = true, .caches = k % 2};
            rig got = rig_new(shape, some_kinds[kind], 1 + (int)(k % 2));
            rig want = rig_new(shape, some_kinds[kind], 1);
            run_at_once(&got.t, &w);
            run_in_parts(&want.t, &w);
            trial_check_same(&got.t, &want.t);
            rig_free(&got);
            rig_free(&want);
        }
    }
}

/* They differ in all that depends on a forward, so that nothing of one may be where the other looks. */
static void two_wholes_may_be_worked_on_at_once(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{10, 4030, 1}, {5, 400, 70}};
    for (size_t k = 0; k < 2 * COUNT_OF(shapes); k++) {
        const way ways[2] = {{.cut = make_cut(CUT_ONE, shapes[k / 2][0]), .caches = true},
                             {.cut = make_cut(CUT_ONE, shapes[k / 2][0]), .caches = true}};
        rig want[2], got[2];
        bn_gradients gradients[2];
        worker workers[2] = {{0}};
        work works[2];
        for (size_t m = 0; m < 2; m++) {
            want[m] = rig_new(shapes[k / 2], k % 2 ? WITH_LEAKY : WITH_RELU, 1);
            got[m] = rig_new(shapes[k / 2], k % 2 ? WITH_LEAKY : WITH_RELU, 1);
            for (size_t i = 0; m == 1 && i < want[m].t.x_count; i++) {
                want[m].t.x[i] = got[m].t.x[i] = want[m].t.x[i] * want[m].t.x[i] + 3;
            }
            run_in_parts(&want[m].t, &ways[m]);
            works[m] = begin_work(&got[m].t, &ways[m]);
            add_moments(&works[m], &got[m].moments);
            forward_by(&works[m], &got[m].moments);
            add_gradients(&works[m], &got[m].gradients);
            workers[m] = (worker){.layer = &got[0].t.layer,
                                  .of = piece_at(&works[m], 0),
                                  .times = 300,
                                  .want = &got[m].gradients,
                                  .want_dx = want[m].t.dx,
                                  .dx_count = want[m].t.x_count};
        }
        run_workers(workers, 2);
        for (size_t m = 0; m < 2; m++) {
            gradients[m] = workers[m].own;
            workers[m].whole = &gradients[m];
        }
        run_workers(workers, 2);
        for (size_t m = 0; m < 2; m++) {
            assert_ok(bn_layer_set_gradients(&got[m].t.layer, &gradients[m], false));
            end_work(&works[m]);
            got[m].t.layer.internal.forward = want[m].t.layer.internal.forward;
            trial_check_same(&got[m].t, &want[m].t);
            bn_gradients_free(&gradients[m]);
            rig_free(&want[m]);
            rig_free(&got[m]);
        }
    }
}

/* Sums are cut by strides: those of moments as those of forward, which writes y. */
static void strides_of_y_do_not_change_bits(void **state) {
    (void)state;
    enum { ROWS = 200, COLUMNS = 2 };
    const bn_batch batch = {.n = ROWS, .y_stride = COLUMNS + 1};
    const way w = {.cut = make_cut(CUT_ONE, ROWS)};
    trial got = trial_new(COLUMNS, NULL, batch), want = trial_new(COLUMNS, NULL, batch);
    run_in_parts(&got, &w);
    trial_run(&want);
    trial_check_same(&got, &want);
    trial_free(&got);
    trial_free(&want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_kinds_in_parts_are_the_whole),
        cmocka_unit_test(any_cut_is_the_whole),
        cmocka_unit_test(large_parts_are_the_whole),
        cmocka_unit_test(an_empty_part_moves_the_running_values),
        cmocka_unit_test(a_whole_of_little_more_than_one_value_is_trained_on),
        cmocka_unit_test(a_masked_part_is_a_part),
        cmocka_unit_test(large_offsets_cost_no_digits),
        cmocka_unit_test(one_part_has_the_bits_of_the_whole),
        cmocka_unit_test(strides_of_y_do_not_change_bits),
        cmocka_unit_test(constant_features_have_the_bits_of_the_whole),
        cmocka_unit_test(the_weight_of_one_part_is_that_of_the_whole),
        cmocka_unit_test(the_number_of_threads_does_not_matter),
        cmocka_unit_test(outputs_may_be_inputs),
        cmocka_unit_test(set_gradients_adds_if_told_to),
        cmocka_unit_test(the_gradients_of_nothing_are_zero),
        cmocka_unit_test(an_empty_whole_changes_nothing),
        cmocka_unit_test(two_wholes_may_interleave),
        cmocka_unit_test(backward_of_a_batch_wants_its_own_forward),
        cmocka_unit_test(another_engine_may_add_up),
        cmocka_unit_test(sums_of_constants_need_no_weight),
        cmocka_unit_test(what_is_merged_into_itself_counts_twice),
        cmocka_unit_test(to_begin_anew_takes_zeros),
        cmocka_unit_test(parts_may_be_worked_on_at_once),
        cmocka_unit_test(two_wholes_may_be_worked_on_at_once),
    };
    return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
