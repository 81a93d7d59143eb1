#include "chain.h"

#include "checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *format_name(const struct layer *layer)
{
    return layer->compat ? "qcow2" : "raw";
}

/* Memory where there is some: the oracle is about bytes, not about disks. */
static const char *scratch_root(bool on_disk)
{
    const char *tmp = getenv("TMPDIR");

    if (!on_disk && access("/dev/shm", W_OK) == 0) {
        return "/dev/shm";
    }
    return tmp && *tmp ? tmp : "/tmp";
}

int chain_init(struct chain *chain, const struct layout *layout, struct err *err)
{
    memset(chain, 0, sizeof(*chain));
    chain->layout = layout;
    snprintf(chain->dir, sizeof(chain->dir), "%s/minivmm-oracle.XXXXXX",
             scratch_root(layout->on_disk));
    if (!mkdtemp(chain->dir)) {
        chain->dir[0] = '\0';
        return err_set_errno(err, -errno, "cannot make a scratch directory");
    }
    return model_init(&chain->model, 0);
}

static void dump_path(const struct chain *chain, char *out, size_t size)
{
    snprintf(out, size, "%s/dump.raw", chain->dir);
}

void chain_free(struct chain *chain, bool keep)
{
    char dump[CHAIN_PATH + 32];

    model_free(&chain->model);
    model_free(&chain->snapshot);
    free(chain->below);
    if (chain->dir[0] && !keep) {
        for (unsigned i = 0; i < chain->count; i++) {
            unlink(chain->paths[i]);
            unlink(chain->data_paths[i]);
        }
        dump_path(chain, dump, sizeof(dump));
        unlink(dump);
        rmdir(chain->dir);
    }
}

static int add_ephemeral(struct chain *chain, struct err *err)
{
    unsigned i = chain->count++;

    memcpy(chain->paths[i], chain->paths[i - 1], sizeof(chain->paths[i]));
    chain->below = malloc(chain->model.length);
    if (!chain->below) {
        return err_set_errno(err, -ENOMEM, "a copy of the device");
    }
    memcpy(chain->below, chain->model.bytes, chain->model.length);
    chain->model.cluster = 4096;
    chain->model.discard_is_zero = true;
    chain->model.discard_reaches_parts = false;
    return 0;
}

int chain_add_layer(struct chain *chain, struct err *err)
{
    unsigned i = chain->count;
    const struct layer *layer = &chain->layout->layers[i];
    struct blk_create_options options = {
        .format = format_name(layer),
        .size = layer->size,
        .cluster_size = layer->cluster,
        .compat = layer->compat,
        .lazy_refcounts = layer->lazy,
        .extended_l2 = layer->extended_l2,
        .luks = layer->luks,
    };
    int ret;

    if (layer->ephemeral != BLK_EPHEMERAL_OFF) {
        return add_ephemeral(chain, err);
    }
    snprintf(chain->paths[i], sizeof(chain->paths[i]), "%s/%u.%s", chain->dir, i, options.format);
    options.path = chain->paths[i];
    if (layer->data != DATA_INSIDE) {
        /* To QEMU a relative name would be relative to where it runs. */
        snprintf(chain->data_paths[i], sizeof(chain->data_paths[i]), "%s/%u.data", chain->dir, i);
        options.data_file = chain->data_paths[i];
        options.data_file_raw = layer->data == DATA_FILE_RAW;
    }
    switch (layer->prealloc) {
    case BLK_PREALLOC_METADATA:
        options.prealloc = BLK_PREALLOC_METADATA;
        break;
    case BLK_PREALLOC_FALLOC:
        options.prealloc = BLK_PREALLOC_FALLOC;
        break;
    case BLK_PREALLOC_FULL:
        options.prealloc = BLK_PREALLOC_FULL;
        break;
    default:
        options.prealloc = BLK_PREALLOC_OFF;
    }
    if (i > 0) {
        options.backing_name = strrchr(chain->paths[i - 1], '/') + 1;
        options.backing_format = format_name(&chain->layout->layers[i - 1]);
    }
    ret = blk_create(&options, err);
    if (ret < 0) {
        return ret;
    }
    chain->count++;
    /* blk_create() makes whole sectors; a raw file may have any length, and reads as zeros up to the
     * next sector. */
    if (layer->compat == 0 && truncate(options.path, (off_t)layer->size) != 0) {
        return err_set_errno(err, -errno, "cannot cut %s", options.path);
    }
    chain->model.cluster = layer->cluster;
    chain->model.discard_reaches_parts = layer->extended_l2;
    chain->model.discard_is_zero = layer->compat == 3 || (layer->compat == 2 && i == 0);
    return model_resize(&chain->model, align_up(layer->size, 512));
}

static int hash_file(const char *path, uint64_t *hash, struct err *err)
{
    static const size_t chunk = 1 << 20;
    uint8_t *buf = malloc(chunk);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = -1;

    *hash = UINT64_C(0xcbf29ce484222325);
    while (buf && fd >= 0 && (got = read(fd, buf, chunk)) > 0) {
        memset(buf + got, 0, (size_t)got < chunk ? chunk - (size_t)got : 0);
        for (ssize_t i = 0; i < got; i += 8) {
            uint64_t word;

            memcpy(&word, buf + i, sizeof(word));
            *hash = (*hash ^ word) * UINT64_C(0x100000001b3);
            *hash ^= *hash >> 29;
        }
        *hash += (uint64_t)got;
    }
    free(buf);
    if (fd >= 0) {
        close(fd);
    }
    return got == 0 ? 0 : err_set(err, -EIO, "cannot read %s", path);
}

int chain_seal_top(struct chain *chain, struct err *err)
{
    unsigned i = chain->count - 1;

    return hash_file(chain->paths[i], &chain->seals[i], err);
}

int chain_check_seals(const struct chain *chain, struct err *err)
{
    for (unsigned i = 0; i + 1 < chain->count; i++) {
        uint64_t hash;
        int ret = hash_file(chain->paths[i], &hash, err);

        if (ret < 0) {
            return ret;
        }
        if (hash != chain->seals[i]) {
            return err_set(err, -EIO, "the bytes of the backing file %s changed", chain->paths[i]);
        }
    }
    return 0;
}

int chain_open(struct chain *chain, struct rng *rng, struct blk **out, struct err *err)
{
    const struct layout *layout = chain->layout;
    const struct layer *layer = &layout->layers[chain->count - 1];
    const struct blk_key key = {.bytes = DIFF_KEY, .length = strlen(DIFF_KEY)};
    struct blk_open_options options = {
        .path = chain->paths[chain->count - 1],
        .keys = &key,
        .key_count = 1,
        .format = format_name(layer),
        .writable = true,
        .discard = !layout->discard_off && !rng_one_in(rng, 4),
        .cache = layout->cache,
        .aio = rng_one_in(rng, 2) ? BLK_AIO_AUTO : BLK_AIO_THREADS,
        .ephemeral = layer->ephemeral,
        .tmpdir = chain->dir,
        .metadata_cache = layout->metadata_cache,
    };

    if (options.metadata_cache == 0 && rng_one_in(rng, 2)) {
        options.metadata_cache = 2 * (uint64_t)(layer->cluster ? layer->cluster : 512);
    }
    if (layer->ephemeral != BLK_EPHEMERAL_OFF) {
        options.format = format_name(layer - 1);
        memcpy(chain->model.bytes, chain->below, chain->model.length);
    }
    chain->model.discard_on = options.discard;
    return blk_open(&options, out, err);
}

int chain_check(const struct chain *chain, struct err *err)
{
    const struct blk_key key = {.bytes = DIFF_KEY, .length = strlen(DIFF_KEY)};

    for (unsigned i = 0; i < chain->count; i++) {
        const struct blk_open_options options = {
            .path = chain->paths[i],
            .format = "qcow2",
            .no_backing = true,
            .for_check = true,
            .keys = &key,
            .key_count = 1,
        };
        struct blk_check_result result;
        struct blk *blk;
        int ret;

        if (!chain->layout->layers[i].compat) {
            continue;
        }
        ret = blk_open(&options, &blk, err);
        if (ret < 0) {
            return ret;
        }
        ret = blk_check(blk, 0, NULL, NULL, &result, err);
        if (ret == 0 && result.corruptions + result.leaks + result.check_errors > 0) {
            ret = err_set(err, -EIO, "layer %u: %llu corruptions, %llu leaks, %llu check errors", i,
                          (unsigned long long)result.corruptions, (unsigned long long)result.leaks,
                          (unsigned long long)result.check_errors);
        }
        if (ret < 0) {
            blk_close(blk, NULL);
            return ret;
        }
        ret = blk_close(blk, err);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Runs a program with its output collected; the exit status, or -1. */
static int run_program(const char *const argv[], char *output, size_t size)
{
    size_t used = 0;
    int fds[2], status;
    ssize_t got;
    pid_t pid;

    if (pipe(fds) < 0) {
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(fds[1]);
    while (pid > 0 && (got = read(fds[0], output + used, size - 1 - used)) > 0) {
        used += (size_t)got;
        if (used == size - 1) {
            break;
        }
    }
    output[used] = '\0';
    close(fds[0]);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
        return -1;
    }
    return WEXITSTATUS(status);
}

static int ask(const char *const argv[], const char *path, struct err *err)
{
    char output[700];
    int status = run_program(argv, output, sizeof(output));

    if (status == 127) {
        return err_set(err, -ENOENT, "%s is not installed", argv[0]);
    }
    return status == 0 ? 0
                       : err_set(err, -EIO, "%s %s %s: status %d: %s", argv[0], argv[1], path,
                                 status, output);
}

static int write_dump(const struct chain *chain, const char *path, struct err *err)
{
    FILE *file = fopen(path, "we");
    bool ok =
        file && fwrite(chain->model.bytes, 1, chain->model.length, file) == chain->model.length;

    if (file && fclose(file) != 0) {
        ok = false;
    }
    return ok ? 0 : err_set(err, -EIO, "cannot write %s", path);
}

/* The chain from layer `i` down, in the words of --image-opts. */
static void image_options(const struct chain *chain, unsigned i, char *out, size_t size)
{
    char prefix[CHAIN_MAX * 8 + 1] = "";
    int used = snprintf(out, size, "driver=%s,file.filename=%s",
                        format_name(&chain->layout->layers[i]), chain->paths[i]);

    for (; used > 0 && (size_t)used < size; i--) {
        if (chain->layout->layers[i].luks != NULL) {
            used += snprintf(out + used, size - (size_t)used, ",%sencrypt.key-secret=key", prefix);
        }
        if (i == 0) {
            break;
        }
        strcat(prefix, "backing.");
    }
}

/* This key is no secret. */
static const char qemu_secret[] = "secret,id=key,data=" DIFF_KEY;

int chain_ask_qemu_check(const struct chain *chain, struct err *err)
{
    char options[CHAIN_PATH + 512];
    const char *const check[] = {"qemu-img",     "check", "--object", qemu_secret,
                                 "--image-opts", options, NULL};
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < chain->count; i++) {
        image_options(chain, i, options, sizeof(options));
        ret = chain->layout->layers[i].compat ? ask(check, chain->paths[i], err) : 0;
    }
    return ret;
}

int chain_ask_qemu(const struct chain *chain, struct err *err)
{
    char dump[CHAIN_PATH + 32], dump_options[CHAIN_PATH + 64], options[CHAIN_PATH + 512];
    const char *top = chain->paths[chain->count - 1];
    const char *const compare[] = {"qemu-img",     "compare",    "--object", qemu_secret,
                                   "--image-opts", dump_options, options,    NULL};
    unsigned last = chain->count - 1;
    bool is_raw_data = chain->layout->layers[last].data == DATA_FILE_RAW;
    const char *const compare_raw[] = {
        "qemu-img", "compare", "-f", "raw", "-F", "raw", dump, chain->data_paths[last], NULL};
    int ret = chain_ask_qemu_check(chain, err);

    /* Of a throwaway overlay nothing is left to look at. */
    if (ret < 0 || chain->below) {
        return ret;
    }
    image_options(chain, last, options, sizeof(options));
    dump_path(chain, dump, sizeof(dump));
    snprintf(dump_options, sizeof(dump_options), "driver=raw,file.filename=%s", dump);
    ret = write_dump(chain, dump, err);
    ret = ret < 0 ? ret : ask(compare, top, err);
    return ret < 0 || !is_raw_data ? ret : ask(compare_raw, chain->data_paths[last], err);
}
