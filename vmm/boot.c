/*
 * boot.c - finds out what a kernel file is, and the parts that all loaders share.
 */
#include "boot_private.h"

#include "checked.h"
#include "memory.h"
#include "size.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int boot_file_open(struct boot_file *file, const char *path, const char *what, struct err *err)
{
    struct stat st;
    int r;

    *file = (struct boot_file){.path = path, .fd = -1};
    /* O_NONBLOCK: a FIFO must not hold us up before it is refused. */
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0)
        return err_set_errno(err, -errno, "cannot open %s '%s'", what, path);
    if (fstat(file->fd, &st) != 0) {
        r = err_set_errno(err, -errno, "cannot read %s '%s'", what, path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        r = err_set(err, -EINVAL, "%s '%s' is %s, not a file", what, path,
                    S_ISDIR(st.st_mode) ? "a directory" : "a device, pipe or socket");
        goto fail;
    }
    if (st.st_size == 0) {
        r = err_set(err, -EINVAL, "%s '%s' is empty", what, path);
        goto fail;
    }
    file->size = (uint64_t)st.st_size;
    return 0;

fail:
    boot_file_close(file);
    return r;
}

void boot_file_close(struct boot_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

int boot_file_read(const struct boot_file *file, uint64_t offset, void *buf, uint64_t length,
                   struct err *err)
{
    char *at = buf;

    while (length > 0) {
        /* One call transfers at most 2 GiB. */
        size_t part = (size_t)min_u64(length, 1U << 30);
        ssize_t n = pread(file->fd, at, part, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, -errno, "cannot read '%s'", file->path);
        if (n == 0)
            return err_set(err, -EIO, "'%s' is cut short", file->path);
        at += n;
        offset += (uint64_t)n;
        length -= (uint64_t)n;
    }
    return 0;
}

int boot_put_cmdline(const struct guestmem *mem, const char *cmdline, uint64_t max, struct err *err)
{
    size_t length = strlen(cmdline);
    char *at;

    if (max > BOOT_CMDLINE_MAX - 1)
        max = BOOT_CMDLINE_MAX - 1;
    if (length > max)
        return err_set(err, -E2BIG,
                       "the kernel command line has %zu bytes, this kernel takes at most %llu",
                       length, (unsigned long long)max);
    at = guestmem_ptr(mem, BOOT_CMDLINE, length + 1);
    if (!at)
        return err_set(err, -ENOMEM, "no guest memory for the kernel command line");
    memcpy(at, cmdline, length + 1);
    return 0;
}

int boot_put_initrd(const struct guestmem *mem, const struct boot_request *request, uint64_t floor,
                    uint64_t ceiling, struct boot_initrd *initrd, struct err *err)
{
    uint64_t low = memory_low_size(request->memory);
    char size[SIZE_TEXT_MAX], memory[SIZE_TEXT_MAX];
    struct boot_file file;
    void *at = NULL;
    int r;

    *initrd = (struct boot_initrd){0};
    if (!request->initrd)
        return 0;
    r = boot_file_open(&file, request->initrd, "initrd", err);
    if (r < 0)
        return r;
    ceiling = min_u64(ceiling, low);
    floor = align_up(min_u64(floor, low), 4096);
    if (ceiling > floor && file.size <= ceiling - floor) {
        initrd->address = align_down(ceiling - file.size, 4096);
        initrd->size = file.size;
        at = guestmem_ptr(mem, initrd->address, initrd->size);
    }
    if (at)
        r = boot_file_read(&file, 0, at, file.size, err);
    else
        r = err_set(err, -ENOMEM,
                    "initrd '%s' of %s does not fit beside the kernel into %s of guest memory",
                    request->initrd, size_format(file.size, size),
                    size_format(request->memory, memory));
    boot_file_close(&file);
    return r;
}

static bool begins_with(const uint8_t *head, size_t size, const char *magic, size_t length)
{
    return size >= length && memcmp(head, magic, length) == 0;
}

/* What a person may have given in place of a kernel. */
static const char *describe(const uint8_t *head, size_t size)
{
    static const struct {
        const char *magic;
        size_t length;
        const char *what;
    } known[] = {
        {"\x1f\x8b", 2, "gzip-compressed data (gunzip it first)"},
        {"\x28\xb5\x2f\xfd", 4, "zstd-compressed data (decompress it first)"},
        {"\xfd"
         "7zXZ",
         5, "xz-compressed data (decompress it first)"},
        {"BZh", 3, "bzip2-compressed data (decompress it first)"},
        {"QFI\xfb", 4, "a qcow2 disk image (give it to --disk)"},
        {"070701", 6, "a cpio archive (give it to --initrd)"},
        {"070702", 6, "a cpio archive (give it to --initrd)"},
        {"!<arch>\n", 8, "a Debian package or an archive (unpack it first)"},
        {"MZ", 2, "an EFI or Windows program without a Linux boot header"},
        {"#!", 2, "a script"},
    };
    size_t text = 0;

    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (begins_with(head, size, known[i].magic, known[i].length))
            return known[i].what;
    }
    if (size >= 512 && head[510] == 0x55 && head[511] == 0xaa)
        return "a boot sector or a disk image (a disk goes to --disk)";
    while (text < size && ((head[text] >= ' ' && head[text] < 0x7f) || head[text] == '\n' ||
                           head[text] == '\t' || head[text] == '\r'))
        text++;
    return text == size ? "text" : "data of an unknown kind";
}

static bool has_linux_header(const uint8_t *head, size_t size)
{
    return size >= 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0;
}

int boot_load(const struct guestmem *mem, const struct boot_request *request,
              struct boot_registers *registers, struct err *err)
{
    uint8_t head[BOOT_HEAD_SIZE];
    struct boot_file file;
    size_t size;
    int r;

    memset(registers, 0, sizeof(*registers));
    r = boot_file_open(&file, request->kernel, "kernel", err);
    if (r < 0)
        return r;
    size = (size_t)min_u64(file.size, sizeof(head));
    r = boot_file_read(&file, 0, head, size, err);
    if (r == 0) {
        if (begins_with(head, size, ELFMAG, SELFMAG))
            r = boot_elf(mem, request, &file, head, size, registers, err);
        else if (has_linux_header(head, size))
            r = boot_bzimage(mem, request, &file, head, size, registers, err);
        else
            r = err_set(err, -EINVAL,
                        "kernel '%s' is neither a Linux bzImage nor an ELF file: it is %s",
                        request->kernel, describe(head, size));
    }
    boot_file_close(&file);
    return r;
}
