#!/bin/bash
# --backing-root: no command opens, or makes an image name, a backing or data file that lies elsewhere.
. "$(dirname "$0")/../lib.sh"
command -v qemu-img >/dev/null || { echo "1..0 # SKIP qemu-img is not installed"; exit 0; }

cd "$work" || exit 1
mkdir -p root/sub outside
{
    for file in root/sub/base.raw outside/base.raw root/twin.raw; do
        qemu-img create -q -f raw $file 1M
    done
    qemu-img create -q -f qcow2 outside/base.qcow2 1M
    ln -s ../outside root/way
    ln -s ../outside/base.raw root/link.raw
    ln -s ../outside/later.raw root/later.raw
    qemu-img create -q -f qcow2 -b sub/base.raw -F raw root/good.qcow2
    qemu-img create -q -f qcow2 -b "$work/outside/base.raw" -F raw root/absolute.qcow2
    qemu-img create -q -f qcow2 -b ../outside/base.raw -F raw root/relative.qcow2
    qemu-img create -q -f qcow2 -b link.raw -F raw root/link.qcow2
    qemu-img create -q -f qcow2 -b way/base.raw -F raw root/folder.qcow2
    # It is the one below which leads outside.
    qemu-img create -q -f qcow2 -b relative.qcow2 -F qcow2 root/deep.qcow2
    "$IMG" create -q -f qcow2 -o data_file=sub/data root/data.qcow2 1M
    "$IMG" create -q -f qcow2 -o data_file=../outside/data root/far-data.qcow2 1M
} >prepared 2>&1 || fail "preparing" "$(cat prepared)"
cp outside/base.raw before.raw

rooted() {
    "$IMG" --backing-root root "$@"
}

fresh() {
    cp "root/$1.qcow2" root/top.qcow2
}

outside() {
    local name=$1 said status
    shift
    said=$(rooted "$@" 2>&1)
    status=$?
    if [ $status -eq 1 ] && grep -q "lies outside the backing root" <<<"$said"; then
        pass "$name"
    else
        fail "$name" "status $status: $said"
    fi
}

# ---- what lies inside ----

fresh good
check "info of a chain inside" rooted info --backing-chain root/top.qcow2
check "convert inside" rooted convert -O raw root/top.qcow2 out.raw
check "commit inside" rooted commit -q root/top.qcow2
check "rebase inside" rooted rebase -q -b twin.raw -F raw root/top.qcow2
check "rebase -u inside" rooted rebase -q -u -b sub/base.raw -F raw root/top.qcow2
check "rebase -u to what is not there yet" rooted rebase -q -u -b sub/new.raw -F raw root/top.qcow2
check "rebase -u to nothing" rooted rebase -q -u -b "" root/top.qcow2
check "create inside" rooted create -q -f qcow2 -b sub/base.raw -F raw root/new.qcow2
check "create with a data file inside" rooted create -q -f qcow2 -o data_file=sub/new root/new.qcow2 1M
check "a data file inside" rooted convert -O raw root/data.qcow2 out.raw
check "resize with a data file inside" rooted resize -q root/data.qcow2 2M
check "an image that lies elsewhere itself" rooted info outside/base.qcow2

# ---- what does not: opened ----

for how in absolute relative link folder deep; do
    fresh $how
    outside "info of a chain, $how" info --backing-chain root/top.qcow2
    outside "convert, $how" convert -O raw root/top.qcow2 out.raw
    outside "commit, $how" commit -q root/top.qcow2
    outside "resize, $how" resize -q root/top.qcow2 2M
    outside "snapshot -c, $how" snapshot -c s root/top.qcow2
    outside "rebase, $how" rebase -q -b twin.raw -F raw root/top.qcow2
    outside "create over it, $how" create -q -f qcow2 -b top.qcow2 -F qcow2 root/new.qcow2
    # These look at the image alone.
    check "info, $how" rooted info root/top.qcow2
    check "check, $how" rooted check -q root/top.qcow2
    check "rebase -u away, $how" rooted rebase -q -u -b sub/base.raw -F raw root/top.qcow2
done
outside "convert of a data file" convert -O raw root/far-data.qcow2 out.raw
outside "resize of a data file" resize -q root/far-data.qcow2 2M

# ---- what does not: named ----

for name in "$work/outside/base.raw" ../outside/base.raw link.raw way/base.raw ../outside/none.raw \
    way/none.raw; do
    fresh good
    cp root/top.qcow2 was.qcow2
    outside "rebase -u to $name" rebase -q -u -b "$name" -F raw root/top.qcow2
    outside "rebase to $name" rebase -q -b "$name" -F raw root/top.qcow2
    check "the image is as it was" cmp root/top.qcow2 was.qcow2
    rm -f root/new.qcow2
    outside "create -u over $name" create -q -f qcow2 -u -b "$name" -F raw root/new.qcow2 1M
    check "no image was made" [ ! -e root/new.qcow2 ]
done
outside "rebase without a format" rebase -q -u -b ../outside/base.raw root/top.qcow2
refuse "create with a data file outside" \
    rooted create -q -f qcow2 -o data_file=../outside/new root/new.qcow2 1M
check "neither was made" [ ! -e root/new.qcow2 -a ! -e outside/new ]
refuse "create over a data file outside" \
    rooted create -q -f qcow2 -o data_file=../outside/base.raw root/new.qcow2 2M
refuse "rebase -u into a folder that is missing" \
    rooted rebase -q -u -b none/base.raw -F raw root/top.qcow2
# It may be named, since it leads nowhere, and is judged when there is something.
fresh good
check "a link that leads nowhere" rooted rebase -q -u -b later.raw -F raw root/top.qcow2
cp outside/base.raw outside/later.raw
outside "it leads outside now" convert -O raw root/top.qcow2 out.raw

check "what lies outside is as it was" cmp outside/base.raw before.raw
refuse "a root that is missing" "$IMG" --backing-root none info --backing-chain root/good.qcow2
finish
