#!/bin/bash
# Encrypted images (LUKS) of QEMU's tools and of ours: each opens, checks and changes what the other made;
# every command of minivmm-img works on them; keys come from files and descriptors and never from the
# command line; and nothing of the guest's data is in a file as it is.
. "$(dirname "$0")/../lib.sh"

cd "$work" || exit 1
printf 'first key' >key
printf 'second key' >key2
cp key key7
printf 'Zmlyc3Qg\na2V5\n' >key.base64
printf 'First key' >wrong
secret=(--object 'secret,id=s,file=key')
new=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1

# opts FILE: the image by options, for either program.
opts() {
    echo "driver=qcow2,file.filename=$1,encrypt.key-secret=s"
}

# holds FILE RAW: QEMU reads what is in the raw image.
holds() {
    qemu-img compare -q "${secret[@]}" --image-opts "driver=raw,file.filename=$2" "$(opts "$1")"
}

# sound FILE: both programs say so.
sound() {
    qemu-img check -q "${secret[@]}" --image-opts "$(opts "$1")" && "$IMG" check -q "$1"
}

yes 'this must not be readable' | head -c 3M >text.raw
truncate -s 5M text.raw

# ---- each algorithm, both ways ----
n=0
for algorithms in '' cipher-alg=aes-128 cipher-alg=aes-192,encrypt.hash-alg=sha512 \
    cipher-alg=aes-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256 \
    cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain,encrypt.hash-alg=sha1; do
    n=$((n + 1))
    name=${algorithms:-the defaults}
    check "$name: converted" "$IMG" convert -f raw -O qcow2 "${secret[@]}" \
        -o "$new${algorithms:+,encrypt.$algorithms}" text.raw "a$n.qcow2"
    check "$name: QEMU reads it" holds "a$n.qcow2" text.raw
    check "$name: sound" sound "a$n.qcow2"
    diff <("$IMG" info "a$n.qcow2") <(qemu-img info "a$n.qcow2") >differences
    check "$name: info says the same" test ! -s differences
    diff <("$IMG" info --output=json "a$n.qcow2") <(qemu-img info --output=json "a$n.qcow2") >differences
    check "$name: as json too" test ! -s differences
    check "$name: QEMU writes to it" qemu-io "${secret[@]}" --image-opts "$(opts "a$n.qcow2")" \
        -c 'write -q -P 0x5a 2900k 300k'
    check "$name: and back" "$IMG" convert "${secret[@]}" --image-opts -O raw "$(opts "a$n.qcow2")" back.raw
    check "$name: the same" holds "a$n.qcow2" back.raw
    check "$name: nothing is readable" test "$(grep -c 'must not be' "a$n.qcow2")" = 0
done

# ---- one that QEMU made, with an overlay, through every command ----
for attempt in 1 2 3 4 5; do
    qemu-img create -q -f qcow2 "${secret[@]}" -o "$new,encrypt.iter-time=10" base.qcow2 5M 2>errors && break
done
check "QEMU makes one (attempt $attempt)" test -s base.qcow2
check "we write to it" "$IMG" convert -n --key-file key -f raw -O qcow2 text.raw base.qcow2
check "QEMU reads it" holds base.qcow2 text.raw
cp base.qcow2 base.before
check "an overlay with a key of its own" "$IMG" create -q -f qcow2 -b base.qcow2 -F qcow2 \
    --object secret,id=s,file=key2 -o "$new" top.qcow2
chain=driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=s2,backing.encrypt.key-secret=s
both=("${secret[@]}" --object 'secret,id=s2,file=key2' --image-opts)
check "reads through two keys" "$IMG" convert "${both[@]}" -O raw "$chain" back.raw
check "what is below" cmp back.raw text.raw
refuse "one of them is missing" "$IMG" convert --key-file key2 -O raw top.qcow2 none.raw
check "QEMU writes through both" qemu-io "${both[@]}" "$chain" -c 'write -q -P 0x66 100k 300k'
qemu-img convert "${both[@]}" -O raw "$chain" now.raw
check "resize" "$IMG" resize -q "${both[@]}" "$chain" 6M
truncate -s 6M now.raw
check "commit" "$IMG" commit -q "${both[@]}" "$chain"
check "the base has it" holds base.qcow2 now.raw
check "the base is sound" sound base.qcow2
check "rebase onto a plain one" "$IMG" rebase -q "${both[@]}" -b now.raw -F raw "$chain"
check "rebase onto none" "$IMG" rebase -q "${both[@]}" -b '' "$chain"
alone=driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=s2
qemu-img convert "${both[@]}" -O raw "$alone" alone.raw
check "the overlay alone" cmp alone.raw now.raw
check "a bitmap" "$IMG" bitmap --add "${both[@]}" "$alone" b
check "base and overlay give nothing away" test "$(cat base.qcow2 top.qcow2 | grep -c 'must not be')" = 0

# ---- keys ----
for key in '--key-file key' '--key-fd 7' '--object secret,id=x,file=key.base64,format=base64 --object secret,id=s,file=key'; do
    # shellcheck disable=SC2086 # words are what is wanted
    "$IMG" convert $key -O raw base.before back.raw 7<key7 2>/dev/null ||
        "$IMG" convert $key --image-opts -O raw "$(opts base.before)" back.raw
    check "$key" cmp back.raw text.raw
done
check "base64" "$IMG" convert --object secret,id=s,file=key.base64,format=base64 --image-opts -O raw \
    "$(opts base.before)" back.raw
cp base.before base.qcow2
: >empty
head -c 70000 /dev/zero >long
for bad in '' '--key-file wrong' '--key-file missing' '--key-file empty' '--key-file long' '--key-fd 77' \
    '--key-fd x' '--object secret,id=s,data=first' '--object secret,id=s' '--object secret,file=key' \
    '--object secret,id=s,file=key,format=hex' '--object secret,id=s,file=key,format=base64' \
    '--object rng,id=s' '--key-file key --key-file key' '--image-opts' \
    '--object secret,id=s,file=key --object secret,id=s,file=key'; do
    # shellcheck disable=SC2086 # words are what is wanted
    refuse "refused: ${bad:-no key}" "$IMG" convert $bad -O raw base.qcow2 none.raw
done
refuse "a secret that is not there" "$IMG" convert --image-opts -O raw "$(opts base.qcow2)" none.raw
check "nothing changed" cmp base.qcow2 base.before
check "nothing was made" test ! -e none.raw
check "info needs no key" "$IMG" info base.qcow2
check "check needs no key" "$IMG" check -q base.qcow2

# ---- an L1 table whose length is damaged reaches over the LUKS header: a repair leaves that alone ----
"$IMG" create -q -f qcow2 "${secret[@]}" -o "$new,cluster_size=4k" long.qcow2 1M
qemu-io "${secret[@]}" --image-opts "$(opts long.qcow2)" -c 'write -P 9 0 64k' >/dev/null
luks_of() {
    python3 - "$1" <<'EOF'
import sys
import qcow2_header
image = open(sys.argv[1], "rb").read()
offset, length = qcow2_header.luks_header(image)
sys.stdout.buffer.write(image[offset:offset + length])
EOF
}
luks_of long.qcow2 >luks.before
cp long.qcow2 whole.qcow2
printf '\0\0\20\0' | dd of=long.qcow2 bs=1 seek=36 conv=notrunc status=none
for _ in 1 2; do
    "$IMG" check -r all long.qcow2 >long.out 2>&1
    check "the check comes to its end" test $? = 2
done
check "it found the wrong flags" grep -q 'OFLAG_COPIED L2 cluster' long.out
luks_of long.qcow2 >luks.after
check "the LUKS header is as it was" cmp luks.before luks.after
check "and what is encrypted can be read" qemu-img compare -q "${secret[@]}" --image-opts "$(opts long.qcow2)" \
    "$(opts whole.qcow2)"

# ---- what is refused ----
for option in encryption=on encrypt.format=aes "$new,encrypt.cipher-alg=serpent-256" \
    "$new,encrypt.hash-alg=md5" "$new,encrypt.iter-time=0" encrypt.cipher-alg=aes-128 \
    "$new,compat=0.10,preallocation=metadata"; do
    refuse "refused: $option" "$IMG" create -q -f qcow2 "${secret[@]}" -o "$option" none.qcow2 1M
done
refuse "no key for a new one" "$IMG" create -q -f qcow2 -o encrypt.format=luks none.qcow2 1M
refuse "compressed" "$IMG" convert -c "${secret[@]}" -f raw -O qcow2 -o "$new" text.raw none.qcow2
check "nothing is left" test ! -e none.qcow2
finish
