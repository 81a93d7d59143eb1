#include "run.h"

#include "checked.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void run_fail(struct run *run, uint64_t offset, const char *fmt, ...)
{
    bool expected = false;
    va_list args;

    if (!atomic_compare_exchange_strong(&run->failed, &expected, true)) {
        return;
    }
    va_start(args, fmt);
    vsnprintf(run->message, sizeof(run->message), fmt, args);
    va_end(args);
    run->bad_offset = offset;
}

void run_fail_bytes(struct run *run, const char *what, uint64_t offset, const uint8_t *seen,
                    int64_t at)
{
    uint64_t where = offset + (uint64_t)at;

    run_fail(run, where, "%s: byte %llu is %02x instead of %02x", what, (unsigned long long)where,
             seen[at], run->model->bytes[where]);
}

void run_compare_all(struct run *run)
{
    const uint64_t chunk = UINT64_C(1) << 20;
    uint8_t *seen = malloc(chunk);

    if (!seen) {
        run_fail(run, 0, "out of memory");
        return;
    }
    for (uint64_t offset = 0; offset < run->model->length && !atomic_load(&run->failed);) {
        uint64_t length = min_u64(chunk, run->model->length - offset);
        int ret = blk_pread(run->blk, offset, seen, length);
        int64_t at;

        if (ret < 0) {
            run_fail(run, offset, "read of everything failed: %s", strerror(-ret));
            break;
        }
        at = model_compare(run->model, offset, seen, length);
        if (at >= 0) {
            run_fail_bytes(run, "compare of everything", offset, seen, at);
        }
        offset += length;
    }
    free(seen);
}
