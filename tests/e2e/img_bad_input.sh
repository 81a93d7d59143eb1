#!/bin/bash
# Every command on files that are missing, of the wrong kind, cut short, hostile or not to be touched: one line
# on stderr with the program, the file and why; a status; no crash, no hang, nothing written and nothing left
# behind. And on files with odd names, which work.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1
[ -n "$(command -v qemu-img)" ] || { echo "1..0 # SKIP qemu-img is not installed"; exit 0; }

# What is done with a file @: it is what the command works on.
commands=(
    'amend -f qcow2 -o lazy_refcounts=on @'
    'bench -f qcow2 -c 1 @'
    'bench -f qcow2 -w -c 1 @'
    'bitmap -f qcow2 --add @ b'
    'bitmap -f qcow2 --merge b -b @ -F qcow2 good.qcow2 c'
    'check -q -f qcow2 @'
    'check -q -r all -f qcow2 @'
    'commit -f qcow2 @'
    'compare -f qcow2 -F qcow2 @ good.qcow2'
    'compare -f qcow2 -F qcow2 good.qcow2 @'
    'convert -f qcow2 -O raw @ out.raw'
    'convert -f qcow2 -O qcow2 -c good.qcow2 @ out.qcow2'
    'convert -f qcow2 -O qcow2 -B @ -F qcow2 good.qcow2 out.qcow2'
    'convert -n -f qcow2 -O qcow2 good.qcow2 @'
    'create -q -f qcow2 -b @ -F qcow2 out.qcow2'
    'dd -f qcow2 -O raw if=@ of=out.raw'
    'info -f qcow2 @'
    'map -f qcow2 @'
    'measure -f qcow2 -O qcow2 @'
    'rebase -f qcow2 -b good.qcow2 -F qcow2 @'
    'rebase -f qcow2 -u -b good.qcow2 -F qcow2 @'
    'rebase -f qcow2 -b @ -F qcow2 over.qcow2'
    'resize -f qcow2 @ +1M'
    'serve --vhost-user-blk out.sock @,format=qcow2'
    'snapshot -l @'
    'snapshot -c s @'
)
# It is what the command makes.
makers=(
    'convert -O qcow2 good.qcow2 @'
    'convert -O raw good.qcow2 @'
    'create -q -f qcow2 @ 1M'
    'create -q -f raw @ 1M'
    'create -q -f qcow2 -b good.qcow2 -F qcow2 @'
    'dd -O qcow2 if=good.qcow2 of=@'
    'dd -O raw if=good.qcow2 of=@'
)
# It is raw: nothing that is said of a header comes up.
raw_commands=(
    'bench -f raw -c 1 @'
    'check -q -f raw @'
    'compare -f raw -F qcow2 @ good.qcow2'
    'convert -f raw -O qcow2 @ out.qcow2'
    'convert -n -O raw good.qcow2 @'
    'create -q -f qcow2 -b @ -F raw out.qcow2'
    'dd -f raw -O raw if=@ of=out.raw'
    'info -f raw @'
    'info @'
    'map -f raw @'
    'measure -f raw -O qcow2 @'
    'rebase -b @ -F raw over.qcow2'
    'resize -f raw @ +1M'
    'serve --vhost-user-blk out.sock @,format=raw'
)

# What is in the folder and whether any of it was written.
state() {
    find . ! -path ./said ! -path . -printf '%p %y %m %s %T@\n' | sort
}

# bad FILE WITH... : each command, run by WITH (unprivileged), says one line that begins with the program and has
# the file's name in it. Where qemu-img's callers look for a second line, which says what was to be done, it may
# follow.
bad() {
    local file=$1 line wrong status before shown words
    shift
    shown=${file//[[:cntrl:]]/?}
    for line in "${table[@]}"; do
        read -ra words <<<"$line"
        words=("${words[@]//@/$file}")
        case $line in serve*) words[3]=${words[3]//"$file"/${file//,/,,}} ;; esac
        wrong=''
        before=$(state)
        "$@" timeout 10 "$IMG" "${words[@]}" >/dev/null 2>said </dev/null
        status=$?
        sed -i '2{/^Could not open backing image\.$/d}' said
        [ $status -gt 0 ] && [ $status -lt 124 ] || wrong="status $status"
        [ "$(wc -l <said)" -eq 1 ] || wrong+="; not one line"
        grep -q '^minivmm-img: ' said || wrong+="; no program"
        grep -qF -e "${shown##*/}" said || wrong+="; no file"
        [ "$before" = "$(state)" ] || wrong+="; files: $(diff <(echo "$before") <(state))"
        if [ -z "$wrong" ]; then
            pass "$shown: $line"
        else
            fail "$shown: $line" "$wrong
$(cat said)"
            rm -f out.* said
        fi
    done
}

qemu-img create -q -f qcow2 good.qcow2 4M
qemu-io -c 'write -P 1 0 1M' good.qcow2 >/dev/null
qemu-img bitmap --add good.qcow2 c
qemu-img create -q -f qcow2 -b good.qcow2 -F qcow2 over.qcow2
mkdir folder
mkfifo fifo
ln -s circle circle
head -c 40 good.qcow2 >forty-bytes.qcow2
: >empty.qcow2
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

table=("${commands[@]}")
for file in missing missing/file folder fifo circle /dev/null forty-bytes.qcow2 version.qcow2 \
    clusters-tiny.qcow2 clusters-huge.qcow2 size-huge.qcow2 l1-huge.qcow2 l1-unaligned.qcow2 reftable-huge.qcow2 \
    unknown-feature.qcow2 encrypted.qcow2 header-short.qcow2 header-long.qcow2 backing-long.qcow2; do
    bad "$file"
done
# To a command that probes, this is raw.
table=("${commands[@]:0:24}")
bad empty.qcow2
table=("${raw_commands[@]}")
for file in missing folder fifo circle /dev/null 'no,t:h e\re' $'no\nthing' 'nichts-überall-日本'; do
    bad "$file"
done
table=("${makers[@]}")
for file in missing/file folder fifo circle /dev/null good.qcow2/file; do
    bad "$file"
done

check "the files are as they were" test "$sum" = "$(cat ./*.qcow2 | sha256sum)"

# Who may not: read, write, or make a file.
mkdir closed
cp good.qcow2 secret.qcow2
cp over.qcow2 fixed.qcow2
chmod 000 secret.qcow2
chmod 444 fixed.qcow2
chmod 555 closed
table=("${commands[@]}")
bad secret.qcow2 unprivileged
table=('amend -o lazy_refcounts=on @' 'bench -w -c 1 @' 'bitmap --add @ b' 'check -q -r all @' 'commit @'
    'convert -n -O qcow2 good.qcow2 @' 'rebase -b good.qcow2 -F qcow2 @' 'rebase -u -b good.qcow2 -F qcow2 @'
    'resize @ +1M' 'snapshot -c s @' "${makers[@]}")
bad fixed.qcow2 unprivileged
table=("${makers[@]}" 'serve --vhost-user-blk @ good.qcow2')
bad closed/out unprivileged
chmod 755 closed

# A block device is as long as it is.
if command -v losetup >/dev/null && cp cut.qcow2 device.img &&
    device=$(losetup -f --show device.img 2>/dev/null); then
    table=('convert -O raw good.qcow2 @' 'resize -f raw @ +1M' 'dd -O raw if=good.qcow2 of=@'
        'convert -O qcow2 -o preallocation=full good.qcow2 @')
    bad "$device"
    losetup -d "$device"
else
    skip "a block device that is too small" "there is no loop device here"
fi

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
