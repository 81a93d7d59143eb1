/*
 * keys.c - see keys.h.
 */
#include "keys.h"
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "optstr.h"
#include "secret.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SECRETS = 64 };

struct named_secret {
    char *id;
    struct secret secret;
};

static struct {
    struct named_secret secrets[MAX_SECRETS];
    unsigned secret_count;
    struct secret everywhere;
    struct blk_key everywhere_key;
} keys;

/* ---- secrets ---- */

static bool complain(const char *option, const struct err *err)
{
    log_error("%s: %s", option, err->text);
    return false;
}

static bool read_object(struct optstr *options, struct named_secret *out)
{
    static const char *const known[] = {"qom-type", "id", "file", "format", "data", NULL};
    const char *type = optstr_get(options, "qom-type"), *id = optstr_get(options, "id");
    const char *file = optstr_get(options, "file"), *format = optstr_get(options, "format");
    struct err err;

    if (type == NULL || strcmp(type, "secret") != 0) {
        log_error("--object: only secrets are known");
        return false;
    }
    if (optstr_get(options, "data") != NULL) {
        log_error("--object: data= would show the key to everybody who can list processes; put it "
                  "into a file and use file=");
        return false;
    }
    if (optstr_reject_unused(options, known, &err) < 0)
        return complain("--object", &err);
    if (id == NULL || file == NULL) {
        log_error("--object: a secret needs id= and file=");
        return false;
    }
    if (format != NULL && strcmp(format, "raw") != 0 && strcmp(format, "base64") != 0) {
        log_error("--object: format=%s: expected raw or base64", format);
        return false;
    }
    if (secret_read_file(&out->secret, file, &err) < 0)
        return complain("--object", &err);
    if (format != NULL && strcmp(format, "base64") == 0 &&
        secret_decode_base64(&out->secret, &err) < 0) {
        secret_wipe(&out->secret);
        return complain("--object", &err);
    }
    out->id = strdup(id);
    return out->id != NULL;
}

static bool add_object(const char *text)
{
    struct optstr options = {0};
    struct blk_key unused;
    struct err err;
    const char *id;
    bool is_added;

    if (optstr_parse(&options, text, "qom-type", &err) < 0)
        return complain("--object", &err);
    id = optstr_get(&options, "id");
    if (keys.secret_count == MAX_SECRETS || (id != NULL && keys_find(id, &unused))) {
        log_error(keys.secret_count == MAX_SECRETS ? "--object: too many secrets"
                                                   : "--object: id=%s is there twice",
                  id);
        is_added = false;
    } else {
        is_added = read_object(&options, &keys.secrets[keys.secret_count]);
        keys.secret_count++;
    }
    optstr_free(&options);
    return is_added;
}

bool keys_find(const char *id, struct blk_key *key)
{
    const struct secret *found =
        id == NULL && keys.everywhere.bytes != NULL ? &keys.everywhere : NULL;

    for (unsigned i = 0; i < keys.secret_count && id != NULL && found == NULL; i++) {
        if (keys.secrets[i].id != NULL && strcmp(keys.secrets[i].id, id) == 0)
            found = &keys.secrets[i].secret;
    }
    if (found != NULL)
        *key = (struct blk_key){.bytes = found->bytes, .length = found->length};
    return found != NULL;
}

static bool add_key(bool is_file, const char *value)
{
    const char *option = is_file ? "--key-file" : "--key-fd";
    struct err err;
    char *end;
    long fd;

    if (keys.everywhere.bytes != NULL) {
        log_error("%s: there is a key already", option);
        return false;
    }
    if (is_file)
        return secret_read_file(&keys.everywhere, value, &err) == 0 || complain(option, &err);
    fd = strtol(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || fd > INT_MAX) {
        log_error("%s: '%s' is no descriptor", option, value);
        return false;
    }
    return secret_read_fd(&keys.everywhere, (int)fd, &err) == 0 || complain(option, &err);
}

/* ---- options ---- */

/* The value of option `name` if `word`, argv[*i], is that option; *i moves on to it. NULL: another
 * option. A value that is missing is "". */
static const char *value_of(int argc, char **argv, int *i, const char *word, const char *name)
{
    size_t n = strlen(name);

    if (strncmp(word, name, n) != 0)
        return NULL;
    if (word[n] == '=')
        return word + n + 1;
    if (word[n] != '\0')
        return NULL;
    ++*i;
    return *i < argc ? argv[*i] : "";
}

/* Whether argv[*i] is one of ours; carried out then: *is_good. */
static bool take_option(int argc, char **argv, int *i, bool *is_good)
{
    static const char *const names[] = {"--object", "--key-file", "--key-fd"};
    const char *word = argv[*i];

    if (strcmp(word, "--image-opts") == 0) {
        image_opts_enable(false);
        return true;
    }
    if (strcmp(word, "--target-image-opts") == 0) {
        image_opts_enable(true);
        return true;
    }
    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
        const char *value = value_of(argc, argv, i, word, names[n]);

        if (value != NULL && value[0] == '\0') {
            img_usage_error("missing argument for option '%s'", names[n]);
            *is_good = false;
        } else if (value != NULL) {
            *is_good = n == 0 ? add_object(value) : add_key(n == 1, value);
        }
        if (value != NULL)
            return true;
    }
    return false;
}

bool keys_take_options(int *argc, char **argv)
{
    bool is_good = true, at_end = false;
    int kept = 0;

    for (int i = 0; i < *argc && is_good; i++) {
        at_end = at_end || strcmp(argv[i], "--") == 0;
        if (at_end || !take_option(*argc, argv, &i, &is_good))
            argv[kept++] = argv[i];
    }
    *argc = kept;
    argv[kept] = NULL;
    if (keys.everywhere.bytes != NULL)
        (void)keys_find(NULL, &keys.everywhere_key);
    return is_good;
}

void keys_free(void)
{
    for (unsigned i = 0; i < keys.secret_count; i++) {
        free(keys.secrets[i].id);
        secret_wipe(&keys.secrets[i].secret);
    }
    image_opts_free();
    secret_wipe(&keys.everywhere);
    memset(&keys, 0, sizeof(keys));
}
