#!/bin/bash
# The demo itself: run-host runs it in a directory that holds clean-disk.qcow2, vmlinuz and
# initrd.img, with minivmm and minivmm-img on the PATH. Prints the commands as it runs them, what
# they say, the guests' consoles behind "|", and a line for each step.
set -u
# shellcheck source=guest-console.sh
. ./guest-console.sh
passed=0
failed=0
append="root=/dev/vda rw console=ttyS0 quiet"
vm=(minivmm --kernel vmlinuz --initrd initrd.img --append "$append" --memory 512M --cpus 2
    --timeout 300)

# The verdict on everything since the last step.
good=yes
step() {
    if [ $good = yes ]; then
        echo "PASS  $1"
        passed=$((passed + 1))
    else
        echo "FAIL  $1"
        failed=$((failed + 1))
    fi
    good=yes
}

expect() {
    "$@" || good=no
}

# Shows a command line and runs it.
run() {
    echo "\$ $1"
    eval "$1" || good=no
}

# show_console MARK: what a guest's terminal shows, line by line as it comes.
show_console() {
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line//$'\r'/}
        [ -z "$line" ] || echo "  $1| $line"
    done
}

shown() {
    local word line=
    for word in "$@"; do
        [[ $word == *" "* ]] && word="\"$word\""
        line+=" $word"
    done
    echo "\$${line}"
}

# boot DISK COMMAND...: a guest on DISK is told COMMANDs at its console and then to power off.
boot() {
    local disk=$1 log=console-$1
    shift
    shown "${vm[@]}" --disk "$disk"
    drive "$@" poweroff -- "${vm[@]}" --disk "$disk" | tee "$log" | show_console ""
    expect [ "${PIPESTATUS[0]}" = 0 ]
}
note="remember me"

sha256sum clean-disk.qcow2 >base.sha256
run "minivmm-img info clean-disk.qcow2 | grep -E '^file|^virtual'"
step "a base image of Debian 12 with its stock kernel and initrd"

run "minivmm-img create -q -f qcow2 -b clean-disk.qcow2 snapshot.qcow2"
run "minivmm-img info snapshot.qcow2 | grep '^backing file:'"
step "a snapshot on top of it"

boot snapshot.qcow2 "echo $note > note.txt; sync"
step "Debian boots from the snapshot, writes a file and powers off: exit status 0"

boot snapshot.qcow2 "cat note.txt"
expect grep -q "^$note" console-snapshot.qcow2
step "a second VM on the same snapshot finds the file"

run "minivmm-img create -q -f qcow2 -F qcow2 -b clean-disk.qcow2 fresh1.qcow2"
run "minivmm-img create -q -f qcow2 -F qcow2 -b clean-disk.qcow2 fresh2.qcow2"
shown "${vm[@]}" --disk fresh1.qcow2 "&"
shown "${vm[@]}" --disk fresh2.qcow2
drive "ls note.txt; echo one > mine.txt" poweroff -- "${vm[@]}" --disk fresh1.qcow2 >console1 &
first=$!
expect drive "ls note.txt mine.txt" poweroff -- "${vm[@]}" --disk fresh2.qcow2 >console2
expect wait $first
show_console 1 <console1
show_console 2 <console2
expect [ "$(grep -c "cannot access 'note.txt'" console1 console2 | cut -d: -f2 | xargs)" = "1 1" ]
expect grep -q "cannot access 'mine.txt'" console2
step "two VMs at once on fresh snapshots of the same base: neither finds it"

run "sha256sum -c base.sha256"
step "the base is, bit by bit, what it was"

run "cp clean-disk.qcow2 new-disk.qcow2"
run "minivmm-img rebase -F qcow2 -b new-disk.qcow2 snapshot.qcow2"
run "minivmm-img commit -q snapshot.qcow2 && rm snapshot.qcow2"
boot new-disk.qcow2 "cat note.txt"
expect grep -q "^$note" console-new-disk.qcow2
step "committed into a copy of the base: the copy alone has the file"

echo "$passed steps passed, $failed failed"
exit $((failed > 0))
