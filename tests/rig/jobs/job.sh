# Sourced by the jobs: what boots guests. The job's directory holds clean-disk.qcow2, vmlinuz,
# initrd.img, lib.sh (TAP) and guest-console.sh.
# shellcheck shell=bash
BUILD=$(dirname "$(command -v minivmm)")
TMPDIR=$PWD
# shellcheck source=../../lib.sh
. ./lib.sh
# shellcheck source=../../../guest/demo/guest-console.sh
. ./guest-console.sh
stock=(minivmm --kernel vmlinuz --initrd initrd.img --timeout 240)
# Under emulation the kernel's guards against speculation cost a third of the time, and a guest that
# has to wait for a busy machine takes itself for stalled.
append="console=ttyS0 root=/dev/vda rw quiet panic=-1 mitigations=off \
rcupdate.rcu_cpu_stall_suppress=1 nowatchdog"

# overlay NAME: a fresh snapshot of the base.
overlay() {
    minivmm-img create -q -f qcow2 -F qcow2 -b clean-disk.qcow2 "$1"
}

# more_memory_than GIB: whether the host has it; the VMM refuses to promise what is not there.
more_memory_than() {
    [ "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)" -gt $(($1 << 20)) ]
}

# guest LOG COMMAND OPTION...: boots, runs COMMAND in the guest, powers off. The console, without
# carriage returns, goes to LOG; `status` is how minivmm ended.
guest() {
    local log=$1 command=$2
    shift 2
    "${stock[@]}" --append "$append run=\"$command\"" "$@" </dev/null >"$log.raw" 2>&1
    status=$?
    tr -d '\r' <"$log.raw" >"$log"
}

# start LOG COMMAND OPTION...: the same in the background; `vm` is its process.
start() {
    local log=$1 command=$2
    shift 2
    : >"$log" # for whoever looks before the child is there
    "${stock[@]}" --append "$append run=\"$command\"" "$@" </dev/null >>"$log" 2>&1 &
    # shellcheck disable=SC2034  # for the jobs
    vm=$!
}

# appears LOG PATTERN PID: waits until a line shows up; false when the process ended without it.
appears() {
    while ! grep -q "$2" "$1"; do
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.1
    done
}

# says NAME LOG PATTERN: a line of the console matches the extended regular expression.
says() {
    if grep -qE "$3" "$2"; then
        pass "$1"
    else
        fail "$1" "no line matches $3 in:
$(tail -n 40 "$2")"
    fi
}

# never_says NAME LOG PATTERN
never_says() {
    if grep -qE "$3" "$2"; then
        fail "$1" "$(grep -E "$3" "$2")"
    else
        pass "$1"
    fi
}

# ends NAME EXPECTED ACTUAL LOG
ends() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "exit status $3, not $2; the console:
$(tail -n 40 "$4")"
    fi
}
