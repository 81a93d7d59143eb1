# shellcheck shell=bash
# In the emulated host: every test that wants /dev/kvm. Each prints its own plan; they add up.
# /tmp is in memory there, and O_DIRECT wants a disk.
export TMPDIR=$PWD
cd "$1" || exit
export BUILD=$1/build CMOCKA_MESSAGE_OUTPUT=TAP
status=0
for test in tests/e2e/guest_*.sh tests/e2e/vmm_*.sh "$BUILD"/tests/unit/vmm/test_kvm_vcpu; do
    case $test in
    *_lib.sh) continue ;;
    esac
    echo "# $test"
    "$test" </dev/null || status=1
done
exit $status
