#!/bin/bash
# `minivmm-img info`, and what the program says without a command, against qemu-img.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

both qemu-img create -q -f qcow2 a.qcow2 64M
both io a.qcow2 'write -P 3 0 3M'
both qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2
both mkdir -p sub
both qemu-img create -q -f qcow2 -b ../o.qcow2 -F qcow2 -o cluster_size=4k sub/s.qcow2
both qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1G
both qemu-img create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 1G
both qemu-img create -q -f qcow2 -o refcount_bits=1 rb.qcow2 1G
both qemu-img create -q -f qcow2 -u -b missing -F qcow2 gone.qcow2 10M
both qemu-img create -q -f raw r.raw 3000000
both qemu-img create -q -f qcow2 -b r.raw -F raw over-raw.qcow2
both cp a.qcow2 dirty.qcow2
both cp a.qcow2 corrupt.qcow2
set_byte() {
    local at=$1 file=$2
    printf '\x01' | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
}
both set_byte 79 dirty.qcow2
two() { printf '\x02' | dd of=corrupt.qcow2 bs=1 seek=79 conv=notrunc status=none; }
both two
both cp a.qcow2 'ünï,co:lon
line.qcow2'
both cp a.qcow2 "$(printf 'not-utf8-\xff.qcow2')"
both truncate -s 0 empty
both qemu-img create -q -f qcow2 chain0.qcow2 1M
for i in 1 2 3 4 5 6 7 8 9; do
    both qemu-img create -q -f qcow2 -b chain$((i - 1)).qcow2 -F qcow2 chain$i.qcow2
done

for file in a.qcow2 o.qcow2 sub/s.qcow2 v2.qcow2 lazy.qcow2 rb.qcow2 gone.qcow2 r.raw over-raw.qcow2 \
    dirty.qcow2 corrupt.qcow2 empty $'./ünï,co:lon\nline.qcow2' $'not-utf8-\xff.qcow2'; do
    same "info ${file//$'\n'/ }" info "$file"
    same "info --output=json ${file//$'\n'/ }" info --output=json "$file"
done
for file in a.qcow2 o.qcow2 sub/s.qcow2 over-raw.qcow2 r.raw chain9.qcow2; do
    same "info --backing-chain $file" info --backing-chain "$file"
    same "info --backing-chain --output=json $file" info --backing-chain --output=json "$file"
done
same "-f qcow2" info -f qcow2 a.qcow2
same "-f raw" info -f raw a.qcow2
same "-U" info -U a.qcow2
same "--force-share" info --force-share a.qcow2
same "--output human" info --output human a.qcow2
same "--format" info --format=qcow2 a.qcow2
same "missing file" info missing
same "unknown format" info -f foo a.qcow2
same "unknown output" info --output=foo a.qcow2
same "no file" info
same "two files" info a.qcow2 o.qcow2
same "unknown option" info --foo a.qcow2
same "option without its argument" info -f
same_status "not qcow2" info -f qcow2 r.raw
refuse "missing backing file in the chain" "$IMG" info --backing-chain "$m/gone.qcow2"
same_status "a folder" info sub
refuse "a FIFO, without hanging" timeout 10 "$IMG" info <(:)
both qemu-img rebase -u -b o.qcow2 -F qcow2 a.qcow2
same "a loop: the image alone" info o.qcow2
refuse "a loop: the chain" timeout 10 "$IMG" info --backing-chain "$m/o.qcow2"

# A name in an image is never opened without being asked for.
for name in /dev/zero fifo 'json:{"driver":"file","filename":"/etc/passwd"}' nbd://localhost:1/; do
    mkfifo "$m/fifo" 2>/dev/null
    cp "$m/o.qcow2" "$m/hostile.qcow2"
    qemu-img rebase -u -b "$name" -F raw "$m/hostile.qcow2"
    check "info does not open $name" timeout 10 "$IMG" info "$m/hostile.qcow2"
    refuse "nor is it followed with --backing-chain" timeout 10 "$IMG" info --backing-chain "$m/hostile.qcow2"
done

# ---- --limits: later versions of qemu-img have it ----
"$IMG" create -q -f qcow2 -o cluster_size=64k,extended_l2=on "$m/limits.qcow2" 1M
"$IMG" create -q -f raw "$m/limits.raw" 1M
cat >"$work/limits" <<'EOF'
Block limits:
    request alignment: 1
    discard alignment: 65536
    write zeroes alignment: 2048
    max iov: 1024
    min mem alignment: 1
    opt mem alignment: 4096
EOF
check "--limits" diff <("$IMG" info --limits "$m/limits.qcow2" | sed -n '/^Block limits/,/^    opt/p') "$work/limits"
check "--limits of a raw image" diff <("$IMG" info --limits "$m/limits.raw" | sed -n '/^Block limits/,$p') \
    <(grep -v -e discard -e zeroes "$work/limits")
check "--limits in JSON" test "$("$IMG" info --limits --output=json "$m/limits.qcow2" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["limits"]["write-zeroes-alignment"])')" = 2048
check "no limits without" diff <("$IMG" info "$m/limits.qcow2" | grep -c 'Block limits') <(echo 0)

# ---- the program itself ----
same_status "no command" ''
check "--version names the program" grep -q '^minivmm-img version [0-9]' <("$IMG" --version)
check "--help lists the commands" grep -q '^  create \[-q\]' <("$IMG" --help)
check "help is the same after a command" cmp <("$IMG" --help) <("$IMG" create -h)
same "unknown command" frobnicate
same "unknown option" --frobnicate
refuse_text=$("$IMG" creat 2>&1)
check "a near miss is suggested" grep -q "did you mean 'create'" <<<"$refuse_text"
# suggests NEAR ARGUMENTS...: the message says what was meant, which qemu-img does not.
suggests() {
    check "suggested: $1" grep -qF "(did you mean '$1'?)" <("$IMG" "${@:2}" 2>&1)
}
suggests --backing-chain info --backing-chian a.qcow2
suggests --preallocation resize --prealocation=full a.qcow2 1M
suggests --force-share map --forceshare a.qcow2
suggests cluster_size create -f qcow2 -o cluster_sise=4k "$work/n" 1M
suggests lazy_refcounts convert -O qcow2 -o lazyrefcounts=on "$m/a.qcow2" "$work/n"
for command in amend bench bitmap check commit compare convert create dd info map measure rebase resize serve snapshot; do
    suggests --help "$command" --hepl x 1M
    check "and nothing where nothing is near: $command" test -z "$("$IMG" "$command" --xyzzyxyzzy x 1M 2>&1 | grep 'did you')"
done
ln -s "$IMG" "$work/qemu-img"
check "its name comes from argv[0]" grep -q '^qemu-img: ' <("$work/qemu-img" info /missing 2>&1)
for arguments in 'info missing' '--foo' 'frobnicate' 'convert' 'info --foo' 'create -f qcow2 n' 'resize -Z' 'compare missing missing'; do
    # shellcheck disable=SC2086 # words
    check "called qemu-img it says the same: $arguments" \
        diff <(cd "$q" && qemu-img $arguments 2>&1) <(cd "$m" && "$work/qemu-img" $arguments 2>&1)
done

finish
