# shellcheck shell=bash
# Sourced first, instead of lib.sh, by tests that fill a disk: mounts a file system of SMALL_DISK (a size of
# tmpfs) at $small, or skips the test.
if [ -z "${IN_NAMESPACE:-}" ]; then
    # The small file system is mounted where nobody else sees it, and goes with this process.
    if unshare -rm true 2>/dev/null; then
        IN_NAMESPACE=1 exec unshare -rm "$0" "$@"
    fi
    echo "1..0 # SKIP no private mounts here"
    exit 0
fi
# shellcheck source=../lib.sh
. "$(dirname "$0")/../lib.sh"
small=$work/small
mkdir "$small"
if ! mount -t tmpfs -o "size=$SMALL_DISK" tmpfs "$small" 2>/dev/null; then
    skip "a full disk" "tmpfs cannot be mounted"
    finish
fi
