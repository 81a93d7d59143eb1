#!/bin/bash
# A chain of 1000 qcow2 layers: every command that opens one, in bounded time and memory; how deep one may
# be; a loop in it is found.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1

# layers LETTER COUNT OPTION...: each is a copy of the second one with another backing name of the same
# length; the bottom, LETTER0001, holds the only data.
layers() {
    "$IMG" create -q -f qcow2 "${@:3}" "${1}0001" 1M &&
        qemu-io -c 'write -q -P 7 64k 64k' "${1}0001" &&
        "$IMG" create -q -f qcow2 "${@:3}" -b "${1}0001" -F qcow2 "${1}0002" &&
        python3 - "$1" "$2" <<'PYTHON'
import sys
letter, count = sys.argv[1], int(sys.argv[2])
bottom = b"%s0001" % letter.encode()
layer = open(letter + "0002", "rb").read()
for i in range(3, count + 1):
    open("%s%04d" % (letter, i), "wb").write(layer.replace(bottom, b"%s%04d" % (letter.encode(), i - 1), 1))
PYTHON
}
# What it prints goes to `said`.
bounded() {
    in_memory 600000 timeout 60 "$IMG" "$@" >said
}
# With our own programs: QEMU's take 10 seconds to open such a chain.
shows() { # IMAGE: what the chain shows
    bounded compare -q "$1" flat
}
writes() { # PATTERN RANGE IMAGE
    "$BUILD/minivmm-io" -c "write -q -P $1 $2" "$3"
}
reads() {
    "$BUILD/minivmm-io" -r -c "read -q -P $1 $2" "$3"
}

layers l 1000
qemu-img create -q -f raw other 1M
qemu-img create -q -f raw flat 1M && qemu-io -f raw -c 'write -q -P 7 64k 64k' flat

# ---- reading ----

layers_of_info() {
    bounded info --backing-chain l1000 && [ "$(grep -c '^image: ' said)" = 1000 ]
}
maps() {
    bounded map --output=json l1000 && grep -q '"start": 65536, .*"depth": 999,' said
}
compares() {
    bounded compare l1000 flat && ! bounded compare l1000 other && grep -q 'mismatch at offset 65536' said
}
converts() {
    bounded convert "$@" l1000 converted && qemu-img compare -q -F raw converted flat
}
measures() {
    bounded measure --output=json -O qcow2 l1000 &&
        diff <(grep required said) <(qemu-img measure --output=json -O qcow2 converted | grep required)
}
copies_a_part() {
    bounded dd if=l1000 of=part bs=64k skip=1 count=3 && cmp -i 0:65536 -n 131072 part flat
}

check "info of 1000 layers" layers_of_info
check "check of the top" bounded check -q l1000
check "map" maps
check "compare" compares
check "convert to raw" converts -f qcow2 -O raw
check "convert with compression" converts -O qcow2 -c
check "convert to qcow2" converts -O qcow2
check "measure" measures
check "dd" copies_a_part
check "bench, reading" bounded bench -c 20 -s 4096 l1000

# ---- changes of a layer on 999 others ----

bitmaps() {
    bounded bitmap --add top one && bounded bitmap --add --disable top two &&
        bounded bitmap --merge one top two && bounded bitmap --remove top two &&
        bounded bitmap --remove top one && bounded check -q top
}
snapshots() {
    bounded snapshot -c one top && writes 8 '64k 64k' top &&
        bounded snapshot -a one top && shows top && bounded snapshot -d one top && bounded check -q top
}
resizes() {
    bounded resize -q top 2M && bounded resize -q --shrink top 1M && shows top
}
rebases() {
    cp top moved && bounded rebase -b l0500 -F qcow2 moved && bounded rebase -b l0999 -F qcow2 moved &&
        shows moved && bounded rebase -b other -F raw moved && shows moved
}
serves() {
    local server
    "$IMG" serve --vhost-user-blk socket top,format=qcow2 2>messages &
    server=$!
    until [ -S socket ]; do
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
    kill -TERM "$server" && wait "$server" && diff messages /dev/null
}
onto_a_layer() {
    bounded convert -O qcow2 -B l0999 -F qcow2 l1000 converted && shows converted
}
check "convert onto a layer on 999 others" onto_a_layer
check "create" bounded create -q -f qcow2 -b l0999 -F qcow2 top
check "... which shows the bottom's data" shows top
check "bench, writing" bounded bench -w -c 20 -s 4096 -o 512k --pattern=0 top
check "... and that alone" shows top
check "bitmap" bitmaps
check "snapshot" snapshots
check "resize" resizes
check "amend" bounded amend -o lazy_refcounts=on top
check "rebase" rebases
check "rebase to nothing" bounded rebase -b '' top
check "... which shows the same" shows top
bounded rebase -u -b l0999 -F qcow2 top
check "serve" serves

# ---- commit ----

commits() { # PATTERN TARGET ARGUMENTS...
    writes "$1" '64k 4k' top && bounded commit -q "${@:3}" top && reads "$1" "64k 4k" "$2"
}
"$IMG" create -q -f qcow2 -b l0999 -F qcow2 top
check "commit" commits 8 l0999
check "commit -d" commits 9 l0999 -d
check "commit to the bottom" commits 10 l0001 -b l0001

# ---- how deep ----

# The deepest chain: 4096 layers below the top.
layers d 4098 -o cluster_size=512
check "4096 layers below the top can be read" bounded convert -O raw d4097 flat3
check "... and committed to the bottom" bounded commit -q -b d0001 d4097
refuse "4097 are too many" "$IMG" convert -O raw d4098 flat3
check "the chain can be made to loop" "$IMG" rebase -u -b l0500 -F qcow2 l0001
refuse "a loop is found" "$IMG" convert -O raw l1000 flat2
refuse "... by commit" timeout 60 "$IMG" commit -b nowhere l1000
finish
