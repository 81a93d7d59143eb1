#!/bin/bash
# Image locks: this engine and QEMU respect each other, in both directions.
. "$(dirname "$0")/../lib.sh"
blkio=$BUILD/tests/tools/blkio
cd "$work" || exit

qemu-img create -q -f raw base.raw 1M
qemu-img create -q -f qcow2 -b base.raw -F raw ours.qcow2
qemu-img create -q -f qcow2 -b base.raw -F raw theirs.qcow2

# hold_ours ARGS...: an engine process that has the image open until release_ours.
hold_ours() {
    coproc OURS { exec "$blkio" "$@" hold 2>&1; }
    holder=$!
    read -r line <&"${OURS[0]}"
    [ "$line" = holding ] || fail "the engine opens $*" "$line"
}

release_ours() {
    eval "exec ${OURS[1]}>&-"
    wait "$holder"
}

# The same with qemu-io; it has the image open once it has answered a read.
hold_theirs() {
    coproc THEIRS { exec qemu-io "$@" 2>&1; }
    holder=$!
    echo 'read 0 512' >&"${THEIRS[1]}"
    while read -r line <&"${THEIRS[0]}"; do
        case $line in
        *'read 512/512'*) return ;;
        esac
    done
    fail "qemu-io opens $*"
}

# The same with a whole QEMU machine, which unlike qemu-io locks the base of its disk against writers.
hold_machine() {
    coproc THEIRS { exec qemu-system-x86_64 -M microvm -accel tcg -S -display none -nodefaults \
        -no-user-config -monitor stdio -drive "file=$1,format=qcow2,if=none,id=d" \
        -device virtio-blk-device,drive=d 2>&1; }
    holder=$!
    echo 'info status' >&"${THEIRS[1]}"
    while read -r line <&"${THEIRS[0]}"; do
        case $line in
        *'VM status'*) return ;;
        esac
    done
    fail "QEMU runs with $*"
}

release_theirs() {
    echo quit >&"${THEIRS[1]}"
    wait "$holder"
}

# refuse_naming NAME FILE COMMAND...: fails with one line that holds the file's name.
refuse_naming() {
    local name=$1 file=$2 text
    shift 2
    refuse "$name" "$@"
    text=$("$@" 2>&1 >/dev/null)
    case $text in
    *"$file"*) pass "$name, naming the file" ;;
    *) fail "$name, naming the file" "$text" ;;
    esac
}

theirs_fail() {
    ! "$@" >/dev/null 2>&1
}

hold_theirs -f qcow2 theirs.qcow2
refuse_naming "an image that QEMU writes is refused for writing" theirs.qcow2 "$blkio" theirs.qcow2
refuse_naming "an image that QEMU writes is refused for reading" theirs.qcow2 "$blkio" -r theirs.qcow2
check "an image that QEMU writes opens with force-share" "$blkio" -U theirs.qcow2 length
release_theirs

hold_machine theirs.qcow2
refuse_naming "the disk of a QEMU machine is refused" theirs.qcow2 "$blkio" theirs.qcow2
refuse_naming "the base below it is refused for writing" base.raw "$blkio" -f raw base.raw
check "the base below it may be read" "$blkio" -f raw -r base.raw length
check "another overlay on that base may be written" "$blkio" ours.qcow2 "write 1 0 64K" flush
release_theirs

hold_theirs -r -f qcow2 theirs.qcow2
refuse_naming "an image that QEMU reads is refused for writing" theirs.qcow2 "$blkio" theirs.qcow2
check "an image that QEMU reads may be read" "$blkio" -r theirs.qcow2 length
release_theirs

hold_ours ours.qcow2
check "QEMU is refused an image that is written here" theirs_fail qemu-io -f qcow2 -c "write 0 512" ours.qcow2
check "QEMU is refused reading an image that is written here" theirs_fail qemu-img info ours.qcow2
check "QEMU force-shares an image that is written here" qemu-img info -U ours.qcow2
check "QEMU is refused writing to a base that is used here" theirs_fail qemu-io -f raw -c "write 0 512" base.raw
check "QEMU reads a base that is used here" qemu-img compare -f raw -F raw base.raw base.raw
check "QEMU writes its own overlay on the base that is used here" qemu-io -f qcow2 -c "write 0 64k" theirs.qcow2
refuse_naming "a second writer here is refused" ours.qcow2 "$blkio" ours.qcow2
refuse_naming "a base used here is refused for writing" base.raw "$blkio" -f raw base.raw
release_ours

hold_ours -r ours.qcow2
check "QEMU reads an image that is read here" qemu-img check -q ours.qcow2
check "QEMU is refused writing an image that is read here" theirs_fail qemu-io -f qcow2 -c "write 0 512" ours.qcow2
check "two readers here" "$blkio" -r ours.qcow2 length
release_ours

hold_ours -U ours.qcow2
check "a force-sharing reader does not hinder a writer" "$blkio" ours.qcow2 "write 2 0 64K"
check "nor one of QEMU" qemu-io -f qcow2 -c "write 0 512" ours.qcow2
release_ours

hold_ours ours.qcow2
kill -9 "$holder"
{ wait "$holder"; } 2>/dev/null
check "the locks of a killed process are gone" qemu-io -f qcow2 -c "write 0 512" ours.qcow2
finish
