#!/bin/bash
# A command that is killed anywhere harms nothing, and runs to the end when it is started again: commit,
# rebase, convert, resize, amend, check -r. 200 kills of the first five, each at a random moment of the command's
# own time and in mid-work: its files are neither any more what they were nor already what they will be. A
# seed ("SEED=7 img_interrupted.sh") repeats the moments as well as the machine does.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1
seed=${SEED:-$$} kills=0
# Killed while it looks for leaks, a sanitizer complains of that.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
RANDOM=$seed
echo "# seed $seed"
mkfifo never
exec {never}<>never

# The images that every round begins with, in a folder of their own.
mkdir images
(
    cd images || exit
    qemu-img create -q -f qcow2 base.qcow2 24M &&
        qemu-io -c 'write -q -P 1 0 6M' base.qcow2 &&
        cp base.qcow2 other.qcow2 &&
        qemu-io -c 'write -q -P 9 0 4M' other.qcow2 &&
        qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 o.qcow2 32M &&
        qemu-io -c 'write -q -P 3 1M 3M' -c 'write -q -z 5M 1M' -c 'write -q -P 4 30M 1M' o.qcow2 &&
        # Many clusters, each with a refcount; the tables stand where qemu-img puts them.
        qemu-img create -q -f qcow2 -o cluster_size=512 small.qcow2 8M &&
        qemu-io -c 'write -q -P 5 0 3M' small.qcow2 &&
        cp small.qcow2 broken.qcow2 && cp small.qcow2 leaky.qcow2 &&
        # The first refcount block is lost.
        dd if=/dev/zero of=broken.qcow2 bs=512 seek=2 count=1 conv=notrunc status=none &&
        # What the L1 entries from 4M on led to is forgotten: leaks.
        qemu-io -c 'write -q -P 6 4M 1M' leaky.qcow2 &&
        l1=$((0x$(od -An -j40 -N8 -tx1 leaky.qcow2 | tr -d ' '))) &&
        dd if=/dev/zero of=leaky.qcow2 bs=8 seek=$((l1 / 8 + 128)) count=32 conv=notrunc \
            status=none &&
        qemu-img convert -O raw o.qcow2 shown.raw && qemu-img convert -O raw small.qcow2 small.raw
) || fail "preparing images"


fresh() {
    rm -rf now && mkdir now && cp --reflink=auto "$@" now && cd now && return
    fail "preparing images"
    finish
}

# How long a command takes, in microseconds.
duration() {
    local from=${EPOCHREALTIME/[.,]/}
    "$@" >/dev/null 2>&1
    echo $((${EPOCHREALTIME/[.,]/} - from))
}

# killed COMMAND...: kills it at a random moment of the time that it takes ($length), unless it was
# faster; it is gone, and its locks with it, before this returns.
killed() {
    local pid
    moment=$(((RANDOM << 15 | RANDOM) % length))
    "$@" >/dev/null 2>&1 &
    pid=$!
    # A pipe that nobody writes to: waits without a process of its own.
    read -r -t "$(printf '%d.%06d' $((moment / 1000000)) $((moment % 1000000)))" -u "$never"
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ $? -eq 137 ]
}

# Whether the files here are those of another folder, byte for byte.
are_those_of() {
    local file
    for file in * "$1"/*; do
        cmp -s "${file##*/}" "$1/${file##*/}" || return 1
    done
}

leaks_at_most() {
    local image status
    for image in "$@"; do
        qemu-img check -q "$image" >/dev/null 2>&1
        status=$?
        [ "$status" = 0 ] || [ "$status" = 3 ] || return 1
    done
}

same() {
    qemu-img compare -q -f raw -F qcow2 "$@" >/dev/null 2>&1
}

# interrupted TIMES NAME AFTER AGAIN IMAGE... -- COMMAND...: in each round the command is killed on fresh copies
# of the images, then AFTER must hold, the command run to its end, and AGAIN hold. A round counts when the kill was in
# mid-work.
interrupted() {
    local times=$1 name=$2 after=$3 again=$4 images=() round done=0 wrong='' said=''
    shift 4
    while [ "$1" != -- ]; do
        images+=("images/$1")
        shift
    done
    shift
    fresh "${images[@]}"
    length=$(duration "$@")
    cd .. && rm -rf before after && mv now after && fresh "${images[@]}" && cd .. && mv now before
    for ((round = 0; done < times && ${#wrong} == 0; round++)); do
        if [ $round -ge $((40 * times)) ]; then
            wrong="$done of $times kills were in mid-work"
            break
        fi
        fresh "${images[@]}"
        if ! killed "$@" || are_those_of ../before || are_those_of ../after; then
            cd ..
            continue
        fi
        done=$((done + 1))
        if ! $after; then
            wrong="$after does not hold"
        elif ! said=$("$@" 2>&1); then
            wrong="it does not run to its end: $said"
        elif ! $again; then
            wrong="$again does not hold after it has run to its end"
        fi
        cd ..
    done
    kills=$((kills + done))
    echo "# $name: $done killed in mid-work, of $round"
    if [ -z "$wrong" ]; then
        pass "$name killed anywhere harms nothing, and runs to its end"
    else
        fail "$name killed anywhere harms nothing, and runs to its end" \
            "round $round, after $moment of $length us: $wrong"
    fi
}

overlay_is_whole() {
    same ../images/shown.raw o.qcow2 && leaks_at_most base.qcow2 o.qcow2
}

base_has_it_all() {
    same ../images/shown.raw base.qcow2 && leaks_at_most base.qcow2
}

is_rebased() {
    overlay_is_whole && qemu-img info o.qcow2 | grep -qx 'backing file: other.qcow2'
}

source_is_whole() {
    cmp -s o.qcow2 ../images/o.qcow2 && cmp -s base.qcow2 ../images/base.qcow2
}

is_converted() {
    source_is_whole && same ../images/shown.raw out.qcow2 && qemu-img check -q out.qcow2
}

small_is_whole() {
    same ../images/small.raw small.qcow2 && leaks_at_most small.qcow2
}

is_resized() {
    small_is_whole && qemu-img info small.qcow2 | grep -q '(8589934592 bytes)'
}

is_amended() {
    small_is_whole && qemu-img info small.qcow2 | grep -q 'refcount bits: 1$' &&
        qemu-img info small.qcow2 | grep -q '(16777216 bytes)'
}

is_version_2() {
    overlay_is_whole && qemu-img info o.qcow2 | grep -q 'compat: 0.10'
}

# The refcounts may be wrong until the repair has run to its end; the data may not.
broken_is_readable() {
    same ../images/small.raw broken.qcow2
}

is_repaired() {
    broken_is_readable && qemu-img check -q broken.qcow2
}

leaky_is_whole() {
    same ../images/small.raw leaky.qcow2 && leaks_at_most leaky.qcow2
}

is_tight() {
    leaky_is_whole && qemu-img check -q leaky.qcow2
}

interrupted 40 "commit" overlay_is_whole base_has_it_all base.qcow2 o.qcow2 -- \
    "$IMG" commit -q o.qcow2
interrupted 40 "rebase" overlay_is_whole is_rebased base.qcow2 o.qcow2 other.qcow2 -- \
    "$IMG" rebase -b other.qcow2 -F qcow2 o.qcow2
interrupted 40 "convert" source_is_whole is_converted base.qcow2 o.qcow2 -- \
    "$IMG" convert -O qcow2 o.qcow2 out.qcow2
interrupted 40 "resize" small_is_whole is_resized small.qcow2 -- "$IMG" resize -q small.qcow2 8G
interrupted 20 "amend, other refcounts," small_is_whole is_amended small.qcow2 -- \
    "$IMG" amend -o refcount_bits=1,lazy_refcounts=on,size=16M small.qcow2
interrupted 20 "amend, version 2," overlay_is_whole is_version_2 base.qcow2 o.qcow2 -- \
    "$IMG" amend -o compat=0.10 o.qcow2
check "200 kills in mid-work" test $kills -eq 200
interrupted 10 "check -r all" broken_is_readable is_repaired broken.qcow2 -- \
    "$IMG" check -q -r all broken.qcow2
interrupted 10 "check -r leaks" leaky_is_whole is_tight leaky.qcow2 -- \
    "$IMG" check -q -r leaks leaky.qcow2

# No space: the file system is as small as it takes.
if mkdir small && mount -t tmpfs -o size=12M tmpfs small 2>/dev/null; then
    qemu-img create -q -f qcow2 small/base.qcow2 64M
    qemu-img create -q -f qcow2 -b small/base.qcow2 -F qcow2 o.qcow2 96M
    qemu-io -c 'write -q -P 3 1M 40M' -c 'write -q -P 4 90M 5M' o.qcow2
    qemu-img convert -O qcow2 o.qcow2 shown.qcow2
    "$IMG" commit o.qcow2 >said 2>&1
    check "commit into a full file system fails and says why" grep -q 'No space left on device' said
    check "commit into a full file system: the overlay shows the same" qemu-img compare o.qcow2 shown.qcow2
    refuse "convert into a full file system" "$IMG" convert -O qcow2 shown.qcow2 small/out.qcow2
    check "convert into a full file system leaves nothing behind" test ! -e small/out.qcow2
    refuse "create with preallocation in a full file system" \
        "$IMG" create -q -f qcow2 -o preallocation=full small/full.qcow2 64M
    check "create in a full file system leaves nothing behind" test ! -e small/full.qcow2
    umount small
else
    skip "full file system" "cannot mount a tmpfs"
fi

finish
