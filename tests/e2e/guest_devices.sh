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
echo_line() {
    local status
    { until grep -q '^ready' "$console"; do sleep 0.02; done; echo "$line"; } | timeout 60 "$MINIVMM" \
        --quiet --debug-exit --kernel "$GUESTS/serial_irq" --append echo --timeout 30 >"$console" 2>&1
    status=$?
    cat "$console"
    [ $status -eq "$PASS" ] && grep -q "^echo: $line" "$console"
}
: >"$console"
check "input arrives by interrupts, through the FIFO" echo_line

vm hello "" --console "file:$work/log"
check "the console goes to a file" grep -q "^hello" "$work/log"
check "and not to standard output" test ! -s "$console"
vm hello "" --console null
check "or nowhere" test ! -s "$console"
finish
