/* See header.h. */
#include "header.h"

#include <stdlib.h>
#include <string.h>

/* ---- One tensor ------------------------------------------------------------------------------ */

/* Names of dtypes and of a tensor's members are short, escaped or not. */
enum { SHORT = 96 };

static bn_status short_string(bni_text text, char string[SHORT]) {
    return text.length > SHORT ? BN_STATUS_BAD_FORMAT : bni_json_string(text, string);
}

bn_status bni_tensor_dtype(const bni_tensor *tensor, bni_dtype *dtype) {
    char name[SHORT];
    const bn_status status = short_string(tensor->dtype, name);
    if (status == BN_STATUS_OK) {
        *dtype = bni_dtype_of(name);
    }
    return status;
}

bn_status bni_tensor_shape(const bni_tensor *tensor, uint64_t shape[BNI_MOST_DIMENSIONS],
                           size_t *dimensions) {
    return bni_json_numbers(tensor->shape, BNI_MOST_DIMENSIONS, shape, dimensions);
}

static bn_status take_offsets(bni_text text, bni_tensor *tensor) {
    uint64_t offsets[2];
    size_t count;
    const bn_status status = bni_json_numbers(text, 2, offsets, &count);
    if (status != BN_STATUS_OK || count != 2 || offsets[0] > offsets[1]) {
        return status != BN_STATUS_OK ? status : BN_STATUS_BAD_FORMAT;
    }
    tensor->begin = offsets[0];
    tensor->end = offsets[1];
    return BN_STATUS_OK;
}

/* The three members, each once and nothing else: what is not known could not be kept. */
static bn_status take_tensor(bni_text value, bni_tensor *tensor) {
    bni_text key, offsets = {NULL, 0};
    bni_members members = bni_members_of(value);
    while (bni_members_next(&members, &key, &value)) {
        char name[SHORT];
        const bn_status status = short_string(key, name);
        if (status != BN_STATUS_OK) {
            return status;
        }
        bni_text *const place = strcmp(name, "dtype") == 0          ? &tensor->dtype
                                : strcmp(name, "shape") == 0        ? &tensor->shape
                                : strcmp(name, "data_offsets") == 0 ? &offsets
                                                                    : NULL;
        if (place == NULL || place->at != NULL) {
            return BN_STATUS_BAD_FORMAT;
        }
        *place = value;
    }
    if (members.failed || tensor->dtype.at == NULL || tensor->shape.at == NULL ||
        offsets.at == NULL) {
        return BN_STATUS_BAD_FORMAT;
    }
    return take_offsets(offsets, tensor);
}

/* A shape whose product overflows on its way is none, even where a zero follows. */
static bool has_length_of_shape(const bni_tensor *tensor, const uint64_t *shape,
                                size_t dimensions) {
    uint64_t bytes = tensor->element_bytes;
    for (size_t k = 0; k < dimensions; k++) {
        if (shape[k] != 0 && bytes > UINT64_MAX / shape[k]) {
            return false;
        }
        bytes *= shape[k];
    }
    return bytes == tensor->end - tensor->begin;
}

static bn_status check_tensor(bni_tensor *tensor) {
    bni_dtype dtype;
    uint64_t shape[BNI_MOST_DIMENSIONS];
    size_t dimensions = 0;
    bn_status status = bni_tensor_dtype(tensor, &dtype);
    if (status == BN_STATUS_OK) {
        tensor->element_bytes = dtype.bytes;
        status = bni_tensor_shape(tensor, shape, &dimensions);
    }
    if (status == BN_STATUS_OK && dtype.bytes > 0 &&
        !has_length_of_shape(tensor, shape, dimensions)) {
        status = BN_STATUS_BAD_FORMAT;
    }
    return status;
}

/* ---- All of them ----------------------------------------------------------------------------- */

/* A tensor's member is no shorter; one more may be the metadata. */
enum { SHORTEST = sizeof "\"\":{\"dtype\":\"\",\"shape\":[],\"data_offsets\":[0,0]}" - 1 };

static size_t members_in(bni_text object) {
    size_t count = 0;
    bni_text key, value;
    for (bni_members m = bni_members_of(object); bni_members_next(&m, &key, &value);) {
        count++;
    }
    return count;
}

/* Decodes a key into *names, from where the next one's place is behind it. */
static bn_status take_name(bni_text key, char **names, const char **name) {
    *name = *names;
    const bn_status status = bni_json_string(key, *names);
    if (status == BN_STATUS_OK) {
        *names += strlen(*names) + 1;
    }
    return status;
}

static bn_status take_entries(bni_header *header, bni_text object, char **names) {
    if (header->entries != NULL) {
        return BN_STATUS_BAD_FORMAT; /* a second time */
    }
    header->entries = malloc((members_in(object) + 1) * sizeof *header->entries);
    if (header->entries == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    bn_status status = BN_STATUS_OK;
    bni_members members = bni_members_of(object);
    bni_entry entry;
    while (status == BN_STATUS_OK && bni_members_next(&members, &entry.key, &entry.value)) {
        status = take_name(entry.key, names, &entry.name);
        if (status == BN_STATUS_OK) { /* for a look only: what follows goes over it */
            status = bni_json_string(entry.value, *names);
        }
        header->entries[header->entry_count++] = entry;
    }
    return members.failed ? BN_STATUS_BAD_FORMAT : status;
}

static bn_status take_members(bni_header *header, bni_text text) {
    bn_status status = BN_STATUS_OK;
    bni_text key, value;
    char *names = header->names;
    bni_members members = bni_members_of(text);
    while (status == BN_STATUS_OK && bni_members_next(&members, &key, &value)) {
        bni_tensor tensor = {.key = key};
        status = take_name(key, &names, &tensor.name);
        if (status == BN_STATUS_OK && strcmp(tensor.name, "__metadata__") == 0) {
            status = take_entries(header, value, &names);
            continue;
        }
        if (status == BN_STATUS_OK) {
            status = take_tensor(value, &tensor);
        }
        if (status == BN_STATUS_OK) {
            status = check_tensor(&tensor);
        }
        header->tensors[header->tensor_count++] = tensor;
    }
    return members.failed ? BN_STATUS_BAD_FORMAT : status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const bni_tensor *)a)->name, ((const bni_tensor *)b)->name);
}

static int entries_by_name(const void *a, const void *b) {
    return strcmp(((const bni_entry *)a)->name, ((const bni_entry *)b)->name);
}

/* Empty ones before the one that begins where they are. */
static int by_place(const void *a, const void *b) {
    const bni_tensor *const s = a, *const t = b;
    const int begins = (s->begin > t->begin) - (s->begin < t->begin);
    return begins != 0 ? begins : (s->end > t->end) - (s->end < t->end);
}

/* One behind the other, from the first byte to the last. */
static bool fill_the_data(bni_header *header, uint64_t data_bytes) {
    qsort(header->tensors, header->tensor_count, sizeof *header->tensors, by_place);
    uint64_t end = 0;
    for (size_t k = 0; k < header->tensor_count; k++) {
        if (header->tensors[k].begin != end) {
            return false;
        }
        end = header->tensors[k].end;
    }
    return end == data_bytes;
}

static bool have_names_of_their_own(bni_header *header) {
    qsort(header->tensors, header->tensor_count, sizeof *header->tensors, by_name);
    for (size_t k = 1; k < header->tensor_count; k++) {
        if (by_name(&header->tensors[k - 1], &header->tensors[k]) == 0) {
            return false;
        }
    }
    if (header->entries != NULL) {
        qsort(header->entries, header->entry_count, sizeof *header->entries, entries_by_name);
    }
    for (size_t k = 1; k < header->entry_count; k++) {
        if (entries_by_name(&header->entries[k - 1], &header->entries[k]) == 0) {
            return false;
        }
    }
    return true;
}

bn_status bni_header_parse(bni_header *header, size_t length, uint64_t data_bytes) {
    const bni_text text = {header->text, length};
    if (!bni_json_scan(text)) {
        return BN_STATUS_BAD_FORMAT;
    }
    /* What has more members than tensors have room for is refused before there is memory for them. */
    const size_t members = members_in(text);
    if (members > length / SHORTEST + 1) {
        return BN_STATUS_BAD_FORMAT;
    }
    /* A decoded name with its end is no longer than it was with its quotes; one more for an empty value
     * behind the last. */
    header->names = malloc(length + 1);
    header->tensors = malloc((members + 1) * sizeof *header->tensors);
    if (header->names == NULL || header->tensors == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    const bn_status status = take_members(header, text);
    if (status == BN_STATUS_OK &&
        (!fill_the_data(header, data_bytes) || !have_names_of_their_own(header))) {
        return BN_STATUS_BAD_FORMAT;
    }
    return status;
}

void bni_header_free(bni_header *header) {
    free(header->text);
    free(header->names);
    free(header->tensors);
    free(header->entries);
}

/* ---- Looking up ------------------------------------------------------------------------------ */

const bni_tensor *bni_header_tensor(const bni_header *header, const char *name) {
    const bni_tensor wanted = {.name = name};
    return header->tensor_count == 0
               ? NULL
               : bsearch(&wanted, header->tensors, header->tensor_count, sizeof wanted, by_name);
}

const bni_entry *bni_header_entry(const bni_header *header, const char *name) {
    const bni_entry wanted = {.name = name};
    return header->entry_count == 0 ? NULL
                                    : bsearch(&wanted, header->entries, header->entry_count,
                                              sizeof wanted, entries_by_name);
}
