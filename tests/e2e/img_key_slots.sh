#!/bin/bash
# `minivmm-img amend` of LUKS key slots against qemu-img: what is refused, in which words; which slots there are
# afterwards; and that each program opens what the other one gave a key, and nothing that it took one from.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

cd "$work" || exit 1
secrets=()
for id in a b c; do
    printf 'key %s' "$id" >"key.$id"
    secrets+=(--object "secret,id=$id,file=$work/key.$id")
done
secrets+=(--object "secret,id=again,file=$work/key.a")
printf 'no key' >wrong
active=encrypt.state=active inactive=encrypt.state=inactive new=encrypt.new-secret old=encrypt.old-secret
slot=encrypt.keyslot time=encrypt.iter-time
quick=$time=1

# image FILE KEY: its name, for either program.
image() {
    echo "driver=qcow2,file.filename=$1,encrypt.key-secret=$2"
}

# make FILE [OPTIONS]: one with key a, and a pattern in it.
make() {
    if ! "$IMG" create -q -f qcow2 "${secrets[@]}" \
        -o "encrypt.format=luks,encrypt.key-secret=a,$quick${2:+,$2}" "$1" 1M ||
        ! qemu-io "${secrets[@]}" --image-opts "$(image "$1" a)" -c 'write -q -P 0x5a 64k 64k'; then
        fail "making $1"
    fi
}

# change PROGRAM FILE KEY OPTIONS [ARGUMENTS...]; how fast a busy machine is qemu-img cannot always tell.
change() {
    local program=$1 file=$2 key=$3 options=$4 attempt
    shift 4
    for attempt in 1 2 3 4 5; do
        "$program" amend "${secrets[@]}" "$@" -o "$options" --image-opts "$(image "$file" "$key")" && return
        [ "$program" = qemu-img ] && [[ $options = *active* ]] || return
        echo "# attempt $attempt"
    done
    return 1
}

# opens FILE KEY, and refused FILE KEY: both programs agree.
opens() {
    qemu-io -r "${secrets[@]}" --image-opts "$(image "$1" "$2")" -c 'read -P 0x5a 64k 64k' | grep -q '^read 65536' &&
        "$IMG" compare -q "${secrets[@]}" --image-opts "$(image "$1" "$2")" driver=raw,file.filename=pattern
}
refused() {
    ! qemu-io -r "${secrets[@]}" --image-opts "$(image "$1" "$2")" -c 'read 64k 64k' >/dev/null 2>&1 &&
        ! "$IMG" convert "${secrets[@]}" --image-opts -O raw "$(image "$1" "$2")" none 2>/dev/null
}

# has FILE SLOTS: the active ones, as both say; and that both find nothing wrong.
has() {
    local program slots
    for program in qemu-img "$IMG"; do
        slots=$("$program" info --output=json "$1" | python3 -c 'import json, sys
slots = json.load(sys.stdin)["format-specific"]["data"]["encrypt"]["slots"]
print("".join(str(n) for n in range(8) if slots[n]["active"]))')
        [ "$slots" = "$2" ] || { echo "# $program: $slots" && return 1; }
    done
    "$IMG" check -q "$1"
}

{ head -c 64k /dev/zero && head -c 64k /dev/zero | tr '\0' '\132' && head -c 896k /dev/zero; } >pattern

# ---- what is refused: one key, and eight of them, a in even slots ----
make one
cp one eight
for n in 1 2 3 4 5 6 7; do
    key=a
    [ $((n % 2)) = 0 ] || key=b
    change "$IMG" eight a "$active,$new=$key,$quick,$slot=$n" || fail "preparing"
done
check "eight keys" has eight 01234567
both cp "$work/one" "$work/eight" .
both qemu-img create -q -f qcow2 plain 1M

# refuses FILE OPTIONS [ARGUMENTS...]: in qemu-img's words, and nothing changes.
refuses() {
    local file=$1 options=$2
    shift 2
    same "$file: '$options' $*" amend "${secrets[@]}" "$@" -o "$options" --image-opts "$(image "$file" a)"
    if [ "$(cat "$work/m.rc")" != 1 ] || ! cmp "$m/$file" "$work/$file"; then
        fail "... nothing changes"
    fi
}
for options in encrypt.state= encrypt.state encrypt.state=foo encrypt.state=ACTIVE $new=b $old=a $slot=1 $time=10 \
    encrypt.foo=1 encrypt.format=luks,$active encrypt.key-secret=a,$active encrypt.cipher-alg=aes-128 \
    $active $active,$new=nope $active,$new= $new,$active $active,$old=a $active,$old=a,$new=b $active,$old=nope,$new=b \
    $active,$slot=9 $active,$new=b,$slot=8 $active,$new=b,$slot=-1 $active,$new=b,$slot=x $active,$new=b,$slot= \
    $active,$new=b,$slot=1.5 $active,$new=b,$slot=3k $active,$new=b,$slot=99999999999999999999 $slot,$active \
    $active,$new=b,$slot=0 $active,$new=b,$time=x $active,$new=b,$time= $active,$new=b,$time=99999999999999999999 \
    $inactive $inactive,$slot=0 $inactive,$slot=1 $inactive,$slot=8 $inactive,$old=a $inactive,$old=again \
    $inactive,$old=b $inactive,$old=nope $inactive,$old= $inactive,$new=b $inactive,$new= $inactive,$old=a,$new=b \
    $inactive,$slot=0,$time=10 $inactive,$time=10 $inactive,$slot=9,$time=10 $inactive,$old=b,$slot=9 \
    $inactive,$old=b,$slot=0 $inactive,$old=b,$slot=1 $inactive,$old=a,$slot=1 $inactive,$old=a,$slot=0 \
    $inactive,$old=nope,$slot=0 $active,$new=b,lazy_refcounts=foo $slot=x,size=12 encrypt.state=foo,compat=foo \
    $active,$new=b,compat=foo $active,$new=b,data_file=x $active,$new=b,$slot=9,refcount_bits=7; do
    refuses one "$options"
done
for options in $inactive $inactive,$slot=8 $inactive,$old=b $inactive,$old=b,$slot=0 $inactive,$new=b \
    $active,$new=b,$slot=8; do
    refuses one "$options" --force
done
for options in $active,$new=c $active,$new=c,$slot=3 $inactive,$old=c $inactive,$old=a,$slot=3; do
    refuses eight "$options"
done
refuses eight $active,$new=c --force
for options in $active encrypt.state=foo $slot=x $slot=1 $time=x encrypt.foo=1 $active,size=1000 $active,size=x \
    $active,compat=x $active,refcount_bits=7 $active,data_file=x $active,backing_file=x $active,lazy_refcounts=x; do
    same "not encrypted: '$options'" amend -o "$options" plain
done
# Numbers that qemu-img cuts off, or takes at their word, and options that it finds wrong too late.
for options in $active,$new=b,$slot=4294967297 $active,$new=b,$time=60001 $active,$new=b,size=1000 \
    $active,$new=b,compat=0.10,refcount_bits=8; do
    refuse "refused: $options" change "$IMG" one a "$options"
    check "... nothing changes" cmp one "$m/one"
done
refuse "the wrong key" "$IMG" amend --key-file wrong -o $active,$new=b one
refuse "no key" "$IMG" amend "${secrets[@]}" -o $active,$new=b one
check "... nothing changes" cmp one "$m/one"

# ---- what changes: the same slots ----
# changes SLOTS FILE OPTIONS [ARGUMENTS...]: with either program.
changes() {
    local slots=$1 file=$2 options=$3 program
    shift 3
    for program in "$IMG" qemu-img; do
        cp "$file" changed
        check "${program##*/} $file: $options $*" change "$program" changed a "$options" "$@"
        check "... active: $slots" has changed "$slots"
    done
}
changes 01 one $active,$new=b,$time=0
changes 05 one $active,$new=b,$quick,$slot=0x5
changes 0 one $active,$new=b,$quick,$slot=0 --force
changes '' one $inactive,$slot=0 --force
changes '' one $inactive,$old=again --force
changes 0 one $inactive,$slot=3 --force
changes 1357 eight $inactive,$old=again
changes 0246 eight $inactive,$old=b --force
changes 0124567 eight $inactive,$slot=3
changes 0124567 eight $inactive,$slot=3,$old=b
changes 01234567 eight $active,$new=c,$quick,$slot=3 --force

# ---- to and fro ----
cp one x
check "we add b" change "$IMG" x a $active,$new=b,$quick
for key in a b; do
    check "... $key opens it" opens x $key
done
check "QEMU adds c, with b" change qemu-img x b $active,$new=c,$quick,$slot=7
check "... all three" has x 017
check "... c opens it" opens x c
check "we erase a, with c" change "$IMG" x c $inactive,$old=a
check "... a no longer opens it" refused x a
check "... c does" opens x c
check "QEMU erases c, with b" change qemu-img x b $inactive,$slot=7
check "... c no longer opens it" refused x c
check "we overwrite b with a" change "$IMG" x b $active,$new=a,$quick,$slot=1 --force
check "... the one key" has x 1
check "... b no longer opens it" refused x b
check "... a does" opens x a
check "QEMU overwrites a with c" change qemu-img x a $active,$new=c,$quick,$slot=1 --force
check "... c opens it" opens x c
check "we erase the last one" change "$IMG" x c $inactive,$old=c --force
for key in a b c; do
    check "... $key does not open it" refused x $key
done

# ---- images of every kind ----
for options in encrypt.cipher-alg=aes-192,encrypt.hash-alg=sha512 compat=0.10 cluster_size=512 \
    encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.hash-alg=sha1 \
    data_file=data lazy_refcounts=on,extended_l2=on; do
    rm -f x
    make x $options
    check "$options: b, opened with --key-file" "$IMG" amend --key-file key.a --object secret,id=b,file=key.b \
        -o $active,$new=b,$quick,$slot=6 x
    check "... slots 0 and 6" has x 06
    check "... b opens it" opens x b
    check "... a is erased" change "$IMG" x b $inactive,$slot=0
    check "... a no longer opens it" refused x a
done
cp one x
check "with other options" change "$IMG" x a $active,$new=b,$quick,refcount_bits=8,lazy_refcounts=on
check "... the key" opens x b
check "... the others" grep -q 'refcount bits: 8' <("$IMG" info x)
make base
"$IMG" create -q -f qcow2 "${secrets[@]}" -o encrypt.format=luks,encrypt.key-secret=b,$quick -b base -F qcow2 top 1M
cp base base.before
check "an overlay" "$IMG" amend "${secrets[@]}" --image-opts -o $active,$new=c,$quick \
    driver=qcow2,file.filename=top,encrypt.key-secret=b,backing.encrypt.key-secret=a
check "... the base stays" cmp base base.before
check "... c opens it" qemu-io -r "${secrets[@]}" --image-opts "$(image top c),backing.encrypt.key-secret=a" \
    -c 'read -q -P 0x5a 64k 64k'
"$IMG" amend -p --key-file key.a --object secret,id=b,file=key.b -o $active,$new=b,$quick one >progress
check "-p" progress_is_whole progress
finish
