#!/bin/bash
# Time from the start of the VMM to the guest's init, for minivmm beside QEMU's microvm and q35,
# with Debian's stock kernel and initrd.
#
#   boot.sh [ROUNDS]    3 by default; the medians are printed
set -eu
cd "$(dirname "$0")/../.."
build=${BUILD:-$PWD/build}
image=$(guest/image/build.sh)
tests/rig/run-host --where
exec tests/rig/run-host --timeout 1200 --program "$build/minivmm" --program "$build/minivmm-img" \
    --program "$(command -v qemu-system-x86_64)" \
    --tree /usr/share/qemu --tree /usr/share/seabios \
    --file "$image/clean-disk.qcow2" --file "$image/vmlinuz" --file "$image/initrd.img" \
    tests/bench/boot-job.sh "${1:-3}"
