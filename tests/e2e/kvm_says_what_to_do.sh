#!/bin/bash
# A /dev/kvm that is missing, closed to the user, or something else: one line that says what to do.
. "$(dirname "$0")/../lib.sh"

if [ "$(id -u)" -ne 0 ] || ! unshare -m true 2>/dev/null; then
    skip "the messages about /dev/kvm" "making mount namespaces takes root"
    finish
fi
printf 'no kernel' >"$work/kernel"
chmod 755 "$work"

# The command in a /dev of its own that holds null and, as the caller made it, kvm.
in_dev() {
    local prepare=$1
    shift
    # The expansions are for the inner shell.
    # shellcheck disable=SC2016
    unshare -m bash -c '
        set -e
        mkdir "$1.dev"
        mount -t tmpfs -o mode=755 dev "$1.dev"
        mknod -m 666 "$1.dev/null" c 1 3
        (cd "$1.dev" && eval "$2")
        mount --move "$1.dev" /dev
        shift 2
        exec "$@"' bash "$work/$RANDOM" "$prepare" "$@"
}

# expect NAME PREPARE TEXT [COMMAND...]: refused with status 1 and one line that holds TEXT.
expect() {
    local name=$1 prepare=$2 text=$3 status
    shift 3
    in_dev "$prepare" "$@" "$MINIVMM" --kernel "$work/kernel" </dev/null 2>"$work/err"
    status=$?
    if [ $status -eq 1 ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -qE "$text" "$work/err"; then
        pass "$name"
    else
        fail "$name" "status $status
$(cat "$work/err")"
    fi
}

expect "a missing /dev/kvm" : 'no usable /dev/kvm.*modprobe kvm'
expect "a /dev/kvm without a driver" 'mknod -m 666 kvm c 10 255' 'no usable /dev/kvm.*modprobe kvm'
expect "a /dev/kvm that is something else" 'mknod -m 666 kvm c 1 3' '/dev/kvm does not answer as KVM'
if command -v setpriv >/dev/null; then
    expect "a /dev/kvm of another group" 'mknod -m 600 kvm c 1 3' 'join the group kvm' \
        setpriv --reuid=65534 --regid=65534 --clear-groups
fi
finish
