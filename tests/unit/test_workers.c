/*
 * Workers of one batch: threads, each with a layer and a share of the rows, whose reduction is a plain
 * barrier and a sum. Together they do what one layer does with all rows, and where one of them fails
 * nobody waits for ever.
 */
#include "calls.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- The reduction --------------------------------------------------------------------------- */

enum { MOST = 5, MOST_REDUCTIONS = 2 };

/* Where workers wait for each other. Who waits for one that has gone would do so for ever: the meeting
 * is then broken, and all go on with an error. */
typedef struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t workers, waiting, gone;
    unsigned long round;
    bool broken;
    const double *sent[MOST];
    size_t counts[MOST];
} meeting;

static void look_for_the_gone(meeting *m) {
    m->broken = m->broken || (m->waiting > 0 && m->gone > 0);
    pthread_cond_broadcast(&m->changed);
}

static bool meet(meeting *m) {
    pthread_mutex_lock(&m->lock);
    const unsigned long round = m->round;
    if (++m->waiting == m->workers) {
        m->waiting = 0;
        m->round++;
    }
    look_for_the_gone(m);
    while (m->round == round && !m->broken) {
        pthread_cond_wait(&m->changed, &m->lock);
    }
    const bool met = !m->broken;
    pthread_mutex_unlock(&m->lock);
    return met;
}

static void leave(meeting *m) {
    pthread_mutex_lock(&m->lock);
    m->gone++;
    look_for_the_gone(m);
    pthread_mutex_unlock(&m->lock);
}

/* ---- Crews ----------------------------------------------------------------------------------- */

typedef struct worker worker;
typedef bn_status (*worker_call)(worker *self);

struct worker {
    meeting *meeting;
    size_t rank;
    bn_layer *layer;
    bn_batch batch;
    const void *x, *dy; /* as calls find them */
    void *y, *dx;
    unsigned fails; /* bit r: its reduction r of a call */
    worker_call call;
    bn_status status;
    size_t reductions, counts[MOST_REDUCTIONS]; /* of the last call */
};

/* The workers on a trial's rows. The first has the trial's layer, the others have such layers. */
typedef struct crew {
    trial *t;
    meeting meeting;
    size_t workers;
    worker members[MOST];
    bn_layer layers[MOST];
} crew;

/* All workers add in the order of their ranks: the same bits. */
static int add_up(void *context, double *values, size_t count) {
    worker *self = context;
    meeting *m = self->meeting;
    double *sums = ref_doubles(count);
    bool good = true;
    m->sent[self->rank] = values;
    m->counts[self->rank] = count;
    if (meet(m)) {
        for (size_t w = 0; w < m->workers; w++) {
            good = good && m->counts[w] == count;
            for (size_t k = 0; good && k < count; k++) {
                sums[k] += m->sent[w][k];
            }
        }
    }
    good = meet(m) && good && !(self->fails >> self->reductions & 1u);
    memcpy(values, sums, count * sizeof *values);
    free(sums);
    if (!good) {
        fill_pattern(values, count * sizeof *values);
    }
    if (self->reductions < MOST_REDUCTIONS) {
        self->counts[self->reductions] = count;
    }
    self->reductions++;
    return good ? 0 : 7;
}

static void copy_array(float *to, const float *from, size_t count) {
    if (from) {
        memcpy(to, from, count * sizeof *to);
    }
}

static void copy_layer(bn_layer *to, const bn_layer *from) {
    const size_t features = from->num_features;
    assert_ok(bn_layer_init(to, features, &from->options));
    copy_array(to->gamma, from->gamma, features);
    copy_array(to->beta, from->beta, features);
    copy_array(to->running_mean, from->running_mean, features);
    copy_array(to->running_var, from->running_var, features);
    to->frozen = from->frozen;
}

/* n of a trial's rows from one on. No rows have no buffers either. */
static void take_share(worker *self, trial *t, size_t first, size_t n) {
    const size_t x_at = first * ref_x_stride(&t->batch, t->layer.num_features);
    const size_t y_at = first * ref_y_stride(&t->batch, t->layer.num_features);
    self->batch = t->batch;
    self->batch.n = n;
    self->batch.sample_weight = n > 0 && t->sample_weight ? t->sample_weight + first : NULL;
    self->batch.position_weight =
        n > 0 && t->position_weight ? t->position_weight + first * ref_spatial(&t->batch) : NULL;
    self->batch.residual = n > 0 && t->residual ? trial_at(t, t->residual + y_at) : NULL;
    self->batch.dresidual = n > 0 && t->dresidual ? trial_at(t, t->dresidual + y_at) : NULL;
    self->batch.y = n > 0 && t->batch.y ? trial_at(t, t->y + y_at) : NULL;
    self->x = n > 0 ? trial_at(t, t->x + x_at) : NULL;
    self->dx = n > 0 ? trial_at(t, t->dx + x_at) : NULL;
    self->y = n > 0 ? trial_at(t, t->y + y_at) : NULL;
    self->dy = n > 0 ? trial_at(t, t->dy + y_at) : NULL;
}

static void take_shares(crew *c, const size_t *shares) {
    size_t first = 0;
    for (size_t w = 0; w < c->workers; w++) {
        take_share(&c->members[w], c->t, first, shares[w]);
        first += shares[w];
    }
}

static void crew_begin(crew *c, trial *t, size_t workers, const size_t *shares) {
    *c = (crew){.t = t, .workers = workers, .meeting = {.workers = workers}};
    pthread_mutex_init(&c->meeting.lock, NULL);
    pthread_cond_init(&c->meeting.changed, NULL);
    for (size_t w = 0; w < workers; w++) {
        worker *self = &c->members[w];
        *self = (worker){.meeting = &c->meeting, .rank = w, .layer = &t->layer};
        if (w > 0) {
            self->layer = &c->layers[w];
            copy_layer(self->layer, &t->layer);
        }
        assert_ok(bn_layer_set_comm(self->layer, (bn_comm){add_up, self}));
    }
    take_shares(c, shares);
}

static void crew_end(crew *c) {
    assert_ok(bn_layer_set_comm(&c->t->layer, (bn_comm){0}));
    for (size_t w = 1; w < c->workers; w++) {
        bn_layer_free(&c->layers[w]);
    }
    pthread_cond_destroy(&c->meeting.changed);
    pthread_mutex_destroy(&c->meeting.lock);
}

static bn_status forward(worker *self) {
    return bn_layer_forward_batch(self->layer, &self->batch, self->x, self->y);
}

static bn_status backward(worker *self) {
    return bn_layer_backward_batch(self->layer, &self->batch, self->x, self->dy, self->dx);
}

static void *work(void *context) {
    worker *self = context;
    self->status = self->call(self);
    leave(self->meeting);
    return NULL;
}

/* One call of all, but of worker `other` another one. */
static void crew_make_but(crew *c, worker_call call, size_t other, worker_call its) {
    pthread_t threads[MOST];
    c->meeting.gone = 0;
    for (size_t w = 0; w < c->workers; w++) {
        worker *self = &c->members[w];
        self->call = w == other ? its : call;
        self->reductions = 0;
        assert_int_equal(pthread_create(&threads[w], NULL, work, self), 0);
    }
    for (size_t w = 0; w < c->workers; w++) {
        assert_int_equal(pthread_join(threads[w], NULL), 0);
    }
    if (c->meeting.broken) {
        fail_msg("a worker waits for one that has gone");
    }
}

static void crew_make(crew *c, worker_call call) {
    crew_make_but(c, call, MOST, NULL);
}

static void check_statuses(const crew *c, bn_status status) {
    for (size_t w = 0; w < c->workers; w++) {
        assert_status(c->members[w].status, status);
    }
}

/* As bn_layer.h says, whoever and whatever they are. */
static void check_reductions(const crew *c, size_t reductions, size_t features) {
    for (size_t w = 0; w < c->workers; w++) {
        assert_int_equal(c->members[w].reductions, reductions);
        for (size_t r = 0; r < reductions; r++) {
            assert_int_equal(c->members[w].counts[r], features + 5);
        }
    }
}

static void check_layers_agree(const crew *c) {
    snapshot first = snapshot_take(c->members[0].layer);
    for (size_t w = 1; w < c->workers; w++) {
        snapshot other = snapshot_take(c->members[w].layer);
        for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
            if (first.arrays[k]) {
                assert_same_bits(other.arrays[k], first.arrays[k], first.layer.num_features);
            }
        }
        assert_int_equal(other.layer.num_batches_tracked, first.layer.num_batches_tracked);
        snapshot_free(&other);
    }
    snapshot_free(&first);
}

static void crew_run(crew *c) {
    const size_t features = c->t->layer.num_features;
    trial_pack(c->t);
    crew_make(c, forward);
    check_statuses(c, BN_STATUS_OK);
    check_reductions(c, c->t->layer.frozen ? 0 : 2, features);
    crew_make(c, backward);
    check_statuses(c, BN_STATUS_OK);
    check_reductions(c, 1, 2 * features);
    check_layers_agree(c);
    trial_unpack(c->t);
}

static void run_by_crew(trial *t, const void *context) {
    crew *const *of = context;
    (void)t;
    crew_run(*of);
}

static void check_crew(crew *c) {
    trial_check_run(c->t, run_by_crew, &c);
}

/* ---- Shares ---------------------------------------------------------------------------------- */

enum { EVENLY, ONE_ROW, ONE_EMPTY, LAST_HAS_ALL, WAYS };

static size_t even(size_t n, size_t workers, size_t w) {
    return n / workers + (w < n % workers);
}

static size_t share_of(size_t n, size_t workers, int way, size_t w) {
    if (workers == 1) {
        return n;
    }
    switch (way) {
    case ONE_ROW:
        return w == 0 ? 1 : even(n - 1, workers - 1, w - 1);
    case ONE_EMPTY:
        return w == 0 ? 0 : even(n, workers - 1, w - 1);
    case LAST_HAS_ALL:
        return w + 1 == workers ? n : 0;
    default:
        return even(n, workers, w);
    }
}

static void crew_share(crew *c, trial *t, size_t workers, int way) {
    size_t shares[MOST];
    for (size_t w = 0; w < workers; w++) {
        shares[w] = share_of(t->batch.n, workers, way, w);
    }
    crew_begin(c, t, workers, shares);
}

/* ---- Against one with all rows --------------------------------------------------------------- */

static const unsigned kinds[] = {0,
                                 WITH_WEIGHTS,
                                 WITH_POSITIONS,
                                 WITH_WEIGHTS | WITH_POSITIONS,
                                 WITH_RESIDUAL | WITH_RELU,
                                 WITH_RESIDUAL,
                                 WITH_LEAKY,
                                 WITH_CLIP | WITH_WEIGHTS,
                                 WITH_STRIDES,
                                 WITH_STRIDES | EVERYTHING,
                                 CUMULATIVE,
                                 UNTRACKED,
                                 NO_SCALE,
                                 NO_SHIFT | WITH_RELU,
                                 NO_SCALE | NO_SHIFT,
                                 ACCUMULATING,
                                 FROZEN,
                                 FROZEN | NO_SCALE | NO_SHIFT,
                                 FROZEN | EVERYTHING,
                                 WITH_BF16 | WITH_CLIP | WITH_RESIDUAL | WITH_POSITIONS,
                                 WITH_F16 | WITH_STRIDES | WITH_WEIGHTS};

/* The second step meets running values and counts that are the first one's. */
static void check_kind(const size_t shape[3], unsigned kind, size_t workers, int way, int threads) {
    rig r = rig_new(shape, kind, threads);
    crew c;
    crew_share(&c, &r.t, workers, way);
    check_crew(&c);
    if (!(kind & ACCUMULATING)) {
        check_crew(&c);
    }
    crew_end(&c);
    rig_free(&r);
}

static void workers_are_as_one_with_all_rows(void **state) {
    (void)state;
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        for (size_t workers = 1; workers <= MOST; workers++) {
            for (int way = 0; way < WAYS; way++) {
                check_kind((const size_t[]){7, 19, 1}, kinds[k], workers, way, 1);
            }
            check_kind((const size_t[]){6, 5, 9}, kinds[k], workers, (int)(k % WAYS), 1);
        }
    }
}

static void of_all_shapes(void **state) {
    (void)state;
    for (size_t s = 0; s < SMALL_SHAPES; s++) {
        for (size_t k = 0; k < 5; k++) {
            const size_t at = s + 4 * k;
            check_kind(small_shapes[s], kinds[at % COUNT_OF(kinds)], 2 + at % (MOST - 1),
                       (int)(at % WAYS), 1 + (int)(k % 2));
        }
    }
    check_kind((const size_t[]){5000, 64, 1}, WITH_WEIGHTS, 3, ONE_ROW, 2);
}

/* Each worker's data about its own offset, and all about a large one. */
static void offsets_cost_no_digits(void **state) {
    (void)state;
    static const float offsets[][2] = {{1e4f, 0}, {1e6f, 0}, {-1e6f, 0}, {1e4f, 1e4f}, {0, 1e6f}};
    for (size_t k = 0; k < COUNT_OF(offsets); k++) {
        for (size_t workers = 2; workers <= MOST; workers++) {
            ref_random random = {7};
            trial t = trial_new(6, NULL, (bn_batch){.n = 40});
            crew c;
            crew_share(&c, &t, workers, EVENLY);
            for (size_t w = 0, at = 0; w < workers; w++) {
                const size_t count = c.members[w].batch.n * 6;
                const double mean = (double)offsets[k][0] + (double)offsets[k][1] * (double)w;
                ref_fill_normal(&random, t.x + at, count, mean, 1.0);
                at += count;
            }
            check_crew(&c);
            crew_end(&c);
            trial_free(&t);
        }
    }
}

static void a_share_may_be_all_masked(void **state) {
    (void)state;
    trial t = trial_new(5, NULL, (bn_batch){.n = 9});
    trial_add_weights(&t);
    crew c;
    crew_share(&c, &t, 3, EVENLY);
    for (size_t i = 0; i < 3; i++) {
        t.sample_weight[i] = 0;
    }
    check_crew(&c);
    crew_end(&c);
    trial_free(&t);
}

/* ---- Bits ------------------------------------------------------------------------------------ */

enum { D = 5, N = 9, WORKERS = 3 };

static bn_options alone_in_its_thread(void) {
    bn_options options = bn_options_default();
    options.num_threads = 1;
    return options;
}

static trial small(void) {
    const bn_options options = alone_in_its_thread();
    return trial_new(D, &options, (bn_batch){.n = N});
}

static void threads_of_a_worker_do_not_matter(void **state) {
    (void)state;
    trial of[2];
    for (int k = 0; k < 2; k++) {
        bn_options options = bn_options_default();
        crew c;
        options.num_threads = k + 1;
        of[k] = trial_new(64, &options, (bn_batch){.n = 3000});
        crew_share(&c, &of[k], 2, EVENLY);
        crew_run(&c);
        crew_end(&c);
    }
    trial_check_same(&of[1], &of[0]);
    trial_free(&of[0]);
    trial_free(&of[1]);
}

static void buffers_may_be_the_same(void **state) {
    (void)state;
    trial t = small(), want = small();
    crew c, other;
    crew_share(&other, &want, WORKERS, EVENLY);
    crew_run(&other);
    crew_end(&other);
    crew_share(&c, &t, WORKERS, EVENLY);
    for (size_t w = 0, at = 0; w < WORKERS; w++) {
        c.members[w].y = t.x + at;
        at += c.members[w].batch.n * D;
    }
    crew_make(&c, forward);
    check_statuses(&c, BN_STATUS_OK);
    assert_same_bits(t.x, want.y, N * D);
    memcpy(t.x, want.x, N * D * sizeof(float));
    for (size_t w = 0, at = 0; w < WORKERS; w++) {
        c.members[w].dx = t.dy + at;
        at += c.members[w].batch.n * D;
    }
    crew_make(&c, backward);
    check_statuses(&c, BN_STATUS_OK);
    assert_same_bits(t.dy, want.dx, N * D);
    crew_end(&c);
    trial_free(&t);
    trial_free(&want);
}

static void caches_may_be_the_callers(void **state) {
    (void)state;
    trial t = small(), want = small();
    crew c, other;
    void *first[WORKERS], *second[WORKERS];
    crew_share(&other, &want, WORKERS, ONE_EMPTY);
    crew_run(&other);
    crew_share(&c, &t, WORKERS, ONE_EMPTY);
    for (size_t w = 0; w < WORKERS; w++) {
        first[w] = malloc(bn_cache_bytes(D));
        second[w] = malloc(bn_cache_bytes(D));
        c.members[w].batch.cache = first[w];
    }
    crew_make(&c, forward);
    check_statuses(&c, BN_STATUS_OK);
    assert_same_bits(t.y, want.y, N * D);
    for (size_t w = 0; w < WORKERS; w++) {
        c.members[w].batch.cache = second[w];
        c.members[w].x = c.members[w].dy; /* another batch comes between */
    }
    crew_make(&c, forward);
    check_statuses(&c, BN_STATUS_OK);
    for (size_t w = 0; w < WORKERS; w++) {
        c.members[w].batch.cache = first[w];
        c.members[w].x = other.members[w].x;
    }
    crew_make(&c, backward);
    check_statuses(&c, BN_STATUS_OK);
    assert_same_bits(t.dx, want.dx, N * D);
    for (size_t w = 0; w < WORKERS; w++) {
        assert_same_bits(c.members[w].layer->dgamma, want.layer.dgamma, D);
        assert_same_bits(c.members[w].layer->dbeta, want.layer.dbeta, D);
        free(first[w]);
        free(second[w]);
    }
    crew_end(&c);
    crew_end(&other);
    trial_free(&t);
    trial_free(&want);
}

static void gradients_add_up(void **state) {
    (void)state;
    trial t = small();
    crew c;
    t.batch.accumulate_grads = true;
    crew_share(&c, &t, WORKERS, ONE_EMPTY);
    crew_run(&c);
    float *dgamma = copy_floats(t.layer.dgamma, D), *dbeta = copy_floats(t.layer.dbeta, D);
    crew_make(&c, backward);
    check_statuses(&c, BN_STATUS_OK);
    check_layers_agree(&c);
    for (size_t d = 0; d < D; d++) {
        assert_true(t.layer.dgamma[d] == 2 * dgamma[d] && t.layer.dbeta[d] == 2 * dbeta[d]);
    }
    free(dgamma);
    free(dbeta);
    crew_end(&c);
    trial_free(&t);
}

/* ---- Nothing, and next to nothing ------------------------------------------------------------ */

static void take_snapshots(const crew *c, snapshot *before) {
    for (size_t w = 0; w < c->workers; w++) {
        before[w] = snapshot_take(c->members[w].layer);
    }
    fill_pattern(c->t->y, c->t->y_count * sizeof(float));
    fill_pattern(c->t->dx, c->t->x_count * sizeof(float));
}

static void check_unchanged(const crew *c, snapshot *before) {
    for (size_t w = 0; w < c->workers; w++) {
        snapshot_check(&before[w], c->members[w].layer);
        snapshot_free(&before[w]);
    }
    assert_pattern(c->t->y, c->t->y_count * sizeof(float));
    assert_pattern(c->t->dx, c->t->x_count * sizeof(float));
}

static void all_empty_is_nothing(void **state) {
    (void)state;
    static const size_t nothing[MOST] = {0}, shares[MOST] = {4, 0, 5};
    snapshot before[MOST];
    trial t = small(), want = small();
    crew c, other;
    crew_begin(&other, &want, WORKERS, shares);
    crew_run(&other);

    crew_begin(&c, &t, WORKERS, nothing);
    crew_make(&c, backward); /* no forward before */
    check_statuses(&c, BN_STATUS_OK);
    take_shares(&c, shares);
    crew_make(&c, forward);
    take_shares(&c, nothing);
    take_snapshots(&c, before);
    crew_make(&c, forward);
    check_statuses(&c, BN_STATUS_OK);
    check_reductions(&c, 2, D);
    for (size_t w = 0; w < WORKERS; w++) {
        c.members[w].batch.accumulate_grads = true;
    }
    crew_make(&c, backward);
    check_statuses(&c, BN_STATUS_OK);
    check_unchanged(&c, before);

    take_shares(&c, shares); /* what an earlier forward left is still there */
    crew_make(&c, backward);
    check_statuses(&c, BN_STATUS_OK);
    assert_same_bits(t.dx, want.dx, N * D);
    assert_same_bits(t.layer.dgamma, want.layer.dgamma, D);
    take_shares(&c, nothing);
    crew_make(&c, backward);
    for (size_t d = 0; d < D; d++) {
        assert_true(t.layer.dgamma[d] == 0 && c.members[1].layer->dbeta[d] == 0);
    }
    crew_end(&c);
    crew_end(&other);
    trial_free(&t);
    trial_free(&want);
}

static void one_value_of_all_is_too_few(void **state) {
    (void)state;
    static const size_t one[MOST] = {0, 1}, three[MOST] = {1, 1, 1};
    static const float light[N] = {0.5f, 0.25f, 0.25f};
    snapshot before[MOST];
    for (int weighted = 0; weighted < 2; weighted++) {
        trial t = small();
        crew c;
        crew_share(&c, &t, WORKERS, EVENLY);
        crew_run(&c);
        take_shares(&c, weighted ? three : one);
        for (size_t w = 0; weighted && w < WORKERS; w++) {
            c.members[w].batch.sample_weight = &light[w];
        }
        take_snapshots(&c, before);
        crew_make(&c, forward);
        check_statuses(&c, BN_STATUS_TOO_FEW_VALUES);
        check_unchanged(&c, before);
        crew_end(&c);
        trial_free(&t);
    }
}

/* Weights may be others than forward's. By running values one value is enough. */
static void backward_of_one_value_is_too_few_unless_frozen(void **state) {
    (void)state;
    static const float one[N] = {1}, none[N] = {0};
    for (int frozen = 0; frozen < 2; frozen++) {
        trial t = small();
        crew c;
        t.layer.frozen = frozen;
        crew_share(&c, &t, WORKERS, EVENLY);
        crew_run(&c);
        for (size_t w = 0; w < WORKERS; w++) {
            c.members[w].batch.sample_weight = w == 1 ? one : none;
        }
        crew_make(&c, backward);
        check_statuses(&c, frozen ? BN_STATUS_OK : BN_STATUS_TOO_FEW_VALUES);
        crew_end(&c);
        trial_free(&t);
    }
}

/* ---- Arguments at fault at one worker -------------------------------------------------------- */

static bn_status forward_of(const worker *self, const bn_batch *batch) {
    return bn_layer_forward_batch(self->layer, batch, self->x, self->y);
}

static bn_status backward_of(const worker *self, const bn_batch *batch) {
    return bn_layer_backward_batch(self->layer, batch, self->x, self->dy, self->dx);
}

static bn_status forward_without_batch(worker *self) {
    return bn_layer_forward_batch(self->layer, NULL, self->x, self->y);
}

static bn_status forward_without_x(worker *self) {
    return bn_layer_forward_batch(self->layer, &self->batch, NULL, self->y);
}

static bn_status forward_without_y(worker *self) {
    return bn_layer_forward(self->layer, self->batch.n, self->x, NULL);
}

static bn_status forward_overlapping(worker *self) {
    return bn_layer_forward(self->layer, self->batch.n, (float *)self->y + 1, self->y);
}

static bn_status forward_of_a_short_stride(worker *self) {
    return forward_of(self, &(bn_batch){.n = self->batch.n, .x_stride = D - 1});
}

static bn_status forward_of_too_many(worker *self) {
    return bn_layer_forward(self->layer, SIZE_MAX / 2, self->x, self->y);
}

static bn_status forward_by_a_negative_weight(worker *self) {
    static const float weights[N] = {1, -1, 1};
    return forward_of(self, &(bn_batch){.n = self->batch.n, .sample_weight = weights});
}

static bn_status forward_of_no_type(worker *self) {
    return forward_of(self, &(bn_batch){.n = self->batch.n, .dtype = (bn_dtype)(BN_DTYPE_F16 + 1)});
}

static bn_status forward_with_bad_eps(worker *self) {
    const float eps = self->layer->options.eps;
    self->layer->options.eps = -1;
    const bn_status status = forward(self);
    self->layer->options.eps = eps;
    return status;
}

static bn_status forward_with_bad_momentum(worker *self) {
    const float momentum = self->layer->options.momentum;
    self->layer->options.momentum = 2;
    const bn_status status = forward(self);
    self->layer->options.momentum = momentum;
    return status;
}

static bn_status empty_forward_with_bad_momentum(worker *self) {
    const float momentum = self->layer->options.momentum;
    self->layer->options.momentum = NAN;
    const bn_status status = bn_layer_forward(self->layer, 0, NULL, NULL);
    self->layer->options.momentum = momentum;
    return status;
}

static bn_status backward_without_batch(worker *self) {
    return bn_layer_backward_batch(self->layer, NULL, self->x, self->dy, self->dx);
}

static bn_status backward_without_x(worker *self) {
    return bn_layer_backward(self->layer, self->batch.n, NULL, self->dy, self->dx);
}

static bn_status backward_without_dy(worker *self) {
    return bn_layer_backward(self->layer, self->batch.n, self->x, NULL, self->dx);
}

static bn_status backward_without_dx(worker *self) {
    return bn_layer_backward(self->layer, self->batch.n, self->x, self->dy, NULL);
}

static bn_status backward_of_other_rows(worker *self) {
    return bn_layer_backward(self->layer, self->batch.n - 1, self->x, self->dy, self->dx);
}

static bn_status backward_of_no_rows(worker *self) {
    return bn_layer_backward(self->layer, 0, NULL, NULL, NULL);
}

static bn_status backward_of_other_positions(worker *self) {
    return backward_of(self, &(bn_batch){.n = 1, .spatial = self->batch.n});
}

static bn_status backward_by_no_cache(worker *self) {
    unsigned char cache[1024] = {0};
    assert_true(bn_cache_bytes(D) <= sizeof cache);
    return backward_of(self, &(bn_batch){.n = self->batch.n, .cache = cache});
}

static bn_status backward_overlapping(worker *self) {
    return bn_layer_backward(self->layer, self->batch.n, (float *)self->dx + 1, self->dy, self->dx);
}

static bn_status backward_by_a_nan_weight(worker *self) {
    static const float weights[N] = {1, NAN, 1};
    return backward_of(self, &(bn_batch){.n = self->batch.n, .sample_weight = weights});
}

static bn_status backward_to_a_lone_dresidual(worker *self) {
    return backward_of(self, &(bn_batch){.n = self->batch.n, .dresidual = self->dx});
}

static bn_status backward_with_bad_eps(worker *self) {
    const float eps = self->layer->options.eps;
    self->layer->options.eps = NAN;
    const bn_status status = backward(self);
    self->layer->options.eps = eps;
    return status;
}

typedef struct misstep {
    worker_call call;
    bn_status status;
    worker_call good; /* what the others do */
} misstep;

static const misstep missteps[] = {
    {forward_without_batch, BN_STATUS_NULL_POINTER, forward},
    {forward_without_x, BN_STATUS_NULL_POINTER, forward},
    {forward_without_y, BN_STATUS_NULL_POINTER, forward},
    {forward_overlapping, BN_STATUS_OVERLAP, forward},
    {forward_of_a_short_stride, BN_STATUS_BAD_SHAPE, forward},
    {forward_of_too_many, BN_STATUS_BAD_SHAPE, forward},
    {forward_by_a_negative_weight, BN_STATUS_BAD_OPTION, forward},
    {forward_of_no_type, BN_STATUS_BAD_OPTION, forward},
    {forward_with_bad_eps, BN_STATUS_BAD_OPTION, forward},
    {forward_with_bad_momentum, BN_STATUS_BAD_OPTION, forward},
    {empty_forward_with_bad_momentum, BN_STATUS_BAD_OPTION, forward},
    {backward_without_batch, BN_STATUS_NULL_POINTER, backward},
    {backward_without_x, BN_STATUS_NULL_POINTER, backward},
    {backward_without_dy, BN_STATUS_NULL_POINTER, backward},
    {backward_without_dx, BN_STATUS_NULL_POINTER, backward},
    {backward_of_other_rows, BN_STATUS_BAD_STATE, backward},
    {backward_of_no_rows, BN_STATUS_BAD_STATE, backward},
    {backward_of_other_positions, BN_STATUS_BAD_STATE, backward},
    {backward_by_no_cache, BN_STATUS_BAD_STATE, backward},
    {backward_overlapping, BN_STATUS_OVERLAP, backward},
    {backward_by_a_nan_weight, BN_STATUS_BAD_OPTION, backward},
    {backward_to_a_lone_dresidual, BN_STATUS_BAD_OPTION, backward},
    {backward_with_bad_eps, BN_STATUS_BAD_OPTION, backward},
};

static void check_misstep(crew *c, const misstep *m, size_t bad) {
    for (size_t w = 0; w < c->workers; w++) {
        assert_status(c->members[w].status, w == bad ? m->status : BN_STATUS_COMM_FAILED);
    }
    const bool forwards = m->good == forward;
    check_reductions(c, forwards ? 2 : 1, forwards ? D : 2 * D);
}

/* The step after all of them gives the bits of a crew that has seen none. */
static void a_fault_of_one_stops_all(void **state) {
    (void)state;
    snapshot before[MOST];
    trial t = small(), want = small();
    crew c, other;
    crew_share(&other, &want, WORKERS, EVENLY);
    crew_run(&other);
    crew_run(&other);
    crew_share(&c, &t, WORKERS, EVENLY);
    crew_run(&c);
    for (size_t k = 0; k < COUNT_OF(missteps); k++) {
        for (size_t bad = 0; bad < WORKERS; bad++) {
            take_snapshots(&c, before);
            crew_make_but(&c, missteps[k].good, bad, missteps[k].call);
            check_misstep(&c, &missteps[k], bad);
            check_unchanged(&c, before);
        }
    }
    crew_run(&c);
    trial_check_same(&t, &want);
    crew_end(&c);
    crew_end(&other);
    trial_free(&t);
    trial_free(&want);
}

static void begin_layer_anew(worker *self) {
    bn_layer_free(self->layer);
    const bn_options options = alone_in_its_thread();
    assert_ok(bn_layer_init(self->layer, D, &options));
    assert_ok(bn_layer_set_comm(self->layer, (bn_comm){add_up, self}));
}

/* Of rows or of none, one worker has had no forward. */
static void a_backward_without_forward_stops_all(void **state) {
    (void)state;
    for (size_t n = 0; n < 2; n++) {
        const size_t shares[WORKERS] = {4, n, N - 4 - n};
        snapshot before[MOST];
        trial t = small();
        crew c;
        crew_begin(&c, &t, WORKERS, shares);
        crew_make(&c, backward);
        for (size_t w = 0; w < WORKERS; w++) { /* no rows alone would need none */
            assert_status(c.members[w].status,
                          shares[w] > 0 ? BN_STATUS_BAD_STATE : BN_STATUS_COMM_FAILED);
        }
        crew_make(&c, forward);
        begin_layer_anew(&c.members[1]);
        take_snapshots(&c, before);
        crew_make(&c, backward);
        assert_status(c.members[0].status, BN_STATUS_COMM_FAILED);
        assert_status(c.members[1].status, BN_STATUS_BAD_STATE);
        assert_status(c.members[2].status, BN_STATUS_COMM_FAILED);
        check_unchanged(&c, before);
        crew_make(&c, forward);
        check_statuses(&c, BN_STATUS_OK);
        crew_make(&c, backward);
        check_statuses(&c, BN_STATUS_OK);
        crew_end(&c);
        trial_free(&t);
    }
}

/* ---- What is not finite at one worker -------------------------------------------------------- */

/* All but y, dx and the cache. */
static void check_learned_unchanged(const crew *c, snapshot *before) {
    static const int of_cache[] = {SNAPSHOT_MEAN, SNAPSHOT_INVSTD, SNAPSHOT_MEAN_REST,
                                   SNAPSHOT_INVSTD_REST};
    for (size_t w = 0; w < c->workers; w++) {
        snapshot after = snapshot_take(c->members[w].layer);
        for (size_t k = 0; k < COUNT_OF(of_cache); k++) {
            free(after.arrays[of_cache[k]]);
            after.arrays[of_cache[k]] = NULL;
        }
        for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
            if (after.arrays[k]) {
                assert_same_bits(after.arrays[k], before[w].arrays[k], D);
            }
        }
        assert_int_equal(after.layer.num_batches_tracked, before[w].layer.num_batches_tracked);
        snapshot_free(&after);
        snapshot_free(&before[w]);
    }
}

static void not_finite(crew *c, worker_call call) {
    snapshot before[MOST];
    take_snapshots(c, before);
    crew_make(c, call);
    check_statuses(c, BN_STATUS_NOT_FINITE);
    check_learned_unchanged(c, before);
}

static void what_is_not_finite_stops_all(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    trial t = small();
    crew c;
    crew_share(&c, &t, WORKERS, EVENLY);
    crew_run(&c);
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        for (size_t row = 0; row < N; row += N / WORKERS) {
            float *x = &t.x[row * D + 1], *dy = &t.dy[row * D + 2], kept = *x;
            *x = bad[k];
            not_finite(&c, forward);
            *x = kept;
            check_crew(&c);
            kept = *dy;
            *dy = bad[k];
            not_finite(&c, backward);
            *dy = kept;
            check_crew(&c);
        }
    }
    crew_end(&c);
    trial_free(&t);
}

static void set_for_all(crew *c, float momentum, bool skip, bool accumulate) {
    for (size_t w = 0; w < c->workers; w++) {
        c->members[w].layer->options.momentum = momentum;
        c->members[w].batch.skip_running_update = skip;
        c->members[w].batch.accumulate_grads = accumulate;
    }
}

/* At one worker, whether its share is empty or not. Where it would not be updated it does no harm. */
static void running_values_that_are_not_finite_stop_all(void **state) {
    (void)state;
    for (size_t bad = 0; bad < WORKERS; bad++) {
        for (int of_var = 0; of_var < 2; of_var++) {
            trial t = small();
            crew c;
            crew_share(&c, &t, WORKERS, ONE_EMPTY);
            crew_run(&c);
            bn_layer *layer = c.members[bad].layer;
            float *value = of_var ? &layer->running_var[D - 1] : &layer->running_mean[0];
            *value = of_var ? INFINITY : NAN;
            not_finite(&c, forward);
            set_for_all(&c, 0.9f, true, false);
            crew_make(&c, forward);
            check_statuses(&c, BN_STATUS_OK);
            set_for_all(&c, 0, false, false);
            crew_run(&c);
            assert_true(isfinite(*value));
            crew_end(&c);
            trial_free(&t);
        }
    }
}

static void gradients_that_are_not_finite_stop_all(void **state) {
    (void)state;
    for (size_t bad = 0; bad < WORKERS; bad++) {
        trial t = small();
        crew c;
        crew_share(&c, &t, WORKERS, ONE_EMPTY);
        crew_run(&c);
        c.members[bad].layer->dgamma[1] = NAN;
        set_for_all(&c, 0.9f, false, true);
        not_finite(&c, backward);
        set_for_all(&c, 0.9f, false, false);
        crew_run(&c);
        crew_end(&c);
        trial_free(&t);
    }
}

/* ---- Reductions that fail -------------------------------------------------------------------- */

static void let_fail(crew *c, size_t worker_or_all, size_t reduction) {
    for (size_t w = 0; w < c->workers; w++) {
        const bool fails = worker_or_all == w || worker_or_all == c->workers;
        c->members[w].fails = fails ? 1u << reduction : 0;
    }
}

/* Of the last one on some workers alone only these know. */
static void check_failure(crew *c, worker_call call, size_t failing, bool last) {
    snapshot before[MOST];
    take_snapshots(c, before);
    crew_make(c, call);
    check_reductions(c, call == forward ? 2 : 1, call == forward ? D : 2 * D);
    for (size_t w = 0; w < c->workers; w++) {
        const bool fails = !last || failing == w || failing == c->workers;
        assert_status(c->members[w].status, fails ? BN_STATUS_COMM_FAILED : BN_STATUS_OK);
        if (fails) {
            snapshot_check(&before[w], c->members[w].layer);
            assert_pattern(c->members[w].y, c->members[w].batch.n * D * sizeof(float));
            assert_pattern(c->members[w].dx, c->members[w].batch.n * D * sizeof(float));
        }
        snapshot_free(&before[w]);
    }
}

/* Whatever the running values, which workers may not agree on any more. */
static void check_works_on(crew *c, const trial *want) {
    let_fail(c, 0, MOST_REDUCTIONS);
    crew_make(c, forward);
    check_statuses(c, BN_STATUS_OK);
    crew_make(c, backward);
    check_statuses(c, BN_STATUS_OK);
    assert_same_bits(c->t->y, want->y, N * D);
    assert_same_bits(c->t->dx, want->dx, N * D);
    for (size_t w = 0; w < c->workers; w++) {
        assert_same_bits(c->members[w].layer->dgamma, want->layer.dgamma, D);
        assert_same_bits(c->members[w].layer->dbeta, want->layer.dbeta, D);
    }
}

static void a_reduction_that_fails_changes_nothing(void **state) {
    (void)state;
    trial t = small(), want = small();
    crew c, other;
    crew_share(&other, &want, WORKERS, EVENLY);
    crew_run(&other);
    crew_share(&c, &t, WORKERS, EVENLY);
    check_works_on(&c, &want);
    for (size_t failing = 0; failing <= WORKERS; failing++) { /* one of them, then all */
        for (size_t r = 0; r < 2; r++) {
            let_fail(&c, failing, r);
            check_failure(&c, forward, failing, r == 1);
            check_works_on(&c, &want);
        }
        let_fail(&c, failing, 0);
        check_failure(&c, backward, failing, true);
        check_works_on(&c, &want);
    }
    crew_end(&c);
    crew_end(&other);
    trial_free(&t);
    trial_free(&want);
}

/* The one at fault returns its own status, whatever else fails; but that it should have had rows it only
 * learns from the others. */
static void a_failure_and_a_fault_stop_all(void **state) {
    (void)state;
    snapshot before[MOST];
    trial t = small(), want = small();
    crew c, other;
    crew_share(&other, &want, WORKERS, EVENLY);
    crew_run(&other);
    crew_share(&c, &t, WORKERS, EVENLY);
    check_works_on(&c, &want);
    for (size_t k = 0; k < COUNT_OF(missteps); k++) {
        const bool learns = missteps[k].call == backward_of_no_rows;
        for (size_t failing = 0; failing <= WORKERS && !learns; failing++) {
            for (size_t r = 0; r < (missteps[k].good == forward ? 2 : 1); r++) {
                take_snapshots(&c, before);
                let_fail(&c, failing, r);
                crew_make_but(&c, missteps[k].good, 1, missteps[k].call);
                check_misstep(&c, &missteps[k], 1);
                check_unchanged(&c, before);
            }
        }
    }
    check_works_on(&c, &want);
    crew_end(&c);
    crew_end(&other);
    trial_free(&t);
    trial_free(&want);
}

/* ---- bn_layer_set_comm ----------------------------------------------------------------------- */

static void set_comm_refuses(void **state) {
    (void)state;
    bn_options options = alone_in_its_thread();
    bn_layer zeros = {0}, infers;
    trial t = small();
    crew c;
    crew_share(&c, &t, 2, EVENLY);
    assert_status(bn_layer_set_comm(NULL, (bn_comm){add_up, &c}), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_set_comm(&t.layer, (bn_comm){NULL, &c}), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_set_comm(&zeros, (bn_comm){add_up, &c}), BN_STATUS_BAD_STATE);
    options.inference_only = true;
    assert_ok(bn_layer_init(&infers, D, &options));
    assert_status(bn_layer_set_comm(&infers, (bn_comm){add_up, &c}), BN_STATUS_BAD_STATE);
    bn_layer_free(&infers);
    assert_status(bn_layer_set_comm(&infers, (bn_comm){add_up, &c}), BN_STATUS_BAD_STATE);
    crew_run(&c); /* it still has the comm that it had */
    crew_end(&c);
    trial_free(&t);
}

static void no_comm_is_alone_again(void **state) {
    (void)state;
    trial t = small(), want = small();
    crew c;
    crew_share(&c, &t, 2, EVENLY);
    crew_end(&c);
    trial_run(&want);
    trial_run(&t);
    trial_check_same(&t, &want);
    assert_int_equal(c.members[0].reductions, 0);
    trial_free(&t);
    trial_free(&want);
}

/* A forward by the worker's own rows has no gradient of all of them, and the other way round. */
static void forward_and_backward_go_together(void **state) {
    (void)state;
    trial t = small();
    crew c;
    assert_ok(bn_layer_forward_batch(&t.layer, &t.batch, t.x, t.y));
    crew_share(&c, &t, 1, EVENLY);
    crew_make(&c, backward);
    check_statuses(&c, BN_STATUS_BAD_STATE);
    crew_make(&c, forward);
    check_statuses(&c, BN_STATUS_OK);
    crew_end(&c);
    assert_status(bn_layer_backward_batch(&t.layer, &t.batch, t.x, t.dy, t.dx),
                  BN_STATUS_BAD_STATE);
    trial_free(&t);
}

/* Nor has a part of a whole on this machine. */
static void a_part_is_no_share(void **state) {
    (void)state;
    trial t = small();
    bn_moments moments;
    crew c;
    assert_ok(bn_moments_init(&moments, D));
    assert_ok(bn_moments_add(&moments, &t.batch, t.x));
    assert_ok(bn_layer_forward_by(&t.layer, &moments, &t.batch, t.x, t.y));
    crew_share(&c, &t, 1, EVENLY);
    crew_make(&c, backward);
    check_statuses(&c, BN_STATUS_BAD_STATE);
    crew_end(&c);
    bn_moments_free(&moments);
    trial_free(&t);
}

/* One number throughout has no deviation from the common mean: without eps that is seen. */
static void constants_stay_constant(void **state) {
    (void)state;
    bn_options options = alone_in_its_thread();
    options.eps = 0;
    for (size_t n = 4; n < 100; n++) {
        trial t = trial_new(1, &options, (bn_batch){.n = n});
        crew c;
        for (size_t i = 0; i < n; i++) {
            t.x[i] = 0.1f;
        }
        crew_share(&c, &t, 2, EVENLY);
        crew_make(&c, forward);
        check_statuses(&c, BN_STATUS_NOT_FINITE);
        crew_end(&c);
        trial_free(&t);
    }
}

/* A part of a whole is reduced by its caller, and what only infers has no need to be. */
static void other_calls_do_not_reduce(void **state) {
    (void)state;
    static const unsigned some[] = {0, WITH_RELU, WITH_STRIDES | EVERYTHING, UNTRACKED, WITH_BF16};
    for (size_t k = 0; k < COUNT_OF(some); k++) {
        rig r = rig_new((const size_t[]){N, D, 2}, some[k], 1);
        crew c;
        crew_share(&c, &r.t, 1, EVENLY);
        crew_run(&c);
        c.members[0].reductions = 0;
        for (size_t call = 2; call < CALLS; call++) { /* but for forward and backward */
            assert_ok(calls[call].make(&r));
        }
        assert_int_equal(c.members[0].reductions, 0);
        crew_end(&c);
        rig_free(&r);
    }
}

static void parts_do_not_reduce(void **state) {
    (void)state;
    const bn_batch batch = {.n = N};
    bn_moments moments;
    bn_gradients gradients;
    trial t = small();
    crew c;
    crew_share(&c, &t, 1, EVENLY);
    assert_ok(bn_moments_init(&moments, D));
    assert_ok(bn_gradients_init(&gradients, D));
    assert_ok(bn_moments_add(&moments, &batch, t.x));
    assert_ok(bn_layer_forward_by(&t.layer, &moments, &batch, t.x, t.y));
    assert_ok(bn_gradients_add(&gradients, &t.layer, &batch, t.x, t.dy));
    assert_ok(bn_layer_backward_by(&t.layer, &gradients, &batch, t.x, t.dy, t.dx));
    assert_ok(bn_layer_set_gradients(&t.layer, &gradients, false));
    assert_int_equal(c.members[0].reductions, 0);
    bn_moments_free(&moments);
    bn_gradients_free(&gradients);
    crew_end(&c);
    trial_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_are_as_one_with_all_rows),
        cmocka_unit_test(of_all_shapes),
        cmocka_unit_test(offsets_cost_no_digits),
        cmocka_unit_test(a_share_may_be_all_masked),
        cmocka_unit_test(threads_of_a_worker_do_not_matter),
        cmocka_unit_test(buffers_may_be_the_same),
        cmocka_unit_test(caches_may_be_the_callers),
        cmocka_unit_test(gradients_add_up),
        cmocka_unit_test(all_empty_is_nothing),
        cmocka_unit_test(one_value_of_all_is_too_few),
        cmocka_unit_test(backward_of_one_value_is_too_few_unless_frozen),
        cmocka_unit_test(a_fault_of_one_stops_all),
        cmocka_unit_test(a_backward_without_forward_stops_all),
        cmocka_unit_test(what_is_not_finite_stops_all),
        cmocka_unit_test(running_values_that_are_not_finite_stop_all),
        cmocka_unit_test(gradients_that_are_not_finite_stop_all),
        cmocka_unit_test(a_reduction_that_fails_changes_nothing),
        cmocka_unit_test(a_failure_and_a_fault_stop_all),
        cmocka_unit_test(set_comm_refuses),
        cmocka_unit_test(no_comm_is_alone_again),
        cmocka_unit_test(forward_and_backward_go_together),
        cmocka_unit_test(a_part_is_no_share),
        cmocka_unit_test(constants_stay_constant),
        cmocka_unit_test(other_calls_do_not_reduce),
        cmocka_unit_test(parts_do_not_reduce),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
