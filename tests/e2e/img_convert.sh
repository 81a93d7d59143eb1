#!/bin/bash
# `minivmm-img convert` against qemu-img: the same content out of the same sources.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

both qemu-img create -q -f qcow2 base.qcow2 16M
both io base.qcow2 'write -P 1 0 3M' 'write -P 2 6M 64k' 'write -z 4M 1M' 'write -P 0 5M 512k'
both qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 o.qcow2
both io o.qcow2 'write -P 3 64k 128k' 'write -z 1M 70k' 'write -P 4 7M 4k' 'write -P 5 16380k 4k'
both qemu-img convert -O raw o.qcow2 src.raw
both qemu-img create -q -f raw empty.raw 0
sparse() { truncate -s 3G sparse.raw && printf x | dd of=sparse.raw bs=1 seek=2147483648 conv=notrunc status=none; }
both sparse
odd() { printf 'abc' >odd.raw; }
both odd

for source in base.qcow2 o.qcow2 src.raw; do
    same "$source to raw" convert -O raw $source out.raw
    same_image "$source to raw: content" out.raw raw
    same "raw is the default" convert $source default.raw
    same_image "raw is the default: content" default.raw raw
    for options in cluster_size=512 cluster_size=64k cluster_size=2M compat=0.10 preallocation=metadata \
        preallocation=full lazy_refcounts=on; do
        same "$source to qcow2, $options" convert -O qcow2 -o $options $source out.qcow2
        same_image "$source to qcow2, $options: content" out.qcow2
        same "$source to qcow2, $options: info" info out.qcow2
    done
done
same "empty" convert -O qcow2 empty.raw out.qcow2
same_image "empty: content" out.qcow2
same "3 bytes" convert -O qcow2 odd.raw out.qcow2
same_image "3 bytes: content" out.qcow2
same "3 GiB, sparse" convert -O qcow2 sparse.raw out.qcow2
same_image "3 GiB, sparse: content" out.qcow2
same "and back" convert -O raw out.qcow2 out.raw
same_image "and back: content" out.raw raw
check "and back: still sparse" test "$(stat -c %b "$m/out.raw")" -le 4096
same "zeros become holes" convert -O raw src.raw out.raw
check "zeros become holes: as many as with qemu-img" \
    test "$(stat -c %b "$m/out.raw")" -le $(($(stat -c %b "$q/out.raw") + 64))
same "-S 0" convert -S 0 -O raw src.raw out.raw
check "-S 0: fully allocated" test "$(stat -c %b "$m/out.raw")" -ge $((16 * 2048))
same "-S 64k" convert -S 64k -O raw src.raw out.raw
same_image "-S 64k: content" out.raw raw
same "-S 512" convert -S 512 -O raw src.raw out.raw
same_image "-S 512: content" out.raw raw
# Holes of the source stay holes however long -S is; zeros that are compressed take no place at all.
both qemu-img create -q -f qcow2 holes.qcow2 4M
both io holes.qcow2 'write -P 1 0 64k' 'write -P 2 512k 64k' 'write -P 0 576k 64k' 'write -P 3 640k 64k'
for options in '-S 1M' '-S 1M -c' '-S 1M -O qcow2 -o cluster_size=4k'; do
    # shellcheck disable=SC2086 # words
    same "holes with $options" convert -O qcow2 $options holes.qcow2 out.qcow2
    same_image "holes with $options: content" out.qcow2
    allocated() { qemu-img map --output=json "$1/out.qcow2" | grep -c '"data": true'; }
    check "holes with $options: as qemu-img has them" test "$(allocated "$q")" = "$(allocated "$m")"
done
same "several sources" convert -O qcow2 base.qcow2 o.qcow2 out.qcow2
same_image "several sources: content" out.qcow2
same "several sources, odd ones" convert -O raw odd.raw base.qcow2 odd.raw out.raw
same_image "several sources, odd ones: content" out.raw raw

# ---- over a backing file ----
same "-B" convert -O qcow2 -B base.qcow2 -F qcow2 o.qcow2 thin.qcow2
same_image "-B: content" thin.qcow2
same "-B: info" info thin.qcow2
check "-B: holds no more than the source" test "$(stat -c %s "$m/thin.qcow2")" -le $((1 << 20))
same "-B, as options" convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 o.qcow2 thin.qcow2
same_image "-B, as options: content" thin.qcow2

# ---- into an image that is there ----
for target in raw qcow2; do
    both qemu-img create -q -f $target t.$target 20M
    both qemu-io -f $target -c 'write -P 77 0 20M' t.$target
    same "-n into $target" convert -n -O $target o.qcow2 t.$target
    same_image "-n into $target: content" t.$target $target
done
both qemu-img create -q -f qcow2 small.qcow2 1M
same "-n, target too small" convert -n -O qcow2 o.qcow2 small.qcow2
same "-n with -o" convert -n -O qcow2 -o cluster_size=4k o.qcow2 small.qcow2
same "-n, missing target" convert -n o.qcow2 missing

# ---- options ----
same "-q -p" convert -q -p -O qcow2 o.qcow2 out.qcow2
(cd "$m" && "$IMG" convert -p -O qcow2 o.qcow2 out.qcow2) >"$work/progress"
check "-p begins with 0 and ends with 100" \
    progress_is_whole "$work/progress"
same "-W -m 4 -U -T none -t none" convert -W -m 4 -U -T none -t none -O qcow2 o.qcow2 out.qcow2
same_image "-W -m 4 -U -T none -t none: content" out.qcow2
same "-t none to raw" convert -T none -t none -O raw o.qcow2 out.raw
same_image "-t none to raw: content" out.raw raw
same "-o size" convert -O raw -o size=32M o.qcow2 out.raw
same_image "-o size: content" out.raw raw

# ---- what is refused ----
rm -f "$q/x" "$m/x"
same "unknown target format" convert -O foo o.qcow2 x
same "one name" convert o.qcow2
same "no name" convert
same "missing source" convert missing x
same "unknown source format" convert -f foo o.qcow2 x
same "unknown option" convert -O qcow2 -o cluster_size=4k,foo=1 o.qcow2 x
same "not a size" convert -S foo o.qcow2 x
same "no coroutines" convert -m 0 o.qcow2 x
same "too many coroutines" convert -m 17 o.qcow2 x
same "unknown cache" convert -t foo o.qcow2 x
same "unknown source cache" convert -T foo o.qcow2 x
same "raw over a base" convert -O raw -B base.qcow2 -F qcow2 o.qcow2 x
same "missing folder" convert o.qcow2 missing/x
same "unknown switch" convert -Z
same_status "onto itself" convert -O qcow2 o.qcow2 o.qcow2
refuse "onto itself with -U" "$IMG" convert -U -O qcow2 "$m/o.qcow2" "$m/o.qcow2"
refuse "missing base" "$IMG" convert -O qcow2 -B missing -F qcow2 "$m/o.qcow2" "$m/x"
check "what failed leaves nothing behind" test ! -e "$m/x"
check "and the source is as it was" qemu-img compare "$m/o.qcow2" "$q/o.qcow2"

finish
