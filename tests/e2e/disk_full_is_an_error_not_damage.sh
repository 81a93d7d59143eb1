#!/bin/bash
# A full host disk: writes report it, the image stays consistent, what was written before is there, and
# the same process goes on once there is room again.
SMALL_DISK=4m
# shellcheck source=small_disk_lib.sh
. "$(dirname "$0")/small_disk_lib.sh"
blkio=$BUILD/tests/tools/blkio
cd "$small" || exit

ask() {
    local answer
    echo "$1" >&"${ENGINE[1]}"
    read -r answer <&"${ENGINE[0]}"
    echo "$answer"
}

expect() {
    local name=$1 command=$2 wanted=$3 answer
    answer=$(ask "$command")
    if [ "$answer" = "$wanted" ]; then
        pass "$name"
    else
        fail "$name" "$command: $answer"
    fi
}

for options in cluster_size=64k cluster_size=4k cluster_size=512 compat=0.10,cluster_size=16k; do
    rm -f ./*
    qemu-img create -q -f raw "$work/base.raw" 16M
    "$blkio" -f raw "$work/base.raw" "fill 9 0 16M"
    qemu-img create -q -f qcow2 -b "$work/base.raw" -F raw -o "$options" top.qcow2
    dd if=/dev/zero of=ballast bs=64k count=24 2>/dev/null
    coproc ENGINE { exec "$blkio" top.qcow2 batch; }
    pid=$!
    expect "$options: writes before" "fill 1 512 1M" ok
    expect "$options: a flush before" flush ok
    expect "$options: too much is refused" "fill 2 4M 8M" "failed: No space left on device"
    expect "$options: and again" "fill 2 5M 8M" "failed: No space left on device"
    expect "$options: reads still work" "verify 1 512 1M" ok
    expect "$options: overwriting works without space" "fill 3 1K 512K" ok
    expect "$options: untouched ranges read as the base" "verify 9 14M 1M" ok
    rm ballast
    expect "$options: there is room again" "fill 4 14M 512K" ok
    expect "$options: and it can be flushed" flush ok
    expect "$options: the later write is there" "verify 4 14M 512K" ok
    eval "exec ${ENGINE[1]}>&-"
    if wait "$pid"; then
        pass "$options: the image closes cleanly"
    else
        fail "$options: the image closes cleanly"
    fi
    qemu-img check -q -f qcow2 top.qcow2
    status=$?
    case $status in
    0 | 3) pass "$options: no corruption" ;;
    *) fail "$options: no corruption" "$(qemu-img check -f qcow2 top.qcow2 2>&1)" ;;
    esac
    check "$options: everything is there" "$blkio" top.qcow2 "verify 3 1K 512K" "verify 4 14M 512K"
done
cd "$work" || exit
umount "$work/small"
finish
