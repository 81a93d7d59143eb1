#!/bin/bash
# A driver outlives its servers: each is killed in the middle of writes, the next one goes on. Nothing that was
# completed is lost, what was in flight is carried out, and the images are sound (SEED=N for other runs).
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit
outlive=$BUILD/tests/tools/outlive
seed=${SEED:-1}
mib=48 kills=12

truncate -s ${mib}M base.raw
"$IMG" create -q -f qcow2 base.qcow2 ${mib}M

# survives NAME IMAGE[,OPTIONS] FORMAT
survives() {
    local name=$1 image=${2%%,*}
    echo "# SEED=$seed"
    check "$name: nothing is lost in $kills kills" "$outlive" "$IMG" s.sock "$2,discard=on" $mib "$seed" $kills flat
    check "$name: the image holds it" qemu-img compare -q -f "$3" -F raw "$image" flat
    if [ "$3" = qcow2 ]; then
        qemu-img check -q "$image" >/dev/null 2>&1
        check "$name: nothing but leaks" test $? -ne 2
    fi
    rm -f "$image" flat
    seed=$((seed + 1))
}

for options in cluster_size=64k cluster_size=4k extended_l2=on lazy_refcounts=on compat=0.10; do
    "$IMG" create -q -f qcow2 -o $options -b base.qcow2 -F qcow2 o.qcow2
    survives "overlay, $options" o.qcow2 qcow2
done
"$IMG" create -q -f qcow2 o.qcow2 ${mib}M
"$IMG" snapshot -c first o.qcow2
survives "an image with a snapshot" o.qcow2,aio=threads qcow2
"$IMG" create -q -f qcow2 -o data_file=data,data_file_raw=on o.qcow2 ${mib}M
survives "an external data file" o.qcow2 qcow2
cp base.raw o.raw
survives "raw" o.raw,format=raw raw

finish
