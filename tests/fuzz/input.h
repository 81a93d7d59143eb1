/*
 * input.h - what one input of a fuzzer holds: a script (what is done with the images) and up to four
 * files, without their zeros, so that an image of some megabytes is an input of some hundred bytes.
 *
 *   script length (2, little-endian as everything here), script, then each file:
 *   name length (1), name, size (8), segments (2), then each segment: offset (8), length (2), bytes
 *
 * Decoding takes whatever is there: a cut or a wrong length ends the file it is in.
 */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include "memfile.h"

enum {
    INPUT_MAX_SCRIPT = 512,
    INPUT_MAX_FILES = 4,
    INPUT_MAX_NAME = 40,
    INPUT_MAX_BYTES = 64 << 10,
};

struct input_file {
    char name[INPUT_MAX_NAME + 1];
    struct memfile mem;
};

struct input {
    uint8_t script[INPUT_MAX_SCRIPT];
    size_t script_length;
    struct input_file files[INPUT_MAX_FILES];
    unsigned file_count;
};

void input_decode(struct input *input, const uint8_t *data, size_t length);
/* Returns the length, 0 when it does not fit `room`. */
size_t input_encode(const struct input *input, uint8_t *out, size_t room);
void input_clear(struct input *input);
/* Adds an empty file; NULL when there are enough. */
struct memfile *input_add(struct input *input, const char *name);

/* Reads a script from front to back; behind its end everything is zero. */
struct script {
    const uint8_t *at;
    size_t left;
};

static inline struct script input_script(const struct input *input)
{
    return (struct script){.at = input->script, .left = input->script_length};
}

static inline unsigned script_byte(struct script *script)
{
    if (script->left == 0) {
        return 0;
    }
    script->left--;
    return *script->at++;
}

static inline uint64_t script_number(struct script *script, unsigned bytes)
{
    uint64_t value = 0;

    while (bytes-- > 0) {
        value = value << 8 | script_byte(script);
    }
    return value;
}

/* In [0, limit); limit is not 0. */
static inline uint64_t script_below(struct script *script, uint64_t limit)
{
    return script_number(script, limit <= 256 ? 1 : limit <= 65536 ? 2 : 8) % limit;
}

#endif
