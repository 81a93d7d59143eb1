#!/bin/bash
# The three ways into a kernel: PVH, the 64-bit entry of an ELF file, a bzImage; with a command line and
# an initrd of odd length.
. "$(dirname "$0")/guest_lib.sh"

head -c 100001 /dev/urandom >"$work/initrd"
sum=$(python3 -c 'import sys; print(sum(open(sys.argv[1], "rb").read()) & 0xffffffff)' "$work/initrd")

while read -r program protocol; do
    guest "$PASS" "$program" "some words  and spaces" --initrd "$work/initrd"
    check "$program is entered by the $protocol protocol" grep -q "^protocol: $protocol" "$console"
    check "its command line is whole" grep -q "^command line: some words  and spaces" "$console"
    check "its initrd is whole" grep -q "^initrd: 100001 bytes, sum $sum" "$console"
done <<'PROGRAMS'
boot_info pvh
boot_info.elf64 linux
boot_info.bzimage linux
PROGRAMS
guest "$PASS" boot_info.bzimage "" --memory 5G --initrd "$work/initrd"
guest "$PASS" boot_info.elf64 "" --memory 32M
finish
