/* What this processor is, and the row of tuning that suits it. */
#ifndef BNI_MACHINE_H
#define BNI_MACHINE_H

#include "tuning.h"

#include <stdbool.h>

/* A kind of processor that tests/bench/tune was run on. */
typedef struct bni_machine {
    const char *name;
    const char *vendor; /* as cpuid has it */
    unsigned family;
    size_t l2; /* bytes */
    bni_tuning tuning;
} bni_machine;

/* All of them: that many. No row changes a result. */
extern const bni_machine bni_machines[];
extern const size_t bni_machine_count;

/* The row of this processor's vendor and family; else the one whose L2 is nearest to its own; the
 * first where neither is known. Found once a process; any thread may call it. */
const bni_machine *bni_machine_here(void);

#endif
