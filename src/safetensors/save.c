/*
 * Saving: a new file is laid out from the layer's tensors and from what else is in the old one, written
 * beside that and put in its place.
 */
#include "batchnorm/bn_safetensors.h"

#include "file.h"
#include "names.h"

#include <cjson/cJSON.h>
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- A text that grows ----------------------------------------------------------------------- */

typedef struct growing {
    char *at;
    size_t used, room;
    bool failed; /* memory was short: what is appended is gone */
} growing;

static void append(growing *text, const char *more, size_t length) {
    if (length > text->room - text->used) {
        const size_t room = 2 * text->room + length;
        char *const at = text->failed ? NULL : realloc(text->at, room);
        if (at == NULL) {
            text->failed = true;
            return;
        }
        text->at = at;
        text->room = room;
    }
    memcpy(text->at + text->used, more, length);
    text->used += length;
}

static void append_string(growing *text, const char *more) {
    append(text, more, strlen(more));
}

static void append_text(growing *text, bni_text more) {
    append(text, more.at, more.length);
}

/* ---- What is in the new file ----------------------------------------------------------------- */

typedef struct layout {
    char *keys[BNI_NAMES]; /* the names, as JSON has them */
    uint64_t batches;
    bni_tensor *tensors;
    size_t count;
    growing header;
} layout;

static bool make_keys(layout *out, const bni_names *names) {
    for (size_t k = 0; k < BNI_NAMES; k++) {
        cJSON *const name = cJSON_CreateStringReference(names->of[k]);
        out->keys[k] = name == NULL ? NULL : cJSON_PrintUnformatted(name);
        cJSON_Delete(name);
        if (out->keys[k] == NULL) {
            return false;
        }
    }
    return true;
}

static bool is_ours(const bni_names *names, size_t first, size_t end, const char *name) {
    while (first < end && strcmp(names->of[first], name) != 0) {
        first++;
    }
    return first < end;
}

static bni_text text_of(const char *string) {
    return (bni_text){string, strlen(string)};
}

static void add_array(layout *out, const bni_names *names, size_t which, const char *shape,
                      size_t features, const float *floats) {
    if (floats != NULL) {
        out->tensors[out->count++] = (bni_tensor){.name = names->of[which],
                                                  .key = text_of(out->keys[which]),
                                                  .dtype = text_of("\"F32\""),
                                                  .shape = text_of(shape),
                                                  .element_bytes = 4,
                                                  .end = 4 * (uint64_t)features,
                                                  .floats = floats};
    }
}

static void add_count(layout *out, const bni_names *names) {
    out->tensors[out->count++] = (bni_tensor){.name = names->of[BNI_COUNT],
                                              .key = text_of(out->keys[BNI_COUNT]),
                                              .dtype = text_of("\"I64\""),
                                              .shape = text_of("[]"),
                                              .element_bytes = 8,
                                              .end = 8,
                                              .number = &out->batches};
}

static void add_kept(layout *out, const bni_names *names, const bni_header *old) {
    for (size_t k = 0; k < old->tensor_count; k++) {
        if (!is_ours(names, 0, BNI_TENSORS, old->tensors[k].name)) {
            out->tensors[out->count++] = old->tensors[k];
        }
    }
}

/* By size, so that each is at a multiple of its own; unknown ones last. */
static int by_size(const void *a, const void *b) {
    const bni_tensor *const s = a, *const t = b;
    return s->element_bytes != t->element_bytes ? (s->element_bytes < t->element_bytes ? 1 : -1)
                                                : strcmp(s->name, t->name);
}

/* ---- The new header -------------------------------------------------------------------------- */

static void append_comma(growing *text) {
    if (text->used > 0 && text->at[text->used - 1] != '{') {
        append_string(text, ",");
    }
}

static void append_option(layout *out, size_t which, float value) {
    char number[BNI_NUMBER_ROOM];
    bni_number_print(value, number);
    append_comma(&out->header);
    append_string(&out->header, out->keys[which]);
    append_string(&out->header, ":\"");
    append_string(&out->header, number);
    append_string(&out->header, "\"");
}

static void append_metadata(layout *out, const bni_names *names, const bn_layer *layer,
                            const bni_file *old) {
    append_string(&out->header, "{\"__metadata__\":{");
    if (old->fd < 0) {
        append_string(&out->header, "\"format\":\"pt\""); /* which PyTorch's readers ask for */
    }
    for (size_t k = 0; k < old->header.entry_count; k++) {
        const bni_entry *const entry = &old->header.entries[k];
        if (!is_ours(names, BNI_TENSORS, BNI_NAMES, entry->name)) {
            append_comma(&out->header);
            append_text(&out->header, entry->key);
            append_string(&out->header, ":");
            append_text(&out->header, entry->value);
        }
    }
    append_option(out, BNI_EPS, layer->options.eps);
    if (bni_uses_momentum(layer)) {
        append_option(out, BNI_MOMENTUM, layer->options.momentum);
    }
    append_string(&out->header, "}");
}

static void append_tensor(growing *text, const bni_tensor *tensor, uint64_t begin, uint64_t end) {
    char offsets[64];
    snprintf(offsets, sizeof offsets, ",\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end);
    append_string(text, ",");
    append_text(text, tensor->key);
    append_string(text, ":{\"dtype\":");
    append_text(text, tensor->dtype);
    append_string(text, ",\"shape\":");
    append_text(text, tensor->shape);
    append_string(text, offsets);
}

static bn_status make_header(layout *out, const bni_names *names, const bn_layer *layer,
                             const bni_file *old) {
    growing *const header = &out->header;
    append(header, "\0\0\0\0\0\0\0", BNI_LENGTH_BYTES); /* the length, once it is known */
    append_metadata(out, names, layer, old);
    uint64_t end = 0;
    for (size_t k = 0; k < out->count; k++) {
        const uint64_t begin = end;
        end += out->tensors[k].end - out->tensors[k].begin;
        append_tensor(header, &out->tensors[k], begin, end);
    }
    append_string(header, "}");
    while (header->used % 8 != 0 && !header->failed) {
        append_string(header, " ");
    }
    if (header->failed) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    const size_t length = header->used - BNI_LENGTH_BYTES;
    bni_le_write(length, (unsigned char *)header->at, BNI_LENGTH_BYTES);
    return length > BNI_MOST_HEADER ? BN_STATUS_BAD_OPTION : BN_STATUS_OK;
}

static bn_status lay_out(layout *out, const bni_names *names, const bn_layer *layer,
                         const bni_file *old) {
    const bni_layer_arrays arrays = bni_layer_arrays_of(layer);
    char shape[32];
    out->tensors = malloc((old->header.tensor_count + BNI_TENSORS) * sizeof *out->tensors);
    if (out->tensors == NULL || !make_keys(out, names)) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    snprintf(shape, sizeof shape, "[%zu]", layer->num_features);
    for (size_t k = 0; k < BNI_ARRAYS; k++) {
        add_array(out, names, k, shape, layer->num_features, arrays.of[k]);
    }
    if (layer->running_mean != NULL) {
        out->batches =
            layer->num_batches_tracked < INT64_MAX ? layer->num_batches_tracked : INT64_MAX;
        add_count(out, names);
    }
    add_kept(out, names, &old->header);
    qsort(out->tensors, out->count, sizeof *out->tensors, by_size);
    return make_header(out, names, layer, old);
}

static void free_layout(layout *out) {
    for (size_t k = 0; k < BNI_NAMES; k++) {
        cJSON_free(out->keys[k]);
    }
    free(out->tensors);
    free(out->header.at);
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* So many bytes of a tensor, from the layer or from the old file. */
static bn_status fetch(const bni_tensor *tensor, uint64_t at, const bni_file *old,
                       unsigned char *block, size_t bytes) {
    if (tensor->floats != NULL) {
        bni_floats_to(bytes / 4, (const unsigned char *)(const void *)tensor->floats + at, block);
    } else if (tensor->number != NULL) {
        bni_le_write(*tensor->number, block, bytes);
    } else {
        return bni_file_read(old, tensor->begin + at, block, bytes);
    }
    return BN_STATUS_OK;
}

static bn_status write_tensors(bni_draft *draft, const layout *out, const bni_file *old) {
    unsigned char *const block = malloc(BNI_BLOCK_BYTES);
    bn_status status = block == NULL ? BN_STATUS_OUT_OF_MEMORY : BN_STATUS_OK;
    for (size_t k = 0; k < out->count; k++) {
        const uint64_t bytes = out->tensors[k].end - out->tensors[k].begin;
        for (uint64_t at = 0; at < bytes && status == BN_STATUS_OK; at += BNI_BLOCK_BYTES) {
            const size_t part =
                bytes - at < BNI_BLOCK_BYTES ? (size_t)(bytes - at) : BNI_BLOCK_BYTES;
            status = fetch(&out->tensors[k], at, old, block, part);
            if (status == BN_STATUS_OK) {
                status = bni_draft_write(draft, block, part);
            }
        }
    }
    free(block);
    return status;
}

static bn_status write_file(const char *target, const layout *out, const bni_file *old) {
    bni_draft draft;
    bn_status status = bni_draft_begin(&draft, target, old->fd < 0 ? NULL : &old->mode);
    if (status == BN_STATUS_OK) {
        status = bni_draft_write(&draft, out->header.at, out->header.used);
    }
    if (status == BN_STATUS_OK) {
        status = write_tensors(&draft, out, old);
    }
    return bni_draft_end(&draft, status);
}

/* ---- The call -------------------------------------------------------------------------------- */

/* Those that a forward would refuse are not saved either. */
static bool options_good(const bn_layer *layer) {
    const float eps = layer->options.eps, momentum = layer->options.momentum;
    return eps >= 0 && eps <= FLT_MAX &&
           (!bni_uses_momentum(layer) || momentum == BN_MOMENTUM_CUMULATIVE ||
            (momentum >= 0 && momentum <= 1));
}

static bn_status save_to(const char *path, const bn_layer *layer, const bni_names *names) {
    char *target;
    bni_file old = bni_file_none();
    layout out = {{NULL}, 0, NULL, 0, {NULL, 0, 0, false}};
    bn_status status = bni_path_resolve(path, &target);
    if (status == BN_STATUS_OK && target != NULL) {
        status = bni_file_open(&old, target);
    }
    if (status == BN_STATUS_OK) {
        status = lay_out(&out, names, layer, &old);
    }
    if (status == BN_STATUS_OK) {
        status = write_file(target != NULL ? target : path, &out, &old);
    }
    free_layout(&out);
    bni_file_close(&old);
    free(target);
    return status;
}

bn_status bn_layer_save_safetensors(const bn_layer *layer, const char *path, const char *name) {
    bni_names names;
    bn_status status = bni_names_make(&names, layer, path, name);
    if (status == BN_STATUS_OK) {
        status = options_good(layer) ? save_to(path, layer, &names) : BN_STATUS_BAD_OPTION;
    }
    bni_names_free(&names);
    return status;
}
