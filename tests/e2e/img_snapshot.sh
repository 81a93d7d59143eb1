#!/bin/bash
# `minivmm-img snapshot` against qemu-img: lists, messages, statuses and content; and killed in the middle.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# Times differ from run to run.
timeless() {
    sed -i -E 's/[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}/DATE/; s/("date-n?sec": )[0-9]+/\1N/' "$@"
}
same_list() {
    run_both "${@:2}"
    timeless "$work"/[qm].out
    check "$1" test -z "$(differences rc out err)"
}

both qemu-img create -q -f qcow2 a.qcow2 4M
both qemu-io -c 'write -P 1 0 1M' -c 'write -c -P 2 2M 256k' a.qcow2
long=$(printf 'x%.0s' {1..300})
same "no snapshots" snapshot -l a.qcow2
same "create" snapshot -c one a.qcow2
both qemu-io -c 'write -P 3 512k 1M' -c 'discard 2M 64k' a.qcow2
same "create quietly" snapshot -q -c two a.qcow2
same "a name twice" snapshot -c two a.qcow2
same "no name" snapshot -c '' a.qcow2
same "a long name" snapshot -c "$long" a.qcow2
same_list "list" snapshot -l a.qcow2
same_list "list, force share" snapshot -U -l a.qcow2
same_list "info" info a.qcow2
same_list "info, json" info --output=json a.qcow2
same_image "content" a.qcow2
same "apply by name" snapshot -a one a.qcow2
same_image "content of the first" a.qcow2
same "apply by id" snapshot -a 2 a.qcow2
same_image "content of the second" a.qcow2
same "delete by name" snapshot -d two a.qcow2
both qemu-img create -q -f qcow2 -o refcount_bits=1 narrow.qcow2 1M
both qemu-io -c 'write -P 1 0 64k' narrow.qcow2
same "refcounts that are too narrow" snapshot -c one narrow.qcow2
same "info of those" info narrow.qcow2
same "delete takes no id" snapshot -d 3 a.qcow2
same_list "list after that" snapshot -l a.qcow2
both qemu-img snapshot -c theirs a.qcow2
both qemu-io -c 'write -P 4 0 3M' a.qcow2
same "apply QEMU's" snapshot -a theirs a.qcow2
same_image "content of QEMU's" a.qcow2
same "delete QEMU's" snapshot -d theirs a.qcow2

for snapshot in one 1 snapshot.name=one snapshot.id=1 snapshot.id=1,snapshot.name=one; do
    same "convert -l $snapshot" convert -l $snapshot -O qcow2 a.qcow2 c.qcow2
    same_image "content of $snapshot" c.qcow2
done
for snapshot in none 77 snapshot.name=none snapshot.id=1,snapshot.name=none snapshot.foo=1; do
    same "convert -l $snapshot" convert -l $snapshot -O qcow2 a.qcow2 d.qcow2
done
same "convert -l of two" convert -l one -O qcow2 a.qcow2 a.qcow2 d.qcow2

same "apply what is not there" snapshot -a none a.qcow2
same "delete what is not there" snapshot -d none a.qcow2
same "nothing to do" snapshot a.qcow2
same "two actions" snapshot -a one -d one a.qcow2
same "list and create" snapshot -l -c x a.qcow2
same "no file" snapshot -l
same "two files" snapshot -l a.qcow2 b.qcow2
same "missing" snapshot -l missing
same "no argument" snapshot -c
same "unknown letter" snapshot -x a.qcow2
same "force share and writing" snapshot -U -c x a.qcow2

both qemu-img create -q -f qcow2 s.qcow2 1M
same "size: create" snapshot -c small s.qcow2
same "size: grow with a snapshot" resize -q s.qcow2 8G
same "size: create again" snapshot -c large s.qcow2
same "size: apply the small one" snapshot -a small s.qcow2
same_list "size: small" info s.qcow2
same "size: apply the large one" snapshot -a large s.qcow2
same_list "size: large" info s.qcow2

both qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
same "version 2: create" snapshot -c s v2.qcow2
same "version 2: no resize" resize v2.qcow2 2M
both qemu-img create -q -f qcow2 b.qcow2 1M
both qemu-img bitmap --add b.qcow2 b0
same "bitmaps: create" snapshot -c s b.qcow2
same "bitmaps: apply" snapshot -a s b.qcow2
same "bitmaps: delete" snapshot -d s b.qcow2
both qemu-img create -q -f raw r.raw 1M
same "raw: list" snapshot -l r.raw

# Killed anywhere, an image is what it was or what it was to be, and no more than leaks.
cd "$work" || exit 1
qemu-img create -q -f qcow2 -o cluster_size=4k before.qcow2 64M
qemu-io -c 'write -P 1 0 40M' before.qcow2 >/dev/null
qemu-img snapshot -c one before.qcow2
qemu-io -c 'write -P 2 10M 20M' before.qcow2 >/dev/null
kills=0
for delay in 0.005 0.01 0.02 0.03 0.05 0.08; do
    for action in "-c two" "-a one" "-d one"; do
        cp before.qcow2 k.qcow2
        # shellcheck disable=SC2086
        "$IMG" snapshot $action k.qcow2 >/dev/null 2>&1 &
        pid=$!
        sleep $delay
        kill -KILL $pid 2>/dev/null
        wait $pid 2>/dev/null
        [ $? -ne 137 ] || kills=$((kills + 1))
        qemu-img check -q k.qcow2 >check.log 2>&1
        status=$?
        check "killed after ${delay}s, $action: leaks at most" test $status = 0 -o $status = 3
        # shellcheck disable=SC2086
        check "killed after ${delay}s, $action: another one goes on" "$IMG" snapshot -c more k.qcow2
    done
done
check "some were killed in the middle" test $kills -gt 0
finish
