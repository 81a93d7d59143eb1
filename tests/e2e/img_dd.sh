#!/bin/bash
# `minivmm-img dd` against qemu-img: what is copied, how large the new image is, and what is refused.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

make_images() {
    qemu-img create -q -f raw in 4M && qemu-io -f raw -c 'write -P 5 1000000 70k' in &&
        qemu-io -f raw -c 'write -P 6 3M 1M' in && qemu-img create -q -f qcow2 base 1M &&
        qemu-io -c 'write -P 7 100k 64k' base && qemu-img create -q -f qcow2 -b base -F qcow2 top 3M &&
        qemu-io -c 'write -P 8 2M 70k' top && printf 'x%.0s' {1..700} >odd
}
export -f make_images
both bash -c make_images

copies() {
    local format=$1
    shift
    same "$format: $*" dd -O "$format" "$@" of="out"
    same_image "content: $format: $*" out "$format"
    check "size: $format: $*" test "$(qemu-img info -f "$format" "$q/out" | grep virtual)" = \
        "$(qemu-img info -f "$format" "$m/out" | grep virtual)"
    rm -f "$q/out" "$m/out"
}
for format in raw qcow2; do
    copies $format -f raw if=in
    copies $format if=top
    copies $format -f raw bs=1M count=2 skip=1 if=in
    copies $format -f raw if=in bs=1000 count=3000 skip=7
    copies $format if=top bs=64k skip=1
    copies $format if=top bs=1M skip=3
    copies $format if=top count=0
done
copies raw -f raw -U if=in bs=2147483647
copies raw -f raw if=odd bs=3 skip=1
copies raw -f raw if=top if=in skip=1k bs=1k
same "skip too far" dd -O qcow2 if=top of=out bs=1M skip=100
same_image "skip too far: empty" out

same "nothing" dd
same "no output" dd if=in
same "no input" dd of=out
for operand in bs=0 bs=x bs=2G bs=-1 bs= count=x count=-1 skip=x skip=20E foo=1 seek=1 foo; do
    same "$operand" dd -f raw if=in of=out $operand
done
same "unknown format" dd -f foo if=in of=out
same "unknown output format" dd -O foo if=top of=out
same "missing" dd if=missing of=out
same "no such folder" dd -f raw if=in of=nodir/out
same "unknown switch" dd -Z
same "unknown option" dd -o size=1 if=in of=out
refuse "onto itself" "$IMG" dd -f raw if="$m/in" of="$m/in"
check "which is as it was" cmp "$q/in" "$m/in"
finish
