#!/bin/bash
# Every bad option and every bad file gives one line and status 1, and changes no file.
. "$(dirname "$0")/../lib.sh"

cd "$work" || exit 1
"$IMG" create -f qcow2 base.qcow2 1M >/dev/null
"$IMG" create -f qcow2 -b base.qcow2 -F qcow2 snapshot.qcow2 >/dev/null
printf 'neither a bzImage nor an ELF file' >text
: >empty
head -c 4096 /dev/zero >zeros
printf '\177ELF' >short-elf
printf 'QFI\373\0\0\0\377' >bad.qcow2
printf '{"kernel": "kernel",}' >bad.json
printf '{"kernel": "kernel", "cpu": 2}' >unknown.json
cp "$BUILD/guest/hello" kernel
mkdir folder
mkfifo fifo
sums() {
    find . -type f ! -name sums.\* -exec sha256sum {} + | sort
}
sums >sums.before

# refused NAME ARGUMENT...: status 1, one line that begins with the program's name, nothing on stdout.
refused() {
    local name=$1 status
    shift
    timeout 20 "$MINIVMM" --quiet "$@" >out 2>errors </dev/null
    status=$?
    if [ $status -eq 1 ] && [ "$(wc -l <errors)" -eq 1 ] && [ ! -s out ] &&
        grep -q '^minivmm: .' errors && ! grep -q '[[:cntrl:]]' errors; then
        pass "$name"
    else
        fail "$name" "status $status: $(cat errors)"
    fi
    rm -f out errors
}

refused "no options"
refused "no kernel" --disk snapshot.qcow2
refused "an unknown option" --kernel kernel --memry 1G
refused "an unknown short option" -x
refused "a name with control characters" --kernel kernel $'--\e[2J\n'
refused "an argument that is no option" --kernel kernel snapshot.qcow2
refused "an option without its value" --kernel
refused "a bad memory size" --kernel kernel --memory lots
refused "too little memory" --kernel kernel --memory 1M
refused "more memory than the host has" --kernel kernel --memory 1P
refused "memory that is no multiple of 4K" --kernel kernel --memory 33555456
refused "no CPU" --kernel kernel --cpus 0
refused "too many CPUs" --kernel kernel --cpus 1000
refused "a negative timeout" --kernel kernel --timeout -1
refused "an unknown console" --kernel kernel --console vga
refused "an unknown disk key" --kernel kernel --disk snapshot.qcow2,frmat=qcow2
refused "an unknown disk format" --kernel kernel --disk snapshot.qcow2,format=vmdk
refused "a config file that is missing" --config missing.json
refused "a config file with a syntax error" --config bad.json
refused "a config file with an unknown key" --config unknown.json
refused "a config file that is a folder" --config folder

if [ -w /dev/kvm ]; then
    refused "a kernel that is missing" --kernel missing
    refused "a kernel that is a folder" --kernel folder
    refused "a kernel that is a pipe" --kernel fifo
    refused "a kernel that is text" --kernel text
    refused "a kernel that is empty" --kernel empty
    refused "a kernel that is zeros" --kernel zeros
    refused "an ELF file that ends early" --kernel short-elf
    refused "an initrd that is missing" --kernel kernel --initrd missing
    refused "an initrd that is a folder" --kernel kernel --initrd folder
    refused "a command line that is too long" --kernel kernel --append "$(printf '%070000d' 0)"
    refused "a disk that is missing" --kernel kernel --disk missing.qcow2
    refused "a disk that is a folder" --kernel kernel --disk folder
    refused "a disk that is a pipe" --kernel kernel --disk fifo
    refused "a disk with a bad header" --kernel kernel --disk bad.qcow2,format=qcow2
    refused "a raw file as qcow2" --kernel kernel --disk text,format=qcow2
    refused "one image twice" --kernel kernel --disk snapshot.qcow2 --disk snapshot.qcow2
    refused "the base of a disk as a writable disk" --kernel kernel --disk snapshot.qcow2 --disk base.qcow2
    refused "a base outside of the backing root" --kernel kernel --disk snapshot.qcow2 --backing-root folder
    refused "a backing root that is missing" --kernel kernel --disk snapshot.qcow2 --backing-root missing
    refused "a console in a folder that is missing" --kernel kernel --console file:missing/log
    refused "a console that nobody reads" --kernel kernel --console file:fifo
    if [ "$(id -u)" -eq 0 ]; then
        # CAP_DAC_OVERRIDE would open it all the same.
        chmod 755 "$work"
        chmod 644 kernel
        output=$(setpriv --reuid 65534 --clear-groups --inh-caps=-all "$MINIVMM" --quiet \
            --kernel kernel 2>&1)
        status=$?
        if [ -w /dev/kvm ] && [ "$(stat -c %a /dev/kvm)" != 666 ]; then
            if [ $status -eq 1 ] && [[ $output == *kvm* ]] && [ "$(wc -l <<<"$output")" -eq 1 ]; then
                pass "no permission for /dev/kvm says what to do"
            else
                fail "no permission for /dev/kvm says what to do" "$output"
            fi
        else
            skip "no permission for /dev/kvm says what to do" "everybody may open it here"
        fi
    fi
else
    skip "files that cannot be used" "/dev/kvm cannot be opened"
fi

check "a full standard output is noticed" sh -c "! '$MINIVMM' --help >/dev/full"
check "help goes to standard output" sh -c "'$MINIVMM' --help 2>&1 >/dev/null | cmp - /dev/null"
check "version" sh -c "'$MINIVMM' --version | grep -q '^minivmm [0-9]'"

sums >sums.after
check "no file has changed" cmp sums.before sums.after
finish
