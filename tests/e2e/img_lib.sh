# Sourced by the tests of minivmm-img, after tests/lib.sh: runs the same command with qemu-img and with
# minivmm-img, each in a directory of its own with the same files, and compares.
#
#   both COMMAND...            runs a command in both directories (to prepare files)
#   same NAME ARGUMENTS...     exit status, stdout and stderr must agree
#   same_status NAME ARGS...   exit status and stdout must agree; stderr of neither or of both is empty
#   same_image NAME FILE [FMT] both files hold the same guest data, and qemu-img check finds ours clean
#
# Differences that are meant: the program's name, the time that bench took, and "disk size", since our images are
# sparser.
# shellcheck shell=bash

[ -n "$(command -v qemu-img)" ] || { echo "1..0 # SKIP qemu-img is not installed"; exit 0; }

# lib.sh, which is sourced first, made the folder.
# shellcheck disable=SC2154
q=$work/qemu m=$work/minivmm
mkdir -p "$q" "$m"

# In place, all files at once: starting programs is what these tests spend their time on.
normalise() {
    sed -i -e 's/^qemu-img\b/IMG/; s/^minivmm-img\b/IMG/' -e "s/'qemu-img\b/'IMG/; s/'minivmm-img\b/'IMG/" \
        -e 's/^\( *"actual-size": \)[0-9]*/\10/' \
        -e 's/^disk size: .*/disk size: N/' -e 's/^\(Run completed in\) [0-9.]* /\1 N /' -e 'y/\r/\n/' "$@"
}

both() {
    local dir
    for dir in "$q" "$m"; do
        (cd "$dir" && "$@") >"$work/both.log" 2>&1 || {
            fail "preparing: $*" "$(cat "$work/both.log")"
            return 1
        }
    done
}

# Runs both programs; leaves q.out q.err q.rc m.out m.err m.rc in $work.
run_both() {
    (cd "$q" && exec timeout 60 qemu-img "$@") >"$work/q.out" 2>"$work/q.err" </dev/null
    echo $? >"$work/q.rc"
    (cd "$m" && exec timeout 60 "$IMG" "$@") >"$work/m.out" 2>"$work/m.err" </dev/null
    echo $? >"$work/m.rc"
    normalise "$work"/[qm].out "$work"/[qm].err
}

# Whether two files are the same, without another program; false where there are bytes of zero, too.
same_bytes() {
    local one two
    IFS= read -r -d '' one <"$1" && return 1
    IFS= read -r -d '' two <"$2" && return 1
    [ "$one" = "$two" ]
}

differences() {
    local kind
    for kind in "$@"; do
        same_bytes "$work/q.$kind" "$work/m.$kind" || diff -u --label "qemu-img.$kind" --label "minivmm-img.$kind" \
            "$work/q.$kind" "$work/m.$kind"
    done
}

same() {
    local name=$1 text
    shift
    run_both "$@"
    if text=$(differences rc out err) && [ -z "$text" ]; then
        pass "$name"
    else
        fail "$name" "arguments: $*
$text"
    fi
}

# Of what they say on stderr only whether both or neither says something; PROGRAM is the other one.
status_differences() {
    differences rc out
    [ -s "$work/q.err" ] && [ ! -s "$work/m.err" ] &&
        echo "no message where $1 says: $(cat "$work/q.err")"
    [ ! -s "$work/q.err" ] && [ -s "$work/m.err" ] &&
        echo "a message where $1 says nothing: $(cat "$work/m.err")"
    return 0
}

same_status() {
    local name=$1 text
    shift
    run_both "$@"
    text=$(status_differences qemu-img)
    if [ -z "$text" ]; then
        pass "$name"
    else
        fail "$name" "arguments: $*
$text"
    fi
}

same_image() {
    local name=$1 file=$2 format=${3:-qcow2} text
    text=$(timeout 60 qemu-img compare -f "$format" -F "$format" "$q/$file" "$m/$file" 2>&1) || {
        fail "$name" "$text"
        return
    }
    if [ "$format" = qcow2 ] && ! text=$(timeout 60 qemu-img check "$m/$file" 2>&1); then
        fail "$name" "$text"
        return
    fi
    pass "$name"
}

# Writes a pattern into an image with qemu-io: io FILE COMMAND...
io() {
    local file=$1 args=()
    shift
    for command in "$@"; do
        args+=(-c "$command")
    done
    qemu-io "${args[@]}" "$file"
}

# Whether a -p output begins with 0, ends with 100 and leaves a new line.
progress_is_whole() {
    [ "$(tr '\r' '\n' <"$1" | head -n 1)" = '    (0.00/100%)' ] &&
        [ "$(tr '\r' '\n' <"$1" | tail -n 2 | head -n 1)" = '    (100.00/100%)' ] &&
        [ "$(tail -c 2 "$1" | od -An -c | tr -d ' ')" = '\r\n' ]
}
