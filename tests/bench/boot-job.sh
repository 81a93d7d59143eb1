# shellcheck shell=bash
# Sourced by bash under run-host: how long the stock kernel takes from the start of the VMM to the
# guest's init, and the most memory that the VMM's process held meanwhile. Same kernel, initrd, disk
# and guest settings for all; one guest at a time; rounds are interleaved. Prints medians.
rounds=$1
append="console=ttyS0 root=/dev/vda rw quiet panic=-1"
run='run="echo AT-INIT; poweroff -f"'
qemu=(qemu-system-x86_64 -cpu host -m 512 -nodefaults -no-user-config -display none -serial stdio
    -no-reboot -kernel vmlinuz -initrd initrd.img -append "$append reboot=t $run"
    -drive "id=disk,if=none,format=qcow2,file=disk.qcow2")

# measure PROGRAM...: prints milliseconds and KiB.
measure() {
    local start end="" peak=0 line pid out key value
    minivmm-img create -q -f qcow2 -F qcow2 -b clean-disk.qcow2 disk.qcow2
    rm -f console
    mkfifo console
    start=${EPOCHREALTIME/./}
    "$@" </dev/null >console 2>errors &
    pid=$!
    exec {out}<console
    while IFS= read -r -u "$out" line; do
        if [[ $line == *AT-INIT* ]]; then
            end=${EPOCHREALTIME/./}
            while read -r key value _; do
                [ "$key" != VmHWM: ] || peak=$value
            done <"/proc/$pid/status"
        fi
    done
    exec {out}<&-
    wait "$pid"
    rm -f disk.qcow2
    if [ -z "$end" ]; then
        echo "boot: the guest of $1 did not reach its init: $(tail -n 1 errors)" >&2
        return 1
    fi
    echo "$(((end - start) / 1000)) $peak"
}

vmm_minivmm() {
    measure minivmm --kernel vmlinuz --initrd initrd.img --append "$append $run" --memory 512M \
        --timeout 120 --disk disk.qcow2
}

vmm_microvm() {
    measure "${qemu[@]}" -M microvm,accel=kvm -device virtio-blk-device,drive=disk
}

vmm_q35() {
    measure "${qemu[@]}" -M q35,accel=kvm -device virtio-blk-pci,drive=disk
}

for ((round = 0; round < rounds; round++)); do
    for vmm in minivmm microvm q35; do
        "vmm_$vmm" >>"result-$vmm" || exit 1
    done
done

median() {
    cut -d' ' -f"$2" "result-$1" | sort -n | sed -n "$((rounds / 2 + 1))p"
}

row() {
    local time
    time=$(median "$1" 1)
    printf '%-22s %6d.%02d s  %14d MiB\n' "$2" $((time / 1000)) $((time % 1000 / 10)) \
        $(($(median "$1" 2) / 1024))
}

printf '%-22s %11s  %18s\n' "stock kernel to init" "median of $rounds" "resident, guest too"
row minivmm minivmm
row microvm "QEMU microvm"
row q35 "QEMU q35"
