#!/bin/bash
# A file system that fills up under a running guest: an error for the guest, or a pause. Bare-metal
# guests, in an emulated host where KVM does not work.
set -u
cd "$(dirname "$0")/../.." || exit
build=${BUILD:-$PWD/build}
exec tests/rig/run-host --again --timeout 300 --program "$build/minivmm" --program "$build/minivmm-img" \
    --program "$(command -v qemu-img)" --program "$(command -v qemu-io)" \
    --program "$(command -v script)" \
    --file "$build/guest/blk_full" --file tests/lib.sh tests/rig/jobs/full.sh
