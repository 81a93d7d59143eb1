/*
 * blkio - engine requests from the command line, for tests. Not installed.
 *
 *   blkio [OPTIONS] IMAGE [COMMAND...]
 *
 * Each COMMAND is one argument; they are carried out in order until one fails:
 *   "write BYTE OFFSET LENGTH"    fills with a byte        "read BYTE OFFSET LENGTH"  expects it
 *   "fill SEED OFFSET LENGTH"     bytes of a sequence      "verify SEED OFFSET LENGTH" expects them
 *   "cwrite BYTE OFFSET LENGTH"   the same, compressed     "cfill SEED OFFSET LENGTH"
 *   "load FILE OFFSET LENGTH"     what a file begins with  "cload FILE OFFSET LENGTH"
 *   "zero OFFSET LENGTH"  "unmap-zero OFFSET LENGTH"  "discard OFFSET LENGTH"  "flush"
 *   "dump FILE"           writes the whole device into a flat file
 *   "compare FILE"        expects the device to equal a flat file (which is zero past its end)
 *   "resize LENGTH"  "length"  "empty"
 *   "dirty BITMAP"        offset and length of each extent that a persistent bitmap has
 *   "hold"                says "holding" and waits until standard input ends
 *   "die"                 dies of SIGKILL, the image being open
 *   "batch"               reads commands from standard input, one a line, until it ends, and
 *                         answers each with "ok" or "failed: REASON" on standard output
 *   "journal SEED COUNT"  random whole-sector writes with flushes, each flush acknowledged on standard
 *                         output (see journal.h); "replay SEED UPTO" checks what was acknowledged
 * Sizes take suffixes. Exit status: 0; 1 a command or the open failed, with one line on standard error;
 * 2 usage.
 */
#include "blockdev.h"
#include "checked.h"
#include "journal.h"
#include "log.h"
#include "size.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 2 << 20 /* the largest cluster */, LARGE = 64 << 20, MAX_WORDS = 5 };

static uint8_t buffer[CHUNK];
static uint8_t expected[CHUNK];

static void make_bytes(bool is_sequence, uint64_t value, uint64_t offset, uint8_t *out,
                       size_t length)
{
    if (is_sequence) {
        journal_sequence(value, offset, out, length);
    } else {
        memset(out, (int)(value & 0xff), length);
    }
}

typedef int (*writer)(struct blk *blk, uint64_t offset, const void *buf, size_t length);

static int write_range(struct blk *blk, writer write_part, bool is_sequence, uint64_t value,
                       uint64_t offset, uint64_t length)
{
    while (length > 0) {
        size_t part = (size_t)min_u64(length, CHUNK);
        int ret;

        make_bytes(is_sequence, value, offset, buffer, part);
        ret = write_part(blk, offset, buffer, part);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        length -= part;
    }
    return 0;
}

static int compare_bytes(uint64_t offset, size_t length)
{
    if (memcmp(buffer, expected, length) == 0) {
        return 0;
    }
    for (size_t i = 0; i < length; i++) {
        if (buffer[i] != expected[i]) {
            log_error("byte %" PRIu64 " is %02x instead of %02x", offset + i, buffer[i],
                      expected[i]);
            break;
        }
    }
    return -EILSEQ;
}

static int check_range(struct blk *blk, bool is_sequence, uint64_t value, uint64_t offset,
                       uint64_t length)
{
    while (length > 0) {
        size_t part = (size_t)min_u64(length, CHUNK);
        int ret = blk_pread(blk, offset, buffer, part);

        if (ret < 0) {
            return ret;
        }
        make_bytes(is_sequence, value, offset, expected, part);
        ret = compare_bytes(offset, part);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        length -= part;
    }
    return 0;
}

/* Large disks hold little: the length at `offset` where nothing is stored, here and in the file. */
static uint64_t length_of_nothing(struct blk *blk, int fd, uint64_t offset)
{
    uint64_t length = blk_length(blk) - offset;
    struct blk_extent extent;
    off_t data;

    if (blk_length(blk) < LARGE || blk_map(blk, offset, length, 0, &extent) < 0 ||
        extent.kind == BLK_EXTENT_DATA || extent.kind == BLK_EXTENT_COMPRESSED) {
        return 0;
    }
    data = lseek(fd, (off_t)offset, SEEK_DATA);
    return data < 0 ? extent.length : min_u64(extent.length, (uint64_t)data - offset);
}

static int compare_part(struct blk *blk, int fd, uint64_t offset, size_t length)
{
    int ret = blk_pread(blk, offset, buffer, length);
    ssize_t got = ret < 0 ? 0 : pread(fd, expected, length, (off_t)offset);

    if (ret < 0 || got < 0) {
        return ret < 0 ? ret : -errno;
    }
    memset(expected + got, 0, length - (size_t)got);
    return compare_bytes(offset, length);
}

static int dump_part(struct blk *blk, int fd, uint64_t offset, size_t length)
{
    int ret = blk_pread(blk, offset, buffer, length);

    if (ret >= 0 && pwrite(fd, buffer, length, (off_t)offset) != (ssize_t)length) {
        ret = -EIO;
    }
    return ret;
}

static int with_file(struct blk *blk, const char *path, bool compare)
{
    int fd = open(path, (compare ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC) | O_CLOEXEC, 0666);
    int ret = fd < 0 ? -errno : 0;

    for (uint64_t offset = 0; ret >= 0 && offset < blk_length(blk);) {
        uint64_t part = compare ? length_of_nothing(blk, fd, offset) : 0;

        if (part == 0) {
            part = min_u64(CHUNK, blk_length(blk) - offset);
            ret = (compare ? compare_part : dump_part)(blk, fd, offset, (size_t)part);
        }
        offset += part;
    }
    if (fd >= 0 && close(fd) != 0 && ret >= 0) {
        ret = -EIO;
    }
    return ret;
}

/* What the file begins with. */
static int load_range(struct blk *blk, writer write_part, const char *path, uint64_t offset,
                      uint64_t length)
{
    FILE *file = fopen(path, "re");
    int ret = file ? 0 : -errno;

    while (ret >= 0 && length > 0) {
        size_t part = (size_t)min_u64(length, CHUNK);

        ret = fread(buffer, 1, part, file) == part ? write_part(blk, offset, buffer, part) : -EIO;
        offset += part;
        length -= part;
    }
    if (file) {
        (void)fclose(file);
    }
    return ret;
}

static int print_extent(void *opaque, uint64_t offset, uint64_t length)
{
    (void)opaque;
    return printf("%" PRIu64 " %" PRIu64 "\n", offset, length) > 0 ? 0 : -EIO;
}

static int print_dirty(struct blk *blk, const char *bitmap)
{
    struct err err = {0};
    int ret = blk_bitmap_dirty(blk, bitmap, print_extent, NULL, &err);

    if (ret < 0) {
        log_error("%s", err.text);
    }
    return ret;
}

static int hold(void)
{
    char byte;

    puts("holding");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    return 0;
}

static int resize(struct blk *blk, uint64_t size)
{
    struct err err = {0};
    int ret = blk_resize(blk, size, &err);

    if (ret < 0) {
        log_error("%s", err.text);
    }
    return ret;
}

static int make_empty(struct blk *blk)
{
    struct err err = {0};
    int ret = blk_make_empty(blk, &err);

    if (ret < 0) {
        log_error("%s", err.text);
    }
    return ret;
}

static int dispatch(struct blk *blk, const char *text);

static int batch(struct blk *blk)
{
    char line[512];

    while (fgets(line, sizeof(line), stdin)) {
        int ret;

        line[strcspn(line, "\n")] = '\0';
        ret = dispatch(blk, line);
        if (ret < 0) {
            printf("failed: %s\n", strerror(-ret));
        } else {
            puts("ok");
        }
        fflush(stdout);
    }
    return 0;
}

struct words {
    char text[512];
    const char *word[MAX_WORDS];
    uint64_t number[MAX_WORDS]; /* of the words that are sizes */
    int count;
};

static void split(struct words *words, const char *text)
{
    char *rest = NULL;

    snprintf(words->text, sizeof(words->text), "%s", text);
    words->count = 0;
    for (char *w = strtok_r(words->text, " ", &rest); w && words->count < MAX_WORDS;
         w = strtok_r(NULL, " ", &rest)) {
        words->word[words->count] = w;
        words->number[words->count] = 0;
        size_parse(w, 'B', &words->number[words->count]);
        words->count++;
    }
}

static int dispatch_words(struct blk *blk, const struct words *w)
{
    const char *name = w->count ? w->word[0] : "";
    const uint64_t *n = w->number;

    if (w->count == 4 && strcmp(name, "write") == 0) {
        return write_range(blk, blk_pwrite, false, n[1], n[2], n[3]);
    } else if (w->count == 4 && strcmp(name, "fill") == 0) {
        return write_range(blk, blk_pwrite, true, n[1], n[2], n[3]);
    } else if (w->count == 4 && strcmp(name, "cwrite") == 0) {
        return write_range(blk, blk_pwrite_compressed, false, n[1], n[2], n[3]);
    } else if (w->count == 4 && strcmp(name, "cfill") == 0) {
        return write_range(blk, blk_pwrite_compressed, true, n[1], n[2], n[3]);
    } else if (w->count == 4 && strcmp(name, "load") == 0) {
        return load_range(blk, blk_pwrite, w->word[1], n[2], n[3]);
    } else if (w->count == 4 && strcmp(name, "cload") == 0) {
        return load_range(blk, blk_pwrite_compressed, w->word[1], n[2], n[3]);
    } else if (w->count == 4 && strcmp(name, "read") == 0) {
        return check_range(blk, false, n[1], n[2], n[3]);
    } else if (w->count == 4 && strcmp(name, "verify") == 0) {
        return check_range(blk, true, n[1], n[2], n[3]);
    } else if (w->count == 3 && strcmp(name, "zero") == 0) {
        return blk_pwrite_zeroes(blk, n[1], n[2], 0);
    } else if (w->count == 3 && strcmp(name, "unmap-zero") == 0) {
        return blk_pwrite_zeroes(blk, n[1], n[2], BLK_REQ_MAY_UNMAP);
    } else if (w->count == 3 && strcmp(name, "discard") == 0) {
        return blk_pdiscard(blk, n[1], n[2]);
    } else if (w->count == 1 && strcmp(name, "flush") == 0) {
        return blk_flush(blk);
    } else if (w->count == 2 && strcmp(name, "dump") == 0) {
        return with_file(blk, w->word[1], false);
    } else if (w->count == 2 && strcmp(name, "compare") == 0) {
        return with_file(blk, w->word[1], true);
    } else if (w->count == 4 && strcmp(name, "journal") == 0) {
        return journal_write(blk, n[1], n[2], (unsigned)n[3]);
    } else if (w->count == 4 && strcmp(name, "replay") == 0) {
        return journal_check(blk, n[1], (unsigned)n[2], w->word[3]);
    } else if (w->count == 2 && strcmp(name, "resize") == 0) {
        return resize(blk, n[1]);
    } else if (w->count == 1 && strcmp(name, "empty") == 0) {
        return make_empty(blk);
    } else if (w->count == 1 && strcmp(name, "length") == 0) {
        return printf("%" PRIu64 "\n", blk_length(blk)) > 0 ? 0 : -EIO;
    } else if (w->count == 2 && strcmp(name, "dirty") == 0) {
        return print_dirty(blk, w->word[1]);
    } else if (w->count == 1 && strcmp(name, "die") == 0) {
        return raise(SIGKILL);
    } else if (w->count == 1 && strcmp(name, "hold") == 0) {
        return hold();
    } else if (w->count == 1 && strcmp(name, "batch") == 0) {
        return batch(blk);
    }
    return -ENOSYS;
}

static int dispatch(struct blk *blk, const char *text)
{
    struct words words = {0};

    split(&words, text);
    return dispatch_words(blk, &words);
}

static int usage(void)
{
    fputs("usage: blkio [-f FORMAT] [-r] [-U] [-t writeback|direct|unsafe] [-k KEYFILE] "
          "[--no-backing] IMAGE [COMMAND...]\n",
          stderr);
    return 2;
}

static bool parse_cache(const char *text, enum blk_cache *cache)
{
    static const char *const names[] = {"writeback", "direct", "unsafe"};

    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *cache = (enum blk_cache)i;
            return true;
        }
    }
    return false;
}

/* All that a file holds, as it is; the key lives as long as the program. */
static bool read_key(const char *path, struct blk_key *key)
{
    static char text[512];
    FILE *file = fopen(path, "re");

    if (file == NULL) {
        return false;
    }
    *key = (struct blk_key){.bytes = text, .length = fread(text, 1, sizeof(text), file)};
    return fclose(file) == 0;
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {{"no-backing", no_argument, NULL, 'B'},
                                                 {NULL, 0, NULL, 0}};
    struct blk_open_options options = {.writable = true, .discard = true, .trust_probe = true};
    struct blk_key key;
    struct err err = {0};
    struct blk *blk;
    int option, ret, closed;

    log_init(argv[0]);
    while ((option = getopt_long(argc, argv, "f:rUt:k:", long_options, NULL)) != -1) {
        switch (option) {
        case 'f':
            options.format = optarg;
            break;
        case 'r':
            options.writable = false;
            break;
        case 'U':
            options.writable = false;
            options.force_share = true;
            break;
        case 't':
            if (!parse_cache(optarg, &options.cache)) {
                return usage();
            }
            break;
        case 'k':
            if (!read_key(optarg, &key)) {
                log_error("%s: %s", optarg, strerror(errno));
                return 1;
            }
            options.keys = &key;
            options.key_count = 1;
            break;
        case 'B':
            options.no_backing = true;
            break;
        default:
            return usage();
        }
    }
    if (optind == argc) {
        return usage();
    }
    options.path = argv[optind];
    ret = blk_open(&options, &blk, &err);
    if (ret < 0) {
        log_error("%s", err.text);
        return 1;
    }
    for (int i = optind + 1; ret >= 0 && i < argc; i++) {
        ret = dispatch(blk, argv[i]);
        if (ret < 0) {
            log_error("%s: %s", argv[i], strerror(-ret));
        }
    }
    closed = blk_close(blk, &err);
    if (closed < 0 && ret >= 0) {
        log_error("%s", err.text);
    }
    return ret < 0 || closed < 0;
}
