#!/bin/bash
# A guest that breaks every rule of virtio: the machine lives on, the device recovers, the image stays
# sound.
. "$(dirname "$0")/guest_lib.sh"

"$IMG" create -q -f qcow2 "$work/disk.qcow2" 64M
disk=(--disk "$work/disk.qcow2,format=qcow2")

guest "$PASS" blk_bad_requests "" "${disk[@]}"
guest "$PASS" blk_malformed "" "${disk[@]}"
check "no complaint floods the log" test "$(wc -l <"$messages")" -lt 100
guest "$PASS" virtio_hostile "" "${disk[@]}"
guest "$PASS" blk_reset_midflight "" "${disk[@]}"
check "the image is sound" qemu-img check -q "$work/disk.qcow2"
finish
