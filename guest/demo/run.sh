#!/bin/bash
# make demo: a Debian guest, its snapshots and their shared base, in a few minutes. Exits with 0
# when every step passed.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-$root/build}
cd "$root"

echo "A Debian guest boots from a throwaway snapshot of a base image that it cannot change."
echo "\$ guest/image/build.sh   # makes clean-disk.qcow2, vmlinuz, initrd.img from Debian packages"
image=$(guest/image/build.sh)
tests/rig/run-host --where
status=0
tests/rig/run-host --timeout 900 --program "$build/minivmm" --program "$build/minivmm-img" \
    --file "$image/clean-disk.qcow2" --file "$image/vmlinuz" --file "$image/initrd.img" \
    --file guest/demo/guest-console.sh guest/demo/story.sh || status=$?
exit "$status"
