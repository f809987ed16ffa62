/*
 * Half types: the conversions, of every half and around every place where rounding turns; and that a
 * batch of halves is the batch of the floats that they are, with its results rounded once more.
 */
#include "calls.h"

#include "tuning.h"

#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct half_type {
    const char *name;
    bn_dtype dtype;
    int fraction; /* bits of it */
    void (*from_float)(size_t n, const float *from, uint16_t *to);
    void (*to_float)(size_t n, const uint16_t *from, float *to);
} half_type;

enum { TYPES = 2 };
static const half_type types[TYPES] = {
    {"bfloat16", BN_DTYPE_BF16, 7, bn_bf16_from_float, bn_bf16_to_float},
    {"float16", BN_DTYPE_F16, 10, bn_f16_from_float, bn_f16_to_float}};

/* ---- What a half is, plainly ----------------------------------------------------------------- */

enum { HALVES = 0x10000, SIGN = 0x8000, MAGNITUDE = 0x7FFF };

static unsigned infinity_of(const half_type *type) {
    return SIGN - (1u << type->fraction);
}

/* The exponent of the least normal half. */
static int least_exponent(const half_type *type) {
    return 2 - (1 << (14 - type->fraction));
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Of any half but a NaN. */
static double value_of(const half_type *type, unsigned half) {
    const unsigned magnitude = half & MAGNITUDE, exponent = magnitude >> type->fraction,
                   steps = magnitude & ((1u << type->fraction) - 1);
    double value = INFINITY;
    if (magnitude < infinity_of(type)) {
        const int scale =
            least_exponent(type) - type->fraction + (exponent ? (int)exponent - 1 : 0);
        value = ldexp(exponent ? steps + (1u << type->fraction) : steps, scale);
    }
    return half & SIGN ? -value : value;
}

/* The bits of the float that a half is. */
static uint32_t widened(const half_type *type, unsigned half) {
    const unsigned fraction = half & ((1u << type->fraction) - 1);
    if ((half & MAGNITUDE) > infinity_of(type)) {
        return (uint32_t)(half & SIGN) << 16 | 0x7FC00000u | fraction << (23 - type->fraction);
    }
    return bits_of((float)value_of(type, half));
}

/* The half nearest to a value that is no NaN; in the default rounding mode. */
static unsigned nearest(const half_type *type, double value) {
    const unsigned sign = signbit(value) ? SIGN : 0, infinity = infinity_of(type);
    const double magnitude = fabs(value);
    if (magnitude == 0 || isinf(magnitude)) {
        return sign | (magnitude == 0 ? 0 : infinity);
    }
    const int least = least_exponent(type), own = ilogb(magnitude),
              scale = own > least ? own : least;
    const double half =
        nearbyint(ldexp(magnitude, type->fraction - scale)) + ldexp(scale - least, type->fraction);
    return sign | (half < infinity ? (unsigned)half : infinity);
}

/* The half that a float of these bits becomes. */
static uint16_t rounded(const half_type *type, uint32_t bits) {
    const float value = float_of(bits);
    const unsigned quiet = (bits >> 16 & SIGN) | infinity_of(type) | 1u << (type->fraction - 1);
    return (uint16_t)(isnan(value) ? quiet | (bits & 0x7FFFFF) >> (23 - type->fraction)
                                   : nearest(type, (double)value));
}

/* ---- Conversions ----------------------------------------------------------------------------- */

/* Either direction; the addresses are of bytes. */
static void convert(const half_type *type, bool widens, size_t n, const void *from, void *to) {
    if (widens) {
        type->to_float(n, from, to);
    } else {
        type->from_float(n, from, to);
    }
}

static unsigned element(const void *array, size_t bytes, size_t k) {
    return bytes == sizeof(uint16_t) ? ((const uint16_t *)array)[k] : ((const uint32_t *)array)[k];
}

/* Whole vectors and what is less than one go different ways. */
static void check_conversion(const half_type *type, bool widens, const void *from, const void *want,
                             size_t count) {
    static const size_t pieces[] = {SIZE_MAX, 13};
    const size_t from_bytes = widens ? 2 : 4, to_bytes = widens ? 4 : 2;
    unsigned char *got = malloc(count * to_bytes);
    assert_non_null(got);
    for (size_t k = 0; k < COUNT_OF(pieces); k++) {
        fill_pattern(got, count * to_bytes);
        for (size_t at = 0, n; at < count; at += n) {
            n = count - at < pieces[k] ? count - at : pieces[k];
            convert(type, widens, n, (const char *)from + at * from_bytes, got + at * to_bytes);
        }
        for (size_t m = 0; m < count; m++) {
            const unsigned is = element(got, to_bytes, m), should = element(want, to_bytes, m);
            if (is != should) {
                print_error("%s: of %X comes %X, not %X\n", type->name,
                            element(from, from_bytes, m), is, should);
                fail();
            }
        }
    }
    free(got);
}

/* All halves, the floats that they are, and the halves that these become: but for signalling NaNs
 * the same. */
typedef struct all_halves {
    uint16_t half[HALVES], again[HALVES];
    uint32_t wide[HALVES];
} all_halves;

static all_halves *list_halves(const half_type *type) {
    all_halves *all = malloc(sizeof *all);
    assert_non_null(all);
    for (unsigned k = 0; k < HALVES; k++) {
        const bool nan = (k & MAGNITUDE) > infinity_of(type);
        all->half[k] = (uint16_t)k;
        all->wide[k] = widened(type, k);
        all->again[k] = (uint16_t)(nan ? k | 1u << (type->fraction - 1) : k);
    }
    return all;
}

static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};

static void every_half_is_a_float_and_back(void **state) {
    (void)state;
    for (size_t k = 0; k < TYPES * COUNT_OF(modes); k++) {
        const half_type *type = &types[k % TYPES];
        all_halves *all = list_halves(type);
        fesetround(modes[k / TYPES]);
        check_conversion(type, true, all->half, all->wide, HALVES);
        check_conversion(type, false, all->wide, all->again, HALVES);
        assert_int_equal(fegetround(), modes[k / TYPES]);
        fesetround(FE_TONEAREST);
        free(all);
    }
}

/* Between every two neighbours: half way, where the even one is nearest, and the floats around it. What
 * would be the next above the largest is Inf. */
static void halfway_goes_to_the_even_one(void **state) {
    (void)state;
    uint32_t *from = malloc(3 * HALVES * sizeof *from);
    uint16_t *want = malloc(3 * HALVES * sizeof *want);
    assert_true(from != NULL && want != NULL);
    for (size_t k = 0; k < TYPES * COUNT_OF(modes); k++) {
        const half_type *type = &types[k % TYPES];
        const unsigned infinity = infinity_of(type);
        size_t count = 0;
        for (unsigned sign = 0; sign <= SIGN; sign += SIGN) {
            for (unsigned half = 0; half < infinity; half++) {
                const double value = value_of(type, half);
                const double step = half + 1 < infinity ? value_of(type, half + 1) - value
                                                        : value - value_of(type, half - 1);
                const uint32_t middle = bits_of((float)(value + step / 2)) | (uint32_t)sign << 16;
                for (unsigned beside = 0; beside < 3; beside++) {
                    const bool up = beside == 2 || (beside == 1 && half % 2 == 1);
                    from[count] = middle - 1 + beside;
                    want[count++] = (uint16_t)(sign | (half + up));
                }
            }
        }
        fesetround(modes[k / TYPES]);
        check_conversion(type, false, from, want, count);
        fesetround(FE_TONEAREST);
    }
    free(from);
    free(want);
}

/* In words, what the tests around this one have among all others. */
static void the_ends_of_the_ranges_are_these(void **state) {
    (void)state;
    static const struct {
        uint32_t from;
        uint16_t bf16, f16;
    } ends[] = {
        {0x00000000, 0x0000, 0x0000}, /* 0 */
        {0x80000000, 0x8000, 0x8000}, /* -0 */
        {0x3F800000, 0x3F80, 0x3C00}, /* 1 */
        {0x477FE000, 0x4780, 0x7BFF}, /* 65504 */
        {0x477FEFFF, 0x4780, 0x7BFF}, /* 65519.996 */
        {0x477FF000, 0x4780, 0x7C00}, /* 65520 */
        {0xC77FF000, 0xC780, 0xFC00}, /* -65520 */
        {0x7F7F7FFF, 0x7F7F, 0x7C00}, /* the last below bfloat16's Inf */
        {0x7F7F8000, 0x7F80, 0x7C00}, /* the first of it */
        {0x7F7FFFFF, 0x7F80, 0x7C00}, /* FLT_MAX */
        {0x7F800000, 0x7F80, 0x7C00}, /* Inf */
        {0xFF800000, 0xFF80, 0xFC00}, /* -Inf */
        {0x38800000, 0x3880, 0x0400}, /* 2^-14, float16's least normal */
        {0x387FE000, 0x3880, 0x0400}, /* half way to it from below */
        {0x387FDFFF, 0x3880, 0x03FF}, /* float16's largest subnormal */
        {0x33800000, 0x3380, 0x0001}, /* 2^-24, its least */
        {0x33000000, 0x3300, 0x0000}, /* half of that */
        {0x33000001, 0x3300, 0x0001}, /* and a little more */
        {0x00800000, 0x0080, 0x0000}, /* FLT_MIN */
        {0x007F8000, 0x0080, 0x0000}, /* half way to it from below */
        {0x00010000, 0x0001, 0x0000}, /* bfloat16's least */
        {0x00008000, 0x0000, 0x0000}, /* half of that */
        {0x80008001, 0x8001, 0x8000}, /* and a little more, below 0 */
        {0x00000001, 0x0000, 0x0000}, /* the least float */
        {0x7FC00000, 0x7FC0, 0x7E00}, /* NaN */
        {0xFFC00000, 0xFFC0, 0xFE00}, /* -NaN */
        {0x7F800001, 0x7FC0, 0x7E00}, /* signalling, all of its payload below */
        {0xFFBFFFFF, 0xFFFF, 0xFFFF}, /* signalling, all of it set */
        {0x7FFFFFFF, 0x7FFF, 0x7FFF}, /* quiet, all of it set: rounding must not carry */
    };
    for (size_t k = 0; k < COUNT_OF(ends); k++) {
        check_conversion(&types[0], false, &ends[k].from, &ends[k].bf16, 1);
        check_conversion(&types[1], false, &ends[k].from, &ends[k].f16, 1);
    }
}

/* Every sign, exponent and beginning of a fraction. */
static void any_float_rounds_to_nearest(void **state) {
    (void)state;
    enum { ENDINGS = 32 };
    ref_random random = {1};
    uint32_t *from = malloc(HALVES * sizeof *from);
    uint16_t *want = malloc(HALVES * sizeof *want);
    assert_true(from != NULL && want != NULL);
    for (size_t k = 0; k < TYPES * ENDINGS; k++) {
        for (uint32_t upper = 0; upper < HALVES; upper++) {
            from[upper] = upper << 16 | (uint32_t)(ref_bits(&random) >> 48);
            want[upper] = rounded(&types[k % TYPES], from[upper]);
        }
        check_conversion(&types[k % TYPES], false, from, want, HALVES);
    }
    free(from);
    free(want);
}

/* So many bytes, and as many off the one guard page or the other. */
static unsigned char *place(const guarded *g, size_t bytes, size_t off, bool at_end) {
    return at_end ? g->start + g->bytes - off - bytes : g->start + off;
}

/* All is the pattern but so many bytes. */
static void check_around(const guarded *g, const unsigned char *at, size_t bytes) {
    const size_t before = (size_t)(at - g->start);
    assert_pattern(g->start, before);
    assert_pattern(at + bytes, g->bytes - before - bytes);
}

static void conversions_touch_n_elements_at_any_address(void **state) {
    (void)state;
    enum { MOST = 70, OFFS = 4 };
    guarded from = guarded_new(1), to = guarded_new(1);
    ref_random random = {1};
    for (size_t k = 0; k < (MOST + 1) * OFFS * OFFS * 2 * 2 * TYPES; k++) {
        const half_type *type = &types[k % TYPES];
        const bool widens = k / TYPES % 2, at_end = k / TYPES / 2 % 2;
        const size_t from_off = k / TYPES / 4 % OFFS, to_off = k / TYPES / 4 / OFFS % OFFS,
                     n = k / TYPES / 4 / OFFS / OFFS;
        uint32_t floats[MOST];
        uint16_t halves[MOST];
        for (size_t m = 0; m < n; m++) {
            const uint64_t bits = ref_bits(&random);
            halves[m] = widens ? (uint16_t)bits : rounded(type, (uint32_t)bits);
            floats[m] = widens ? widened(type, halves[m]) : (uint32_t)bits;
        }
        const size_t float_bytes = n * sizeof *floats, half_bytes = n * sizeof *halves,
                     from_bytes = widens ? half_bytes : float_bytes,
                     to_bytes = widens ? float_bytes : half_bytes;
        void *in = place(&from, from_bytes, from_off, at_end),
             *out = place(&to, to_bytes, to_off, at_end);
        memcpy(in, widens ? (void *)halves : floats, from_bytes);
        fill_pattern(to.start, to.bytes);
        convert(type, widens, n, in, out);
        assert_memory_equal(out, widens ? (void *)floats : halves, to_bytes);
        check_around(&to, out, to_bytes);
    }
    guarded_free(&from);
    guarded_free(&to);
}

static void bad_arguments_write_nothing(void **state) {
    (void)state;
    enum { COUNT = 19, BYTES = 4 * COUNT, MIDDLE = BYTES };
    unsigned char memory[3 * BYTES], before[3 * BYTES];
    ref_random random = {1};
    for (size_t m = 0; m < sizeof before; m++) {
        before[m] = (unsigned char)ref_bits(&random);
    }
    for (size_t k = 0; k < 2 * TYPES; k++) {
        const half_type *type = &types[k % TYPES];
        const bool widens = k / TYPES;
        const size_t from_bytes = COUNT * (widens ? 2 : 4), to_bytes = COUNT * (widens ? 4 : 2);
        /* The first and the last are side by side, which is no overlap. */
        for (size_t to = MIDDLE - to_bytes; to <= MIDDLE + from_bytes; to++) {
            memcpy(memory, before, sizeof memory);
            convert(type, widens, COUNT, memory + MIDDLE, memory + to);
            const bool apart = to == MIDDLE - to_bytes || to == MIDDLE + from_bytes;
            assert_int_equal(memcmp(memory, before, sizeof memory) != 0, apart);
        }

        memcpy(memory, before, sizeof memory);
        convert(type, widens, COUNT, NULL, memory);
        convert(type, widens, COUNT, memory, NULL);
        convert(type, widens, COUNT, NULL, NULL);
        convert(type, widens, 0, memory, memory);
        static const size_t too_many[] = {SIZE_MAX,         SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 2,
                                          SIZE_MAX / 4 + 1, SIZE_MAX / 4 + 2, SIZE_MAX / 4};
        for (size_t m = 0; m < COUNT_OF(too_many); m++) {
            convert(type, widens, too_many[m], memory, memory + 2 * BYTES);
            convert(type, widens, too_many[m], memory + 2 * BYTES, memory);
        }
        assert_memory_equal(memory, before, sizeof memory);
    }
}

/* Inexact results and underflow are nobody's fault; what is beyond the largest is the data's. */
static void conversions_raise_nothing(void **state) {
    (void)state;
    for (size_t k = 0; k < TYPES; k++) {
        const half_type *type = &types[k];
        all_halves *all = list_halves(type);
        float *floats = ref_floats(HALVES);
        uint16_t *halves = malloc(HALVES * sizeof *halves);
        assert_non_null(halves);
        size_t count = 0;
        for (unsigned half = 0; half < HALVES; half++) {
            if (all->again[half] == all->half[half]) { /* not signalling */
                all->half[count] = all->half[half];
                memcpy(&floats[count++], &all->wide[half], sizeof *floats);
            }
        }
        for (size_t n = count - 9; n <= count; n++) {
            feclearexcept(FE_ALL_EXCEPT);
            type->from_float(n, floats, halves);
            type->to_float(n, all->half, floats);
            assert_int_equal(fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW), 0);
        }
        free(all);
        free(floats);
        free(halves);
    }
}

/* ---- A batch of halves beside that of the same floats ---------------------------------------- */

enum { X, DY, RESIDUAL, Y, DX, DRESIDUAL, TENSORS };

static float **tensor_of(trial *t, size_t k) {
    float **const tensors[TENSORS] = {&t->x, &t->dy, &t->residual, &t->y, &t->dx, &t->dresidual};
    return tensors[k];
}

static size_t count_of(const trial *t, size_t k) {
    return k == X || k == DX ? t->x_count : t->y_count;
}

/* Two rigs with the same layer and the same values: want's are floats, got's are halves, so many
 * bytes off an aligned address. */
typedef struct pair {
    const half_type *type;
    rig want, got;
    float *floats[TENSORS]; /* what got had before, to be freed */
    unsigned char *memory[TENSORS];
    size_t off;
    void *caches[2]; /* of the caller's; NULL until added */
    int mode;        /* of rounding */
} pair;

enum { MARGIN = 8 };

/* Makes want's inputs what halves can be, and got's the same. Between rows is NaN. */
static void pair_take_inputs(pair *p) {
    for (size_t k = X; k <= RESIDUAL; k++) {
        float *values = *tensor_of(&p->want.t, k);
        if (values) {
            void *const halves = p->memory[k] + p->off;
            p->type->from_float(count_of(&p->want.t, k), values, halves);
            p->type->to_float(count_of(&p->want.t, k), halves, values);
        }
    }
}

static pair pair_new(const half_type *type, const size_t shape[3], unsigned kind, int num_threads,
                     size_t off) {
    pair p = {.type = type,
              .want = rig_new(shape, kind, num_threads),
              .got = rig_new(shape, kind, num_threads),
              .off = off,
              .mode = FE_TONEAREST};
    trial *t = &p.got.t;
    for (size_t k = 0; k < TENSORS; k++) {
        if (*tensor_of(t, k)) {
            const size_t bytes = count_of(t, k) * sizeof(uint16_t) + off + MARGIN;
            p.memory[k] = malloc(bytes);
            assert_non_null(p.memory[k]);
            fill_pattern(p.memory[k], bytes);
            p.floats[k] = *tensor_of(t, k);
            *tensor_of(t, k) = (void *)(p.memory[k] + off);
        }
    }
    t->batch.dtype = type->dtype;
    t->batch.residual = t->residual;
    t->batch.y = t->batch.y ? t->y : NULL;
    t->batch.dresidual = t->dresidual;
    pair_take_inputs(&p);
    return p;
}

static void pair_add_caches(pair *p) {
    bn_batch *const batches[] = {&p->want.t.batch, &p->got.t.batch};
    const size_t bytes = bn_cache_bytes(p->want.t.layer.num_features);
    for (size_t k = 0; k < 2; k++) {
        p->caches[k] = malloc(bytes);
        assert_non_null(p->caches[k]);
        fill_pattern(p->caches[k], bytes);
        batches[k]->cache = p->caches[k];
    }
}

static void pair_free(pair *p) {
    for (size_t k = 0; k < TENSORS; k++) {
        *tensor_of(&p->got.t, k) = p->floats[k];
        free(p->memory[k]);
    }
    rig_free(&p->want);
    rig_free(&p->got);
    free(p->caches[0]);
    free(p->caches[1]);
}

/* Another layer for both, with gamma and beta as its options say. */
static void pair_set_options(pair *p, bn_options options) {
    bn_layer *const layers[] = {&p->want.t.layer, &p->got.t.layer};
    for (size_t k = 0; k < 2; k++) {
        const size_t features = layers[k]->num_features;
        options.num_threads = layers[k]->options.num_threads;
        bn_layer_free(layers[k]);
        assert_ok(bn_layer_init(layers[k], features, &options));
    }
}

static void describe(pair *p, const char *call) {
    print_error("%s, %zu bytes off%s, %s of ", p->type->name, p->off,
                p->caches[0] ? ", with a cache" : "", call);
    trial_describe(&p->want.t);
}

/* got's layer, sums and cache have the bits of want's. */
static void check_vectors(pair *p, const char *call) {
    const size_t features = p->want.t.layer.num_features, bytes = features * sizeof(double);
    snapshot got = snapshot_take(&p->got.t.layer), want = snapshot_take(&p->want.t.layer);
    bool same = p->got.t.layer.num_batches_tracked == p->want.t.layer.num_batches_tracked;
    for (size_t k = 0; k < SNAPSHOT_ARRAYS; k++) {
        const bool written = p->caches[0] == NULL || (k != SNAPSHOT_MEAN && k != SNAPSHOT_INVSTD);
        if (want.arrays[k] && written) {
            same = same && memcmp(got.arrays[k], want.arrays[k], features * sizeof(float)) == 0;
        }
    }
    snapshot_free(&got);
    snapshot_free(&want);
    const rig *g = &p->got, *w = &p->want;
    same = same && g->moments.count == w->moments.count &&
           memcmp(g->moments.mean, w->moments.mean, bytes) == 0 &&
           memcmp(g->moments.m2, w->moments.m2, bytes) == 0 &&
           g->gradients.count == w->gradients.count &&
           memcmp(g->gradients.sum_g, w->gradients.sum_g, bytes) == 0 &&
           memcmp(g->gradients.sum_gx, w->gradients.sum_gx, bytes) == 0;
    if (p->caches[0]) {
        const size_t arrays = 4 * features * sizeof(float); /* behind what says whose it is */
        const size_t head = bn_cache_bytes(features) - arrays;
        same = same && memcmp((const char *)p->caches[0] + head, (const char *)p->caches[1] + head,
                              arrays) == 0;
    }
    if (!same) {
        describe(p, call);
        print_error("    what is float beside the halves differs\n");
        fail();
    }
}

/* A NaN may have another payload where two meet. */
static bool same_half(const half_type *type, uint16_t a, uint16_t b) {
    return a == b || ((a & MAGNITUDE) > infinity_of(type) && (b & MAGNITUDE) > infinity_of(type));
}

/* got's tensor is want's, rounded, and nothing else was written. */
static void check_tensor(pair *p, size_t k, const char *call) {
    static const char *const names[] = {"x", "dy", "residual", "y", "dx", "dresidual"};
    const trial *t = &p->want.t;
    const size_t row = t->layer.num_features * ref_spatial(&t->batch), count = count_of(t, k),
                 stride = (k == DX ? ref_x_stride : ref_y_stride)(&t->batch, t->layer.num_features);
    const float *floats = *tensor_of(&p->want.t, k);
    const unsigned char *halves = p->memory[k] + p->off;
    uint16_t *got = malloc(2 * row * sizeof *got), *want = got + row;
    assert_non_null(got);
    assert_pattern(p->memory[k], p->off);
    assert_pattern(halves + count * sizeof *got, MARGIN);
    for (size_t at = 0; at < count; at += stride) {
        p->type->from_float(row, floats + at, want);
        memcpy(got, halves + at * sizeof *got, row * sizeof *got);
        const bool same = memcmp(got, want, row * sizeof *got) == 0;
        for (size_t m = 0; !same && m < row; m++) {
            if (!same_half(p->type, got[m], want[m])) {
                describe(p, call);
                print_error("    %s of row %zu, element %zu is %04X, not %04X\n", names[k],
                            at / stride, m, got[m], want[m]);
                fail();
            }
        }
        if (at + stride < count) {
            assert_pattern(halves + (at + row) * sizeof *got, (stride - row) * sizeof *got);
        }
    }
    free(got);
}

/* Backward of the floats is to see z as that of the halves does: as y was rounded, and at max where
 * that is what max rounds to. */
static void give_y(pair *p) {
    const bn_options *options = &p->want.t.layer.options;
    const bool clips = options->activation == BN_ACTIVATION_CLIP;
    const unsigned max = rounded(p->type, bits_of(options->activation_max));
    float *y = p->want.t.y;
    p->type->to_float(p->want.t.y_count, (void *)(p->memory[Y] + p->off), y);
    for (size_t k = 0; clips && k < p->want.t.y_count; k++) {
        y[k] = bits_of(y[k]) == widened(p->type, max) ? options->activation_max : y[k];
    }
}

/* Which tensors one of calls[] writes, a bit each. */
static unsigned outputs_of(const pair *p, const char *call) {
    if (strstr(call, "backward")) {
        return 1u << DX | (p->memory[DRESIDUAL] ? 1u << DRESIDUAL : 0);
    }
    return strstr(call, "forward") || strstr(call, "infer") ? 1u << Y : 0;
}

/* Makes one of calls[] with both, and compares what it says and all that it writes. */
static bn_status pair_call(pair *p, size_t call) {
    const char *name = calls[call].name;
    const unsigned outputs = outputs_of(p, name);
    for (size_t k = Y; k < TENSORS; k++) {
        if (outputs >> k & 1) {
            fill_pattern(p->memory[k] + p->off, count_of(&p->got.t, k) * sizeof(uint16_t));
        }
    }
    fesetround(p->mode);
    const bn_status want = calls[call].make(&p->want), got = calls[call].make(&p->got);
    fesetround(FE_TONEAREST);
    if (got != want) {
        describe(p, name);
        print_error("    %s, not %s\n", bn_status_string(got), bn_status_string(want));
        fail();
    }
    check_vectors(p, name);
    for (size_t k = Y; k < TENSORS; k++) {
        if (outputs >> k & 1 && (want == BN_STATUS_OK || want == BN_STATUS_NOT_FINITE)) {
            check_tensor(p, k, name);
        }
    }
    if (outputs >> Y & 1) {
        give_y(p);
    }
    return want;
}

enum { FORWARD, BACKWARD, INFER }; /* the first of calls[] */

static void pair_run(pair *p) {
    for (size_t k = 0; k < CALLS_ON_BATCHES; k++) {
        assert_ok(pair_call(p, k));
    }
}

/* The ways of large batches, all at once: outputs go past the caches, inputs are fetched ahead. */
static const bni_tuning as_large = {0, 0, 0, 0, 0, 0, 0, 16, 8, true, 32, 4, 64, 1, 1, 0, 2};

static void check_pair(const half_type *type, const size_t shape[3], unsigned kind, int num_threads,
                       size_t off, bool large) {
    pair p = pair_new(type, shape, kind, num_threads, off);
    if (large) {
        p.got.t.layer.internal.tuning = &as_large;
    }
    pair_run(&p);
    pair_free(&p);
}

/* Every kind that there is, but each of one shape only. */
static void halves_are_the_floats_that_they_are(void **state) {
    (void)state;
    for (unsigned kind = 0, k = 0; kind < FLOAT_KINDS; kind++) {
        if (kind_exists(kind)) {
            check_pair(&types[k / SMALL_SHAPES % TYPES], small_shapes[k % SMALL_SHAPES], kind, 1,
                       k % 3, k / SMALL_SHAPES / TYPES % 2);
            k++;
        }
    }
}

/* Small ones more often. */
static size_t any_size(ref_random *random, size_t most) {
    return (size_t)pow((double)(most + 1), ref_uniform(random));
}

static void any_shape_will_do(void **state) {
    (void)state;
    enum { TRIES = 1500, ELEMENTS = 30000 };
    ref_random random = {1};
    for (size_t tries = 0; tries < TRIES;) {
        const size_t shape[] = {any_size(&random, 70), any_size(&random, 600),
                                any_size(&random, 300)};
        const unsigned kind = ref_bits(&random) % FLOAT_KINDS;
        const bool taken = shape[0] * shape[1] * shape[2] <= ELEMENTS && kind_exists(kind);
        if (taken && shape[0] * shape[2] > 6) { /* so that weights of 0 leave enough */
            pair p = pair_new(&types[tries % TYPES], shape, kind, 1 + tries / TYPES % 2, tries % 3);
            if (tries % 5 == 0) {
                pair_add_caches(&p);
            }
            if (tries % 7 < 3) {
                p.got.t.layer.internal.tuning = &as_large;
            }
            pair_run(&p);
            pair_free(&p);
            tries++;
        }
    }
}

static void threads_change_nothing(void **state) {
    (void)state;
    static const unsigned kinds[] = {0, EVERYTHING, WITH_STRIDES | WITH_POSITIONS | WITH_LEAKY};
    for (size_t k = 0; k < LARGE_SHAPES * TYPES; k++) {
        check_pair(&types[k / LARGE_SHAPES], large_shapes[k % LARGE_SHAPES],
                   kinds[(k + k / LARGE_SHAPES) % COUNT_OF(kinds)], 2, k % 3, k % 5 == 0);
    }
}

/* It is that of the floats' arithmetic alone. */
static void the_rounding_mode_rounds_no_half(void **state) {
    (void)state;
    for (size_t k = 0; k < TYPES * SMALL_SHAPES * COUNT_OF(modes); k++) {
        pair p =
            pair_new(&types[k % TYPES], small_shapes[k / TYPES % SMALL_SHAPES], EVERYTHING, 1, 1);
        p.mode = modes[k / TYPES / SMALL_SHAPES];
        pair_run(&p);
        pair_free(&p);
    }
}

/* A tensor's halves are rounded(factor * what `from` had there, + 0 of y): dresidual's to the last bit,
 * and no NaN is one that is not quiet. */
static void check_products(const pair *p, size_t tensor, float factor, const uint16_t *from) {
    for (size_t k = 0; k < count_of(&p->got.t, tensor); k++) {
        const float product = factor * float_of(widened(p->type, from[k]));
        const uint16_t want = rounded(p->type, bits_of(tensor == Y ? product + 0.0f : product));
        uint16_t got;
        memcpy(&got, p->memory[tensor] + p->off + k * sizeof got, sizeof got);
        const bool nan = (want & MAGNITUDE) > infinity_of(p->type),
                   quiet = got & 1u << (p->type->fraction - 1);
        if (!same_half(p->type, got, want) || (nan && !quiet) ||
            (tensor == DRESIDUAL && got != want)) {
            print_error("%s %04X times %a is %04X, not %04X\n", p->type->name, from[k],
                        (double)factor, got, want);
            fail();
        }
    }
}

/* Every half comes as x and as dy, and goes out multiplied: by factors that leave many half way between
 * two halves, or make them subnormal or infinite. Of running values 0 and 1 y is gamma * x. */
static void every_half_goes_in_and_out(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{64, 1024, 1}, {9363, 7, 1},  {70000, 1, 1},
                                       {31, 71, 30},  {16, 16, 256}, {13, 5, 1009}};
    static const float factors[] = {0.5f, 1.5f, 0.75f, 4.0f, 1.0f / 3};
    for (size_t k = 0; k < COUNT_OF(shapes) * TYPES * COUNT_OF(factors); k++) {
        const float factor = factors[k % COUNT_OF(factors)];
        bn_options options = bn_options_default();
        options.eps = 0;
        options.gamma_init = factor;
        pair p = pair_new(&types[k / COUNT_OF(factors) % TYPES],
                          shapes[k / COUNT_OF(factors) / TYPES], WITH_RESIDUAL, 1, k % 3);
        const size_t count = p.got.t.x_count, bytes = count * sizeof(uint16_t);
        uint16_t *halves = malloc(bytes);
        assert_non_null(halves);
        pair_set_options(&p, options);
        p.want.t.layer.frozen = p.got.t.layer.frozen = true;
        if (k % 4 < 2) {
            p.got.t.layer.internal.tuning = &as_large;
        }
        for (size_t m = 0; m < count; m++) {
            halves[m] = (uint16_t)m;
        }
        memcpy(p.got.t.x, halves, bytes);
        memcpy(p.got.t.dy, halves, bytes);
        memset(p.got.t.residual, 0, bytes);
        memset(p.want.t.residual, 0, count * sizeof(float));
        p.type->to_float(count, halves, p.want.t.x);
        p.type->to_float(count, halves, p.want.t.dy);
        pair_call(&p, INFER);
        check_products(&p, Y, factor, halves);
        pair_call(&p, FORWARD);
        check_products(&p, Y, factor, halves);
        pair_call(&p, BACKWARD);
        check_products(&p, DX, factor, halves);
        check_products(&p, DRESIDUAL, 1, halves);
        free(halves);
        pair_free(&p);
    }
}

/* ---- Outputs in the place of inputs ---------------------------------------------------------- */

static void *copy_bytes(const void *from, size_t bytes) {
    void *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, from, bytes);
    return copy;
}

/* That tensor, which a call has just written over, is what `of` was elsewhere. */
static void check_replaced(pair *p, size_t tensor, const void *of, const char *how) {
    const size_t bytes = count_of(&p->got.t, tensor) * sizeof(uint16_t);
    if (memcmp(p->memory[tensor] + p->off, of, bytes) != 0) {
        describe(p, how);
        fail();
    }
}

static void check_in_place(const half_type *type, const size_t shape[3], unsigned kind, size_t off,
                           const bni_tuning *tuning) {
    pair p = pair_new(type, shape, kind, 1, off);
    p.got.t.layer.internal.tuning = tuning ? tuning : p.got.t.layer.internal.tuning;
    const trial *t = &p.got.t;
    bn_batch batch = t->batch;
    void *kept[TENSORS] = {0};
    const size_t bytes = t->x_count * sizeof(uint16_t);
    pair_call(&p, INFER);
    void *inferred = copy_bytes(t->y, bytes);
    pair_call(&p, FORWARD);
    pair_call(&p, BACKWARD);
    for (size_t k = 0; k < TENSORS; k++) {
        kept[k] = p.memory[k] ? copy_bytes(p.memory[k] + p.off, bytes) : NULL;
    }
    assert_ok(bn_layer_backward_batch(&p.got.t.layer, &batch, t->x, t->dy, t->x));
    check_replaced(&p, X, kept[DX], "dx in the place of x:");
    memcpy(t->x, kept[X], bytes);
    assert_ok(bn_layer_backward_batch(&p.got.t.layer, &batch, t->x, t->dy, t->dy));
    check_replaced(&p, DY, kept[DX], "dx in the place of dy:");
    memcpy(t->dy, kept[DY], bytes);
    if (kept[DRESIDUAL]) {
        batch.dresidual = t->dy;
        assert_ok(bn_layer_backward_batch(&p.got.t.layer, &batch, t->x, t->dy, t->dx));
        check_replaced(&p, DY, kept[DRESIDUAL], "dresidual in the place of dy:");
        check_replaced(&p, DX, kept[DX], "dx beside that:");
    }
    assert_ok(bn_layer_forward_batch(&p.got.t.layer, &batch, t->x, t->x));
    check_replaced(&p, X, kept[Y], "y in the place of x, by forward:");
    memcpy(t->x, kept[X], bytes);
    bn_layer_free(&p.got.t.layer); /* whose running values have moved */
    rig fresh = rig_new(shape, kind, 1);
    p.got.t.layer = fresh.t.layer;
    fresh.t.layer = (bn_layer){0};
    p.got.t.layer.internal.tuning = tuning ? tuning : p.got.t.layer.internal.tuning;
    assert_ok(bn_layer_infer_batch(&p.got.t.layer, &batch, t->x, t->x));
    check_replaced(&p, X, inferred, "y in the place of x, by infer:");
    rig_free(&fresh);
    for (size_t k = 0; k < TENSORS; k++) {
        free(kept[k]);
    }
    free(inferred);
    pair_free(&p);
}

static void outputs_may_take_the_place_of_inputs(void **state) {
    (void)state;
    static const unsigned kinds[] = {0,
                                     WITH_LEAKY,
                                     WITH_RESIDUAL,
                                     WITH_RESIDUAL | WITH_CLIP,
                                     FROZEN | EVERYTHING,
                                     UNTRACKED | WITH_POSITIONS};
    for (size_t k = 0; k < SMALL_SHAPES * COUNT_OF(kinds); k++) {
        for (size_t m = 0; m < TYPES; m++) {
            check_in_place(&types[m], small_shapes[k % SMALL_SHAPES], kinds[k / SMALL_SHAPES],
                           k % 3, NULL);
        }
    }
    /* Past the caches, with elements before the first whole line: nothing is gone through twice. */
    static const size_t wide[][3] = {{5, 300, 1}, {4, 2, 310}, {3, 704, 1}};
    for (size_t k = 0; k < COUNT_OF(wide) * COUNT_OF(kinds) * TYPES; k++) {
        check_in_place(&types[k % TYPES], wide[k / TYPES % COUNT_OF(wide)],
                       kinds[k / TYPES / COUNT_OF(wide)], 2 * (1 + k % 5), &as_large);
    }
}

/* ---- All types on one layer ------------------------------------------------------------------ */

static void swap_layers(pair *a, pair *b) {
    const bn_layer want = a->want.t.layer, got = a->got.t.layer;
    a->want.t.layer = b->want.t.layer;
    a->got.t.layer = b->got.t.layer;
    b->want.t.layer = want;
    b->got.t.layer = got;
}

static void a_layer_takes_all_types_in_turn(void **state) {
    (void)state;
    for (size_t k = 0; k < SMALL_SHAPES; k++) {
        const size_t *shape = small_shapes[k];
        pair pairs[TYPES] = {pair_new(&types[0], shape, WITH_RESIDUAL | WITH_RELU, 1, 0),
                             pair_new(&types[1], shape, WITH_STRIDES | ACCUMULATING, 1, 1)};
        for (size_t turn = 0; turn < 6; turn++) {
            pair *p = &pairs[turn % TYPES];
            trial *floats = &p->want.t;
            assert_ok(pair_call(p, FORWARD));
            assert_ok(pair_call(p, BACKWARD));
            assert_ok(pair_call(p, INFER));
            assert_ok(
                bn_layer_forward_batch(&p->got.t.layer, &floats->batch, floats->x, floats->y));
            assert_ok(bn_layer_backward_batch(&p->got.t.layer, &floats->batch, floats->x,
                                              floats->dy, floats->dx));
            trial_run(floats);
            check_vectors(p, "float in between,");
            swap_layers(&pairs[0], &pairs[1]);
        }
        pair_free(&pairs[0]);
        pair_free(&pairs[1]);
    }
}

/* ---- The ends of the ranges ------------------------------------------------------------------ */

/* Every element of a tensor without gaps is the nearest half to what may be off by as much as a float
 * may. */
static void check_near(const pair *p, const ref_result *shape, size_t tensor, const double *want,
                       const double *scale, double limit) {
    const size_t count = shape->n * shape->num_features * shape->spatial;
    for (size_t k = 0; k < count; k++) {
        uint16_t half;
        memcpy(&half, p->memory[tensor] + p->off + k * sizeof half, sizeof half);
        const double off = limit * REF_UNIT * scale[k / shape->spatial % shape->num_features],
                     got = half == infinity_of(p->type) ? INFINITY : value_of(p->type, half);
        if (!(got >= value_of(p->type, nearest(p->type, want[k] - off)) &&
              got <= value_of(p->type, nearest(p->type, want[k] + off))) ||
            (half & MAGNITUDE) > infinity_of(p->type)) {
            print_error("%s: %s[%zu] is %04X (%g), not near %.9g\n", p->type->name,
                        tensor == Y ? "y" : "dx", k, half, got, want[k]);
            fail();
        }
    }
}

/* Forward and backward are those of the floats, and what they are in double precision. */
static void check_exactly(pair *p) {
    const trial *t = &p->want.t;
    const size_t features = t->layer.num_features;
    const bn_layer *got = &p->got.t.layer;
    assert_ok(pair_call(p, FORWARD));
    assert_ok(pair_call(p, BACKWARD));
    ref_result want = ref_forward(&t->layer, &t->batch, t->x);
    ref_backward(&want, &t->layer, &t->batch, t->x, t->dy);
    assert_within(ref_error_vector(features, got->saved_mean, want.mean, want.mean_scale),
                  REF_LIMIT);
    assert_within(ref_error_vector(features, got->saved_invstd, want.invstd, NULL), REF_LIMIT);
    assert_within(ref_error_vector(features, got->dgamma, want.dgamma, want.dgamma_scale),
                  REF_LIMIT);
    assert_within(ref_error_vector(features, got->dbeta, want.dbeta, want.dbeta_scale), REF_LIMIT);
    check_near(p, &want, Y, want.y, want.y_scale, REF_LIMIT);
    check_near(p, &want, DX, want.dx, want.dx_scale, REF_LIMIT_DX);
    ref_free(&want);
    assert_ok(pair_call(p, INFER));
}

static void halves_are_what_doubles_say(void **state) {
    (void)state;
    for (size_t k = 0; k < SMALL_SHAPES * TYPES; k++) {
        pair p = pair_new(&types[k % TYPES], small_shapes[k / TYPES], 0, 1, 0);
        check_exactly(&p);
        pair_free(&p);
    }
}

/* x is one of some values, dy one of two. */
static void fill_from(pair *p, const float *values, size_t count, float dy) {
    ref_random random = {1};
    trial *t = &p->want.t;
    float *x = t->x, *dys = t->dy;
    for (size_t k = 0; k < t->x_count; k++) {
        /* All of them in every feature. */
        const size_t sample = k / (t->layer.num_features * ref_spatial(&t->batch));
        x[k] = values[sample < count ? sample : ref_bits(&random) % count];
        dys[k] = ref_bits(&random) % 2 ? dy : dy / 4;
    }
    pair_take_inputs(p);
}

static const size_t long_shapes[][3] = {{301, 7, 1}, {37, 66, 1}, {10, 3, 49}};

/* Sums, and here even differences and products, are beyond the type. */
static void the_largest_values_are_values(void **state) {
    (void)state;
    static const float largest[] = {65504, -65504}, apart[] = {65504, 65472, 65440},
                       wide[] = {2e36f, -2e36f, 1e36f}, high[] = {3.37e38f, 3.38e38f, 3.36e38f};
    static const struct {
        const half_type *type;
        const float *values;
        size_t count;
        float dy;
    } cases[] = {{&types[1], largest, COUNT_OF(largest), 65504},
                 {&types[1], apart, COUNT_OF(apart), 1},
                 {&types[1], apart, COUNT_OF(apart), 65504},
                 {&types[0], largest, COUNT_OF(largest), 1e35f},
                 {&types[0], wide, COUNT_OF(wide), 1},
                 {&types[0], high, COUNT_OF(high), 1}};
    for (size_t k = 0; k < COUNT_OF(cases) * COUNT_OF(long_shapes); k++) {
        const size_t c = k % COUNT_OF(cases);
        bn_options options = bn_options_default();
        options.track_running =
            cases[c].type == &types[1]; /* the others' variances are no floats */
        pair p = pair_new(cases[c].type, long_shapes[k / COUNT_OF(cases)], 0, 1, 0);
        pair_set_options(&p, options);
        fill_from(&p, cases[c].values, cases[c].count, cases[c].dy);
        check_exactly(&p);
        pair_free(&p);

        for (int clips = 0; clips < 2; clips++) {
            options.activation = clips ? BN_ACTIVATION_CLIP : BN_ACTIVATION_RELU;
            options.activation_max = 1.5f;
            p = pair_new(cases[c].type, long_shapes[k / COUNT_OF(cases)], WITH_RESIDUAL, 1, 1);
            pair_set_options(&p, options);
            fill_from(&p, cases[c].values, cases[c].count, cases[c].dy);
            assert_ok(pair_call(&p, FORWARD));
            assert_ok(pair_call(&p, BACKWARD));
            pair_free(&p);
        }
    }
}

/* As a batch of channels-last images: dbeta is beyond float16. */
static void sums_are_larger_than_any_half(void **state) {
    (void)state;
    static const size_t shape[] = {300000, 3, 1};
    pair p = pair_new(&types[1], shape, 0, 2, 0);
    ref_random random = {1};
    ref_fill_uniform(&random, p.want.t.x, p.want.t.x_count, 0.0, 1.0);
    ref_fill_uniform(&random, p.want.t.dy, p.want.t.y_count, 0.0, 1.0);
    pair_take_inputs(&p);
    check_exactly(&p);
    assert_true(p.got.t.layer.dbeta[0] > 65520);
    pair_free(&p);
}

/* How many halves of got's tensor have a magnitude in [from, to]. */
static size_t count_between(const pair *p, size_t tensor, unsigned from, unsigned to) {
    size_t found = 0;
    for (size_t k = 0; k < count_of(&p->got.t, tensor); k++) {
        uint16_t half;
        memcpy(&half, p->memory[tensor] + p->off + k * sizeof half, sizeof half);
        found += (half & MAGNITUDE) >= from && (half & MAGNITUDE) <= to;
    }
    return found;
}

static void what_is_beyond_the_largest_becomes_infinite(void **state) {
    (void)state;
    for (size_t k = 0; k < TYPES * COUNT_OF(long_shapes); k++) {
        const half_type *type = &types[k % TYPES];
        const unsigned infinity = infinity_of(type);
        const float largest = (float)value_of(type, infinity - 1);
        bn_options options = bn_options_default();
        options.gamma_init = largest / 1.5f;
        pair p = pair_new(type, long_shapes[k / TYPES], 0, 1, 0);
        pair_set_options(&p, options);
        fill_from(&p, (const float[]){1, 0, -1, 3, -3}, 5, 1.0f);
        assert_ok(pair_call(&p, FORWARD));
        assert_ok(pair_call(&p, BACKWARD));
        assert_true(count_between(&p, Y, infinity, infinity) > 0);
        assert_true(count_between(&p, Y, 1, infinity - 1) > 0);
        assert_int_equal(count_between(&p, Y, infinity + 1, MAGNITUDE), 0);

        /* dx by a deviation that is small; bfloat16's range is float's own. */
        if (type->dtype == BN_DTYPE_F16) {
            options.gamma_init = 1;
            options.eps = 0;
            pair_set_options(&p, options);
            fill_from(&p, (const float[]){0x1p-14f, 0, 0x1p-15f}, 3, 256);
            assert_ok(pair_call(&p, FORWARD));
            assert_ok(pair_call(&p, BACKWARD));
            assert_true(count_between(&p, DX, infinity, infinity) > 0);
            assert_int_equal(count_between(&p, DX, infinity + 1, MAGNITUDE), 0);
        }
        pair_free(&p);
    }
}

static void subnormals_are_kept(void **state) {
    (void)state;
    for (size_t k = 0; k < TYPES * COUNT_OF(long_shapes); k++) {
        const half_type *type = &types[k % TYPES];
        const unsigned normal = 1u << type->fraction;
        const float least = (float)value_of(type, 1);
        bn_options options = bn_options_default();
        pair p = pair_new(type, long_shapes[k / TYPES], 0, 1, 0);

        /* As inputs. A bfloat16's have no variance that a float could be. */
        options.eps = type->dtype == BN_DTYPE_F16 ? 0 : 1e-5f;
        pair_set_options(&p, options);
        fill_from(&p, (const float[]){least, -least, 5 * least, 0, 100 * least}, 5, 90 * least);
        assert_true(count_between(&p, X, 1, normal - 1) > 0);
        check_exactly(&p);

        /* As outputs: y by a small gamma, dx by small dy. */
        options.eps = 1e-5f;
        options.gamma_init = 20 * least;
        pair_set_options(&p, options);
        fill_from(&p, (const float[]){1, 0, -1, 3, 0.5f}, 5, 1);
        check_exactly(&p);
        assert_true(count_between(&p, Y, 1, normal - 1) > p.got.t.y_count / 2);
        assert_true(count_between(&p, DX, 1, normal - 1) > 0);
        pair_free(&p);
    }
}

static void what_is_not_finite_is_that_of_the_floats(void **state) {
    (void)state;
    static const uint32_t bad[] = {0x7FC00000, 0xFFC00000, 0x7F800000, 0xFF800000};
    for (size_t k = 0; k < TYPES * COUNT_OF(bad) * SMALL_SHAPES; k++) {
        const size_t *shape = small_shapes[k / TYPES / COUNT_OF(bad)];
        pair p = pair_new(&types[k % TYPES], shape, k % 3 ? 0 : WITH_RESIDUAL | WITH_LEAKY, 1, 0);
        float *x = p.want.t.x;
        assert_ok(pair_call(&p, FORWARD));
        x[p.want.t.x_count / 2] = float_of(bad[k / TYPES % COUNT_OF(bad)]);
        pair_take_inputs(&p);
        assert_status(pair_call(&p, FORWARD), BN_STATUS_NOT_FINITE);
        assert_status(pair_call(&p, BACKWARD), BN_STATUS_NOT_FINITE);
        assert_ok(pair_call(&p, INFER));
        assert_true(count_between(&p, Y, infinity_of(p.type), MAGNITUDE) > 0);
        pair_free(&p);
    }
}

/* One feature's is NaN: its elements of y are, and no others. Rounding must not carry into the sign. */
static void a_parameter_that_is_nan_stays_one(void **state) {
    (void)state;
    static const uint32_t nans[] = {0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000};
    static const size_t shapes[][3] = {{3, 131, 1}, {2, 5, 140}};
    for (size_t k = 0; k < TYPES * COUNT_OF(shapes) * COUNT_OF(nans); k++) {
        const size_t *shape = shapes[k / TYPES % COUNT_OF(shapes)];
        pair p = pair_new(&types[k % TYPES], shape, 0, 1, 0);
        bn_layer *layer = &p.got.t.layer;
        for (size_t f = 0; f < shape[1]; f++) {
            const float before = layer->beta[f];
            layer->beta[f] = float_of(nans[k / TYPES / COUNT_OF(shapes)]);
            assert_ok(calls[INFER].make(&p.got));
            layer->beta[f] = before;
            assert_int_equal(count_between(&p, Y, infinity_of(p.type) + 1, MAGNITUDE),
                             shape[0] * shape[2]);
            for (size_t at = 0; at < p.got.t.y_count; at++) {
                uint16_t half;
                memcpy(&half, p.memory[Y] + at * sizeof half, sizeof half);
                const bool nan = (half & MAGNITUDE) > infinity_of(p.type);
                assert_int_equal(nan, at / shape[2] % shape[1] == f);
            }
        }
        pair_free(&p);
    }
}

/* ---- Where a residual and an activation meet ------------------------------------------------- */

/* g of all elements is dy, or 0 where y has become 0 or what max becomes: in words of halves alone. */
static void check_clipped(pair *p, size_t *inside, size_t *clipped) {
    const unsigned max = rounded(p->type, bits_of(p->want.t.layer.options.activation_max));
    for (size_t k = 0; k < p->got.t.y_count; k++) {
        uint16_t half[TENSORS];
        for (size_t m = DY; m < TENSORS; m++) {
            memcpy(&half[m], p->memory[m] + p->off + (m == DX ? 0 : k) * sizeof *half,
                   sizeof *half);
        }
        const bool is_max = half[Y] == max, is_zero = (half[Y] & MAGNITUDE) == 0;
        assert_true(half[Y] <= max || is_zero);
        assert_int_equal(half[DRESIDUAL], is_max || is_zero ? 0 : half[DY]);
        *clipped += is_max;
        *inside += !is_max && !is_zero;
    }
}

/* As bits a subnormal max is itself, whatever arithmetic makes of it; its bf16 is a little smaller. */
static void what_was_clipped_to_a_subnormal_has_no_gradient(void **state) {
    (void)state;
    enum { N = 9, D = 37, COUNT = N * D };
    static uint16_t x[COUNT], none[COUNT], y[COUNT], dy[COUNT], dx[COUNT], g[COUNT];
    const unsigned max = rounded(&types[0], bits_of(9.99995e-41f));
    size_t clipped = 0;
    bn_options options = bn_options_default();
    options.activation = BN_ACTIVATION_CLIP;
    options.activation_max = 9.99995e-41f;
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, D, &options));
    for (size_t k = 0; k < COUNT; k++) {
        x[k] = (uint16_t)(0x3F80 + k * 7 % 100);
        dy[k] = 0x3F80;
    }
    const bn_batch batch = {
        .n = N, .dtype = BN_DTYPE_BF16, .residual = none, .y = y, .dresidual = g};
    fenv_t before;
    fegetenv(&before);
    set_flushing();
    const bn_status forward = bn_layer_forward_batch(&layer, &batch, x, y);
    const bn_status backward = bn_layer_backward_batch(&layer, &batch, x, dy, dx);
    fesetenv(&before);
    assert_ok(forward);
    assert_ok(backward);
    for (size_t k = 0; k < COUNT; k++) {
        assert_true(y[k] == 0 || y[k] == max);
        assert_int_equal(g[k], 0);
        clipped += y[k] == max;
    }
#if defined(__SSE__) /* others flush what they clip to */
    assert_true(clipped > COUNT / 4);
#endif
    bn_layer_free(&layer);
}

static void what_was_clipped_has_no_gradient(void **state) {
    (void)state;
    /* Some are below what they become in a half type, some above; beyond the largest and below the
     * least ones. */
    static const struct {
        float max, gamma;
    } cases[] = {{0.1f, 1},  {0.3f, 1},      {0.7f, 1},     {1.0f / 3, 1},  {0.0999f, 0.1f},
                 {6, 4},     {65519, 50000}, {1e5f, 90000}, {1e38f, 90000}, {6e-8f, 1},
                 {5e-8f, 1}, {2.9e-8f, 1},   {1e-40f, 1},   {1e-45f, 1}};
    for (size_t k = 0; k < COUNT_OF(cases) * TYPES * SMALL_SHAPES; k++) {
        const size_t c = k / TYPES % COUNT_OF(cases);
        bn_options options = bn_options_default();
        size_t inside = 0, clipped = 0;
        options.activation = BN_ACTIVATION_CLIP;
        options.activation_max = cases[c].max;
        options.gamma_init = cases[c].gamma;
        pair p = pair_new(&types[k % TYPES], small_shapes[k / TYPES / COUNT_OF(cases)],
                          WITH_RESIDUAL, 1, k % 3);
        pair_set_options(&p, options);
        pair_run(&p);
        check_clipped(&p, &inside, &clipped);
        assert_true(inside > 0 || cases[c].max < 1e-7f);
        assert_true(clipped > 0 || (cases[c].max > 1e37f && p.type->dtype == BN_DTYPE_BF16));
        pair_free(&p);
    }
}

/* Not even where max becomes 0. */
static void what_is_no_number_has_no_gradient(void **state) {
    (void)state;
    static const float most[] = {6, 2.9e-8f, 1e-45f};
    for (size_t k = 0; k < COUNT_OF(most) * TYPES * SMALL_SHAPES; k++) {
        bn_options options = bn_options_default();
        options.activation = BN_ACTIVATION_CLIP;
        options.activation_max = most[k / TYPES % COUNT_OF(most)];
        pair p = pair_new(&types[k % TYPES], small_shapes[k / TYPES / COUNT_OF(most)],
                          WITH_RESIDUAL, 1, 0);
        pair_set_options(&p, options);
        for (size_t m = 0; m < p.want.t.y_count; m += 3) {
            p.want.t.residual[m] = NAN;
        }
        pair_take_inputs(&p);
        assert_ok(pair_call(&p, FORWARD));
        assert_ok(pair_call(&p, BACKWARD));
        for (size_t m = 0; m < p.got.t.y_count; m += 3) {
            uint16_t half;
            memcpy(&half, p.memory[DRESIDUAL] + m * sizeof half, sizeof half);
            assert_int_equal(half & MAGNITUDE, 0);
        }
        pair_free(&p);
    }
}

/* Without a residual z is known as exactly as ever. */
static void without_a_residual_nothing_is_seen_rounded(void **state) {
    (void)state;
    for (size_t k = 0; k < TYPES * SMALL_SHAPES; k++) {
        bn_options options = bn_options_default();
        options.activation = BN_ACTIVATION_CLIP;
        options.activation_max = 0.1f;
        pair p = pair_new(&types[k % TYPES], small_shapes[k / TYPES], 0, 1, k % 3);
        pair_set_options(&p, options);
        pair_run(&p);
        pair_free(&p);
    }
}

/* What is above 0 as a float, but not as a half. */
static void what_rounds_to_zero_has_no_gradient(void **state) {
    (void)state;
    for (size_t k = 0; k < TYPES * SMALL_SHAPES * 2; k++) {
        const half_type *type = &types[k % TYPES];
        bn_options options = bn_options_default();
        options.activation = k / TYPES % 2 ? BN_ACTIVATION_RELU : BN_ACTIVATION_LEAKY_RELU;
        options.gamma_init = (float)value_of(type, 1) / 2;
        pair p = pair_new(type, small_shapes[k / TYPES / 2], WITH_RESIDUAL, 1, 0);
        pair_set_options(&p, options);
        memset(p.want.t.residual, 0, p.want.t.y_count * sizeof(float));
        pair_take_inputs(&p);
        pair_run(&p);
        assert_true(count_between(&p, Y, 0, 0) > 0 && count_between(&p, Y, 1, 1) > 0);
        pair_free(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_is_a_float_and_back),
        cmocka_unit_test(halfway_goes_to_the_even_one),
        cmocka_unit_test(the_ends_of_the_ranges_are_these),
        cmocka_unit_test(any_float_rounds_to_nearest),
        cmocka_unit_test(conversions_touch_n_elements_at_any_address),
        cmocka_unit_test(bad_arguments_write_nothing),
        cmocka_unit_test(conversions_raise_nothing),
        cmocka_unit_test(halves_are_the_floats_that_they_are),
        cmocka_unit_test(any_shape_will_do),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(the_rounding_mode_rounds_no_half),
        cmocka_unit_test(every_half_goes_in_and_out),
        cmocka_unit_test(outputs_may_take_the_place_of_inputs),
        cmocka_unit_test(a_layer_takes_all_types_in_turn),
        cmocka_unit_test(halves_are_what_doubles_say),
        cmocka_unit_test(the_largest_values_are_values),
        cmocka_unit_test(sums_are_larger_than_any_half),
        cmocka_unit_test(what_is_beyond_the_largest_becomes_infinite),
        cmocka_unit_test(subnormals_are_kept),
        cmocka_unit_test(what_is_not_finite_is_that_of_the_floats),
        cmocka_unit_test(a_parameter_that_is_nan_stays_one),
        cmocka_unit_test(what_was_clipped_has_no_gradient),
        cmocka_unit_test(what_was_clipped_to_a_subnormal_has_no_gradient),
        cmocka_unit_test(what_is_no_number_has_no_gradient),
        cmocka_unit_test(without_a_residual_nothing_is_seen_rounded),
        cmocka_unit_test(what_rounds_to_zero_has_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
