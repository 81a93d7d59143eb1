/*
 * secret.c - see secret.h.
 */
#include "secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *secret_alloc(size_t length)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    /* Best effort: a kernel without it still runs the guest. */
    (void)madvise(memory, length, MADV_DONTDUMP);
    return memory;
}

void secret_free(void *memory, size_t length)
{
    if (memory != NULL) {
        explicit_bzero(memory, length);
        (void)munmap(memory, length);
    }
}

void secret_wipe(struct secret *secret)
{
    secret_free(secret->bytes, SECRET_MAX);
    *secret = (struct secret){0};
}

static int read_all(struct secret *secret, int fd, const char *name, struct err *err)
{
    ssize_t n = 1;
    char more;

    secret->bytes = secret_alloc(SECRET_MAX);
    if (secret->bytes == NULL)
        return err_set_errno(err, -ENOMEM, "Could not read the key from %s", name);
    while (n > 0 || (n < 0 && errno == EINTR)) {
        size_t room = SECRET_MAX - secret->length;

        n = read(fd, room > 0 ? (void *)(secret->bytes + secret->length) : &more,
                 room > 0 ? room : 1);
        if (n > 0 && room == 0)
            return err_set(err, -EINVAL, "The key from %s is longer than %d bytes", name,
                           SECRET_MAX);
        secret->length += n > 0 ? (size_t)n : 0;
    }
    if (n < 0)
        return err_set_errno(err, -errno, "Could not read the key from %s", name);
    return secret->length > 0 ? 0 : err_set(err, -EINVAL, "The key from %s is empty", name);
}

int secret_read_fd(struct secret *secret, int fd, struct err *err)
{
    char name[32];
    int rc;

    (void)snprintf(name, sizeof(name), "descriptor %d", fd);
    *secret = (struct secret){0};
    rc = read_all(secret, fd, name, err);
    (void)close(fd);
    if (rc < 0)
        secret_wipe(secret);
    return rc;
}

int secret_read_file(struct secret *secret, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc;

    *secret = (struct secret){0};
    if (fd < 0)
        return err_set_errno(err, -errno, "Could not open the key file '%s'", path);
    rc = read_all(secret, fd, path, err);
    (void)close(fd);
    if (rc < 0)
        secret_wipe(secret);
    return rc;
}

static int base64_digit(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int secret_decode_base64(struct secret *secret, struct err *err)
{
    uint32_t bits = 0;
    size_t digits = 0, padding = 0, out = 0;

    for (size_t i = 0; i < secret->length; i++) {
        uint8_t c = secret->bytes[i];
        int digit = base64_digit(c);

        if (c == ' ' || c == '\n' || c == '\r' || c == '\t')
            continue;
        if (c == '=')
            padding++;
        else if (digit < 0 || padding > 0)
            return err_set(err, -EINVAL, "The key is not base64 text");
        bits = bits << 6 | (uint32_t)(digit < 0 ? 0 : digit);
        if (++digits % 4 == 0) {
            /* Never ahead of what is read. */
            secret->bytes[out++] = (uint8_t)(bits >> 16);
            secret->bytes[out++] = (uint8_t)(bits >> 8);
            secret->bytes[out++] = (uint8_t)bits;
        }
    }
    if (digits == 0 || digits % 4 != 0 || padding > 2)
        return err_set(err, -EINVAL, "The key is not base64 text");
    secret->length = out - padding;
    return 0;
}
