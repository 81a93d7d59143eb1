/*
 * mutate.c - changes of inputs that know what an input is: the script, fields of an image's tables
 * (with refcounts that then agree, or that do not), or a new image under an old script. Besides them
 * the fuzzer's own changes, of the whole input and of pieces of metadata.
 */
#include "checked.h"
#include "kind.h"

#include <string.h>

/* Far more than a stack should hold. */
static struct input input, other;

size_t fuzz_seed(const struct fuzz_kind *kind, uint64_t seed, uint8_t *out, size_t room)
{
    struct rng rng = rng_fork(seed, 1);

    input_clear(&input);
    kind->seed(&input, &rng);
    return input_encode(&input, out, room);
}

/* Lets the fuzzer change a piece of a table in place: it knows which values the engine compares. */
static void mutate_piece(struct memfile *mem, struct rng *rng, mutate_bytes mutate)
{
    static struct image_map map;
    uint8_t bytes[64];
    uint64_t at = 0, size = mem->size;

    if (image_find(mem, &map) && rng_one_in(rng, 2)) {
        const struct landmark *mark = &map.landmarks[rng_below(rng, map.count)];

        at = mark->offset + rng_below(rng, min_u64(mark->length, 1024)) / 8 * 8;
    } else {
        at = rng_below(rng, 256) / 8 * 8;
    }
    memfile_read(mem, at, bytes, sizeof(bytes));
    (void)mutate(bytes, sizeof(bytes), sizeof(bytes));
    (void)memfile_write(mem, at, bytes, sizeof(bytes));
    if (mem->size > size) {
        (void)memfile_resize(mem, size);
    }
}

static void mutate_image(struct rng *rng, mutate_bytes mutate)
{
    struct memfile *mem;
    unsigned changes = (unsigned)rng_between(rng, 1, 3);

    if (input.file_count == 0) {
        return;
    }
    /* The top image, mostly. */
    mem = &input.files[rng_one_in(rng, 3) ? rng_below(rng, input.file_count) : 0].mem;
    while (changes-- > 0) {
        if (rng_one_in(rng, 4)) {
            mutate_piece(mem, rng, mutate);
        } else {
            image_damage(mem, rng);
        }
    }
    if (rng_one_in(rng, 2)) {
        image_recount(mem);
    }
}

static void mutate_script(struct rng *rng, mutate_bytes mutate)
{
    if (input.script_length == 0 || rng_one_in(rng, 16)) {
        use_random_script(&input, rng, rng_between(rng, 8, 128));
        return;
    }
    input.script_length = mutate(input.script, input.script_length, INPUT_MAX_SCRIPT);
}

size_t fuzz_mutate(const struct fuzz_kind *kind, uint8_t *data, size_t length, size_t room,
                   uint64_t seed, mutate_bytes mutate)
{
    struct rng rng = rng_fork(seed, 2);
    unsigned way = (unsigned)rng_below(&rng, 20);
    size_t encoded;

    if (way < 2) {
        return mutate(data, length, room);
    }
    input_decode(&input, data, length);
    if (way == 2 || input.file_count == 0) {
        memcpy(other.script, input.script, input.script_length);
        other.script_length = input.script_length;
        input_clear(&input);
        kind->seed(&input, &rng);
        memcpy(input.script, other.script, other.script_length);
        input.script_length = other.script_length;
    } else if (way < 8) {
        mutate_script(&rng, mutate);
    } else if (kind->mutate != NULL && way < 12) {
        kind->mutate(&input, &rng);
    } else {
        mutate_image(&rng, mutate);
    }
    encoded = input_encode(&input, data, room);
    return encoded != 0 ? encoded : mutate(data, min_u64(length, room), room);
}

size_t fuzz_cross(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length,
                  uint8_t *out, size_t room)
{
    input_decode(&input, a, a_length);
    input_decode(&other, b, b_length);
    memcpy(input.script, other.script, other.script_length);
    input.script_length = other.script_length;
    return input_encode(&input, out, room);
}

void fuzz_run(const struct fuzz_kind *kind, const uint8_t *data, size_t length)
{
    input_decode(&input, data, length);
    if (input.file_count > 0) {
        kind->run(&input);
    }
    memfs_clear();
}
