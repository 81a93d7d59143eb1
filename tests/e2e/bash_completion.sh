#!/bin/bash
# What bash completes for minivmm and minivmm-img, in the function and in an interactive shell, and that
# `make install` puts it where bash finds it.
. "$(dirname "$0")/../lib.sh"
# shellcheck source=completion/minivmm.bash
. "$ROOT/completion/minivmm.bash"
PATH=$BUILD:$PATH
cd "$work" || exit 1
touch base.qcow2 'base two.qcow2' other.raw key
mkdir folder

# completes LINE: what is offered at the end of the line, sorted, on one line.
completes() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \t\n"\'><=;|&(:' COMPREPLY=()
    case $1 in
    minivmm-img*) _minivmm_img minivmm-img ;;
    *) _minivmm minivmm ;;
    esac
    printf '%s\n' "${COMPREPLY[@]}" | sort | paste -sd ' '
}

offers() {
    local found
    found=$(completes "$1")
    if [ "$found" = "$2" ]; then pass "$1"; else fail "$1" "offered: $found
expected: $2"; fi
}

offers "minivmm-img " "$(minivmm-img --help | sed -nE '/^Command syntax/,/^$/s/^  ([a-z]+) .*/\1/p' |
    cat - <(printf '%s\n' --backing-root --help --trace --version) | sort | paste -sd ' ')"
offers "minivmm-img cre" "create"
offers "minivmm-img co" "commit compare convert"
offers "minivmm-img xyz" ""
offers "minivmm-img --backing-root folder cre" "create"
offers "minivmm-img --trace events cre" "create"
offers "minivmm-img --backing-root fo" "folder"
offers "minivmm-img info ba" "base two.qcow2 base.qcow2"
offers "minivmm-img create -f " "qcow2 raw"
offers "minivmm-img convert -f raw -O q" "qcow2"
offers "minivmm-img convert -t w" "writeback writethrough"
offers "minivmm-img create -b ot" "other.raw"
offers "minivmm-img info --output=j" "json"
offers "minivmm-img info --output j" "json"
offers "minivmm-img resize --preallocation=f" "falloc full"
offers "minivmm-img check -r " "all leaks"
offers "minivmm-img create -o comp" "compat= compression_type="
offers "minivmm-img create -o size=1M,compat=" "0.10 1.1"
offers "minivmm-img create -f qcow2 -o lazy_refcounts=on,extended_l2=o" "off on"
offers "minivmm-img create -o compat=1.1,backing_file=ba" "base two.qcow2 base.qcow2"
offers "minivmm-img amend -o da" "data_file= data_file_raw="
offers "minivmm-img amend -o clu" ""
offers "minivmm-img amend -o encrypt.s" "encrypt.state="
offers "minivmm-img amend -o encrypt.state=in" "inactive"
offers "minivmm-img dd i" "if="
offers "minivmm-img dd if=ot" "other.raw"
offers "minivmm-img info --key-file=k" "key"
for command in $(completes "minivmm-img " | tr ' ' '\n' | grep -v -- --); do
    missing=
    for option in $(minivmm-img --help | sed -n "s/^  $command / /p" | grep -oE -e '[[( ]--?[a-zA-Z][a-z-]*' | cut -c2-); do
        case " $(completes "minivmm-img $command $option") " in
        *" $option "* | *" $option= "*) ;;
        *) missing="$missing $option" ;;
        esac
    done
    if [ -z "$missing" ]; then pass "every option of $command"; else fail "every option of $command" "not:$missing"; fi
done

offers "minivmm --ker" "--kernel"
offers "minivmm --kernel ba" "base two.qcow2 base.qcow2"
offers "minivmm --disk ot" "other.raw"
offers "minivmm --disk other.raw,form" "other.raw,format="
offers "minivmm --disk other.raw,format=" "qcow2 raw"
offers "minivmm --disk other.raw,format=raw,ephemeral=o" "off on"
offers "minivmm --disk other.raw,key-file=k" "key"
offers "minivmm --disk a,werror=" "enospc report stop"
offers "minivmm --console " "file: null pty stdio"
offers "minivmm --console file:ot" "other.raw"
offers "minivmm --on-reboot " "exit restart"
offers "minivmm --log-level " "debug error info warn"
offers "minivmm --memory 1" ""
offers "minivmm " "$(minivmm --help | grep -oE '^  --[a-z-]+' | tr -d ' ' | sort | paste -sd ' ')"

# A shell with a terminal: what is typed, and what the line becomes.
types() {
    local name=$1
    shift
    check "typed: $name" timeout 60 python3 - "$ROOT/completion/minivmm.bash" "$@" <<'PYTHON'
import os, pty, select, sys
script, typed, expected = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
seen = b""
def wait_for(text):
    global seen
    while text not in seen:
        if not select.select([fd], [], [], 30)[0]:
            sys.exit("waited for %r, got %r" % (text, seen))
        seen += os.read(fd, 4096)
    seen = seen[seen.index(text) + len(text):]
os.write(fd, b"bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; PS1='%%'; . %s; echo re''ady\n" % script.encode())
wait_for(b"ready")
os.write(fd, b"echo " + b"; " + typed.encode() + b"\t")
wait_for(expected.encode())
os.write(fd, b"\x03exit\n")
PYTHON
}
types "a command" "minivmm-img cre" "minivmm-img create "
types "a value behind a comma and =" "minivmm-img create -o size=1M,compat=0" "size=1M,compat=0.10"
types "a key of a disk" "minivmm --disk other.raw,form" "other.raw,format="
types "a file with a blank" "minivmm-img info base\\ t" "base\\ two.qcow2"

check "make install" make -s -C "$ROOT" BUILD="$BUILD" DESTDIR="$work/root" PREFIX=/usr install
for name in minivmm minivmm-img; do
    check "installed for $name" grep -q "complete -F .* $name\$" "$work/root/usr/share/bash-completion/completions/$name"
    check "installed: $name" test -x "$work/root/usr/bin/$name"
done
check "minivmm-io is not installed" test ! -e "$work/root/usr/bin/minivmm-io"
check "make uninstall" make -s -C "$ROOT" BUILD="$BUILD" DESTDIR="$work/root" PREFIX=/usr uninstall
check "nothing is left" test -z "$(find "$work/root" -type f -o -type l)"
finish
