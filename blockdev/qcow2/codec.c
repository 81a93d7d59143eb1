/*
 * codec.c - one cluster in and out of its compressed form: zlib (a raw deflate stream) or zstd.
 *
 * Deflate has a window of 4 KiB (12 bits) in both directions: readers of the format may allocate no
 * more, so nothing that is written may reach further back.
 *
 * Whole deflate streams are read by libdeflate, which is faster than zlib; zlib reads what is more or less
 * than one whole stream, because a cluster is all that QEMU asks of it.
 *
 * What is read comes from the image and may be anything. Output never exceeds the cluster that it is
 * for, so there is nothing to blow up; a zstd frame that asks for a larger window than any cluster
 * could use is refused, because the window is what the decoder allocates.
 *
 * What the libraries work with (100 KiB and more) is kept from one cluster to the next: to get it from the
 * system and to touch it first costs a good part of what it is for. All images of the process share a few
 * of each kind, which stay until the process ends; none has anything of a cluster in it that matters.
 */
#include "qcow2/qcow2.h"

#include <libdeflate.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

enum {
    WINDOW_BITS = 12,
    MAX_ZSTD_WINDOW_BITS = 24,
    MAX_KEPT = 4,            /* of a kind: threads that are at it at once */
    MAX_KEPT_BYTES = 4 << 20 /* what hostile frames made larger is not kept */
};

/* Contexts that nobody uses now. Threads: any; there is no order. */
struct kept {
    _Atomic(void *) contexts[MAX_KEPT];
};

static struct kept inflaters, zstd_readers, deflaters, zstd_writers;

/* NULL: none is kept. */
static void *take(struct kept *kept)
{
    void *context = NULL;

    for (unsigned i = 0; i < MAX_KEPT && context == NULL; i++) {
        context = atomic_exchange(&kept->contexts[i], NULL);
    }
    return context;
}

/* false: there are enough; the caller frees it. */
static bool keep(struct kept *kept, void *context)
{
    for (unsigned i = 0; i < MAX_KEPT; i++) {
        void *none = NULL;

        if (atomic_compare_exchange_strong(&kept->contexts[i], &none, context)) {
            return true;
        }
    }
    return false;
}

static int unpack_any_deflate(const uint8_t *packed, size_t packed_length, uint8_t *out,
                              size_t length)
{
    z_stream stream = {
        .next_in = (z_const Bytef *)(uintptr_t)packed,
        .avail_in = (uInt)packed_length,
        .next_out = out,
        .avail_out = (uInt)length,
    };

    if (inflateInit2(&stream, -WINDOW_BITS) != Z_OK) {
        return -ENOMEM;
    }
    /* The end of the stream need not have been seen: the length of the data is only known to a
     * sector, and what counts is that there is a cluster. */
    (void)inflate(&stream, Z_FINISH);
    (void)inflateEnd(&stream);
    return stream.avail_out == 0 ? 0 : -EIO;
}

static int unpack_zlib(const uint8_t *packed, size_t packed_length, uint8_t *out, size_t length)
{
    struct libdeflate_decompressor *decompressor = take(&inflaters);
    enum libdeflate_result result;

    if (decompressor == NULL) {
        decompressor = libdeflate_alloc_decompressor();
    }
    if (decompressor == NULL) {
        return -ENOMEM;
    }
    result = libdeflate_deflate_decompress(decompressor, packed, packed_length, out, length, NULL);
    if (!keep(&inflaters, decompressor)) {
        libdeflate_free_decompressor(decompressor);
    }
    return result == LIBDEFLATE_SUCCESS ? 0
                                        : unpack_any_deflate(packed, packed_length, out, length);
}

static int unpack_zstd(const uint8_t *packed, size_t packed_length, uint8_t *out, size_t length)
{
    ZSTD_inBuffer in = {.src = packed, .size = packed_length};
    ZSTD_outBuffer to = {.dst = out, .size = length};
    ZSTD_DCtx *context = take(&zstd_readers);
    bool moves = true, failed;

    if (context == NULL) {
        context = ZSTD_createDCtx();
    }
    if (context == NULL) {
        return -ENOMEM;
    }
    failed =
        ZSTD_isError(ZSTD_DCtx_reset(context, ZSTD_reset_session_only)) ||
        ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, MAX_ZSTD_WINDOW_BITS));
    while (!failed && moves && to.pos < to.size) {
        size_t in_before = in.pos, to_before = to.pos;

        failed = ZSTD_isError(ZSTD_decompressStream(context, &to, &in));
        moves = in.pos > in_before || to.pos > to_before;
    }
    if (ZSTD_sizeof_DCtx(context) > MAX_KEPT_BYTES || !keep(&zstd_readers, context)) {
        (void)ZSTD_freeDCtx(context);
    }
    return !failed && to.pos == to.size ? 0 : -EIO;
}

int qcow2_codec_unpack(unsigned type, const uint8_t *packed, size_t packed_length, uint8_t *out,
                       size_t length)
{
    return type == QCOW2_COMPRESSION_ZSTD ? unpack_zstd(packed, packed_length, out, length)
                                          : unpack_zlib(packed, packed_length, out, length);
}

static z_stream *make_deflater(void)
{
    z_stream *stream = calloc(1, sizeof(*stream));

    if (stream != NULL && deflateInit2(stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS,
                                       MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
        free(stream);
        stream = NULL;
    }
    return stream;
}

static int pack_zlib(const uint8_t *data, size_t length, uint8_t *out, size_t *packed_length)
{
    z_stream *stream = take(&deflaters);

    if (stream == NULL) {
        stream = make_deflater();
    }
    if (stream == NULL) {
        return -ENOMEM;
    }
    stream->next_in = (z_const Bytef *)(uintptr_t)data;
    stream->avail_in = (uInt)length;
    stream->next_out = out;
    stream->avail_out = (uInt)(length - 1);
    *packed_length = deflate(stream, Z_FINISH) == Z_STREAM_END ? stream->total_out : 0;
    if (deflateReset(stream) != Z_OK || !keep(&deflaters, stream)) {
        (void)deflateEnd(stream);
        free(stream);
    }
    return 0;
}

static int pack_zstd(const uint8_t *data, size_t length, uint8_t *out, size_t *packed_length)
{
    ZSTD_CCtx *context = take(&zstd_writers);
    size_t n;

    if (context == NULL) {
        context = ZSTD_createCCtx();
    }
    if (context == NULL) {
        return -ENOMEM;
    }
    n = ZSTD_compressCCtx(context, out, length - 1, data, length, ZSTD_CLEVEL_DEFAULT);
    if (ZSTD_sizeof_CCtx(context) > MAX_KEPT_BYTES || !keep(&zstd_writers, context)) {
        (void)ZSTD_freeCCtx(context);
    }
    *packed_length = ZSTD_isError(n) ? 0 : n;
    return ZSTD_isError(n) && ZSTD_getErrorCode(n) != ZSTD_error_dstSize_tooSmall ? -ENOMEM : 0;
}

int qcow2_codec_pack(unsigned type, const uint8_t *data, size_t length, uint8_t *out,
                     size_t *packed_length)
{
    return type == QCOW2_COMPRESSION_ZSTD ? pack_zstd(data, length, out, packed_length)
                                          : pack_zlib(data, length, out, packed_length);
}
