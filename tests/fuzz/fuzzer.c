/*
 * fuzzer.c - libFuzzer's side of one kind (FUZZ_KIND, from the Makefile).
 */
#include "kind.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t length, size_t room, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_length, const uint8_t *b,
                                 size_t b_length, uint8_t *out, size_t room, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t length, size_t room);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    fuzz_run(&FUZZ_KIND, data, length);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t length, size_t room, unsigned seed)
{
    return fuzz_mutate(&FUZZ_KIND, data, length, room, seed, LLVMFuzzerMutate);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_length, const uint8_t *b,
                                 size_t b_length, uint8_t *out, size_t room, unsigned seed)
{
    size_t length = fuzz_cross(a, a_length, b, b_length, out, room);

    (void)seed;
    if (length == 0 && a_length <= room) {
        memcpy(out, a, a_length);
        length = a_length;
    }
    return length;
}
