#!/bin/bash
# The commands of minivmm-img on images with extended L2 entries, partly written subcluster by subcluster,
# beside qemu-img's; damaged bitmaps too.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

blkio=$BUILD/tests/tools/blkio

make_base() {
    rm -f ./*.raw ./*.qcow2
    truncate -s 2M base.raw new.raw
    qemu-io -f raw -c 'write -P 9 0 1500k' base.raw
    qemu-io -f raw -c 'write -P 8 700k 1M' new.raw
}

# Every state of a subcluster, beside one another and across clusters; the backing file and its format.
make_overlay() {
    rm -f base.qcow2 top.qcow2
    qemu-img convert -f raw -O qcow2 -o extended_l2=on,cluster_size=32k base.raw base.qcow2
    qemu-img create -q -f qcow2 -o extended_l2=on -b "$1" -F "$2" top.qcow2 3000k
    qemu-io -d unmap -c 'write -P 1 10k 1k' -c 'write -P 2 63k 70k' -c 'write -z 100k 9k' \
        -c 'write -z 600k 300k' -c 'write -P 3 700k 512' -c 'write -c -P 4 1M 64k' -c 'discard 1M 100' \
        -c 'write -z 1030k 1k' -c 'write -P 5 1990k 20k' -c 'write -P 6 2900k 1k' top.qcow2
}

both make_base
both make_overlay base.qcow2 qcow2
same "info" info top.qcow2
same "info --output=json" info --output=json top.qcow2
same "check" check top.qcow2
check "read" sh -c "cd '$q' && '$blkio' -r top.qcow2 'dump ours.dump' &&
    qemu-img compare -q -f raw -F qcow2 ours.dump top.qcow2"
same "convert" convert -O raw top.qcow2 flat.raw
same_image "convert: content" flat.raw raw
same "convert into one" convert -O qcow2 -o extended_l2=on,cluster_size=16k top.qcow2 copy.qcow2
same_image "convert into one: content" copy.qcow2
same "convert -c" convert -c -O qcow2 -o extended_l2=on top.qcow2 copy.qcow2
same_image "convert -c: content" copy.qcow2
same "resize" resize -f qcow2 top.qcow2 5M
same_image "resize: content" top.qcow2
same "rebase" rebase -b new.raw -F raw top.qcow2
same_image "rebase: content" top.qcow2
same "rebase to none" rebase -b '' top.qcow2
same_image "rebase to none: content" top.qcow2
both make_overlay base.qcow2 qcow2
same "commit" commit top.qcow2
same_image "commit: base" base.qcow2
same_image "commit: overlay" top.qcow2
both make_overlay base.raw raw
same "commit into raw" commit -q top.qcow2
same_image "commit into raw: base" base.raw raw

# ---- damaged entries: name, the two words of the first entry; qemu-img's words stand on its stderr ----
cases='both-bits 0x8000000000014000 0xff0000003f
last-bit-both 0x8000000000014000 0x8000000080000000
data-without-a-cluster 0 0x5
both-without-a-cluster 0 0x500000005
zeros-without-a-cluster 0 0xffffffff00000000
zero-flag-is-ignored 0x8000000000014001 0x3f
zero-flag-alone 1 0
compressed-with-a-bitmap 0x4000000000014000 7
compressed 0x4000000000014000 0
unaligned-zeros 0x8000000000014200 0xff00000000
unaligned-nothing 0x8000000000014200 0
unaligned-data 0x8000000000014200 0xff
unaligned-both 0x8000000000014200 0xff000000ff
beyond-the-end 0x8000000100000000 0xff
without-copied 0x14000 0x3f
reserved-bit 0x8100000000014000 0x3f'

damage() {
    qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=16k d.qcow2 1M
    qemu-io -c 'write -P 1 0 3k' -c 'write -P 2 16k 16k' -c 'write -z 40k 1k' d.qcow2
    python3 - "$cases" <<'END'
import struct, sys
image = open("d.qcow2", "rb").read()
for line in sys.argv[1].splitlines():
    name, entry, bitmap = line.split()
    words = struct.pack(">QQ", int(entry, 0), int(bitmap, 0))
    with open(name, "wb") as f:
        f.write(image[:0x10000] + words + image[0x10010:])
END
}
both damage
while read -r name _; do
    same_status "check: $name" check "$name"
    same_status "check -r all: $name" check -r all "$name"
done <<<"$cases"

finish
