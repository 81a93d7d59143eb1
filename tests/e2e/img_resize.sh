#!/bin/bash
# `minivmm-img resize` against qemu-img: sizes, messages, and what the image holds afterwards.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

both qemu-img create -q -f raw r.raw 10M
both qemu-img create -q -f qcow2 base.qcow2 20M
both qemu-io -c 'write -P 5 0 20M' base.qcow2
both qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 o.qcow2 10000K
both qemu-img create -q -f qcow2 -o cluster_size=512 a.qcow2 10M
both qemu-io -c 'write -P 9 9M 1M' a.qcow2

for size in 20M +1M +0 -0 ++1M 0x2000000 33555456; do
    for file in a.qcow2 o.qcow2; do
        same "$file $size" resize $file $size
        same_image "content: $file $size" $file
    done
done
for size in 20M +1M -1M +0 30000001 --shrink; do
    same "raw $size" resize -f raw r.raw $size
done
same "raw --shrink" resize -f raw --shrink r.raw 5M
same "raw --shrink by" resize --shrink -f raw r.raw -1M
same "raw, odd size" resize -f raw --shrink r.raw 1001
same_image "raw content" r.raw raw
check "the file is as long as QEMU makes it" test "$(stat -c %s "$q/r.raw")" = "$(stat -c %s "$m/r.raw")"
same "quiet" resize -q a.qcow2 +1M
for size in 0 1M -1M -100G abc '' + - +-1M -+1M --1M 18446744073709551616 1Z 20000000001 +9223372036854775807 \
    9223372036854775807 9223372035781034496; do
    same "size '$size'" resize a.qcow2 "$size"
done
both truncate -s 1M large.raw
same "raw, larger than that" resize -f raw large.raw 9223372035781034496
same "nothing" resize
same "no size" resize a.qcow2
same "no file" resize -q +1M
same "too much" resize a.qcow2 1M 2M
same "missing" resize missing 1M
same "unknown format" resize -f foo a.qcow2 1M
same "unknown switch" resize --foo a.qcow2 1M
same "unknown letter" resize -Z a.qcow2 1M
same "info: a.qcow2" info a.qcow2
same "info: o.qcow2" info o.qcow2

for file in a.qcow2 o.qcow2; do
    for size in 9999872 -1M 1M; do
        same "$file, smaller: $size" resize --shrink $file $size
        same_image "content: $file, smaller: $size" $file
    done
done
both qemu-img create -q -f qcow2 b.qcow2 10M
both qemu-img bitmap --add b.qcow2 tracker
same "bitmaps, smaller" resize --shrink b.qcow2 5M
same "bitmaps, larger" resize b.qcow2 7M
same "info: b.qcow2" info b.qcow2
for mode in off metadata falloc full bogus ''; do
    both qemu-img create -q -f qcow2 p.qcow2 1M
    both qemu-img create -q -f raw p.raw 1M
    same "qcow2, preallocation=$mode" resize --preallocation="$mode" p.qcow2 3M
    same "raw, preallocation=$mode" resize -f raw --preallocation="$mode" p.raw 3M
    same "not larger, preallocation=$mode" resize --preallocation="$mode" p.qcow2 +0
    same "smaller, preallocation=$mode" resize --preallocation="$mode" --shrink p.qcow2 1M
    same_image "content: preallocation=$mode" p.qcow2
done
finish
