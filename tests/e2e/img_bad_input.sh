#!/bin/bash
# Every command on files that are missing, of the wrong kind, cut short or hostile: one line on stderr,
# a status, no crash, no hang, and nothing written.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1
[ -n "$(command -v qemu-img)" ] || { echo "1..0 # SKIP qemu-img is not installed"; exit 0; }

qemu-img create -q -f qcow2 good.qcow2 4M
qemu-io -c 'write -P 1 0 1M' good.qcow2 >/dev/null
mkdir folder
mkfifo fifo
head -c 40 good.qcow2 >forty-bytes.qcow2
head -c 100000 good.qcow2 >cut.qcow2
head -c 65536 good.qcow2 >header-only.qcow2

# field NAME OFFSET BYTES: a copy of the good image with other bytes in the header.
field() {
    cp good.qcow2 "$1"
    printf '%b' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
field version.qcow2 4 '\x00\x00\x00\x09'
field clusters-tiny.qcow2 20 '\x00\x00\x00\x00'
field clusters-huge.qcow2 20 '\x00\x00\x00\x3f'
field size-huge.qcow2 24 '\xff\xff\xff\xff\xff\xff\xff\xff'
field l1-huge.qcow2 36 '\xff\xff\xff\xff'
field l1-outside.qcow2 40 '\x00\x7f\xff\xff\xff\xff\x00\x00'
field l1-unaligned.qcow2 40 '\x00\x00\x00\x00\x00\x03\x00\x08'
field reftable-outside.qcow2 48 '\x00\x7f\xff\xff\xff\xff\x00\x00'
field reftable-huge.qcow2 56 '\xff\xff\xff\xff'
field unknown-feature.qcow2 72 '\x80\x00\x00\x00\x00\x00\x00\x00'
field encrypted.qcow2 32 '\x00\x00\x00\x01'
field header-short.qcow2 100 '\x00\x00\x00\x10'
field header-long.qcow2 100 '\xff\xff\xff\xf8'
field backing-long.qcow2 8 '\x00\x00\x00\x00\x00\x00\x02\x00\x7f\xff\xff\xff'
sum=$(cat ./*.qcow2 | sha256sum)

every_command() {
    local name=$1 file=$2
    refuse "info: $name" timeout 10 "$IMG" info -f qcow2 "$file"
    refuse "check: $name" timeout 10 "$IMG" check -q -f qcow2 "$file"
    refuse "check -r all: $name" timeout 10 "$IMG" check -q -r all -f qcow2 "$file"
    refuse "rebase: $name" timeout 10 "$IMG" rebase -b good.qcow2 -F qcow2 -f qcow2 "$file"
    refuse "rebase -u: $name" timeout 10 "$IMG" rebase -u -b '' -f qcow2 "$file"
    refuse "commit: $name" timeout 10 "$IMG" commit -f qcow2 "$file"
    refuse "convert: $name" timeout 10 "$IMG" convert -f qcow2 -O raw "$file" out.raw
}
for file in missing folder fifo /dev/null forty-bytes.qcow2 version.qcow2 clusters-tiny.qcow2 clusters-huge.qcow2 \
    size-huge.qcow2 l1-huge.qcow2 l1-unaligned.qcow2 reftable-huge.qcow2 unknown-feature.qcow2 \
    encrypted.qcow2 header-short.qcow2 header-long.qcow2 backing-long.qcow2; do
    every_command "$file" "$file"
done
check "the files are as they were" test "$sum" = "$(cat ./*.qcow2 | sha256sum)"
refuse "convert: l1-outside.qcow2" timeout 10 "$IMG" convert -f qcow2 -O raw l1-outside.qcow2 out.raw
refuse "commit: l1-outside.qcow2" timeout 10 "$IMG" commit -f qcow2 l1-outside.qcow2
check "nothing was converted" test ! -e out.raw
check "a feature is refused by name" grep -q 'Unsupported qcow2 feature' <("$IMG" info unknown-feature.qcow2 2>&1)
check "encryption with AES is refused by name" grep -q 'AES encryption' <("$IMG" info encrypted.qcow2 2>&1)

# What can be opened but is cut short: a verdict, no crash.
for file in cut.qcow2 header-only.qcow2 l1-outside.qcow2 reftable-outside.qcow2; do
    for options in '' '-r leaks' '-r all'; do
        cp $file copy.qcow2
        # shellcheck disable=SC2086 # words
        timeout 10 "$IMG" check -q $options copy.qcow2 >/dev/null 2>&1
        status=$?
        check "check $options $file ends with a verdict" test "$status" -le 3
    done
done

# Names that come from an image do not reach the terminal as they are.
cp good.qcow2 escape.qcow2
qemu-img rebase -u -b $'no\e[31msuch' -F raw escape.qcow2
"$IMG" commit escape.qcow2 >said 2>&1
check "no escape sequences in messages" test "$(grep -c $'\e' said)" = 0
chmod 000 good.qcow2
refuse "no permission" unprivileged "$IMG" info good.qcow2

finish
