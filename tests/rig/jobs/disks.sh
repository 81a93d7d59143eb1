# shellcheck shell=bash
# The stock kernel on its disks: crashes, discards, sharing, kinds of disks, locks, examples.
# shellcheck source=job.sh
. ./job.sh
sha256sum clean-disk.qcow2 >base.sha256

# sound NAME IMAGE: no corruption; leaked clusters are allowed.
sound() {
    local tool status
    for tool in minivmm-img qemu-img; do
        $tool check -q "$2" >check.log 2>&1
        status=$?
        if [ $status = 0 ] || [ $status = 3 ]; then
            pass "$1, says $tool check"
        else
            fail "$1, says $tool check" "status $status: $(cat check.log)"
        fi
    done
}

# ---- a VMM that dies while its guest writes ----
overlay crash.qcow2
start crash.log "dd if=/dev/zero of=/big bs=1M count=64 conv=fsync 2>&1; \
dd if=/dev/urandom of=/kept bs=64k count=64 conv=fsync; sha256sum /kept; echo READY; \
while :; do dd if=/dev/urandom of=/scratch bs=64k count=20 conv=fsync; rm /scratch; done" \
    --cpus 2 --disk crash.qcow2
if appears crash.log '^20+0 records out' $vm; then
    pass "a guest writes and syncs"
else
    fail "a guest writes and syncs" "$(tail -n 20 crash.log)"
fi
kill -9 $vm
wait $vm 2>/dev/null
sound "kill -9 leaves no corruption" crash.qcow2
kept=$(grep -o '^[0-9a-f]\{64\}' crash.log)
before=$(du -k crash.qcow2 | cut -f1)
guest crash2.log "sha256sum /kept; rm -f /big /scratch; sync; fstrim -v /" --disk crash.qcow2
ends "the overlay boots after kill -9" 0 $status crash2.log
says "what was synced before kill -9 is there" crash2.log "^${kept:-none}"
after=$(du -k crash.qcow2 | cut -f1)
check "fstrim shrinks the overlay ($before to $after KiB)" test "$after" -lt $((before - 50000))
sound "a trimmed overlay is sound" crash.qcow2

# ---- one base, two machines ----
overlay one.qcow2
overlay two.qcow2
mark() {
    echo "ls /mark-* 2>/dev/null; touch /mark-$1; sync; ls /mark-*; echo END"
}
start one.log "$(mark one)" --disk one.qcow2
one=$vm
guest two.log "$(mark two)" --disk two.qcow2 --stats two.stats --log-level info
ends "two machines at once on one base: the first" 0 $status two.log
wait $one
ends "two machines at once on one base: the second" 0 $? one.log
check "what the disk has done is in a file" grep -Eqx '\{"disks":\[\{"path":"two\.qcow2",'\
'"read":\{"requests":[1-9][0-9]*,"errors":0,"bytes":[1-9][0-9]*,"latency-us":\{"[0-9]+":[0-9]+.*\},'\
'"write":\{"requests":[1-9].*"allocations":[1-9][0-9]*,"table-hits":[1-9].*"aio":"(io_uring|threads)"\}\]\}' two.stats
says "what carries out its requests is in the log" two.log \
    "disk 'two.qcow2': what waits for storage is carried out by (io_uring|threads)"
never_says "the first does not see the second's files" one.log 'mark-two'
never_says "the second does not see the first's files" two.log 'mark-one'

# ---- throwaway overlays: no image to make, nothing left ----
mkdir scratch
start file.log "$(mark file)" --disk clean-disk.qcow2,ephemeral=on --tmpdir scratch
file=$vm
guest ram.log "$(mark ram)" --disk clean-disk.qcow2,ephemeral=ram
ends "a machine on a throwaway overlay in memory" 0 $status ram.log
says "it sees what it wrote" ram.log 'mark-ram'
wait $file
ends "a machine on a throwaway overlay in a file" 0 $? file.log
says "it sees what it wrote, too" file.log 'mark-file'
never_says "neither sees the other's files" file.log 'mark-ram'
check "no file is left behind" test -z "$(ls -A scratch)"

# ---- eight disks of every kind ----
overlay root.qcow2
truncate -s 1M raw.img
printf from-host | dd of=raw.img conv=notrunc status=none
minivmm-img create -q -f qcow2 readonly.qcow2 1M
for letter in d e f g h; do
    minivmm-img create -q -f qcow2 "vd$letter.qcow2" 1M
done
disks=(--disk root.qcow2 --disk "raw.img,format=raw"
    --disk "readonly.qcow2,readonly=on,serial=READ-ONLY")
for letter in d e f g h; do
    disks+=(--disk "vd$letter.qcow2")
done
guest eight.log "ls /sys/block | grep -c vd; head -c 9 /dev/vdb; echo; \
echo serial \$(cat /sys/block/vdc/serial) ro=\$(cat /sys/block/vdc/ro); \
printf from-guest | dd of=/dev/vdb bs=512 seek=8 conv=fsync; \
dd if=/dev/zero of=/dev/vdc bs=512 count=1 conv=fsync && echo OVERWRITTEN; \
for d in d e f g h; do echo disk-\$d | dd of=/dev/vd\$d bs=512 seek=2000 conv=fsync; done" \
    "${disks[@]}"
ends "eight disks: boots and powers off" 0 $status eight.log
says "eight disks are there" eight.log '^8$'
says "a raw disk is read" eight.log '^from-host$'
check "a raw disk is written" \
    test "$(dd if=raw.img bs=512 skip=8 count=1 status=none | head -c 10)" = from-guest
says "a read-only disk says so, and its serial number" eight.log '^serial READ-ONLY ro=1$'
never_says "a read-only disk cannot be written" eight.log OVERWRITTEN
found=
for letter in d e f g h; do
    qemu-img convert -O raw "vd$letter.qcow2" one.raw
    found+=$(dd if=one.raw bs=512 skip=2000 count=1 status=none | head -c 6)
done
check "each of the others got its own data" test "$found" = disk-ddisk-edisk-fdisk-gdisk-h

# ---- one writer ----
start lock.log "touch /synced; sync; echo READY; sleep 1000" --disk root.qcow2
if appears lock.log '^READY' $vm; then
    kill -USR1 $vm
    check "SIGUSR1 tells what the disk has done" appears lock.log '"disks":\[{"path":"root.qcow2"' $vm
    refuse "a second writer of a snapshot is refused in one line" \
        "${stock[@]}" --disk root.qcow2 --console null
    check "the line names the file" sh -c \
        "minivmm --kernel vmlinuz --disk root.qcow2 --console null 2>&1 | grep -q root.qcow2"
    check "qemu-img is refused as well" sh -c "! qemu-img bench -q -c 1 -w root.qcow2"
else
    fail "a machine runs on the snapshot" "$(tail -n 20 lock.log)"
fi
kill -TERM $vm
wait $vm
ends "SIGTERM ends with status 143" 143 $? lock.log
sound "the overlay is sound after SIGTERM" root.qcow2

# ---- the example configurations ----
minivmm-img convert -O raw clean-disk.qcow2 disk.raw
for number in 1 2 3 4 5 6 7; do
    minivmm-img create -q -f qcow2 "data-$number.qcow2" 1M
done
for config in *.json; do
    if [ "$config" = big-machine.json ] && ! more_memory_than 5; then
        skip "configs/$config" "the host has less memory"
        continue
    fi
    rm -f snapshot.qcow2 console.log
    overlay snapshot.qcow2
    minivmm --config "$config" --append "$append run=\"echo UP\"" --timeout 240 \
        </dev/null >config.raw 2>&1
    status=$?
    cat config.raw console.log 2>/dev/null | tr -d '\r' >config.log
    ends "configs/$config boots and powers off" 0 $status config.log
    says "configs/$config reaches userland" config.log '^UP$'
done

# ---- the base ----
check "the base is, bit by bit, what it was" sha256sum -c base.sha256
finish
