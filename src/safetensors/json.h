/*
 * The JSON of a header, piece by piece: a text is looked over once as a whole, then objects are taken
 * apart into members, and what these hold is parsed. No more than one member is ever held parsed, so
 * that memory is a small multiple of the text, whatever it says.
 */
#ifndef BN_SAFETENSORS_JSON_H
#define BN_SAFETENSORS_JSON_H

#include "batchnorm/bn_layer.h"

/* A part of a text that somebody else owns. */
typedef struct bni_text {
    const char *at;
    size_t length;
} bni_text;

bool bni_utf8_valid(const char *text, size_t length);

/* Whether a text begins with an object that is UTF-8, nested no deeper than a header is, closed as it
 * is opened, and of nothing but strings and whole numbers; with only white space behind it. What is
 * below asks for a part of such a text. */
bool bni_json_scan(bni_text text);

/* The members of an object, one after the other. */
typedef struct bni_members {
    const char *at, *end;
    bool first, last; /* the next one is; the one before was */
    bool failed;      /* there was something that is no member */
} bni_members;

bni_members bni_members_of(bni_text object); /* failed where it is none */

/* False behind the last one, and where `failed`. The key has its quotes and escapes. */
bool bni_members_next(bni_members *members, bni_text *key, bni_text *value);

/* Decodes a string into room for text.length bytes, which are enough for it and its end. */
bn_status bni_json_string(bni_text text, char *string);

/* An array of at most `most` numbers, each below 2^53: larger ones are not exact in JSON. */
bn_status bni_json_numbers(bni_text text, size_t most, uint64_t *numbers, size_t *count);

#endif /* BN_SAFETENSORS_JSON_H */
