/* What the targets of libFuzzer share. */
#ifndef BN_TESTS_FUZZ_H
#define BN_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* libFuzzer's, or replay.c's, for each input. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static inline void must(bool holds, const char *what, int line) {
    if (!holds) {
        fprintf(stderr, "line %d: does not hold: %s\n", line, what);
        abort();
    }
}

#define MUST(condition) must(condition, #condition, __LINE__)

#endif
