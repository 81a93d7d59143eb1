/*
 * boot_bzimage.c - Linux bzImage by the 64-bit boot protocol (Documentation/x86/boot.rst of Linux).
 *
 * The file is a boot sector, setup_sects sectors of real-mode code that nobody runs here, and the
 * protected-mode part, which carries the compressed kernel and a stub. The stub is entered in long
 * mode 0x200 bytes behind the start of that part and needs init_size bytes of RAM from there on.
 *
 * Offsets are of the setup header within the file; the same bytes lie at the same offsets of the zero
 * page.
 */
#include "boot_private.h"

#include "bytes.h"
#include "checked.h"
#include "memory.h"
#include "size.h"

#include <asm/bootparam.h>
#include <assert.h>
#include <errno.h>
#include <stddef.h>

enum {
    SETUP_SECTS = 0x1f1,
    SETUP_SYSSIZE = 0x1f4,     /* protected-mode part in 16-byte units */
    SETUP_JUMP_OFFSET = 0x201, /* the header ends this many bytes behind 0x202 */
    SETUP_VERSION = 0x206,
    SETUP_LOADFLAGS = 0x211,
    SETUP_INITRD_ADDR_MAX = 0x22c,
    SETUP_XLOADFLAGS = 0x236,
    SETUP_CMDLINE_SIZE = 0x238,
    SETUP_PREF_ADDRESS = 0x258,
    SETUP_INIT_SIZE = 0x260,
    SETUP_FIELDS_END = 0x264, /* behind the last field that is used here */
    SETUP_HEADER_MAX = 0x290, /* where the zero page goes on */
    ENTRY_64BIT = 0x200,
};

enum { PROTOCOL_WITH_XLOADFLAGS = 0x20c };

static_assert(offsetof(struct boot_params, hdr) == SETUP_SECTS, "the header keeps its offsets");
static_assert(offsetof(struct boot_params, hdr.init_size) == SETUP_INIT_SIZE, "the same");

struct bzimage {
    size_t header_end;
    uint64_t body_offset, body_size; /* the protected-mode part, in the file */
    uint64_t load, init_size;
    uint64_t initrd_max; /* the highest address that the initrd may occupy */
    uint64_t cmdline_max;
};

static int parse(struct bzimage *image, const struct boot_file *file, const uint8_t *head,
                 size_t size, struct err *err)
{
    unsigned setup_sects, version;
    uint64_t body_end;

    if (size < SETUP_FIELDS_END)
        return err_set(err, -EINVAL, "kernel '%s' is cut short in its setup header", file->path);
    version = load_le16(head + SETUP_VERSION);
    if (version < PROTOCOL_WITH_XLOADFLAGS)
        return err_set(err, -ENOTSUP,
                       "kernel '%s' speaks boot protocol %u.%02u, older than 2.12 (Linux 3.8)",
                       file->path, version >> 8, version & 0xff);
    if (!(load_le16(head + SETUP_XLOADFLAGS) & XLF_KERNEL_64))
        return err_set(err, -ENOTSUP, "kernel '%s' is a 32-bit kernel: it has no 64-bit entry",
                       file->path);
    if (!(head[SETUP_LOADFLAGS] & LOADED_HIGH))
        return err_set(err, -ENOTSUP, "kernel '%s' is a zImage, which loads below 1 MiB",
                       file->path);

    setup_sects = head[SETUP_SECTS] ? head[SETUP_SECTS] : 4;
    image->header_end = 0x202U + head[SETUP_JUMP_OFFSET];
    if (image->header_end < SETUP_FIELDS_END || image->header_end > SETUP_HEADER_MAX)
        return err_set(err, -EINVAL, "kernel '%s' has a malformed setup header", file->path);
    image->body_offset = (setup_sects + 1) * 512ULL;
    image->body_size = load_le32(head + SETUP_SYSSIZE) * 16ULL;
    body_end = image->body_offset + image->body_size;
    /* What follows in the file (a signature) is not the kernel's; the last unit may be cut. */
    if (image->body_offset >= file->size || image->body_size <= ENTRY_64BIT ||
        image->body_size > align_up(file->size - image->body_offset, 16))
        return err_set(err, -EINVAL, "kernel '%s' is cut short: its header tells of %llu bytes",
                       file->path, (unsigned long long)body_end);
    image->body_size = min_u64(image->body_size, file->size - image->body_offset);

    image->load = load_le64(head + SETUP_PREF_ADDRESS);
    image->init_size = max_u64(load_le32(head + SETUP_INIT_SIZE), image->body_size);
    image->initrd_max = load_le32(head + SETUP_INITRD_ADDR_MAX);
    image->cmdline_max = load_le32(head + SETUP_CMDLINE_SIZE);
    return 0;
}

int boot_bzimage(const struct guestmem *mem, const struct boot_request *request,
                 const struct boot_file *file, const uint8_t *head, size_t head_size,
                 struct boot_registers *registers, struct err *err)
{
    char need[SIZE_TEXT_MAX], have[SIZE_TEXT_MAX];
    struct boot_initrd initrd;
    struct bzimage image = {0};
    void *body = NULL;
    int r;

    r = parse(&image, file, head, head_size, err);
    if (r < 0)
        return r;
    if (image.load < BOOT_KERNEL_MIN || !is_aligned(image.load, 4096))
        return err_set(err, -EINVAL, "kernel '%s' wants to be loaded at 0x%llx", file->path,
                       (unsigned long long)image.load);
    if (range_within(image.load, image.init_size, memory_low_size(request->memory)))
        body = guestmem_ptr(mem, image.load, image.init_size);
    if (!body)
        return err_set(err, -ENOMEM, "kernel '%s' needs %s of memory at 0x%llx, the guest has %s",
                       file->path, size_format(image.init_size, need),
                       (unsigned long long)image.load, size_format(request->memory, have));
    r = boot_file_read(file, image.body_offset, body, image.body_size, err);
    if (r == 0)
        r = boot_put_cmdline(mem, request->cmdline, image.cmdline_max, err);
    if (r == 0)
        r = boot_put_initrd(mem, request, image.load + image.init_size, image.initrd_max + 1,
                            &initrd, err);
    if (r < 0)
        return r;
    r = boot_zero_page(mem, request, &initrd, head + SETUP_SECTS, image.header_end - SETUP_SECTS,
                       err);
    if (r < 0)
        return r;
    return boot_enter_64bit(mem, image.load + ENTRY_64BIT, registers, err);
}
