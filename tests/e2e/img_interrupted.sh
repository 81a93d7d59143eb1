#!/bin/bash
# A commit or rebase that is killed anywhere harms nothing, and runs to the end when started again.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1

make_images() {
    rm -f -- *.qcow2
    qemu-img create -q -f qcow2 base.qcow2 64M &&
        qemu-io -c 'write -P 1 0 48M' base.qcow2 &&
        cp base.qcow2 other.qcow2 &&
        qemu-io -c 'write -P 9 0 30M' other.qcow2 &&
        qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 o.qcow2 96M &&
        qemu-io -c 'write -P 3 1M 40M' -c 'write -z 45M 2M' -c 'write -P 4 90M 5M' o.qcow2 &&
        cp o.qcow2 before.qcow2 && qemu-img convert -O qcow2 o.qcow2 shown.qcow2
}

# killed_after DELAY COMMAND...: kills it, unless it was faster, and waits until it is gone; 137 if so.
killed_after() {
    local delay=$1 pid
    shift
    "$@" >/dev/null 2>&1 &
    pid=$!
    sleep "$delay"
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
}

leaks_at_most() {
    local image status
    for image in "$@"; do
        qemu-img check -q "$image" >/dev/null 2>&1
        status=$?
        [ "$status" = 0 ] || [ "$status" = 3 ] || return 1
    done
}

kills=0
for delay in 0.002 0.004 0.007 0.01 0.015 0.02 0.03 0.05; do
    make_images >/dev/null || fail "preparing images"
    killed_after $delay "$IMG" commit o.qcow2
    [ $? -ne 137 ] || kills=$((kills + 1))
    check "commit killed after ${delay}s: the overlay shows the same" qemu-img compare o.qcow2 shown.qcow2
    check "commit killed after ${delay}s: no corruption" leaks_at_most base.qcow2 o.qcow2
    check "commit again" "$IMG" commit -q o.qcow2
    check "commit again: the base holds it all" qemu-img compare base.qcow2 shown.qcow2

    make_images >/dev/null || fail "preparing images"
    killed_after $delay "$IMG" rebase -b other.qcow2 -F qcow2 o.qcow2
    [ $? -ne 137 ] || kills=$((kills + 1))
    check "rebase killed after ${delay}s: the overlay shows the same" qemu-img compare o.qcow2 shown.qcow2
    check "rebase killed after ${delay}s: no corruption" leaks_at_most o.qcow2
    check "rebase again" "$IMG" rebase -b other.qcow2 -F qcow2 o.qcow2
    check "rebase again: the same, on the other base" qemu-img compare o.qcow2 shown.qcow2
    check "rebase again: the header" grep -qx 'backing file: other.qcow2' <(qemu-img info o.qcow2)
done
check "some were killed in the middle" test $kills -gt 0

# No space: the file system is as small as it takes.
if mkdir small && mount -t tmpfs -o size=12M tmpfs small 2>/dev/null; then
    make_images >/dev/null
    cp --sparse=always before.qcow2 keep.qcow2
    qemu-img create -q -f qcow2 small/base.qcow2 64M
    qemu-img rebase -u -b small/base.qcow2 -F qcow2 o.qcow2
    qemu-img convert -O qcow2 o.qcow2 shown.qcow2
    "$IMG" commit o.qcow2 >said 2>&1
    check "commit into a full file system fails and says why" grep -q 'No space left on device' said
    check "commit into a full file system: the overlay shows the same" qemu-img compare o.qcow2 shown.qcow2
    refuse "convert into a full file system" "$IMG" convert -O qcow2 shown.qcow2 small/out.qcow2
    check "convert into a full file system leaves nothing behind" test ! -e small/out.qcow2
    refuse "create with preallocation in a full file system" \
        "$IMG" create -q -f qcow2 -o preallocation=full small/full.qcow2 64M
    check "create in a full file system leaves nothing behind" test ! -e small/full.qcow2
    umount small
else
    skip "full file system" "cannot mount a tmpfs"
fi

finish
