"""qcow2_header.py - where things stand in a qcow2 image, for tests that look at its bytes or damage them.

Read from the specification, section "Header" and "Bitmaps extension"; image is bytes or a bytearray.
"""
import struct

BITMAPS = 0x23852875
LUKS = 0x0537BE77


def extension(image, kind):
    """The offset of the data of a header extension."""
    at, = struct.unpack_from(">I", image, 100)
    while True:
        found, length = struct.unpack_from(">II", image, at)
        if found == kind:
            return at + 8
        if found == 0:
            raise LookupError("no extension 0x%08x" % kind)
        at += 8 + (length + 7 & ~7)


def l1_table(image):
    return struct.unpack_from(">Q", image, 40)[0]


def bitmaps(image):
    """How many there are, and the offset of their directory."""
    count, _, _, directory = struct.unpack_from(">IIQQ", image, extension(image, BITMAPS))
    return count, directory


def first_bitmap_table(image):
    """Its offset and how many entries it has."""
    return struct.unpack_from(">QI", image, bitmaps(image)[1])


def luks_header(image):
    """Its offset and length."""
    return struct.unpack_from(">QQ", image, extension(image, LUKS))
