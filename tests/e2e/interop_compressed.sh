#!/bin/bash
# Compressed clusters of QEMU's tools and of ours in one image: each reads, rewrites and discards what the
# other wrote, at small and large clusters, with both compression types and narrow and wide refcounts.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

blkio=$BUILD/tests/tools/blkio

# Half digits (which become smaller), a quarter noise (which does not), a quarter zeros.
make_source() {
    python3 - <<'END'
import random
random.seed(20)
with open("src.raw", "wb") as f:
    for i in range(90):
        kind = random.randrange(4)
        n = random.randrange(1, 400) * 512
        if kind < 2:
            f.write(bytes(random.choice(b"0123456789abcdef") for _ in range(n)))
        else:
            f.write(random.randbytes(n) if kind == 2 else bytes(n))
END
}
both make_source

# ---- convert -c ----
for options in cluster_size=512 cluster_size=4k cluster_size=64k cluster_size=2M compat=0.10; do
    same "convert -c, $options" convert -c -O qcow2 -o $options src.raw c.qcow2
    same_image "convert -c, $options: content" c.qcow2
    check "convert -c, $options: about as small as qemu-img's" \
        test "$(stat -c %b "$m/c.qcow2")" -le $(($(stat -c %b "$q/c.qcow2") * 101 / 100 + 128))
done
# How many compressed clusters there are; the end of the image is QEMU's own business.
same "convert -c" convert -c -O qcow2 src.raw c.qcow2
statistics() { qemu-img check --output=json "$1" | grep -E 'clusters"'; }
check "convert -c: as many compressed clusters" \
    test "$(statistics "$q/c.qcow2")" = "$(statistics "$m/c.qcow2")"
(cd "$m" && "$IMG" convert -c -O qcow2 src.raw again.qcow2)
check "convert -c: the same output each time" cmp "$m/c.qcow2" "$m/again.qcow2"
same "convert -c, zeros too" convert -c -S 0 -O qcow2 src.raw c.qcow2
same_image "convert -c, zeros too: content" c.qcow2
both qemu-img create -q -f qcow2 -b c.qcow2 -F qcow2 top.qcow2
both io top.qcow2 'write -P 3 1000k 100k' 'write -z 2M 1M'
same "convert -c of an overlay" convert -c -O qcow2 top.qcow2 flat.qcow2
same_image "convert -c of an overlay: content" flat.qcow2
both qemu-img create -q -f qcow2 -o cluster_size=4k -b c.qcow2 -F qcow2 small.qcow2
both io small.qcow2 'write -P 3 1000k 100k' 'write -z 2M 1M'
same "convert -c -B" convert -c -O qcow2 -B c.qcow2 -F qcow2 small.qcow2 thin.qcow2
same_image "convert -c -B: content" thin.qcow2
both truncate -s 100001 odd.raw
same "convert -c of several" convert -c -O qcow2 odd.raw src.raw odd.raw c2.qcow2
same_image "convert -c of several: content" c2.qcow2
same "convert -c of what is compressed" convert -c -O qcow2 c.qcow2 c2.qcow2
same_image "convert -c of what is compressed: content" c2.qcow2
same "convert -c to raw" convert -c -O raw src.raw out.raw
same "convert -c, preallocated" convert -c -O qcow2 -o preallocation=metadata src.raw pre.qcow2
same "convert -c, not preallocated" convert -c -O qcow2 -o preallocation=off src.raw pre.qcow2

# ---- one image, both programs ----
agree() {
    check "$1: checks clean" qemu-img check -q x.qcow2
    check "$1: reads the same" sh -c "'$blkio' x.qcow2 'dump ours.raw' &&
        qemu-img compare -q -f raw -F qcow2 ours.raw x.qcow2"
}

cd "$m" || exit 1
for options in cluster_size=512 cluster_size=4k,refcount_bits=1 cluster_size=64k \
    cluster_size=64k,refcount_bits=2 cluster_size=1M cluster_size=2M,refcount_bits=64; do
    for type in zlib zstd; do
        name="$options, $type"
        rm -f x.qcow2
        qemu-img convert -c -O qcow2 -o "$options,compression_type=$type" src.raw x.qcow2
        check "$name: ours reads QEMU's" "$blkio" x.qcow2 "compare src.raw"
        check "$name: ours rewrites" "$blkio" x.qcow2 "write 7 1000 100000" "discard 600k 1M" \
            "zero 2M 1000000" "unmap-zero 4000000 300000" flush "cwrite 9 4M 2M" "read 9 4M 2M"
        agree "$name: after ours"
        size=$(qemu-img info --output=json x.qcow2 | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p')
        rm -f x.qcow2
        qemu-img create -q -f qcow2 -o "$options,compression_type=$type" x.qcow2 "$size"
        check "$name: convert -c -n" "$IMG" convert -c -n -O qcow2 src.raw x.qcow2
        check "$name: QEMU reads ours" qemu-img compare -q -f raw -F qcow2 src.raw x.qcow2
        check "$name: QEMU rewrites" qemu-io -c 'write -P 7 1000 100000' -c 'discard 600k 1M' \
            -c 'write -z 2M 1000000' -c 'write -zu 4000000 300000' x.qcow2
        agree "$name: after QEMU"
        check "$name: ours over both" "$blkio" x.qcow2 "cwrite 1 0 2M" "write 2 700k 100k" \
            "cwrite 3 0 2M" "read 3 0 2M" "discard 4M 1M"
        agree "$name: after both"
        check "$name: ours empties" "$blkio" x.qcow2 empty "read 0 0 $size"
        agree "$name: empty"
    done
done
rm -f base.qcow2 x.qcow2
qemu-img convert -c -O qcow2 -o compression_type=zstd src.raw base.qcow2
qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 x.qcow2
check "copy-on-write from a compressed base" "$blkio" x.qcow2 "write 5 70001 3" "cwrite 6 128k 64k"
agree "copy-on-write from a compressed base"
refuse "compressed writes are whole clusters" "$blkio" x.qcow2 "cwrite 1 512 4k"
refuse "raw images have none" "$blkio" -f raw src.raw "cwrite 1 0 4k"

finish
