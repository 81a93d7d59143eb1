#!/bin/bash
# What convert, measure, compare, rebase and commit promise, on images of every mix of features.
. "$(dirname "$0")/../lib.sh"
[ -n "$(command -v qemu-img)" ] || { echo "1..0 # SKIP qemu-img is not installed"; exit 0; }
python3 "$ROOT/tests/e2e/img_properties.py" "$BUILD" "$work" "$@"
