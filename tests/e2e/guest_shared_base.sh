#!/bin/bash
# Snapshots of one base: what one machine writes persists in its own overlay, no other sees it, and the
# base stays as it was; two machines at once, but never two writers on one snapshot.
. "$(dirname "$0")/guest_lib.sh"

"$IMG" create -q -f qcow2 "$work/base.qcow2" 64M
qemu-io -f qcow2 -c "write -q -P 0x77 0 4M" "$work/base.qcow2" >/dev/null
before=$(sha256sum <"$work/base.qcow2")
for name in one two; do
    "$IMG" create -q -f qcow2 -F qcow2 -b base.qcow2 "$work/$name.qcow2"
done
one=(--disk "$work/one.qcow2,format=qcow2")
two=(--disk "$work/two.qcow2,format=qcow2")

guest "$PASS" blk_marker "expect=119 write=1" "${one[@]}"
guest "$PASS" blk_marker "expect=1" "${one[@]}"
guest "$PASS" blk_marker "expect=119 write=2" "${two[@]}"
guest "$PASS" blk_marker "expect=1" "${one[@]}"

# The first machine stays while others come and go.
start blk_write_endless "" "${one[@]}"
wait_for_text flushed
(
    console=$work/second messages=$work/second.messages
    vm blk_marker "expect=2 write=3" "${two[@]}"
)
check "a second machine runs on the same base" test $? -eq "$PASS"
refuse "a second writer on one snapshot is refused" \
    "$MINIVMM" --quiet --kernel "$GUESTS/hello" "${one[@]}"
check "by a line that names it" sh -c \
    "'$MINIVMM' --quiet --kernel '$GUESTS/hello' ${one[*]} 2>&1 | grep -q one.qcow2"
refuse "so is a writer on the base" "$MINIVMM" --quiet --kernel "$GUESTS/hello" \
    --disk "$work/base.qcow2,format=qcow2"
check "qemu-io cannot write the snapshot either" sh -c \
    "! qemu-io -f qcow2 -c 'write 0 512' '$work/one.qcow2' 2>/dev/null"
kill -TERM "$vm"
ended "the first machine ends" 143

for name in one two; do
    check "$name.qcow2 is sound" qemu-img check -q "$work/$name.qcow2"
done
check "each holds its own" sector "$work/two.qcow2" qcow2 2000 100 3
check "the base is as it was" test "$before" = "$(sha256sum <"$work/base.qcow2")"
"$IMG" create -q -f qcow2 -F qcow2 -b base.qcow2 "$work/three.qcow2"
guest "$PASS" blk_marker "expect=119" --disk "$work/three.qcow2,format=qcow2"

# The same over a base that is compressed.
for type in zlib zstd; do
    qemu-img convert -c -O qcow2 -o compression_type=$type "$work/base.qcow2" "$work/$type.qcow2"
    "$IMG" create -q -f qcow2 -F qcow2 -b $type.qcow2 "$work/over.qcow2"
    guest "$PASS" blk_marker "expect=119 write=4" --disk "$work/over.qcow2,format=qcow2"
    guest "$PASS" blk_marker "expect=4" --disk "$work/over.qcow2,format=qcow2"
    check "over a base compressed with $type: sound" qemu-img check -q "$work/over.qcow2"
done
finish
