/*
 * mapguard.h - mapped files that another process may shorten.
 *
 * A page of a mapping that lies behind the end of its file, or that the file cannot provide, is a
 * SIGBUS for who touches it. In a guarded mapping it is not: the whole mapping becomes zeros of our own
 * memory, its owner is told, and the thread that touched it goes on. A SIGBUS anywhere else ends the
 * process as before.
 *
 * Threads: any. The handler is for the whole process and stays.
 */
#ifndef BASE_MAPGUARD_H
#define BASE_MAPGUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { MAPGUARD_MAX = 1024 };

/* Guards the `length` bytes mapped at `start`, both whole pages. When they are lost, *lost is set,
 * before anybody can find zeros, and the eventfd `event` (not blocking; -1: none) is signalled, in the
 * thread that touched them. Both are borrowed until mapguard_remove(). -ENOSPC: MAPGUARD_MAX are guarded
 * already. */
int mapguard_add(void *start, size_t length, atomic_bool *lost, int event);

/* Before the mapping is unmapped, and when no other thread touches it any more. Harmless for what is
 * not guarded. */
void mapguard_remove(void *start);

#endif
