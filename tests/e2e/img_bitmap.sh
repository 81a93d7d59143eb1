#!/bin/bash
# `minivmm-img bitmap` against qemu-img, and persistent dirty bitmaps that go back and forth between
# both programs: what one records, the other reads.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# What QEMU sees as dirty: offsets and lengths, through its NBD server's bitmap context.
qemu_dirty() {
    local socket=$work/nbd.sock pid
    rm -f "$socket"
    qemu-nbd -r -t -f qcow2 -k "$socket" -B "$2" --fork --pid-file="$work/nbd.pid" "$1" || return 1
    qemu-img map --output=json --image-opts \
        "driver=nbd,server.type=unix,server.path=$socket,x-dirty-bitmap=qemu:dirty-bitmap:$2" |
        python3 -c 'import json, sys
print(" ".join("%d+%d" % (e["start"], e["length"]) for e in json.load(sys.stdin) if not e["data"]))'
    pid=$(cat "$work/nbd.pid")
    kill "$pid"
    # Nobody may have waited for it yet: what counts is that it has no files open any more.
    while readlink -q "/proc/$pid/exe" >/dev/null; do :; done
}

# both_dirty NAME FILE BITMAP: both files have the same dirty ranges for QEMU.
both_dirty() {
    local a b=
    if ! { a=$(qemu_dirty "$q/$2" "$3") && b=$(qemu_dirty "$m/$2" "$3"); }; then
        fail "$1" "cannot be read: $a $b"
        return
    fi
    if [ "$a" = "$b" ]; then pass "$1: $b"; else fail "$1" "qemu-img: $a
minivmm-img: $b"; fi
}

clean() { check "$1: qemu-img check" qemu-img check -q "$m/$2"; }

# ---- command line and messages ----
both qemu-img create -q -f qcow2 t.qcow2 10M
both qemu-img create -q -f raw r.raw 1M
both qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
same "add" bitmap --add t.qcow2 b0
same "add, disabled, with a granularity" bitmap --add --disable -g 512 t.qcow2 b1
same "info" info t.qcow2
same "check" check t.qcow2
same "a name that is there" bitmap --add t.qcow2 b0
for verb in --remove --clear --enable --disable; do
    same "$verb of no bitmap" bitmap $verb t.qcow2 nope
done
same "merge of no bitmap" bitmap --merge nope t.qcow2 b0
same "merge into no bitmap" bitmap --merge b0 t.qcow2 nope
same "nothing to do" bitmap t.qcow2 b0
same "no name" bitmap --add t.qcow2
same "no file" bitmap --add
same "a name too many" bitmap --add t.qcow2 b c
same "merge without a source" bitmap --merge
same "an unknown option" bitmap --frob t.qcow2 b
for granularity in 3 256 4G xx -5 1.5k 8E; do
    same "granularity $granularity" bitmap --add -g $granularity t.qcow2 x
done
same "granularity 2G" bitmap --add -g 2G t.qcow2 x2g
same "granularity 0" bitmap --add -g 0 t.qcow2 x0
same "granularity without --add" bitmap --clear -g 64k t.qcow2 b0
same "-b without --merge" bitmap --clear -b t.qcow2 t.qcow2 b0
same "-F without -b" bitmap --merge b0 -F qcow2 t.qcow2 b1
same "-b that is not there" bitmap --merge b0 -b nofile.qcow2 t.qcow2 b1
same "-b that has no such bitmap" bitmap --merge b0 -b v2.qcow2 t.qcow2 b1
same "-b without bitmaps" bitmap --merge b0 -b r.raw -F raw t.qcow2 b1
same "a file that is not there" bitmap --add nofile.qcow2 b
same "an unknown format" bitmap --add -f foo t.qcow2 b
same "enable, disable" bitmap --enable --disable t.qcow2 b0
same "disable, enable" bitmap --disable --enable t.qcow2 b0
same "add, remove" bitmap --add --remove t.qcow2 zz
same "add, merge" bitmap --add --merge b0 t.qcow2 zz
same "add, clear, enable, disable" bitmap --add --clear --enable --disable t.qcow2 yy
same "an empty name" bitmap --add t.qcow2 ""
same "a long name" bitmap --add t.qcow2 "$(printf 'n%.0s' {1..1023})"
same_status "a name that is too long" bitmap --add t.qcow2 "$(printf 'n%.0s' {1..1024})"
same_status "a raw image" bitmap --add -f raw r.raw b
same_status "version 2" bitmap --add v2.qcow2 b
same "remove from raw" bitmap --remove -f raw r.raw b
same "what came before an error stays" bitmap --clear --merge nope --remove t.qcow2 b0
same "info of all that" info t.qcow2
run_both info --output=json t.qcow2
check "JSON of all that" python3 -c 'import json, sys
a, b = (json.load(open(sys.argv[1] + "/" + f)) for f in ("q.out", "m.out"))
sys.exit(a["format-specific"] != b["format-specific"])' "$work"
clean "command line" t.qcow2

# ---- recorded by one, read by the other ----
for options in cluster_size=64k cluster_size=512 cluster_size=2M; do
    both rm -f t.qcow2
    both qemu-img create -q -f qcow2 -o "$options" t.qcow2 10000k
    for granularity in 512 4k 64k 1M; do
        same "$options: add $granularity" bitmap --add -g $granularity t.qcow2 "g$granularity"
    done
    both io t.qcow2 'write 1000 1' 'write 65535 2' 'write -z 3M 70000' 'discard 5M 1M' 'write 10239999 1'
    for granularity in 512 4k 64k 1M; do
        both_dirty "$options: qemu-io wrote, $granularity" t.qcow2 "g$granularity"
    done
    same "$options: add disabled" bitmap --add --disable -g 512 t.qcow2 sum
    same "$options: merge" bitmap --merge g64k t.qcow2 sum
    same "$options: merge more" bitmap --merge g512 --merge g4k t.qcow2 sum
    both_dirty "$options: merged" t.qcow2 sum
    same "$options: clear" bitmap --clear t.qcow2 g4k
    both_dirty "$options: cleared" t.qcow2 g4k
    both io t.qcow2 'write 7M 1'
    both_dirty "$options: written again" t.qcow2 g4k
    both_dirty "$options: disabled, written again" t.qcow2 sum
    same "$options: remove" bitmap --remove t.qcow2 g64k
    same "$options: info" info t.qcow2
    clean "$options" t.qcow2
done

# Written through ours: an overlay with a bitmap is committed into a base with one.
both rm -f t.qcow2
both qemu-img create -q -f qcow2 base.qcow2 4M
same "base: add" bitmap --add -g 4k base.qcow2 b
both qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
same "overlay: add" bitmap --add -g 4k top.qcow2 b
both io top.qcow2 'write -P 1 100k 10k' 'write -P 2 2M 1'
same "commit" commit top.qcow2
both_dirty "committed into the base" base.qcow2 b
both_dirty "the overlay keeps its bits" top.qcow2 b
clean "base" base.qcow2
clean "overlay" top.qcow2

# One source in another file.
same "merge from another file" bitmap --merge b -b top.qcow2 -F qcow2 base.qcow2 b
both qemu-img create -q -f qcow2 big.qcow2 8M
same "add to a larger one" bitmap --add big.qcow2 b
same "merge from a larger one" bitmap --merge b -b big.qcow2 base.qcow2 b

# ---- ours alone writes (convert -n), QEMU reads, and the other way round ----
cd "$m" || exit 1
qemu-img create -q -f qcow2 n.qcow2 1M
qemu-img bitmap --add -g 4k n.qcow2 b
qemu-img create -q -f raw src.raw 1M
qemu-io -f raw -c 'write -P 5 256k 8k' src.raw >/dev/null
check "convert -n writes" "$IMG" convert -n -f raw -O qcow2 src.raw n.qcow2
if [[ " $(qemu_dirty n.qcow2 b) " == *"+"* ]]; then pass "QEMU reads what it dirtied"; else
    fail "QEMU reads what it dirtied" "$(qemu_dirty n.qcow2 b)"; fi
clean "after convert -n" n.qcow2

# ---- inconsistent bitmaps ----
# A write that is still under way when the process is killed leaves the bitmap in use.
inconsistent() {
    rm -f k.qcow2 fifo
    qemu-img create -q -f qcow2 k.qcow2 1M
    qemu-img bitmap --add k.qcow2 b
    qemu-img bitmap --add --disable k.qcow2 off
    mkfifo fifo
    qemu-io k.qcow2 <fifo >io.log 2>&1 &
    local pid=$!
    exec 7>fifo
    echo 'write 0 64k' >&7
    until grep -q wrote io.log; do :; done
    kill -9 "$pid"
    wait "$pid" 2>/dev/null
    exec 7>&-
    return 0
}
both inconsistent
same "in use: info" info k.qcow2
same "in use: check" check k.qcow2
for verb in --clear --enable --disable "--merge off" --add; do
    # shellcheck disable=SC2086 # two words
    same "in use: $verb" bitmap $verb k.qcow2 b
done
same "in use: merge from it" bitmap --merge b k.qcow2 off
same "in use: remove" bitmap --remove k.qcow2 b
same "in use: info after that" info k.qcow2
clean "in use" k.qcow2

# ---- who knows no bitmaps has written the image ----
outdated() {
    rm -f o.qcow2
    qemu-img create -q -f qcow2 o.qcow2 1M
    qemu-img bitmap --add o.qcow2 b
    printf '\0\0\0\0\0\0\0\0' | dd of=o.qcow2 bs=1 seek=88 conv=notrunc status=none
}
both outdated
same_status "outdated: info" info o.qcow2
check "outdated: the warning" grep -q "a program lacking bitmap support modified this file" "$work/m.err"
same_status "outdated: remove" bitmap --remove o.qcow2 b
same "outdated: add" bitmap --add o.qcow2 b
same "outdated: info after that" info o.qcow2

finish
