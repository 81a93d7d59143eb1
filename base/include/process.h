/*
 * process.h - what each program of the project does before anything else.
 */
#ifndef BASE_PROCESS_H
#define BASE_PROCESS_H

/*
 * Fills descriptors 0, 1 and 2 with /dev/null where the caller left them closed: an image that is
 * opened later must not become standard error and have messages written into it.
 *
 * Raises the soft limit on open files to the hard one: each image of a backing chain and each queue of
 * a disk takes descriptors, and the usual soft limit of 1024 is there for programs that use select(2).
 *
 * Ignores SIGXFSZ, so that a file size limit is a failed write (EFBIG) that is reported and cleaned up
 * like any other, and not the end of the process.
 *
 * Gives threads small stacks, of 256 KiB.
 *
 * Threads: before there are any. What cannot be done is left as it is.
 */
void process_prepare(void);

#endif
