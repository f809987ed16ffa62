/* In libFuzzer's place: a target with each file that is named, of which there must be some. */
#include "fuzz.h"

int main(int count, char **names) {
    static uint8_t bytes[1 << 20];
    for (int k = 1; k < count; k++) {
        FILE *file = fopen(names[k], "rb");
        MUST(file != NULL);
        const size_t got = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, got);
    }
    printf("%d files\n", count - 1);
    return count < 2;
}
