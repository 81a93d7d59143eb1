#!/bin/bash
# minivmm-img serve as a daemon: options, stale sockets and sockets in use, several images, a socket from
# its parent, and its end. What it says to front ends is tested in tests/unit/virtio/test_vhost_user*.c.
. "$(dirname "$0")/../lib.sh"
cd "$work" || exit
servers=()
trap 'kill -9 "${servers[@]}" 2>/dev/null; cleanup_work' EXIT

"$IMG" create -q -f qcow2 a.qcow2 64M
"$IMG" create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2
truncate -s 1M raw

cat >front-end.py <<'PY'
# front-end.py SOCKET: asks for the features and the capacity in sectors, and prints the capacity.
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(sys.argv[1])
def ask(request, payload=b"", answers=True):
    s.sendall(struct.pack("=III", request, 1, len(payload)) + payload)
    if answers:
        _, flags, size = struct.unpack("=III", s.recv(12, socket.MSG_WAITALL))
        assert flags == 5, flags
        return s.recv(size, socket.MSG_WAITALL)
assert struct.unpack("=Q", ask(1))[0] & 1 << 30
protocol = ask(15)
ask(16, protocol, False)
print(struct.unpack("=Q", ask(24, struct.pack("=III", 0, 8, 0) + bytes(8))[12:])[0])
PY

# serve ARGUMENT...: in the background, until its sockets are there.
serve() {
    "$IMG" serve "$@" 2>messages &
    server=$!
    servers+=("$server")
}

# listens SOCKET: waits until somebody does; false when the server ended instead.
listens() {
    until python3 front-end.py "$1" >capacity 2>/dev/null; do
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.05
    done
}

# ends NAME SIGNAL: with status 0, without a word, and without its socket.
ends() {
    local status
    kill "-$2" "$server"
    wait "$server"
    status=$?
    if [ $status -eq 0 ] && [ ! -s messages ] && ! ls ./*.sock >/dev/null 2>&1; then
        pass "$1"
    else
        fail "$1" "status $status: $(ls; cat messages)"
    fi
}

refuse "an image that is missing" "$IMG" serve --vhost-user-blk s.sock missing.qcow2
refuse "an unknown key" "$IMG" serve --vhost-user-blk s.sock a.qcow2,read-only=on
refuse "an unknown engine" "$IMG" serve --vhost-user-blk s.sock a.qcow2,aio=native
refuse "an unknown format" "$IMG" serve --vhost-user-blk s.sock a.qcow2,format=vmdk
refuse "files registered with threads" \
    "$IMG" serve --vhost-user-blk s.sock a.qcow2,fixed-files=on,aio=threads
refuse "a poll that is too long" "$IMG" serve --vhost-user-blk s.sock a.qcow2,poll-us=1001
refuse "readonly and ephemeral" "$IMG" serve --vhost-user-blk s.sock a.qcow2,readonly=on,ephemeral=on
refuse "inflight and ephemeral" "$IMG" serve --vhost-user-blk s.sock a.qcow2,ephemeral=on,inflight=on
refuse "a serial number that is too long" \
    "$IMG" serve --vhost-user-blk s.sock a.qcow2,serial=123456789012345678901
refuse "no queue" "$IMG" serve --vhost-user-blk s.sock --queues 0 a.qcow2
refuse "more queues than there are" "$IMG" serve --vhost-user-blk s.sock --queues 65 a.qcow2
refuse "a path that is too long for a socket" "$IMG" serve --vhost-user-blk "$(printf '%0110d' 0)" a.qcow2
refuse "a folder that is missing" "$IMG" serve --vhost-user-blk missing/s.sock a.qcow2
refuse "a descriptor that is not there" "$IMG" serve --fd 99 a.qcow2
refuse "a descriptor that is no socket" "$IMG" serve --fd 0 a.qcow2
refuse "a probed qcow2 that names a backing file" sh -c \
    "cp b.qcow2 b.img && '$IMG' serve --vhost-user-blk s.sock b.img"
check "no socket was made" test ! -e s.sock
for arguments in "a.qcow2" "--vhost-user-blk s.sock" "--vhost-user-blk s.sock a.qcow2 b.qcow2"; do
    # shellcheck disable=SC2086
    "$IMG" serve $arguments >/dev/null 2>messages
    check "'serve $arguments' is a wrong number of arguments" grep -q '^minivmm-img: Expecting' messages
done
truncate -s 3 s.sock
refuse "a file where the socket should be" "$IMG" serve --vhost-user-blk s.sock a.qcow2
check "the file is still there" test -f s.sock -a ! -S s.sock
rm s.sock

serve --vhost-user-blk s.sock a.qcow2
check "a front end gets an answer" listens s.sock
check "the capacity is the image's" grep -qx 131072 capacity
check "a second one after it, too" listens s.sock
refuse "another server at the same socket" "$IMG" serve --vhost-user-blk s.sock raw,format=raw
refuse "another server of the same image" "$IMG" serve --vhost-user-blk t.sock a.qcow2
check "the first one still answers" listens s.sock
kill -9 "$server"
wait "$server" 2>/dev/null
check "a killed server leaves its socket" test -S s.sock
serve --vhost-user-blk s.sock a.qcow2
check "the next one replaces it" listens s.sock
ends "SIGTERM ends it" TERM

serve --vhost-user-blk s.sock b.qcow2,ephemeral=ram,aio=threads --vhost-user-blk t.sock raw,format=raw,readonly=on
check "the first of two images is served" listens s.sock
check "it is the first" grep -qx 131072 capacity
check "the second is served" listens t.sock
check "it is the second" grep -qx 2048 capacity
ends "SIGINT ends both" INT

serve --vhost-user-blk s.sock a.qcow2
check "a server whose socket is taken away by name" listens s.sock
mv s.sock mine
touch s.sock
kill "$server"
wait "$server"
check "leaves what has the name now" test -f s.sock
rm s.sock mine

cat >parent.py <<'PY'
# parent.py IMG: listens at p.sock and lets `serve` have the socket.
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind("p.sock")
s.listen()
os.set_inheritable(s.fileno(), True)
os.execv(sys.argv[1], ["minivmm-img", "serve", "--fd", str(s.fileno()), "a.qcow2"])
PY
python3 parent.py "$IMG" 2>messages &
server=$!
servers+=("$server")
check "a socket from the parent is served" listens p.sock
kill -HUP "$server"
wait "$server"
check "SIGHUP ends it with status 0" test $? -eq 0
check "the parent's name stays" test -S p.sock
finish
