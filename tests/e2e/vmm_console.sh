#!/bin/bash
# The console on pipes, files and pseudo-terminals, and restarts, with bare-metal guests: the part of
# vmm_console.py behind its first section.
. "$(dirname "$0")/../lib.sh"

script=$ROOT/tests/e2e/vmm_console.py
if [ ! -w /dev/kvm ]; then
    echo "1..0 # SKIP /dev/kvm cannot be opened"
    exit 0
fi
mapfile -t tests < <(sed -n '/^# ---- pipes and files/,$ s/^def test_\(.*\)():$/\1/p' "$script")
for test in "${tests[@]}"; do
    check "${test//_/ }" python3 "$script" "$MINIVMM" "$BUILD/guest" "$test"
done
finish
