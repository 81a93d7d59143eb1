# shellcheck shell=bash
# A disk image on a file system of a few MiB that fills up under the guest.
BUILD=$(dirname "$(command -v minivmm)")
TMPDIR=$PWD
# shellcheck source=../../lib.sh
. ./lib.sh
trap '' PIPE # of a machine that has ended
if ! mkdir small || ! mount -t tmpfs -o size=4m tmpfs small 2>/dev/null; then
    skip "a full disk" "tmpfs cannot be mounted"
    finish
fi
trap 'umount small; cleanup_work' EXIT
vmm=(minivmm --debug-exit --kernel blk_full --log-level info --timeout 120)

# disk OPTIONS: a fresh overlay of 3 MiB on the small file system, with room for a part of it. Its
# metadata is there: room for that is not what these machines lack.
disk() {
    rm -f small/*
    minivmm-img create -q -f qcow2 -o "$1" -b "$PWD/base.raw" -F raw small/disk.qcow2
    qemu-io -f qcow2 -c "write -q 0 4k" -c "write -q 3068k 4k" small/disk.qcow2
    head -c 2500k /dev/zero >small/ballast
}

sound() {
    local tool status
    for tool in minivmm-img qemu-img; do
        $tool check -q small/disk.qcow2 >check.log 2>&1
        status=$?
        if [ $status = 0 ] || [ $status = 3 ]; then
            pass "$1: no corruption, says $tool"
        else
            fail "$1: no corruption, says $tool" "status $status: $(cat check.log)"
        fi
    done
}

# right NAME: the disk holds what the guest wrote.
right() {
    minivmm-img convert -O raw small/disk.qcow2 found.raw
    check "$1: every byte is right" cmp found.raw wanted.raw
}

# start OPTION...: in the background, $vm.
start() {
    : >messages
    "${vmm[@]}" "$@" </dev/null >console 2>messages &
    vm=$!
}

# paused NAME COUNT: until that many lines have said that the machine is paused.
paused() {
    until [ "$(grep -c 'the machine is paused' messages)" -ge "$2" ]; do
        if ! kill -0 $vm 2>/dev/null; then
            fail "$1" "$(cat messages; tail -n 20 console)"
            return
        fi
        sleep 0.05
    done
    pass "$1"
}

# ended NAME STATUS
ended() {
    local status
    wait $vm
    status=$?
    if [ $status -eq "$2" ]; then
        pass "$1"
    else
        fail "$1" "status $status instead of $2: $(cat messages; tail -n 20 console)"
    fi
}

head -c $((3 << 20)) /dev/zero | tr '\0' '\377' >base.raw
for ((piece = 0; piece < 48; piece++)); do
    head -c 64k /dev/zero | tr '\0' "\\$(printf %o $((1 + piece)))"
done >wanted.raw

for options in cluster_size=64k cluster_size=4k; do
    disk $options
    start --disk small/disk.qcow2
    ended "$options: the guest sees an I/O error, and nothing else" 42
    check "$options: every check of the guest held" sh -c '! grep "^not ok" console'
    sound "$options: after an I/O error"

    disk $options
    start --disk small/disk.qcow2,werror=stop --append patient
    paused "$options: werror=stop pauses the machine" 1
    check "$options: one line says which disk, why and what to do" grep -qE \
        "^minivmm: small/disk.qcow2: a write failed \(No space left on device\).*kill -CONT $vm" messages
    kill -CONT $vm
    paused "$options: it pauses again while there is no room" 2
    rm small/ballast
    kill -CONT $vm
    ended "$options: with room again the guest has not noticed" 42
    sound "$options: after a pause"
    right "$options: after a pause"
done

disk cluster_size=64k
start --disk small/disk.qcow2,werror=enospc --append patient
paused "werror=enospc pauses the machine as well" 1
kill -TERM $vm
ended "SIGTERM ends a paused machine with status 143" 143
sound "after SIGTERM"

disk cluster_size=64k
minivmm-img create -q -f qcow2 -b "$PWD/base.raw" -F raw small/disk.qcow2
start --disk small/disk.qcow2,werror=stop --append patient
paused "a machine whose metadata has no room either is paused" 1
kill -TERM $vm
ended "what cannot be written back makes the status 2" 2
check "one line says so" grep -q "cannot write 'small/disk.qcow2' back: No space" messages
sound "after that"

disk cluster_size=64k
start --disk small/disk.qcow2,werror=stop --append patient --timeout 4
paused "the machine is paused when its time runs out" 1
ended "--timeout ends a paused machine with status 124" 124
sound "after the timeout"

disk cluster_size=64k
mkfifo keys
: >messages
script -qec "${vmm[*]} --disk small/disk.qcow2,werror=stop --append patient 2>messages" \
    /dev/null <keys >console 2>&1 &
vm=$!
exec 3>keys
paused "a machine at a terminal is paused" 1
check "the line tells the key" grep -q 'or Ctrl-A c' messages
rm small/ballast
printf '\001c' >&3
ended "Ctrl-A c makes it go on" 42
right "after Ctrl-A c"

disk cluster_size=64k
: >messages
script -qec "${vmm[*]} --disk small/disk.qcow2,werror=stop --append patient 2>messages" \
    /dev/null <keys >console 2>&1 &
vm=$!
exec 3>keys
paused "and another" 1
printf '\001x' >&3
ended "Ctrl-A x ends it with status 130" 130
exec 3>&-
sound "after Ctrl-A x"
finish
