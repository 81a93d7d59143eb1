#!/bin/bash
# What the project is for, step by step, with qemu-io as the guest: overlays on a shared base, a new
# base, and the changes committed to it.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1
[ -n "$(command -v qemu-io)" ] || { echo "1..0 # SKIP qemu-io is not installed"; exit 0; }

check "a base, made as any other image" qemu-img create -q -f qcow2 clean-disk.qcow2 64M
qemu-io -c 'write -P 0x11 0 20M' clean-disk.qcow2 >/dev/null
before=$(sha256sum clean-disk.qcow2)

check "info of the base" "$IMG" info clean-disk.qcow2
check "an overlay" "$IMG" create -f qcow2 -b clean-disk.qcow2 snapshot.qcow2
check "info shows the backing file" grep -qx 'backing file: clean-disk.qcow2' <("$IMG" info snapshot.qcow2)
check "and its format" grep -qx 'backing file format: qcow2' <("$IMG" info snapshot.qcow2)
check "a guest writes into the overlay" qemu-io -c 'write -P 0x22 1M 3M' -c 'write -P 0x33 63M 1M' snapshot.qcow2
check "and reads it back" qemu-io -c 'read -P 0x22 1M 3M' -c 'read -P 0x11 4M 16M' snapshot.qcow2
check "a fresh overlay" "$IMG" create -q -f qcow2 -b clean-disk.qcow2 -F qcow2 fresh.qcow2
check "knows nothing of it" qemu-io -c 'read -P 0x11 0 20M' fresh.qcow2

cp clean-disk.qcow2 new-base.qcow2
check "rebase onto a copy" "$IMG" rebase -b new-base.qcow2 snapshot.qcow2
check "info shows the new base" grep -qx 'backing file: new-base.qcow2' <("$IMG" info snapshot.qcow2)
check "the overlay shows the same" qemu-io -c 'read -P 0x22 1M 3M' -c 'read -P 0x33 63M 1M' snapshot.qcow2
check "commit" test "$("$IMG" commit snapshot.qcow2)" = "Image committed."
mv clean-disk.qcow2 elsewhere.qcow2
rm snapshot.qcow2
check "the new base stands alone" qemu-io -c 'read -P 0x22 1M 3M' -c 'read -P 0x11 4M 16M' -c 'read -P 0x33 63M 1M' new-base.qcow2
check "it is clean" qemu-img check new-base.qcow2
mv elsewhere.qcow2 clean-disk.qcow2
check "the first base never changed" test "$before" = "$(sha256sum clean-disk.qcow2)"

finish
