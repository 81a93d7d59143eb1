#!/bin/bash
# `minivmm-io` against qemu-io: what is neither read nor write, and the command line.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/io_lib.sh"

both qemu-img create -q -f qcow2 base 2M
both qemu-io -c 'write -P 3 0 2M' base
both qemu-img create -q -f qcow2 -b base -F qcow2 a 2500K
both qemu-img create -q -f raw raw 1M
both qemu-img create -q -f qcow2 nothing 0
both qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k old 20M
both qemu-img create -q -f qcow2 -o extended_l2=on,compression_type=zstd,lazy_refcounts=on new 20M

# ---- asynchronous requests; those in flight at once may end in any order ----

same_io "one at a time" -- a 'aio_write -P 5 1000 1k 2k' aio_flush 'aio_read -P 5 1000 3k' aio_flush \
    'aio_read -v 990 20' aio_flush 'aio_write -qf 0 1k' aio_flush 'aio_write -C 0 1k' aio_flush 'aio_read -C 0 1k' aio_flush
same_io "their failures do not count" -- a 'aio_read -P 6 1000 3k' aio_flush 'aio_write 2500k 1k' aio_flush \
    'aio_read 2499k 3k' aio_flush
same_io "zeros" -- a 'aio_write -qz 0 1k' aio_flush 'aio_write -qzu 64k 64k' aio_flush 'read -P 0 64k 64k' \
    'aio_write -z 0 1k 1k' 'aio_write -u 0 1k' 'aio_write -z 0 x' \
    'aio_write -z -P 4 0 1k' aio_flush
for bad in '' 0 '0 x' 'x 1k' '0 3G' '-Z 0 1k' '-P x 0 1k'; do
    same_io "aio_read $bad" -- a "aio_read $bad"
    same_io "aio_write $bad" -- a "aio_write $bad"
done
same_io "injected" -- a 'aio_read -i 0 1k' 'aio_write -i 0 1k'
run_io -- a 'aio_write -P 1 0 64k' 'aio_write -P 2 64k 64k' 'aio_write -P 3 128k 64k' 'aio_read 2M 1k' aio_flush
for side in q m; do sort -o "$work/$side.out" "$work/$side.out"; done
judge_io "several at once" "$(differences rc out err)"
run_io -- a 'aio_read 0 1k' 'aio_read 1k 2k' 'close'
for side in q m; do sort -o "$work/$side.out" "$work/$side.out"; done
judge_io "several at once, then closed" "$(differences rc out err)"
same_image "... the image" a

# ---- the image ----

same_io "discard" -- a 'discard 0 64k' 'discard 0 1' 'discard -q 0 4k' 'discard -C 0 4k' 'd 1536k 64k' 'discard 2500k 1' \
    'discard 0 4G' 'discard 0' 'discard x 0' 'discard -Z 0 1' 'read -P 0 0 64k'
same_image "... the image" a
same_io "discards ignored" -d ignore -- a 'write 0 64k' 'discard 0 64k' 'read -P 0xcd 0 64k'
same_io "map and alloc" -- a map 'alloc 0' 'alloc 0 1M' 'alloc 512 1000' 'alloc 0 20M' 'alloc 3M' 'alloc x' 'alloc 0 x' 'alloc 0 0' \
    'alloc 1' alloc 'alloc 1 2 3' 'map 1' 'write -z 512k 512k' map 'write -c 2M 64k' map 'a 0 2500k'
for file in base nothing old new; do
    same_io "map, length, info: $file" -- $file map length l info i
done
same_io "map, length, info: raw" -f raw -- raw map 'alloc 0' 'alloc 1M' length info
same_io "truncate" -- a 'truncate 2M' length 'truncate 1500' length 'truncate x' 'truncate -m full 4M' 'truncate -m foo 4M' \
    'truncate 1M' l truncate 'truncate -m full 512k' 'truncate -m' 'truncate -Z 5' 't 10E' l map
same_image "... the image" a
same_io "truncate raw" -f raw -- raw 'truncate 2M' length 'truncate -m full 1M' 'truncate -m metadata 3M' 'truncate 10E' \
    'truncate 512k' length map
same_io "flush" -- a flush f 'flush 1' aio_flush

# ---- copy-on-read ----

# copied NAME ARGUMENTS...: the same commands, and then the same in the image itself and in what is seen.
copied() {
    both qemu-img create -q -f qcow2 -o "${format:-compat=1.1}" -b half -F qcow2 copied 2500K
    same_io "copy-on-read: $1" "${@:2}"
    same_io "... what the image holds" -r -- copied map
    same_image "... the image" copied
}
both qemu-img create -q -f qcow2 half 2M
both qemu-io -c 'write -q -P 3 0 1M' -c 'write -q -P 4 1280k 1000' half
copied "whole clusters" -C -- copied 'read -P 3 1000 3000' map 'read -P 3 128k 4k' map
copied "zeros" -C -- copied 'read 1M 128k' 'read 2300k 100k' 'read 2M 452k'
copied "zeros and data together" -C -- copied 'read 1000k 100k' 'read 1200k 200k'
copied "around what is there" -C -- copied 'write -P 5 64k 100' 'write -z 192k 64k' 'write -c -P 6 320k 64k' 'read 0 1M' \
    'read -P 5 64k 100' 'read -P 3 65636 3000' 'read -P 6 320k 64k' 'read -P 0 192k 64k'
copied "all" -C -- copied 'read 0 2500k' 'discard 0 64k' 'read -P 0 0 64k'
copied "readv and aio_read" --copy-on-read -- copied 'readv -P 3 0 4k 4k' 'aio_read -P 3 128k 4k' aio_flush \
    'aio_write -q -P 7 512k 4k' 'aio_read -q -P 7 512k 4k' aio_flush 'read -P 3 516k 4k'
copied "what is not there" -C -- copied 'read 2499k 3k' 'aio_read 2500k 1' aio_flush 'read 0 3M'
copied "by open" -- copied close 'open -C copied' 'read 0 4k' close 'open copied' 'read 64k 4k'
copied "reopened" -C -- copied 'reopen -c writeback' 'read 0 4k' 'reopen -w' 'read 64k 4k'
copied "read-only" -C -r -- copied 'read 0 4k'
copied "read-only, by open" -- copied close 'open -C -r copied' 'read 0 4k'
same_io_status "copy-on-read: reopened read-only" -C -- copied 'reopen -r' 'read 0 4k'
format=extended_l2=on copied "subclusters" -C -- copied 'read 5000 4k' 'write -P 1 100k 4k' 'read 64k 64k' 'read 1M 1'
format=cluster_size=4k copied "small clusters" -C -- copied 'read 5000 4k' 'read 1020k 20k'
same_io "copy-on-read: nothing below" -C -- new 'read 0 100k' map
same_io "copy-on-read: nothing below, version 2" -C -- old 'read 0 100k' map
format=compat=0.10 copied "version 2" -C -- copied 'read 1000 3000' 'read 1M 1k' map
same_io "copy-on-read: raw" -C -f raw -- raw 'read 0 64k' map

# ---- files ----

same_io "close and open" -- a close 'read 0 1k' 'open a' 'open a' length c 'open -o driver=raw base' info c \
    open 'open a b' 'open -Z a' 'open -t foo a' 'open -d foo a' 'open -i foo a' 'open -U a' \
    'open -U -r a' length 'write 0 1k' close 'open -o driver=qcow2,file.filename=a' length close close \
    'open -t writeback -n -d off -i threads -k a' 'write 0 1k' 'read -P 0xcd 0 1k'
same_io "open what is not there" -- a close 'open missing' length
same_io "open as something unknown" -- a close 'open -o driver=foo a' length
same_io_status "open with something unknown" -- a close 'open -o foo=bar a' length
same_io "throwaway" -s -- a 'write -P 9 0 1k' 'read -P 9 0 1k'
same_io "throwaway, by open" -- a close 'open -s a' 'write -P 9 0 1k' 'read -P 9 0 1k' close 'open a' 'read -P 9 0 1k'
same_io "reopen" -- a 'reopen -r' 'write 0 1k' 'reopen -w' 'write 0 1k' 'reopen -r -w' 'reopen -r -r' 'reopen x' \
    'reopen -c foo' 'reopen -c none' 'write 0 1k' 'reopen -o foo=bar' 'reopen -c writeback -o cache.direct=on' \
    'reopen -o cache.direct=off,discard=ignore' 'write 64k 64k' 'discard 64k 64k' 'read -P 0xcd 64k 64k' 'reopen -Z' reopen
same_io "reopen for writing" -r -- a 'reopen -w' 'write 0 1k' close reopen
same_image "... the image" a
both cp a a,b=c
same_io "a name with a comma" -- a close 'open a,b=c' length close 'open -o driver=qcow2,file.filename=a,,b=c' length \
    close 'open -o driver=qcow2 a,b=c' info

# ---- the program ----

same_io "sleep" -- a 'sleep 1' 'sleep x' sleep 'sleep -1' 'sleep 0x1'
same_io "signals" -- a 'sigraise x' sigraise 'sigraise -1' 'sigraise 100' 'sigraise 0' 'sigraise 10' 'write 0 1k' 'sigraise 15' length
same_io "... of which one dies" -- a 'sigraise 9'
same_io "quit" -- a foo quit length
same_io "quit with arguments" -- a 'q 1 2' length
same_io "blanks" -- a '' '   ' '  length  ' $'length\t'
same_io "help that is not there" -- a 'help foo' 'help a b'
for command in abort aio_flush aio_read aio_write alloc close discard flush help info length map quit readv reopen \
    sigraise sleep truncate write writev; do
    run_io -- a "help $command"
    for side in q m; do sed -i -e 's/ -- .*//' -e '2,$d' "$work/$side.out"; done
    judge_io "help $command: the syntax" "$(differences rc out err)"
done
check "help lists every command" bash -c "diff <(qemu-io -c help | grep ' -- ' | cut -d' ' -f1 |
    grep -vE '^(break|remove_break|resume|wait_break)\$') <('$MIO' -c help | grep ' -- ' | cut -d' ' -f1)"
io_input "standard input" $'length\n\nfoo\nread -P 1 0 1k\nquit\nlength\n' a
io_input "... that just ends" $'length\nlength' a
io_input "... with no file" $'length\nopen a\nlength\n'
io_input "... with nothing" ''
same_io "missing" missing
same_io "missing, with commands" -- missing length
same_io "unknown format" -f foo -- a length
same_io "unknown cache mode" -t foo -- a length
same_io "unknown discard mode" -d foo -- a length
same_io "unknown engine" -i foo -- a length
same_io "-U for writing" -U -- a length
same_io "-U" -U -r -- a length
both bash -c 'printf "# none\n\nfoo\nno_such*\n-bar\n" >events'
for trace in foo 'no_such*' -foo 'enable=foo,enable=bar' events=events events=missing file=log file=nodir/log \
    'events=events,enable=foo,file=log' foo=bar a=b=c ''; do
    same_io "--trace $trace" --trace "$trace" -- a length
done
same_io "-T" -T foo -Tbar -- a length
check "the log of --trace is made" test -e "$m/log"
same_io "options for a name" --image-opts -- driver=qcow2,file.filename=a length
same_io "options for a name, and -f" --image-opts -f qcow2 -- driver=qcow2,file.filename=a length
same_io "raw by options" --image-opts -- driver=raw,file.filename=base info
same_io "long options" --read-only --nocache --cache=none --discard=off --aio=threads --cmd length --format=qcow2 -- a length
same_io_status "options that make no sense" --image-opts -- driver=qcow2,foo=bar length
for wrong in "-Z" "--foo" "a base"; do
    # shellcheck disable=SC2086
    run_io $wrong
    check "usage: $wrong" test "$(cat "$work/q.rc" "$work/m.rc" | tr '\n' ' ')" = "1 1 "
    check "usage: $wrong: the message" diff "$work/q.err" "$work/m.err"
done
both bash -c 'printf abc >key'
"$IMG" create -q -f qcow2 --object secret,id=s,file="$q/key" \
    -o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s "$q/encrypted" 1M
cp "$q/encrypted" "$m"
same_io "options that tune QEMU" -- a 'reopen -o lazy-refcounts=on' 'reopen -o overlap-check=all,l2-cache-size=1M' \
    'reopen -o detect-zeroes=on,discard=unmap' 'reopen -o lazy-refcounts=x' close \
    'open -o lazy-refcounts=on,l2-cache-size=64k,overlap-check=none a' 'read 0 4k' close \
    'open -o driver=raw,offset=512,size=1024 base' length 'read 0 1k' 'read 1k 1'
both qemu-img create -q -f qcow2 below 4M
same_io "another backing file" -- a close 'open -o backing.driver=qcow2,backing.file.filename=below a' 'read -P 0 1M 4k' \
    close 'open a' 'read -P 3 1M 4k'
same_io_status "options that it has not" -- a 'reopen -o foobarbaz=1' close 'open -o read-only=on a' 'open -o foobarbaz=1 a'
same_io "encrypted" --object secret,id=s,file=key --image-opts -- \
    driver=qcow2,file.filename=encrypted,encrypt.key-secret=s 'write -P 4 100 1000' 'read -P 4 100 1000' 'read -P 0 0 100'
finish
