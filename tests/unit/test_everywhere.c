/*
 * Results are the same, bit for bit, whatever the processor: its instructions, and the row of tuning
 * that machine.c has for it.
 */
#include "calls.h"

#include "machine.h"

#include <stdlib.h>

/* What a rig has computed by the instructions and tuning given; NULL: this machine's. Where dy was is
 * then what inference makes of x. */
static rig run(const size_t shape[3], unsigned kind, const char *isa, const bni_tuning *tuning) {
    if (isa != NULL) {
        assert_int_equal(setenv("BN_ISA", isa, 1), 0);
    } else {
        assert_int_equal(unsetenv("BN_ISA"), 0);
    }
    rig r = rig_new(shape, kind, 1);
    if (tuning != NULL) {
        r.t.layer.internal.tuning = tuning;
    }
    trial_run(&r.t);
    assert_ok(trial_infer(&r.t, r.t.x, r.t.dy));
    return r;
}

static void check_same(const rig *got, const rig *want) {
    trial_check_same(&got->t, &want->t);
    assert_same_bits(got->t.dy, want->t.dy, want->t.y_count);
}

static const unsigned kinds[] = {0,
                                 EVERYTHING,
                                 EVERYTHING | WITH_POSITIONS,
                                 WITH_RELU | WITH_STRIDES,
                                 UNTRACKED | WITH_WEIGHTS | NO_SCALE,
                                 UNTRACKED | WITH_POSITIONS | WITH_STRIDES,
                                 WITH_LEAKY | WITH_POSITIONS,
                                 WITH_CLIP | WITH_WEIGHTS | WITH_RESIDUAL,
                                 WITH_BF16 | WITH_CLIP | WITH_RESIDUAL | WITH_POSITIONS,
                                 WITH_F16 | WITH_LEAKY | WITH_STRIDES | UNTRACKED};

/* (The portable kernels round a fused multiply-add twice, which shows once in 2^29.) */
static void instructions_change_no_bit(void **state) {
    (void)state;
    static const char *const sets[] = {"scalar", "sse2", "avx2", "neon"};
    for (size_t k = 0; k < SMALL_SHAPES + LARGE_SHAPES; k++) {
        const size_t *shape = k < SMALL_SHAPES ? small_shapes[k] : large_shapes[k - SMALL_SHAPES];
        for (size_t kind = 0; kind < COUNT_OF(kinds); kind++) {
            if (k >= SMALL_SHAPES && (k + kind) % 4 != 0 && kinds[kind] >= WITH_BF16) {
                continue; /* of large shapes one in four, as conversions take their time */
            }
            rig want = run(shape, kinds[kind], NULL, NULL);
            for (size_t s = 0; s < COUNT_OF(sets); s++) {
                rig got = run(shape, kinds[kind], sets[s], NULL);
                check_same(&got, &want);
                rig_free(&got);
            }
            rig_free(&want);
        }
    }
}

/* Of sizes between the rows' limits, and beyond all of them. */
static void machines_change_no_bit(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{300, 1030, 1}, {70000, 5, 1},   {40, 34, 300},
                                       {3, 40, 2500},  {8200, 1030, 1}, {130, 65, 1024}};
    assert_true(bni_machine_count >= 2);
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        for (size_t kind = 0; kind < 3; kind++) {
            rig want = run(shapes[k], kinds[kind], NULL, &bni_machines[0].tuning);
            for (size_t m = 1; m < bni_machine_count; m++) {
                rig got = run(shapes[k], kinds[kind], NULL, &bni_machines[m].tuning);
                check_same(&got, &want);
                rig_free(&got);
            }
            rig_free(&want);
        }
    }
}

/* This one is among them, and it is what layers get. */
static void this_machine_has_a_row(void **state) {
    (void)state;
    bool found = false;
    for (size_t m = 0; m < bni_machine_count; m++) {
        found = found || &bni_machines[m] == bni_machine_here();
    }
    assert_true(found);
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, 1, NULL));
    assert_ptr_equal(layer.internal.tuning, &bni_machine_here()->tuning);
    bn_layer_free(&layer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instructions_change_no_bit),
        cmocka_unit_test(machines_change_no_bit),
        cmocka_unit_test(this_machine_has_a_row),
    };
    return cmocka_run_group_tests_name("everywhere", tests, NULL, NULL);
}
