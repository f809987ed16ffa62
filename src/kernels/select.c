/* Which instruction set to use: the widest that this build has, this machine runs and BN_ISA names.
 */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

/* Widest first. The last runs everywhere. */
static const bn_kernels *const tables[] = {&bni_kernels_scalar};

const bn_kernels *bni_kernels_select(void) {
    const size_t count = sizeof tables / sizeof tables[0];
    const char *widest = getenv("BN_ISA");
    size_t first = 0;
    if (widest != NULL) {
        for (size_t i = 0; i < count; i++) {
            if (strcmp(widest, tables[i]->name) == 0) {
                first = i;
            }
        }
    }
    return tables[first];
}
