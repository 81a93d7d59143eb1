#!/bin/bash
# kill -9 of a process whose four threads write and flush: what a completed flush covered is there, and
# the image has no corruption (clusters may have leaked). Twenty rounds over several kinds of image.
. "$(dirname "$0")/../lib.sh"
blkio=$BUILD/tests/tools/blkio
cd "$work" || exit
RANDOM=${SEED:=$RANDOM}
echo "# seed $SEED (repeat with SEED=)"
kinds=(cluster_size=65536 cluster_size=4096 cluster_size=512 compat=0.10 lazy_refcounts=on)
size=16M threads=4

qemu-img create -q -f qcow2 base.qcow2 $size
"$blkio" base.qcow2 "fill 0 0 $size" || fail "filling the base"

# round NAME KIND: the process dies after a random number of acknowledged flushes.
round() {
    local name=$1 kind=$2 acks=$((RANDOM % 60 + 1)) seed=$RANDOM i status output
    local -a upto
    rm -f top.qcow2
    qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o "$kind" top.qcow2
    for ((i = 0; i < threads; i++)); do upto[i]=none; done
    coproc WRITER { exec "$blkio" top.qcow2 "journal $seed 1000000 $threads"; }
    local pid=$!
    exec 4<&"${WRITER[0]}"
    for ((i = 0; i < acks; i++)); do
        read -r _ thread index <&4 || break
        upto[thread]=$index
    done
    kill -9 "$pid"
    wait "$pid" 2>/dev/null
    # What was acknowledged before the signal but not read yet counts as well.
    while read -r _ thread index <&4; do
        [ -z "$index" ] || upto[thread]=$index
    done
    exec 4<&-
    for ((i = 0; i < threads; i++)); do
        if ! output=$("$blkio" top.qcow2 "replay $seed $i ${upto[i]}" 2>&1); then
            fail "$name" "thread $i, flushed up to ${upto[i]}: $output"
            return
        fi
    done
    output=$(qemu-img check -f qcow2 top.qcow2 2>&1)
    status=$?
    case $status in
    0 | 3) pass "$name" ;;
    *) fail "$name" "qemu-img check: status $status
$output" ;;
    esac
}

for ((n = 0; n < 20; n++)); do
    kind=${kinds[n % ${#kinds[@]}]}
    round "round $n, $kind" "$kind"
done
check "the base is intact" "$blkio" -r base.qcow2 "verify 0 0 $size"
finish
