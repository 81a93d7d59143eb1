#include "checked.h"
#include "img.h"
#include "ops.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int op_reopen(struct world *world, uint64_t arg)
{
    int r = world_close(world);

    (void)arg;
    /* An error of close() is the fault's; what was not written is lost with it. */
    return r != 0 ? r : world_open(world);
}

int op_resize(struct world *world, uint64_t arg)
{
    uint64_t old = blk_length(world->blk) / SECTOR, new = arg / SECTOR;
    struct model *model = &world->model;
    uint32_t change = model_begin(model, disk_tick(&world->disk));
    bool was_over = world_fault_is_over(world);
    struct err err = {""};
    int r;

    if (new > old) {
        model_put(model, change, old, new - old, VALUE_ZERO);
    } /* else what is cut off is there until nobody looks at it any more */
    model_put_size(model, change, new);
    r = blk_resize(world->blk, arg, &err);
    /* An inconsistent bitmap, which a fault left behind, cannot follow. */
    if (r != -EUCLEAN || !world->disk.fault_fired) {
        world_judge(world, r != 0 ? err.text : "resize", r, was_over, true);
    }
    model_end(model, change, disk_tick(&world->disk), r != 0, r == 0);
    return 0;
}

int op_preallocate(struct world *world, uint64_t arg)
{
    uint64_t old = blk_length(world->blk);
    struct err err = {""};
    bool was_over;
    int r;

    r = op_resize(world, arg);
    if (r != 0 || blk_length(world->blk) != arg) {
        return r;
    }
    was_over = world_fault_is_over(world);
    r = blk_preallocate(world->blk, old, arg - old, BLK_PREALLOC_FALLOC, &err);
    world_judge(world, r != 0 ? err.text : "preallocate", r, was_over, true);
    return 0;
}

/* What the device shows when its image holds nothing. */
static void put_backing(struct world *world, uint32_t change)
{
    struct blk *base = blk_backing(world->blk);
    uint64_t sectors = blk_length(world->blk) / SECTOR;
    uint64_t below = base != NULL ? min_u64(sectors, blk_length(base) / SECTOR) : 0;
    uint8_t *bytes = calloc(sectors, SECTOR);
    bool is_known = below == 0 || blk_pread(base, 0, bytes, below * SECTOR) == 0;

    for (uint64_t s = 0; s < sectors; s++) {
        uint32_t value;

        if (!is_known || !stamp_read(bytes + s * SECTOR, s, &value)) {
            value = VALUE_ANY;
        }
        model_put(&world->model, change, s, 1, value);
    }
    free(bytes);
}

int op_empty(struct world *world, uint64_t arg)
{
    uint32_t change = model_begin(&world->model, disk_tick(&world->disk));
    bool was_over = world_fault_is_over(world);
    struct err err = {""};
    int r;

    (void)arg;
    put_backing(world, change);
    r = blk_make_empty(world->blk, &err);
    world_judge(world, r != 0 ? err.text : "make-empty", r, was_over, false);
    model_end(&world->model, change, disk_tick(&world->disk), r != 0, false);
    return 0;
}

int op_vm_state(struct world *world, uint64_t arg)
{
    static const uint8_t bytes[5 * SECTOR] = {1, 2, 3};
    bool was_over = world_fault_is_over(world);
    int r = blk_vm_state_pwrite(world->blk, arg, bytes, sizeof(bytes));

    world_judge(world, "VM state", r, was_over, false);
    return 0;
}

int world_run_command(struct world *world, int (*command)(int argc, char **argv), char **argv)
{
    int argc = 0, r = world_close(world), status;

    if (r != 0) {
        return r;
    }
    while (argv[argc] != NULL) {
        argc++;
    }
    optind = 0; /* getopt begins anew */
    status = command(argc, argv);
    if (status != 0 && !world->disk.fault_fired) {
        world_complain(world, "%s exited with status %d", argv[0], status);
    }
    world_forget_fault(world);
    return world_open(world);
}

int op_commit(struct world *world, uint64_t arg)
{
    char *argv[] = {(char[]){"commit"}, (char[]){"-q"},        (char[]){"-f"},
                    (char[]){"qcow2"},  (char[]){"top.qcow2"}, NULL};

    (void)arg;
    return world_run_command(world, cmd_commit, argv);
}

int op_amend(struct world *world, uint64_t arg)
{
    static const char *const options[] = {
        "refcount_bits=64",
        "compat=0.10,refcount_bits=16",
        "compat=1.1,lazy_refcounts=on,refcount_bits=8",
        "lazy_refcounts=off,refcount_bits=16",
    };
    char text[64];
    char *argv[] = {(char[]){"amend"}, (char[]){"-q"}, (char[]){"-f"},        (char[]){"qcow2"},
                    (char[]){"-o"},    text,           (char[]){"top.qcow2"}, NULL};

    (void)snprintf(text, sizeof(text), "%s", options[arg]);
    return world_run_command(world, cmd_amend, argv);
}

static int rebase(struct world *world, char *base, char *format)
{
    char *argv[] = {(char[]){"rebase"},    (char[]){"-q"},
                    (char[]){"-f"},        (char[]){"qcow2"},
                    (char[]){"-b"},        base,
                    (char[]){"-F"},        format,
                    (char[]){"top.qcow2"}, NULL};

    return world_run_command(world, cmd_rebase, argv);
}

int op_rebase(struct world *world, uint64_t arg)
{
    (void)arg;
    return rebase(world, (char[]){"new.raw"}, (char[]){"raw"});
}

int op_rebase_to_qcow2(struct world *world, uint64_t arg)
{
    (void)arg;
    return rebase(world, (char[]){"new.qcow2"}, (char[]){"qcow2"});
}

int op_rebase_to_none(struct world *world, uint64_t arg)
{
    char *argv[] = {(char[]){"rebase"}, (char[]){"-q"}, (char[]){"-f"},        (char[]){"qcow2"},
                    (char[]){"-b"},     (char[]){""},   (char[]){"top.qcow2"}, NULL};

    (void)arg;
    return world_run_command(world, cmd_rebase, argv);
}

int op_rename_base(struct world *world, uint64_t arg)
{
    bool was_over = world_fault_is_over(world);
    struct err err = {""};
    char name[1024];
    size_t n = 0;
    int r;

    while (n + 1 < arg) {
        memcpy(name + n, "./", 2);
        n += 2;
    }
    strcpy(name + n, "base.raw");
    r = blk_set_backing(world->blk, name, "raw", &err);
    world_judge(world, r != 0 ? err.text : "set-backing", r, was_over, true);
    return 0;
}

int op_check(struct world *world, uint64_t arg)
{
    const struct blk_open_options options = {
        .path = world->workload->files[0], .format = "qcow2", .writable = true, .for_check = true};
    struct blk_check_result result = {0};
    struct err err = {""};
    struct blk *blk;
    int r = world_close(world);

    r = r == 0 ? blk_open(&options, &blk, &err) : r;
    if (r == 0) {
        r = blk_check(blk, (unsigned)arg, NULL, NULL, &result, &err);
        blk_close(blk, NULL);
    }
    /* What a fault kept from being repaired is not to be written to. */
    if (r == 0 && (result.corruptions > 0 || result.check_errors > 0)) {
        r = err_set(&err, -EUCLEAN, "%" PRIu64 " corruptions are left", result.corruptions);
    }
    if (r != 0 && !world->disk.fault_fired) {
        world_complain(world, "check: %s", err.text);
    }
    return r != 0 ? r : world_open(world);
}
