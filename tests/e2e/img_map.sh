#!/bin/bash
# `minivmm-img map` against qemu-img: every kind of extent, in both forms, and parts of images.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# "compressed" is what newer versions of qemu-img say; 7.2 does not.
same_map() {
    local name=$1 text
    shift
    run_both map --output=json "$@"
    sed -i 's/, "compressed": true//' "$work/m.out"
    text=$(differences rc out)
    run_both map "$@"
    text=$text$(differences rc out err)
    if [ -z "$text" ]; then pass "$name"; else fail "$name" "$text"; fi
}

make_images() {
    secret=secret,id=s,data=abc
    encrypted=driver=qcow2,file.filename=encrypted,encrypt.key-secret=s
    printf abc >key
    qemu-img create -q -f qcow2 base 1M && qemu-io -c 'write -P 7 0 64k' -c 'write 512k 64k' base &&
        qemu-img create -q -f qcow2 -b base -F qcow2 longer 3M &&
        qemu-io -c 'write 128k 64k' -c 'write 2M 70k' longer &&
        qemu-img create -q -f qcow2 -b longer -F qcow2 top 4M && qemu-io -c 'write -z 500k 64k' top &&
        qemu-img create -q -f qcow2 empty 1M && qemu-img create -q -f qcow2 nothing 0 &&
        qemu-img create -q -f qcow2 compressed 1M &&
        qemu-io -c 'write 0 64k' -c 'write -c -P 7 64k 64k' -c 'write -c 128k 64k' compressed &&
        qemu-img create -q -f qcow2 -o preallocation=metadata preallocated 4M &&
        qemu-io -c 'write -P 3 1M 64k' -c 'discard 2M 128k' -c 'write -z 3M 64k' preallocated &&
        qemu-img create -q -f qcow2 -o preallocation=falloc reserved 1M &&
        qemu-img create -q -f qcow2 kept 1M && qemu-io -c 'write 0 64k' -c 'write -z 0 64k' kept &&
        qemu-img create -q -f qcow2 -o data_file=file data-file 1M &&
        qemu-io -c 'write 64k 64k' data-file &&
        qemu-img create -q -f qcow2 -o cluster_size=512 small 1M &&
        qemu-io -c 'write 0 300k' -c 'write 512 512' -c 'discard 100k 50k' small &&
        qemu-img create -q -f qcow2 -o extended_l2=on subclusters 1M &&
        qemu-io -c 'write 4k 5k' -c 'write -z 20k 10k' -c 'write 100k 100k' subclusters &&
        qemu-img create -q -f qcow2 -o compat=0.10 old 1M && qemu-io -c 'write 1k 1k' old &&
        qemu-img create -q -f qcow2 fragments 10M &&
        qemu-io -c 'write 5M 1M' -c 'write 1M 1M' -c 'write 3M 100k' -c 'write 4M 1M' \
            -c 'write 2M 1M' fragments &&
        qemu-img create -q -f raw raw 4M && qemu-io -f raw -c 'write 1M 64k' raw &&
        : >raw-empty && printf 'x%.0s' {1..700} >raw-odd &&
        qemu-img create -q -f qcow2 --object "$secret" \
            -o encrypt.format=luks,encrypt.iter-time=1,encrypt.key-secret=s encrypted 1M &&
        qemu-io --object "$secret" --image-opts -c 'write 0 64k' -c 'write 64k 64k' \
            -c 'write -z 64k 64k' "$encrypted"
}
export -f make_images
both bash -c make_images

for file in base longer top empty nothing compressed preallocated reserved kept data-file small \
    subclusters old fragments; do
    same_map "$file" $file
done
for file in raw raw-empty raw-odd; do
    same_map "$file" -f raw $file
done
same_map "encrypted" --object secret,id=s,file=key \
    --image-opts driver=qcow2,file.filename=encrypted,encrypt.key-secret=s
for part in "--start-offset=1M" "-s 1 -l 1" "--max-length=1k" "--start-offset=100k --max-length=500k" \
    "--start-offset 1000 --max-length 3000" "--start-offset=4M" "--start-offset=5M" "--max-length=0" \
    "--start-offset=3M --max-length=8E"; do
    # shellcheck disable=SC2086
    same_map "$part" top $part
done
check "compressed extents say so" grep -q '"length": 131072.*"data": true, "compressed": true}' \
    <("$IMG" map --output=json "$m/compressed")
same "-U" map -U fragments
same "--force-share" map --output=human --force-share fragments

same "nothing" map
same "two images" map top base
same "missing" map missing
same "unknown format" map -f foo top
same "unknown output" map --output=xml top
same "unknown switch" map -Z top
same "no argument" map top --output
for value in -1 1x foo '' 20E; do
    same "start: '$value'" map --start-offset="$value" top
    same "length: '$value'" map --max-length="$value" top
done
both bash -c "cp base bad && printf '\x80\0\0\0\0\x04\x02\x01' |
    dd of=bad bs=1 seek=\$((0x30000)) conv=notrunc"
same_status "damaged tables" map bad
refuse "damaged tables: one line" "$IMG" map "$m/bad"

# 8 TB with data at its end, under a chain.
qemu-img create -q -f qcow2 "$m/huge.0" 8T
qemu-io -c 'write -P 3 7T 64k' "$m/huge.0" >"$work/log"
for ((i = 1; i < 50; i++)); do
    "$IMG" create -q -u -f qcow2 -b "huge.$((i - 1))" -F qcow2 "$m/huge.$i" 8T
done
three_lines() {
    [ "$(in_memory 65536 "$IMG" map --output=json "$m/huge.49" | wc -l)" = 3 ]
}
check "8 TB, 50 deep: three lines, with 24 MiB to spare" three_lines
finish
