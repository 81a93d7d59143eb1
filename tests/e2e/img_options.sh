#!/bin/bash
# What options of minivmm-img mean that several commands have, each call beside qemu-img's on the same files: names
# of images as options and as JSON, formats that exclude them, -U, hints to the file system, help about -o.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/img_lib.sh"

make_images() {
    qemu-img create -q -f qcow2 base 4M && qemu-io -c 'write -q -P 3 0 2M' base &&
        qemu-img create -q -f qcow2 other 4M && qemu-io -c 'write -q -P 7 0 1M' other &&
        qemu-img create -q -f qcow2 -b base -F qcow2 top 8M &&
        qemu-io -c 'write -q -P 5 1M 1M' -c 'write -q -z 3M 1M' top &&
        qemu-img create -q -f qcow2 plain 8M && qemu-io -c 'write -q -P 5 1M 1M' plain &&
        qemu-img create -q -f raw raw 8M && qemu-io -f raw -c 'write -q -P 9 1M 128k' raw &&
        cp plain a,b && cp plain 'no=t' && printf abc >key
}
mkdir "$work/made"
(cd "$work/made" && make_images) >"$work/log" 2>&1 || fail "preparing" "$(cat "$work/log")"

# call WHAT-IS-MADE ARGUMENTS...: on fresh files the same is said, the same files are there, and these hold the same.
call() {
    local file format
    for side in "$q" "$m"; do
        rm -rf "$side" && cp -r "$work/made" "$side"
    done
    same "${*:2}" "${@:2}"
    [ "$(ls "$q")" = "$(ls "$m")" ] || fail "... the same files" "$(diff <(ls "$q") <(ls "$m"))"
    for file in $1; do
        format=qcow2
        [[ $file != *raw* ]] || format=raw
        same_image "... holds the same: $file" "$file" $format
    done
}
top=driver=qcow2,file.filename=top

# ---- names that are options ----

call '' info --image-opts $top
call '' info --output=json --image-opts $top
call top amend --image-opts -o size=9M $top
call '' check --image-opts $top
call 'top base' commit --image-opts $top
call 'top base' commit -b base --image-opts $top
call '' compare --image-opts $top driver=raw,file.filename=raw
call raw.out convert --image-opts -O raw $top raw.out
call '' map --image-opts --output=json $top
call '' measure --image-opts -O qcow2 $top
call top rebase --image-opts -b other -F qcow2 $top
call top resize --image-opts $top 16M
call top snapshot --image-opts -c one $top
call plain bitmap --image-opts --add driver=qcow2,file.filename=plain b
call raw.out dd --image-opts if=$top of=raw.out
call raw.out convert --image-opts -O raw driver=qcow2,file.filename=a,,b raw.out
call raw.out convert --image-opts -O raw driver=qcow2,file.filename=no=t raw.out
call raw.out convert --image-opts -O raw file.filename=top raw.out
for path in base other; do
    call raw.out convert --image-opts -O raw $top,backing.driver=qcow2,backing.file.filename=$path raw.out
    call '' map --image-opts $top,backing.file.filename=$path
    call '' compare --image-opts $top,backing.driver=qcow2,backing.file.filename=$path $top
    call '' measure --image-opts -O qcow2 $top,backing.driver=qcow2,backing.file.filename=$path
    call "top $path" commit --image-opts $top,backing.driver=qcow2,backing.file.filename=$path
done
call '' check --image-opts $top,backing.driver=qcow2,backing.file.filename=other
call raw.out convert --image-opts -O raw $top,backing.driver=raw,backing.file.filename=raw raw.out
call raw.out convert --image-opts -O raw \
    driver=qcow2,file.filename=plain,backing.driver=qcow2,backing.file.filename=other raw.out
same_status "a backing file of another format" convert --image-opts -O raw $top,backing.file.filename=raw raw.out
call '' convert --image-opts -O raw $top,backing=other raw.out
for part in offset=1M,size=64k offset=1M offset=100,size=512 size=1000 size=100M offset=100M offset=8M size=8M; do
    kept=
    [[ $part =~ 000|00M ]] || kept=raw.out
    call "$kept" convert --image-opts -O raw driver=raw,$part,file.filename=raw raw.out
done
call '' map --image-opts --output=json driver=raw,offset=1M,size=64k,file.filename=raw
call raw resize --image-opts driver=raw,size=1M,file.filename=raw 2M
call raw bench --image-opts -w -c 3 -q --pattern=8 driver=raw,offset=1M,size=64k,file.filename=raw
# What tunes QEMU is taken.
plain=driver=qcow2,file.filename=plain
for option in lazy-refcounts=on l2-cache-size=1M overlap-check=all overlap-check.template=none,overlap-check.main-header=on \
    pass-discard-request=on,pass-discard-snapshot=off,pass-discard-other=on cache-clean-interval=0 cache-size=2M \
    refcount-cache-size=1M,l2-cache-entry-size=4k node-name=n discard=unmap discard=ignore detect-zeroes=on \
    detect-zeroes=unmap,discard=unmap cache.direct=on,cache.no-flush=off cache.no-flush=on file.aio=threads file.locking=off \
    file.driver=file file.cache.direct=off read-only=off auto-read-only=off force-share=off; do
    call plain resize --image-opts $plain,$option 16M
done
for option in lazy-refcounts=x read-only=x read-only=on force-share=on discard=x detect-zeroes=unmap detect-zeroes=x \
    overlap-check=x file.aio=x file.foobarbaz=1 foobarbaz=1 file.driver=foo driver=foo; do
    call plain resize --image-opts $plain,$option 16M
done
call raw resize --image-opts driver=raw,file.filename=raw,lazy-refcounts=on 16M
for name in top driver=qcow2 driver=raw node-name=x $plain,driver=foo driver=qcow2,file.filename=missing ''; do
    [ "$name" = '' ] || call '' info --image-opts "$name"
done
run_both map --image-opts $plain,lazy-refcount=on
check "a near miss of an option is suggested" grep -q "(did you mean 'lazy-refcounts'?)" "$work/m.err"
refuse "a loop is one" "$IMG" convert --image-opts -O raw \
    "driver=qcow2,file.filename=$m/top,backing.file.filename=$m/top" "$work/none"

# ---- of JSON, and with file: ----

call '' info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"top"}}'
call '' info 'json:{"file.filename":"top"}'
call raw.out convert -O raw 'json:{"driver":"qcow2","file.filename":"a,b"}' raw.out
call raw.out convert -O raw 'json:{"driver":"raw","offset":1048576,"size":65536,"file":{"driver":"file","filename":"raw"}}' raw.out
call raw.out convert -O raw 'json:{"driver":"qcow2","file.filename":"top","backing":null}' raw.out
call raw.out convert -O raw 'json:{"driver":"qcow2","file.filename":"top","backing":{"driver":"qcow2","file.filename":"other"}}' raw.out
call plain resize 'json:{"driver":"qcow2","read-only":false,"file.filename":"plain"}' 16M
call plain resize 'json:{"driver":"qcow2","read-only":true,"file.filename":"plain"}' 16M
for name in 'json:' 'json:{' 'json:[]' 'json:{"driver":[1]}' 'json:{}'; do
    refuse "no image: $name" "$IMG" info "$name"
done
call '' info file:top
call raw.out convert -O raw file:top raw.out

# ---- a target that is options ----

call plain convert -n --target-image-opts base $plain
call plain convert -n --target-image-opts base $plain,discard=unmap
call raw convert -n --target-image-opts base driver=raw,file.filename=raw
call raw convert -n --target-image-opts base driver=raw,file.filename=raw,size=4M
call raw convert -n --target-image-opts --image-opts driver=qcow2,file.filename=base driver=raw,offset=1M,file.filename=raw
call plain convert --target-image-opts base $plain
call plain convert -n --target-image-opts -O qcow2 base $plain

# ---- -f and --image-opts ----

for arguments in "amend -o size=9M $top" "bench -c 1 $top" "bitmap --add $top b" "check $top" "commit $top" \
    "compare $top $top" "convert $top raw.out" "dd if=$top of=raw.out" "info $top" "map $top" "measure $top" \
    "rebase -b other -F qcow2 $top" "resize $top 16M"; do
    read -ra words <<<"$arguments"
    call top "${words[0]}" --image-opts -f qcow2 "${words[@]:1}"
done
call '' measure --image-opts --size 1G

# ---- -U is for reading ----

for arguments in 'check -U -r all top' 'bench -U -w -c 1 top' 'snapshot -U -c one top' 'rebase -U -b other -F qcow2 top'; do
    # shellcheck disable=SC2086 # words
    call top $arguments
done

# ---- raw, which was guessed ----

for arguments in 'resize raw 16M' 'bench -w -c 1 -q raw' 'snapshot -c one raw' 'snapshot -d one raw'; do
    # shellcheck disable=SC2086 # words
    call raw $arguments
done
call '' info raw
call '' map raw
call '' info -f qcow2 raw
call '' compare -F qcow2 top raw
call top rebase -b raw -F qcow2 top
call raw rebase -b base -F qcow2 -f raw raw

# ---- convert ----

for sparse in 0 512 4k 16M 1000 511 5G 17M; do
    call '' convert -S $sparse -O raw top "out$sparse"
done
call '' convert -O qcow2 -B base -F qcow2 top plain out
for size in 4M 16M; do
    call raw.out convert -O raw -o size=$size top raw.out
    call out convert -O qcow2 -o size=$size top out
    check "... of the source's size" grep -q '^virtual size: 8 MiB ' <("$IMG" info "$m/out")
done
call plain convert -n -B base -O qcow2 top plain

# ---- what is no image ----

mkdir "$work/made/folder"
head -c 40 "$work/made/plain" >"$work/made/forty"
: >"$work/made/empty"
for file in missing missing/file folder forty; do
    for arguments in 'amend -o size=9M @' 'bench -c 1 @' 'bitmap --add @ b' 'check @' 'check -r all @' 'commit @' \
        'compare @ plain' 'compare plain @' 'convert -O raw @ out' 'convert -n -O raw plain @' 'dd if=@ of=out' 'info @' \
        'map @' 'measure @' 'rebase -b other -F qcow2 @' 'rebase -u -b other -F qcow2 @' 'rebase -b @ -F qcow2 top' \
        'resize @ 1M' 'snapshot -l @' 'snapshot -c s @' 'snapshot -d s @'; do
        # shellcheck disable=SC2086 # words
        call '' ${arguments//@/$file}
    done
done
for arguments in 'info empty' 'info -f qcow2 empty' 'check empty' 'convert -O raw empty out' 'create -f qcow2 new/file 1M' \
    'create -f raw folder 1M' 'convert -O raw plain folder'; do
    # shellcheck disable=SC2086 # words
    call '' $arguments
done
rm -r "$work/made/folder" "$work/made/forty" "$work/made/empty"

# ---- asked for with a signal, a progress is said once ----

# Whether a process handles SIGUSR1, which is signal 10; before that it would end it.
catches() {
    local mask
    mask=$(sed -n 's/^SigCgt:\t*//p' "/proc/$1/status") && [ $((0x$mask >> 9 & 1)) = 1 ]
}
# answers COMMAND...: while it runs it is asked until it answers, with one line; then it ends well.
answers() {
    local pid
    : >"$work/progress"
    "$@" 2>"$work/progress" >/dev/null &
    pid=$!
    until [ -s "$work/progress" ] || ! [ -e "/proc/$pid" ]; do
        ! catches "$pid" || kill -USR1 "$pid"
        read -r -t 0.02 -u "$never"
    done
    wait "$pid" && grep -qE '^    \([0-9]{1,3}\.[0-9]{2}/100%\)$' "$work/progress"
}
mkfifo "$work/never"
exec {never}<>"$work/never"
qemu-img create -q -f raw "$work/made/raw.large" 64M
qemu-io -f raw -c 'write -q -P 1 0 64M' "$work/made/raw.large"
qemu-img create -q -f qcow2 "$work/made/below" 64M
qemu-img create -q -f qcow2 -b below -F qcow2 "$work/made/above"
qemu-io -c 'write -q -P 2 0 64M' "$work/made/above"
for program in qemu-img "$IMG"; do
    cd "$work/made" || exit
    check "SIGUSR1: ${program##*/} convert" answers "$program" convert -r 64M -f raw -O raw raw.large out
    check "SIGUSR1: ${program##*/} commit" answers "$program" commit -d -r 64M above
    rm -f out
    cd "$work" || exit
done
rm "$work/made/raw.large" "$work/made/above" "$work/made/below"

# ---- hints, and help ----

for options in nocow=on nocow=off nocow=x extent_size_hint=1M extent_size_hint=0 extent_size_hint=x \
    extent_size_hint=5G extent_size_hint=64k,nocow=on,preallocation=off; do
    call '' create -f raw -o $options new 1M
    call '' create -f qcow2 -o $options new 1M
    call '' convert -O qcow2 -o $options top new
done
for arguments in 'create -f raw -o help' 'create -o help' 'create -f raw -o help new 1M' 'create -o ? new 1M' \
    'convert -O raw -o help' 'convert -o help top new' 'create -f foo -o help' 'measure -O qcow2 -o help' \
    'amend -f qcow2 -o help'; do
    # shellcheck disable=SC2086 # words
    call '' $arguments
done
# AES is not offered.
for arguments in '' 'new 1M'; do
    # shellcheck disable=SC2086 # words
    run_both create -f qcow2 -o help $arguments
    sed -i "s/choices: 'aes', 'luks'/choices: 'luks'/; s/qcow AES key or //; /^  encryption=/d" "$work/q.out"
    check "create -f qcow2 -o help $arguments" test -z "$(differences rc out err)"
done

# ---- -T: there are no events, but what is asked for is judged alike ----

printf 'nosuch\n# qcow2_*\n' >events
cp events "$q/events" && cp events "$m/events"
for arguments in "-T" "--trace" "-T nosuch info plain" "--trace=nosuch info plain" "-Tnosuch* info plain" \
    "-T events=events info plain" "-T events=missing info plain" "-T file=log info plain" \
    "-T file=missing/log info plain" "-T nosuch,wrong=1 info plain" "-T nosuch unknown" "--tracex"; do
    # shellcheck disable=SC2086 # words
    same "$arguments" $arguments
done
check "-T help is a list of nothing" test -z "$("$IMG" -T help 2>&1)"

finish
