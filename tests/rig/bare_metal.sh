#!/bin/bash
# Where /dev/kvm does not open, what needs it (the bare-metal guests, the console, the vCPU tests) runs
# inside the emulated KVM host. Elsewhere the other layers have run it already.
set -u
cd "$(dirname "$0")/../.." || exit
build=$(cd "${BUILD:-build}" && pwd)
if { [ -c /dev/kvm ] && : <>/dev/kvm; } 2>/dev/null; then
    echo "ok 1 - bare-metal guests run on this machine's /dev/kvm"
    echo "1..1"
    exit 0
fi
stage=$(mktemp -d "${TMPDIR:-/tmp}/minivmm-stage.XXXXXX")
trap 'rm -rf "$stage"' EXIT

# The parts of the tree that the tests use, at one path on both sides.
mkdir -p "$stage/build/tests/unit/vmm" "$stage/build/tests/tools"
cp -R tests "$stage/"
cp -R "$build/guest" "$build/minivmm" "$build/minivmm-img" "$stage/build/"
cp "$build/tests/tools/blkio" "$stage/build/tests/tools/"
cp "$build/tests/unit/vmm/test_kvm_vcpu" "$stage/build/tests/unit/vmm/"

programs=()
for program in "$build/minivmm" "$build/minivmm-img" "$build/tests/tools/blkio" \
    "$build/tests/unit/vmm/test_kvm_vcpu" qemu-img qemu-io /usr/bin/python3 \
    timeout grep sed awk stat truncate setpriv numfmt ps; do
    programs+=(--program "$(command -v "$program")")
done
library=$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
# The guests with the most memory want 5 GiB of a machine that has it.
memory=3072
[ "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)" -lt $((8 << 20)) ] || memory=6144
tests/rig/run-host --again --timeout 1000 --memory $memory "${programs[@]}" \
    --tree "$stage=/minivmm" --tree "$library" \
    tests/rig/jobs/bare_metal.sh /minivmm
