#!/bin/bash
# `minivmm-img rebase` against qemu-img: the same result on the same chains.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# prepare [OPTIONS]: base, an equal copy, other content, a shorter and a longer one, an overlay.
# shellcheck disable=SC2120 # called through `both` with arguments
prepare() {
    rm -f -- *.qcow2 *.raw
    qemu-img create -q -f qcow2 base.qcow2 8M
    qemu-io -c 'write -P 1 0 3M' -c 'write -P 2 6M 64k' base.qcow2
    cp base.qcow2 copy.qcow2
    cp base.qcow2 other.qcow2
    qemu-io -c 'write -P 9 512k 192k' -c 'write -P 8 5M 100k' -c 'write -z 2M 256k' other.qcow2
    qemu-img create -q -f qcow2 short.qcow2 2M
    qemu-io -c 'write -P 5 1M 1M' short.qcow2
    qemu-img create -q -f qcow2 long.qcow2 32M
    qemu-io -c 'write -P 6 0 32M' long.qcow2
    qemu-img convert -O raw other.qcow2 other.raw
    qemu-img create -q -f qcow2 -o "${1:-cluster_size=64k}" -b base.qcow2 -F qcow2 o.qcow2
    qemu-io -c 'write -P 3 64k 128k' -c 'write -z 1M 70k' -c 'write -P 4 7M 4k' o.qcow2
    cp o.qcow2 before.qcow2
}

# kept NAME: the overlay shows what it showed before.
kept() {
    check "$1: the content is kept" qemu-img compare "$m/o.qcow2" "$q/before.qcow2"
    check "$1: clean" qemu-img check -q "$m/o.qcow2"
}

for options in cluster_size=64k cluster_size=512 cluster_size=2M compat=0.10,cluster_size=4k; do
    for backing in copy.qcow2 other.qcow2 short.qcow2 long.qcow2 other.raw ''; do
        name="rebase ($options) onto '${backing}'"
        format=${backing##*.}
        both prepare $options
        same "$name" rebase -b "$backing" ${format:+-F "$format"} o.qcow2
        same "$name: info" info o.qcow2
        kept "$name"
    done
done

both prepare
allocated() { qemu-img check "$1" | sed -n 's/^\([0-9]*\)\/.*/\1/p'; }
before=$(allocated "$m/o.qcow2")
(cd "$m" && "$IMG" rebase -b copy.qcow2 -F qcow2 o.qcow2)
check "an equal base costs no cluster" test "$before" = "$(allocated "$m/o.qcow2")"
both prepare
both cp o.qcow2 twice.qcow2
(cd "$m" && "$IMG" rebase -b other.qcow2 -F qcow2 o.qcow2 && "$IMG" rebase -b base.qcow2 -F qcow2 o.qcow2)
kept "there and back"

# Longer chains, and a base within the chain.
deep() {
    prepare cluster_size=64k
    qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
    qemu-io -c 'write -P 7 128k 1M' mid.qcow2
    qemu-img rebase -u -b mid.qcow2 -F qcow2 o.qcow2
    cp o.qcow2 before.qcow2
}
both deep
same "rebase onto the base's base" rebase -b base.qcow2 -F qcow2 o.qcow2
kept "rebase onto the base's base"
both deep
same "rebase of the middle of a chain" rebase -b other.qcow2 -F qcow2 mid.qcow2
kept "rebase of the middle of a chain"
larger() { prepare cluster_size=64k && qemu-img resize -q o.qcow2 16M && cp o.qcow2 before.qcow2; }
both larger
same "an overlay larger than its old base, onto a longer one" rebase -b long.qcow2 -F qcow2 o.qcow2
kept "an overlay larger than its old base, onto a longer one"
both mkdir -p sub
relative() { prepare cluster_size=64k && mkdir -p sub && qemu-img create -q -f qcow2 -b ../base.qcow2 -F qcow2 sub/o.qcow2; }
both relative
same "names are relative to the overlay" rebase -b ../copy.qcow2 -F qcow2 sub/o.qcow2
same "names are relative to the overlay: info" info sub/o.qcow2

# ---- unsafe ----
both prepare
same "-u onto a missing file" rebase -u -b missing -F qcow2 o.qcow2
same "-u onto a missing file: info" info o.qcow2
same_status "then safe mode cannot work" rebase -b copy.qcow2 -F qcow2 o.qcow2
same "-u back" rebase -u -b base.qcow2 -F qcow2 o.qcow2
kept "-u there and back"
same "-u onto nothing" rebase -u -b '' o.qcow2
same "-u onto nothing: info" info o.qcow2

# ---- options ----
both prepare
same "-q" rebase -q -b other.qcow2 -F qcow2 o.qcow2
both prepare
same "-q -p" rebase -q -p -b other.qcow2 -F qcow2 o.qcow2
both prepare
(cd "$m" && "$IMG" rebase -p -b other.qcow2 -F qcow2 o.qcow2) >"$work/progress"
check "-p begins with 0, ends with 100 and a new line" \
    progress_is_whole "$work/progress"
both prepare
same "-t and -T" rebase -t none -T none -f qcow2 -b other.qcow2 -F qcow2 o.qcow2
kept "-t and -T"
both prepare
(cd "$m" && "$IMG" rebase -b other.raw o.qcow2) 2>"$work/said"
check "a missing format is found and said" \
    grep -q 'found and recorded raw' "$work/said"
check "and is in the header" grep -q '^backing file format: raw' <(qemu-img info "$m/o.qcow2")
kept "a missing format"

# ---- -c: later versions of qemu-img have it ----
compressed() { qemu-img check "$1" | sed -n 's/.* \([0-9.]*\)% compressed clusters.*/\1/p'; }
for options in cluster_size=64k cluster_size=512 compression_type=zstd extended_l2=on; do
    for backing in copy.qcow2 other.qcow2 short.qcow2 long.qcow2 other.raw ''; do
        name="-c ($options) onto '${backing}'"
        format=${backing##*.}
        both prepare $options
        check "$name" "$IMG" rebase -c -b "${backing:+$m/$backing}" ${format:+-F "$format"} "$m/o.qcow2"
        kept "$name"
        [ -z "$backing" ] && check "$name: compressed" test "$(compressed "$m/o.qcow2")" != 0.00
    done
done
# Data that ends inside clusters of the overlay.
both prepare cluster_size=2M
(cd "$m" && qemu-img create -q -f raw ragged.raw 8M && for n in 1 3 9 1100 2040 4095 6000; do
    qemu-io -f raw -c "write -P 55 ${n}k 37k" ragged.raw >/dev/null
done && cp o.qcow2 ragged.qcow2 && "$IMG" rebase -u -b ragged.raw -F raw ragged.qcow2 &&
    cp ragged.qcow2 ragged-before.qcow2 && "$IMG" rebase -c -b '' ragged.qcow2)
check "-c of data in pieces: the content is kept" qemu-img compare "$m/ragged.qcow2" "$m/ragged-before.qcow2"
check "-c of data in pieces: clean" qemu-img check -q "$m/ragged.qcow2"
check "-c of data in pieces: compressed" test "$(compressed "$m/ragged.qcow2")" != 0.00

# ---- what is refused ----
both prepare
refuse "-c -u" "$IMG" rebase -c -u -b other.qcow2 -F qcow2 "$m/o.qcow2"
same "neither -b nor -u" rebase o.qcow2
same "no file" rebase -b copy.qcow2
same "unknown format of the base" rebase -b copy.qcow2 -F foo o.qcow2
same "missing base" rebase -b missing -F qcow2 o.qcow2
same "unsafe, missing, no format" rebase -u -b missing o.qcow2
same "unknown cache" rebase -t foo -b '' o.qcow2
same "unknown source cache" rebase -T foo -b '' o.qcow2
same "missing overlay" rebase -b copy.qcow2 -F qcow2 missing
refuse "its own base" "$IMG" rebase -b o.qcow2 -F qcow2 "$m/o.qcow2"
refuse "its own base, unsafe" "$IMG" rebase -u -b o.qcow2 -F qcow2 "$m/o.qcow2"
refuse "raw has no base" "$IMG" rebase -f raw -u -b base.qcow2 -F qcow2 "$m/other.raw"
refuse "json: names" "$IMG" rebase -u -b 'json:{}' -F qcow2 "$m/o.qcow2"
long=$(printf 'n%.0s' $(seq 1100))
refuse "names that are too long" "$IMG" rebase -u -b "$long" -F raw "$m/o.qcow2"
kept "what was refused"
coproc holder { qemu-io "$m/o.qcow2" 2>&1; }
# Bash sets the name with _PID, and unsets it as soon as the process has ended.
# shellcheck disable=SC2154
holder_pid=$holder_PID
echo "read 0 512" >&"${holder[1]}"
read -r _ <&"${holder[0]}"
refuse "an overlay in use" "$IMG" rebase -b copy.qcow2 -F qcow2 "$m/o.qcow2"
echo quit >&"${holder[1]}"
wait "$holder_pid" 2>/dev/null

finish
