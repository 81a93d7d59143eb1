#!/bin/bash
# The Debian machine that the rig boots comes out of its recipe, and is not made twice. Made here, beside other
# tests, it need not be made while a program of the rig has the whole machine.
. "$(dirname "$0")/../lib.sh"
cd "$ROOT" || exit
if ! image=$(guest/image/build.sh); then
    fail "the Debian image is built"
    finish
fi
pass "the Debian image is built"
for file in clean-disk.qcow2 vmlinuz initrd.img; do
    check "it has a $file" test -s "$image/$file"
done
check "its disk is sound" qemu-img check -q "$image/clean-disk.qcow2"
before=$(stat -c %i-%Y "$image"/*)
check "it is there, the second time" test "$(guest/image/build.sh)" = "$image"
check "and was not made anew" test "$before" = "$(stat -c %i-%Y "$image"/*)"
finish
