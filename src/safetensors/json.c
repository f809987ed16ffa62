/* See json.h. */
#include "json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* ---- Text ------------------------------------------------------------------------------------ */

/* The bytes of the character that begins here; 0: it is none. Neither overlong forms, nor
 * surrogates, nor what is beyond U+10FFFF are characters. */
static size_t utf8_bytes(const unsigned char *s, size_t left) {
    const unsigned first = s[0];
    const size_t bytes = first < 0x80   ? 1
                         : first < 0xc2 ? 0
                         : first < 0xe0 ? 2
                         : first < 0xf0 ? 3
                         : first < 0xf5 ? 4
                                        : 0;
    if (bytes > left) {
        return 0;
    }
    const unsigned lowest = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned highest = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    for (size_t k = 1; k < bytes; k++) {
        if (s[k] < (k == 1 ? lowest : 0x80) || s[k] > (k == 1 ? highest : 0xbf)) {
            return 0;
        }
    }
    return bytes;
}

bool bni_utf8_valid(const char *text, size_t length) {
    size_t bytes = 1;
    for (size_t k = 0; k < length && bytes > 0; k += bytes) {
        bytes = utf8_bytes((const unsigned char *)text + k, length - k);
    }
    return bytes > 0;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && is_space(*at)) {
        at++;
    }
    return at;
}

/* Behind a string that begins here; NULL: it does not end, or holds what no string may. A name with a
 * zero byte in it would end there for C. Which other escapes there are is cJSON's to say. */
static const char *skip_string(const char *at, const char *end) {
    static const char zero[] = "\\u0000";
    for (at++; at < end && (unsigned char)*at >= 0x20; at += *at == '\\' ? 2 : 1) {
        if (*at == '"') {
            return at + 1;
        }
        if (end - at > 6 && memcmp(at, zero, 6) == 0) {
            return NULL;
        }
    }
    return NULL;
}

/* Behind a number; NULL: it has a leading zero. */
static const char *skip_number(const char *at, const char *end) {
    const char *const first = at;
    while (at < end && is_digit(*at)) {
        at++;
    }
    return *first == '0' && at - first > 1 ? NULL : at;
}

/* ---- The text as a whole --------------------------------------------------------------------- */

enum { DEEPEST = 3 }; /* the header, a tensor, its shape */

/* Opens or closes; false where that is too deep, or closes what is not open. */
static bool nest(char c, char open[DEEPEST], size_t *depth) {
    if (c == '{' || c == '[') {
        if (*depth == DEEPEST) {
            return false;
        }
        open[(*depth)++] = c;
        return true;
    }
    return (c == '}' && open[--*depth] == '{') || (c == ']' && open[--*depth] == '[');
}

bool bni_json_scan(bni_text text) {
    const char *at = text.at, *const end = at + text.length;
    if (text.length == 0 || *at != '{' || !bni_utf8_valid(text.at, text.length)) {
        return false;
    }
    char open[DEEPEST];
    size_t depth = 0;
    do {
        if (*at == '"') {
            at = skip_string(at, end);
        } else if (is_digit(*at)) {
            at = skip_number(at, end);
        } else if (is_space(*at) || *at == ',' || *at == ':' || nest(*at, open, &depth)) {
            at++;
        } else {
            return false;
        }
    } while (at != NULL && at < end && depth > 0);
    return at != NULL && depth == 0 && skip_space(at, end) == end;
}

/* ---- Members --------------------------------------------------------------------------------- */

/* Without the white space at both ends. */
static bni_text trimmed(const char *at, const char *end) {
    at = skip_space(at, end);
    while (end > at && is_space(end[-1])) {
        end--;
    }
    return (bni_text){at, (size_t)(end - at)};
}

bni_members bni_members_of(bni_text object) {
    const bni_text t = trimmed(object.at, object.at + object.length);
    if (t.length < 2 || t.at[0] != '{' || t.at[t.length - 1] != '}') {
        return (bni_members){.failed = true};
    }
    return (bni_members){.at = t.at + 1, .end = t.at + t.length - 1, .first = true};
}

/* The comma behind a value, or the end. */
static const char *skip_value(const char *at, const char *end) {
    int depth = 0;
    while (at != NULL && at < end && !(*at == ',' && depth == 0)) {
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        at = *at == '"' ? skip_string(at, end) : at + 1;
    }
    return at;
}

static bool take_member(bni_members *members, bni_text *key, bni_text *value) {
    const char *const end = members->end, *const name = members->at;
    const char *const name_end = *name == '"' ? skip_string(name, end) : NULL;
    const char *const colon = name_end == NULL ? end : skip_space(name_end, end);
    if (colon == end || *colon != ':') {
        return false;
    }
    const char *const comma = skip_value(colon + 1, end);
    if (comma == NULL) {
        return false;
    }
    *key = (bni_text){name, (size_t)(name_end - name)};
    *value = trimmed(colon + 1, comma);
    members->last = comma == end;
    members->at = comma + !members->last;
    return value->length > 0;
}

bool bni_members_next(bni_members *members, bni_text *key, bni_text *value) {
    if (members->failed || members->last) {
        return false;
    }
    members->at = skip_space(members->at, members->end);
    if (members->at == members->end) {
        members->failed = !members->first; /* behind a comma */
        return false;
    }
    members->first = false;
    members->failed = !take_member(members, key, value);
    return !members->failed;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static cJSON *parse_once(bni_text text) {
    const char *end = NULL;
    cJSON *const item = cJSON_ParseWithLengthOpts(text.at, text.length, &end, false);
    if (item == NULL || end == text.at + text.length) {
        return item;
    }
    cJSON_Delete(item);
    return NULL;
}

/* Exactly this text. cJSON does not say whether text or memory was at fault where it fails; but if
 * memory was, there is none, or there is again. (Volatile: Clang takes what nobody reads as granted.) */
static bn_status parse(bni_text text, cJSON **item) {
    *item = parse_once(text);
    if (*item != NULL) {
        return BN_STATUS_OK;
    }
    void *volatile memory = malloc(text.length + sizeof **item);
    if (memory == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    free(memory);
    *item = parse_once(text);
    return *item != NULL ? BN_STATUS_OK : BN_STATUS_BAD_FORMAT;
}

bn_status bni_json_string(bni_text text, char *string) {
    cJSON *item;
    if (*text.at != '"') {
        return BN_STATUS_BAD_FORMAT;
    }
    const bn_status status = parse(text, &item);
    if (status == BN_STATUS_OK) {
        strcpy(string, item->valuestring);
        cJSON_Delete(item);
    }
    return status;
}

static bool take_numbers(const cJSON *array, uint64_t *numbers, size_t *count) {
    *count = 0;
    for (const cJSON *item = array->child; item != NULL; item = item->next) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble < 0x1p53)) {
            return false;
        }
        numbers[(*count)++] = (uint64_t)item->valuedouble;
    }
    return true;
}

bn_status bni_json_numbers(bni_text text, size_t most, uint64_t *numbers, size_t *count) {
    size_t commas = 0;
    for (size_t k = 0; k < text.length; k++) {
        commas += text.at[k] == ',';
    }
    if (*text.at != '[' || commas >= most) {
        return BN_STATUS_BAD_FORMAT;
    }
    cJSON *item;
    const bn_status status = parse(text, &item);
    if (status != BN_STATUS_OK) {
        return status;
    }
    const bool good = take_numbers(item, numbers, count);
    cJSON_Delete(item);
    return good ? BN_STATUS_OK : BN_STATUS_BAD_FORMAT;
}
