#!/bin/bash
# `minivmm-img measure` against qemu-img, number by number; and that convert makes no larger file.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

make_images() {
    printf abc >key
    qemu-img create -q -f qcow2 base 3M && qemu-io -c 'write -P 7 0 64k' -c 'write 1000k 64k' base &&
        qemu-img create -q -f qcow2 -b base -F qcow2 top 4M &&
        qemu-io -c 'write -z 0 20k' -c 'write 64k 64k' -c 'write -c 2M 128k' top &&
        qemu-img create -q -f qcow2 -o cluster_size=512 small 1M &&
        qemu-io -c 'write 0 300k' -c 'write 900k 1k' small &&
        qemu-img create -q -f qcow2 -o preallocation=metadata preallocated 4M &&
        qemu-img create -q -f qcow2 -o compat=0.10 old 1M && qemu-img create -q -f qcow2 nothing 0 &&
        qemu-img create -q -f qcow2 snapshots 4M && qemu-io -c 'write 0 1M' snapshots &&
        qemu-img snapshot -c one snapshots && qemu-io -c 'write 2M 1M' snapshots &&
        qemu-img create -q -f qcow2 bitmaps 4M && qemu-img bitmap --add -g 512 bitmaps b0 &&
        qemu-img bitmap --add -g 4096 bitmaps a-longer-name &&
        qemu-img create -q -f raw raw 4M && qemu-io -f raw -c 'write 1M 70k' raw &&
        printf 'x%.0s' {1..700} >odd
}
export -f make_images
both bash -c make_images

for file in top small preallocated old nothing snapshots bitmaps; do
    same "$file" measure -O qcow2 --output=json $file
    for options in cluster_size=512 cluster_size=2M extended_l2=on,refcount_bits=64; do
        same "$file: $options" measure -O qcow2 -o $options $file
    done
done
same "to raw" measure top
same "to raw, json" measure -O raw --output=json top
same "raw" measure -f raw raw
same "raw to qcow2" measure -f raw -O qcow2 raw
same "odd" measure -f raw odd
same "odd to qcow2" measure -f raw -O qcow2 odd
same "-U" measure -U -O qcow2 top
same "snapshot" measure -O qcow2 -l one snapshots
same "snapshot by name" measure -O qcow2 -l snapshot.name=one snapshots
same "no such snapshot" measure -l two snapshots
for options in preallocation=metadata preallocation=falloc preallocation=full preallocation=off \
    backing_file=base,backing_fmt=qcow2 size=9G data_file=x compat=0.10 lazy_refcounts=on; do
    same "$options" measure -O qcow2 -o $options top
done
for size in 0 1 1M 1G 1P 7E 9223372036854775807 20E -1 ''; do
    same "size $size" measure --size "$size"
    same "size $size of qcow2" measure -O qcow2 --size "$size"
done
for options in cluster_size=512 cluster_size=2M refcount_bits=1 refcount_bits=64 extended_l2=on; do
    for size in 1M 1T; do
        same "size $size: $options" measure -O qcow2 -o $options --size $size
    done
done
for cipher in cipher-alg=aes-256 cipher-alg=aes-128 cipher-mode=cbc; do
    same "encrypted, $cipher" measure --object secret,id=s,file=key -O qcow2 --size 1G \
        -o encrypt.format=luks,encrypt.key-secret=s,encrypt.$cipher
done

same "nothing" measure
same "two images" measure top base
same "both" measure --size 1G top
same "missing" measure missing
same "unknown format" measure -f foo top
same "unknown output format" measure -O foo top
same "unknown form" measure --output=foo --size 1
same "-f without image" measure -f raw --size 1
same "-l without image" measure -l one --size 1
same_status "no such secret" measure -O qcow2 --size 1G -o encrypt.format=luks,encrypt.key-secret=s
# There, these end with an error about something else, or in other words.
for options in cluster_size=0 compat=0.10,refcount_bits=1; do
    same_status "-o $options" measure -O qcow2 --size 1 -o $options
done
for options in foo=1 help cluster_size=3k cluster_size=abc compat=9 refcount_bits=3 \
    refcount_bits=x preallocation=foo extended_l2=on,cluster_size=4k \
    extended_l2=7 size=x ','; do
    same "-o $options" measure -O qcow2 --size 1 -o $options
done
same "-o of raw" measure --size 1 -o cluster_size=4k
refuse "unknown option: one line and a hint" bash -c "'$IMG' measure -q --size 1 2>&1 >&2 | head -n 1 >&2; exit 1"

# An upper bound of what convert makes, and no more than the empty parts of its tables above it.
for file in top small snapshots raw; do
    for options in cluster_size=512 cluster_size=2M extended_l2=on; do
        bound=$("$IMG" measure -O qcow2 -o $options --output=json "$m/$file" |
            python3 -c 'import json, sys; print(json.load(sys.stdin)["required"])')
        "$IMG" convert -O qcow2 -o $options "$m/$file" "$work/out"
        size=$(stat -c %s "$work/out")
        check "$file, $options: $size of $bound bytes" test "$size" -le "$bound"
        [ $file != raw ] || check "$file, $options: tight" test $((bound - size)) -le $((4 << 20))
    done
done

qemu-img create -q -f qcow2 "$m/huge" 8T
qemu-io -c 'write -P 3 7T 64k' "$m/huge" >"$work/log"
check "8 TB in 64 MiB" in_memory 65536 "$IMG" measure -O qcow2 "$m/huge"
finish
