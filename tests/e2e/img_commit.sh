#!/bin/bash
# `minivmm-img commit` against qemu-img: the same result on the same chains.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# prepare BASE-OPTIONS BASE-SIZE OVERLAY-OPTIONS OVERLAY-SIZE
prepare() {
    rm -f -- *.qcow2
    qemu-img create -q -f qcow2 -o "$1" base.qcow2 "$2"
    qemu-io -c 'write -P 1 0 3M' base.qcow2
    qemu-img create -q -f qcow2 -o "$3" -b base.qcow2 -F qcow2 o.qcow2 "$4"
    qemu-io -c 'write -P 3 64k 128k' -c 'write -z 1M 70k' -c 'write -P 4 2000k 4k' -c 'write -P 5 3500k 500k' o.qcow2
    cp o.qcow2 before.qcow2
    qemu-img convert -O qcow2 o.qcow2 shown.qcow2
}

committed() {
    same_image "$1: the base" base.qcow2
    same_image "$1: the overlay" o.qcow2
    check "$1: the overlay shows what it showed" qemu-img compare "$m/o.qcow2" "$m/shown.qcow2"
    same "$1: info of the base" info base.qcow2
    same "$1: info of the overlay" info o.qcow2
}

for options in cluster_size=64k cluster_size=512 cluster_size=2M compat=0.10,cluster_size=4k; do
    for sizes in '8M 8M' '4M 16M' '8M 4M'; do
        read -r base overlay <<<"$sizes"
        name="commit ($options, base $base, overlay $overlay)"
        both prepare cluster_size=64k "$base" $options "$overlay"
        same "$name" commit o.qcow2
        committed "$name"
    done
done
both prepare cluster_size=4k 8M cluster_size=64k 8M
same "-d" commit -d o.qcow2
committed "-d"
check "-d leaves the overlay alone" cmp "$m/o.qcow2" "$m/before.qcow2"
both prepare cluster_size=64k 8M cluster_size=64k 8M
same "-q" commit -q o.qcow2
both prepare cluster_size=64k 8M cluster_size=64k 8M
same "-q -p" commit -q -p o.qcow2
both prepare cluster_size=64k 8M cluster_size=64k 8M
same "-f and -t" commit -f qcow2 -t none o.qcow2
committed "-f and -t"
(cd "$m" && "$IMG" commit -p o.qcow2) >"$work/progress"
check "-p ends with 100" grep -q '(100.00/100%)' "$work/progress"
same "a second commit" commit o.qcow2
committed "a second commit"
size=$(stat -c %s "$m/o.qcow2")
check "an emptied overlay is small" test "$size" -le 262144

# Longer chains: into the next layer, the one below it, and the bottom; a layer that is shorter.
deep() {
    prepare cluster_size=64k 8M cluster_size=64k 8M
    qemu-img create -q -f qcow2 -b o.qcow2 -F qcow2 -o cluster_size=4k mid.qcow2 "$1"
    qemu-io -c 'write -P 7 128k 1M' -c 'write -z 512k 64k' mid.qcow2
    qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 -o cluster_size=512 top.qcow2 16M
    qemu-io -c 'write -P 8 1M 8k' -c 'write -P 9 9M 64k' top.qcow2
    qemu-img convert -O qcow2 top.qcow2 shown.qcow2
}
for length in 8M 2M; do
    for base in mid.qcow2 o.qcow2 base.qcow2; do
        name="-b $base (middle of $length)"
        both deep $length
        same "$name" commit -b $base top.qcow2
        same_image "$name: the base" $base
        check "$name: holds everything" qemu-img compare "$m/$base" "$m/shown.qcow2"
        check "$name: is clean" qemu-img check -q "$m/$base"
    done
    both deep $length
    same "commit of the top (middle of $length)" commit top.qcow2
    same_image "commit of the top (middle of $length): its base" mid.qcow2
    check "commit of the top (middle of $length): shows the same" qemu-img compare "$m/top.qcow2" "$m/shown.qcow2"
done
raw() {
    prepare cluster_size=64k 8M cluster_size=64k 8M
    qemu-img convert -O raw base.qcow2 base.raw
    qemu-img rebase -u -b base.raw -F raw o.qcow2
}
both raw
same "into a raw base" commit o.qcow2
same_image "into a raw base: the base" base.raw raw
grow() { raw && qemu-img resize -q o.qcow2 20M && qemu-io -c 'write -P 6 19M 1M' o.qcow2; }
both grow
same "into a raw base that is smaller" commit o.qcow2
same_image "into a raw base that is smaller: the base" base.raw raw
check "which has grown" test "$(stat -c %s "$m/base.raw")" = $((20 << 20))

# ---- what is refused ----
both prepare cluster_size=64k 8M cluster_size=64k 8M
same "no backing file" commit base.qcow2
same "not in the chain" commit -b shown.qcow2 o.qcow2
same "itself" commit -b o.qcow2 o.qcow2
same "no file" commit
same "missing file" commit missing
same "unknown cache" commit -t foo o.qcow2
same "unknown option" commit --foo o.qcow2
both qemu-img rebase -u -b missing -F qcow2 o.qcow2
refuse "missing backing file" "$IMG" commit "$m/o.qcow2"
both prepare cluster_size=64k 8M cluster_size=64k 8M
before=$(sha256sum <"$m/base.qcow2")
coproc holder { qemu-io -r "$m/base.qcow2" 2>&1; }
# Bash sets the name with _PID, and unsets it as soon as the process has ended.
# shellcheck disable=SC2154
holder_pid=$holder_PID
echo "read 0 512" >&"${holder[1]}"
read -r _ <&"${holder[0]}"
refuse "a base that another guest uses" "$IMG" commit "$m/o.qcow2"
check "is not touched" test "$before" = "$(sha256sum <"$m/base.qcow2")"
echo quit >&"${holder[1]}"
wait "$holder_pid" 2>/dev/null
chmod 444 "$m/base.qcow2"
refuse "a base without permission" unprivileged "$IMG" commit "$m/o.qcow2"

finish
