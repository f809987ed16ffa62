/* See convert.h. */
#include "convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Bytes ----------------------------------------------------------------------------------- */

uint64_t bni_le_read(const unsigned char *bytes, size_t count) {
    uint64_t value = 0;
    for (size_t k = count; k > 0; k--) {
        value = value << 8 | bytes[k - 1];
    }
    return value;
}

void bni_le_write(uint64_t value, unsigned char *bytes, size_t count) {
    for (size_t k = 0; k < count; k++) {
        bytes[k] = (unsigned char)(value >> (8 * k));
    }
}

/* ---- Elements -------------------------------------------------------------------------------- */

bni_dtype bni_dtype_of(const char *name) {
    static const bni_dtype known[] = {
        {"BOOL", BNI_STORED_OTHER, 1}, {"U8", BNI_STORED_OTHER, 1},  {"I8", BNI_STORED_OTHER, 1},
        {"I16", BNI_STORED_OTHER, 2},  {"U16", BNI_STORED_OTHER, 2}, {"F16", BNI_STORED_F16, 2},
        {"BF16", BNI_STORED_BF16, 2},  {"I32", BNI_STORED_OTHER, 4}, {"U32", BNI_STORED_OTHER, 4},
        {"F32", BNI_STORED_F32, 4},    {"F64", BNI_STORED_F64, 8},   {"I64", BNI_STORED_I64, 8},
        {"U64", BNI_STORED_OTHER, 8},  {"C64", BNI_STORED_OTHER, 8}};
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        if (strcmp(known[k].name, name) == 0) {
            return known[k];
        }
    }
    return (bni_dtype){NULL, BNI_STORED_OTHER, 0};
}

enum { F32_INF = 0x7f800000, F32_QUIET = 0x00400000 };

static uint32_t bits_from_f16(uint32_t half) {
    const uint32_t sign = (half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 0x1fu, fraction = half & 0x3ffu;
    if (exponent == 0x1fu) {
        return sign | F32_INF | fraction << 13;
    }
    if (exponent == 0 && fraction == 0) {
        return sign;
    }
    exponent += 127 - 15;
    if (exponent == 127 - 15) { /* a float has no need to be subnormal */
        for (exponent++; (fraction & 0x400u) == 0; exponent--) {
            fraction <<= 1;
        }
        fraction &= 0x3ffu;
    }
    return sign | exponent << 23 | fraction << 13;
}

/* To the nearest, of two the even one. F32_INF, with any sign, where a finite one is beyond. */
static uint32_t bits_from_f64(uint64_t wide) {
    const uint32_t sign = (uint32_t)(wide >> 63) << 31;
    const int exponent = (int)(wide >> 52 & 0x7ffu) - 1023 + 127;
    const uint64_t fraction = wide & 0xfffffffffffffu;
    if (exponent >= 255) {
        const bool nan = exponent == 0x7ff - 1023 + 127 && fraction != 0;
        return sign | F32_INF | (nan ? F32_QUIET | (uint32_t)(fraction >> 29) : 0);
    }
    const int shift = exponent > 0 ? 29 : 30 - exponent; /* what is subnormal loses more */
    if (shift > 54) {
        return sign;
    }
    const uint64_t value = fraction | (uint64_t)1 << 52, half = (uint64_t)1 << (shift - 1);
    const uint64_t kept = value >> shift, lost = value & (2 * half - 1);
    /* The leading one counts as 1 in the exponent, and a carry does too. */
    const uint64_t bits = kept + (lost > half || (lost == half && (kept & 1) != 0)) +
                          ((uint64_t)(exponent > 0 ? exponent - 1 : 0) << 23);
    return sign | (uint32_t)bits;
}

static bool f64_is_beyond(uint64_t wide, uint32_t bits) {
    return (wide >> 52 & 0x7ffu) != 0x7ffu && (bits & ~0x80000000u) == F32_INF;
}

bool bni_floats_from(bni_stored type, size_t count, const unsigned char *from, unsigned char *to) {
    const size_t bytes = type == BNI_STORED_F64 ? 8 : type == BNI_STORED_F32 ? 4 : 2;
    for (size_t k = 0; k < count; k++) {
        const uint64_t raw = bni_le_read(from + k * bytes, bytes);
        uint32_t bits = (uint32_t)raw;
        switch (type) {
        case BNI_STORED_F32:
            break;
        case BNI_STORED_BF16:
            bits <<= 16;
            break;
        case BNI_STORED_F16:
            bits = bits_from_f16(bits);
            break;
        case BNI_STORED_F64:
            bits = bits_from_f64(raw);
            if (f64_is_beyond(raw, bits)) {
                return false;
            }
            break;
        case BNI_STORED_I64:
        case BNI_STORED_OTHER:
            return false;
        }
        memcpy(to + k * sizeof bits, &bits, sizeof bits);
    }
    return true;
}

void bni_floats_to(size_t count, const unsigned char *from, unsigned char *to) {
    for (size_t k = 0; k < count; k++) {
        uint32_t bits;
        memcpy(&bits, from + k * sizeof bits, sizeof bits);
        bni_le_write(bits, to + k * sizeof bits, sizeof bits);
    }
}

/* ---- Numbers as text ------------------------------------------------------------------------- */

/* What is neither digit, sign nor exponent is the locale's decimal point, of one byte or several. */
void bni_number_print(float value, char text[BNI_NUMBER_ROOM]) {
    char local[BNI_NUMBER_ROOM];
    const int length = snprintf(local, sizeof local, "%.9g", (double)value);
    size_t used = 0;
    for (int k = 0; k < length && k < BNI_NUMBER_ROOM - 1; k++) {
        const bool point = strchr("0123456789+-e", local[k]) == NULL;
        if (!point || used == 0 || text[used - 1] != '.') {
            text[used++] = point ? '.' : local[k];
        }
    }
    text[used] = '\0';
}

static size_t digits_at(const char *text) {
    return strspn(text, "0123456789");
}

/* The bytes of a number; 0: it is none. */
static size_t number_bytes(const char *text) {
    const char *at = text + (*text == '-');
    if (digits_at(at) == 0) {
        return 0;
    }
    at += digits_at(at);
    if (*at == '.' && digits_at(at + 1) > 0) {
        at += 1 + digits_at(at + 1);
    }
    if (*at == 'e' || *at == 'E') {
        const char *const power = at + 1 + (at[1] == '+' || at[1] == '-');
        at = digits_at(power) > 0 ? power + digits_at(power) : at;
    }
    return (size_t)(at - text);
}

bool bni_number_parse(const char *text, double *value) {
    char half[BNI_NUMBER_ROOM], local[2 * BNI_NUMBER_ROOM];
    const size_t length = strlen(text), whole = strcspn(text, ".");
    if (length == 0 || length >= BNI_NUMBER_ROOM || number_bytes(text) != length) {
        return false;
    }
    const int written = snprintf(half, sizeof half, "%.1f", 0.5); /* what it has for a point */
    const int point = written - 2;
    const char *const fraction = text + whole + (text[whole] == '.');
    snprintf(local, sizeof local, "%.*s%.*s%s", (int)whole, text, *fraction == '\0' ? 0 : point,
             half + 1, fraction);
    char *end;
    *value = strtod(local, &end);
    return *end == '\0';
}
