/*
 * create_options.h - the options of new images, shared by create and convert.
 *
 * Use: create_options_add() for each -o, create_options_help(), create_options_parse(), the command's
 * own changes to `blk`, create_options_print(), create_options_finish(), blk_create().
 */
#ifndef IMG_CREATE_OPTIONS_H
#define IMG_CREATE_OPTIONS_H

#include "blockdev.h"
#include "optstr.h"

#include <stdbool.h>

struct create_options {
    struct blk_create_options blk; /* its strings are borrowed from `items` or the command line */
    bool has_size;                 /* size= was given */
    bool has_data_file_raw;
    bool has_nocow, has_extent_size_hint;
    const char *compat, *preallocation; /* as given, or NULL */
    uint64_t refcount_bits;             /* as given, or 16 */
    struct blk_luks_options luks;       /* blk.luks leads here when encryption is asked for */
    const char *key_secret;             /* encrypt.key-secret, or NULL */
    struct optstr items;
    char *text; /* every -o so far */
};

/* Takes in one -o argument ("a=b,c=d"); several add up. 0 or, after a message, -1. */
int create_options_add(struct create_options *options, const char *text);

/* Whether new images have an option of that name. */
bool create_options_are(const char *key);

/* Whether "help" or "?" is among the options. */
bool create_options_asked(const struct create_options *options);
/* The same; they are then listed for `format`. */
bool create_options_help(const struct create_options *options, const char *format, bool has_target);

/* Reads the options into `blk`, whose format is set; refuses by name what cannot be had. `path`
 * begins the messages (NULL: nothing does). 0 or, after a message, -1. */
int create_options_parse(struct create_options *options, const char *path);

/* The parts of it that `amend` has as well: any number (not given: *number stays), refcount_bits= into options->refcount_bits and
 * options->blk.refcount_bits (no width: UINT_MAX), and the message about a size; both as
 * create_options_parse() returns. */
int create_options_number(struct create_options *options, const char *path, const char *key,
                          uint64_t *number);
int create_options_refcount_bits(struct create_options *options, const char *path);
int create_options_complain_size(const char *path, const char *key);

/* off, metadata, falloc or full; false: none of them. */
bool create_options_preallocation(const char *text, enum blk_prealloc *mode);

/* "Formatting 'x', fmt=..." on stdout. */
void create_options_print(const struct create_options *options);

/* Checks the values that qemu-img checks after that line: compat, preallocation and
 * compression_type. */
int create_options_finish(struct create_options *options, const char *path);

void create_options_free(struct create_options *options);

#endif
