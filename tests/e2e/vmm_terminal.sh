#!/bin/bash
# The user's terminal and every way a machine ends, with bare-metal guests: the first section of
# vmm_console.py.
. "$(dirname "$0")/../lib.sh"

script=$ROOT/tests/e2e/vmm_console.py
if [ ! -w /dev/kvm ]; then
    echo "1..0 # SKIP /dev/kvm cannot be opened"
    exit 0
fi
mapfile -t tests < <(sed -n '1,/^# ---- pipes and files/ s/^def test_\(.*\)():$/\1/p' "$script")
for test in "${tests[@]}"; do
    check "${test//_/ }" python3 "$script" "$MINIVMM" "$BUILD/guest" "$test"
done
finish
