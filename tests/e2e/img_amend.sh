#!/bin/bash
# `minivmm-img amend` against qemu-img: every option, what goes together and what does not, and what the
# image is and holds afterwards. Both kinds of images go back and forth between the programs.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# amend NAME FILE ARGUMENTS...: the same, then the same info, and the same content, sound.
amend() {
    local name=$1 file=$2
    shift 2
    same "$name" amend "$@" "$file"
    same "... info" info "$file"
    same_image "... the image" "$file"
}

# The same, but that the words on stderr differ.
amend_status() {
    local name=$1 file=$2
    shift 2
    same_status "$name" amend "$@" "$file"
    same "... info" info "$file"
    same_image "... the image" "$file"
}

make_images() {
    qemu-img create -q -f qcow2 base 4M && qemu-io -c 'write -P 3 0 4M' base &&
        qemu-img create -q -f qcow2 a 10M && qemu-img create -q -f raw raw 1M &&
        qemu-io -c 'write -P 5 1M 1M' -c 'write -z 3M 1M' -c 'write -P 6 5M 512k' -c 'write -z 5M 256k' \
            -c 'write -c -P 7 7M 1M' -c 'write -z 9900k 340k' a &&
        qemu-img create -q -f qcow2 -b base -F qcow2 o 10000K &&
        qemu-io -c 'write -P 5 1M 1M' -c 'write -z 3M 2M' -c 'write -z 9900k 100k' -c 'write -z 100k 1k' o &&
        qemu-img create -q -f qcow2 -o data_file=data d 4M && qemu-io -c 'write -P 9 1M 1M' d &&
        qemu-img create -q -f qcow2 -o data_file=data2,data_file_raw=on draw 4M && qemu-io -c 'write -P 9 1M 1M' draw &&
        qemu-img create -q -f qcow2 -o extended_l2=on e 4M && qemu-img create -q -f qcow2 -o cluster_size=512 small 4M &&
        qemu-io -c 'write -P 1 0 3M' small && qemu-img create -q -f qcow2 bitmaps 4M && qemu-img bitmap --add bitmaps one &&
        qemu-io -c 'write 0 64k' bitmaps && qemu-img create -q -f qcow2 snapshots 4M &&
        qemu-io -c 'write -P 1 0 1M' -c 'write -z 64k 64k' snapshots && qemu-img snapshot -c one snapshots &&
        qemu-io -c 'write -P 2 0 64k' snapshots && qemu-img snapshot -c two snapshots &&
        qemu-img create -q -f qcow2 old 4M && qemu-io -c 'write -P 1 0 1M' old && qemu-img snapshot -c one old &&
        qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k -b base -F qcow2 v2 5M && qemu-io -c 'write -P 4 1M 1M' v2
}
export -f make_images
# Once, as snapshots know when they were taken.
(cd "$q" && make_images) >"$work/log" 2>&1 || fail "preparing" "$(cat "$work/log")"
cp -r "$q/." "$m"

for bits in 1 2 4 8 32 64 16; do
    amend "refcount_bits=$bits" a -o refcount_bits=$bits
done
for file in o small v2 snapshots old; do
    for bits in 4 64 16; do
        amend "$file: refcount_bits=$bits" $file -o compat=1.1,refcount_bits=$bits
    done
done
same_status "refcounts too narrow" amend -o refcount_bits=1 snapshots
check "... the words" grep -q "Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x" "$work/m.err"
both qemu-io -c 'write -P 8 2M 100k' a
same_image "written to after it" a
for file in a o small old; do
    amend "$file: compat=0.10" $file -o compat=0.10
    amend "$file: compat=1.1" $file -o compat=1.1
    amend "$file: lazy_refcounts=on" $file -o lazy_refcounts=on
    amend "$file: v2" $file -o compat=v2
    amend "$file: lazy_refcounts=on, version 2" $file -o lazy_refcounts=on
    amend "$file: refcount_bits=8, version 2" $file -o refcount_bits=8
    amend "$file: all of it" $file -o compat=v3,lazy_refcounts=on,refcount_bits=32
    amend "$file: ... back" $file -o compat=0.10,lazy_refcounts=off,refcount_bits=16
    amend "$file: 3" $file -o compat=v3
done
amend "v2: version 2 as it is" v2 -o compat=0.10
amend "lazy refcounts, and version 2" a -o compat=0.10,lazy_refcounts=on
amend "lazy refcounts, on" a -o lazy_refcounts
amend "lazy refcounts, off" a -o lazy_refcounts=off
amend "refcounts, then version 2" a -o refcount_bits=64
amend "... refused" a -o compat=0.10

for size in 12M 30M 9M 1k; do
    amend "size=$size" a -o size=$size
    amend "overlay: size=$size" o -o size=$size
done
for size in 0 30000001 -1 x 1Z '' 99999999999999999999; do
    amend "size=$size" a -o size=$size
done
amend_status "size=7E" a -o size=7E
amend_status "size=8E" a -o size=8E
amend "all at once" a -o compat=v3,lazy_refcounts=on,refcount_bits=32,size=12M
amend "... back" a -o compat=0.10,lazy_refcounts=off,refcount_bits=16,size=10M
amend "... and on" a -o compat=1.1
amend "size, with bitmaps" bitmaps -o size=8M
amend "refcounts, with bitmaps" bitmaps -o refcount_bits=8
amend "size, with snapshots" snapshots -o size=5M
amend "version 2, with snapshots of another size" snapshots -o compat=0.10,refcount_bits=16

# QEMU looks for data files in its own directory: so the images are looked at from there.
data() {
    local name=$1 file=$2
    shift 2
    same "$name" amend "$@" "$file"
    same "... info" info "$file"
    check "... the image" bash -c "cd '$m' && qemu-img check '$file' &&
        qemu-io -r -c 'read -P 9 1M 1M' -c 'read -P 0 0 1M' -c 'read -P 0 2M 2M' '$file'"
}
data "data_file_raw=on" d -o data_file_raw=on
data "data_file_raw=off" d -o data_file_raw=off
data "raw: data_file_raw=on" draw -o data_file_raw=on
data "raw: data_file_raw=off" draw -o data_file_raw=off
data "raw: data_file_raw=on, which it no longer is" draw -o data_file_raw=on
both cp data data3
data "data_file" d -o data_file=data3
check "... is that one" bash -c "cd '$m' && rm data && qemu-io -r -c 'read -P 9 1M 1M' d"
data "data_file, and version 2" d -o compat=0.10
amend "data_file: there is none" a -o data_file=data
amend "data_file_raw: there is none" a -o data_file_raw=on
amend "data_file_raw=off: there is none" a -o data_file_raw=off
amend "extended L2, and version 2" e -o compat=0.10
amend "extended L2: refcounts" e -o refcount_bits=64

for options in backing_file=base backing_fmt=qcow2 backing_file=base,backing_fmt=qcow2 backing_file=base,backing_fmt=raw \
    backing_file=./base,backing_fmt=qcow2 backing_file= backing_file=base,backing_fmt=; do
    same "$options" amend -o $options o
    same "$options: there is none" amend -o $options a
done
for options in foo=bar compat=foo compat= compat=2 lazy_refcounts=foo refcount_bits=7 refcount_bits=0 refcount_bits=128 \
    refcount_bits=x refcount_bits= refcount_bits=-1 refcount_bits=99999999999999999999 cluster_size=64k preallocation=off \
    encryption=off encrypt.format=luks extended_l2=on compression_type=zlib encrypt.state=active data_file_raw=x '' ',' 'a,' a \
    refcount_bits=3,compat=foo compat=1.1,backing_file=base size=1M,foo=bar; do
    same "'$options'" amend -o "$options" a
done
same "no options" amend a
same "nothing" amend
same "no image" amend -o size=1M
same "two images" amend -o size=1M a o
same "missing" amend -o size=1M missing
same "unknown switch" amend -Z -o size=1M a
same "unknown long switch" amend --foo a
same "no argument" amend a -o
same "raw" amend -f raw -o size=1M raw
same "raw: help" amend -f raw -o help
same "unknown format" amend -f foo -o size=1M a
same "cache mode" amend -t none -o lazy_refcounts=on a
same "unknown cache mode" amend -t foo -o lazy_refcounts=on a
same "several -o" amend -o lazy_refcounts=off -o size=2M a
same "force" amend --force -o size=3M a
same "by options" amend --image-opts -o size=4M driver=qcow2,file.filename=a
same "info" info a
for arguments in "-o help a" "-f qcow2 -o help" "-o ? a" "-f qcow2 -o size=1M,help missing"; do
    # shellcheck disable=SC2086
    same "help: $arguments" amend $arguments
done
(cd "$m" && "$IMG" amend -p -o refcount_bits=8 a) >"$work/progress"
check "-p" progress_is_whole "$work/progress"
(cd "$m" && "$IMG" amend -p -q -o refcount_bits=16 a) >"$work/progress"
check "-p -q" test ! -s "$work/progress"

# Encrypted: zeros that become data are encrypted as well.
printf abc >"$work/key"
secret=(--object "secret,id=s,file=$work/key")
"$IMG" create -q -f qcow2 "${secret[@]}" -o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s \
    -b base -F qcow2 "$m/encrypted" 5M
encrypted=driver=qcow2,file.filename=$m/encrypted,encrypt.key-secret=s
qemu-io "${secret[@]}" --image-opts -c 'write -P 5 1M 1M' -c 'write -z 3M 512k' "$encrypted" >"$work/log"
shows() {
    qemu-io -r "${secret[@]}" --image-opts -c 'read -P 5 1M 1M' -c 'read -P 3 0 1M' -c 'read -P 0 3M 512k' \
        -c 'read -P 3 3584k 512k' -c "read -P 0 4M $1" "$encrypted" &&
        qemu-img check "${secret[@]}" --image-opts "$encrypted"
}
check "encrypted: other refcounts, larger" "$IMG" amend --key-file "$work/key" -o refcount_bits=64,size=8M "$m/encrypted"
check "... it shows the same" shows 4M
check "encrypted: version 2" "$IMG" amend --key-file "$work/key" -o compat=0.10,refcount_bits=16,size=6M "$m/encrypted"
check "... it shows the same" shows 2M
refuse "encrypted: no key" "$IMG" amend -o size=7M "$m/encrypted"

# What QEMU would lose without a word.
refuse "version 2, with bitmaps" "$IMG" amend -o compat=0.10 "$m/bitmaps"
"$IMG" create -q -f qcow2 -o compression_type=zstd "$m/zstd" 1M
refuse "version 2, with zstd" "$IMG" amend -o compat=0.10 "$m/zstd"
# What we do not do: a snapshot's zeros do not become data.
qemu-img create -q -f qcow2 "$m/zeros" 1M
qemu-io -c 'write -z 0 64k' "$m/zeros" >"$work/log"
qemu-img snapshot -c one "$m/zeros"
cp "$m/zeros" "$work/before"
refuse "version 2, with a snapshot's zeros" "$IMG" amend -o compat=0.10 "$m/zeros"
check "... it is a version 3 image, and sound" bash -c "qemu-img info '$m/zeros' | grep -q 'compat: 1.1' &&
    qemu-img check '$m/zeros' && qemu-img compare '$m/zeros' '$work/before'"
# An image with errors is left alone: an entry of the L1 table that leads nowhere.
qemu-img create -q -f qcow2 "$m/damaged" 1M
printf '\x80\0\0\0\x7f\xff\0\0' | dd of="$m/damaged" bs=1 seek=$((0x30000)) conv=notrunc 2>"$work/log"
cp "$m/damaged" "$work/before"
refuse "errors" "$IMG" amend -o refcount_bits=8 "$m/damaged"
check "... nothing was changed" cmp "$m/damaged" "$work/before"
finish
