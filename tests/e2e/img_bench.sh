#!/bin/bash
# `minivmm-img bench` against qemu-img: what it says, what it writes, and what is refused.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

both qemu-img create -q -f qcow2 a 4M
both qemu-img create -q -f raw raw 1M

# The time that it took differs.
same_bench() {
    local name=$1 text
    shift
    run_both bench "$@"
    sed -i 's/completed in [0-9.]* seconds/completed in N seconds/' "$work/q.out" "$work/m.out"
    text=$(differences rc out err)
    if [ -z "$text" ]; then pass "$name"; else fail "$name" "arguments: $*
$text"; fi
}
for options in "" "-d 4 -s 64k" "-w" "-w --pattern=5 -s 3000 -S 70000" "-d 2 -w --flush-interval=4" \
    "-d 2 -w --flush-interval=4 --no-drain" "-w --flush-interval=20 -d 4" "-o 1M" "-S 1M" "-q" "-U" \
    "-i io_uring" "-i threads" "-t none" "-t none -n" "-t unsafe" "-s 0" "-c 0" "--pattern=5" \
    "-w -d 1 -o 4000K -s 4k" "-w --pattern=0x41 -c 100 -d 7 -S 70k -s 5k"; do
    # shellcheck disable=SC2086
    same_bench "bench $options" -c 10 $options a
done
same_image "what was written" a
same_bench "raw" -f raw -c 10 -w --pattern=1 raw
same_image "what was written, raw" raw raw

for options in "--flush-interval=2" "-w --flush-interval=2" "-w --pattern=500" "--pattern=x" "-c x" "-c -1" \
    "-i foo" "-t foo" "-n" "-i native" "-f foo" "-o x" "-S x" "-s x" "-s 3G" "--flush-interval=x" "-S -1" \
    "-S 20E" "-o 20E" "-Z"; do
    # shellcheck disable=SC2086
    same "bench $options" bench -c 5 $options a
done
same "nothing" bench
same "two images" bench a raw
same "missing" bench missing
same_status "beyond the end" bench -c 5 -o 100M a
same_status "larger than the image" bench -c 5 -s 8M a
refuse "a depth of 0" "$IMG" bench -d 0 "$m/a"
check "whole" qemu-img check "$m/a"
finish
