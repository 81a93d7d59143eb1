#!/bin/bash
# CPUs start by INIT and SIPI; the memory map shows what was asked for, around the device hole.
. "$(dirname "$0")/guest_lib.sh"

for cpus in 1 2 4 64; do
    guest "$PASS" smp_start "cpus=$cpus" --cpus "$cpus"
done
host_memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) * 1024))
for memory in 32M 256M 3G 3584M 5G; do
    bytes=$(numfmt --from=iec "$memory")
    if [ "$bytes" -le "$host_memory" ]; then
        guest "$PASS" memory_size "memory=$bytes" --memory "$memory"
    else
        skip "memory_size memory=$bytes" "this host has less memory"
    fi
done
finish
