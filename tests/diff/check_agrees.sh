#!/bin/bash
# Damaged images: `check` and its repairs say and leave what qemu-img's do. SEED=7 takes other images.
. "$(dirname "$0")/../lib.sh"
python3 "$ROOT/tests/diff/check_agrees.py" "$BUILD" "$work" --seed "${SEED:-1}"
