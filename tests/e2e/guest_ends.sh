#!/bin/bash
# Every way in which a machine ends, and the exit status of each. After a signal or a timeout the image
# is consistent and what the guest flushed is there.
. "$(dirname "$0")/guest_lib.sh"

"$IMG" create -q -f qcow2 "$work/disk.qcow2" 64M
disk=(--disk "$work/disk.qcow2,format=qcow2")

guest 0 acpi_poweroff ""
guest 10 reset_cf9 ""
guest 10 reset_i8042 ""
guest 11 panic ""
guest 12 triple_fault ""

for how in spin halt ports mmio; do
    guest 124 hang "$how" --timeout 1
done
for how in spin halt ports mmio; do
    start hang "$how" --cpus 2
    wait_for_text ready
    kill -TERM "$vm"
    ended "SIGTERM ends a guest that hangs by $how" 143
done
start hang ""
wait_for_text ready
kill -INT "$vm"
ended "SIGINT ends the machine" 130
start hang ""
wait_for_text ready
kill -HUP "$vm"
ended "SIGHUP ends the machine" 129

# What happens to the disk. `signal` 0: the timeout.
for signal in TERM INT 0; do
    rm "$work/disk.qcow2"
    "$IMG" create -q -f qcow2 "$work/disk.qcow2" 64M
    case $signal in
    TERM) status=143 ;;
    INT) status=130 ;;
    0) status=124 ;;
    esac
    start blk_write_endless "" "${disk[@]}" --timeout 3
    wait_for_text flushed
    [ $signal = 0 ] || kill -s "$signal" "$vm"
    ended "the machine ends in the middle of writes (signal $signal)" "$status"
    check "its image is consistent for minivmm-img" "$IMG" check -q "$work/disk.qcow2"
    check "and for qemu-img" qemu-img check -q "$work/disk.qcow2"
    check "and holds what was flushed" sector "$work/disk.qcow2" qcow2 0 16 0x51
    guest "$PASS" blk_rw "" "${disk[@]}"
done

start blk_write_endless "" "${disk[@]}"
wait_for_text flushed
kill -KILL "$vm"
ended "SIGKILL ends it too" 137
check "without corruption: leaks at most" sh -c \
    "qemu-img check -q '$work/disk.qcow2'; test \$? -eq 0 -o \$? -eq 3"
check "and with what was flushed" sector "$work/disk.qcow2" qcow2 0 16 0x51

# --on-reboot restart: the machine starts again, as often as it reboots.
start reset_cf9 "" --on-reboot restart --timeout 2
ended "a machine that restarts ends by its timeout" 124
check "having restarted" test "$(grep -c '^rebooting' "$console")" -gt 1
finish
