# Sourced by the tests of minivmm-io, after tests/lib.sh: gives the same commands to qemu-io and to
# minivmm-io, each in a directory of its own with the same files ($q and $m, see img_lib.sh), and compares.
#
#   same_io NAME ARGUMENTS...      exit status, stdout and stderr must agree; `--` before a file, so that
#                                  every other argument is a command: same_io NAME [-OPTION...] -- FILE CMD...
#   same_io_status NAME ...        the same but for the text on stderr: of neither or of both there is any
#   io_input NAME TEXT ARGUMENTS   the commands come from standard input
#   same_image                     img_lib.sh's: what the images hold
#
# Differences that are meant: the program's name; the times and rates, which no two runs share; the
# words behind " -- " in the syntax of a command, which are our own; in the syntax
# read's option -a, which qemu-io refuses as well, and open's -i, which qemu-io takes and does not name.
# shellcheck shell=bash

# shellcheck source=tests/e2e/img_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/img_lib.sh"
[ -n "$(command -v qemu-io)" ] || { echo "1..0 # SKIP qemu-io is not installed"; exit 0; }
MIO=$BUILD/minivmm-io

normalise_io() {
    sed -i -E -e 's/^(qemu|minivmm)-io:/IO:/; s/(qemu|minivmm)-io> /IO> /g' \
        -e 's/ ops; [0-9:.]+( sec)? \(.*\/sec and [0-9.]+ ops\/sec\)/ ops; TIME/' \
        -e 's/^([0-9]+,1),[0-9:.]+,[0-9.]+,[0-9.]+$/\1,TIME/' \
        -e 's/^([a-z_]+ \[.*) -- .*/\1/' -e 's/^read \[-abCqv\]/read [-bCqv]/' \
        -e 's/^open \[.*\[path\]/open SYNTAX/' "$@"
}

# Leaves q.out q.err q.rc m.out m.err m.rc in $work. $io_stdin is what the programs read.
run_io() {
    local options=() commands=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    if [ $# -gt 0 ]; then
        shift
        options+=("$1")
        shift
        for command in "$@"; do
            commands+=(-c "$command")
        done
    fi
    (cd "$q" && exec timeout 60 qemu-io "${commands[@]}" "${options[@]}") \
        >"$work/q.out" 2>"$work/q.err" <"${io_stdin:-/dev/null}"
    echo $? >"$work/q.rc"
    (cd "$m" && exec timeout 60 "$MIO" "${commands[@]}" "${options[@]}") \
        >"$work/m.out" 2>"$work/m.err" <"${io_stdin:-/dev/null}"
    echo $? >"$work/m.rc"
    normalise_io "$work"/[qm].out "$work"/[qm].err
}

judge_io() {
    local name=$1 text=$2
    if [ -z "$text" ]; then
        pass "$name"
    else
        fail "$name" "$text"
    fi
}

same_io() {
    local name=$1
    shift
    run_io "$@"
    judge_io "$name" "$(differences rc out err)"
}

same_io_status() {
    local name=$1
    shift
    run_io "$@"
    judge_io "$name" "$(status_differences qemu-io)"
}

io_input() {
    local name=$1 io_stdin=$work/input
    printf '%s' "$2" >"$io_stdin"
    shift 2
    same_io "$name" "$@"
}
