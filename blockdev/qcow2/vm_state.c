/*
 * vm_state.c - VM state, which an L1 table has behind what it needs for the disk: from the first
 * L2 table on that no byte of the device belongs to, as QEMU has it. Snapshots share it as they share
 * the rest of the table.
 *
 * It is written and read like the guest's data, with a device that for a moment is longer. The L1 table
 * grows first; a crash leaves that, and clusters behind the end of the device.
 */
#include "checked.h"
#include "qcow2/qcow2.h"

int qcow2_vm_state(struct blk *blk, bool is_write, uint64_t offset, const struct iovec *iov,
                   int count, uint64_t length)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t coverage = q->cluster_size << q->l2_bits;
    uint64_t device = blk->length, start, end, l1_count;
    int r;

    if (qcow2_has_data_file(q)) {
        return -ENOTSUP; /* the file has the guest's disk, and no room behind it */
    }
    start = div_round_up(device, coverage) * coverage;
    if (!add_u64(start, offset, &start) || !add_u64(start, length, &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    r = is_write ? qcow2_refuse_if_broken(q) : 0;
    if (r != 0 || length == 0) {
        return r;
    }
    l1_count = div_round_up(end, coverage);
    if (is_write && l1_count > QCOW2_MAX_L1_BYTES / QCOW2_ENTRY_SIZE) {
        return -EFBIG;
    }
    if (is_write && l1_count > q->l1.count) {
        r = qcow2_grow_l1(q, l1_count);
        if (r != 0) {
            return r;
        }
    }
    blk->length = end;
    r = is_write ? qcow2_write(blk, start, iov, count, length)
                 : chain_readv(blk, start, iov, count, length);
    blk->length = device;
    return r;
}
