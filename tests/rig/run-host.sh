#!/bin/bash
# Runs a job that starts virtual machines: on this machine where KVM has VMX or SVM behind it, and
# otherwise inside an emulated KVM host (QEMU's TCG, Debian's kernel, its real kvm-amd module), with
# the very same binaries.
#
#   run-host.sh [OPTION]... JOB [ARGUMENT]...
#     --program PATH      the job finds it on its PATH, by its name (repeatable)
#     --file PATH[=NAME]  the job finds a copy in its directory (repeatable)
#     --tree DIRECTORY    the emulated host has it too, at the same path (repeatable)
#     --timeout SECONDS   an end for everything, 900
#     --memory MIB        of the emulated host, 3072
#     --emulate           in the emulated host even where KVM works
#   run-host.sh --where   says in one line where jobs run
#
# JOB is a bash script. It runs as root in a scratch directory of its own that holds the files; its
# output streams to stdout and its exit status is the status of run-host.sh. 124: timeout. 125: the
# host did not come up or broke down; the end of its log is shown.
#
# In the emulated host the job has bash, busybox's applets and the programs given, each with the
# shared libraries of this machine. Everything lies on one ext4 disk filled by mke2fs; the disk is
# thrown away. The kernel's console and the job's output have a serial port each.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=()
files=()
trees=()
limit=900
memory=3072
emulate=${MINIVMM_EMULATE:-}

die() {
    echo "run-host.sh: $*" >&2
    exit 125
}

# KVM that can run a stock kernel. A paravirtual /dev/kvm without VMX and SVM cannot.
kvm_works() {
    [ -z "$emulate" ] && grep -qwE 'vmx|svm' /proc/cpuinfo && (: <>/dev/kvm) 2>/dev/null
}

where() {
    if kvm_works; then
        echo "the VMs run on this machine's KVM"
    elif [ ! -e /dev/kvm ]; then
        echo "no /dev/kvm here: the VMs run inside an emulated KVM host (slower, same binaries)"
    else
        echo "no VMX or SVM here: the VMs run inside an emulated KVM host (slower, same binaries)"
    fi
}

while [ $# -gt 0 ]; do
    case $1 in
    --program) programs+=("$2") && shift 2 ;;
    --file) files+=("$2") && shift 2 ;;
    --tree) trees+=("$2") && shift 2 ;;
    --timeout) limit=$2 && shift 2 ;;
    --memory) memory=$2 && shift 2 ;;
    --emulate) emulate=1 && shift ;;
    --where) where && exit 0 ;;
    --*) die "unknown option $1" ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || die "no job given"
job=$1
shift
[ -r "$job" ] || die "cannot read the job $job"

work=$(mktemp -d "${TMPDIR:-/tmp}/minivmm-host.XXXXXX")
child=
# Set off by the trap.
# shellcheck disable=SC2317
cleanup() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

stage_files() {
    local file
    for file in "${files[@]}"; do
        cp --reflink=auto "${file%%=*}" "$1/$(basename "${file##*=}")"
    done
}

run_direct() {
    local status=0
    mkdir "$work/bin" "$work/job"
    for program in "${programs[@]}"; do
        ln -s "$(realpath "$program")" "$work/bin/"
    done
    stage_files "$work/job"
    job=$(realpath "$job")
    cd "$work/job"
    PATH=$work/bin:$PATH timeout -k 10 "$limit" bash "$job" "$@" </dev/null 2>&1 &
    child=$!
    wait "$child" || status=$?
    child=
    return "$status"
}

# A program and the shared libraries and the loader that it names, at the same paths.
stage_program() {
    local tree=$1 program=$2 library
    cp -L "$program" "$tree/usr/bin/"
    for library in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
        [ -e "$tree$library" ] && continue
        mkdir -p "$tree$(dirname "$library")"
        cp -L "$library" "$tree$library"
    done
}

stage_tree() {
    local tree=$1 program applet directory
    mkdir -p "$tree"/{dev,proc,sys,tmp,root,etc,job,usr/bin,usr/lib,usr/lib64}
    ln -s usr/bin "$tree/bin"
    ln -s usr/bin "$tree/sbin"
    ln -s usr/lib "$tree/lib"
    ln -s usr/lib64 "$tree/lib64"
    for applet in $(busybox --list); do
        ln -s /usr/bin/busybox "$tree/usr/bin/$applet"
    done
    rm "$tree/usr/bin/busybox"
    for program in "$(command -v busybox)" "$(command -v bash)" "${programs[@]}"; do
        stage_program "$tree" "$program"
    done
    for directory in "${trees[@]}"; do
        mkdir -p "$tree$directory"
        cp -RL "$directory/." "$tree$directory"
    done
    echo 'root:x:0:0:root:/root:/bin/bash' >"$tree/etc/passwd"
    cp "$job" "$tree/job.sh"
    stage_files "$tree/job"
}

# The job's status is what host-init says last on the console.
run_emulated() {
    local kernel tree=$work/tree disk=$work/disk.raw log=$work/console.log size status=0 verdict
    kernel=$("$here/host-kernel.sh") || die "there is no kernel for the emulated host"
    stage_tree "$tree"
    {
        echo 'cd /job && export HOME=/root PATH=/usr/bin EMULATED=1'
        printf 'exec bash /job.sh'
        printf ' %q' "$@"
        echo
    } >"$tree/job-start"
    size=$(($(du -sm "$tree" | cut -f1) + 4096))
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$tree" "$disk" "${size}M" &>"$work/mke2fs.log" ||
        die "mke2fs: $(cat "$work/mke2fs.log")"
    rm -rf "$tree"
    # Without xsave: this emulation lets a guest's XSETBV through, unseen by KVM, and the guest's
    # kernel then warns of inconsistent sizes.
    timeout -k 10 "$limit" qemu-system-x86_64 -M q35 -accel tcg,tb-size=512 -smp 1 \
        -cpu EPYC,+svm,+npt,-xsave -m "$memory" \
        -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$kernel/vmlinuz" -initrd "$kernel/initrd" \
        -append "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t mitigations=off nokaslr" \
        -chardev "file,id=console,path=$log" -serial chardev:console \
        -chardev stdio,id=job,signal=off -serial chardev:job \
        -drive "file=$disk,format=raw,if=virtio,cache=unsafe,discard=unmap" \
        </dev/null 2>"$work/qemu.log" &
    child=$!
    wait "$child" || status=$?
    child=
    verdict=$(sed -n 's/^rig: job ended with status \([0-9]*\)\r*$/\1/p' "$log" | tail -n 1)
    if [ -n "$verdict" ]; then
        return "$verdict"
    fi
    echo "run-host.sh: the emulated host's last words:" >&2
    tr -d '\r' <"$log" | tail -n 15 >&2
    grep -v "TCG doesn't support" "$work/qemu.log" >&2 || true
    if [ "$status" = 124 ]; then
        echo "run-host.sh: stopped after $limit seconds" >&2
        return 124
    fi
    return 125
}

status=0
if kvm_works; then
    run_direct "$@" || status=$?
else
    run_emulated "$@" || status=$?
fi
exit "$status"
