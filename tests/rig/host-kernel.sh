#!/bin/bash
# Prepares the emulated KVM host's kernel: Debian's stock one, taken out of its package without
# installing it, and an initramfs with a busybox, the modules that KVM and the root disk need, and
# host-init. Prints the directory that holds vmlinuz and initrd; made once, then used again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
images=${MINIVMM_CACHE:-$root/build/images}
modules=(virtio_ring virtio virtio_pci virtio_blk crc32c_generic ext4 irqbypass kvm ccp kvm-amd)

key=$(cat "$here/host-kernel.sh" "$here/host-init" | sha256sum | cut -c1-12)
out=$images/host-$key
if [ -e "$out/complete" ]; then
    echo "$out"
    exit 0
fi

die() {
    echo "host-kernel.sh: $*" >&2
    exit 1
}

mkdir -p "$images"
exec 9>"$images/.host.lock"
flock 9
if [ -e "$out/complete" ]; then
    echo "$out"
    exit 0
fi
work=$(mktemp -d "$images/.host.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The meta package depends on the kernel of the day.
find_package() {
    apt-cache depends linux-image-amd64 2>/dev/null |
        awk '/Depends: linux-image-/ { print $2; exit }'
}
package=$(find_package)
if [ -z "$package" ]; then
    apt-get -qq update || die "apt-get update failed"
    package=$(find_package)
fi
[ -n "$package" ] || die "apt knows no linux-image-amd64"
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") ||
    die "cannot download $package"
dpkg-deb --fsys-tarfile "$work"/*.deb |
    tar -x -C "$work" --wildcards './boot/vmlinuz-*' './lib/modules/*'
release=$(basename "$work"/lib/modules/*)
busybox depmod -b "$work" "$release" 2>/dev/null || true
dep=$work/lib/modules/$release/modules.dep
[ -s "$dep" ] || die "depmod failed for $release"

# The files of a module and of all that it needs.
closure() {
    awk -v name="/$1.ko" '{
        file = $1
        sub(/:$/, "", file)
        if (substr(file, length(file) - length(name) + 1) == name) {
            $1 = file
            print
            exit
        }
    }' "$dep"
}

tree=$work/initramfs
mkdir -p "$tree"/{bin,dev,proc,sys,root} "$tree/lib/modules/$release"
cp "$(command -v busybox)" "$tree/bin/busybox"
install -m 755 "$here/host-init" "$tree/init"
cp "$dep" "$tree/lib/modules/$release/modules.dep"
for module in "${modules[@]}"; do
    files=$(closure "$module")
    [ -n "$files" ] || die "$package has no module $module"
    for file in $files; do
        install -D -m 644 "$work/lib/modules/$release/$file" "$tree/lib/modules/$release/$file"
    done
done
printf '%s\n' "${modules[@]}" >"$tree/modules"

mkdir "$work/out"
cp "$work"/boot/vmlinuz-* "$work/out/vmlinuz"
(cd "$tree" && find . | cpio --quiet -o -H newc) >"$work/out/initrd"
touch "$work/out/complete"
rm -rf "$out"
mv "$work/out" "$out"
echo "$out"
