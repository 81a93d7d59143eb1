# Sourced by every shell test. Speaks TAP, gives the test a directory of its own ($work), finds the
# binaries ($BUILD, $MINIVMM, $IMG) and counts. A test ends with `finish`.
#
#   check NAME COMMAND...   ok when the command exits 0; its output is shown only when it does not
#   refuse NAME COMMAND...  ok when the command fails with one line on stderr and no signal
#   pass NAME / fail NAME [DETAIL] / skip NAME REASON
#   unprivileged COMMAND...  runs it subject to file permissions, for root as well
# shellcheck shell=bash
set -u
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$(cd "${BUILD:-$ROOT/build}" && pwd)
# Used by the tests that source this file.
# shellcheck disable=SC2034
MINIVMM=$BUILD/minivmm IMG=$BUILD/minivmm-img
# What Python programs of the tests share; no caches beside them.
export PYTHONPATH=$ROOT/tests/e2e PYTHONDONTWRITEBYTECODE=1
work=$(mktemp -d "${TMPDIR:-/tmp}/minivmm-test.XXXXXX")
test_count=0
test_failures=0

cleanup_work() {
    rm -rf "$work"
}
trap cleanup_work EXIT

pass() {
    test_count=$((test_count + 1))
    echo "ok $test_count - $1"
}

fail() {
    test_count=$((test_count + 1))
    test_failures=$((test_failures + 1))
    echo "not ok $test_count - $1"
    [ $# -lt 2 ] || printf '%s\n' "$2" | sed 's/^/# /'
}

skip() {
    test_count=$((test_count + 1))
    echo "ok $test_count - $1 # SKIP $2"
}

check() {
    local name=$1 output status
    shift
    output=$("$@" 2>&1)
    status=$?
    if [ $status -eq 0 ]; then
        pass "$name"
    else
        fail "$name" "status $status from: $*
$output"
    fi
}

# In so many KiB of address space, COMMAND; sanitizers need terabytes of it for themselves.
in_memory() {
    if grep -qE '__(asan|tsan)_init' "$IMG"; then
        "${@:2}"
    else
        (ulimit -v "$1" && "${@:2}")
    fi
}

refuse() {
    local name=$1 output status lines
    shift
    output=$("$@" 2>&1 >/dev/null)
    status=$?
    lines=$(printf '%s\n' "$output" | wc -l)
    if [ $status -ne 0 ] && [ $status -lt 125 ] && [ -n "$output" ] && [ "$lines" -eq 1 ]; then
        pass "$name"
    else
        fail "$name" "status $status, $lines lines from: $*
$output"
    fi
}

# Runs a command without root's power to pass over file permissions.
unprivileged() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --bounding-set=-all --inh-caps=-all "$@"
    else
        "$@"
    fi
}

finish() {
    echo "1..$test_count"
    exit $((test_failures > 0))
}
