#!/bin/bash
# What the programs are to the kernel and to a hostile image: nothing is loaded when they start, all of them may lie anywhere,
# and what the start has filled in is read-only after it.
. "$(dirname "$0")/../lib.sh"

if nm "$BUILD/minivmm-img" | grep -q '__asan_init\|__tsan_init'; then
    skip "programs stand alone" "sanitizers need shared libraries"
    finish
fi
for program in minivmm minivmm-img minivmm-io; do
    readelf -hlWd "$BUILD/$program" >"$work/$program.elf"
    check "$program: position-independent" grep -q 'Type: *DYN' "$work/$program.elf"
    check "$program: no dynamic linker" bash -c "! grep -q 'INTERP\|NEEDED' '$work/$program.elf'"
    check "$program: what is relocated is read-only" grep -q GNU_RELRO "$work/$program.elf"
    check "$program: calls by pointers that are read-only" bash -c "! grep -q PLTREL '$work/$program.elf' || grep -q 'BIND_NOW\|NOW' '$work/$program.elf'"
    check "$program: no stack that can be executed" grep -q 'GNU_STACK.* RW ' "$work/$program.elf"
    check "$program: no memory that can be written and executed" bash -c "! grep -q 'LOAD.* RWE ' '$work/$program.elf'"
    entry=$(sed -n 's/.*Entry point address: *0x//p' "$work/$program.elf")
    check "$program: asks for the pages that it fills in first of all" grep -q "^0*$entry T program_start$" <(nm "$BUILD/$program")
done
finish
