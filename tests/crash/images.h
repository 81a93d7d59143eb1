/*
 * images.h - the images that a workload begins with, made by qemu-img in a folder of this process,
 * which is its working directory.
 */
#ifndef CRASH_IMAGES_H
#define CRASH_IMAGES_H

#include "world.h"

/* Makes the folder, goes there, and puts base.raw and new.raw into it. */
bool images_begin(void);
void images_end(void);
/* Runs the workload's commands and loads its files. */
bool images_make(const struct workload *workload, struct disk *disk);

#endif
