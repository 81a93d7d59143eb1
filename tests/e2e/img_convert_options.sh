#!/bin/bash
# `minivmm-img convert`: bitmaps, salvage, offloaded copies, rate limits and targets said to be zero,
# against qemu-img.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# ---- bitmaps ----
both qemu-img create -q -f qcow2 a.qcow2 4M
both io a.qcow2 'write -P 1 0 1M'
both qemu-img bitmap --add a.qcow2 records
both qemu-img bitmap --add -g 512 a.qcow2 rests
both io a.qcow2 'write -P 2 2M 64k'
both qemu-img bitmap --disable a.qcow2 rests
both io a.qcow2 'write -P 2 3M 64k'
both qemu-img create -q -f raw t.raw 4M
both qemu-img create -q -f qcow2 plain.qcow2 4M
# Marks the first bitmap of a.qcow2 as in use: who did that is gone, and what it says is not to be believed.
break_bitmap() {
    python3 - a.qcow2 broken.qcow2 <<'EOF'
import sys
import qcow2_header
image = bytearray(open(sys.argv[1], "rb").read())
_, directory = qcow2_header.bitmaps(image)
image[directory + 15] |= 1
open(sys.argv[2], "wb").write(image)
EOF
}
both break_bitmap

same "--bitmaps" convert --bitmaps -O qcow2 a.qcow2 out.qcow2
same "--bitmaps: info" info out.qcow2
same_image "--bitmaps: content" out.qcow2
# What a bitmap has: merged into an empty image's, whose map of dirty extents an NBD server would show;
# without one, the bits themselves are compared.
bits_agree() {
    local side
    for side in "$q" "$m"; do
        python3 - "$side/out.qcow2" <<'EOF' || return 1
import struct, sys
import qcow2_header
image = open(sys.argv[1], "rb").read()
count, directory = qcow2_header.bitmaps(image)
for i in range(count):
    table, entries, flags, kind, bits, name, extra = struct.unpack_from(">QIIBBHI", image, directory)
    found = []
    for entry in struct.unpack_from(">%dQ" % entries, image, table):
        offset = entry & 0x00fffffffffffe00
        data = image[offset:offset + 65536] if offset else bytes([255 * (entry & 1)]) * 65536
        found += [n for n in range(len(data) * 8) if data[n // 8] >> n % 8 & 1]
    print(image[directory + 24 + extra:directory + 24 + extra + name].decode(), bits, flags, found)
    directory += 24 + extra + name + 7 & ~7
EOF
    done >"$work/bits"
    [ "$(sort "$work/bits" | uniq -u | wc -l)" = 0 ] && [ "$(wc -l <"$work/bits")" = 4 ]
}
check "--bitmaps: the same bits" bits_agree
same "--bitmaps of one that is inconsistent" convert --bitmaps -O qcow2 broken.qcow2 none.qcow2
check "--bitmaps of one that is inconsistent: no image is left" test ! -e "$m/none.qcow2"
same "--skip-broken-bitmaps" convert --bitmaps --skip-broken-bitmaps -O qcow2 broken.qcow2 out.qcow2
same "--skip-broken-bitmaps: info" info out.qcow2
same "--skip-broken-bitmaps alone" convert --skip-broken-bitmaps -O qcow2 a.qcow2 out.qcow2
same "--bitmaps to raw" convert --bitmaps -n -O raw a.qcow2 t.raw
same "--bitmaps to version 2" convert --bitmaps -O qcow2 -o compat=0.10 a.qcow2 none.qcow2
same "--bitmaps from raw" convert --bitmaps -O qcow2 t.raw none.qcow2
same "--bitmaps of two sources" convert --bitmaps -O qcow2 a.qcow2 a.qcow2 none.qcow2
same "--bitmaps of an image that has none" convert --bitmaps -O qcow2 plain.qcow2 out.qcow2
both qemu-img create -q -f qcow2 has.qcow2 4M
both qemu-img bitmap --add has.qcow2 records
same_status "--bitmaps into an image that has one of that name" convert --bitmaps -n -O qcow2 a.qcow2 has.qcow2
both qemu-img snapshot -c one a.qcow2
same "--bitmaps of a snapshot" convert --bitmaps -l one -O qcow2 a.qcow2 out.qcow2
same "--bitmaps of a snapshot: info" info out.qcow2

# ---- salvage ----
both qemu-img create -q -f qcow2 whole.qcow2 1M
both io whole.qcow2 'write -P 3 0 512k'
both qemu-img convert -c -O qcow2 whole.qcow2 damaged.qcow2
# The second compressed cluster is no deflate stream any more.
damage() {
    python3 - damaged.qcow2 <<'EOF'
import struct, sys
image = bytearray(open(sys.argv[1], "rb").read())
l1, = struct.unpack_from(">Q", image, 40)
l2 = struct.unpack_from(">Q", image, l1)[0] & 0x00fffffffffffe00
at = struct.unpack_from(">Q", image, l2 + 8)[0] & (1 << 54) - 1
image[at:at + 2] = b"\xff\xff"
open(sys.argv[1], "wb").write(image)
EOF
}
both damage
same_status "a source that cannot be read" convert -O raw damaged.qcow2 out.raw
check "a source that cannot be read: no image is left" test ! -e "$m/out.raw"
ln -s nowhere.raw "$m/link.raw"
ln -s circle.raw "$m/circle.raw"
refuse "through a link to nothing" "$IMG" convert -O raw "$m/damaged.qcow2" "$m/link.raw"
check "through a link to nothing: the link is as it was" test "$(readlink "$m/link.raw")" = nowhere.raw
check "through a link to nothing: no image is left" test ! -e "$m/nowhere.raw"
refuse "dd through a link to nothing" "$IMG" dd -O raw bs=64k "if=$m/damaged.qcow2" "of=$m/link.raw"
check "dd through a link to nothing: the link is as it was, and no image is left" \
    test "$(readlink "$m/link.raw")" = nowhere.raw -a ! -e "$m/nowhere.raw"
refuse "-n into a link to itself" "$IMG" convert -n -O raw "$m/whole.qcow2" "$m/circle.raw"
check "-n into a link to itself: the link is as it was" test -L "$m/circle.raw"
same "--salvage" convert --salvage -O raw damaged.qcow2 out.raw
same_image "--salvage: content" out.raw raw
same "--salvage -q" convert --salvage -q -O qcow2 damaged.qcow2 out.qcow2
same_image "--salvage -q: content" out.qcow2
same "--salvage of a sound image" convert --salvage -O qcow2 whole.qcow2 out.qcow2
same_image "--salvage of a sound image: content" out.qcow2

# ---- -C ----
both qemu-img create -q -f qcow2 -b whole.qcow2 -F qcow2 over.qcow2
both io over.qcow2 'write -P 5 100k 300k' 'write -z 256k 64k' 'write -P 6 900k 1k'
both qemu-img create -q -f raw odd.raw 1000k
both qemu-io -f raw -c 'write -P 9 3k 999488' odd.raw
for source in whole.qcow2 over.qcow2 damaged.qcow2 odd.raw a.qcow2; do
    for target in raw qcow2; do
        [ $source = damaged.qcow2 ] && continue
        same "-C $source to $target" convert -C -O $target $source out.$target
        same_image "-C $source to $target: content" out.$target $target
    done
done
same "-C into an image that is there" convert -C -n -O raw a.qcow2 t.raw
same_image "-C into an image that is there: content" t.raw raw
same "-C of two sources" convert -C -O raw odd.raw a.qcow2 out.raw
same_image "-C of two sources: content" out.raw raw
same_status "-C of what cannot be read" convert -C -O raw damaged.qcow2 none.raw
same "-C -c" convert -C -c -O qcow2 a.qcow2 none.qcow2
same "-C -S" convert -C -S 4k -O qcow2 a.qcow2 none.qcow2
same "-C --salvage" convert -C --salvage -O qcow2 a.qcow2 none.qcow2
# Over to another file system, where the kernel may not be able to.
if mkdir "$work/shm" && mount -t tmpfs -o size=16m tmpfs "$work/shm" 2>"$work/mount"; then
    check "-C to another file system" "$IMG" convert -C -O raw "$m/a.qcow2" "$work/shm/a.raw"
    check "-C to another file system: content" qemu-img compare -f qcow2 -F raw "$m/a.qcow2" "$work/shm/a.raw"
    umount "$work/shm"
else
    skip "-C to another file system" "mounting a tmpfs is not permitted"
fi

# ---- --target-is-zero ----
same "--target-is-zero without -n" convert --target-is-zero -O qcow2 a.qcow2 none.qcow2
both qemu-img create -q -f qcow2 zero.qcow2 4M
same "--target-is-zero" convert -n --target-is-zero -O qcow2 a.qcow2 zero.qcow2
same_image "--target-is-zero: content" zero.qcow2
both qemu-img create -q -f raw nines.raw 4M
both qemu-io -f raw -c 'write -P 9 0 4M' nines.raw
same "--target-is-zero is believed" convert -n --target-is-zero -O raw a.qcow2 nines.raw
same_image "--target-is-zero is believed: content" nines.raw raw
# qemu-img lets the backing file show through.
"$IMG" create -q -f qcow2 -b nines.raw -F raw "$m/thin.qcow2"
refuse "--target-is-zero over a backing file" "$IMG" convert -n --target-is-zero -O qcow2 "$m/a.qcow2" "$m/thin.qcow2"

# ---- -r ----
for rate in 10x -5 ''; do
    same "-r '$rate'" convert -r "$rate" -O qcow2 a.qcow2 none.qcow2
    same "commit -r '$rate'" commit -r "$rate" over.qcow2
done
same "-r 0 is no limit" convert -r 0 -O qcow2 a.qcow2 out.qcow2
same "-r" convert -r 100M -O qcow2 a.qcow2 out.qcow2
same_image "-r: content" out.qcow2
# 6 MiB in windows of 2 MiB, of which the last is not waited for.
"$IMG" create -q -f raw "$m/six.raw" 6M
qemu-io -f raw -c 'write -P 1 0 6M' "$m/six.raw" >"$work/io"
began=$(date +%s%N)
"$IMG" convert -r 8M -O raw "$m/six.raw" "$m/out.raw"
check "-r 8M: 6 MiB take half a second or more" test $(($(date +%s%N) - began)) -ge 500000000
cp "$m/nines.raw" "$m/below.raw"
"$IMG" create -q -f qcow2 -b below.raw -F raw "$m/above.qcow2"
qemu-io -c 'write -P 1 0 4M' "$m/above.qcow2" >"$work/io"
began=$(date +%s%N)
"$IMG" commit -q -r 8M "$m/above.qcow2"
check "commit -r 8M: 4 MiB take a quarter of a second or more" \
    test $(($(date +%s%N) - began)) -ge 250000000
check "commit -r: content" qemu-io -r -f raw -c 'read -P 1 0 4M' "$m/below.raw"

finish
