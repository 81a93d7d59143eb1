/*
 * bitmap_bits.c - the bits that were set since a bitmap was opened. They lie in pages that are made
 * when a bit in them is first set, and stand beside what is on disk, which is read only when
 * both are put together: so opening reads no bits, and memory follows what is written.
 *
 * Setting bits takes no lock. A page is put in place by compare-and-swap; its zeros are visible to
 * whoever finds it (release, acquire). Bits are set relaxed: who reads them has the image to
 * himself, and whatever ended the last request orders them before that.
 *
 * A bit that cannot be set must not be forgotten: the bitmap is lost then, and stays in use on disk.
 */
#include "bytes.h"
#include "qcow2/bitmap.h"

#include <endian.h>
#include <stdlib.h>

enum { PAGE_BITS = BITMAP_PAGE_BYTES * 8 };

/* Takes memory from what all bitmaps of a layer may use. */
static bool take_memory(struct qcow2_bitmaps *set, uint64_t bytes)
{
    uint64_t before = atomic_fetch_add_explicit(&set->memory, bytes, memory_order_relaxed);

    if (before + bytes <= BITMAP_MAX_MEMORY) {
        return true;
    }
    atomic_fetch_sub_explicit(&set->memory, bytes, memory_order_relaxed);
    return false;
}

static void give_memory(struct qcow2_bitmaps *set, uint64_t bytes)
{
    atomic_fetch_sub_explicit(&set->memory, bytes, memory_order_relaxed);
}

void bitmap_bits_prepare(struct qcow2_bitmaps *set, struct bitmap *b, uint64_t bits)
{
    uint64_t count = div_round_up(bits, PAGE_BITS);

    if (b->pages != NULL || atomic_load(&b->is_lost)) {
        return;
    }
    if (take_memory(set, count * sizeof(b->pages[0]))) {
        b->pages = calloc(max_u64(count, 1), sizeof(b->pages[0]));
        b->page_count = count;
        if (b->pages != NULL) {
            return;
        }
        give_memory(set, count * sizeof(b->pages[0]));
    }
    atomic_store(&b->is_lost, true);
}

static struct bitmap_page *page_at(const struct bitmap *b, uint64_t index)
{
    return b->pages != NULL && index < b->page_count
               ? atomic_load_explicit(&b->pages[index], memory_order_acquire)
               : NULL;
}

void bitmap_bits_drop(struct qcow2_bitmaps *set, struct bitmap *b)
{
    if (b->pages == NULL) {
        return;
    }
    for (uint64_t i = 0; i < b->page_count; i++) {
        struct bitmap_page *page = page_at(b, i);

        if (page != NULL) {
            free(page);
            give_memory(set, sizeof(*page));
        }
    }
    free(b->pages);
    give_memory(set, b->page_count * sizeof(b->pages[0]));
    b->pages = NULL;
    b->page_count = 0;
}

static struct bitmap_page *make_page(struct qcow2_bitmaps *set, struct bitmap *b, uint64_t index)
{
    struct bitmap_page *page = page_at(b, index), *found = NULL;

    if (page != NULL) {
        return page;
    }
    if (b->pages == NULL || index >= b->page_count || !take_memory(set, sizeof(*page))) {
        return NULL;
    }
    page = calloc(1, sizeof(*page));
    if (page != NULL &&
        atomic_compare_exchange_strong_explicit(&b->pages[index], &found, page,
                                                memory_order_acq_rel, memory_order_acquire)) {
        return page;
    }
    free(page);
    give_memory(set, sizeof(*page));
    return found;
}

/* Bits [from, to] of a word of 64. */
static uint64_t word_mask(unsigned from, unsigned to)
{
    return (UINT64_MAX >> (63 - (to - from))) << from;
}

static void set_in_page(struct bitmap_page *page, unsigned first, unsigned last)
{
    for (unsigned w = first / 64; w <= last / 64; w++) {
        uint64_t mask =
            htole64(word_mask(w == first / 64 ? first % 64 : 0, w == last / 64 ? last % 64 : 63));

        /* Most writes go where others went before: no write to a shared line then. */
        if ((atomic_load_explicit(&page->words[w], memory_order_relaxed) & mask) != mask) {
            atomic_fetch_or_explicit(&page->words[w], mask, memory_order_relaxed);
        }
    }
}

void bitmap_bits_set(struct qcow2_bitmaps *set, struct bitmap *b, uint64_t first, uint64_t last)
{
    for (uint64_t p = first / PAGE_BITS; p <= last / PAGE_BITS; p++) {
        struct bitmap_page *page = make_page(set, b, p);

        if (page == NULL) {
            atomic_store(&b->is_lost, true);
            return;
        }
        set_in_page(page, p == first / PAGE_BITS ? (unsigned)(first % PAGE_BITS) : 0,
                    p == last / PAGE_BITS ? (unsigned)(last % PAGE_BITS) : PAGE_BITS - 1);
    }
}

void bitmap_bits_copy(struct qcow2_bitmaps *set, struct bitmap *b, const struct bitmap *from)
{
    bitmap_bits_prepare(set, b, from->page_count * PAGE_BITS);
    for (uint64_t i = 0; i < from->page_count && b->pages != NULL; i++) {
        const struct bitmap_page *page = page_at(from, i);
        struct bitmap_page *copy = page != NULL ? make_page(set, b, i) : NULL;

        if (page == NULL) {
            continue;
        }
        if (copy == NULL) {
            atomic_store(&b->is_lost, true);
            return;
        }
        for (unsigned w = 0; w < BITMAP_PAGE_WORDS; w++) {
            copy->words[w] = page->words[w];
        }
    }
}

void bitmap_bits_cut(struct bitmap *b, uint64_t bits)
{
    for (uint64_t p = bits / PAGE_BITS; p < b->page_count; p++) {
        struct bitmap_page *page = page_at(b, p);
        uint64_t first = p * PAGE_BITS;

        for (unsigned w = 0; page != NULL && w < BITMAP_PAGE_WORDS; w++) {
            uint64_t at = first + w * UINT64_C(64);

            if (at >= bits) {
                page->words[w] = 0;
            } else if (bits - at < 64) {
                page->words[w] &= htole64(word_mask(0, (unsigned)(bits - at - 1)));
            }
        }
    }
}

bool bitmap_bits_touch(const struct bitmap *b, uint64_t offset, uint64_t length)
{
    for (uint64_t at = offset; at < offset + length; at += 8) {
        const struct bitmap_page *page = page_at(b, at / BITMAP_PAGE_BYTES);

        if (page == NULL) {
            at = align_down(at, BITMAP_PAGE_BYTES) + BITMAP_PAGE_BYTES - 8;
        } else if (atomic_load_explicit(&page->words[at % BITMAP_PAGE_BYTES / 8],
                                        memory_order_relaxed) != 0) {
            return true;
        }
    }
    return false;
}

void bitmap_bits_merge(const struct bitmap *b, uint64_t offset, uint8_t *buf, uint64_t length)
{
    for (uint64_t at = offset; at < offset + length; at += 8) {
        const struct bitmap_page *page = page_at(b, at / BITMAP_PAGE_BYTES);
        uint64_t word;

        if (page == NULL) {
            at = align_down(at, BITMAP_PAGE_BYTES) + BITMAP_PAGE_BYTES - 8;
            continue;
        }
        memcpy(&word, buf + (at - offset), sizeof(word));
        word |=
            atomic_load_explicit(&page->words[at % BITMAP_PAGE_BYTES / 8], memory_order_relaxed);
        memcpy(buf + (at - offset), &word, sizeof(word));
    }
}

void bitmap_bits_mask(uint8_t *buf, uint64_t length, uint64_t first, uint64_t bits)
{
    uint64_t keep = bits > first ? bits - first : 0;

    if (keep >= length * 8) {
        return;
    }
    if (keep % 8 != 0) {
        buf[keep / 8] &= (uint8_t)((1U << keep % 8) - 1);
    }
    memset(buf + div_round_up(keep, 8), 0, length - div_round_up(keep, 8));
}
