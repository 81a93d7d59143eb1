#!/bin/bash
# One snapshot, three boots: a stock guest in minivmm writes to it, QEMU boots it, checks and writes,
# and minivmm boots it again and checks what QEMU's guest wrote.
. "$(dirname "$0")/../lib.sh"
cd "$ROOT" || exit
if ! image=$(guest/image/build.sh); then
    fail "the Debian image is built"
    finish
fi
cp --reflink=auto "$image/clean-disk.qcow2" "$work/"
sha256sum <"$work/clean-disk.qcow2" >"$work/base.sha256"
"$IMG" create -q -f qcow2 -F qcow2 -b clean-disk.qcow2 "$work/snapshot.qcow2"
append="console=ttyS0 root=/dev/vda rw quiet panic=-1 mitigations=off \
rcupdate.rcu_cpu_stall_suppress=1 nowatchdog no_timer_check"

# What a guest does in round N, as one line for `run=` (no double quotes): checks what was written before,
# writes files of its own, large and small, takes some away again, and gives the space back.
round() {
    echo "cd /; for s in sums-*; do [ ! -e \$s ] || sha256sum -c --status \$s && echo RIGHT \$s; done; \
dd if=/dev/urandom of=/large-$1 bs=64k count=48 2>&1; mkdir /small-$1; \
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do dd if=/dev/urandom of=/small-$1/\$i bs=700 count=\$i; done 2>&1; \
sha256sum /large-$1 /small-$1/* >/sums-$1; dd if=/dev/zero of=/gone-$1 bs=64k count=64 2>&1; sync; \
rm /gone-$1; fstrim /; sync; echo DONE $1"
}

# in_minivmm N: boots the snapshot in minivmm, wherever that has a KVM, and fetches it.
in_minivmm() {
    tests/rig/run-host --again --timeout 500 --program "$MINIVMM" --file "$work/clean-disk.qcow2" \
        --file "$work/snapshot.qcow2" --file "$image/vmlinuz" --file "$image/initrd.img" \
        --result "snapshot.qcow2=$work/snapshot.new" tests/rig/jobs/boot.sh \
        "$append run=\"$(round "$1")\"" >"$work/console.raw" 2>&1
    status=$?
    tr -d '\r' <"$work/console.raw" >"$work/console"
    [ ! -e "$work/snapshot.new" ] || mv "$work/snapshot.new" "$work/snapshot.qcow2"
}

in_qemu() {
    timeout -k 10 400 qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 256 -nodefaults \
        -no-user-config -display none -no-reboot -serial stdio -kernel "$image/vmlinuz" \
        -initrd "$image/initrd.img" -append "$append run=\"$(round "$1")\"" \
        -drive "file=$work/snapshot.qcow2,format=qcow2,if=virtio,discard=unmap" \
        </dev/null >"$work/console.raw" 2>&1
    status=$?
    tr -d '\r' <"$work/console.raw" >"$work/console"
}

# went_well NAME N CHECKED...: the guest of round N powered off after it had found the sums of the earlier
# rounds right, and both programs find the image sound.
went_well() {
    local name=$1 number=$2 before
    shift 2
    if [ $status -eq 0 ] && grep -qx "DONE $number" "$work/console"; then
        pass "$name boots, writes and powers off"
    else
        fail "$name boots, writes and powers off" "status $status
$(tail -n 40 "$work/console")"
    fi
    for before in "$@"; do
        check "$name finds the files of boot $before right" \
            grep -qx "RIGHT sums-$before" "$work/console"
    done
    check "$name leaves an image without a finding, says qemu-img" \
        qemu-img check -q "$work/snapshot.qcow2"
    check "$name leaves an image without a finding, says minivmm-img" \
        "$IMG" check -q "$work/snapshot.qcow2"
}

in_minivmm 1
went_well "minivmm" 1
in_qemu 2
went_well "QEMU" 2 1
in_minivmm 3
went_well "minivmm again" 3 1 2
check "the base is, bit by bit, what it was" \
    test "$(sha256sum <"$work/clean-disk.qcow2")" = "$(cat "$work/base.sha256")"
finish
