/*
 * What a file's header says: which tensors there are and where, and the metadata.
 */
#ifndef BN_SAFETENSORS_HEADER_H
#define BN_SAFETENSORS_HEADER_H

#include "convert.h"
#include "json.h"

enum { BNI_MOST_HEADER = 100000000, BNI_MOST_DIMENSIONS = 64 };

typedef struct bni_tensor {
    const char *name;
    bni_text key, dtype, shape; /* as they are written */
    size_t element_bytes;       /* 0: not known */
    uint64_t begin, end;        /* in the data behind the header */
    const float *floats;        /* where it is a layer's that is being saved */
    const uint64_t *number;
} bni_tensor;

typedef struct bni_entry {
    const char *name;
    bni_text key, value; /* as they are written */
} bni_entry;

/* Both are sorted by name, and names are there once. All zero: of a file that is not there. */
typedef struct bni_header {
    char *text, *names;
    bni_tensor *tensors;
    bni_entry *entries;
    size_t tensor_count, entry_count;
} bni_header;

/* Takes over header->text, malloc's, of so many bytes; data_bytes follow it in the file. What is in
 * the header is to be freed, whatever is returned. */
bn_status bni_header_parse(bni_header *header, size_t length, uint64_t data_bytes);
void bni_header_free(bni_header *header);

/* NULL: there is none. */
const bni_tensor *bni_header_tensor(const bni_header *header, const char *name);
const bni_entry *bni_header_entry(const bni_header *header, const char *name);

/* What a tensor's dtype and shape say. */
bn_status bni_tensor_dtype(const bni_tensor *tensor, bni_dtype *dtype);
bn_status bni_tensor_shape(const bni_tensor *tensor, uint64_t shape[BNI_MOST_DIMENSIONS],
                           size_t *dimensions);

#endif /* BN_SAFETENSORS_HEADER_H */
