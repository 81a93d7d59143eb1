#!/bin/bash
# Images inside of other files, named by options and as JSON: each call beside qemu-img's on the same files. Whatever
# is done to such a part, the bytes around it stay, and both programs read what the other one wrote there.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"
IO=$BUILD/minivmm-io
offset=51200 size=$((3 << 20))

# envelop FILE: FILE.ova has it at $offset, $size bytes long, between bytes of others.
envelop() {
    truncate -s $size "$1" && cat <(head -c $offset noise) "$1" <(tail -c 70000 noise) >"$1.ova"
}

make_images() {
    head -c 200000 /dev/urandom >noise && mkdir sub &&
        qemu-img create -q -f qcow2 base 4M && qemu-io -c 'write -q -P 3 0 1M' base &&
        qemu-img create -q -f qcow2 plain 4M && qemu-io -c 'write -q -P 5 1M 64k' plain &&
        qemu-img create -q -f qcow2 -b base -F qcow2 over 4M && qemu-io -c 'write -q -P 7 512k 1M' over &&
        qemu-img create -q -f qcow2 -b ../base -F qcow2 sub/over 4M &&
        qemu-img create -q -f qcow2 full 4M && qemu-io -c "write -q -P 9 0 2M" full &&
        qemu-img create -q -f raw raw 3M && qemu-io -f raw -c 'write -q -P 1 0 64k' -c 'write -q -P 2 2M 100k' raw &&
        qemu-img create -q -f raw four 4M && qemu-io -f raw -c 'write -q -P 8 1M 1M' four &&
        cat <(head -c $offset noise) plain >end.ova && cp raw grow.raw &&
        printf 'x%.0s' {1..1000} >k1000 &&
        cat <(head -c $offset noise) full <(tail -c 70000 noise) >full.ova && stat -c %s full >full.size &&
        for file in base plain over raw; do envelop $file || return; done
}
mkdir "$work/made"
(cd "$work/made" && make_images) >"$work/log" 2>&1 || fail "preparing" "$(cat "$work/log")"
full=$(cat "$work/made/full.size")

# part FILE [SIZE]: the options of what it envelops.
part() {
    echo "driver=qcow2,file.driver=raw,file.offset=$offset,file.size=${2:-$size},file.file.driver=file,file.file.filename=$1"
}
raw_part() {
    echo "driver=raw,offset=$offset,size=$size,file.filename=$1"
}
options_of() {
    case $1 in
    raw.ova) raw_part "$2" ;;
    full.ova) part "$2" "$full" ;;
    end.ova) echo "driver=qcow2,file.driver=raw,file.offset=$offset,file.file.filename=$2" ;;
    *.ova) part "$2" ;;
    *raw*) echo "driver=raw,file.filename=$2" ;;
    *) echo "driver=qcow2,file.filename=$2" ;;
    esac
}

# The bytes around a part are those that were made.
around_is_kept() {
    local end=$((offset + size))
    [ "$1" != full.ova ] || end=$((offset + full))
    cmp -n "$offset" "$work/made/$1" "$m/$1" || return
    [ "$1" = end.ova ] ||
        { cmp -i "$end" "$work/made/$1" "$m/$1" && [ "$(stat -c %s "$work/made/$1")" = "$(stat -c %s "$m/$1")" ]; }
}
holds_the_same() {
    local mine theirs
    mine=$(options_of "$1" "$m/$1") theirs=$(options_of "$1" "$q/$1")
    qemu-img compare --image-opts "$mine" "$theirs" && "$IMG" compare --image-opts "$mine" "$theirs" || return
    [[ $mine == driver=raw* ]] || qemu-img check --image-opts "$mine"
}
fresh() {
    for side in "$q" "$m"; do
        rm -rf "$side" && cp -r "$work/made" "$side"
    done
}
look_at() {
    local file
    for file in $1; do
        [[ $file != *.ova ]] || check "... the bytes around it: $file" around_is_kept "$file"
        check "... holds the same: $file" holds_the_same "$file"
    done
}
# call WHAT-IS-MADE ARGUMENTS...: on fresh files the same is said, and these hold the same.
call() {
    fresh
    same "${*:2}" "${@:2}"
    look_at "$1"
}
# loose: the same, but what they say on stderr may differ: QEMU tells of a size that it could not change.
loose() {
    fresh
    run_both "${@:2}"
    check "${*:2}" test -z "$(differences rc out)"
    look_at "$1"
}
# looks ARGUMENTS...: that change nothing.
looks() {
    same "$*" "$@"
}
plain=$(part plain.ova) over=$(part over.ova) raw=$(raw_part raw.ova)
fresh

# ---- what they are called, and what lies where ----

json='json:{"driver":"qcow2","file":{"driver":"raw","offset":51200,"size":3145728,"file":{"driver":"file","filename":"plain.ova"}}}'
at=file.driver=raw,file.offset=$offset,file.file.filename
for name in "$plain" "${plain#driver=qcow2,}" "$over" driver=qcow2,$at=plain.ova $at=over.ova "$raw" driver=raw,$at=raw.ova \
    $at=raw.ova driver=qcow2,file.driver=raw,file.file.filename=plain driver=raw,file.driver=raw,file.file.filename=raw \
    driver=qcow2,file.driver=raw,file.file.driver=raw,file.file.offset=50k,file.file.file.filename=plain.ova \
    driver=qcow2,file.driver=raw,file.offset=1k,file.file.driver=raw,file.file.offset=50176,file.file.size=3146752,file.file.file.filename=plain.ova \
    driver=raw,offset=512,size=1M,file.driver=raw,file.offset=1M,file.size=2M,file.file.filename=raw \
    driver=raw,offset=512,size=1024,file.filename=plain offset=512,file.filename=raw driver=raw,size=0,file.filename=raw \
    driver=raw,offset=0,file.filename=raw driver=raw,offset=0,file.driver=file,file.filename=./raw driver=raw,size=1M,file.filename=raw \
    driver=qcow2,file.driver=raw,file.file.filename=sub/over offset=512,file.filename=plain \
    driver=qcow2,file.driver=raw,file.node-name=a,file.file.node-name=b,file.file.locking=off,file.file.aio=threads,read-only=on,file.file.filename=plain; do
    looks info --image-opts "$name"
    looks info --output=json --image-opts "$name"
    looks map --image-opts "$name"
    looks map --output=json --image-opts "$name"
done
for name in "$json" "json:{${json#*qcow2\",}" \
    'json:{"driver":"qcow2","file.driver":"raw","file":{"offset":"50k","file":{"filename":"plain.ova"}}}' \
    'json:{"driver":"qcow2","file":{"driver":"raw","offset":null,"file":{"driver":"file","filename":"plain"}}}' \
    'json:{"driver":"raw","offset":512,"size":"1k","file":{"driver":"file","filename":"raw"}}'; do
    looks info "$name"
    looks info --output=json "$name"
    looks map "$name"
done
looks info -f raw 'json:{"file":{"driver":"raw","file":{"driver":"file","filename":"plain"}}}'
looks info --backing-chain --image-opts "$over"
looks info --backing-chain --output=json --image-opts driver=qcow2,file.driver=raw,file.file.filename=sub/over
for dir in "$q" "$m"; do
    cp "$dir/raw" "$dir/"$'q"\\\xc3\xa9\n\x01.raw'
done
looks info --image-opts $'driver=raw,offset=512,file.filename=q"\\\xc3\xa9\n\x01.raw'

# ---- what is below ----

for backing in backing.driver=raw,backing.offset=512 backing.driver=raw,backing.offset=64k,backing.size=1M,backing.file.filename=raw \
    backing.driver=raw backing.driver=raw,backing.size=100k,backing.file.filename=raw.ova; do
    for top in driver=qcow2,file.filename=over "$over"; do
        looks map --image-opts "$top,$backing"
        looks map --output=json --image-opts "$top,$backing"
        looks measure -O qcow2 --image-opts "$top,$backing"
        looks compare --image-opts "$top,$backing" driver=qcow2,file.filename=over
    done
done
below=backing.file.driver=raw,backing.file.offset=$offset,backing.file.size=$size,backing.file.file.filename
for top in driver=qcow2,file.filename=plain "$plain"; do
    for backing in $below=base.ova backing.driver=qcow2,$below=over.ova backing.driver=raw,$below=raw.ova; do
        looks map --image-opts "$top,$backing"
        looks map --output=json --image-opts "$top,$backing"
        looks convert -O raw --image-opts "$top,$backing" out.raw
        check "... holds the same" cmp "$q/out.raw" "$m/out.raw"
    done
done
for backing in backing.driver=raw,backing.offset=100M,backing.file.filename=raw $below=missing \
    backing.driver=qcow2,backing.file.driver=raw,backing.file.offset=51201,backing.file.file.filename=plain.ova; do
    same_status "$backing" map --image-opts "driver=qcow2,file.filename=plain,$backing"
done
# QEMU knows what is named below an overlay by a path alone; here it may be a part.
check "an overlay over a part" "$IMG" compare --image-opts \
    "driver=qcow2,file.filename=$m/over,backing.driver=qcow2,${below}=$m/plain.ova" \
    "driver=qcow2,file.filename=$m/over,backing.driver=qcow2,backing.file.filename=$m/plain"

# Both layers in one file.
for dir in "$work/made" "$q" "$m"; do
    cat "$dir/base" "$dir/plain" >"$dir/two"
done
base=$(stat -c %s "$work/made/base")
two=driver=qcow2,file.driver=raw,file.offset=$base,file.file.filename=two,backing.file.driver=raw,backing.file.size=$base,backing.file.file.filename=two
looks map --image-opts "$two"
looks convert -O raw --image-opts "$two" out.raw
check "... holds the same" cmp "$q/out.raw" "$m/out.raw"

# ---- what is no part ----

for values in 51201 $((offset + size + 70000)) 3266928 3267072 3267073 -1 -512 x 50k 1.5k 9223372036854775296 \
    9223372036854775807 9223372036854775808 18446744073709551104 18446744073709551615 18446744073709551616 ''; do
    run_both info --image-opts "driver=qcow2,file.driver=raw,file.offset=$values,file.file.filename=plain.ova"
    sed -i '/^Optional suffix k/d; /^and exabytes, r/d' "$work/q.err" # a hint about units
    check "offset=$values" test -z "$(differences rc out err)"
done
for values in 0 1000 3145727 3145728 3145729 3146240 3215360 3215872 3216384 -512 x 9223372036854775296 9223372036854775807 \
    9223372036854775808 18446744073709551104 18446744073709551616 18446744073709500416; do
    run_both map --image-opts "driver=qcow2,file.driver=raw,file.offset=$offset,file.size=$values,file.file.filename=plain.ova"
    sed -i '/^Optional suffix k/d; /^and exabytes, r/d' "$work/q.err"
    check "size=$values" test -z "$(differences rc out err)"
done
for name in driver=raw,offset={999,1000,1001,1023,1024,1025},file.filename=k1000 \
    driver=raw,size={512,1024,1536},file.filename=k1000 driver=raw,offset={100,512,513},size=512,file.filename=k1000 \
    driver=raw,offset={100,512,513},file.driver=raw,file.offset=10,file.size=512,file.file.filename=k1000 \
    driver=raw,offset=100,size=512,file.driver=raw,file.offset=10,file.size={512,1024},file.file.filename=k1000; do
    looks info --image-opts "$name"
done
# A map of what does not begin on a sector ends QEMU.
"$IMG" map --output=json --image-opts "driver=raw,offset=1,file.driver=raw,file.offset=10,file.size=512,file.file.filename=$m/k1000" >"$work/odd"
check "a part that begins anywhere" grep -q '"start": 0, "length": 511, .*"data": true, "offset": 11}' "$work/odd"
for name in driver=qcow2,file.driver=raw driver=qcow2,file.driver=raw,file.filename=plain driver=qcow2,file.offset=512,file.filename=plain \
    driver=qcow2,file.file.filename=plain driver=qcow2,file.driver=raw,file.file=plain driver=qcow2,file.driver=raw,file.file.driver=foo,file.file.filename=plain \
    driver=qcow2,file.driver=raw,file.foobarbaz=1,file.file.filename=plain driver=qcow2,file.driver=raw,file.file.foobarbaz=1,file.file.filename=plain \
    driver=qcow2,file.driver=raw,file.file.offset=1,file.file.filename=plain driver=qcow2,file.driver=raw,file.lazy-refcounts=on,file.file.filename=plain \
    driver=qcow2,file.driver=raw,file.file.filename=missing driver=foo,file.driver=raw,file.file.filename=plain \
    driver=qcow2,file.driver=raw,file.size=1000,file.file.filename=missing; do
    looks info --image-opts "$name"
done
for name in driver=qcow2,file.driver=qcow2,file.file.filename=plain file.driver=qcow2,file.file.filename=plain \
    driver=qcow2,file.driver=raw,file.file.driver=qcow2,file.file.file.filename=plain \
    driver=raw,file.driver=raw,file.file.driver=qcow2,file.file.file.filename=plain \
    driver=qcow2,file.filename=over,backing.driver=raw,backing.file.driver=qcow2,backing.file.file.filename=base \
    driver=raw,file.driver=qcow2,file.file.driver=qcow2,file.file.file.filename=plain; do
    refuse "a format below a format: $name" "$IMG" info --image-opts "$name"
done
deep=driver=raw key=file.
for ((n = 0; n < 9; n++)); do
    [ $n != 8 ] || looks info --image-opts "$deep,${key}filename=raw"
    deep+=,${key}driver=raw key+=file.
done
refuse "nine of them below each other" "$IMG" info --image-opts "$deep,${key}filename=$m/raw"
for name in 'json:{"driver":"qcow2","file":{"driver":"raw","offset":-512,"file":{"driver":"file","filename":"plain.ova"}}}' \
    'json:{"driver":"qcow2","file":{"driver":"raw","offset":true,"file":{"driver":"file","filename":"plain.ova"}}}' \
    'json:{"driver":"qcow2","file":{"driver":"raw","offset":9223372036854775808,"file":{"driver":"file","filename":"plain.ova"}}}' \
    'json:{"driver":"qcow2","file":{"driver":"raw","offset":[1],"file":{"driver":"file","filename":"plain.ova"}}}'; do
    same_status "$name" info "$name" 
done

# ---- every command ----

call '' check --image-opts "$plain"
call '' check --output=json --image-opts "$plain"
call plain.ova check -r all --image-opts "$plain"
call '' compare --image-opts "$plain" driver=qcow2,file.filename=plain
call '' compare --image-opts "$raw" driver=raw,file.filename=raw
call '' measure -O qcow2 --image-opts "$plain"
call '' measure --output=json -O raw --image-opts "$over"
for source in "$plain" "$over" "$raw" driver=qcow2,$at=plain.ova; do
    call '' convert -O raw --image-opts "$source" out.raw
    check "... holds the same" cmp "$q/out.raw" "$m/out.raw"
    call out convert -O qcow2 -c --image-opts "$source" out
    call '' dd bs=64k skip=9 count=20 --image-opts if="$source" of=out.raw
    check "... holds the same" cmp "$q/out.raw" "$m/out.raw"
done
call '' dd bs=1M skip=9 --image-opts if="$plain" of=out.raw
call plain.ova convert -n --target-image-opts -f raw four "$plain"
call plain.ova convert -n --target-image-opts --image-opts driver=qcow2,file.filename=base "$plain,discard=unmap"
call raw.ova convert -n --target-image-opts -f raw raw "$raw"
call raw.ova convert -n --target-image-opts -f raw k1000 "$raw"
call raw.ova convert -n --target-image-opts -f raw four "$raw"
call end.ova convert -n --target-image-opts -f raw four driver=qcow2,$at=end.ova
loose over.ova commit --image-opts "$over"
call 'over.ova base' commit -d --image-opts "$over"
# QEMU wants a name from the root there.
fresh
check "rebase to a relative name" "$IMG" rebase -b plain -F qcow2 --image-opts "$(part "$m/over.ova")"
check "... which QEMU follows" qemu-img compare --image-opts "$(part "$m/over.ova")" "driver=qcow2,file.filename=$q/over"
check "... and the bytes around it" around_is_kept over.ova
call over.ova rebase -b '' --image-opts "$over"
call plain.ova rebase -u -b base -F qcow2 --image-opts "$plain"
call plain.ova bench -w -c 20 -s 64k --pattern=4 --image-opts "$plain"
call raw.ova bench -w -c 40 -s 64k --pattern=4 --image-opts "$raw"
call '' bench -c 20 -s 64k --image-opts "$plain"
call plain.ova bitmap --add --image-opts "$plain" b
call plain.ova snapshot -c one --image-opts "$plain"
call plain.ova snapshot -d one --image-opts "$plain"
call '' snapshot -l --image-opts "$plain"
call plain.ova amend -o compat=0.10 --image-opts "$plain"
call plain.ova amend -o lazy_refcounts=on,size=8M --image-opts "$plain"
call plain.ova resize --image-opts "$plain" 16M
call plain.ova resize --preallocation=metadata --image-opts "$plain" 5M
loose plain.ova resize --shrink --image-opts "$plain" 1M
call end.ova resize --preallocation=full --image-opts driver=qcow2,$at=end.ova 5M
check "what is at the end grows" test "$(stat -c %s "$m/end.ova")" -gt "$(stat -c %s "$work/made/end.ova")"
call raw.ova resize --image-opts "$raw" 4M
call raw.ova resize --shrink --image-opts "$raw" 1M
call grow.raw resize --image-opts driver=raw,offset=1M,file.filename=grow.raw 4M
call grow.raw resize --shrink --image-opts driver=raw,offset=1M,file.driver=raw,file.offset=512,file.file.filename=grow.raw 1M
check "... to behind its beginning" test "$(stat -c %s "$m/grow.raw")" = $((512 + (2 << 20)))
call plain resize --image-opts file.driver=raw,file.file.filename=plain 16M
call raw resize 'json:{"file":{"driver":"raw","file":{"driver":"file","filename":"raw"}}}' 16M
call raw resize --image-opts driver=raw,offset=512,file.driver=raw,file.size=1M,file.file.filename=raw 4M
# Everything is given back, and taken again.
fresh
for command in "rebase -u -b base -F qcow2 @" "commit @" "convert -n --target-image-opts -f raw four @"; do
    for file in plain.ova full.ova; do
        read -ra words <<<"$command"
        run_both "${words[0]}" --image-opts "${words[@]:1:${#words[@]}-2}" "$(options_of $file $file)"
        check "$command: $file" test -z "$(differences rc out)"
        look_at $file
    done
done

# ---- a part that is full ----

full_part=$(part full.ova "$full")
loose full.ova convert -n --target-image-opts -f raw four "$full_part"
loose full.ova resize --image-opts "$full_part" 16M
loose full.ova resize --preallocation=full --image-opts "$full_part" 16M
loose full.ova resize --image-opts "$full_part" 1G
loose full.ova snapshot -c one --image-opts "$full_part"
loose full.ova bench -w -c 20 -o 2M -s 64k --image-opts "$full_part"
loose full.ova bench -w -c 20 -s 64k --image-opts "$full_part"
fresh
for command in 'write -P 4 2M 1M' 'write -P 4 0 2M' 'write -z 0 64k' 'write -P 6 3M 64k' 'discard 1M 64k'; do
    qemu-io --image-opts -c "$command" "$(options_of full.ova "$q/full.ova")" >"$work/q.out" 2>&1
    "$IO" --image-opts -c "$command" "$(options_of full.ova "$m/full.ova")" >"$work/m.out" 2>&1
    check "io: $command" diff <(head -n 1 "$work/q.out") <(head -n 1 "$work/m.out")
    look_at full.ova
done

# ---- a raw image that is the disk of another image ----

on=driver=raw,file.driver=qcow2
fresh
for name in $on,file.file.filename=plain $on,offset=512,size=1024,file.file.filename=plain $on,size=0,file.file.filename=plain \
    $on,offset=1M,file.file.driver=raw,file.file.offset=$offset,file.file.size=$size,file.file.file.filename=plain.ova \
    $on,offset=4M,file.file.filename=plain $on,offset=4194305,file.file.filename=plain $on,size=5M,file.file.filename=plain \
    $on,size=1000,file.file.filename=plain $on,file.file.filename=missing $on,file.file.filename=raw \
    $on,file.foobarbaz=1,file.file.filename=plain $on,file.l2-cache-size=1M,file.file.filename=plain \
    $on,file.file.driver=raw,file.file.offset=1,file.file.file.filename=plain.ova; do
    looks info --image-opts "$name"
    looks info --output=json --image-opts "$name"
    looks map --image-opts "$name"
    looks map --output=json --image-opts "$name"
    looks measure -O qcow2 --image-opts "$name"
    looks check --image-opts "$name"
done
looks info 'json:{"driver":"raw","file":{"driver":"qcow2","file":{"driver":"file","filename":"over"}}}'
looks info 'json:{"driver":"raw","file":{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"over"}}}'
looks map --output=json 'json:{"driver":"raw","file":{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"over"}}}'
for name in $on,file.file.filename=plain $on,file.file.filename=over $on,offset=512k,size=1M,file.file.filename=over; do
    call '' convert -O raw --image-opts "$name" out.raw
    check "... holds the same" cmp "$q/out.raw" "$m/out.raw"
done
# What is below the image QEMU takes for a difference.
check "compare: with what is below" "$IMG" compare --image-opts $on,file.file.filename="$m/over" driver=qcow2,file.filename="$m/over"
printf abc >"$work/made/key"
(cd "$work/made" && qemu-img create -q -f qcow2 --object secret,id=k,file=key \
    -o encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10 secret 1M) || fail "making an encrypted image"
for command in info map 'map --output=json'; do
    # shellcheck disable=SC2086 # words
    call '' $command --object secret,id=k,file=key --image-opts $on,file.encrypt.key-secret=k,file.file.filename=secret
done
call plain convert -n --target-image-opts -f raw four $on,file.file.filename=plain
call over convert -n --target-image-opts -f raw four $on,file.file.filename=over,discard=unmap
call plain.ova convert -n --target-image-opts -f raw raw $on,file.file.driver=raw,file.file.offset=$offset,file.file.size=$size,file.file.file.filename=plain.ova
call plain resize --image-opts $on,file.file.filename=plain 8M
call plain resize --shrink --image-opts $on,file.file.filename=plain 2M
call plain resize --preallocation=falloc --image-opts $on,file.file.filename=plain 8M
call plain resize --image-opts $on,size=1M,file.file.filename=plain 8M
call plain bench -w -c 10 -s 64k --pattern=7 --image-opts $on,offset=1M,size=1M,file.file.filename=plain
call plain commit --image-opts $on,file.file.filename=plain
call plain amend -o size=1M --image-opts $on,file.file.filename=plain
call plain rebase -u -b x -F raw --image-opts $on,file.file.filename=plain
fresh
for command in 'write -P 9 2M 1M' 'write -z 0 64k' 'discard 1M 64k' 'write -P 3 4194303 2' 'truncate 8M' 'write -P 3 7M 64k' \
    'read -P 3 7M 64k' length flush 'read -v 2097150 512'; do
    for file in plain over; do
        qemu-io --image-opts -c "$command" "$on,discard=unmap,file.file.filename=$q/$file" >"$work/q.out" 2>&1
        "$IO" --image-opts -c "$command" "$on,discard=unmap,file.file.filename=$m/$file" >"$work/m.out" 2>&1
        check "io: $command: on $file" diff <(sed '/ops; /d; s/^qemu-io: //' "$work/q.out") <(sed '/ops; /d; s/^minivmm-io: //' "$work/m.out")
        look_at $file
    done
done

# ---- qemu-io's language ----

fresh
for command in 'write -P 4 1M 1M' 'write -z 0 3M' 'discard 1M 1M' 'write -P 6 2M 1M' 'read -v 3145216 512' 'write -P 6 2M 2M' length \
    'write -P 5 3145216 512' 'write -P 5 3145216 1024' 'truncate 2M' 'truncate 4M' map; do
    for file in raw.ova plain.ova; do
        [ "$file" = raw.ova ] || [[ $command != truncate* && $command != map ]] || continue
        qemu-io --image-opts -c "$command" "$(options_of $file "$q/$file"),discard=unmap" >"$work/q.out" 2>&1
        "$IO" --image-opts -c "$command" "$(options_of $file "$m/$file"),discard=unmap" >"$work/m.out" 2>&1
        check "io: $command: $file" diff <(sed '/ops; /d; s/^qemu-io: //' "$work/q.out") <(sed '/ops; /d; s/^minivmm-io: //' "$work/m.out")
        look_at $file
    done
done

# ---- a guess that is wrong ----

# What was guessed to be raw is looked at before it is written, where it is.
fresh
guessed=offset=1M,file.filename
qemu-io --image-opts -c 'write -P 9 0 512' $guessed="$q/raw" >"$work/q.out" 2>&1
"$IO" --image-opts -c 'write -P 9 0 512' $guessed="$m/raw" >"$work/m.out" 2>&1
check "a guessed raw part is written in its place" cmp "$q/raw" "$m/raw"
check "... and there alone" cmp -n 1048576 "$work/made/raw" "$m/raw"

# ---- locks are those of the file ----

locks() {
    local inode
    inode=$(stat -c %i "$1")
    sed -n "s/.* \(READ\|WRITE\) .*:$inode \(.*\)/\2/p" /proc/locks | sort -n
}
mkfifo "$work/commands"
# hold PROGRAM FILE ARGUMENTS...: PROGRAM has FILE open until `release`; the locks meanwhile.
hold() {
    "$1" --image-opts "${@:3}" <"$work/commands" >"$work/answers" 2>&1 &
    holder=$!
    exec {commands}>"$work/commands"
    echo length >&"$commands"
    until grep -q MiB "$work/answers" || ! [ -e /proc/$holder ]; do
        sleep 0.02
    done
    locks "$2"
}
release() {
    echo quit >&"$commands"
    exec {commands}>&-
    wait "$holder"
}
for mode in "" -r "-r -U"; do
    # shellcheck disable=SC2086 # words
    hold qemu-io "$q/plain.ova" $mode "$(part "$q/plain.ova")" >"$work/q.locks"
    release
    # shellcheck disable=SC2086
    hold "$IO" "$m/plain.ova" $mode "$(part "$m/plain.ova")" >"$work/m.locks"
    release
    check "locks: ${mode:-writable}" cmp "$work/q.locks" "$work/m.locks"
    check "... of which there are some" test -s "$work/m.locks"
done
hold qemu-io "$m/plain.ova" "$(part "$m/plain.ova")" >"$work/q.locks"
refuse "while QEMU has the part" "$IMG" resize --image-opts "$(part "$m/plain.ova")" 16M
refuse "... and the file" "$IMG" resize -f raw "$m/plain.ova" 16M
release

# ---- what stands in an image gains nothing ----

fresh
for name in 'json:{"driver":"raw","file":{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}}' \
    'json:{"driver":"qcow2","file":{"driver":"raw","offset":0,"file":{"driver":"file","filename":"plain.ova"}}}'; do
    qemu-img rebase -u -b "$name" -F raw "$m/over" 2>>"$work/log"
    for command in map 'measure -O qcow2' commit 'info --backing-chain' 'rebase -b'; do
        read -ra words <<<"$command"
        [ "$command" != 'rebase -b' ] || words+=("")
        refuse "a name in an image: $command" "$IMG" "${words[@]}" "$m/over"
        refuse "... of a part: $command" "$IMG" "${words[@]}" --image-opts \
            driver=qcow2,file.driver=raw,file.file.filename="$m/over"
    done
done
refuse "outside of the backing root" "$IMG" --backing-root "$m/sub" map --image-opts \
    "driver=qcow2,file.filename=$m/plain,backing.file.driver=raw,backing.file.offset=$offset,backing.file.file.filename=$m/plain.ova"

finish
