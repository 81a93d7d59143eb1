#!/bin/bash
# `minivmm-io` against qemu-io: reading and writing, alone and in vectors, and what may be wrong with it.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/io_lib.sh"

both qemu-img create -q -f qcow2 base 2M
both qemu-io -c 'write -P 3 0 2M' base
both qemu-img create -q -f qcow2 -b base -F qcow2 a 2500K
both qemu-img create -q -f raw raw 1M
both bash -c 'printf abc >pattern; : >empty; head -c 100000 /dev/zero | tr "\0" x >long'

# What one program wrote as VM state, read by the other one.
other_reads() {
    local reader=$MIO
    [ "$2" = q ] || reader=qemu-io
    (cd "$1/$([ "$2" = q ] && echo qemu || echo minivmm)" &&
        "$reader" -r -c 'read -b -P 1 0 512' -c 'read -b -P 3 512 10k' -c 'read -b -P 2 10M 100k' -c 'read -b -P 4 20M 64k' "$3")
}

same_io "write and read" -- a 'write 0 64k' 'read -P 0xcd 0 64k' 'write -P 7 1000 70000' \
    'read -P 7 1000 70000' 'read -P 3 71000 1k' 'r 0 1k' 'w 1M 1k'
same_image "... the image" a
same_io "another pattern fails" -- a 'read -P 1 0 4k' 'read 0 512'
same_io "... and the next commands run" -- a 'foo' 'length' 'read 0'
same_io "parts of a pattern" -- a 'read -P 3 -s 5 -l 50 200k 1k' 'read -P 3 -s 1023 200k 1k' \
    'read -P 4 -s 5 -l 50 200k 1k' 'read -P 3 -l 0 200k 1k'
same_io "parts that are none" -- a 'read -s 5 0 4k' 'read -l 5 0 4k' 'read -P 3 -s 5 -l 5000 0 4k' \
    'read -P 3 -s 5000 0 4k' 'read -P 3 -s x 0 4k' 'read -P 3 -l x 0 4k'
same_io "dump" -- a 'write -P 65 10 7' 'read -v 1 40' 'read -v 0 16' 'read -v 2499k 17' 'read -qv 0 40'
same_io "reports" -- a 'read -C 0 4k' 'read -q 0 4k' 'read -Cq 0 4k' 'write -C 0 4k' 'write -q 0 4k'
same_io "sizes" -- a 'read 0x200 1k' 'read 1.5k 1K' 'read 1M 0' 'write 0 0' 'write -z 0 0' 'read 2559999 1'
for bad in '' '0' 'x 1k' '0 x' '0 1kk' '-- -1 1k' '0 8E' '99999999999999999999 1' '0 3G' '0 2147483136' \
    '2500k 1' '2499k 2k' '8191P 1' '-Z 0 1k' '-P 300 0 1k' '-P x 0 1k' '-P' '0 1k 1k'; do
    same_io "read $bad" -- a "read $bad"
    same_io "write $bad" -- a "write $bad"
done
same_io "zeros" -- a 'write -z 0 100k' 'read -P 0 0 100k' 'write -z -u 128k 200000' 'write -z 1000 10' \
    'write -zn 1M 128k' 'write -zn 1M 4k' 'write -zn 1028k 64k' 'write -z 2496k 4k' 'read -P 0 2496k 4k'
same_image "... the image" a
same_io "a file's bytes" -- a 'write -s pattern 0 64k' 'read -v 0 20' 'write -s long 100 90000' \
    'read -P 120 100 90000' 'write -s long 0 200000' 'write -q -s empty 0 1k' 'write -s missing 0 1k' 'write -s . 0 1k'
same_image "... the image" a
same_io "options that exclude each other" -- a 'write -z -P 1 0 1k' 'write -z -s pattern 0 1k' \
    'write -P 1 -s pattern 0 1k' 'write -u 0 1k' 'write -n 0 1k' 'write -z -b 0 1k' 'write -f -c 0 64k' 'write -f -b 0 1k'
same_io "force unit access" -- a 'write -f 0 64k' 'write -z -f 64k 64k' 'write -p 3 3'
both qemu-img create -q -f qcow2 c 10000K
same_io "compressed" -- c 'write -c -P 3 0 64k' 'write -c 128k 256k' 'read -P 3 0 64k' 'write -c -P 5 9984k 16k' \
    'write -c 512 512' 'write -c 64k 100k' 'write -c 0 1' 'write -c 1 512' 'write -c 9984k 1k' 'write -c 20M 64k' 'write -zc 1M 64k'
same_image "... the image" c
same_io "compressed: not raw" -f raw -- raw 'write -c 0 64k'
same_io "raw" -f raw -- raw 'write -P 9 100 1000' 'read -P 9 100 1000' 'read -P 0 0 100' 'write -z 0 500' 'write 1M 1'
same_image "... the image" raw raw

# VM state, behind the disk: where QEMU has it, and each program reads what the other wrote.
both qemu-img create -q -f qcow2 -b base -F qcow2 v 1500K
both qemu-img create -q -f qcow2 -o cluster_size=4k,extended_l2=off v4 5M
both qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on vx 5M
for file in v v4 vx; do
    same_io "VM state: $file" -- $file 'write -P 8 0 1M' 'write -b -P 1 0 1k' 'write -b -P 2 10M 100k' 'read -b -P 1 0 1k' \
        'read -b -P 2 10M 100k' 'read -b -P 0 1k 1k' 'read -b -P 0 9M 1M' 'read -b -P 0 20G 1k' 'read -P 8 0 1M' length \
        'write -b -P 3 512 10k' 'read -b -P 1 0 512' 'read -b -P 3 512 10k' 'write -b 1 512' 'write -b 0 1' 'read -b 0 20' \
        'write -bc -P 4 20M 64k' 'write -b -s pattern 30M 1k' 'write -b 0 0' 'read -P 8 0 1M'
    same_image "... the image" $file
    for side in q m; do
        check "... $side's, by the other" other_reads "$work" $side $file
    done
done
same_io "VM state: too far" -- v 'write -b 7E 1k'
same_io "VM state: raw has none" -f raw -- raw 'write -b 0 1k' 'read -b 0 1k'
same_io "VM state: read-only" -r -- v 'write -b 0 1k' 'read -b -P 1 0 512'
both bash -c 'qemu-img snapshot -c one v && qemu-io -c "write -b -P 6 0 64k" v && qemu-img snapshot -a one v'
same_io "VM state: shared with a snapshot" -- v 'read -b -P 1 0 512' 'write -b -P 7 0 1k' 'read -b -P 7 0 1k'
same_image "... the image" v

same_io "vectors" -- a 'writev 0 1k 2k' 'readv -P 0xcd 0 1k 2k' 'readv -P 1 0 1k 1k' 'writev -P 9 1001 7 8 9' \
    'readv -v 1000 7 8 9 10' 'writev -q 0 1k' 'writev -C 0 1k' 'writev -f 0 512' 'readv -C 0 1' 'readv -q 0 1' 'writev 0 0'
same_image "... the image" a
for bad in '' '0' '0 x' '0 1k x' 'x 1k' '0 3G' '0 1G 1G' '2500k 1k' '-Z 0 1k' '-P x 0 1'; do
    same_io "readv $bad" -- a "readv $bad"
    same_io "writev $bad" -- a "writev $bad"
done
same_io "read-only" -r -- a 'write 0' 'write x y' 'write 0 1k' 'writev 0 1k' 'aio_write 0 1k' 'discard 0 1k' \
    'truncate 1' 'flush' 'write -z 0 1k' 'read 0 1k'
same_io "misaligned buffers" -m -- a 'write -P 7 64k 1k' 'readv -P 7 64k 512 512'
same_io "without the page cache" -n -- a 'write -P 7 64k 1k' 'read -P 7 64k 1k' 'write -P 8 1 1'
same_image "... the image" a

# Where the engine can do more: qemu-io cannot write a cluster compressed that holds something already.
check "compressed, over data" bash -c "
    '$MIO' -c 'write -P 1 1M 64k' -c 'write -c -P 2 1M 64k' -c 'read -P 2 1M 64k' '$m/c' && qemu-img check '$m/c'"
# A written block is durable before qemu-io reports it, unless the cache mode says otherwise: so it
# outlives an abort.
both qemu-img create -q -f qcow2 d 1M
same_io_status "abort" -- d 'write -P 5 0 64k' 'abort'
same_io "... after it" -- d 'read -P 5 0 64k'
finish
