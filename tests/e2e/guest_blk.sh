#!/bin/bash
# A block device driven without an operating system: requests, ring features, queues, interrupts,
# read-only; over qcow2 overlays and raw images, with a look from outside afterwards.
. "$(dirname "$0")/guest_lib.sh"

# looks_right NAME FILE FORMAT: what blk_rw leaves on a disk of 64 MiB.
looks_right() {
    check "$1: the first sector" sector "$2" "$3" 0 1 0xa1
    check "$1: 8 sectors" sector "$2" "$3" 1 8 0xb2
    check "$1: across a cluster's end" sector "$2" "$3" 126 4 0xc3
    check "$1: the last sector" sector "$2" "$3" 131071 1 0xd4
    check "$1: zeros" sector "$2" "$3" 256 8 0
    check "$1: beside the zeros" sector "$2" "$3" 264 1 0xff
    check "$1: nothing elsewhere" sector "$2" "$3" 300 3000 "${4:-0}"
}

truncate -s 64M "$work/raw"
guest "$PASS" blk_rw "capacity=131072 raw" --disk "$work/raw,format=raw"
looks_right raw "$work/raw" raw

# A base full of 0x77: what the guest did not write comes from there, what it zeroed does not.
"$IMG" create -q -f qcow2 "$work/base.qcow2" 64M
qemu-io -f qcow2 -c "write -q -P 0x77 0 64M" "$work/base.qcow2" >/dev/null
before=$(sha256sum <"$work/base.qcow2")
i=0
for features in "" indirect event "indirect event"; do
    i=$((i + 1))
    "$IMG" create -q -f qcow2 -F qcow2 -b base.qcow2 "$work/overlay$i.qcow2"
    guest "$PASS" blk_rw "capacity=131072 $features" \
        --disk "$work/overlay$i.qcow2,format=qcow2,serial=a-serial-number"
    check "the serial number arrives" grep -q "^id: a-serial-number" "$console"
    check "the overlay is sound" qemu-img check -q "$work/overlay$i.qcow2"
done
looks_right overlay "$work/overlay1.qcow2" qcow2 0x77
check "all four are the same" qemu-img compare -q "$work/overlay1.qcow2" "$work/overlay4.qcow2"
check "the base is untouched" test "$before" = "$(sha256sum <"$work/base.qcow2")"

overlay=(--disk "$work/overlay1.qcow2,format=qcow2")
guest "$PASS" blk_interrupt "" "${overlay[@]}"
guest "$PASS" blk_multiqueue "queues=2" --disk "$work/raw,format=raw,queues=2"
rm "$work/overlay2.qcow2"
"$IMG" create -q -f qcow2 "$work/overlay2.qcow2" 64M
guest "$PASS" blk_multiqueue "queues=4" --disk "$work/overlay2.qcow2,format=qcow2,queues=4" --cpus 4
guest "$PASS" blk_multiqueue "queues=3" --disk "$work/overlay3.qcow2,format=qcow2" --cpus 3
check "the image is sound" qemu-img check -q "$work/overlay2.qcow2"
check "a queue's writes are there" sector "$work/overlay2.qcow2" qcow2 3 1 0x13

guest "$PASS" blk_readonly "byte=161" --disk "$work/overlay1.qcow2,format=qcow2,readonly=on"
guest "$PASS" blk_readonly "byte=119" --disk "$work/base.qcow2,format=qcow2,readonly=on"
check "the base is still untouched" test "$before" = "$(sha256sum <"$work/base.qcow2")"

for cache in direct direct,fixed-buffers=on direct,fixed-files=on unsafe; do
    guest "$PASS" blk_rw "" --disk "$work/overlay4.qcow2,format=qcow2,cache=$cache"
done
# shellcheck disable=SC2046 # words are what is wanted
guest "$PASS" blk_marker "disk=7 write=9" "${overlay[@]}" $(
    for i in 1 2 3 4 5 6 7; do
        truncate -s 8M "$work/disk$i"
        echo "--disk $work/disk$i,format=raw"
    done)
for where in on ram; do
    guest "$PASS" blk_rw "capacity=131072" --tmpdir "$work" \
        --disk "$work/base.qcow2,format=qcow2,ephemeral=$where"
done
check "the base is untouched by what was thrown away" \
    test "$before" = "$(sha256sum <"$work/base.qcow2")"

# The first L2 entry leads to the L1 table: the guest's first write would destroy it.
qemu-img create -q -f qcow2 "$work/corrupt.qcow2" 64M
qemu-io -f qcow2 -c 'write -q 0 64k' "$work/corrupt.qcow2" >/dev/null
printf '\200\0\0\0\0\003\0\0' |
    dd of="$work/corrupt.qcow2" bs=1 seek=$((4 * 65536)) conv=notrunc status=none
vm blk_rw "" --disk "$work/corrupt.qcow2,format=qcow2"
check "a guest sees an I/O error where its image is corrupt" grep -q '^not ok' "$console"
check "and minivmm says which image, and why" \
    grep -q "corrupt.qcow2.*image is corrupt: L2 entry" "$messages"
check "the corrupt bit is set" grep -q 'corrupt: true' <(qemu-img info "$work/corrupt.qcow2")
check "the eighth disk holds it" sector "$work/disk7" raw 2000 100 9
check "the seventh does not" sector "$work/disk6" raw 2000 100 0
finish
