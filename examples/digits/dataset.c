/*
 * The CSV reader: strict, because a network trains on damaged data without a word.
 */
#include "dataset.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../example.h"

enum {
    WHITE = 16, /* the largest pixel */
    NUM_COLUMNS = NUM_PIXELS + 1,
    LINE_SIZE = 512 /* a good line has 64 * 3 + 1 characters at most, its end and the 0 */
};

/* Returns false, so that a caller can say "return complain(...)". */
static bool complain(const char *path, size_t line, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fprintf(stderr, "digits: %s: line %zu: ", path, line);
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    va_end(values);
    return false;
}

static bool parse_line(digit *out, char *text, const char *path, size_t line) {
    size_t columns = 1;
    for (const char *p = text; *p != '\0'; p++)
        columns += *p == ',';
    if (columns != NUM_COLUMNS)
        return complain(path, line, "%zu columns instead of %d", columns, NUM_COLUMNS);

    for (size_t column = 0; column < NUM_COLUMNS; column++) {
        char *field = text;
        text += strcspn(text, ",");
        *text++ = '\0';

        char *end = NULL;
        const long value = strtol(field, &end, 10); /* LONG_MAX where it does not fit */
        if (!isdigit((unsigned char)field[0]) || *end != '\0')
            return complain(path, line, "column %zu: \"%s\" is not a whole number", column + 1,
                            field);
        const long largest = column < NUM_PIXELS ? WHITE : NUM_CLASSES - 1;
        if (value > largest)
            return complain(path, line, "column %zu: %s is not between 0 and %ld", column + 1,
                            field, largest);
        if (column < NUM_PIXELS)
            out->pixels[column] = (float)value / WHITE;
        else
            out->label = (int)value;
    }
    return true;
}

static bool read_lines(dataset *data, FILE *file, const char *path) {
    char text[LINE_SIZE];
    size_t line = 1;
    for (; fgets(text, sizeof text, file) != NULL; line++) {
        if (line > NUM_DIGITS)
            return complain(path, line, "more lines than %d", NUM_DIGITS);
        text[strcspn(text, "\r\n")] = '\0';
        if (!parse_line(&data->digits[line - 1], text, path, line))
            return false;
    }
    if (ferror(file))
        return complain(path, line, "cannot be read: %s", strerror(errno));
    if (line <= NUM_DIGITS)
        return complain(path, line, "missing: %zu lines instead of %d", line - 1, NUM_DIGITS);
    return true;
}

bool dataset_read(dataset *data, const char *path) {
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "digits: %s: cannot be opened: %s\n", path, strerror(errno));
        return false;
    }
    const bool good = read_lines(data, file, path);
    fclose(file);
    return good;
}

void dataset_split(dataset *data, uint64_t seed) {
    size_t order[NUM_DIGITS];
    for (size_t i = 0; i < NUM_DIGITS; i++)
        order[i] = i;
    random_shuffle(&seed, NUM_DIGITS, order);
    memcpy(data->train, order, sizeof data->train);
    memcpy(data->test, order + NUM_TRAIN, sizeof data->test);
}

void dataset_batch(const dataset *data, size_t n, const size_t *chosen, float *x, int *labels) {
    for (size_t i = 0; i < n; i++) {
        const digit *d = &data->digits[chosen[i]];
        memcpy(x + i * NUM_PIXELS, d->pixels, sizeof d->pixels);
        labels[i] = d->label;
    }
}
