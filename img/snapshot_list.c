#include "snapshot_list.h"

#include "size.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define NANOSECONDS UINT64_C(1000000000)

static void print_one(const struct blk_snapshot_info *info)
{
    char size[SIZE_TEXT_MAX], date[64] = "", clock[64], icount[32] = "";
    uint64_t seconds = info->vm_clock / NANOSECONDS;
    time_t when = (time_t)info->date_seconds;
    struct tm tm;

    if (localtime_r(&when, &tm) != NULL)
        (void)strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    (void)snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64,
                   seconds / 3600, seconds / 60 % 60, seconds % 60,
                   info->vm_clock / 1000000 % 1000);
    if (info->icount != UINT64_MAX)
        (void)snprintf(icount, sizeof(icount), "%" PRIu64, info->icount);
    printf("%-9s %-16s %8s%20s%13s%11s\n", info->id, info->name,
           size_format(info->vm_state_size, size), date, clock, icount);
}

int snapshot_list_print(struct blk *blk, struct err *err)
{
    struct blk_snapshot_info info;
    int rc;

    for (unsigned i = 0; (rc = blk_snapshot_get(blk, i, &info, err)) > 0; i++) {
        if (i == 0)
            printf("Snapshot list:\n%-9s %-16s %8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
                   "VM CLOCK", "ICOUNT");
        print_one(&info);
    }
    return rc;
}

static json_t *one_to_json(const struct blk_snapshot_info *info)
{
    json_t *object = json_object();

    if (info->icount != UINT64_MAX)
        json_add_number(object, "icount", info->icount);
    json_add_number(object, "vm-clock-nsec", info->vm_clock % NANOSECONDS);
    json_add_text(object, "name", info->name);
    json_add_number(object, "date-sec", info->date_seconds);
    json_add_number(object, "date-nsec", info->date_nanoseconds);
    json_add_number(object, "vm-clock-sec", info->vm_clock / NANOSECONDS);
    json_add_text(object, "id", info->id);
    json_add_number(object, "vm-state-size", info->vm_state_size);
    return object;
}

int snapshot_list_to_json(struct blk *blk, json_t **list, struct err *err)
{
    struct blk_snapshot_info info;
    int rc;

    *list = NULL;
    for (unsigned i = 0; (rc = blk_snapshot_get(blk, i, &info, err)) > 0; i++) {
        if (*list == NULL)
            *list = json_array();
        (void)json_array_append_new(*list, one_to_json(&info));
    }
    return rc;
}
