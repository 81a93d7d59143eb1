/*
 * input.c - inputs as bytes and back.
 */
#include "input.h"
#include "bytes.h"
#include "checked.h"

#include <string.h>

/* Of a file, which is sparse. */
#define MAX_SIZE (UINT64_C(1) << 62)

enum {
    GAP = 16,            /* so many zeros end a segment */
    MAX_SEGMENT = 65535, /* its length has 16 bits */
};

void input_clear(struct input *input)
{
    for (unsigned i = 0; i < INPUT_MAX_FILES; i++) {
        memfile_clear(&input->files[i].mem);
    }
    input->script_length = 0;
    input->file_count = 0;
}

struct memfile *input_add(struct input *input, const char *name)
{
    struct input_file *file;

    if (input->file_count == INPUT_MAX_FILES) {
        return NULL;
    }
    file = &input->files[input->file_count++];
    memset(file->name, 0, sizeof(file->name));
    memcpy(file->name, name, min_u64(strlen(name), INPUT_MAX_NAME));
    memfile_clear(&file->mem);
    return &file->mem;
}

struct cursor {
    const uint8_t *at;
    size_t left;
};

/* A view of the next `length` bytes, or NULL. */
static const uint8_t *take(struct cursor *c, size_t length)
{
    const uint8_t *bytes = c->at;

    if (length > c->left) {
        c->left = 0;
        return NULL;
    }
    c->at += length;
    c->left -= length;
    return bytes;
}

static void decode_segment(struct cursor *c, struct memfile *mem)
{
    const uint8_t *head = take(c, 10), *bytes;
    size_t length;

    if (head == NULL) {
        return;
    }
    length = min_u64(load_le16(head + 8), c->left);
    bytes = take(c, length);
    (void)memfile_write(mem, min_u64(load_le64(head), MAX_SIZE), bytes, length);
}

static void decode_file(struct input *input, struct cursor *c)
{
    const uint8_t *length = take(c, 1), *name, *head;
    char text[INPUT_MAX_NAME + 1] = "";
    struct memfile *mem;
    unsigned segments;

    if (length == NULL) {
        return;
    }
    name = take(c, *length % (INPUT_MAX_NAME + 1));
    head = take(c, 10);
    if (name == NULL || head == NULL) {
        return;
    }
    memcpy(text, name, *length % (INPUT_MAX_NAME + 1));
    mem = input_add(input, text);
    if (mem == NULL) {
        return;
    }
    for (segments = load_le16(head + 8); segments > 0 && c->left > 0; segments--) {
        decode_segment(c, mem);
    }
    (void)memfile_resize(mem, min_u64(load_le64(head), MAX_SIZE));
}

void input_decode(struct input *input, const uint8_t *data, size_t length)
{
    struct cursor c = {.at = data, .left = length};
    const uint8_t *head = take(&c, 2), *script;

    input_clear(input);
    if (head == NULL) {
        return;
    }
    script = take(&c, min_u64(min_u64(load_le16(head), INPUT_MAX_SCRIPT), c.left));
    input->script_length = (size_t)(c.at - script);
    memcpy(input->script, script, input->script_length);
    while (c.left > 0 && input->file_count < INPUT_MAX_FILES) {
        decode_file(input, &c);
    }
}

struct writer {
    uint8_t *out;
    size_t used, room;
    bool overflow;
};

static void put(struct writer *w, const void *bytes, size_t length)
{
    if (length > w->room - w->used) {
        w->overflow = true;
        return;
    }
    memcpy(w->out + w->used, bytes, length);
    w->used += length;
}

static void put_number(struct writer *w, uint64_t value, size_t bytes)
{
    uint8_t raw[8];

    store_le64(raw, value);
    put(w, raw, bytes);
}

/* How many of the bytes up to the next gap of zeros. */
static size_t segment_length(const uint8_t *bytes, size_t length)
{
    size_t used = 0;

    for (size_t i = 0; i < length && i - used < GAP; i++) {
        if (bytes[i] != 0) {
            used = i + 1;
        }
    }
    return used;
}

static unsigned encode_page(struct writer *w, const struct mem_page *page)
{
    unsigned count = 0;

    for (size_t at = 0; at < MEM_PAGE;) {
        size_t length;

        if (page->bytes[at] == 0) {
            at++;
            continue;
        }
        length = segment_length(page->bytes + at, MEM_PAGE - at);
        put_number(w, page->index * MEM_PAGE + at, 8);
        put_number(w, length, 2);
        put(w, page->bytes + at, length);
        at += length;
        count++;
    }
    return count;
}

static void encode_file(struct writer *w, const struct input_file *file)
{
    size_t length = strlen(file->name), count_at;
    unsigned count = 0;

    put_number(w, length, 1);
    put(w, file->name, length);
    put_number(w, file->mem.size, 8);
    count_at = w->used;
    put_number(w, 0, 2);
    for (const struct mem_page *page = memfile_next(&file->mem, 0); page != NULL && !w->overflow;
         page = memfile_next(&file->mem, page->index + 1)) {
        count += encode_page(w, page);
    }
    if (count > MAX_SEGMENT) {
        w->overflow = true;
    }
    if (!w->overflow) {
        store_le16(w->out + count_at, (uint16_t)count);
    }
}

size_t input_encode(const struct input *input, uint8_t *out, size_t room)
{
    struct writer w = {.out = out, .room = room};

    put_number(&w, input->script_length, 2);
    put(&w, input->script, input->script_length);
    for (unsigned i = 0; i < input->file_count; i++) {
        encode_file(&w, &input->files[i]);
    }
    return w.overflow ? 0 : w.used;
}
