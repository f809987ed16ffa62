/*
 * Elements and numbers as files have them: little-endian bytes, whatever the machine's order, and text
 * with a decimal point, whatever the locale. Floats are converted by their bits, so that neither the
 * caller's rounding mode nor its traps matter, and a NaN stays the one it is.
 */
#ifndef BN_SAFETENSORS_CONVERT_H
#define BN_SAFETENSORS_CONVERT_H

#include "batchnorm/bn_layer.h"

uint64_t bni_le_read(const unsigned char *bytes, size_t count);
void bni_le_write(uint64_t value, unsigned char *bytes, size_t count);

/* Element types of files; those of batches are kernels/element.h's. */
typedef enum bni_stored {
    BNI_STORED_OTHER,
    BNI_STORED_BF16,
    BNI_STORED_F16,
    BNI_STORED_F32,
    BNI_STORED_F64,
    BNI_STORED_I64
} bni_stored;

/* What a dtype's name says. */
typedef struct bni_dtype {
    const char *name;
    bni_stored type;
    size_t bytes; /* of an element; 0 of a dtype that is not known */
} bni_dtype;

bni_dtype bni_dtype_of(const char *name);

/* Converts `count` elements to floats of any alignment. False where they are no floats, or one is
 * finite but beyond FLT_MAX once it is rounded. */
bool bni_floats_from(bni_stored type, size_t count, const unsigned char *from, unsigned char *to);

/* Writes the bytes of `count` floats, of any alignment. */
void bni_floats_to(size_t count, const unsigned char *from, unsigned char *to);

enum { BNI_NUMBER_ROOM = 64 };

/* A finite number, with digits enough to read it back. */
void bni_number_print(float value, char text[BNI_NUMBER_ROOM]);

/* False where text is no number as JSON has them, or a very long one. */
bool bni_number_parse(const char *text, double *value);

#endif /* BN_SAFETENSORS_CONVERT_H */
