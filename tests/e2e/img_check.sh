#!/bin/bash
# `minivmm-img check` against qemu-img: output, exit status and repair of damaged images. The counts
# over many kinds of damage are compared in tests/unit/blockdev/test_qcow2_check.c.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# refcount FILE CLUSTER VALUE: images here have their only refcount block at 0x20000.
refcount() {
    printf '%b' "\\x00\\x0$3" | dd of="$1" bs=1 seek=$((0x20000 + 2 * $2)) conv=notrunc status=none
}

verdicts_agree() {
    local theirs
    qemu-img check -q "$1" >/dev/null 2>&1
    theirs=$?
    "$IMG" check -q "$1" >/dev/null 2>&1
    [ "$theirs" = $? ]
}

both qemu-img create -q -f qcow2 good.qcow2 64M
both io good.qcow2 'write -P 1 0 1M' 'write -z 8M 64k' 'write -P 2 32M 192k'
both qemu-img create -q -f raw r.raw 1M
both qemu-img create -q -f qcow2 empty.qcow2 64M
both qemu-img convert -c -O qcow2 good.qcow2 compressed.qcow2
both qemu-img create -q -f qcow2 scattered.qcow2 8M
both io scattered.qcow2 'write 320k 64k' 'write 192k 64k' 'write 64k 64k' 'write 448k 64k' 'write 576k 64k'
both cp good.qcow2 leaks.qcow2
both refcount leaks.qcow2 7 3
both refcount leaks.qcow2 9 2
both cp good.qcow2 low.qcow2
both io low.qcow2 'write 128k 64k'
both qemu-img snapshot -c one low.qcow2
both cp low.qcow2 snapshot.qcow2
both refcount low.qcow2 7 1
both cp good.qcow2 lost.qcow2
both refcount lost.qcow2 7 0
both cp lost.qcow2 mixed.qcow2
both refcount mixed.qcow2 9 2
# An image with the dirty bit, as after a crash with lazy refcounts.
dirty() {
    cp lost.qcow2 dirty.qcow2 && printf '\x01' | dd of=dirty.qcow2 bs=1 seek=79 conv=notrunc status=none
}
both dirty

for image in good empty compressed scattered leaks low lost mixed snapshot dirty; do
    same "check $image" check $image.qcow2
    same "check -q $image" check -q $image.qcow2
    same "check --output=json $image" check --output=json $image.qcow2
    for what in leaks all; do
        both cp $image.qcow2 copy.qcow2
        same_status "check -r $what $image: as qemu-img" check -r $what copy.qcow2
        check "check -r $what $image: we agree with qemu-img about the result" \
            verdicts_agree "$m/copy.qcow2"
    done
    check "check -r all $image: clean" qemu-img check -q "$m/copy.qcow2"
    check "check -r all $image: the guest's data is as before" qemu-img compare "$m/copy.qcow2" "$q/$image.qcow2"
done
both cp leaks.qcow2 copy.qcow2
same "json of a repair" check -r leaks --output=json copy.qcow2
both cp leaks.qcow2 copy.qcow2
same "a quiet repair" check -q -r all copy.qcow2
"$IMG" check -q -r all "$m/dirty.qcow2" 2>/dev/null
check "the dirty bit is cleared by a repair" grep -q '"dirty-flag": false' <(qemu-img info --output=json "$m/dirty.qcow2")

same "no check for raw" check r.raw
same "no check for raw, in json" check --output=json r.raw
same "-U" check -U good.qcow2
same "-T" check -T none good.qcow2
same "-f" check -f qcow2 good.qcow2
same "missing file" check missing
same "no file" check
same "unknown repair" check -r foo good.qcow2
same "repair of nothing" check -r
same "unknown cache" check -T foo good.qcow2
same "unknown format" check -f foo good.qcow2
same "unknown output" check --output=foo good.qcow2
same_status "not qcow2" check -f qcow2 r.raw

# ---- an L1 entry leads to the table of a bitmap, which is no L2 table to be repaired ----
cd "$work" || exit 1
qemu-img create -q -f qcow2 -o data_file=over.data over.qcow2 1G
qemu-img bitmap --add over.qcow2 one
qemu-io -c 'write -P 1 64k 64k' over.qcow2 >/dev/null
table_of() {
    python3 - "$@" <<'EOF'
import struct, sys
import qcow2_header
image = bytearray(open(sys.argv[1], "rb").read())
table, entries = qcow2_header.first_bitmap_table(image)
print(image[table:table + 8 * entries].hex())
if len(sys.argv) > 2:
    struct.pack_into(">Q", image, qcow2_header.l1_table(image) + 8, table | 1 << 63)
    open(sys.argv[2], "wb").write(image)
EOF
}
table_of over.qcow2 astray.qcow2 >table.before
"$IMG" check -r all astray.qcow2 >astray.out 2>&1
check "an L1 entry leads to a bitmap's table: that is found" grep -q 'ERROR' astray.out
table_of astray.qcow2 >table.after
check "an L1 entry leads to a bitmap's table: which is as it was" cmp table.before table.after

# ---- entries of a bitmap's table that are malformed: qemu-img cannot check such an image, or even open it ----
for bits in 0x0800000000000000 0x1 0x200; do
    python3 - over.qcow2 malformed.qcow2 $bits <<'EOF'
import struct, sys
import qcow2_header
image = bytearray(open(sys.argv[1], "rb").read())
table, _ = qcow2_header.first_bitmap_table(image)
struct.pack_into(">Q", image, table, struct.unpack_from(">Q", image, table)[0] | int(sys.argv[3], 0))
open(sys.argv[2], "wb").write(image)
EOF
    "$IMG" check malformed.qcow2 >malformed.out 2>&1
    check "a bitmap's table with $bits in an entry: corrupt" test $? = 2
    check "a bitmap's table with $bits in an entry: is said" grep -q 'of the bitmap table at .* is malformed' malformed.out
    refuse "a bitmap's table with $bits in an entry: qemu-img" qemu-img check malformed.qcow2
done

finish
