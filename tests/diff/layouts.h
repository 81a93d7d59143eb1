/*
 * layouts.h - the chains that the oracle runs over. Each row has a reason, its name.
 */
#ifndef DIFF_LAYOUTS_H
#define DIFF_LAYOUTS_H

#include "chain.h"

/* For requests whose result is known exactly. */
extern const struct layout exact_layouts[];
extern const unsigned exact_layout_count;
/* For threads that write where the others write: all layers have one size, the top is qcow2. */
extern const struct layout overlap_layouts[];
extern const unsigned overlap_layout_count;
/* Gigabytes, for threads that work all over them; all layers have one size, the top is qcow2. */
extern const struct layout warm_layouts[];
extern const unsigned warm_layout_count;

#endif
