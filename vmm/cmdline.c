/*
 * cmdline.c - see cmdline.h.
 *
 * `rw`: initramfs-tools mounts the root read-only otherwise and leaves the rest to an init system,
 * which a small guest need not have. No reboot=: Linux takes the ACPI reset register by itself.
 */
#include "cmdline.h"

#include <stdio.h>

char *cmdline_default(bool has_disk, bool partitioned, char *out)
{
    const char *root = !has_disk ? "" : partitioned ? " root=/dev/vda1 rw" : " root=/dev/vda rw";

    snprintf(out, CMDLINE_DEFAULT_SIZE, "console=ttyS0 panic=-1%s", root);
    return out;
}
