#!/bin/bash
# External data files: every command does with them what qemu-img does.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# A name in an image is relative to the image here, and to the working directory in QEMU: everything
# happens in the folder of the images.
same_content() {
    local name=$1 text
    if text=$(cd "$m" && qemu-img check -q "$2" &&
        qemu-img convert -O raw "$2" ../m.flat && cd "$q" && qemu-img convert -O raw "$2" ../q.flat &&
        cmp ../m.flat ../q.flat 2>&1); then
        pass "$name"
    else
        fail "$name" "$text"
    fi
}

same_data() {
    if cmp "$q/$2" "$m/$2" >"$work/cmp.log" 2>&1; then
        pass "$1"
    else
        fail "$1" "$(cat "$work/cmp.log")"
    fi
}

# The size of a file, and whether all of it takes space (or as much as of QEMU's).
same_space() {
    local name=$1 file=$2 theirs ours
    theirs=$(stat -c '%s bytes' "$q/$file") ours=$(stat -c '%s bytes' "$m/$file")
    [ $(($(stat -c %b "$q/$file") * 512)) -lt "$(stat -c %s "$q/$file")" ] || theirs+=', full'
    [ $(($(stat -c %b "$m/$file") * 512)) -lt "$(stat -c %s "$m/$file")" ] || ours+=', full'
    if [ "$theirs" = "$ours" ]; then
        pass "$name"
    else
        fail "$name" "qemu-img: $theirs; minivmm-img: $ours"
    fi
}

for how in "off off" "off metadata" "off falloc" "on off" "on full"; do
    read -r raw mode <<<"$how"
    name="raw $raw, preallocation $mode"
    both rm -f a.qcow2 a.data
    same "create, $name" create -f qcow2 \
        -o "data_file=a.data,data_file_raw=$raw,preallocation=$mode" a.qcow2 1M
    same_space "the data file, $name" a.data
    same "info, $name" info a.qcow2
    both io a.qcow2 'write -P 7 100k 300k' 'write -P 8 900k 124k'
    same "larger, $name" resize --preallocation="$mode" a.qcow2 2560K
    same_space "the larger data file, $name" a.data
    same_content "larger content, $name" a.qcow2
    same "check when larger, $name" check a.qcow2
    both io a.qcow2 'write -P 9 2M 512k'
    same "smaller, $name" resize --shrink a.qcow2 2M
    same_space "the smaller data file, $name" a.data
    same_content "smaller content, $name" a.qcow2
    same_data "the bytes, $name" a.data
done
same "info as JSON" info --output=json a.qcow2
check "a raw data file is the disk" cmp "$m/a.data" "$work/m.flat"

# What a data file holds behind the device shows through nowhere.
for mode in off metadata falloc full; do
    (
        cd "$m" || exit 1
        rm -f long.*
        "$IMG" create -q -f qcow2 -o data_file=long.data long.qcow2 1M
        head -c 3M /dev/zero | tr '\0' x >long.data
        "$IMG" resize -q --preallocation="$mode" long.qcow2 3M
        qemu-img convert -O raw long.qcow2 long.raw
    )
    check "what was behind the end reads as zeros, preallocation $mode" \
        cmp "$m/long.raw" <(head -c 3M /dev/zero)
    check "that image is sound, preallocation $mode" sh -c "cd '$m' && qemu-img check -q long.qcow2"
done

# ---- what is asked for with the data file ----

same "create: no data file, raw" create -f qcow2 -o data_file_raw=on b.qcow2 1M
same "create: version 2" create -f qcow2 -o compat=0.10,data_file=b.data b.qcow2 1M
both qemu-img create -q -f raw base.raw 2M
both io base.raw 'write -P 3 0 2M'
same "create: raw over a backing file" create -f qcow2 -b base.raw -F raw \
    -o data_file=b.data,data_file_raw=on b.qcow2
check "neither was made" [ ! -e "$m/b.qcow2" -a ! -e "$m/b.data" ]

# ---- over a backing file ----

both qemu-img create -q -f qcow2 -o data_file=mid.data -b base.raw -F raw mid.qcow2
both io mid.qcow2 'write -P 4 64k 128k'
both qemu-img create -q -f qcow2 -o data_file=top.data -b mid.qcow2 -F qcow2 top.qcow2
both io top.qcow2 'write -P 5 100k 256k' 'write -z 1M 128k' 'discard 1536k 64k'
same "info of a chain of data files" info --backing-chain top.qcow2
same "convert of a chain of data files" convert -O raw top.qcow2 top.raw
same_data "what the chain shows" top.raw
same "convert to a data file" convert -O qcow2 -o data_file=c.data,data_file_raw=on top.qcow2 c.qcow2
same_data "the raw data file shows it" c.data
both qemu-img create -q -f raw other.raw 1M
same "rebase of a data file" rebase -b other.raw -F raw top.qcow2
same_content "content: rebase" top.qcow2
same "rebase back" rebase -b mid.qcow2 -F qcow2 top.qcow2
same_content "content: rebase back" top.qcow2
same "commit of a data file into one" commit top.qcow2
same_content "content: commit" mid.qcow2
same "convert after it" convert -O raw top.qcow2 top2.raw
same_data "the same shows after it" top2.raw
check "what was shown before it" cmp "$m/top.raw" "$m/top2.raw"

same "no snapshot" snapshot -c s mid.qcow2
same "a bitmap" bitmap --add mid.qcow2 b
same "info with a bitmap" info mid.qcow2

# ---- a data file that is missing ----

both rm mid.data
same "info without the data file" info mid.qcow2
same_status "check without the data file" check -q a.qcow2
cd "$m" || exit 1
refuse "convert without the data file" "$IMG" convert -O raw mid.qcow2 x.raw
refuse "resize without the data file" "$IMG" resize mid.qcow2 3M
refuse "commit into one without its data file" "$IMG" commit top.qcow2
check "nothing has been made in its place" [ ! -e mid.data ]
finish
