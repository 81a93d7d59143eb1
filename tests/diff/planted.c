#include "planted.h"

#include "chain.h"
#include "pass.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static const struct layout layout = {
    .name = "planted fault",
    .count = 2,
    .layers = {{0, 0, 1 << 20, BLK_PREALLOC_OFF, false},
               {3, 4096, 1 << 20, BLK_PREALLOC_OFF, false}},
};

/* A byte of data that the device reads from the layer at `depth`: its place in that layer's file.
 */
static int find_byte(struct chain *chain, struct rng *rng, unsigned depth, uint64_t *host)
{
    struct blk_extent extent;
    struct blk *blk;
    uint64_t offset = 0;
    int ret = chain_open(chain, rng, &blk, NULL);

    if (ret < 0) {
        return ret;
    }
    ret = -ENOENT;
    while (offset < chain->model.length &&
           blk_map(blk, offset, chain->model.length - offset, 0, &extent) == 0) {
        if (extent.kind == BLK_EXTENT_DATA && extent.depth == depth && extent.has_host_offset) {
            *host = extent.host_offset + extent.length / 2;
            ret = 0;
            break;
        }
        offset += extent.length;
    }
    blk_close(blk, NULL);
    return ret;
}

static int flip_byte(const char *path, uint64_t offset)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte = 0;
    bool ok = fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1;

    byte ^= 0x40;
    ok = ok && pwrite(fd, &byte, 1, (off_t)offset) == 1;
    if (fd >= 0) {
        close(fd);
    }
    return ok ? 0 : -EIO;
}

static int build(struct chain *chain, struct rng *rng, struct err *err)
{
    int ret = chain_init(chain, &layout, err);

    for (unsigned i = 0; ret == 0 && i < layout.count; i++) {
        ret = chain_add_layer(chain, err);
        if (ret == 0) {
            ret = pass_requests(chain, rng, 1, i == 0 ? 200 : 20, err);
        }
        if (ret == 0) {
            ret = chain_seal_top(chain, err);
        }
    }
    return ret;
}

void planted_faults(uint64_t seed)
{
    struct rng rng = rng_fork(seed, 5000);

    for (unsigned depth = 0; depth < layout.count; depth++) {
        struct chain chain;
        struct err err = {0}, found = {0};
        uint64_t host = 0;
        int ret = build(&chain, &rng, &err);

        if (ret == 0) {
            ret = find_byte(&chain, &rng, depth, &host);
        }
        if (ret == 0) {
            ret = flip_byte(chain.paths[layout.count - 1 - depth], host);
        }
        if (ret == 0) {
            ret = pass_compare(&chain, &rng, &found) == -EIO ? 0 : -ENOMSG;
        }
        if (!tap_result(ret == 0, "a byte flipped in the layer at depth %u is found", depth)) {
            tap_note("result %d %s", ret, err.text);
        }
        if (depth > 0) {
            tap_result(chain_check_seals(&chain, &found) == -EIO,
                       "a changed backing file is noticed");
        }
        tap_result(chain_ask_qemu(&chain, &found) < 0, "qemu-img sees the same fault at depth %u",
                   depth);
        chain_free(&chain, false);
    }
}
