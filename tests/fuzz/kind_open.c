/*
 * kind_open.c - a damaged image is opened for reading, mapped and read in full, with its base below it.
 *
 * Holds: nothing is written; two reads agree; what the map says and what a read gives agree.
 */
#include "blockdev.h"
#include "checked.h"
#include "kind.h"

static void seed(struct input *input, struct rng *rng)
{
    use_seed_images(input, rng, 0, BUILD_ALL | BUILD_LUKS);
}

static void run(struct input *input)
{
    static uint8_t buffer[100000];
    struct script script = input_script(input);
    struct blk *blk;

    use_files(input, 0);
    blk = use_open(false, false, script_byte(&script) % 2);
    if (blk == NULL) {
        return;
    }
    use_read_all(blk, &input->files[0].mem);
    for (unsigned i = 0; i < 16 && blk_length(blk) > 0 && script.left > 0; i++) {
        uint64_t offset = script_below(&script, blk_length(blk));
        uint64_t room = min_u64(blk_length(blk) - offset, sizeof(buffer));

        (void)blk_pread(blk, offset, buffer, 1 + script_below(&script, room));
    }
    use_close(blk, true);
}

const struct fuzz_kind kind_open = {.name = "open", .seed = seed, .run = run};
