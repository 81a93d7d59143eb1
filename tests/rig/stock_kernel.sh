#!/bin/bash
# Debian's own kernel, initrd and userland as guests: two jobs at once, each in its own emulated host
# where KVM does not work. What the jobs print is TAP; each ends with its plan.
set -u
cd "$(dirname "$0")/../.." || exit
build=${BUILD:-$PWD/build}
logs=$(mktemp -d "${TMPDIR:-/tmp}/minivmm-jobs.XXXXXX")
trap 'rm -rf "$logs"' EXIT
if ! image=$(guest/image/build.sh); then
    echo "not ok 1 - the Debian image is built"
    echo "1..1"
    exit 1
fi

# An emulated host that can promise 5 GiB, where this machine can promise that. It takes what the
# guests touch, no more.
memory=3072
[ "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)" -lt $((8 << 20)) ] || memory=6144

configs=()
for config in configs/*.json; do
    configs+=(--file "$config")
done

run_job() {
    tests/rig/run-host --again --timeout 1000 --memory $memory --program "$build/minivmm" \
        --program "$build/minivmm-img" --program "$(command -v qemu-img)" \
        --file "$image/clean-disk.qcow2" --file "$image/vmlinuz" --file "$image/initrd.img" \
        --file tests/lib.sh --file guest/demo/guest-console.sh --file tests/rig/jobs/job.sh \
        "${configs[@]}" "tests/rig/jobs/$1.sh" >"$logs/$1" 2>&1
}

jobs=(machine disks)
pids=()
for job in "${jobs[@]}"; do
    run_job "$job" &
    pids+=($!)
done
status=0
for i in "${!jobs[@]}"; do
    wait "${pids[$i]}" || status=1
    cat "$logs/${jobs[$i]}"
done
exit $status
