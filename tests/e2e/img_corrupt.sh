#!/bin/bash
# An image that turns out to be corrupt while it is written: one clear line, the corrupt bit, reads that go
# on, no writes until it is repaired.
. "$(dirname "$0")/../lib.sh"

[ -n "$(command -v qemu-img)" ] || { echo "1..0 # SKIP qemu-img is not installed"; exit 0; }
# lib.sh, which is sourced first, made the folder.
# shellcheck disable=SC2154
cd "$work" || exit 1
is_corrupt() { "$IMG" info --output=json base.qcow2 | grep -q '"corrupt": true'; }

qemu-img create -q -f qcow2 base.qcow2 4M
qemu-io -c 'write -P 5 0 128k' base.qcow2 >log 2>&1
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
qemu-io -c 'write -P 6 0 64k' top.qcow2 >log 2>&1
# The first entry of the only L2 table leads to the L1 table.
printf '\200\0\0\0\0\003\0\0' | dd of=base.qcow2 bs=1 seek=$((4 * 65536)) conv=notrunc status=none
before=$(dd if=base.qcow2 bs=64k skip=3 count=1 status=none | sha256sum)

"$IMG" commit top.qcow2 2>log
check "writing it fails" test $? -eq 1
check "and says why" grep -q 'image is corrupt: L2 entry 0x8000000000030000' log
check "the corrupt bit is set" is_corrupt
check "nothing was written over the table" test "$before" = "$(dd if=base.qcow2 bs=64k skip=3 count=1 status=none | sha256sum)"
refuse "it is not written any more" "$IMG" resize base.qcow2 5M
check "which names the repair" bash -c '"$0" resize base.qcow2 5M 2>&1 | grep -q "marked corrupt.*check -r all"' "$IMG"
check "reading it says why" bash -c '"$0" convert -O raw base.qcow2 o.raw 2>&1 | grep -q "image is corrupt"' "$IMG"
"$IMG" check -q -r all base.qcow2 >log 2>&1
check "check -r all takes the bit back" bash -c '! "$0" info --output=json base.qcow2 | grep -q "\"corrupt\": true"' "$IMG"
check "and QEMU agrees" qemu-img check -q base.qcow2
finish
