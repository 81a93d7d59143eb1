#!/bin/bash
# A stock guest in QEMU whose disk is a snapshot behind `minivmm-img serve`: it boots, writes and checks
# what it wrote, while the server is killed again and again with requests in flight, and started anew.
. "$(dirname "$0")/../lib.sh"
cd "$ROOT" || exit
if ! image=$(guest/image/build.sh); then
    fail "the Debian image is built"
    finish
fi
cd "$work" || exit
cp --reflink=auto "$image/clean-disk.qcow2" .
sha256sum <clean-disk.qcow2 >base.sha256
"$IMG" create -q -f qcow2 -F qcow2 -b clean-disk.qcow2 snapshot.qcow2
append="console=ttyS0 root=/dev/vda rw quiet panic=-1 mitigations=off \
rcupdate.rcu_cpu_stall_suppress=1 nowatchdog no_timer_check"
server='' vm=''
# `timeout` hands SIGTERM on to QEMU.
trap 'kill -9 $server 2>/dev/null; kill $vm 2>/dev/null; cleanup_work' EXIT

# serve OPTIONS: the snapshot, in the background; whoever connects too early tries again.
serve() {
    "$IMG" serve --vhost-user-blk disk.sock "snapshot.qcow2$1" --queues 2 2>>messages &
    server=$!
}

# start CPUS COMMAND: a guest in the background that runs the command.
start() {
    : >console # for whoever looks before the child is there
    timeout -k 10 400 qemu-system-x86_64 -M q35,memory-backend=ram -accel tcg -cpu max -m 256 \
        -smp "$1" -nodefaults -no-user-config -display none -no-reboot -serial stdio \
        -object memory-backend-memfd,id=ram,size=256M,share=on \
        -chardev socket,id=disk,path=disk.sock,reconnect=1 \
        -device "vhost-user-blk-pci,chardev=disk,num-queues=$1" \
        -kernel "$image/vmlinuz" -initrd "$image/initrd.img" -append "$append run=\"$2\"" \
        </dev/null >console 2>&1 &
    vm=$!
}

# says PATTERN: waits until a line of the console matches; false when the guest ended without it.
says() {
    until tr -d '\r' <console | grep -qx "$1"; do
        kill -0 $vm 2>/dev/null || return 1
        sleep 0.05
    done
}

# ended NAME: the guest powered off after the sums were right.
ended() {
    local status
    wait $vm
    status=$?
    if [ $status -eq 0 ] && says RIGHT; then
        pass "$1"
    else
        fail "$1" "status $status
$(tail -n 40 console; cat messages)"
    fi
}

# terminated NAME: SIGTERM ends the server.
terminated() {
    local status
    kill -TERM $server
    wait $server
    status=$?
    if [ $status -eq 0 ] && [ ! -e disk.sock ] && [ ! -s messages ]; then
        pass "$1"
    else
        fail "$1" "status $status: $(ls; cat messages)"
    fi
}

# Something is always on its way to the disk, and mostly a flush, which takes its time: a kill meets
# requests that were taken and are not done. New clusters and clusters that are there are written.
busy="for n in 1 2 3; do while :; do dd if=/dev/zero of=/busy-\$n bs=4k count=32 oflag=dsync; \
dd if=/dev/zero of=/busy-\$n bs=256k count=4 oflag=direct; rm /busy-\$n; done 2>/dev/null & done"
rounds="for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/large-\$i bs=64k count=16 2>/dev/null; \
sha256sum /large-\$i >>/sums; sync; echo ROUND \$i; done"
again="echo 3 >/proc/sys/vm/drop_caches; sha256sum -c --status /sums && echo RIGHT"
fixed=,fixed-files=on
if ! "$BUILD/minivmm-io" -i io_uring -c 'read 0 512' clean-disk.qcow2 >/dev/null 2>&1; then
    skip "a served disk whose files are registered" "no io_uring here"
    fixed=
fi
serve ,discard=on
start 2 "$busy; $rounds; $again"
for round in 1 2 4 6 7; do
    if ! says "ROUND $round"; then
        fail "the guest lives to see round $round" "$(tail -n 40 console; cat messages)"
        finish
    fi
    kill -9 $server
    wait $server 2>/dev/null
    # Around the page cache requests take their time, many at once.
    if [ $((round % 2)) -eq 0 ]; then serve ,discard=on,cache=direct$fixed; else serve ,discard=on; fi
done
ended "a guest whose disk's server was killed five times finds its files right"
terminated "SIGTERM ends the server"
check "the image has no finding but leaks, says qemu-img" \
    sh -c 'qemu-img check -q -r leaks snapshot.qcow2'
check "the image is sound, says minivmm-img" "$IMG" check -q snapshot.qcow2

sha256sum <snapshot.qcow2 >snapshot.sha256
serve ,ephemeral=on
start 1 "$again; echo x >/x; sync"
ended "the next boot, of a throwaway disk over it, finds them as well"
terminated "SIGTERM ends that server"
check "and leaves no trace" test "$(sha256sum <snapshot.qcow2)" = "$(cat snapshot.sha256)"
check "the base is, bit by bit, what it was" \
    test "$(sha256sum <clean-disk.qcow2)" = "$(cat base.sha256)"
finish
