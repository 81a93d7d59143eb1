# Sourced. Types commands into a guest's console, as a user at the terminal would.
#
#   drive COMMAND... -- PROGRAM...
#
# Starts PROGRAM with its standard input and output as the console, types the next COMMAND whenever
# the guest's shell shows its prompt, copies the console to standard output and returns PROGRAM's
# exit status. A guest that never shows a prompt runs into PROGRAM's own timeout.
# shellcheck shell=bash

drive() {
    local fifo piece in out pid status=0 commands=()
    while [ "$1" != -- ]; do
        commands+=("$1")
        shift
    done
    shift
    fifo=$(mktemp -u ./console.XXXXXX)
    mkfifo "$fifo.in" "$fifo.out"
    "$@" <"$fifo.in" >"$fifo.out" 2>&1 &
    pid=$!
    exec {in}>"$fifo.in" {out}<"$fifo.out"
    rm "$fifo.in" "$fifo.out"
    while IFS= read -r -d '#' -u "$out" piece; do
        printf '%s#' "$piece"
        if [[ $piece == *root@clean-disk:~ && ${#commands[@]} -gt 0 ]]; then
            printf '%s\n' "${commands[0]}" >&"$in"
            commands=("${commands[@]:1}")
        fi
    done
    printf '%s' "$piece"
    wait "$pid" || status=$?
    exec {in}>&- {out}<&-
    return "$status"
}
