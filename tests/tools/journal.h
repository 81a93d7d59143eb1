/*
 * journal.h - a writer that can be killed at any time, and the check of what it must have left.
 *
 * Thread T writes in its own JOURNAL_SECTORS sectors of the device, one region behind the other.
 * Operation i of (SEED, T): sector, length and content follow from the three alone. After some
 * operations comes a flush; when it has completed, "flushed T i" is printed: operations 0..i of
 * that thread are durable. The check knows for each sector which operation wrote it last: what an
 * acknowledged one wrote must be there, unless a later operation had already replaced it.
 * A sector that no operation wrote holds sequence 0, which the test put below.
 *
 * Functions return 0 or a negative errno value; -EILSEQ after a message: the content is wrong.
 */
#ifndef TOOLS_JOURNAL_H
#define TOOLS_JOURNAL_H

#include "blockdev.h"

enum { JOURNAL_SECTORS = 8192 };

/* Byte `offset` onwards of sequence `seed`: 8-byte words that depend on both, so that a misplaced
 * or an old byte is seen. */
void journal_sequence(uint64_t seed, uint64_t offset, uint8_t *out, size_t length);

int journal_write(struct blk *blk, uint64_t seed, uint64_t count, unsigned threads);
/* `upto`: the last acknowledged operation, or "none". */
int journal_check(struct blk *blk, uint64_t seed, unsigned thread, const char *upto);

#endif
