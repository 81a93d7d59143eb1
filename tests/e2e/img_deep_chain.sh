#!/bin/bash
# A chain of 1000 qcow2 layers: info, check, reads, commit; how deep one may be; a loop in it is found.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1

# Each layer is a copy of the second one with another backing name of the same length.
"$IMG" create -q -f qcow2 l0001 1M
qemu-io -c 'write -q -P 7 64k 64k' l0001
"$IMG" create -q -f qcow2 -b l0001 -F qcow2 l0002
python3 - <<'PYTHON'
layer = open("l0002", "rb").read()
for i in range(3, 1001):
    open("l%04d" % i, "wb").write(layer.replace(b"l0001", b"l%04d" % (i - 1), 1))
PYTHON

layers_of_info() {
    [ "$("$IMG" info --backing-chain l1000 | grep -c '^image: ')" = 1000 ]
}
reads_as() {
    "$IMG" convert -O raw l1000 flat && qemu-io -f raw -c "read -q -P $1 64k 64k" flat | cmp - /dev/null
}
commits() {
    qemu-io -f qcow2 -c 'write -q -P 9 64k 4k' only && "$IMG" rebase -u -f qcow2 -b l0999 -F qcow2 only &&
        "$IMG" commit -q -b l0001 only && qemu-io -c 'read -q -P 9 64k 4k' l0001 | cmp - /dev/null
}
loop() {
    "$IMG" rebase -u -b l0500 -F qcow2 l0001
}

check "info of 1000 layers" layers_of_info
check "check of the top" "$IMG" check -q l1000
check "the top shows the bottom's data" reads_as 7
"$IMG" create -q -f qcow2 only 1M
check "a layer on 999 others commits to the bottom" commits
check "the chain can be made to loop" loop
# The deepest chain: 4096 layers below the top, the header alone in each.
"$IMG" create -q -f qcow2 -o cluster_size=512 d0001 1M
"$IMG" create -q -f qcow2 -o cluster_size=512 -b d0001 -F qcow2 d0002
python3 - <<'PYTHON'
layer = open("d0002", "rb").read()
for i in range(3, 4099):
    open("d%04d" % i, "wb").write(layer.replace(b"d0001", b"d%04d" % (i - 1), 1))
PYTHON
check "4096 layers below the top can be read" in_memory 600000 "$IMG" convert -O raw d4097 flat3
refuse "4097 are too many" "$IMG" convert -O raw d4098 flat3
refuse "a loop is found" "$IMG" convert -O raw l1000 flat2
finish
