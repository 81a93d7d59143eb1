#!/bin/bash
# `minivmm-img create` against qemu-img: every option, the message, and the image that results.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# create NAME FILE ARGUMENTS...: the same output, and `info` and `check` agree on the two images.
created() {
    local name=$1 file=$2
    shift 2
    same "create: $name" create "$@"
    same "info after create: $name" info "./$file"
    if text=$(timeout 20 qemu-img check "$m/$file" 2>&1); then
        pass "qemu-img check after create: $name"
    else
        fail "qemu-img check after create: $name" "$text"
    fi
}

created "plain" a.qcow2 -f qcow2 a.qcow2 64M
created "no size at all" zero.qcow2 -f qcow2 zero.qcow2 0
created "odd size" odd.qcow2 -f qcow2 odd.qcow2 1000
created "fraction" frac.qcow2 -f qcow2 frac.qcow2 1.5M
created "hexadecimal" hex.qcow2 -f qcow2 hex.qcow2 0x100000
created "size as an option" opt.qcow2 -f qcow2 -o size=20M opt.qcow2
for bits in 512 1k 2k 4k 8k 16k 32k 64k 128k 256k 512k 1M 2M; do
    created "cluster size $bits" c$bits.qcow2 -f qcow2 -o cluster_size=$bits c$bits.qcow2 33M
done
for compat in 0.10 v2 1.1 v3; do
    created "compat $compat" v$compat.qcow2 -f qcow2 -o compat=$compat v$compat.qcow2 8M
done
created "lazy refcounts" lazy.qcow2 -f qcow2 -o lazy_refcounts=on lazy.qcow2 8M
for bits in 1 2 4 8 16 32 64 0x10 020; do
    created "refcount_bits=$bits" rb.qcow2 -f qcow2 -o refcount_bits=$bits rb.qcow2 8M
    created "refcount_bits=$bits, many clusters" rb.qcow2 -f qcow2 \
        -o refcount_bits=$bits,cluster_size=512,preallocation=metadata rb.qcow2 10M
    same_image "which reads as zeros: refcount_bits=$bits" rb.qcow2
done
for bits in 0 3 65 128 -1 4294967297 99999999999 18446744073709551617 16k 1x '' ' '; do
    same "refcount_bits='$bits'" create -f qcow2 -o "refcount_bits=$bits" n.qcow2 8M
done
for type in zlib zstd; do
    created "compression_type=$type" ct.qcow2 -f qcow2 -o compression_type=$type ct.qcow2 8M
done
same "another compression type" create -f qcow2 -o compression_type=lz4 n.qcow2 8M
same "compression types have small letters" create -f qcow2 -o compression_type=ZLIB n.qcow2 8M
# What two faults are answered with is QEMU's order.
for options in refcount_bits=8 compression_type=zstd extended_l2=on lazy_refcounts=on \
    extended_l2=on,cluster_size=8k extended_l2=on,lazy_refcounts=on compression_type=zstd,refcount_bits=1 \
    refcount_bits=3,cluster_size=100 lazy_refcounts=on,refcount_bits=3 compression_type=xx,preallocation=xx; do
    same "version 2 with $options" create -f qcow2 -o "compat=0.10,$options" n.qcow2 8M
done
same "extended L2 needs large clusters" create -f qcow2 -o extended_l2=on,cluster_size=8k n.qcow2 8M
same "extended L2 is on or off" create -f qcow2 -o extended_l2=foo n.qcow2 8M
created "two -o, the last one counts" two.qcow2 -f qcow2 -o cluster_size=64k -o cluster_size=4k two.qcow2 1M
for mode in off metadata falloc full; do
    for cluster in 512 64k 2M; do
        created "preallocation $mode, clusters of $cluster" p.qcow2 -f qcow2 \
            -o preallocation=$mode,cluster_size=$cluster p.qcow2 10M
        same_image "preallocated content: $mode, $cluster" p.qcow2
    done
done
# Both images are looked at with qemu-img: what the header says, content and what is allocated.
extended() {
    local name=$1 text
    shift
    same "create: extended L2, $name" create "$@"
    if text=$(diff <(cd "$q" && qemu-img info e.qcow2 | grep -v '^disk size') \
        <(cd "$m" && qemu-img info e.qcow2 | grep -v '^disk size')) &&
        text=$(qemu-img check "$m/e.qcow2" 2>&1) &&
        text=$(qemu-img compare -s "$q/e.qcow2" "$m/e.qcow2"); then
        pass "the same image to QEMU: extended L2, $name"
    else
        fail "the same image to QEMU: extended L2, $name" "$text"
    fi
}
for mode in off metadata falloc full; do
    for cluster in 16k 64k 2M; do
        extended "$mode, clusters of $cluster" -f qcow2 \
            -o extended_l2=on,preallocation=$mode,cluster_size=$cluster e.qcow2 35000K
    done
done
both qemu-img create -q -f qcow2 xbase.qcow2 3M
both qemu-io -c 'write -P 7 1M 1M' xbase.qcow2
for mode in off metadata falloc full; do
    extended "$mode over a base" -f qcow2 -o extended_l2=on,preallocation=$mode -b xbase.qcow2 -F qcow2 e.qcow2
    check "QEMU writes subclusters into it: $mode" qemu-io -c 'write -P 9 1M 2k' "$m/e.qcow2"
    check "and finds it sound: $mode" qemu-img check -q "$m/e.qcow2"
done
same "preallocation over a base needs extended L2" create -f qcow2 -o preallocation=metadata \
    -b xbase.qcow2 -F qcow2 n.qcow2
same "and is said before lazy refcounts are" create -f qcow2 \
    -o preallocation=metadata,lazy_refcounts=on,compat=v2 -b xbase.qcow2 -F qcow2 n.qcow2
same "what it is not: extended L2 off" create -f qcow2 -o extended_l2=off,compression_type=zlib x.qcow2 1M
same "quiet" create -q -f qcow2 quiet.qcow2 1M
same "raw" create -f raw r.raw 10M
same "raw is the default" create default 10M
same "raw, odd size" create -f raw odd.raw 1000
for mode in off falloc full; do
    same "raw, preallocation $mode" create -f raw -o preallocation=$mode pre.raw 3M
    same_image "raw content: $mode" pre.raw raw
done
same "raw info" info odd.raw

# ---- overlays ----
both io a.qcow2 'write -P 17 0 1M'
created "overlay" o.qcow2 -f qcow2 -b a.qcow2 -F qcow2 o.qcow2
created "overlay, larger" ol.qcow2 -f qcow2 -b a.qcow2 -F qcow2 ol.qcow2 128M
created "overlay, smaller" os.qcow2 -f qcow2 -b a.qcow2 -F qcow2 os.qcow2 4M
created "overlay over raw" or.qcow2 -f qcow2 -b r.raw -F raw or.qcow2
created "overlay by options" oo.qcow2 -f qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 oo.qcow2
created "overlay of an overlay, v2" o2.qcow2 -f qcow2 -o compat=0.10,cluster_size=4k -b o.qcow2 -F qcow2 o2.qcow2
created "overlay with 512-byte clusters" o5.qcow2 -f qcow2 -o cluster_size=512 -b a.qcow2 -F qcow2 o5.qcow2
same_image "overlays show the base" o2.qcow2
both mkdir -p sub
same "base relative to the image" create -f qcow2 -b ../a.qcow2 -F qcow2 sub/o.qcow2
same "and shown so" info sub/o.qcow2
same "base relative to the image, not to here" create -f qcow2 -b a.qcow2 -F qcow2 sub/p.qcow2
same "unsafe: no look at the base" create -f qcow2 -u -b missing -F qcow2 u.qcow2 10M
same "unsafe needs a size" create -f qcow2 -u -b missing -F qcow2 u.qcow2
both cp a.qcow2 'na,me with blanks.qcow2'
created "names with comma and blanks" 'x y.qcow2' -f qcow2 -b 'na,me with blanks.qcow2' -F qcow2 'x y.qcow2'
both cp a.qcow2 ./co:lon.qcow2
created "names with a colon, as paths" ov:er.qcow2 -f qcow2 -b ./co:lon.qcow2 -F qcow2 ./ov:er.qcow2
both cp a.qcow2 'ünï-日本.qcow2'
created "names in UTF-8" 'über.qcow2' -f qcow2 -b 'ünï-日本.qcow2' -F qcow2 'über.qcow2'

# Without -F qemu-img refuses; here the format is found, said, and recorded.
(cd "$m" && "$IMG" create -q -f qcow2 -b a.qcow2 found.qcow2) 2>"$work/said"
if grep -q 'found and recorded qcow2' "$work/said" &&
    qemu-img info "$m/found.qcow2" | grep -q '^backing file format: qcow2'; then
    pass "a missing backing format is found, said and recorded"
else
    fail "a missing backing format is found, said and recorded" "$(cat "$work/said")"
fi
(cd "$m" && "$IMG" create -q -f qcow2 -b r.raw foundraw.qcow2) 2>/dev/null
check "so is raw" grep -q 'format: raw' <(qemu-img info "$m/foundraw.qcow2")

# ---- what is refused ----
same "no size" create -f qcow2 n.qcow2
same "no file name" create -f qcow2
same "two sizes" create -f qcow2 -o size=20M n.qcow2 10M
same "too many arguments" create -f qcow2 n.qcow2 10 20
same "not a size" create -f qcow2 n.qcow2 abc
same "unknown suffix" create -f qcow2 n.qcow2 1Z
same "size beyond 2^63" create -f qcow2 n.qcow2 9223372036854775808
same "size beyond 2^63, with a suffix" create -f qcow2 n.qcow2 1000000P
same "image too large for its clusters" create -f qcow2 -o cluster_size=512 n.qcow2 1T
same "image too large" create -f qcow2 n.qcow2 100P
same "clusters too small" create -f qcow2 -o cluster_size=256 n.qcow2 10M
same "clusters too large" create -f qcow2 -o cluster_size=4M n.qcow2 10M
same "clusters not a power of two" create -f qcow2 -o cluster_size=5000 n.qcow2 10M
same "cluster size not a size" create -f qcow2 -o cluster_size=x n.qcow2 10M
same "unknown format" create -f foo n 10M
same "unknown option" create -f qcow2 -o foo=1 n.qcow2 10M
same "option of another format" create -f raw -o cluster_size=4k n.raw 10M
same "unknown compat" create -f qcow2 -o compat=1.2 n.qcow2 10M
same "lazy refcounts in v2" create -f qcow2 -o compat=v2,lazy_refcounts=on n.qcow2 10M
same "lazy refcounts neither on nor off" create -f qcow2 -o lazy_refcounts=x n.qcow2 10M
same "unknown preallocation" create -f qcow2 -o preallocation=foo n.qcow2 10M
same "raw has no metadata to preallocate" create -f raw -o preallocation=metadata n.raw 10M
same "preallocation over a base" create -f qcow2 -o preallocation=metadata -b a.qcow2 -F qcow2 n.qcow2
same "empty option list" create -f qcow2 -o '' n.qcow2 1M
same "raw with a base" create -f raw -b a.qcow2 -F qcow2 n.raw
same "missing base" create -f qcow2 -b missing -F qcow2 n.qcow2 10M
same "missing base without a size" create -f qcow2 -b missing -F qcow2 n.qcow2
same "empty base name" create -f qcow2 -b '' -F qcow2 n.qcow2 1M
same "unknown base format" create -f qcow2 -b a.qcow2 -F foo n.qcow2
same "base format without a base" create -f qcow2 -F qcow2 n.qcow2 1M
same "its own base" create -f qcow2 -b a.qcow2 -F qcow2 a.qcow2
same "missing folder" create -f qcow2 missing/n.qcow2 1M
same "a folder" create -f qcow2 sub 1M
same "unknown switch" create --foo
same "unknown letter" create -Z
same "missing argument" create -f
for option in encryption=on encrypt.format=luks data_file_raw=on; do
    refuse "refused by name: $option" "$IMG" create -q -f qcow2 -o $option "$m/n.qcow2" 1M
done
(cd "$m" && "$IMG" create -q -f qcow2 n.qcow2 -10G) 2>"$work/said"
check "negative sizes are refused" grep -q 'Must be between 0 and' "$work/said"
refuse "a base by protocol" "$IMG" create -q -f qcow2 -b nbd://localhost -F raw "$m/n.qcow2" 1M
refuse "a base by json" "$IMG" create -q -f qcow2 -b 'json:{"driver":"file"}' -F raw "$m/n.qcow2" 1M
ln -s a.qcow2 "$m/link.qcow2"
refuse "its own base through a link" "$IMG" create -q -f qcow2 -b link.qcow2 -F qcow2 "$m/a.qcow2"
refuse "its own base further down" "$IMG" create -q -f qcow2 -b o2.qcow2 -F qcow2 "$m/a.qcow2"
check "which stays as it was" qemu-img compare "$m/a.qcow2" "$q/a.qcow2"
mkfifo "$m/fifo"
refuse "a FIFO, without hanging" timeout 10 "$IMG" create -q -f qcow2 "$m/fifo" 1M
if [ -e "$m/n.qcow2" ] || [ -e "$m/n" ] || [ -e "$m/n.raw" ]; then
    fail "what failed leaves nothing behind" "$(ls "$m")"
else
    pass "what failed leaves nothing behind"
fi

# ---- locks ----
coproc holder { qemu-io "$m/a.qcow2" 2>&1; }
# Bash sets the name with _PID, and unsets it as soon as the process has ended.
# shellcheck disable=SC2154
holder_pid=$holder_PID
# The first answer shows that the image is open.
echo "read 0 512" >&"${holder[1]}"
read -r _ <&"${holder[0]}"
before=$(sha256sum <"$m/a.qcow2")
refuse "an image in use is not overwritten" "$IMG" create -q -f qcow2 "$m/a.qcow2" 1M
check "and is unchanged" test "$before" = "$(sha256sum <"$m/a.qcow2")"
check "a base in use can get an overlay" "$IMG" create -q -f qcow2 -b a.qcow2 -F qcow2 "$m/inuse.qcow2"
echo quit >&"${holder[1]}"
wait "$holder_pid" 2>/dev/null

finish
