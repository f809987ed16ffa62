/*
 * Files in the format safetensors: what is saved is what is loaded, other tensors stay, no file harms a
 * layer, no failure harms a file. System calls are ours first, so that they can fail; and so is malloc:
 * the component is compiled into this program, which is linked with --wrap.
 */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "support.h"

#include <batchnorm/bn_safetensors.h>

#include <cjson/cJSON.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- System calls that fail ------------------------------------------------------------------ */

static atomic_size_t system_calls; /* so far */
static size_t failing;             /* the one that fails; 0: none */
static size_t dying;               /* the one before which the process ends; 0: none */
static bool hesitating;            /* reads and writes are interrupted, or do half */
static atomic_int draft = -1;      /* what is written to */
static off_t readable = -1;        /* behind so many bytes files are cut, or broken; -1: nowhere */
static bool broken;

static bool call_fails(void) {
    const size_t call = ++system_calls;
    if (call == dying) {
        _exit(0);
    }
    if (call != failing) {
        return false;
    }
    errno = EIO;
    return true;
}

/* Every other time; of the others each does half. */
static bool interrupted(size_t *bytes) {
    static bool before;
    if (hesitating) {
        before = !before;
        errno = EINTR;
        *bytes = (*bytes + 1) / 2;
    }
    return hesitating && before;
}

/* Writes the next definition's address, which is no object's for C, into a pointer to a function. */
static void find_next(const char *name, void *function) {
    void *const address = dlsym(RTLD_NEXT, name);
    memcpy(function, &address, sizeof address);
}

int fsync(int fd) {
    int (*next)(int);
    find_next("fsync", &next);
    return call_fails() ? -1 : next(fd);
}

int rename(const char *from, const char *to) {
    int (*next)(const char *, const char *);
    find_next("rename", &next);
    return call_fails() ? -1 : next(from, to);
}

int fchmod(int fd, mode_t mode) {
    int (*next)(int, mode_t);
    find_next("fchmod", &next);
    return call_fails() ? -1 : next(fd, mode);
}

ssize_t write(int fd, const void *from, size_t bytes) {
    ssize_t (*next)(int, const void *, size_t);
    find_next("write", &next);
    draft = fd;
    if (system_calls + 1 == dying) { /* in the middle of it */
        (void)!next(fd, from, bytes / 2);
    }
    return call_fails() || interrupted(&bytes) ? -1 : next(fd, from, bytes);
}

/* It may have another name for files as large as these may be. */
ssize_t pread(int fd, void *into, size_t bytes, off_t at) {
    ssize_t (*next)(int, void *, size_t, off_t);
    find_next(sizeof(off_t) > sizeof(long) ? "pread64" : "pread", &next);
    if (readable >= 0 && at + (off_t)bytes > readable) {
        bytes = at < readable ? (size_t)(readable - at) : 0;
        if (bytes == 0) {
            errno = EIO;
            return broken ? -1 : 0;
        }
    }
    return interrupted(&bytes) ? -1 : next(fd, into, bytes, at);
}

/* Of what was written, which some file systems only then say that they could not keep. */
int close(int fd) {
    int (*next)(int);
    find_next("close", &next);
    const bool written = fd == draft;
    draft = written ? -1 : draft;
    const int closed = next(fd);
    return written && call_fails() ? -1 : closed;
}

/* ---- Memory that is short -------------------------------------------------------------------- */

static atomic_size_t allocations; /* so far */
static atomic_long kept;          /* those that were not given back */
static size_t starving;           /* the one that fails; 0: none */
static bool starved;              /* and all behind it */

void *__real_malloc(size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void __real_free(void *memory);
char *__real_realpath(const char *of, char *into);

void *__wrap_malloc(size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void __wrap_free(void *memory);
char *__wrap_realpath(const char *of, char *into);

static bool allocation_fails(void) {
    const size_t allocation = ++allocations;
    return starving != 0 && (allocation == starving || (starved && allocation > starving));
}

void *__wrap_malloc(size_t bytes) {
    void *const memory = allocation_fails() ? NULL : __real_malloc(bytes);
    kept += memory != NULL;
    return memory;
}

void *__wrap_realloc(void *memory, size_t bytes) {
    void *const moved = allocation_fails() ? NULL : __real_realloc(memory, bytes);
    kept += memory == NULL && moved != NULL;
    return moved;
}

void __wrap_free(void *memory) {
    kept -= memory != NULL;
    __real_free(memory);
}

char *__wrap_realpath(const char *of, char *into) {
    if (allocation_fails()) {
        errno = ENOMEM;
        return NULL;
    }
    char *const path_of = __real_realpath(of, into);
    kept += path_of != NULL;
    return path_of;
}

/* ---- Files ----------------------------------------------------------------------------------- */

enum { D = 3, ROOM = 1 << 16 };

static char directory[] = "/tmp/batchnorm-test-XXXXXX", path[128], other_path[128];

static int set_up(void **state) {
    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    snprintf(other_path, sizeof other_path, "%s/other", directory);
    cJSON_InitHooks(&(cJSON_Hooks){malloc, free}); /* which are ours, unlike those of its own */
    return 0;
}

static int no_files(void **state) {
    (void)state;
    unlink(path);
    unlink(other_path);
    failing = 0;
    return 0;
}

/* Behind each test: no temporary file is left. */
static int nothing_else(void **state) {
    no_files(state);
    return rmdir(directory) != 0 || mkdir(directory, 0700) != 0;
}

static int tear_down(void **state) {
    (void)state;
    return rmdir(directory);
}

typedef struct content {
    size_t count;
    unsigned char bytes[ROOM];
} content;

static void put(const content *c) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(c->bytes, 1, c->count, file), c->count);
    assert_int_equal(fclose(file), 0);
}

static void get(content *c) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    c->count = fread(c->bytes, 1, ROOM, file);
    fclose(file);
}

static void append_bytes(content *c, const void *from, size_t bytes) {
    assert_true(bytes <= ROOM - c->count);
    memcpy(c->bytes + c->count, from, bytes);
    c->count += bytes;
}

/* A header, with its length before it. */
static void begin(content *c, const char *header, size_t length) {
    c->count = 0;
    for (size_t k = 0; k < 8; k++) {
        c->bytes[c->count++] = (unsigned char)((uint64_t)length >> (8 * k));
    }
    append_bytes(c, header, length);
}

static void assert_file_is(const content *want) {
    static content found;
    get(&found);
    assert_int_equal(found.count, want->count);
    assert_memory_equal(found.bytes, want->bytes, want->count);
}

/* The data of a tensor of the file: by its own words, as the library writes them. */
static const unsigned char *data_of(content *c, const char *key_and_rest) {
    get(c);
    c->bytes[c->count] = '\0';
    const char *const header = (const char *)c->bytes + 8;
    const char *const found = strstr(header, key_and_rest);
    assert_non_null(found);
    const char *const offsets = strstr(found, "\"data_offsets\":[");
    assert_non_null(offsets);
    size_t length = 0;
    for (size_t k = 8; k > 0; k--) {
        length = length << 8 | c->bytes[k - 1];
    }
    return c->bytes + 8 + length + strtoul(offsets + 16, NULL, 10);
}

/* ---- Layers ---------------------------------------------------------------------------------- */

static void fill(bn_layer *layer, uint64_t seed) {
    ref_random random = {seed};
    float *const arrays[] = {layer->gamma, layer->beta, layer->running_mean, layer->running_var};
    for (size_t k = 0; k < COUNT_OF(arrays); k++) {
        if (arrays[k] != NULL) {
            ref_fill_uniform(&random, arrays[k], layer->num_features, 0.5, 1.5);
        }
    }
    layer->num_batches_tracked = layer->running_mean != NULL ? seed : 0;
}

static bn_layer new_layer(size_t features, const bn_options *options, uint64_t seed) {
    bn_layer layer;
    assert_ok(bn_layer_init(&layer, features, options));
    fill(&layer, seed);
    return layer;
}

static void assert_same_layer(const bn_layer *got, const bn_layer *want) {
    const float *const of_got[] = {got->gamma, got->beta, got->running_mean, got->running_var};
    const float *const of_want[] = {want->gamma, want->beta, want->running_mean, want->running_var};
    for (size_t k = 0; k < COUNT_OF(of_got); k++) {
        if (of_want[k] != NULL) {
            assert_same_bits(of_got[k], of_want[k], want->num_features);
        }
    }
    assert_int_equal(got->num_batches_tracked, want->num_batches_tracked);
}

/* Loading says so, and the layer stays. */
static void assert_refused(bn_layer *layer, const char *name, bn_status expected) {
    snapshot before = snapshot_take(layer);
    assert_status(bn_layer_load_safetensors(layer, path, name), expected);
    snapshot_check(&before, layer);
    snapshot_free(&before);
}

/* ---- There and back -------------------------------------------------------------------------- */

static void what_is_saved_is_loaded(void **state) {
    (void)state;
    static const size_t features[] = {1, 2, 3, 17, 16384, 40000};
    static const char *const names[] = {"", "bn", "layer1.0.bn1", "\xc3\xa9 \"\\/\n\x7f"};
    for (size_t f = 0; f < COUNT_OF(features); f++) {
        for (unsigned kind = 0; kind < 16; kind++) {
            bn_options options = bn_options_default();
            options.scale = kind & 1;
            options.shift = kind & 2;
            options.track_running = kind & 4;
            options.inference_only = kind & 8;
            bn_layer saved = new_layer(features[f], &options, 7);
            bn_layer loaded = new_layer(features[f], &options, 8);
            const char *const name = names[kind % COUNT_OF(names)];
            no_files(NULL);
            assert_ok(bn_layer_save_safetensors(&saved, path, name));
            assert_ok(bn_layer_load_safetensors(&loaded, path, name));
            assert_same_layer(&loaded, &saved);
            bn_layer_free(&saved);
            bn_layer_free(&loaded);
        }
    }
}

static void special_values_and_counts_stay(void **state) {
    (void)state;
    bn_layer saved = new_layer(D, NULL, 1), loaded = new_layer(D, NULL, 2);
    saved.gamma[0] = NAN;
    saved.gamma[1] = -INFINITY;
    saved.running_mean[2] = -0.0f;
    saved.running_var[1] = 0x1p-149f;
    saved.num_batches_tracked = INT64_MAX;
    assert_ok(bn_layer_save_safetensors(&saved, path, "a"));
    assert_ok(bn_layer_load_safetensors(&loaded, path, "a"));
    assert_same_layer(&loaded, &saved);
    saved.num_batches_tracked = UINT64_MAX;
    assert_ok(bn_layer_save_safetensors(&saved, path, "a"));
    assert_ok(bn_layer_load_safetensors(&loaded, path, "a"));
    assert_int_equal(loaded.num_batches_tracked, INT64_MAX);
    static content c;
    const size_t sign = (size_t)(data_of(&c, "\"a.num_batches_tracked\"") - c.bytes) + 7;
    c.bytes[sign] |= 0x80;
    put(&c);
    assert_refused(&loaded, "a", BN_STATUS_BAD_FORMAT);
    bn_layer_free(&saved);
    bn_layer_free(&loaded);
}

/* The arrays at odd addresses, between others that nobody may touch. */
static void the_callers_arrays_are_as_good(void **state) {
    (void)state;
    for (int only = 0; only <= 1; only++) {
        bn_options options = bn_options_default();
        options.inference_only = only;
        static char all[5 * 64];
        fill_pattern(all, sizeof all);
        float *const at[] = {(float *)(void *)(all + 65), (float *)(void *)(all + 129),
                             (float *)(void *)(all + 193), (float *)(void *)(all + 257)};
        bn_memory memory = {
            .gamma = at[0], .beta = at[1], .running_mean = at[2], .running_var = at[3]};
        bn_layer saved = new_layer(D, &options, 5), loaded;
        assert_ok(bn_layer_init_with(&loaded, D, &options, &memory));
        assert_ok(bn_layer_save_safetensors(&saved, path, "a"));
        assert_ok(bn_layer_load_safetensors(&loaded, path, "a"));
        const float *const want[] = {saved.gamma, saved.beta, saved.running_mean,
                                     saved.running_var};
        for (size_t k = 0; k < COUNT_OF(at); k++) {
            assert_memory_equal(at[k], want[k], D * sizeof(float));
            assert_pattern((char *)at[k] + D * sizeof(float), 64 - D * sizeof(float) - 1);
        }
        assert_pattern(all, 65);
        fill_pattern(saved.gamma, D * sizeof(float));
        assert_ok(bn_layer_save_safetensors(&loaded, path, "a")); /* and from there */
        assert_ok(bn_layer_load_safetensors(&saved, path, "a"));
        assert_memory_equal(at[0], saved.gamma, D * sizeof(float));
        bn_layer_free(&saved);
        bn_layer_free(&loaded);
    }
}

static void arrays_that_overlap_are_not_loaded(void **state) {
    (void)state;
    bn_options options = bn_options_default();
    options.inference_only = true;
    bn_layer saved = new_layer(D, &options, 5), layer;
    assert_ok(bn_layer_save_safetensors(&saved, path, "a"));
    for (size_t off = 0; off <= D; off += D) { /* the same one, or two */
        float shared[2 * D] = {0}, mean[D] = {0}, var[D] = {0};
        bn_memory memory = {
            .gamma = shared + off, .beta = shared, .running_mean = mean, .running_var = var};
        assert_ok(bn_layer_init_with(&layer, D, &options, &memory));
        if (off < D) {
            assert_refused(&layer, "a", BN_STATUS_OVERLAP);
        } else {
            assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
        }
        assert_ok(bn_layer_save_safetensors(&layer, other_path, "a"));
        bn_layer_free(&layer);
    }
    bn_layer_free(&saved);
}

/* What a layer knows of its running values beyond float is not the file's. */
static void what_a_loaded_layer_does_is_the_files(void **state) {
    (void)state;
    enum { N = 50 };
    float x[N * D], y[N * D], want[N * D];
    ref_random random = {3};
    ref_fill_uniform(&random, x, COUNT_OF(x), 1e4, 1.001e4);
    bn_layer trained = new_layer(D, NULL, 1), fresh = new_layer(D, NULL, 2);
    for (int k = 0; k < 3; k++) {
        assert_ok(bn_layer_forward(&trained, N, x, y));
    }
    assert_ok(bn_layer_save_safetensors(&trained, path, "a"));
    assert_ok(bn_layer_infer(&trained, N, x, y));
    assert_ok(bn_layer_load_safetensors(&fresh, path, "a"));
    assert_ok(bn_layer_infer(&fresh, N, x, want));
    assert_memory_not_equal(y, want, sizeof y); /* it did know more */
    assert_ok(bn_layer_load_safetensors(&trained, path, "a"));
    assert_ok(bn_layer_infer(&trained, N, x, y));
    assert_same_bits(y, want, N * D);
    assert_ok(bn_layer_forward(&trained, N, x, y));
    assert_ok(bn_layer_forward(&fresh, N, x, y));
    assert_same_bits(trained.running_mean, fresh.running_mean, D);
    bn_layer_free(&trained);
    bn_layer_free(&fresh);
}

/* ---- Other tensors --------------------------------------------------------------------------- */

static const char others[] =
    "{\"z\":{\"dtype\":\"F8_E5M2\",\"shape\":[5],\"data_offsets\":[0,7]},\n"
    " \"a.weight\" : {\"shape\":[2,1],\"dtype\":\"U8\",\"data_offsets\":[7,9]},"
    "\"q\\\"\\ud83d\\ude00\":{\"dtype\":\"I16\",\"shape\":[ 1 ],\"data_offsets\":[9,11]},"
    "\"__metadata__\":{\"by\":\"ha\\u006ed\",\"a.eps\":\"7\"},"
    "\"wide\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[11,27]},"
    "\"none\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[27,27]}}  ";
static const char others_data[] = "zzzzzzzAAqqWWWWWWWWwwwwwwww";

static void saving_keeps_what_is_not_the_layers(void **state) {
    (void)state;
    static content c;
    begin(&c, others, sizeof others - 1);
    append_bytes(&c, others_data, sizeof others_data - 1);
    put(&c);
    assert_int_equal(chmod(path, 0640), 0);
    bn_layer layer = new_layer(D, NULL, 9), again = new_layer(D, NULL, 10);
    for (int k = 0; k < 2; k++) { /* over others' and over its own */
        assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
        assert_memory_equal(data_of(&c, "\"z\":{\"dtype\":\"F8_E5M2\",\"shape\":[5],"), "zzzzzzz",
                            7);
        assert_memory_equal(data_of(&c, "\"q\\\"\\ud83d\\ude00\":"), "qq", 2);
        const unsigned char *const wide = data_of(&c, "\"wide\":");
        assert_memory_equal(wide, others_data + 11, 16);
        assert_int_equal((wide - c.bytes) % 8, 0);
        data_of(&c, "\"none\":{\"dtype\":\"F32\",\"shape\":[3,0],");
        assert_non_null(strstr((char *)c.bytes + 8, "\"by\":\"ha\\u006ed\""));
        assert_null(strstr((char *)c.bytes + 8, "\"format\"")); /* new files alone say so */
        assert_null(strstr((char *)c.bytes + 8, "\"7\""));
        assert_ok(bn_layer_load_safetensors(&again, path, "a"));
        assert_same_layer(&again, &layer);
    }
    bn_layer second = new_layer(2 * D, NULL, 11);
    assert_ok(bn_layer_save_safetensors(&second, path, ""));
    assert_ok(bn_layer_load_safetensors(&again, path, "a"));
    assert_same_layer(&again, &layer);
    struct stat about;
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0640);
    bn_layer_free(&layer);
    bn_layer_free(&again);
    bn_layer_free(&second);
}

/* Without them, what the file has of the layer's name goes. */
static void saving_removes_what_the_layer_has_not(void **state) {
    (void)state;
    static content c;
    bn_options options = bn_options_default();
    options.scale = options.track_running = false;
    bn_layer whole = new_layer(D, NULL, 1), part = new_layer(D, &options, 2);
    assert_ok(bn_layer_save_safetensors(&whole, path, "a"));
    assert_refused(&part, "a", BN_STATUS_BAD_FORMAT);
    assert_ok(bn_layer_save_safetensors(&part, path, "a"));
    get(&c);
    c.bytes[c.count] = '\0';
    const char *const header = (const char *)c.bytes + 8;
    assert_non_null(strstr(header, "a.bias"));
    assert_non_null(strstr(header, "\"format\":\"pt\""));
    assert_null(strstr(header, "a.weight"));
    assert_null(strstr(header, "a.running"));
    assert_null(strstr(header, "a.num"));
    assert_null(strstr(header, "a.momentum"));
    assert_refused(&whole, "a", BN_STATUS_BAD_FORMAT);
    assert_ok(bn_layer_load_safetensors(&part, path, "a"));
    bn_layer_free(&whole);
    bn_layer_free(&part);
}

static void new_files_have_the_permissions_of_new_files(void **state) {
    (void)state;
    bn_layer layer = new_layer(D, NULL, 1);
    struct stat about;
    const mode_t mask = umask(027);
    assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
    umask(mask);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0640);
    bn_layer_free(&layer);
}

static void links_are_followed(void **state) {
    (void)state;
    bn_layer layer = new_layer(D, NULL, 1), loaded = new_layer(D, NULL, 2);
    struct stat about;
    assert_int_equal(symlink("model.safetensors", other_path), 0);
    assert_status(bn_layer_save_safetensors(&layer, other_path, "a"), BN_STATUS_IO);
    assert_int_equal(lstat(path, &about), -1);
    assert_ok(bn_layer_save_safetensors(&loaded, path, "a"));
    assert_ok(bn_layer_save_safetensors(&layer, other_path, "a"));
    assert_int_equal(lstat(other_path, &about), 0);
    assert_true(S_ISLNK(about.st_mode));
    assert_ok(bn_layer_load_safetensors(&loaded, path, "a"));
    assert_same_layer(&loaded, &layer);
    bn_layer_free(&layer);
    bn_layer_free(&loaded);
}

static void a_path_without_a_folder_is_here(void **state) {
    (void)state;
    char before[4096];
    bn_layer layer = new_layer(D, NULL, 1);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(directory), 0);
    assert_ok(bn_layer_save_safetensors(&layer, "other", "a"));
    assert_ok(bn_layer_save_safetensors(&layer, "other", "a"));
    assert_ok(bn_layer_load_safetensors(&layer, "other", "a"));
    assert_int_equal(chdir(before), 0);
    bn_layer_free(&layer);
}

/* ---- Types ----------------------------------------------------------------------------------- */

/* A file of one layer of one feature, whose values have this dtype and these bytes. */
static void put_value(const char *dtype, size_t bytes, uint64_t value, const char *metadata) {
    static content c;
    char header[1024];
    int used = snprintf(header, sizeof header, "{%s", metadata);
    static const char *const names[] = {"weight", "bias", "running_mean", "running_var"};
    for (size_t k = 0; k < COUNT_OF(names); k++) {
        used += snprintf(header + used, sizeof header - (size_t)used,
                         "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                         used > 1 ? "," : "", names[k], dtype, k * bytes, (k + 1) * bytes);
    }
    used += snprintf(header + used, sizeof header - (size_t)used, "}");
    begin(&c, header, (size_t)used);
    for (size_t k = 0; k < COUNT_OF(names) * bytes; k++) {
        c.bytes[c.count++] = (unsigned char)(value >> (8 * (k % bytes)));
    }
    put(&c);
}

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void other_types_are_rounded_to_floats(void **state) {
    (void)state;
    bn_layer layer = new_layer(1, NULL, 3);
    static const struct {
        uint64_t half;
        float value;
    } halves[] = {{0x3c00, 1},        {0xc000, -2},         {0x7bff, 65504},
                  {0x0001, 0x1p-24f}, {0x03ff, 0x3ffp-24f}, {0x8400, -0x1p-14f},
                  {0x8000, -0.0f},    {0xfc00, -INFINITY},  {0x3555, 0x1.554p-2f}};
    for (size_t k = 0; k < COUNT_OF(halves); k++) {
        put_value("F16", 2, halves[k].half, "");
        assert_ok(bn_layer_load_safetensors(&layer, path, ""));
        assert_same_bits(layer.gamma, &halves[k].value, 1);
        assert_same_bits(layer.running_var, &halves[k].value, 1);
        assert_int_equal(layer.num_batches_tracked, 0); /* the file has none */
    }
    put_value("BF16", 2, 0xc040, "");
    assert_ok(bn_layer_load_safetensors(&layer, path, ""));
    assert_true(layer.beta[0] == -3.0f);
    put_value("F16", 2, 0x7e00, "");
    assert_ok(bn_layer_load_safetensors(&layer, path, ""));
    assert_true(isnan(layer.beta[0]));

    ref_random random = {4};
    double doubles[4000] = {0,
                            -0.0,
                            1.0 / 3,
                            0x1.000001p0,
                            0x1.000003p0,
                            0x1p-149,
                            0x1p-150,
                            0x1.8p-149,
                            0x1.0001p-150,
                            FLT_MAX,
                            -DBL_MIN,
                            0x1p-1074,
                            0x1.fffffep-127,
                            0x1.ffffffp-127,
                            INFINITY,
                            -FLT_MAX,
                            0x1.fffffefffffffp127};
    for (size_t k = 17; k < COUNT_OF(doubles); k++) {
        doubles[k] = ldexp(1 + ref_uniform(&random), (int)(k % 280) - 152);
    }
    for (size_t k = 0; k < COUNT_OF(doubles); k++) {
        const float want = (float)doubles[k];
        const bool good = isinf(doubles[k]) || !isinf(want);
        put_value("F64", 8, bits_of(doubles[k]), "");
        if (good) {
            assert_ok(bn_layer_load_safetensors(&layer, path, ""));
            assert_same_bits(layer.gamma, &want, 1);
        } else {
            assert_refused(&layer, "", BN_STATUS_BAD_FORMAT);
        }
    }
    static const double beyond[] = {0x1.ffffffp127, -0x1p128, 1e300, DBL_MAX};
    for (size_t k = 0; k < COUNT_OF(beyond); k++) {
        put_value("F64", 8, bits_of(beyond[k]), "");
        assert_refused(&layer, "", BN_STATUS_BAD_FORMAT);
    }
    put_value("F64", 8, 0x7ff0000000000001u, ""); /* whose bits do not fit a float's */
    assert_ok(bn_layer_load_safetensors(&layer, path, ""));
    assert_true(isnan(layer.gamma[0]));
    static const char *const wrong[] = {"I32", "U32", "I64", "BOOL", "F8_E4M3"};
    static const size_t bytes[] = {4, 4, 8, 1, 1};
    for (size_t k = 0; k < COUNT_OF(wrong); k++) {
        put_value(wrong[k], bytes[k], 0, "");
        assert_refused(&layer, "", BN_STATUS_BAD_FORMAT);
    }
    bn_layer_free(&layer);
}

/* ---- Options --------------------------------------------------------------------------------- */

static void options_of_another_layer_are_seen(void **state) {
    (void)state;
    bn_layer saved = new_layer(D, NULL, 1), layer = new_layer(D, NULL, 2);
    assert_ok(bn_layer_save_safetensors(&saved, path, "a"));
    layer.options.eps = 1e-3f;
    assert_refused(&layer, "a", BN_STATUS_BAD_OPTION);
    layer.options.eps = 1e-5f;
    layer.options.momentum = 0.99f;
    assert_refused(&layer, "a", BN_STATUS_BAD_OPTION);
    layer.options.momentum = BN_MOMENTUM_CUMULATIVE;
    assert_refused(&layer, "a", BN_STATUS_BAD_OPTION);
    assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
    assert_refused(&saved, "a", BN_STATUS_BAD_OPTION);
    assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    bn_layer_free(&layer);

    bn_options options = bn_options_default();
    options.inference_only = true; /* it has no use for momentum, but for eps */
    layer = new_layer(D, &options, 2);
    assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    layer.options.eps = 0;
    assert_refused(&layer, "a", BN_STATUS_BAD_OPTION);
    assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
    assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    bn_layer_free(&layer);
    bn_layer_free(&saved);
}

static void any_option_is_read_back(void **state) {
    (void)state;
    bn_layer layer = new_layer(D, NULL, 2);
    static const float eps[] = {0, 1e-5f, 1e-3f, 0x1p-149f, FLT_MIN, FLT_MAX, 1, 1234567};
    static const float momenta[] = {0, 1, 0.9f, 0.99f, 0x1p-149f, -1, 1.0f - 0x1p-24f};
    for (size_t k = 0; k < COUNT_OF(eps) * COUNT_OF(momenta); k++) {
        layer.options.eps = eps[k % COUNT_OF(eps)];
        layer.options.momentum = momenta[k / COUNT_OF(eps)];
        assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
        assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    }
    static const float bad[] = {-1e-5f, INFINITY, NAN};
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        layer.options.eps = bad[k];
        assert_status(bn_layer_save_safetensors(&layer, path, "a"), BN_STATUS_BAD_OPTION);
        layer.options.eps = 1;
        layer.options.momentum = 2 * bad[k];
        assert_status(bn_layer_save_safetensors(&layer, path, "a"), BN_STATUS_BAD_OPTION);
        layer.options.momentum = 1;
    }
    bn_layer_free(&layer);
}

static void options_are_numbers(void **state) {
    (void)state;
    bn_layer layer = new_layer(1, NULL, 3);
    static const char *const good[] = {
        "1e-05", "1E-5", "0.00001", "10e-6", "0.000010000000000001", "9.99999975e-06"};
    static const char *const bad[] = {"",     "x",     "1e-5 ", " 1e-5", "+1e-5", "1,5", "0x1p-5",
                                      "nan",  "inf",   ".5",    "1.",    "1e",    "1e+", "--1",
                                      "1.e5", "1e-5x", "1.5.5", "\\t1",  "1e1.5", "1_0"};
    char metadata[256];
    for (size_t k = 0; k < COUNT_OF(good) + COUNT_OF(bad); k++) {
        const bool is_good = k < COUNT_OF(good);
        const char *const text = is_good ? good[k] : bad[k - COUNT_OF(good)];
        snprintf(metadata, sizeof metadata, "\"__metadata__\":{\"eps\":\"%s\"}", text);
        put_value("F32", 4, 0, metadata);
        if (is_good) {
            assert_ok(bn_layer_load_safetensors(&layer, path, ""));
        } else {
            assert_refused(&layer, "", BN_STATUS_BAD_FORMAT);
        }
    }
    put_value("F32", 4, 0, "\"__metadata__\":{\"eps\":\"7\",\"momentum\":\"x\"}");
    assert_refused(&layer, "", BN_STATUS_BAD_FORMAT);
    bn_layer_free(&layer);
}

/* Where there is a locale that writes 0,5. */
static void no_locale_matters(void **state) {
    (void)state;
    static const char *const locales[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    size_t k = 0;
    while (k < COUNT_OF(locales) && setlocale(LC_NUMERIC, locales[k]) == NULL) {
        k++;
    }
    char text[8];
    snprintf(text, sizeof text, "%.1f", 0.5);
    if (text[1] == '.') {
        print_message("no locale with a decimal comma: skipped\n");
        skip();
    }
    static content c;
    bn_layer layer = new_layer(D, NULL, 2);
    layer.options.eps = 1.5f;
    assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
    get(&c);
    c.bytes[c.count] = '\0';
    assert_non_null(strstr((char *)c.bytes + 8, "\"a.eps\":\"1.5\""));
    assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    setlocale(LC_NUMERIC, "C");
    assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    bn_layer_free(&layer);
}

/* ---- Bad arguments --------------------------------------------------------------------------- */

static void bad_arguments_have_their_status(void **state) {
    (void)state;
    bn_layer layer = new_layer(D, NULL, 2), none;
    memset(&none, 0, sizeof none);
    assert_status(bn_layer_save_safetensors(NULL, path, "a"), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_save_safetensors(&layer, NULL, "a"), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_save_safetensors(&layer, path, NULL), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_load_safetensors(NULL, path, "a"), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_load_safetensors(&layer, NULL, "a"), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_load_safetensors(&layer, path, NULL), BN_STATUS_NULL_POINTER);
    assert_status(bn_layer_save_safetensors(&none, path, "a"), BN_STATUS_BAD_STATE);
    assert_status(bn_layer_load_safetensors(&none, path, "a"), BN_STATUS_BAD_STATE);
    static const char *const bad[] = {"\xff",
                                      "a\xc3",
                                      "\xc0\x80",
                                      "\xed\xa0\x80",
                                      "\xe0\x80\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf0\x80\x80\x80"};
    for (size_t k = 0; k < COUNT_OF(bad); k++) {
        assert_status(bn_layer_save_safetensors(&layer, path, bad[k]), BN_STATUS_BAD_OPTION);
        assert_status(bn_layer_load_safetensors(&layer, path, bad[k]), BN_STATUS_BAD_OPTION);
    }
    char *const endless = malloc(20000001);
    assert_non_null(endless);
    memset(endless, 'n', 20000000);
    endless[20000000] = '\0'; /* seven times */
    assert_status(bn_layer_save_safetensors(&layer, path, endless), BN_STATUS_BAD_OPTION);
    free(endless);
    assert_int_equal(access(path, F_OK), -1);
    bn_layer_free(&layer);
}

static void what_is_no_file_is_neither_read_nor_written(void **state) {
    (void)state;
    bn_layer layer = new_layer(D, NULL, 2);
    char missing[160];
    snprintf(missing, sizeof missing, "%s/no/such/folder", directory);
    assert_int_equal(mkfifo(other_path, 0600), 0);
    const char *const paths[] = {directory, other_path, "/dev/null", "", missing};
    for (size_t k = 0; k < COUNT_OF(paths); k++) {
        assert_status(bn_layer_save_safetensors(&layer, paths[k], "a"), BN_STATUS_IO);
        assert_status(bn_layer_load_safetensors(&layer, paths[k], "a"), BN_STATUS_IO);
    }
    assert_refused(&layer, "a", BN_STATUS_IO);
    bn_layer_free(&layer);
}

/* ---- Hostile files --------------------------------------------------------------------------- */

/* Neither call takes it, and both leave everything. */
static void assert_hostile(const content *c) {
    bn_layer layer = new_layer(2, NULL, 3);
    put(c);
    assert_refused(&layer, "a", BN_STATUS_BAD_FORMAT);
    assert_status(bn_layer_save_safetensors(&layer, path, "b"), BN_STATUS_BAD_FORMAT);
    assert_file_is(c);
    bn_layer_free(&layer);
}

#define F32_2(from, to) "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" #from "," #to "]}"

static void hostile_headers_are_refused(void **state) {
    (void)state;
    /* Each is of 16 bytes of data; the first is one that is good. */
    static const char *const headers[] = {
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "",
        "{",
        "{}",
        "[]",
        " {\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}x",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) ",}",
        "{,\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"x\":" F32_2(0, 8) " \"y\":" F32_2(8, 16) "}",
        "{\"x\":" F32_2(0, 8) ",,\"y\":" F32_2(8, 16) "}",
        "{\"x\"" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{x:" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) F32_2(8, 16) "}",
        "{\"x\":" F32_2(0, 8) ",\"x\":" F32_2(8, 16) "}",       /* twice */
        "{\"x\":" F32_2(0, 8) ",\"\\u0078\":" F32_2(8, 16) "}", /* in other words */
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(0, 8) "}",        /* overlap */
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(7, 15) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(9, 17) "}", /* a hole, and beyond */
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(16, 24) "}",
        "{\"x\":" F32_2(8, 16) "}",
        "{\"x\":" F32_2(0, 8) "}", /* data that is nobody's */
        "{\"x\":" F32_2(0, 16) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(16, 8) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 18446744073709551632) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16.0) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 1.6e1) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 016) "}",
        "{\"x\":" F32_2(-8, 8) "}",
        "{\"x\":" F32_2(0, 8) ",\"y\":" F32_2(
            8, 16) ",\"e\":{\"dtype\":\"U8\",\"shape\":[0,"
                   "9007199254740992],\"data_offsets\":[0,0]}}", /* not exact in a double */
        "{\"x\":{\"dtype\":\"U8\",\"shape\":[16,17,241,61681,4562284561]," /* 2^64 + 16 */
        "\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F64\",\"shape\":[2305843009213693954],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"U8\",\"shape\":[4503599627370496,4503599627370496,0],"
        "\"data_offsets\":[0,0]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[5],\"data_offsets\":[0,16]}}", /* length by shape */
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4]}}", /* not all of it */
        "{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}",
        "{\"x\":{\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16],\"more\":\"\"}}",
        "{\"x\":{\"dtype\":4,\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":[\"F32\"],\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":\"4\",\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[\"4\"],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4,],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4 4],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[[4]],\"data_offsets\":[0,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,8,16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[]}}",
        "{\"x\":[\"F32\",[4],[0,16]]}",
        "{\"x\":\"F32\"}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[4},\"data_offsets\":[0,16]]}",
        "{\"x\\u0000\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\\ud83d\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\\x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\xff\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"x\n\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"__metadata__\":{\"k\":1},\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"__metadata__\":{\"k\":[]},\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"__metadata__\":{\"k\":\"\",\"k\":\"\"},\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"__metadata__\":{},\"__metadata__\":{},\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"__metadata__\":{\"k\":\"\"\"l\"},\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"__metadata__\":\"\",\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}",
        "{\"__metadata__\":null,\"x\":" F32_2(0, 8) ",\"y\":" F32_2(8, 16) "}"};
    static content c;
    bn_layer layer = new_layer(2, NULL, 3);
    for (size_t k = 0; k < COUNT_OF(headers); k++) {
        begin(&c, headers[k], strlen(headers[k]));
        append_bytes(&c, "0123456789abcdef", 16);
        if (k == 0) {
            put(&c);
            assert_ok(bn_layer_save_safetensors(&layer, path, "b"));
        } else {
            assert_hostile(&c);
        }
    }
    static const char nul[] = "{\"x\":{\"dtype\":\"U8\",\"shape\":[16],\0\"data_offsets\":[0,16]}}";
    begin(&c, nul, sizeof nul - 1);
    append_bytes(&c, "0123456789abcdef", 16);
    assert_hostile(&c);
    bn_layer_free(&layer);
}

static void hostile_lengths_are_refused(void **state) {
    (void)state;
    static content c;
    static const uint64_t lengths[] = {3, 100000001, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
    for (size_t k = 0; k < COUNT_OF(lengths); k++) {
        begin(&c, "{}", 2);
        for (size_t b = 0; b < 8; b++) {
            c.bytes[b] = (unsigned char)(lengths[k] >> (8 * b));
        }
        assert_hostile(&c);
    }
}

/* A small file, whole and good. */
static void make_good(content *c, bn_layer *layer) {
    *layer = new_layer(2, NULL, 3);
    assert_ok(bn_layer_save_safetensors(layer, path, "a"));
    get(c);
}

static void truncated_anywhere_is_refused(void **state) {
    (void)state;
    static content c;
    bn_layer layer;
    make_good(&c, &layer);
    const size_t whole = c.count;
    for (c.count = 0; c.count < whole; c.count++) {
        assert_hostile(&c);
    }
    c.bytes[c.count++] = 0; /* and one byte too many */
    assert_hostile(&c);
    bn_layer_free(&layer);
}

static void any_bit_may_be_another(void **state) {
    (void)state;
    static content c;
    bn_layer layer, other = new_layer(2, NULL, 4);
    make_good(&c, &layer);
    for (size_t bit = 0; bit < 8 * c.count; bit++) {
        c.bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        put(&c);
        snapshot before = snapshot_take(&other);
        const bn_status status = bn_layer_load_safetensors(&other, path, "a");
        if (status != BN_STATUS_OK) {
            assert_true(status == BN_STATUS_BAD_FORMAT || status == BN_STATUS_BAD_OPTION);
            snapshot_check(&before, &other);
        }
        snapshot_free(&before);
        fill(&other, 4);
        c.bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

/* ---- Large headers --------------------------------------------------------------------------- */

enum { LARGE = 20000000 };

/* What a call on such a file takes must be far from what anything quadratic, or a parsed copy of it all,
 * would: seconds, with instrumented code too. */
static void check_fast(const char *header, size_t length, bn_status expected) {
    unsigned char bytes[8];
    for (size_t k = 0; k < 8; k++) {
        bytes[k] = (unsigned char)((uint64_t)length >> (8 * k));
    }
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, 8, file), 8);
    assert_int_equal(fwrite(header, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    bn_layer layer = new_layer(1, NULL, 3);
    const clock_t start = clock();
    assert_refused(&layer, "a", BN_STATUS_BAD_FORMAT); /* at least: it is not in there */
    assert_status(bn_layer_save_safetensors(&layer, path, "a"), expected);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 60);
    if (expected == BN_STATUS_OK) {
        assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    }
    bn_layer_free(&layer);
}

static size_t repeated(char *to, const char *first, const char *each, size_t times,
                       const char *last) {
    size_t used = (size_t)sprintf(to, "%s", first);
    for (size_t k = 0; k < times; k++) {
        used += (size_t)sprintf(to + used, each, k);
    }
    return used + (size_t)sprintf(to + used, "%s", last);
}

static void large_headers_are_fast(void **state) {
    (void)state;
    static const char empty[] = ",\"n%zu\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
    char *const header = malloc(LARGE);
    assert_non_null(header);
    check_fast(header, repeated(header, "{\"__metadata__\":{}", empty, 100000, "}"), BN_STATUS_OK);
    check_fast(header,
               repeated(header, "{\"__metadata__\":{\"k\":\"\"", ",\"%zu\":\"\"", 300000, "}}"),
               BN_STATUS_OK);
    check_fast(header,
               repeated(header, "{\"x\":{\"dtype\":\"U8\",\"shape\":[0", ",0", 5000000,
                        "],\"data_offsets\":[0,0]}}"),
               BN_STATUS_BAD_FORMAT);
    check_fast(header, repeated(header, "{\"x\":", "[", 5000000, ""), BN_STATUS_BAD_FORMAT);
    check_fast(header, repeated(header, "{", "{", 5000000, ""), BN_STATUS_BAD_FORMAT);
    check_fast(header, repeated(header, "{", "\"\":\"\",", 1000000, "\"\":\"\"}"),
               BN_STATUS_BAD_FORMAT);
    check_fast(header, repeated(header, "{", " ", 5000000, "}"), BN_STATUS_OK);
    free(header);
}

/* ---- Failures -------------------------------------------------------------------------------- */

/* The calls of the system's that saving makes over a file, and may fail: mode, header, tensors; sync,
 * close, rename, sync. */
enum { STEPS = 1 + 1 + 5 + 4 };

/* Lets the first of them fail, then the second, until there is none left. */
static void a_failure_leaves_the_file(void **state) {
    (void)state;
    static content c;
    bn_layer layer, other = new_layer(2, NULL, 4);
    make_good(&c, &layer);
    bn_status status = BN_STATUS_IO;
    size_t failures = 0;
    for (size_t k = 1; status != BN_STATUS_OK; k++) {
        put(&c);
        system_calls = 0;
        failing = k;
        status = bn_layer_save_safetensors(&other, path, "a");
        failing = 0;
        if (status != BN_STATUS_OK) {
            assert_status(status, BN_STATUS_IO);
            failures++;
            if (k < STEPS) { /* at the last the new one is in its place */
                assert_file_is(&c);
            }
        }
        assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    }
    assert_same_layer(&layer, &other);
    assert_int_equal(failures, STEPS);
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

/* How many files of the kind that a crash leaves are in the folder; then they are gone. */
static size_t remove_drafts(void) {
    size_t drafts = 0;
    DIR *const folder = opendir(directory);
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (strncmp(entry->d_name, ".batchnorm-", 11) == 0) {
            assert_int_equal(unlinkat(dirfd(folder), entry->d_name, 0), 0);
            drafts++;
        }
    }
    closedir(folder);
    return drafts;
}

/* Says whether a process that saves ended before its call number k; that it failed ends the test. */
static bool dies_at(size_t k, const bn_layer *layer) {
    enum { DONE = 1, BROKEN };
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        system_calls = 0;
        dying = k;
        _exit(bn_layer_save_safetensors(layer, path, "a") == BN_STATUS_OK ? DONE : BROKEN);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) != BROKEN);
    return WEXITSTATUS(status) != DONE;
}

/* Over a file and where there was none: the old one or the new one is there, and whoever saves next is
 * not in the way of what was left. */
static void a_crash_leaves_the_old_or_the_new_file(void **state) {
    (void)state;
    static content c;
    bn_layer layer, other = new_layer(2, NULL, 4);
    make_good(&c, &layer);
    for (size_t steps = STEPS; steps >= STEPS - 1; steps--) { /* a new file's mode is not set */
        const bool over = steps == STEPS;
        size_t k = 1;
        for (bool died = true; died; k++) {
            no_files(NULL);
            if (over) {
                put(&c);
            }
            died = dies_at(k, &other);
            if (k >= steps) { /* renamed */
                assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
                assert_same_layer(&layer, &other);
            } else if (over) {
                assert_file_is(&c);
            } else {
                assert_int_equal(access(path, F_OK), -1);
            }
        }
        assert_int_equal(k - 2, steps);
        assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
        assert_int_equal(remove_drafts(), steps - 1);
    }
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

/* One that had this process's number. */
static void what_a_crash_left_stays(void **state) {
    (void)state;
    char left[160];
    struct stat about;
    bn_layer layer = new_layer(D, NULL, 1);
    snprintf(left, sizeof left, "%s/.batchnorm-%ld-0.tmp", directory, (long)getpid());
    assert_int_equal(symlink(other_path, left), 0); /* nor is it followed */
    assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
    assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    assert_int_equal(lstat(left, &about), 0);
    assert_int_equal(access(other_path, F_OK), -1);
    assert_int_equal(remove_drafts(), 1);
    bn_layer_free(&layer);
}

/* Behind so many bytes of a file there is no room. */
static bn_status save_into(rlim_t room, const bn_layer *layer) {
    struct rlimit before, limit;
    void (*const action)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = room;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const bn_status status = bn_layer_save_safetensors(layer, path, "a");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, action);
    return status;
}

static void a_full_disk_leaves_the_file(void **state) {
    (void)state;
    static content c;
    bn_layer layer, other = new_layer(2, NULL, 4);
    make_good(&c, &layer);
    for (rlim_t room = 0; room <= c.count; room++) {
        const bool enough = room == c.count;
        assert_status(save_into(room, &other), enough ? BN_STATUS_OK : BN_STATUS_IO);
        if (!enough) {
            assert_file_is(&c);
            assert_int_equal(remove_drafts(), 0);
        }
    }
    assert_ok(bn_layer_load_safetensors(&layer, path, "a"));
    assert_same_layer(&layer, &other);
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

/* For whoever is not root, whom nothing is denied. */
static void what_is_not_permitted_leaves_everything(void **state) {
    (void)state;
    enum { NOBODY = 65534 };
    static const mode_t modes[] = {0, 0444};
    static content c;
    bn_layer layer, other = new_layer(2, NULL, 4);
    make_good(&c, &layer);
    const uid_t user = geteuid();
    for (size_t k = 0; k < COUNT_OF(modes); k++) {
        assert_int_equal(chmod(path, modes[k]), 0);
        assert_int_equal(chmod(directory, 0555), 0);
        snapshot before = snapshot_take(&other);
        assert_int_equal(user == 0 ? seteuid(NOBODY) : 0, 0);
        const bn_status over = bn_layer_save_safetensors(&other, path, "a");
        const bn_status beside = bn_layer_save_safetensors(&other, other_path, "a");
        const bn_status load = bn_layer_load_safetensors(&other, path, "a");
        assert_int_equal(user == 0 ? seteuid(0) : 0, 0);
        assert_int_equal(chmod(directory, 0700), 0);
        assert_int_equal(chmod(path, 0600), 0);
        assert_status(over, BN_STATUS_IO);
        assert_status(beside, BN_STATUS_IO);
        assert_status(load, modes[k] == 0 ? BN_STATUS_IO : BN_STATUS_OK);
        if (load != BN_STATUS_OK) {
            snapshot_check(&before, &other);
        }
        snapshot_free(&before);
        assert_file_is(&c);
        assert_int_equal(access(other_path, F_OK), -1);
    }
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

static void calls_that_are_interrupted_go_on(void **state) {
    (void)state;
    static content c;
    bn_layer layer, other = new_layer(2, NULL, 3);
    make_good(&c, &layer);
    no_files(NULL);
    hesitating = true;
    const bn_status saved = bn_layer_save_safetensors(&layer, path, "a");
    const bn_status loaded = bn_layer_load_safetensors(&other, path, "a");
    const bn_status again = bn_layer_save_safetensors(&layer, path, "a");
    hesitating = false;
    assert_ok(saved);
    assert_ok(loaded);
    assert_ok(again);
    assert_file_is(&c);
    assert_same_layer(&other, &layer);
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

/* Another process cuts it once its size is known, or the disk gives no more of it. */
static void a_file_that_ends_too_soon_is_no_file(void **state) {
    (void)state;
    static content c;
    bn_layer layer, other = new_layer(2, NULL, 3);
    make_good(&c, &layer);
    for (size_t k = 0; k < 2 * c.count; k++) {
        snapshot before = snapshot_take(&other);
        readable = (off_t)(k / 2);
        broken = k % 2;
        const bn_status loaded = bn_layer_load_safetensors(&other, path, "a");
        const bn_status saved = bn_layer_save_safetensors(&layer, path, "b");
        readable = -1;
        assert_status(loaded, BN_STATUS_IO);
        assert_status(saved, BN_STATUS_IO);
        snapshot_check(&before, &other);
        snapshot_free(&before);
        assert_file_is(&c);
    }
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

static size_t open_files(void) {
    size_t files = 0;
    DIR *const folder = opendir("/dev/fd");
    assert_non_null(folder);
    while (readdir(folder) != NULL) {
        files++;
    }
    closedir(folder);
    return files;
}

/* A call with its allocation number k, or all from there on, failing: it is out of memory, or does
 * without. Says whether there is such an allocation. */
static bool starves(size_t k, bool for_good, bn_layer *layer,
                    bn_status (*call)(bn_layer *, const char *, const char *), bn_status *status) {
    const long memory = kept;
    const size_t files = open_files();
    allocations = 0;
    starving = k;
    starved = for_good;
    *status = call(layer, path, "a");
    starving = 0;
    assert_int_equal(kept, memory);
    assert_int_equal(open_files(), files);
    const bool failed = allocations >= k;
    if (*status != BN_STATUS_OK || (failed && for_good)) {
        assert_status(*status, BN_STATUS_OUT_OF_MEMORY);
    }
    return failed;
}

static bn_status save_layer(bn_layer *layer, const char *to, const char *name) {
    return bn_layer_save_safetensors(layer, to, name);
}

/* The file has tensors and metadata of others, whose names are taken from JSON. */
static void short_memory_leaves_layer_and_file(void **state) {
    (void)state;
    static content c;
    bn_layer layer = new_layer(D, NULL, 9), other = new_layer(D, NULL, 10);
    begin(&c, others, sizeof others - 1);
    append_bytes(&c, others_data, sizeof others_data - 1);
    put(&c);
    assert_ok(bn_layer_save_safetensors(&layer, path, "a"));
    get(&c);
    for (int for_good = 0; for_good < 2; for_good++) {
        bn_status status;
        size_t k = 1;
        for (; starves(k, for_good, &other, save_layer, &status); k++) {
            if (status != BN_STATUS_OK) {
                assert_file_is(&c);
            }
            put(&c);
        }
        assert_true(k > 10);
        put(&c);
        fill(&other, 10);
        snapshot before = snapshot_take(&other);
        for (k = 1; starves(k, for_good, &other, bn_layer_load_safetensors, &status); k++) {
            if (status != BN_STATUS_OK) {
                snapshot_check(&before, &other);
            } else {
                assert_same_layer(&other, &layer);
                fill(&other, 10);
            }
        }
        assert_true(k > 10);
        assert_same_layer(&other, &layer);
        snapshot_free(&before);
    }
    bn_layer_free(&layer);
    bn_layer_free(&other);
}

/* ---- Several at once ------------------------------------------------------------------------- */

enum { SAVERS = 4, TIMES = 50 };

static void *save_often(void *argument) {
    bn_layer *const layer = argument;
    size_t bad = 0;
    for (int k = 0; k < TIMES; k++) {
        bad += bn_layer_save_safetensors(layer, path, "a") != BN_STATUS_OK;
    }
    layer->frozen = bad > 0;
    return NULL;
}

static void the_last_one_wins(void **state) {
    (void)state;
    pthread_t threads[SAVERS];
    bn_layer layers[SAVERS], loaded = new_layer(2000, NULL, 1);
    for (size_t k = 0; k < SAVERS; k++) {
        layers[k] = new_layer(2000, NULL, k + 2);
    }
    assert_ok(bn_layer_save_safetensors(&layers[0], path, "a"));
    for (size_t k = 0; k < SAVERS; k++) {
        assert_int_equal(pthread_create(&threads[k], NULL, save_often, &layers[k]), 0);
    }
    for (int k = 0; k < TIMES; k++) {
        assert_ok(bn_layer_load_safetensors(&loaded, path, "a"));
        assert_same_layer(&loaded, &layers[loaded.num_batches_tracked - 2]);
    }
    for (size_t k = 0; k < SAVERS; k++) {
        assert_int_equal(pthread_join(threads[k], NULL), 0);
        assert_false(layers[k].frozen);
        bn_layer_free(&layers[k]);
    }
    bn_layer_free(&loaded);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, no_files, nothing_else)
    const struct CMUnitTest tests[] = {
        TEST(what_is_saved_is_loaded),
        TEST(special_values_and_counts_stay),
        TEST(the_callers_arrays_are_as_good),
        TEST(arrays_that_overlap_are_not_loaded),
        TEST(what_a_loaded_layer_does_is_the_files),
        TEST(saving_keeps_what_is_not_the_layers),
        TEST(saving_removes_what_the_layer_has_not),
        TEST(new_files_have_the_permissions_of_new_files),
        TEST(links_are_followed),
        TEST(a_path_without_a_folder_is_here),
        TEST(other_types_are_rounded_to_floats),
        TEST(options_of_another_layer_are_seen),
        TEST(any_option_is_read_back),
        TEST(options_are_numbers),
        TEST(no_locale_matters),
        TEST(bad_arguments_have_their_status),
        TEST(what_is_no_file_is_neither_read_nor_written),
        TEST(hostile_headers_are_refused),
        TEST(hostile_lengths_are_refused),
        TEST(truncated_anywhere_is_refused),
        TEST(any_bit_may_be_another),
        TEST(large_headers_are_fast),
        TEST(a_failure_leaves_the_file),
        TEST(a_crash_leaves_the_old_or_the_new_file),
        TEST(what_a_crash_left_stays),
        TEST(a_full_disk_leaves_the_file),
        TEST(what_is_not_permitted_leaves_everything),
        TEST(calls_that_are_interrupted_go_on),
        TEST(a_file_that_ends_too_soon_is_no_file),
        TEST(short_memory_leaves_layer_and_file),
        TEST(the_last_one_wins),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
