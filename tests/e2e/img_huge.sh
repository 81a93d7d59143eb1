#!/bin/bash
# Images of terabytes that hold next to nothing: every command is through in seconds, in little memory, writes
# little, and says what qemu-img says where that is quick as well.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"
cd "$m" || exit 1
if ! truncate -s 9T large 2>/dev/null; then
    skip "images of terabytes" "no files of 9 TiB in ${TMPDIR:-/tmp}"
    finish
fi
rm large

make_images() {
    truncate -s 5T raw && qemu-io -f raw -c 'write -q -P 3 4T 64k' raw &&
        qemu-img create -q -f qcow2 q 8T && qemu-io -c 'write -q -P 3 7T 64k' -c 'write -q -P 5 1M 64k' q &&
        qemu-img create -q -f qcow2 -b raw -F raw over && qemu-io -c 'write -q -P 7 2T 64k' over
}
export -f make_images
both bash -c make_images

bounded() {
    in_memory 400000 timeout 60 "$IMG" "$@"
}
holds() { # WHAT THE READS ARE OF: read -P arguments
    local file=$1 args=()
    shift
    for range in "$@"; do
        args+=(-c "read -q -P ${range/:/ }")
    done
    qemu-io -r "${args[@]}" "$file" | cmp - /dev/null
}
IMAGE_Q=(3:'7T 64k' 5:'1M 64k' 0:'2M 1M' 0:'8388607M 1M')
small() { # FILE MIB: it takes no more
    [ "$(du -m "$1" | cut -f1)" -le "$2" ]
}

# ---- reading ----

same "info: raw" info -f raw raw
same "info" info q
same "check" check q
same "map: raw" map -f raw raw
same "map" map --output=json q
same "map: a chain" map --output=json over
same "measure: raw" measure -f raw -O qcow2 raw
same "measure" measure -O qcow2 q
same "measure: to raw" measure -O raw q
same "compare" compare q q
check "bench" bounded bench -q -c 20 -s 4096 -o 4T -f raw raw

# ---- new images ----

for options in preallocation=off cluster_size=2M extended_l2=on; do
    same "create: $options" create -q -f qcow2 -o $options new 5T
    same_image "... is empty" new
    rm -f new "$q/new"
done
same "create: too large" create -q -f qcow2 new 16P
check "create: metadata" bounded create -q -f qcow2 -o preallocation=metadata,cluster_size=2M new 5T
check "... is sound" bounded check -q new
converts() { # SOURCE ARGUMENTS...: to `new`
    rm -f new
    bounded convert "${@:2}" "$1" new && bounded compare -q "$1" new && small new 2
}
check "convert: raw to raw" converts raw -f raw -O raw
check "convert: raw to qcow2" converts raw -f raw -O qcow2
check "convert: compressed" converts raw -f raw -O qcow2 -c
check "convert: qcow2 to qcow2" converts q -O qcow2
check "... as qemu-img sees it" holds new "${IMAGE_Q[@]}"
check "convert: with a base" converts over -O qcow2 -B raw -F raw
check "dd of a part" bounded dd if=q of=part bs=1M skip=7340032 count=7340034
check "... which is that part" bash -c 'cmp -n 65536 part <(head -c 65536 /dev/zero | tr "\0" "\3") &&
    [ "$(stat -c %s part)" = 2097152 ]'
check "dd of all" bounded dd if=q of=new -O qcow2
check "... is all" holds new "${IMAGE_Q[@]}"

# ---- changes ----

check "resize: larger and smaller" bash -c "'$IMG' resize -q q 9T && '$IMG' resize -q --shrink q 8T"
check "resize: raw" bash -c "'$IMG' resize -q -f raw raw 6T && '$IMG' resize -q -f raw --shrink raw 5T"
snapshots() {
    local i
    bounded snapshot -c one q && qemu-io -c 'write -q -P 9 7T 4k' q && bounded snapshot -a one q &&
        bounded snapshot -d one q || return
    for i in 1 2 3; do
        bounded snapshot -c "$i" q && bounded snapshot -d "$i" q || return
    done
}
check "snapshot" snapshots
check "... leaves what there was" holds q "${IMAGE_Q[@]}"
check "... and no file of gigabytes" test "$(stat -c %s q)" -lt 4000000
bitmaps() {
    bounded bitmap --add q one && bounded bitmap --add --disable -g 1M q two &&
        qemu-io -c 'write -q -P 3 7T 64k' q && bounded bitmap --merge one q two &&
        bounded bitmap --clear q one && bounded bitmap --remove q one && bounded bitmap --remove q two
}
check "bitmap" bitmaps
check "amend: other refcounts" bounded amend -o refcount_bits=64 q
check "amend: a larger size" bounded amend -o size=9T q
check "bench, writing" bounded bench -q -w -c 20 -s 4096 -o 6T q
check "... all of it sound" bounded check -q q
check "... for qemu-img as well" qemu-img check -q q
check "... with the data" holds q "${IMAGE_Q[@]}"
check "... in little space" small q 4

IMAGE_OVER=(7:'2T 64k' 3:'4T 64k' 0:'1T 1M')
rebases() {
    cp over moved && bounded rebase "$@" moved && holds moved "${IMAGE_OVER[@]}" && small moved 2
}
qemu-img create -q -f qcow2 -o cluster_size=64k other 5T
check "rebase to nothing" rebases -b ''
check "rebase to another base" rebases -b other -F qcow2
check "commit" bounded commit -q over
check "... is in the base" holds raw "${IMAGE_OVER[@]}"
check "... in little space" small raw 2
finish
