/*
 * replay - the fuzzers' targets without a fuzzer, under any compiler. Speaks TAP.
 *
 *   replay                              every regression input, and some generated ones of each kind
 *   replay KIND [FILE...]               these inputs
 *   replay --seeds KIND COUNT DIRECTORY writes sound inputs for a fuzzer to start from
 *   replay --files FILE DIRECTORY       writes the files that an input holds
 *
 * Options: --seed N, --rounds N (generated inputs of each kind, 0 for none).
 * An input that breaks a promise ends the program by a signal; its name was printed before. One that
 * was generated is kept beside the program, as replay.finding.
 */
#include "kind.h"
#include "tap.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"

enum {
    MEMORY_LIMIT = 512 << 10, /* KiB resident */
    GENERATIONS = 4,          /* mutations of one seed, one on top of the other */
};

/* Sanitizers keep what is freed, and more. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SANITIZED = true, INPUT_SECONDS = 120 };
#else
enum { IS_SANITIZED = false, INPUT_SECONDS = 20 }; /* for one input */
#endif

static const struct fuzz_kind *const kinds[] = {
    &kind_open,  &kind_write,  &kind_check,    &kind_header,
    &kind_chain, &kind_bitmap, &kind_compress, &kind_snapshot,
};

static uint8_t data[INPUT_MAX_BYTES];
static size_t data_length;
static char keep_path[4096];
static struct rng mutator;

static const struct fuzz_kind *find_kind(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(kinds[i]->name, name) == 0) {
            return kinds[i];
        }
    }
    fprintf(stderr, "replay: no kind '%s'\n", name);
    exit(2);
}

static size_t read_input(const char *path)
{
    FILE *file = fopen(path, "re");
    size_t length = file != NULL ? fread(data, 1, sizeof(data), file) : 0;

    if (file == NULL) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        exit(2);
    }
    fclose(file);
    return length;
}

static void write_file(const char *path, const uint8_t *bytes, size_t length)
{
    FILE *file = fopen(path, "we");

    if (file == NULL || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) {
        fprintf(stderr, "replay: %s: %s\n", path, strerror(errno));
        exit(2);
    }
}

/* Keeps the input that is being run, and goes on dying. */
static void keep_input(int signal_number)
{
    int fd = open(keep_path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

    if (fd >= 0) {
        (void)!write(fd, data, data_length);
        close(fd);
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void run(const struct fuzz_kind *kind, size_t length)
{
    data_length = length;
    alarm(INPUT_SECONDS);
    fuzz_run(kind, data, length);
    alarm(0);
}

static void run_file(const struct fuzz_kind *kind, const char *path)
{
    tap_note("%s", path);
    run(kind, read_input(path));
    tap_result(true, "%s: %s", kind->name, path);
}

/* What the engine's fuzzer does better: a bit, a byte or a number. */
static size_t change_bytes(uint8_t *bytes, size_t length, size_t room)
{
    (void)room;
    for (uint64_t n = rng_between(&mutator, 1, 3); n > 0 && length > 0; n--) {
        uint8_t *at = bytes + rng_below(&mutator, length);

        if (rng_one_in(&mutator, 2)) {
            *at = (uint8_t)rng_next(&mutator);
        } else {
            *at = (uint8_t)(*at ^ 1U << rng_below(&mutator, 8));
        }
    }
    return length;
}

static void run_generated(const struct fuzz_kind *kind, uint64_t seed, unsigned rounds)
{
    tap_note("%s: %u generated inputs, --seed %llu", kind->name, rounds, (unsigned long long)seed);
    for (unsigned round = 0; round < rounds; round++) {
        uint64_t start = seed * UINT64_C(0x100000001) + round;
        size_t length = fuzz_seed(kind, start, data, sizeof(data));

        mutator = rng_fork(start, 3);
        run(kind, length);
        for (unsigned i = 0; i < GENERATIONS; i++) {
            length = fuzz_mutate(kind, data, length, sizeof(data), start + i, change_bytes);
            run(kind, length);
        }
    }
    tap_result(true, "%s: generated inputs", kind->name);
}

/* The inputs in DIRECTORY/KIND, in the order of their names. */
static void run_regressions(const struct fuzz_kind *kind, const char *directory)
{
    struct dirent **entries;
    char path[4096];
    int count;

    snprintf(path, sizeof(path), "%s/%s", directory, kind->name);
    count = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] != '.') {
            snprintf(path, sizeof(path), "%s/%s/%s", directory, kind->name, entries[i]->d_name);
            run_file(kind, path);
        }
        free(entries[i]);
    }
    if (count >= 0) {
        free(entries);
    }
}

static int write_seeds(const struct fuzz_kind *kind, uint64_t seed, unsigned count,
                       const char *directory)
{
    char path[4096];

    (void)mkdir(directory, 0755);
    for (unsigned i = 0; i < count; i++) {
        size_t length = fuzz_seed(kind, seed * UINT64_C(0x100000001) + i, data, sizeof(data));

        snprintf(path, sizeof(path), "%s/seed-%llu-%u", directory, (unsigned long long)seed, i);
        write_file(path, data, length);
    }
    return 0;
}

static int write_files(const char *path, const char *directory)
{
    static struct input input;
    static uint8_t piece[MEM_PAGE];
    char name[4096];

    (void)mkdir(directory, 0755);
    input_decode(&input, data, read_input(path));
    for (unsigned i = 0; i < input.file_count; i++) {
        const struct memfile *mem = &input.files[i].mem;
        FILE *file;

        snprintf(name, sizeof(name), "%s/%u-%s", directory, i,
                 i == 0 ? "top" : input.files[i].name);
        write_file(name, data, 0);
        file = fopen(name, "r+e");
        if (file == NULL || truncate(name, (off_t)mem->size) != 0) {
            fprintf(stderr, "replay: %s: %s\n", name, strerror(errno));
            return 2;
        }
        for (const struct mem_page *page = memfile_next(mem, 0); page != NULL;
             page = memfile_next(mem, page->index + 1)) {
            uint64_t at = page->index * MEM_PAGE;

            if (at < mem->size) {
                memfile_read(mem, at, piece, sizeof(piece));
                (void)fseek(file, (long)at, SEEK_SET);
                (void)fwrite(piece, 1, min_u64(sizeof(piece), mem->size - at), file);
            }
        }
        fclose(file);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"rounds", required_argument, NULL, 'r'},
        {"seeds", no_argument, NULL, 'S'},
        {"files", no_argument, NULL, 'F'},
        {NULL, 0, NULL, 0},
    };
    static const int signals[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE};
    struct rusage usage;
    uint64_t seed = 1;
    unsigned rounds = 100;
    int option, mode = 0;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's') {
            seed = strtoull(optarg, NULL, 0);
        } else if (option == 'r') {
            rounds = (unsigned)strtoul(optarg, NULL, 0);
        } else if (option == 'S' || option == 'F') {
            mode = option;
        } else {
            return 2;
        }
    }
    snprintf(keep_path, sizeof(keep_path), "%s.finding", argv[0]);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        signal(signals[i], keep_input);
    }
    argv += optind;
    argc -= optind;
    if (mode == 'S' && argc == 3) {
        return write_seeds(find_kind(argv[0]), seed, (unsigned)strtoul(argv[1], NULL, 0), argv[2]);
    }
    if (mode == 'F' && argc == 2) {
        return write_files(argv[0], argv[1]);
    }
    if (mode != 0) {
        fprintf(stderr, "replay: see the comment at the top of tests/fuzz/replay.c\n");
        return 2;
    }
    if (argc == 1) {
        run_generated(find_kind(argv[0]), seed, rounds);
    }
    for (int i = 1; i < argc; i++) {
        run_file(find_kind(argv[0]), argv[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(kinds) && argc == 0; i++) {
        run_regressions(kinds[i], "tests/fuzz/regressions");
        if (rounds > 0) {
            run_generated(kinds[i], seed, rounds);
        }
    }
    if (!IS_SANITIZED && getrusage(RUSAGE_SELF, &usage) == 0) {
        tap_result(usage.ru_maxrss < MEMORY_LIMIT, "no input made the engine use much memory");
    }
    return tap_finish();
}
