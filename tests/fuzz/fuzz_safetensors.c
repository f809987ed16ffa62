/*
 * Any bytes at all as a safetensors file: loading leaves the layer as it was or succeeds, and saving
 * into it leaves the file as it was or one that loads.
 */
#include "fuzz.h"

#include <batchnorm/bn_safetensors.h>

#include <string.h>
#include <unistd.h>

enum { D = 2, ARRAYS = 4, MOST = 1 << 20 };

static char directory[64], path[128];

static void clean_up(void) {
    unlink(path);
    rmdir(directory);
}

/* In memory, where there is such a place: syncing takes no time there. */
static void make_directory(void) {
    snprintf(directory, sizeof directory, "%s/batchnorm-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    MUST(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    atexit(clean_up);
}

static void write_file(const uint8_t *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    MUST(file != NULL && fwrite(bytes, 1, count, file) == count);
    MUST(fclose(file) == 0);
}

static bool file_is(const uint8_t *bytes, size_t count) {
    static uint8_t found[MOST + 1];
    FILE *file = fopen(path, "rb");
    MUST(file != NULL);
    const size_t got = fread(found, 1, sizeof found, file);
    fclose(file);
    return got == count && (count == 0 || memcmp(found, bytes, count) == 0);
}

/* A layer on arrays that are easily compared. */
typedef struct subject {
    float arrays[ARRAYS][D];
    bn_layer layer;
} subject;

static void make_subject(subject *s, bool learns, bool tracks) {
    bn_options options = bn_options_default();
    options.scale = options.shift = learns;
    options.track_running = tracks;
    memset(s, 0x3f, sizeof *s);
    bn_memory memory = {.gamma = learns ? s->arrays[0] : NULL,
                        .beta = learns ? s->arrays[1] : NULL,
                        .running_mean = tracks ? s->arrays[2] : NULL,
                        .running_var = tracks ? s->arrays[3] : NULL};
    MUST(bn_layer_init_with(&s->layer, D, &options, &memory) == BN_STATUS_OK);
}

static bool subject_is(const subject *s, const subject *other) {
    return memcmp(s->arrays, other->arrays, sizeof s->arrays) == 0 &&
           s->layer.num_batches_tracked == other->layer.num_batches_tracked;
}

static void try_one(const uint8_t *bytes, size_t count, const char *name, bool learns,
                    bool tracks) {
    subject s, before;
    make_subject(&s, learns, tracks);
    memcpy(&before, &s, sizeof s);
    write_file(bytes, count);
    const bn_status loaded = bn_layer_load_safetensors(&s.layer, path, name);
    MUST(loaded == BN_STATUS_OK || loaded == BN_STATUS_BAD_FORMAT ||
         loaded == BN_STATUS_BAD_OPTION);
    MUST(loaded == BN_STATUS_OK || subject_is(&s, &before));

    const bn_status saved = bn_layer_save_safetensors(&s.layer, path, name);
    if (saved == BN_STATUS_OK) {
        memcpy(&before, &s, sizeof s);
        MUST(bn_layer_load_safetensors(&s.layer, path, name) == BN_STATUS_OK);
        MUST(subject_is(&s, &before));
    } else {
        MUST(saved == BN_STATUS_BAD_FORMAT && loaded == BN_STATUS_BAD_FORMAT);
        MUST(file_is(bytes, count));
    }
    bn_layer_free(&s.layer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (directory[0] == '\0') {
        make_directory();
    }
    if (count <= MOST) {
        try_one(bytes, count, "a", true, true);
        try_one(bytes, count, "", false, count % 2 == 0);
    }
    return 0;
}
