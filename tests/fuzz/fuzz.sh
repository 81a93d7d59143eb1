#!/bin/bash
# Runs the fuzzers in build-fuzz, two at a time. Speaks TAP: a kind fails with its first finding, whose
# input is kept in build-fuzz/findings/KIND.
#
#   fuzz.sh                  every kind for its share of two minutes, or 400 inputs
#   fuzz.sh SECONDS KIND...  these kinds for so long each; what they learn is kept in build-fuzz/corpus
#
# SEED=N: other seeds and random numbers; without it 1 for the two minutes, new ones for longer runs.
. "$(dirname "$0")/../lib.sh"

smoke_seconds=120
fuzzers=$ROOT/build-fuzz/tests/fuzz
seconds=${1:-}
seed=${SEED:-1}
[ -z "$seconds" ] || seed=${SEED:-$(date +%s)}
kinds=("${@:2}")
if [ ${#kinds[@]} -eq 0 ]; then
    for program in "$fuzzers"/fuzz-*; do
        case $program in
        *.[do]) ;;
        *) kinds+=("${program##*/fuzz-}") ;;
        esac
    done
fi
if [ -z "$seconds" ]; then
    seconds=$((smoke_seconds * 2 / ${#kinds[@]}))
    corpora=$work/corpus
    # As many inputs on every machine, so that the same seed gives the same ones.
    runs=400
else
    corpora=$ROOT/build-fuzz/corpus
fi
echo "# seed $seed, $seconds seconds a kind (SEED=$seed repeats it)"

# fuzz KIND: its exit status is in $work/KIND.status afterwards.
fuzz() {
    local corpus=$corpora/$1 findings=$ROOT/build-fuzz/findings/$1
    local known=$ROOT/tests/fuzz/regressions/$1
    mkdir -p "$corpus" "$findings" "$work/none"
    [ -d "$known" ] || known=$work/none
    "$BUILD/tests/fuzz/replay" --seed "$seed" --seeds "$1" 100 "$corpus"
    # The quarantine of freed memory would count as the engine's.
    ASAN_OPTIONS=quarantine_size_mb=16:${ASAN_OPTIONS:-} "$fuzzers/fuzz-$1" -seed="$seed" \
        -rss_limit_mb=512 -malloc_limit_mb=256 -timeout=60 -max_len=65536 \
        -max_total_time="$seconds" -runs="${runs:--1}" -artifact_prefix="$findings/" -print_final_stats=1 \
        "$corpus" "$known" \
        >"$work/$1.log" 2>&1
    echo $? >"$work/$1.status"
}

report() {
    local runs
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$1.log")
    if [ "$(cat "$work/$1.status")" -eq 0 ]; then
        pass "$1: $runs inputs"
    else
        fail "$1" "$(grep -v '^#[0-9]' "$work/$1.log" | tail -n 40)"
    fi
}

for ((i = 0; i < ${#kinds[@]}; i += 2)); do
    pair=("${kinds[@]:i:2}")
    for kind in "${pair[@]}"; do
        fuzz "$kind" &
    done
    wait
    for kind in "${pair[@]}"; do
        report "$kind"
    done
done
finish
