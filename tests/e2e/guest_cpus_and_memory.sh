#!/bin/bash
# CPUs start by INIT and SIPI; the memory map shows what was asked for, around the device hole.
. "$(dirname "$0")/guest_lib.sh"

for cpus in 1 2 4 64; do
    guest "$PASS" smp_start "cpus=$cpus" --cpus "$cpus"
done
for memory in 32M 256M 3G 3584M 5G; do
    guest "$PASS" memory_size "memory=$(numfmt --from=iec "$memory")" --memory "$memory"
done
finish
