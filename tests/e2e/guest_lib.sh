# Sourced by the guest_*.sh tests: runs bare-metal programs (guest/) in minivmm on /dev/kvm. Where that
# cannot be opened the whole test is skipped.
#
#   guest STATUS PROGRAM APPEND [OPTION...]  one test: minivmm ends with STATUS within a minute and no
#                                            check of the program failed
#   start PROGRAM APPEND [OPTION...]         in the background: $vm, its console in $console, $input
#                                            for a keyboard
#   wait_for_text TEXT                       until $console holds it
#   ended NAME STATUS                        one test: $vm ends with STATUS
#   sector FILE FORMAT SECTOR COUNT BYTE     whether an image holds sectors full of a byte
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

GUESTS=$BUILD/guest
console=$work/console
messages=$work/messages
# What programs exit with (guest/lib/lib.h).
# Used by the tests that source this file.
# shellcheck disable=SC2034
PASS=42

if ! { [ -c /dev/kvm ] && : <>/dev/kvm; } 2>/dev/null; then
    echo "1..0 # SKIP /dev/kvm cannot be opened"
    exit 0
fi

# vm PROGRAM APPEND OPTION...: in the foreground, its console and messages in files.
vm() {
    local program=$1 append=$2
    shift 2
    timeout --kill-after=10 120 "$MINIVMM" --quiet --debug-exit --kernel "$GUESTS/$program" \
        --append "$append" --timeout 60 "$@" </dev/null >"$console" 2>"$messages"
}

guest() {
    local expected=$1 program=$2 append=$3 name status
    shift 3
    name=$program${append:+ $append}
    vm "$program" "$append" "$@"
    status=$?
    if [ "$status" -eq "$expected" ] && ! grep -q '^not ok' "$console"; then
        pass "$name"
    else
        fail "$name" "status $status instead of $expected from $program with: $*
$(tail -n 40 "$console")
$(cat "$messages")"
    fi
}

start() {
    local program=$1 append=$2
    shift 2
    : >"$console"
    "$MINIVMM" --quiet --debug-exit --kernel "$GUESTS/$program" --append "$append" --timeout 60 \
        "$@" <"${input:-/dev/null}" >"$console" 2>"$messages" &
    vm=$!
}

# Kept alive by the guest's own pace, not by a guess about it: ends when minivmm does.
wait_for_text() {
    until grep -q "$1" "$console"; do
        kill -0 "$vm" 2>/dev/null || return 1
        sleep 0.02
    done
}

ended() {
    local status
    wait "$vm"
    status=$?
    if [ "$status" -eq "$2" ]; then
        pass "$1"
    else
        fail "$1" "status $status instead of $2
$(tail -n 40 "$console")
$(cat "$messages")"
    fi
}

sector() {
    local file=$1 format=$2 sector=$3 count=$4 byte=$5
    qemu-io -r -f "$format" -c "read -P $byte $((sector * 512)) $((count * 512))" "$file" |
        { ! grep -E 'failed|error'; }
}
