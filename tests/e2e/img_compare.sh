#!/bin/bash
# `minivmm-img compare` against qemu-img: what differs first, in every kind of pair, exit status and all; and
# against cmp of the same images as raw files.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

# One image of each kind of first cluster, read by both programs: nothing is written here.
make_pairs() {
    qemu-img create -q -f qcow2 base.qcow2 1M && qemu-io -c 'write -P 7 0 64k' base.qcow2 &&
        qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 p.backed 1M &&
        qemu-img create -q -f qcow2 p.unallocated 1M &&
        qemu-img create -q -f qcow2 p.zero 1M && qemu-io -c 'write -z 0 64k' p.zero &&
        qemu-img create -q -f qcow2 p.data 1M && qemu-io -c 'write -P 7 0 64k' p.data &&
        qemu-img create -q -f qcow2 p.compressed 1M &&
        qemu-io -c 'write -c -P 7 0 64k' p.compressed &&
        qemu-img create -q -f qcow2 -o preallocation=metadata p.preallocated 1M &&
        qemu-img create -q -f qcow2 p.zeros 1M && qemu-io -c 'write -P 0 0 64k' p.zeros &&
        qemu-img create -q -f qcow2 p.kept 1M &&
        qemu-io -c 'write -P 0 0 64k' -c 'write -z 0 64k' p.kept &&
        qemu-img create -q -f qcow2 -o data_file=p-file p.data-file 1M &&
        qemu-io -c 'write -P 7 0 64k' p.data-file &&
        qemu-img create -q -f qcow2 -o cluster_size=2k,extended_l2=off p.small 1M &&
        qemu-io -c 'write -P 7 0 64k' p.small &&
        qemu-img create -q -f qcow2 p.late 1M && qemu-io -c 'write -P 7 0 63k' p.late &&
        qemu-img create -q -f qcow2 p.longer 2M && qemu-io -c 'write -P 7 0 64k' p.longer &&
        qemu-img create -q -f qcow2 p.longer-zeros 2M &&
        qemu-io -c 'write -P 7 0 64k' -c 'write -P 0 1M 64k' p.longer-zeros &&
        qemu-img create -q -f qcow2 p.longer-data 2M &&
        qemu-io -c 'write -P 7 0 64k' -c 'write -P 1 1100k 3k' p.longer-data &&
        qemu-img create -q -f raw p.raw 1M && qemu-io -f raw -c 'write -P 7 0 64k' p.raw &&
        qemu-img create -q -f raw p.holes 1M && cp p.raw p.odd && printf 'x%.0s' {1..700} >>p.odd
}
export -f make_pairs
both bash -c make_pairs

check "strict: the allocation alone counts" "$IMG" compare -s "$m/p.data" "$m/p.small"
for a in p.data p.zero p.holes p.longer; do
    for b in "$q"/p.*; do
        b=${b##*/}
        run_both compare "$a" "$b"
        text=$(differences rc out)
        # qemu-img takes it for a difference when one answer about the same allocation reaches the end of
        # the image and the other does not, as where L2 tables end elsewhere.
        if [[ $a$b != *small* && $a$b != p.longer*p.longer* ]]; then
            run_both compare -s "$a" "$b"
            text=$text$(differences rc out)
        fi
        if [ -z "$text" ]; then pass "$a $b"; else fail "$a $b" "$text"; fi
    done
done
same "the other way round" compare p.raw p.data
same "formats" compare -f raw -F qcow2 p.raw p.data
same "as raw" compare -f raw -F raw p.data p.late
same "the same image" compare p.backed p.backed
for option in -q -U --force-share "-T none" "-T unsafe" "-q -s"; do
    # shellcheck disable=SC2086
    same "$option" compare $option p.data p.compressed
done
same "quiet difference" compare -q p.data p.zero
same "quiet, sizes" compare -q p.data p.longer
same "quiet, strict" compare -q -s p.data p.zero

same "nothing" compare
same "one image" compare p.data
same "three images" compare p.data p.zero p.late
same "unknown switch" compare -Z p.data p.zero
same "unknown long switch" compare --foo p.data p.zero
same "no argument" compare p.data p.zero -f
same "cache mode" compare -T foo p.data p.zero
same "cache mode of nothing" compare -T foo missing missing
same "unknown format" compare -f foo p.data p.zero
same "unknown second format" compare -F foo p.data p.zero
same "first is missing" compare missing p.zero
same "second is missing" compare p.data missing
same_status "directory" compare p.data .
same_status "qcow2 that is not" compare -f qcow2 p.raw p.data

# Damage. qemu-img says less about it.
both bash -c "cp p.data bad-l1 && printf '\x80\0\0\0\0\x04\x02\x01' |
    dd of=bad-l1 bs=1 seek=\$((0x30000)) conv=notrunc"
both bash -c "cp p.compressed bad-packed && printf '\377%.0s' {1..100} |
    dd of=bad-packed bs=1 seek=\$((0x50000)) conv=notrunc"
same_status "no map: first" compare bad-l1 p.data
same_status "no map: second" compare p.data bad-l1
same_status "no data: first" compare bad-packed p.data
same_status "no data: second" compare -q p.data bad-packed
refuse "no map: one line" "$IMG" compare "$m/bad-l1" "$m/p.data"
refuse "no data: one line" "$IMG" compare "$m/p.data" "$m/bad-packed"

"$IMG" compare -p "$m/p.data" "$m/p.raw" >"$work/progress"
check "progress begins and ends" grep -q '(100.00/100%)' <(tr '\r' '\n' <"$work/progress")
check "progress: the answer" grep -q '^Images are identical.$' <(tr '\r' '\n' <"$work/progress")
check "progress, quiet: nothing" test -z "$("$IMG" compare -q -p "$m/p.data" "$m/p.raw")"

# Random pairs that differ in few places, beside cmp. The sizes are larger than what a thread takes at once.
seed=${SEED:-$RANDOM}
python3 - "$IMG" "$work" "$seed" <<'PYTHON' >"$work/random" 2>&1
import os, random, subprocess, sys
img, work, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
os.chdir(work)
SIZE = 4 << 20

def commands():
    for _ in range(rng.randrange(1, 12)):
        n = rng.choice([512, 4096, 65536, 300000, 1 << 20]) & ~511
        at = rng.randrange(0, SIZE - n + 1) & ~511
        kind = rng.choice(["write -P %d" % rng.randrange(4), "write -z", "discard"])
        yield "%s %d %d" % (kind, at, n)

def make(name, todo, base):
    if rng.random() < 0.3:
        subprocess.run(["qemu-img", "create", "-q", "-f", "raw", name, str(SIZE)], check=True)
        fmt = "raw"
    else:
        options = "cluster_size=" + rng.choice(["512", "4k", "64k", "2M"])
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, name, str(SIZE)] +
                       (["-b", base, "-F", "qcow2"] if base else []), check=True)
        fmt = "qcow2"
    args = ["qemu-io", "-f", fmt, name]
    for c in todo:
        args += ["-c", c]
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "convert", "-f", fmt, "-O", "raw", name, name + ".flat"], check=True)
    return fmt

subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "b0", str(SIZE)], check=True)
subprocess.run(["qemu-io", "-c", "write -P 2 1M 700k", "b0"], check=True, stdout=subprocess.DEVNULL)
for i in range(12):
    todo = list(commands())
    more = list(commands())[: rng.randrange(3)]
    for f in ("a", "b", "a.flat", "b.flat"):
        if os.path.exists(f):
            os.remove(f)
    base = rng.choice(["b0", None])
    fa = make("a", todo, base)
    fb = make("b", todo + more, base)
    a, b = open("a.flat", "rb").read(), open("b.flat", "rb").read()
    at = next((s for s in range(0, SIZE, 512) if a[s:s + 512] != b[s:s + 512]), None)
    want = "Images are identical.\n" if at is None else "Content mismatch at offset %d!\n" % at
    got = subprocess.run([img, "compare", "-f", fa, "-F", fb, "a", "b"], capture_output=True, text=True)
    if got.stdout != want or got.returncode != (at is not None):
        sys.exit("pair %d: %s and %s: %r, not %r; %s / %s" % (i, fa, fb, got, want, todo, more))
PYTHON
case $? in
0) pass "random pairs: as cmp finds (SEED=$seed)" ;;
*) fail "random pairs: as cmp finds (SEED=$seed)" "$(head -c 3000 "$work/random")" ;;
esac

# 8 TB of nothing, and chains of 100.
for f in huge1 huge2; do
    "$IMG" create -q -f qcow2 "$m/$f.0" 8T && qemu-io -c 'write -P 3 7T 64k' "$m/$f.0" >"$work/log"
    for ((i = 1; i < 100; i++)); do
        "$IMG" create -q -u -f qcow2 -b "$f.$((i - 1))" -F qcow2 "$m/$f.$i" 8T
    done
done
check "8 TB, 100 deep: identical" "$IMG" compare "$m/huge1.99" "$m/huge2.99"
check "8 TB, 100 deep: strict" "$IMG" compare -s "$m/huge1.99" "$m/huge2.99"
finish
