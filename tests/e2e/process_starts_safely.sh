#!/usr/bin/env bash
# A closed standard descriptor must not become an image, a long chain must not run out of descriptors at
# the usual soft limit, and a limit on file sizes must not kill.
. "$(dirname "$0")/../lib.sh"

"$IMG" create -q -f qcow2 "$work/disk.qcow2" 64K
before=$(sha256sum <"$work/disk.qcow2")
# Fails once the image is open: it has no backing file.
"$IMG" commit "$work/disk.qcow2" 2>&-
status=$?
if [ $status -eq 1 ] && [ "$(sha256sum <"$work/disk.qcow2")" = "$before" ]; then
    pass "an error message does not land in an image that took the place of standard error"
else
    fail "an error message does not land in an image that took the place of standard error" \
        "status $status"
fi

"$IMG" create -q -f qcow2 "$work/0.qcow2" 1M
for i in $(seq 1 99); do
    "$IMG" create -q -f qcow2 -F qcow2 -b "$((i - 1)).qcow2" "$work/$i.qcow2"
done
few_files() (
    ulimit -Sn 40 && "$@"
)
check "a chain of 100 images opens at a soft limit of 40 open files" \
    few_files "$IMG" convert -f qcow2 -O raw "$work/99.qcow2" "$work/out.raw"

short_files() (
    ulimit -f 1024 && "$@"
)
refuse "a file size limit is an error, not the end of the process" \
    short_files "$IMG" create -q -f qcow2 -o preallocation=full "$work/full.qcow2" 8M
check "and leaves no image behind" test ! -e "$work/full.qcow2"
finish
