# shellcheck shell=bash
# Boots the stock kernel on snapshot.qcow2 with the command line given, once.
exec minivmm --kernel vmlinuz --initrd initrd.img --cpus 2 --timeout 400 --append "$1" \
    --disk snapshot.qcow2 </dev/null
