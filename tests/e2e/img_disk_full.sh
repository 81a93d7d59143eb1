#!/bin/bash
# Every command of minivmm-img that writes, in a file system that is full or becomes so on the way: one line
# that says so, status 1, sound images, nothing that looks like a result; and the same command works once there
# is room. Where nothing but the file system speaks, qemu-img says the same.
SMALL_DISK=2m
# shellcheck source=small_disk_lib.sh
. "$(dirname "$0")/small_disk_lib.sh"

# ---- images: each kind in a folder of its own ----

writes() {
    local file=$1 args=()
    shift
    for range in "$@"; do
        args+=(-c "write -q -P ${range/:/ }")
    done
    qemu-io -f "${file##*.}" "${args[@]}" "$file"
}
# prepared KIND COMMAND...: what `full` begins with.
prepared() {
    local kind=$work/kinds/$1
    shift
    if ! { mkdir -p "$kind" && cd "$kind" && "$@"; }; then
        fail "preparing $kind"
    fi
    cd "$work" || exit
}
simple() { # OPTIONS: some data
    qemu-img create -q -f qcow2 -o "$1" a.qcow2 1M &&
        writes a.qcow2 '7:64k 200k' '8:600k 8k' && qemu-io -c 'write -q -z 900k 16k' a.qcow2
}
raw() {
    qemu-img create -q -f raw a.raw 1M && writes a.raw '7:64k 200k' '8:600k 8k'
}
two() {
    simple "cluster_size=$1" && qemu-img create -q -f qcow2 -o "cluster_size=$1" t.qcow2 1M
}
data_file() {
    qemu-img create -q -f qcow2 -o data_file=a.data,cluster_size=4k a.qcow2 512k && writes a.qcow2 '7:64k 100k'
}
overlay() { # two bases and an overlay of the first
    qemu-img create -q -f qcow2 -o cluster_size=4k a.qcow2 1M && writes a.qcow2 '1:0 300k' &&
        qemu-img create -q -f qcow2 -o cluster_size=4k b.qcow2 1M && writes b.qcow2 '2:100k 100k' &&
        qemu-img create -q -f qcow2 -o cluster_size=4k -b a.qcow2 -F qcow2 o.qcow2 && writes o.qcow2 '3:600k 100k'
}
raw_base() {
    raw && qemu-img create -q -f qcow2 -o cluster_size=4k -b a.raw -F raw o.qcow2 && writes o.qcow2 '3:600k 100k' &&
        qemu-io -c 'write -q -z 100k 64k' o.qcow2
}
snapshots() {
    simple "$1" && qemu-img snapshot -c one a.qcow2 && writes a.qcow2 '9:100k 20k' '5:700k 20k' &&
        qemu-img snapshot -c two a.qcow2 && qemu-img convert -l one -O qcow2 a.qcow2 one.qcow2
}
large_l1() { # of which a snapshot changes two sectors
    qemu-img create -q -f qcow2 -o cluster_size=4k a.qcow2 1G && writes a.qcow2 '7:0 8k' '8:900M 8k' &&
        qemu-img snapshot -c one a.qcow2 && writes a.qcow2 '9:0 4k' '5:901M 8k'
}
many_snapshots() {
    simple cluster_size=4k && for n in 1 2 3 4 5 6 7 8 9; do
        qemu-img snapshot -c "s$n" a.qcow2 || return
    done
}
large_bitmaps() { # each takes a cluster for its table and a page for its bits
    qemu-img create -q -f qcow2 -o cluster_size=4k a.qcow2 16M && qemu-img bitmap --add -g 512 a.qcow2 one &&
        writes a.qcow2 '7:0 8k' '7:15M 8k' && qemu-img bitmap --add --disable -g 512 a.qcow2 two
}
broken() { # the first refcount block is lost
    simple cluster_size=512 && dd if=/dev/zero of=a.qcow2 bs=512 seek=2 count=1 conv=notrunc status=none
}

prepared nothing true
prepared raw raw
prepared 4k simple cluster_size=4k
prepared 512 simple cluster_size=512
prepared 64k simple cluster_size=64k
prepared lazy simple cluster_size=4k,lazy_refcounts=on
prepared two two 4k
prepared two64k two 64k
prepared data data_file
prepared overlay overlay
prepared rawbase raw_base
prepared snap4k snapshots cluster_size=4k
prepared snap512 snapshots cluster_size=512
prepared snap64k snapshots cluster_size=64k
prepared snapv2 snapshots cluster_size=4k,compat=0.10
prepared manysnaps many_snapshots
prepared largel1 large_l1
prepared bitmaps large_bitmaps
prepared broken broken

# ---- one command ----

begin() { # KIND FREE: its files, and so many KiB of room
    local avail
    cd "$small" && rm -rf ./* && cp --sparse=always -r "$work/kinds/$1/." . || return
    avail=$(df --output=avail -k . | tail -n 1)
    [ "$avail" -eq "$2" ] || fallocate -l $((avail - $2))K ballast
}

sound() { # WORST: of check's status
    local image program status
    for image in *.qcow2; do
        [ -e "$image" ] || continue
        for program in "$IMG" qemu-img; do
            "$program" check -q -f qcow2 "$image" >"$work/check" 2>&1
            status=$?
            [ $status -eq 0 ] || [ $status -eq "$1" ] || {
                echo "$program check $image: $status: $(head -n 3 "$work/check")"
                return 1
            }
        done
    done
}

facts() {
    qemu-img info --output=json -f "$1" "$2" | grep -v -e actual-size -e dirty-flag
}
as_before() { # KIND IMAGE...: what they show and what they are
    local kind=$work/kinds/$1 image format
    shift
    for image in "$@"; do
        format=${image##*.}
        qemu-img compare -q -f "$format" -F "$format" "$image" "$kind/$image" &&
            diff <(facts "$format" "$image") <(cd "$kind" && facts "$format" "$image") || return
    done
}
nothing_new() { # KIND: no half result
    local file
    for file in *; do
        [ "$file" = ballast ] || [ -e "$work/kinds/$1/$file" ] || {
            echo "$file is left"
            return 1
        }
    done
}

one_try() { # KIND FREE WORST KEEPS ARGUMENTS...
    local kind=$1 free=$2 worst=$3 keeps=$4 said status
    shift 4
    begin "$kind" "$free" || return
    said=$(timeout 60 "$IMG" "$@" 2>&1 >/dev/null)
    status=$?
    # A check says on stderr what it finds as well.
    [ "$worst" != broken ] || said=$(tail -n 1 <<<"$said")
    if [ $status -ne 1 ] || [ "$(wc -l <<<"$said")" -ne 1 ] || [[ $said != *"No space left on device"* ]]; then
        echo "status $status: $said"
        return 1
    fi
    echo "${said#minivmm-img: }" >"$work/said"
    # shellcheck disable=SC2086
    nothing_new "$kind" && { [ "$worst" = broken ] || sound "$worst"; } && as_before "$kind" $keeps
}

# full NAME KIND 'FREE...' 'KEEPS' AFTER ARGUMENTS...: with FREE KiB of room the command must fail. The images
# KEEPS are then as they were, and AFTER must hold when it has run with room. $worst: what check may say of the
# images after the failure (3: leaks). $as_qemu: with no room at all qemu-img's first line is the same.
worst=0 as_qemu=
full() {
    local name=$1 kind=$2 sizes=$3 keeps=$4 after=$5 free detail
    shift 5
    for free in $sizes; do
        if ! detail=$(one_try "$kind" "$free" "$worst" "$keeps" "$@" 2>&1); then
            fail "$name, $free KiB of room" "$detail"
            continue
        fi
        rm -f "$small/ballast"
        cd "$small" || return
        if ! detail=$(timeout 60 "$IMG" "$@" 2>&1 && eval "$after" 2>&1 && sound "${worst/broken/0}"); then
            fail "$name, $free KiB of room: and then with room" "$detail"
        else
            pass "$name, $free KiB of room"
        fi
        if [ -z "$as_qemu" ] || [ "$free" != 0 ]; then
            continue
        fi
        begin "$kind" 0
        check "$name: as qemu-img" diff \
            <(timeout 60 qemu-img "$@" 2>&1 >/dev/null | sed -n '1s/^qemu-img: //p') "$work/said"
    done
    cd "$work" || exit
}

# sweep NAME KIND MOST 'KEEPS' AFTER ARGUMENTS...: from no room at all to MOST KiB, $step more each time. Where
# qemu-img succeeds so must minivmm-img. A failure is one line, qemu-img's own where $as_qemu; the images KEEPS are
# as they were, nothing is left over, and check finds nothing ($worst) that it does not find behind qemu-img's
# failure. $least: the smallest room in KiB that must do, if qemu-img does with it or not.
least='' step=4
sweep() {
    local name=$1 kind=$2 most=$3 keeps=$4 after=$5 free theirs their_worst status=0 detail='' done=
    shift 5
    for ((free = 0; free <= most && status != -1; free += step)); do
        begin "$kind" "$free"
        theirs=$(timeout 60 qemu-img "$@" 2>&1 >/dev/null)
        status=$?
        their_worst=0
        [ $status -eq 0 ] || sound 0 >/dev/null || their_worst=3
        begin "$kind" "$free"
        if timeout 60 "$IMG" "$@" >"$work/sweep" 2>&1; then
            done=${done:-$free}
            detail=$(eval "$after" 2>&1 && sound 0) || detail="$free KiB of room: $detail; not what it should be"
        elif [ $status -eq 0 ] || [ "${least:-$most}" -le "$free" ]; then
            detail="$free KiB of room: $(cat "$work/sweep")"
        elif ! detail=$(one_try "$kind" "$free" $((worst > their_worst ? worst : their_worst)) "$keeps" "$@" 2>&1); then
            detail="$free KiB of room: $detail"
        elif [ -n "$as_qemu" ] &&
            ! detail=$(diff <(sed -n '1s/^qemu-img: //p' <<<"$theirs") "$work/said"); then
            detail="$free KiB of room: $detail"
        fi
        [ -z "$detail" ] || status=-1
    done
    [ -n "$done$detail" ] || detail="$most KiB of room are not enough"
    if [ -z "$detail" ]; then
        pass "$name, a sweep: $done KiB of room do"
    else
        fail "$name, a sweep" "$detail"
    fi
    cd "$work" || exit
}

same_as() { # IMAGE ANOTHER
    qemu-img compare -q -f "${1##*.}" -F "${2##*.}" "$1" "$2"
}
takes() { # FILE KIB: at least
    [ "$(du -k "$1" | cut -f1)" -ge "$2" ]
}
size_is() {
    qemu-img info -f "${1##*.}" --output=json "$1" | grep -q "\"virtual-size\": $2,"
}

# ---- new images ----

as_qemu=1
full "dd to raw" raw "0 400" a.raw 'same_as a.raw t.raw' dd -f raw -O raw bs=64k if=a.raw of=t.raw
full "dd to qcow2" 4k "0 12 100" a.qcow2 'same_as a.qcow2 t.qcow2' dd -O qcow2 bs=64k if=a.qcow2 of=t.qcow2
full "convert to raw" 4k "0 100" a.qcow2 'same_as a.qcow2 t.raw' convert -O raw a.qcow2 t.raw
full "convert to qcow2" 4k "0 12 20 100" a.qcow2 'same_as a.qcow2 t.qcow2' \
    convert -O qcow2 -o cluster_size=4k a.qcow2 t.qcow2
full "convert with compression" 4k "0 12" a.qcow2 'same_as a.qcow2 t.qcow2' \
    convert -c -O qcow2 -o cluster_size=4k a.qcow2 t.qcow2
as_qemu=
full "convert with bitmaps" bitmaps "28 40" a.qcow2 'same_as a.qcow2 t.qcow2' \
    convert --bitmaps -O qcow2 -o cluster_size=4k a.qcow2 t.qcow2
full "convert with preallocation" 4k "28 100" a.qcow2 'same_as a.qcow2 t.qcow2' \
    convert -O qcow2 -o preallocation=metadata a.qcow2 t.qcow2
# An image that was there before: what is counted for tables that found no room is given back.
for kind in two two64k; do
    step=80 sweep "convert into an image, $kind" $kind 400 a.qcow2 'same_as a.qcow2 t.qcow2' \
        convert -n -O qcow2 a.qcow2 t.qcow2
    sweep "convert into an image with compression, $kind" $kind 12 a.qcow2 'same_as a.qcow2 t.qcow2' \
        convert -n -c -O qcow2 a.qcow2 t.qcow2
done
for kind in 512 4k 64k lazy; do
    step=100 sweep "bench -w, clusters of $kind" $kind 400 '' true \
        bench -w -q -c 100 -s 4096 -S 8192 -f qcow2 a.qcow2
done
as_qemu=1
for mode in falloc full; do
    full "create raw, $mode" nothing "0 256" '' 'takes t.raw 300' create -q -f raw -o preallocation=$mode t.raw 300k
    as_qemu=
    full "create qcow2, $mode" nothing "0 256" '' 'takes t.qcow2 300' \
        create -q -f qcow2 -o preallocation=$mode t.qcow2 300k
    as_qemu=1
done
full "create qcow2" nothing "0 8" '' 'size_is t.qcow2 307200' create -q -f qcow2 t.qcow2 300k
full "create qcow2, metadata" nothing "0 12" '' 'size_is t.qcow2 307200' \
    create -q -f qcow2 -o preallocation=metadata t.qcow2 300k

# ---- sizes ----

for mode in falloc full; do
    full "resize raw, $mode" raw "0 400" a.raw 'size_is a.raw 1536000 && takes a.raw 680' \
        resize -q -f raw --preallocation=$mode a.raw 1500k
    full "resize with a data file, $mode" data "0 400" a.qcow2 'size_is a.qcow2 1048576 && takes a.data 600' \
        resize -q --preallocation=$mode a.qcow2 1M
    for kind in 4k 512; do
        as_qemu='' full "resize, clusters of $kind, $mode" $kind "0 20 256" a.qcow2 \
            'size_is a.qcow2 1536000 && takes a.qcow2 700' resize -q --preallocation=$mode a.qcow2 1500k
    done
done
as_qemu='' full "resize, metadata" 512 "0 28 44" a.qcow2 'size_is a.qcow2 1536000' \
    resize -q --preallocation=metadata a.qcow2 1500k
for kind in 64k lazy; do
    sweep "resize, metadata, clusters of $kind" $kind 12 a.qcow2 'size_is a.qcow2 1536000' \
        resize -q --preallocation=metadata a.qcow2 1500k
done
for mode in falloc full; do
    as_qemu='' step=160 sweep "resize, clusters of 64k, $mode" 64k 640 a.qcow2 'size_is a.qcow2 1536000' \
        resize -q --preallocation=$mode a.qcow2 1500k
    begin 4k 160
    "$IMG" resize -q --preallocation=$mode a.qcow2 1500k 2>&1 | sed 's/^minivmm-img: //' >"$work/ours"
    begin 4k 160
    qemu-img resize -q --preallocation=$mode a.qcow2 1500k 2>&1 | sed 's/^qemu-img: //' >"$work/theirs"
    check "... as qemu-img where the data does not fit" diff "$work/theirs" "$work/ours"
done
full "resize, a larger L1 table" 512 "0 200" a.qcow2 'size_is a.qcow2 1073741824' resize -q a.qcow2 1G
begin 512 0
check "a smaller image takes no room" "$IMG" resize -q --shrink a.qcow2 200k
check "... and gives some" qemu-io -c 'write -q 100k 50k' -c 'flush' a.qcow2
check "... and is sound" sound 0

# ---- images that others are below ----

full "rebase" overlay "0 12 100" "a.qcow2 b.qcow2 o.qcow2" \
    'as_before overlay a.qcow2 b.qcow2 && same_as o.qcow2 "$work/kinds/overlay/o.qcow2"' \
    rebase -b b.qcow2 -F qcow2 o.qcow2
full "rebase to nothing" overlay "0 12 100" "a.qcow2 b.qcow2 o.qcow2" 'same_as o.qcow2 "$work/kinds/overlay/o.qcow2"' \
    rebase -b "" o.qcow2
full "commit" overlay "0 12 44" "b.qcow2 o.qcow2" 'same_as a.qcow2 "$work/kinds/overlay/o.qcow2"' commit -q o.qcow2
full "commit -d" overlay "0 12" "b.qcow2 o.qcow2" 'same_as a.qcow2 "$work/kinds/overlay/o.qcow2"' commit -q -d o.qcow2
full "commit to raw" rawbase "0 12 44" "o.qcow2" 'same_as a.raw "$work/kinds/rawbase/o.qcow2"' commit -q o.qcow2

# ---- what an image is ----

full "amend, other refcounts" 512 "0" a.qcow2 'same_as a.qcow2 "$work/kinds/512/a.qcow2"' \
    amend -o refcount_bits=64 a.qcow2
full "amend, version 2" rawbase "0 12 44" "a.raw o.qcow2" 'same_as o.qcow2 "$work/kinds/rawbase/o.qcow2"' \
    amend -o compat=0.10 o.qcow2
full "amend, a larger size" 512 "0 200" a.qcow2 'size_is a.qcow2 1073741824' amend -o size=1G a.qcow2
# Deleting snapshots is how room is made: it takes none.
for kind in snap4k snap512 snap64k; do
    least=0 sweep "snapshot -d, $kind" $kind 8 a.qcow2 '! qemu-img snapshot -l a.qcow2 | grep -q one' \
        snapshot -d one a.qcow2
    least=0 sweep "snapshot -d of the last one, $kind" $kind 8 a.qcow2 '! qemu-img snapshot -l a.qcow2 | grep -q two' \
        snapshot -d two a.qcow2
    least=0 sweep "snapshot -a, $kind" $kind 8 a.qcow2 'same_as a.qcow2 "$work/kinds/$kind/one.qcow2"' \
        snapshot -a one a.qcow2
    sweep "snapshot -c, $kind" $kind 8 a.qcow2 'qemu-img snapshot -l a.qcow2 | grep -q three' \
        snapshot -c three a.qcow2
done
# The new snapshot table does not fit into the sector of the old one.
sweep "snapshot -d, a long table" manysnaps 8 a.qcow2 '! qemu-img snapshot -l a.qcow2 | grep -q s1$' \
    snapshot -d s1 a.qcow2
# No write of one sector switches over: it needs another L1 table.
as_qemu='' full "snapshot -a, a large L1 table" largel1 "0" a.qcow2 '! same_as a.qcow2 "$work/kinds/largel1/a.qcow2"' \
    snapshot -a one a.qcow2
begin largel1 4
check "... for which a page is enough" "$IMG" snapshot -a one a.qcow2
check "... and it is sound" sound 0
# Version 2 has no dirty bit that would say what a crash leaves behind.
for what in "-d two" "-a one" "-c three"; do
    # shellcheck disable=SC2086
    as_qemu='' full "snapshot $what, version 2" snapv2 "0 4" a.qcow2 true snapshot $what a.qcow2
done
as_qemu=
bitmap_is() { # NAME COUNT
    [ "$(qemu-img info a.qcow2 | grep -c "name: $1")" = "$2" ]
}
full "bitmap --add" bitmaps "0" a.qcow2 'bitmap_is three 1' bitmap --add -g 512 a.qcow2 three
full "bitmap --merge" bitmaps "0" a.qcow2 'bitmap_is two 1' bitmap --merge one a.qcow2 two
worst=broken full "check -r all" broken "0" '' 'same_as a.qcow2 "$work/kinds/512/a.qcow2"' check -q -r all a.qcow2
cd "$work" || exit
umount "$small"
finish
