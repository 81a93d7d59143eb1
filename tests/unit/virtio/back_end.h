/*
 * back_end.h - a vhost-user back end with an image of its own, in a thread, and its front end.
 */
#ifndef TESTS_VIRTIO_BACK_END_H
#define TESTS_VIRTIO_BACK_END_H

#include "tests/tools/front_end.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
/* after the headers that it needs */
#include <cmocka.h>

struct blk;
struct vhost_user;

enum { BACK_END_QUEUES = 2, BACK_END_SECTORS = 4096, BACK_END_LINES = 8 };

struct back_end {
    char directory[64], base[80], image[80]; /* the same but for an overlay */
    struct blk *blk;
    struct vhost_user *vu;
    pthread_t thread;
    int stop; /* eventfd */

    pthread_mutex_t lock;
    char lines[BACK_END_LINES][256]; /* what was reported */
    unsigned line_count;

    struct front_end fe; /* connected */
};

/* For cmocka: *state becomes a struct back_end. Sector n of the image is filled with the low byte of n. */
int back_end_start(void **state);
/* With a qcow2 overlay over such an image. */
int back_end_start_overlay(void **state);
int back_end_stop(void **state);

/* Connects once more: the last connection has been closed by either side. Memory is that of a new guest. */
void back_end_reconnect(struct back_end *back_end);
/* The same, with the guest that was there before. */
void back_end_reconnect_guest(struct back_end *back_end);
/* Negotiates, shares memory and starts ring 0 at `base`. */
void back_end_run(struct back_end *back_end, uint16_t base);

/* Exactly one line was reported, and it holds `text`; then it is forgotten. */
void back_end_assert_line(struct back_end *back_end, const char *text);
/* The connection is closed, with that line. */
void back_end_assert_refused(struct back_end *back_end, const char *text);

#endif
