/*
 * kind_chain.c - up to four images that name each other, themselves, links, other types of files and
 * names outside: opened as a chain, in a directory on the host (locks, links and loops are the host's).
 *
 *   DIRECTORY/root/{top,b,c,d}        the input's files
 *   DIRECTORY/root/{link,loop,fifo}   a link to the secret, a link to itself, a FIFO
 *   DIRECTORY/outside/secret          what no name may lead to under backing_root
 *
 * Holds: no file outside DIRECTORY is opened, whatever a name says (the opener stands in the way, see
 * memfs.c), and with backing_root none outside it is part of a chain; a chain has no image twice; only
 * the top is writable, and the others keep their bytes; a guessed format names no other file; every
 * descriptor is closed again.
 */
#include "block.h"
#include "checked.h"
#include "kind.h"
#include "qcow2/format.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const file_names[INPUT_MAX_FILES] = {"top", "b", "c", "d"};

static char directory[PATH_MAX], root[PATH_MAX + 8];

/* Until the next call. */
static const char *path_of(const char *name)
{
    static char path[PATH_MAX + 64];

    snprintf(path, sizeof(path), "%s/%s", root, name);
    return path;
}

static void remove_directory(void)
{
    static const char *const names[] = {
        "top", "b", "c", "d", "link", "up", "loop", "fifo", "../outside/secret",
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        (void)unlink(path_of(names[i]));
    }
    (void)rmdir(path_of("../outside"));
    (void)rmdir(root);
    (void)rmdir(directory);
}

static void must(bool ok)
{
    if (!ok) {
        perror(directory);
        exit(2);
    }
}

static void make_directory(void)
{
    static const char text[] = "secret";
    int fd;

    if (directory[0] != '\0') {
        return;
    }
    snprintf(directory, sizeof(directory), "%s/minivmm-fuzz.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    must(mkdtemp(directory) != NULL);
    snprintf(root, sizeof(root), "%s/root", directory);
    must(mkdir(root, 0755) == 0 && mkdir(path_of("../outside"), 0755) == 0);
    must(symlink("../outside/secret", path_of("link")) == 0);
    must(symlink("../outside", path_of("up")) == 0);
    must(symlink("loop", path_of("loop")) == 0);
    must(mkfifo(path_of("fifo"), 0644) == 0);
    fd = open(path_of("link"), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    must(fd >= 0 && write(fd, text, sizeof(text)) == (ssize_t)sizeof(text));
    close(fd);
    must(atexit(remove_directory) == 0);
}

/* ---- inputs ---- */

static void set_backing_name(struct memfile *mem, struct rng *rng)
{
    static const char *const names[] = {
        "b",          "c",       "d",      "top",        "b",
        "c",          "link",    "loop",   "fifo",       "up",
        "up/secret",  "missing", "./d",    "../root/b",  "../b",
        "/etc/hosts", "",        ".",      "/",          "../outside/secret",
        "json:{}",    "nbd:b",   "file:b", "/dev/stdin", "/proc/self/fd/0",
    };
    static const char *const formats[] = {"raw", "qcow2", "qcow2", "vmdk", ""};
    const char *name = names[rng_below(rng, ARRAY_LEN(names))];
    const char *format = formats[rng_below(rng, ARRAY_LEN(formats))];
    uint64_t at = memfile_be32(mem, 4) >= 3 ? memfile_be32(mem, 100) & 127 : QCOW2_V2_HEADER_LENGTH;
    bool is_data_file = rng_one_in(rng, 6);
    uint8_t zeros[256] = {0};

    (void)memfile_write(mem, at, zeros, sizeof(zeros));
    if (is_data_file) {
        memfile_set_be32(mem, at, QCOW2_EXT_DATA_FILE);
        memfile_set_be32(mem, at + 4, (uint32_t)strlen(name));
        (void)memfile_write(mem, at + 8, name, strlen(name));
        memfile_set_be64(mem, 72, memfile_be64(mem, 72) | QCOW2_INCOMPAT_DATA_FILE);
        return;
    }
    if (!rng_one_in(rng, 4)) {
        memfile_set_be32(mem, at, QCOW2_EXT_BACKING_FORMAT);
        memfile_set_be32(mem, at + 4, (uint32_t)strlen(format));
        (void)memfile_write(mem, at + 8, format, strlen(format));
    }
    memfile_set_be64(mem, 8, at + 64);
    memfile_set_be32(mem, 16, (uint32_t)strlen(name));
    (void)memfile_write(mem, at + 64, name, strlen(name));
}

static void change_names(struct input *input, struct rng *rng)
{
    if (input->file_count > 0) {
        set_backing_name(&input->files[rng_below(rng, input->file_count)].mem, rng);
    }
}

static void seed(struct input *input, struct rng *rng)
{
    unsigned count = (unsigned)rng_between(rng, 1, INPUT_MAX_FILES);

    for (unsigned i = 0; i < count; i++) {
        struct memfile *mem = input_add(input, file_names[i]);

        image_build(mem, rng, 0, BUILD_COMPRESSED | BUILD_EXTENDED_L2);
        if (!rng_one_in(rng, 5)) {
            set_backing_name(mem, rng);
        }
    }
    use_random_script(input, rng, rng_between(rng, 8, 40));
}

/* ---- running ---- */

static void write_host_file(const char *name, const struct memfile *mem)
{
    int fd = open(path_of(name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

    must(fd >= 0);
    for (const struct mem_page *page = memfile_next(mem, 0); page != NULL;
         page = memfile_next(mem, page->index + 1)) {
        must(pwrite(fd, page->bytes, MEM_PAGE, (off_t)(page->index * MEM_PAGE)) == MEM_PAGE);
    }
    must(ftruncate(fd, (off_t)mem->size) == 0);
    close(fd);
}

static void expect_host_file(const char *name, const struct memfile *mem)
{
    uint8_t bytes[MEM_PAGE];
    struct stat st;
    int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);

    must(fd >= 0 && fstat(fd, &st) == 0);
    if ((uint64_t)st.st_size != mem->size) {
        finding("'%s' changed its size", name);
    }
    for (const struct mem_page *page = memfile_next(mem, 0); page != NULL;
         page = memfile_next(mem, page->index + 1)) {
        ssize_t n = pread(fd, bytes, MEM_PAGE, (off_t)(page->index * MEM_PAGE));

        if (n < 0 || memcmp(bytes, page->bytes, (size_t)n) != 0) {
            finding("'%s' changed", name);
        }
    }
    close(fd);
}

static bool is_inside(int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    must(n > 0);
    path[n] = '\0';
    return strncmp(path, root, strlen(root)) == 0 && path[strlen(root)] == '/';
}

static void examine_chain(struct blk *top, const struct blk_open_options *options)
{
    for (const struct blk *blk = top; blk != NULL; blk = blk->backing) {
        if (options->backing_root != NULL && !is_inside(blk->file->fd)) {
            finding("'%s' lies outside the backing root", blk->path);
        }
        if (blk->data_file != NULL && options->backing_root != NULL &&
            !is_inside(blk->data_file->fd)) {
            finding("the data file of '%s' lies outside the backing root", blk->path);
        }
        if (blk->data_file != NULL && blk->is_probed && !options->trust_probe) {
            finding("'%s' was guessed and may name a data file", blk->path);
        }
        if (blk != top && blk->data_file != NULL && blk->data_file->writable) {
            finding("the data file of '%s' is open for writing", blk->path);
        }
        if (blk != top && (blk->writable || blk->file->writable)) {
            finding("'%s' is open for writing", blk->path);
        }
        if (blk->is_probed && !options->trust_probe && blk->backing != NULL) {
            finding("'%s' was guessed and may name '%s'", blk->path, blk->backing->path);
        }
        for (const struct blk *below = blk->backing; below != NULL; below = below->backing) {
            if (below->inode == blk->inode && below->device == blk->device) {
                finding("'%s' is in the chain twice", below->path);
            }
        }
    }
    if (options->no_backing && top->backing != NULL) {
        finding("the chain was to stay closed");
    }
}

/* Whether the file is the data file that is written with the top. */
static bool is_data_file(const char *name, ino_t inode)
{
    struct stat st;

    return inode != 0 && stat(path_of(name), &st) == 0 && st.st_ino == inode;
}

/* The lowest free descriptor: the same before and after. */
static int free_descriptor(void)
{
    int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    must(fd >= 0);
    close(fd);
    return fd;
}

static void use_chain(struct blk *blk, struct script *script)
{
    static uint8_t bytes[20000];

    use_read_all(blk, NULL);
    for (unsigned i = 0; i < 6 && blk_writable(blk) && blk_length(blk) > 0; i++) {
        uint64_t offset = script_below(script, min_u64(blk_length(blk), 1 << 20));
        uint64_t length = min_u64(blk_length(blk) - offset, 1 + script_below(script, 20000));

        memset(bytes, (int)i, length);
        (void)blk_pwrite(blk, offset, bytes, length);
        (void)blk_pdiscard(blk, offset / 2, length);
    }
}

static void run(struct input *input)
{
    static const char *const formats[] = {"qcow2", "qcow2", NULL, "raw"};
    static char top[PATH_MAX + 64];
    struct script script = input_script(input);
    unsigned flags = script_byte(&script), format = script_byte(&script) % 4;
    struct blk_open_options options = {
        .path = top,
        .format = formats[format],
        .writable = (flags & 1) != 0,
        .no_backing = (flags & 2) != 0 && (flags & 4) != 0,
        .trust_probe = (flags & 8) != 0,
        .force_share = (flags & 17) == 16,
        .discard = true,
        .backing_root = flags & 32 ? NULL : root,
    };
    struct blk *blk = NULL;
    struct err err = {""};
    ino_t data_inode = 0;
    int descriptor, r;

    make_directory();
    snprintf(top, sizeof(top), "%s", path_of("top"));
    memfs_allow_directory(directory);
    for (unsigned i = 0; i < INPUT_MAX_FILES; i++) {
        if (i < input->file_count) {
            write_host_file(file_names[i], &input->files[i].mem);
        } else {
            (void)unlink(path_of(file_names[i]));
        }
    }
    descriptor = free_descriptor();
    r = blk_open(&options, &blk, &err);
    if (r == 0) {
        examine_chain(blk, &options);
        data_inode = options.writable ? blk->data_inode : 0;
        use_chain(blk, &script);
        (void)blk_close(blk, NULL);
    } else if (err.text[0] == '\0') {
        finding("refused without a reason");
    }
    if (free_descriptor() != descriptor) {
        finding("a descriptor is left open");
    }
    for (unsigned i = options.writable ? 1 : 0; i < input->file_count; i++) {
        if (!is_data_file(file_names[i], data_inode)) {
            expect_host_file(file_names[i], &input->files[i].mem);
        }
    }
    memfs_allow_directory(NULL);
}

const struct fuzz_kind kind_chain = {
    .name = "chain",
    .seed = seed,
    .run = run,
    .mutate = change_names,
};
