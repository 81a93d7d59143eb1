#!/bin/bash
# Builds a Debian machine to boot: clean-disk.qcow2 (ext4, no partition table) and, taken out of it,
# the distribution's own vmlinuz and initrd.img.
#
#   build.sh [DIRECTORY]    prints the directory that holds the three files
#
# Everything comes from Debian packages by way of the mirrors that apt on this machine uses. The
# kernel and its initrd are made inside the new root by Debian's own tools; /boot of this machine is
# not touched. No loop device is needed: mke2fs fills the file system from the directory.
# A finished image stays under a name made of the hash of this recipe and is used again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
img=${BUILD:-$root/build}/minivmm-img
images=${1:-${MINIVMM_CACHE:-$root/build/images}}
size=1G
# The clock of everything inside, so that the same packages give the same image.
export SOURCE_DATE_EPOCH=1700000000

key=$(cat "$here"/* | sha256sum | cut -c1-12)
out=$images/debian-$key
if [ -e "$out/complete" ]; then
    echo "$out"
    exit 0
fi

die() {
    echo "build.sh: $*" >&2
    exit 1
}

[ -x "$img" ] || die "$img is not there: build it with make"
[ "$(id -u)" = 0 ] || die "must run as root: the files of the image belong to root"

# One line a Debian archive that apt uses, in sources.list form.
debian_sources() {
    # shellcheck disable=SC2016  # apt expands these
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' | sort -u
}

sources=$(debian_sources)
if [ -z "$sources" ]; then
    apt-get -qq update || die "apt-get update failed"
    sources=$(debian_sources)
fi
[ -n "$sources" ] || die "apt on this machine has no Debian archive among its sources"

mkdir -p "$images"
exec 9>"$images/.lock"
flock 9
if [ -e "$out/complete" ]; then
    echo "$out"
    exit 0
fi
work=$(mktemp -d "$images/.debian.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log
tree=$work/tree

# How apt on this machine reaches its mirrors (proxies, checks) holds for the new root as well.
apt_options=()
while IFS= read -r option; do
    apt_options+=("--aptopt=$option")
done < <(apt-config dump Acquire | grep -E '^Acquire::(https?::|Check-)' | grep -v ' "";$')

packages=busybox-static,e2fsprogs,initramfs-tools,kmod,linux-image-cloud-amd64,udev,zstd
if ! mmdebstrap --variant=minbase --include="$packages" "${apt_options[@]}" \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    '' "$tree" - <<<"$sources" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "mmdebstrap failed"
fi

echo clean-disk >"$tree/etc/hostname"
echo '/dev/vda / ext4 defaults 0 1' >"$tree/etc/fstab"
rm -f "$tree/etc/apt/apt.conf.d/99mmdebstrap"
install -m 644 "$here/inittab" "$tree/etc/inittab"
install -m 755 "$here/rc" "$tree/etc/rc"
install -m 644 "$here/profile" "$tree/etc/profile.d/console.sh"
for command in init poweroff reboot halt; do
    ln -sf ../bin/busybox "$tree/sbin/$command"
done
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

mkdir "$work/out"
cp "$tree"/boot/vmlinuz-* "$work/out/vmlinuz"
cp "$tree"/boot/initrd.img-* "$work/out/initrd.img"
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -L clean-disk \
    -U 6d696e69-766d-6d00-8000-000000000001 \
    -E hash_seed=6d696e69-766d-6d00-8000-000000000002,root_owner=0:0,lazy_itable_init=0 \
    -d "$tree" "$work/disk.raw" "$size" >>"$log" 2>&1 || die "mke2fs failed: $(tail -n 3 "$log")"
"$img" convert -f raw -O qcow2 "$work/disk.raw" "$work/out/clean-disk.qcow2" ||
    die "the image cannot be converted"
touch "$work/out/complete"
rm -rf "$out"
mv "$work/out" "$out"
echo "$out"
