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
 */
#include "qcow2/qcow2.h"

#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

enum { WINDOW_BITS = 12, MAX_ZSTD_WINDOW_BITS = 24 };

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
    struct libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor();
    enum libdeflate_result result;

    if (decompressor == NULL) {
        return -ENOMEM;
    }
    result = libdeflate_deflate_decompress(decompressor, packed, packed_length, out, length, NULL);
    libdeflate_free_decompressor(decompressor);
    return result == LIBDEFLATE_SUCCESS ? 0
                                        : unpack_any_deflate(packed, packed_length, out, length);
}

static int unpack_zstd(const uint8_t *packed, size_t packed_length, uint8_t *out, size_t length)
{
    ZSTD_inBuffer in = {.src = packed, .size = packed_length};
    ZSTD_outBuffer to = {.dst = out, .size = length};
    ZSTD_DCtx *context = ZSTD_createDCtx();
    bool moves = true, failed;

    if (context == NULL) {
        return -ENOMEM;
    }
    failed =
        ZSTD_isError(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, MAX_ZSTD_WINDOW_BITS));
    while (!failed && moves && to.pos < to.size) {
        size_t in_before = in.pos, to_before = to.pos;

        failed = ZSTD_isError(ZSTD_decompressStream(context, &to, &in));
        moves = in.pos > in_before || to.pos > to_before;
    }
    (void)ZSTD_freeDCtx(context);
    return !failed && to.pos == to.size ? 0 : -EIO;
}

int qcow2_codec_unpack(unsigned type, const uint8_t *packed, size_t packed_length, uint8_t *out,
                       size_t length)
{
    return type == QCOW2_COMPRESSION_ZSTD ? unpack_zstd(packed, packed_length, out, length)
                                          : unpack_zlib(packed, packed_length, out, length);
}

static int pack_zlib(const uint8_t *data, size_t length, uint8_t *out, size_t *packed_length)
{
    z_stream stream = {
        .next_in = (z_const Bytef *)(uintptr_t)data,
        .avail_in = (uInt)length,
        .next_out = out,
        .avail_out = (uInt)(length - 1),
    };
    int r = deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, MAX_MEM_LEVEL,
                         Z_DEFAULT_STRATEGY);

    if (r != Z_OK) {
        return -ENOMEM;
    }
    r = deflate(&stream, Z_FINISH);
    *packed_length = r == Z_STREAM_END ? stream.total_out : 0;
    (void)deflateEnd(&stream);
    return 0;
}

static int pack_zstd(const uint8_t *data, size_t length, uint8_t *out, size_t *packed_length)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t n;

    if (context == NULL) {
        return -ENOMEM;
    }
    n = ZSTD_compressCCtx(context, out, length - 1, data, length, ZSTD_CLEVEL_DEFAULT);
    (void)ZSTD_freeCCtx(context);
    *packed_length = ZSTD_isError(n) ? 0 : n;
    return ZSTD_isError(n) && ZSTD_getErrorCode(n) != ZSTD_error_dstSize_tooSmall ? -ENOMEM : 0;
}

int qcow2_codec_pack(unsigned type, const uint8_t *data, size_t length, uint8_t *out,
                     size_t *packed_length)
{
    return type == QCOW2_COMPRESSION_ZSTD ? pack_zstd(data, length, out, packed_length)
                                          : pack_zlib(data, length, out, packed_length);
}
