# shellcheck shell=bash
# The stock kernel on the machine: processors, memory, what the kernel makes of the platform, and
# the ways in which a machine ends.
# shellcheck source=job.sh
. ./job.sh

# Defaults alone: 1 CPU, 256M, the default command line; a user types at the console.
overlay default.qcow2
drive "nproc; echo memory \$memory" poweroff -- "${stock[@]}" --disk default.qcow2 >default.raw
status=$?
tr -d '\r' <default.raw >default.log
ends "the default machine boots, takes what is typed and powers off" 0 $status default.log
says "the default machine has 1 CPU" default.log '^1$'
says "the default machine has 256M" default.log '^memory 2[0-9]{5}$'

# What the kernel says goes to a raw disk: the console would take half a minute under emulation.
overlay disk.qcow2
truncate -s 1M facts.raw
guest two "{ dmesg; cat /proc/interrupts /proc/cpuinfo /proc/iomem; \
echo clock \$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource); \
echo rng \$(cat /sys/class/misc/hw_random/rng_current); \
echo random \$(head -c 64 /dev/hwrng | wc -c); \
echo cpus \$(nproc); } >/dev/vdb" --cpus 2 --disk disk.qcow2 --disk "facts.raw,format=raw"
ends "2 CPUs: boots and powers off" 0 $status two
tr -d '\0' <facts.raw >facts
says "2 CPUs are there" facts '^cpus 2$'
says "ECAM is described" facts 'PCI: MMCONFIG for domain 0000'
says "ECAM is reserved, so that it is used" facts 'PCI: MMCONFIG at .* reserved'
says "ECAM is in the memory map" facts 'PCI MMCONFIG'
never_says "ACPI has nothing to complain about" facts \
    'ACPI.*([Ee]rror|[Ww]arning|[Ee]xception|\[Firmware Bug\])'
never_says "the kernel has nothing to complain about" facts \
    'WARNING:|BUG:|Oops|Call Trace|Firmware Bug|nobody cared'
says "ttyS0 is a 16550A with interrupt 4" facts 'ttyS0 at I/O 0x3f8 \(irq = 4,.*16550A'
says "ttyS0's interrupt arrives" facts '^ *4: .*IO-APIC.*ttyS0'
says "the disk has MSI-X interrupts" facts 'PCI-MSI.*virtio0-req\.0'
says "the disk has a queue for each CPU" facts 'PCI-MSI.*virtio0-req\.1'
says "the clock is kvm-clock" facts '^clock kvm-clock$'
says "the entropy device is used" facts '^rng virtio_rng'
says "the entropy device gives bytes" facts '^random 64$'
says "the topology: 2 cores in one package" facts '^cpu cores.*: 2$'
says "the topology: no threads within a core" facts '^siblings.*: 2$'
says "the topology: APIC ids 0 and 1" facts '^apicid.*: 1$'

if more_memory_than 3; then
    memory=3G
else
    memory=1G
    skip "3 GiB" "the host has less"
fi
guest four "echo cpus \$(nproc); grep MemTotal /proc/meminfo" --cpus 4 --memory $memory \
    --disk disk.qcow2
ends "4 CPUs and $memory: boots and powers off" 0 $status four
says "4 CPUs are there" four '^cpus 4$'
[ $memory = 1G ] || says "3 GiB are there" four '^MemTotal: +(29|30|31)[0-9]{5} kB$'

if more_memory_than 5; then
    guest five "grep MemTotal /proc/meminfo; grep System.RAM /proc/iomem" \
        --cpus 2 --memory 5G --disk disk.qcow2
    ends "5 GiB: boots and powers off" 0 $status five
    says "5 GiB are there" five '^MemTotal: +(49|50|51)[0-9]{5} kB$'
    says "5 GiB leave a hole below 4 GiB" five '^100000000-17fffffff : System RAM'
else
    skip "5 GiB" "the host has less"
fi

guest reboot "reboot -f" --disk disk.qcow2
ends "a reboot ends with status 10" 10 $status reboot

guest restart "if [ -e /again ]; then echo SECOND; else touch /again; sync; reboot -f; fi" \
    --on-reboot restart --disk disk.qcow2
ends "--on-reboot restart: the machine starts again" 0 $status restart
says "--on-reboot restart: the disk is the same" restart '^SECOND$'

guest panic "echo c >/proc/sysrq-trigger" --disk disk.qcow2
ends "a panic ends with status 11" 11 $status panic

append="$append modprobe.blacklist=pvpanic_mmio" \
    guest panic2 "echo c >/proc/sysrq-trigger" --disk disk.qcow2
ends "a panic without the driver is a reboot: status 10" 10 $status panic2

append="$append reboot=t" guest triple "reboot -f" --disk disk.qcow2
ends "a triple fault ends with status 12" 12 $status triple

guest timeout "sleep 1000" --timeout 3 --disk disk.qcow2
ends "a timeout ends with status 124" 124 $status timeout

check "the image is sound after all of these" minivmm-img check -q disk.qcow2
check "qemu-img agrees" qemu-img check -q disk.qcow2
finish
