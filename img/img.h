/*
 * img.h - what the commands of minivmm-img share.
 *
 * Every command is one function in one file, named in the table of commands.c; main() finds it by
 * argv[1] and returns what it returns. A command prints its own errors, once, through log_error(), and
 * gives back an exit status: 0, 1, or what its table in the manual page says.
 *
 * Output and messages have the form of qemu-img 7.2, so that scripts that read it keep working.
 */
#ifndef IMG_IMG_H
#define IMG_IMG_H

#include "blockdev.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* ---- commands ---- */

struct img_command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the name of the command */
    const char *syntax;                /* options and operands, for --help */
};

/* In alphabetical order, ended by an entry without a name. */
extern const struct img_command img_commands[];

int cmd_amend(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_bitmap(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_commit(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_create(int argc, char **argv);
int cmd_dd(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_map(int argc, char **argv);
int cmd_measure(int argc, char **argv);
int cmd_rebase(int argc, char **argv);
int cmd_resize(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);

void img_print_version(void);
void img_print_help(void);
/* trace_option.c: the option -T. False after a message; is_help: the list of trace events is asked for, which is
 * empty. */
bool img_take_trace(const char *text, bool *is_help);

/* ---- command lines (options.c) ---- */

/* getopt_long() with qemu-img's messages; `shortopts` begins with ':'. Returns the option's character
 * or value, -1 at the end, or IMG_OPT_STOP when the command is over with *status: after a message, or
 * after the help that -h asked for. */
enum { IMG_OPT_STOP = 0x7fff, IMG_OPT_OUTPUT = 0x100, IMG_OPT_BACKING_CHAIN };
int img_getopt(int argc, char **argv, const char *shortopts, const struct option *longopts,
               int *status);

/* Prints the message and where help is to be had; returns 1. */
int img_usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The path of the one image that a command wants behind its options; false after a message, with
 * *status set. */
bool img_take_image(int argc, char **argv, const char **path, int *status);
/* "human" or "json"; false after a message. */
bool img_parse_output(const char *text, bool *json);
/* A cache mode of qemu's -t and -T; false after a message, which calls it a `what` ("cache"). */
bool img_find_cache(const char *text, enum blk_cache *cache); /* the same without a message */
bool img_parse_cache(const char *text, const char *what, enum blk_cache *cache);
/* A size, called `what` ("image size") in the message; false after it. */
bool img_parse_size(const char *text, const char *what, uint64_t *size);
/* The same for one from `min` to `max`. */
bool img_parse_size_within(const char *text, const char *what, uint64_t min, uint64_t max,
                           uint64_t *size);
bool img_known_format(const char *format);

/* ---- images (open.c) ---- */

/* What --backing-root says: backing and data files must lie below this directory. NULL: anywhere. */
void img_set_backing_root(const char *root);
const char *img_backing_root(void);

/* Why a request failed with `code`: what is known to be wrong with the image, or else the code's text. */
void img_explain(struct blk *blk, int code, struct err *problem);

/* blk_open() as a tool that a person drives: probed images may have backing files, and the keys of the
 * command line are tried where options->keys has none (keys.h). NULL after the
 * message "Could not open 'PATH': REASON". */
struct blk *img_open(const struct blk_open_options *options);
/* The same without the message: *err is the REASON. */
struct blk *img_try_open(const struct blk_open_options *options, struct err *err);
/* Takes "Could not open 'PATH': " from the beginning of a reason, as QEMU has it, but where the file itself
 * cannot be opened. `rc` is what blk_open() returned. */
void img_trim_open_error(const char *path, int rc, struct err *err);
/* blk_close(); an error makes *status 1 and is printed, unless *status was 1: then another one was (status
 * NULL: ignored). blk NULL is allowed. */
void img_close(struct blk *blk, int *status);

/* The line that follows an error about an inconsistent bitmap: nothing when `rc` is another error. */
void img_hint_bitmap(int rc);

/* A message, without the name of the file where it begins with that. */
const char *img_without_path(const char *text, const char *path);

/* Removes a file that the command has made; a link that leads to it stays, as it was there before. */
void img_remove_made(const char *path);

/* Whether two paths lead to one existing file. */
bool img_same_file(const char *a, const char *b);

/* Whether `image` may be made to name this backing file, as far as --backing-root goes. False after a
 * message. */
bool img_may_name(const char *image, const char *backing_path);

/* The format of a backing file for which none was given: probed, and said on stderr because it will be
 * recorded in `image`. NULL after a message. */
const char *img_find_backing_format(const char *image, const char *backing_path);

/* ---- this machine (processors.c) ---- */

/* How many threads can run at once; at least 1. */
unsigned img_processors(void);

/* ---- progress (progress.c) ---- */

struct progress {
    bool enabled;
    bool started;
    double shown; /* percent */
};

/* Begins a report of "(12.34/100%)" on stdout, at once when `enabled`, else on stderr after each SIGUSR1. */
void progress_start(struct progress *progress, bool enabled);
void progress_update(struct progress *progress, uint64_t done, uint64_t total);
/* Ends the line; `complete` shows 100% first. */
void progress_end(struct progress *progress, bool complete);

#endif
