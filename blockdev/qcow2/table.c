/*
 * table.c - a table that is held whole in memory, in host order: the L1 table, the refcount table.
 * What changes is marked by sectors of 512 bytes, the unit that the committer writes, so that an
 * entry is never torn. All under the layer's lock.
 */
#include "bytes.h"
#include "checked.h"
#include "qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>

int qcow2_table_load(struct qcow2_table *table, struct file *file, uint64_t offset, uint64_t count)
{
    uint64_t room = count > 0 ? count : 1;
    int r = 0;

    *table = (struct qcow2_table){.offset = offset, .count = count};
    table->entries = calloc(room, sizeof(table->entries[0]));
    table->dirty = calloc(div_round_up(room, QCOW2_TABLE_SECTOR_ENTRIES), 1);
    if (table->entries == NULL || table->dirty == NULL) {
        r = -ENOMEM;
    } else if (count > 0) {
        r = file_pread(file, offset, table->entries, count * QCOW2_ENTRY_SIZE);
    }
    if (r != 0) {
        qcow2_table_free(table);
        return r;
    }
    for (uint64_t i = 0; i < count; i++) {
        table->entries[i] = load_be64(&table->entries[i]);
    }
    return 0;
}

void qcow2_table_free(struct qcow2_table *table)
{
    free(table->entries);
    free(table->dirty);
    *table = (struct qcow2_table){0};
}

void qcow2_table_set(struct qcow2_table *table, uint64_t index, uint64_t value)
{
    table->entries[index] = value;
    table->dirty[index / QCOW2_TABLE_SECTOR_ENTRIES] = 1;
    table->any_dirty = true;
}
