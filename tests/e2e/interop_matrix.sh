#!/bin/bash
# Images made and written here are read by QEMU's tools, and the other way round.
. "$(dirname "$0")/../lib.sh"
python3 "$ROOT/tests/e2e/interop.py" "$BUILD" "$work" "$@"
