/*
 * Every size gives the reference's numbers: below, at and above the widths of vectors, of the
 * library's blocks (256 rows), of its panels (512 columns) and of what inference prepares at once
 * (2048 features).
 */
#include "support.h"

/* Training, inference and frozen statistics. One value a feature has no variance to train on. */
static void check_size_of(bn_dtype dtype, size_t n, size_t features, size_t spatial,
                          bn_activation activation) {
    bn_options options = bn_options_default();
    options.activation = activation;
    trial t = trial_new(features, &options, (bn_batch){.n = n, .spatial = spatial, .dtype = dtype});
    if (n * spatial > 1) {
        trial_check(&t);
    }
    trial_check_infer(&t);
    t.layer.frozen = true;
    trial_check(&t);
    trial_free(&t);
}

/* Of floats, and every other time of one of the half types. */
static void check_size(size_t n, size_t features, size_t spatial, bn_activation activation) {
    static size_t turn;
    check_size_of(BN_DTYPE_F32, n, features, spatial, activation);
    if (turn++ % 2 == 0) {
        const bn_dtype half = turn % 4 == 1 ? BN_DTYPE_BF16 : BN_DTYPE_F16;
        check_size_of(half, n, features, spatial, activation);
    }
}

static void every_number_of_features_is_right(void **state) {
    (void)state;
    for (size_t features = 1; features <= 66; features++) {
        for (size_t n = 1; n <= 9; n += 4) {
            check_size(n, features, 1, BN_ACTIVATION_NONE);
            check_size(n, features, 1, BN_ACTIVATION_RELU);
        }
    }
}

static void every_number_of_rows_is_right(void **state) {
    (void)state;
    static const size_t features[] = {1, 2, 3, 5, 8, 16, 17, 33};
    for (size_t n = 2; n <= 40; n++) {
        for (size_t k = 0; k < COUNT_OF(features); k++) {
            check_size(n, features[k], 1, BN_ACTIVATION_NONE);
        }
    }
}

static void rows_around_the_blocks_are_right(void **state) {
    (void)state;
    static const size_t rows[] = {255, 256, 257, 511, 512, 513, 1000, 1023, 1024, 1025, 2049, 4097};
    static const size_t features[] = {1, 2, 3, 7, 10, 16};
    for (size_t k = 0; k < COUNT_OF(rows); k++) {
        for (size_t m = 0; m < COUNT_OF(features); m++) {
            check_size(rows[k], features[m], 1, BN_ACTIVATION_NONE);
        }
    }
}

static void columns_around_the_panels_are_right(void **state) {
    (void)state;
    static const size_t features[] = {511,  512,  513,  1023, 1024, 1025, 2047,
                                      2048, 2049, 3100, 4095, 4096, 4097, 8200};
    for (size_t k = 0; k < COUNT_OF(features); k++) {
        check_size(2, features[k], 1, BN_ACTIVATION_RELU);
        check_size(17, features[k], 1, BN_ACTIVATION_NONE);
    }
    for (size_t n = 255; n <= 257; n++) {
        check_size(n, 1023, 1, BN_ACTIVATION_NONE);
        check_size(n, 1025, 1, BN_ACTIVATION_NONE);
    }
}

static void every_number_of_positions_is_right(void **state) {
    (void)state;
    static const size_t channels[] = {1, 2, 3, 5, 33};
    for (size_t spatial = 1; spatial <= 70; spatial++) {
        for (size_t k = 0; k < COUNT_OF(channels); k++) {
            check_size(3, channels[k], spatial, BN_ACTIVATION_NONE);
        }
        check_size(1, 3, spatial, BN_ACTIVATION_RELU);
    }
}

static void planes_around_the_blocks_are_right(void **state) {
    (void)state;
    static const size_t spatial[] = {127, 128, 129,  255,  256,  257, 511,
                                     512, 513, 1023, 1024, 1025, 4097};
    static const size_t channels[] = {1, 2, 3, 5, 33};
    for (size_t k = 0; k < COUNT_OF(spatial); k++) {
        for (size_t m = 0; m < COUNT_OF(channels); m++) {
            check_size(2, channels[m], spatial[k], BN_ACTIVATION_NONE);
        }
        check_size(3, 2, spatial[k], BN_ACTIVATION_RELU);
    }
}

/* Small planes side by side fill a panel at some number of channels, many samples a block. */
static void many_small_planes_are_right(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{3, 511, 2},  {3, 512, 2},  {3, 513, 2},  {3, 341, 3},
                                       {3, 342, 3},  {2, 300, 4},  {2, 1030, 4}, {2, 150, 7},
                                       {300, 3, 4},  {257, 5, 2},  {600, 1, 3},  {255, 2, 16},
                                       {513, 1, 16}, {258, 4, 49}, {2, 4100, 3}, {3, 2049, 9}};
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        check_size(shapes[k][0], shapes[k][1], shapes[k][2], BN_ACTIVATION_NONE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_features_is_right),
        cmocka_unit_test(every_number_of_rows_is_right),
        cmocka_unit_test(rows_around_the_blocks_are_right),
        cmocka_unit_test(columns_around_the_panels_are_right),
        cmocka_unit_test(every_number_of_positions_is_right),
        cmocka_unit_test(planes_around_the_blocks_are_right),
        cmocka_unit_test(many_small_planes_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
