#!/bin/bash
# The test runner itself: every way in which a test program can go wrong counts as a failure.
. "$(dirname "$0")/../lib.sh"

# program NAME BODY: a shell script in $work.
program() {
    printf '#!/bin/bash\n%s\n' "$2" >"$work/$1"
    chmod +x "$work/$1"
}

# totals EXPECTED STATUS PROGRAM...: the runner's last line and exit status.
totals() {
    local expected=$1 expected_status=$2 output status
    shift 2
    output=$("$ROOT/tests/run" --scale 0.005 "$@" 2>&1)
    status=$?
    printf '%s\n' "$output"
    [ "$(printf '%s\n' "$output" | tail -n 1)" = "$expected" ] && [ "$status" -eq "$expected_status" ]
}

program good 'echo "ok 1 - a"; echo "ok 2 - b # SKIP no reason"; echo 1..2'
program groups 'echo 1..1; echo "ok 1 - a"; echo 1..1; echo "ok 1 - b"; echo "# not ok - group"'
program whole_skip 'echo "1..0 # SKIP nothing to test"'
program failing 'echo "ok 1 - a"; echo "not ok 2 - b"; echo "# because"; echo 1..2; exit 1'
program zero_status 'echo "not ok 1 - b"; echo 1..1'
program dies 'echo "ok 1 - a"; echo 1..1; kill -SEGV $$'
program hangs 'echo "ok 1 - a"; echo 1..1; sleep 100'
program no_plan 'echo "ok 1 - a"'
program short 'echo "ok 1 - a"; echo 1..2'
program empty 'echo 1..0'
program status_3 'echo "ok 1 - a"; echo 1..1; exit 3'
program leftover 'sleep 100 & echo "ok 1 - a"; echo 1..1'
# The report goes where the runner that is tested says, not the one that runs this.
# shellcheck disable=SC2016
program sanitizer 'echo "ok 1 - a"; echo 1..1; echo race >"${TSAN_OPTIONS##*log_path=}.1"'
: >"$work/not_executable"

check "passes and skips are counted" totals "1 passed, 0 failed, 1 skipped" 0 "$work/good"
check "plans of several groups add up" totals "2 passed, 0 failed, 0 skipped" 0 "$work/groups"
check "a whole program may skip" totals "0 passed, 0 failed, 1 skipped" 0 "$work/whole_skip"
check "a failed test fails the run" totals "1 passed, 1 failed, 0 skipped" 1 "$work/failing"
check "a failed test counts whatever the status" \
    totals "0 passed, 1 failed, 0 skipped" 1 "$work/zero_status"
for bad in dies hangs no_plan short status_3 leftover sanitizer; do
    check "a program that passes but $bad fails" \
        totals "1 passed, 1 failed, 0 skipped" 1 "$work/$bad"
done
for bad in empty not_executable missing; do
    check "a program that is $bad fails" totals "0 passed, 1 failed, 0 skipped" 1 "$work/$bad"
done
check "a detail is shown" sh -c "'$ROOT/tests/run' '$work/failing' | grep -q '# because'"
check "the totals span programs" totals "2 passed, 1 failed, 1 skipped" 1 "$work/good" "$work/failing"
finish
