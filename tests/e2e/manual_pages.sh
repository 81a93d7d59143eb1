#!/bin/bash
# Every command of minivmm-img has a manual page, which knows every option of its syntax and whose examples work as
# they stand there.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit 1
[ -n "$(command -v qemu-io)" ] || { echo "1..0 # SKIP qemu-io is not installed"; exit 0; }
pages=$ROOT/docs/man
mkdir bin
ln -s "$IMG" bin/minivmm-img
export PATH=$work/bin:$PATH

mkdir images
make_images() {
    qemu-img create -q -f qcow2 base.qcow2 10M && qemu-io -c 'write -q -P 1 0 2M' base.qcow2 &&
        qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 && qemu-io -c 'write -q -P 2 1M 3M' disk.qcow2 &&
        qemu-img convert -O raw disk.qcow2 disk.raw && cp base.qcow2 scratch.qcow2 && cp base.qcow2 clean-disk.qcow2
}
(cd images && make_images) >log 2>&1 || fail "preparing" "$(cat log)"

# The lines behind "$ " of a page's examples, as a script; without those that need a
# machine or QEMU's, and what they end with.
examples() {
    sed -n '/^\.Sh EXAMPLES/,/^\.Sh [^E]/p' "$1" | awk '/^\.Bd/ {inside = 1; next} /^\.Ed/ {inside = 0}
        inside {if (/^\$ /) {keep = !/^\$ (minivmm |qemu-system|rm )/; sub(/^\$ /, "")} if (keep) print}'
}

# run_examples PAGE: one after the other, in a folder with the images.
run_examples() {
    local page=$1
    rm -rf now && cp -r images now
    examples "$page" >script
    [ -s script ] || { fail "${page##*/} has examples"; return; }
    # A server goes on until it is ended; that its socket is there says that it serves.
    if grep -q '&$' script; then
        echo 'until [ -S disk.sock ]; do kill -0 $! || exit; sleep 0.05; done; kill $!; wait $!' |
            sed '/&$/r /dev/stdin' script >script.ends
        mv script.ends script
    fi
    check "the examples of ${page##*/}" timeout 60 bash -ec "cd now; . ../script"
}

for command in $("$IMG" --help | sed -nE '/^Command syntax/,/^$/s/^  ([a-z]+) .*/\1/p'); do
    page=$pages/minivmm-img-$command.1
    check "minivmm-img-$command(1)" test -e "$page"
    missing=
    for option in $("$IMG" --help | sed -n "s/^  $command / /p" | grep -oE -e '[[( ]--?[a-zA-Z][a-z-]*' | cut -c2-); do
        case $option in
        --*) grep -qE "Fl Fl ${option#--}( |\$)" "$page" ;;
        *) grep -qE "Fl ([a-zA-Z]*${option#-}[a-zA-Z]*|.*[|,] ${option#-})( |\$)" "$page" ;;
        esac || missing+=" $option"
    done
    if [ -z "$missing" ]; then pass "... every option"; else fail "... every option" "not:$missing"; fi
    check "... is named in minivmm-img(1)" grep -q "Xr minivmm-img-$command 1" "$pages/minivmm-img.1"
    run_examples "$page"
done
run_examples "$pages/minivmm-img.1"

# The tour of README: the same without the machine.
rm -rf now && cp -r images now
sed -n '/^## A tour/,/^## [^A]/p' "$ROOT/README.md" | sed -n '/^```sh/,/^```/p' | grep -v '```' |
    sed 's/  *#.*//' | grep -v '^minivmm ' | grep -v '^rm ' >script
check "README: the tour has commands" test "$(grep -c minivmm-img script)" -ge 6
check "README: the tour" bash -ec "cd now; . ../script"
check "... ends with a disk that stands alone" qemu-img check -q now/new.qcow2
finish
