#!/bin/bash
# Ports, memory-mapped I/O, PCI, COM1 and entropy, as a guest without an operating system sees them.
. "$(dirname "$0")/guest_lib.sh"

truncate -s 8M "$work/a.raw" "$work/b.raw" "$work/c.raw"
disk=(--disk "$work/a.raw,format=raw")

guest "$PASS" hello ""
check "the console carries what the guest says" grep -q "^hello from a bare-metal guest" "$console"
guest 7 hello "status=7"
guest "$PASS" port_io ""
check "a string goes to the console whole" grep -q "^in one string" "$console"
guest "$PASS" mmio ""
guest "$PASS" pci_discovery ""
guest "$PASS" pci_discovery "devices=5" "${disk[@]}" --disk "$work/b.raw,format=raw" \
    --disk "$work/c.raw,format=raw"
guest "$PASS" pci_bar_move "" "${disk[@]}"
guest "$PASS" rng ""

guest "$PASS" serial_irq ""
line="a line that is longer than the receive FIFO of sixteen bytes"
mkfifo "$work/keyboard"
exec 3<>"$work/keyboard"
input=$work/keyboard start serial_irq echo
wait_for_text ready
echo "$line" >&3
ended "a guest reads by interrupts" "$PASS"
check "what was typed, through the FIFO" grep -q "^echo: $line" "$console"
exec 3>&-

vm hello "" --console "file:$work/log"
check "the console goes to a file" grep -q "^hello" "$work/log"
check "and not to standard output" test ! -s "$console"
vm hello "" --console null
check "or nowhere" test ! -s "$console"
finish
