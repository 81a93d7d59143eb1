#!/usr/bin/env python3
"""make bench: one table of measurements, ours beside QEMU's tools and the machine's own limit.

Each row is measured in interleaved rounds (ours, peer, limit, ours, ...), so that a busy moment hits
all sides; the table shows medians. A ratio above 1 means that ours is better. QEMU gets the best of the
asynchronous I/O engines that its qemu-img has for a page-cached file. BENCH_DIR says where the images
lie (default: TMPDIR or /tmp); QUICK=1 measures less; an argument measures only the rows that hold it.
"""

import functools
import json
import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

QUICK = os.environ.get("QUICK", "") not in ("", "0")
ROUNDS = 3 if QUICK else 7
MIB = 1024 * 1024
IMAGE = (128 if QUICK else 512) * MIB
READS = 20000 if QUICK else 100000
WRITES = IMAGE // 65536
# Odd in units of 4 KiB: visits every block once, far from the last one.
STRIDE = 4096 * 20011
LONGEST_CHAIN = 1000
GUEST_MIB = 256
GUEST_MEMORY = "%dM" % GUEST_MIB
GUEST_PASSED = 42
CROWD = 50
CREATIONS = 20
MEASURE = sys.argv[1] + "/tests/bench/measure"


class Skip(Exception):
    pass


def sh(*argv, **options):
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True,
                          **options).stdout


def timed(*argv, expect=0, times=1, remove=None):
    """(wall seconds, CPU seconds, max RSS in KiB) of a process, or medians of some, which make the same file."""
    options = ["-n", str(times)] + (["-x", str(remove)] if remove else [])
    done = subprocess.run([MEASURE, *options, *map(str, argv)], capture_output=True, text=True,
                          check=False)
    if done.returncode != expect:
        raise Skip("%s: status %d: %s" % (pathlib.Path(argv[0]).name, done.returncode,
                                          done.stderr.strip()[-120:]))
    return tuple(float(word) for word in done.stdout.split())


class Bench:
    def __init__(self, build, work):
        self.work = work
        self.img = build / "minivmm-img"
        self.vmm = build / "minivmm"
        self.engine = build / "tests/bench/enginebench"
        self.client = build / "tests/bench/blkbench"
        self.guests = build / "guest"
        self.build = build
        self.boot_seconds = {}
        self.runs = {}

    # ---- images ----

    def path(self, name):
        return self.work / name

    def prepare(self):
        base = self.path("base.raw")
        with open(base, "wb") as file:
            for _ in range(IMAGE // MIB):
                file.write(os.urandom(MIB))
        sh("qemu-img", "convert", "-O", "qcow2", base, self.path("base.qcow2"))
        shutil.copyfile(self.path("base.qcow2"), self.path("limit.img"))
        self.overlay("overlay.qcow2", "base.qcow2")
        below = "base.qcow2"
        for i in range(1, LONGEST_CHAIN + 1):
            name = "chain%d.qcow2" % i
            # By our own program: QEMU's opens the whole chain each time.
            sh(self.img, "create", "-q", "-f", "qcow2", "-b", self.path(below), "-F", "qcow2",
               self.path(name))
            below = name
        for name in ("ours", "peer"):
            self.overlay("warm-%s.qcow2" % name, "base.qcow2")
            sh("qemu-img", "bench", "-f", "qcow2", "-w", "-c", IMAGE // MIB, "-s", MIB, "-d", 4,
               self.path("warm-%s.qcow2" % name))

    def overlay(self, name, backing):
        path = self.path(name)
        path.unlink(missing_ok=True)
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.path(backing), "-F", "qcow2", path)
        return path

    # ---- engine requests ----

    def engine_seconds(self, args, image):
        return float(sh(self.engine, *args, image))

    def limit_seconds(self, args, image):
        return float(sh(self.engine, "--limit", *args, image))

    def qemu_seconds(self, args, image, aio, mode="writeback"):
        text = sh("qemu-img", "bench", "-f", "qcow2", "-t", mode, "-i", aio, *args, image)
        return float(re.search(r"in ([0-9.]+) seconds", text).group(1))

    def requests(self, count, depth, size, step, write=False, image="overlay.qcow2", cold=False,
                 throwaway=None, direct=False, peer_count=None):
        """One row of requests: rates in requests per second. `throwaway` ("on", "ram"): ours goes to such
        a disk over the base. `direct`: with O_DIRECT, reads of the base itself; the limit is a raw io_uring.
        `peer_count`: of a peer who would take too long for all."""
        peer_count = peer_count or count
        args = ["-c", count, "-d", depth, "-s", size, "-S", step] + (["-w"] if write else [])
        peer_args = ["-c", peer_count, *args[2:]]

        def target(who):
            if (direct and not write) or (throwaway and who == "ours"):
                return self.path("base.qcow2")
            if cold:
                return self.overlay("cold-%s.qcow2" % who, "base.qcow2")
            return self.path(image if not write else "warm-%s.qcow2" % who)

        def best_aio():
            times = {}
            for aio in ("threads", "io_uring"):
                try:
                    times[aio] = self.qemu_seconds(peer_args, target("peer"), aio, mode)
                except subprocess.CalledProcessError:
                    continue
            return min(times, key=times.get)

        def limit_file():
            """Where nothing was written, nothing is in the page cache either."""
            if not cold:
                return self.path("limit.img" if write else "base.qcow2")
            new = self.path("new.img")
            new.unlink(missing_ok=True)
            new.touch()
            os.truncate(new, IMAGE)
            return new

        own = (["-e", throwaway] if throwaway else []) + (["-n"] if direct else [])
        mode = "none" if direct else "writeback"
        aio = best_aio()
        ours, peer, limit = [], [], []
        for _ in range(ROUNDS):
            ours.append(count / self.engine_seconds(args + own, target("ours")))
            seconds = self.qemu_seconds(peer_args, target("peer"), aio, mode)
            peer.append(peer_count / max(seconds, 0.001))
            try:
                limit.append(count / self.limit_seconds(args + ["-n"] * direct, limit_file()))
            except subprocess.CalledProcessError:
                if not direct:  # there is no io_uring here
                    raise
        return ours, peer, limit, "QEMU with aio=%s" % aio

    def overlap_checks(self, cold):
        """The same writes with and without the checks before each, in place of QEMU's."""
        count = WRITES if cold else READS
        args = ["-c", count, "-d", 32, "-s", 4096, "-S", STRIDE, "-w"]
        results = ([], [])
        pair = [(results[0], self.engine), (results[1], "%s-unchecked" % self.engine)]
        for i in range(ROUNDS + ROUNDS % 2):  # as often the one first as the other
            for rates, engine in pair if i % 2 == 0 else pair[::-1]:
                image = self.overlay("cold-ours.qcow2", "base.qcow2") if cold else \
                    self.path("warm-ours.qcow2")
                rates.append(count / float(sh(engine, *args, image)))
        return results[0], results[1], None, "ours without the checks, not QEMU"

    def scaling(self, queues, write=False):
        """Threads with a queue each on one warm overlay. QEMU's tools have one queue: see served()."""
        args = ["-c", READS * 2, "-d", 32, "-s", 4096, "-S", STRIDE, "-q", queues]
        args += ["-w"] if write else []
        image = self.path("warm-ours.qcow2")
        ours, limit = [], []
        for _ in range(ROUNDS):
            ours.append(READS * 2 / self.engine_seconds(args, image))
            limit.append(READS * 2 / self.limit_seconds(args, self.path("limit.img")))
        return ours, None, limit, "%d processors; the limit has as many threads" % os.cpu_count()

    # ---- first writes ----

    def first_writes(self, index, extended_l2):
        """What 4 KiB cost that are written to a cluster for the first time, by the same commands of minivmm-io
        and qemu-io: index 0 bytes given to write calls (wake-ups of QEMU's threads included), 1 bytes that the file system has allocated."""
        clusters = IMAGE // 65536
        count = min(1000, clusters)
        commands = ["-c"] * (2 * count)
        commands[1::2] = ["write -q -P %d %d 4k" % (i % 255 + 1, i * 1009 % clusters * 65536 + 16384)
                          for i in range(count)]

        def cost(program):
            image = self.path("first.qcow2")
            image.unlink(missing_ok=True)
            sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.path("base.qcow2"), "-F", "qcow2",
               "-o", "extended_l2=%s" % ("on" if extended_l2 else "off"), image)
            before = self.allocated(image)
            process = subprocess.Popen([str(program), "-t", "writeback", "-f", "qcow2", *commands,
                                        str(image)], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            text = pathlib.Path("/proc/%d/io" % process.pid).read_text()
            if process.wait() != 0:
                raise Skip("%s: status %d" % (program, process.returncode))
            written = int(re.search(r"^wchar: ([0-9]+)", text, re.MULTILINE).group(1))
            return (written / count, (self.allocated(image) - before) / count)[index]

        # Counts, not times: nothing disturbs them.
        return ([cost(self.build / "minivmm-io")], [cost("qemu-io")], None,
                "%d writes, one a cluster of 64 KiB" % count)

    def pieces(self, streams=4, clusters=256):
        """In how many pieces a stream of first writes lies in the file when others go on beside it."""
        offsets = [(stream * 1024 + i) * 65536 for i in range(clusters) for stream in range(streams)]
        commands = [word for offset in offsets for word in ("-c", "write -q %d 64k" % offset)]

        def count(program):
            image = self.path("pieces.qcow2")
            image.unlink(missing_ok=True)
            sh("qemu-img", "create", "-q", "-f", "qcow2", image, "1G")
            sh(program, "-t", "writeback", "-f", "qcow2", *commands, image)
            found = json.loads(sh("qemu-img", "map", "--output=json", image))
            return len([extent for extent in found if extent["data"]]) / streams

        return ([count(self.build / "minivmm-io")], [count("qemu-io")], None,
                "%d streams, each of %d clusters of 64 KiB" % (streams, clusters))

    @staticmethod
    def allocated(path):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_blocks * 512

    # ---- served disks ----

    def serve(self, argv, socket, work):
        """Runs work() while a server has the socket."""
        server = subprocess.Popen([str(a) for a in argv], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE)
        try:
            while not socket.exists():
                if server.poll() is not None:
                    raise Skip("%s: %s" % (argv[0], server.stderr.read().decode().strip()[-120:]))
                time.sleep(0.01)
            return work()
        finally:
            server.terminate()
            server.wait()
            server.stderr.close()
            socket.unlink(missing_ok=True)

    def served(self, count, depth, size=4096, step=STRIDE, write=False, cold=False, recorded=False,
               queues=1, chain=None):
        """The same client in front of `minivmm-img serve` and of qemu-storage-daemon. `cold`: writes to new
        overlays; `recorded`: and ours writes down what is in flight, so that the client could outlive it. `queues`: each
        with its own thread of the client. `chain`: an image to read, instead of a new overlay."""
        args = ["-c", count, "-d", depth, "-s", size, "-S", step, "-q", queues]
        args += ["-w"] if write else []
        sockets = {who: self.path("%s.sock" % who) for who in ("ours", "peer")}

        def image(who):
            if write and not cold:
                return self.path("warm-%s.qcow2" % who)
            if chain:
                return self.path(chain)
            return self.overlay("served-%s.qcow2" % who, "base.qcow2")

        def peer_argv(aio):
            return [os.environ.get("PEER_DAEMON", "qemu-storage-daemon"),
                    "--blockdev", "file,node-name=file,filename=%s,aio=%s,read-only=%s" %
                    (image("peer"), aio, "on" if chain else "off"),
                    "--blockdev", "qcow2,node-name=disk,file=file,read-only=" +
                    ("on" if chain else "off"),
                    "--export", "vhost-user-blk,id=disk,node-name=disk,writable=%s,num-queues=%d,"
                    "addr.type=unix,addr.path=%s" %
                    ("off" if chain else "on", queues, sockets["peer"])]

        def rate(who):
            own = ["-i"] if recorded and who == "ours" else []
            return count / float(sh(self.client, *args, *own, sockets[who]))

        def ours_argv():
            return [self.img, "serve", "--vhost-user-blk", sockets["ours"], "--queues", queues,
                    str(image("ours")) + (",readonly=on" if chain else "")]

        def best_aio():
            rates = {}
            for aio in ("threads", "io_uring"):
                try:
                    rates[aio] = self.serve(peer_argv(aio), sockets["peer"], lambda: rate("peer"))
                except (Skip, subprocess.CalledProcessError):
                    continue
            return max(rates, key=rates.get)

        def rounds(number):
            for _ in range(number):
                ours.append(rate("ours"))
                peer.append(rate("peer"))

        ours, peer = [], []
        aio = best_aio()
        # A new overlay is new once.
        for number in [1] * ROUNDS if cold else [ROUNDS]:
            self.serve(peer_argv(aio), sockets["peer"], lambda n=number: self.serve(
                ours_argv(), sockets["ours"], lambda: rounds(n)))
        return ours, peer, None, "QEMU's storage daemon with aio=%s" % aio

    # ---- whole commands ----

    def commands(self, ours, peer, limit=None, before=None, **options):
        """Processes side by side: of each its runs, as (wall seconds, CPU seconds, max RSS); see column()."""
        results = ([], [], [])
        for _ in range(ROUNDS):
            for row, argv in zip(results, (ours, peer, limit)):
                if argv:
                    if before:
                        before()
                    os.sync()  # what one run left to be written must not slow the next one down
                    row.append(timed(*argv, **options))
        return results

    def column(self, index, name, method, *arguments, **options):
        """A row of what commands() measured for `method`; another of the same name is of the same runs."""
        if name not in self.runs:
            self.runs[name] = method(*arguments, **options)
        ours, peer, limit = self.runs[name]
        # A copy by cp is no limit of memory.
        return [run[index] for run in ours], [run[index] for run in peer], \
            [run[index] for run in limit] if index == 0 else None, ""

    def create(self):
        out = self.path("created.qcow2")
        args = ["create", "-f", "qcow2", "-b", self.path("base.qcow2"), "-F", "qcow2", out]
        # Some in a row, as for a job with many machines: a start from what another program has left of the caches says
        # more of that one. The limit is a program that does nothing: what starting and ending one takes.
        return self.commands([self.img] + args, ["qemu-img"] + args, ["true"], times=CREATIONS,
                             remove=out)

    def convert(self, source, source_format, out_format, *options):
        out = self.path("converted")
        args = ["convert", *options, "-f", source_format, "-O", out_format, self.path(source), out]
        return self.commands([self.img] + args, ["qemu-img"] + args,
                             ["cp", "--sparse=never", "--reflink=never", self.path(source), out],
                             before=lambda: out.unlink(missing_ok=True))

    def files(self):
        """A quarter of the disk, of this machine's own programs and libraries: what compresses as disks do."""
        image = self.path("files.raw")
        if not image.exists():
            left = IMAGE // 4
            with open(image, "wb") as out:
                for file in sorted(pathlib.Path("/usr/lib").rglob("*.so*")):
                    if left > 0 and file.is_file() and not file.is_symlink():
                        data = file.read_bytes()[:left]
                        out.write(data)
                        left -= len(data)
                out.write(os.urandom(left))
        return image.name

    def compress(self, kind):
        return self.convert(self.files(), "raw", "qcow2", "-c", "-o", "compression_type=" + kind)

    def decompress(self, kind):
        packed = self.path("packed-%s.qcow2" % kind)
        if not packed.exists():
            sh("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=" + kind,
               self.path(self.files()), packed)
        return self.convert(packed.name, "qcow2", "raw")

    def compare(self):
        args = ["compare", "-f", "raw", "-F", "qcow2", self.path("base.raw"), self.path("base.qcow2")]
        return self.commands([self.img] + args, ["qemu-img"] + args)

    def rebase(self):
        """To a copy of the base that differs from it in every sixteenth MiB."""
        other = self.path("other.qcow2")
        shutil.copyfile(self.path("base.qcow2"), other)
        sh("qemu-img", "bench", "-f", "qcow2", "-w", "-c", IMAGE // MIB // 16, "-s", MIB, "-S", 16 * MIB,
           other)
        top = self.path("rebased.qcow2")
        args = ["rebase", "-f", "qcow2", "-b", other, "-F", "qcow2", top]
        return self.commands([self.img] + args, ["qemu-img"] + args,
                             before=lambda: self.overlay(top.name, "base.qcow2"))

    def check(self):
        args = ["check", "-f", "qcow2", self.path("warm-ours.qcow2")]
        return self.commands([self.img] + args, ["qemu-img"] + args)

    def open_large(self):
        base, top = self.path("large-base.qcow2"), self.path("large.qcow2")
        sh("qemu-img", "create", "-q", "-f", "qcow2", base, "100G")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
        return self.commands([self.engine, "-w", "-c", 0, top], ["qemu-io", "-c", "quit", top])

    def check_large(self):
        image = self.path("clusters.qcow2")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, "64G")
        args = ["check", "-f", "qcow2", image]
        return self.commands([self.img] + args, ["qemu-img"] + args)

    def commit(self):
        base, top = self.path("commit-base.qcow2"), self.path("commit-top.qcow2")
        filled = self.path("commit-filled.qcow2")
        sh("qemu-img", "create", "-q", "-f", "qcow2", base, "%d" % IMAGE)
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", filled)
        sh("qemu-img", "bench", "-f", "qcow2", "-w", "-c", IMAGE // MIB // 2, "-s", MIB, "-d", 4,
           filled)

        def before():
            shutil.copyfile(filled, top)
            base.unlink()
            sh("qemu-img", "create", "-q", "-f", "qcow2", base, "%d" % IMAGE)

        args = ["commit", "-f", "qcow2", top]
        return self.commands([self.img] + args, ["qemu-img"] + args, before=before)

    def cpu_time(self, write):
        """Processor seconds of a request, the start of the program included."""
        count = READS * 3
        args = ["-c", count, "-d", 32, "-s", 4096, "-S", STRIDE] + (["-w"] if write else [])
        ours, peer = ("warm-ours.qcow2", "warm-peer.qcow2") if write else ["overlay.qcow2"] * 2
        results = self.commands(
            [self.engine, *args, self.path(ours)],
            ["qemu-img", "bench", "-f", "qcow2", "-t", "writeback", "-i", "io_uring", *args,
             self.path(peer)])
        return [run[1] / count for run in results[0]], [run[1] / count for run in results[1]], \
            None, "QEMU with aio=io_uring"

    def open_chain(self, depth, count=1):
        args = ["-c", count, "-d", 1, "-S", STRIDE, self.path("chain%d.qcow2" % depth)]
        return self.commands([self.engine] + args, ["qemu-img", "bench", "-f", "qcow2"] + args)

    # ---- machines, on this host's /dev/kvm ----

    def machine_commands(self, guest, machine):
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Skip("/dev/kvm cannot be opened")
        kernel = self.guests / guest
        return ([self.vmm, "--quiet", "--kernel", kernel, "--memory", GUEST_MEMORY,
                 "--debug-exit", "--append", "halt"],
                ["qemu-system-x86_64", "-M", machine, "-accel", "kvm", "-m", GUEST_MEMORY,
                 "-kernel", kernel, "-append", "halt", "-nodefaults", "-no-user-config", "-display",
                 "none", "-serial", "stdio", "-no-reboot", "-device",
                 "isa-debug-exit,iobase=0xf4,iosize=4"])

    def start(self, machine, index):
        """From fork and exec to the exit of a guest that does next to nothing."""
        ours, peer = [], []
        our_argv, peer_argv = self.machine_commands("hello", machine)
        for _ in range(ROUNDS):
            ours.append(timed(*our_argv, expect=GUEST_PASSED)[index])
            # isa-debug-exit: status v of the guest is 2v + 1 of the process.
            peer.append(timed(*peer_argv, expect=2 * GUEST_PASSED + 1)[index])
        return ours, peer, None, "hello guest, memory 256M, %s" % machine

    @staticmethod
    def beyond_guest(argv):
        """KiB resident, without the guest's memory, once the guest says that it runs."""
        process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            output = b""
            while b"ready" not in output:
                chunk = os.read(process.stdout.fileno(), 4096)
                if not chunk:
                    raise Skip("%s ended early" % pathlib.Path(argv[0]).name)
                output += chunk
            total, mapping = 0, 0
            for line in pathlib.Path("/proc/%d/smaps" % process.pid).read_text().splitlines():
                words = line.split()
                if words[0] == "Size:":
                    mapping = int(words[1])
                elif words[0] == "Rss:" and mapping < GUEST_MIB * 1024:
                    total += int(words[1])
            return total
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def first_instruction(self, index):
        """What minivmm says of itself: 0 processor time, 1 wall time."""
        argv, _ = self.machine_commands("hello", "microvm")
        argv = [str(word) for word in argv if word != "--quiet"] + ["--log-level", "debug"]
        ours = []
        for _ in range(ROUNDS):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            found = re.search(r"after ([0-9.]+) ms of CPU time, ([0-9.]+) ms", done.stderr)
            if not found:
                raise Skip("minivmm does not say when: status %d" % done.returncode)
            ours.append(float(found.group(1 + index)) / 1000)
        return ours, None, None, "hello guest, memory 256M"

    def machine_memory(self, machine):
        our_argv, peer_argv = self.machine_commands("hang", machine)
        rounds = range(min(ROUNDS, 3))
        return ([self.beyond_guest(our_argv) for _ in rounds],
                [self.beyond_guest(peer_argv) for _ in rounds], None,
                "halted guest, memory 256M, %s" % machine)

    def read_once(self):
        """Bytes that many processes, each with a disk over one base that nobody has read yet, read from storage
        together, over the bytes of the base."""
        base = self.path("base.qcow2")
        count = IMAGE // 65536
        requests = ["-c", count, "-d", 8, "-s", 65536, "-S", 65536]

        def ratio(*argv):
            with open(base, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            crowd = [subprocess.Popen([str(a) for a in argv], stdout=subprocess.DEVNULL)
                     for _ in range(CROWD)]
            blocks = 0
            for process in crowd:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                if status != 0:
                    raise Skip("%s: status %d" % (argv[0], process.returncode))
                blocks += usage.ru_inblock
            return blocks * 512 / IMAGE

        rounds = range(min(ROUNDS, 3))
        return ([ratio(self.engine, *requests, "-e", "ram", base) for _ in rounds],
                [ratio("qemu-img", "bench", "-f", "qcow2", *requests, base) for _ in rounds], None,
                "%d processes read all of it at once" % CROWD)

    # ---- many machines at once on one base; QEMU's have no disk, which these guests would not find there ----

    def crowd_commands(self, guest, append):
        base = self.path("crowd.qcow2")
        if not base.exists():
            sh("qemu-img", "create", "-q", "-f", "qcow2", base, "64M")
            sh("qemu-io", "-f", "qcow2", "-c", "write -q -P 119 0 64M", base)
        _, peer = self.machine_commands(guest, "microvm")
        return [self.vmm, "--quiet", "--kernel", self.guests / guest, "--memory", GUEST_MEMORY,
                "--debug-exit", "--append", append, "--disk", "%s,ephemeral=on" % base], peer

    @staticmethod
    def run_crowd(argv, expect):
        begin = time.monotonic()
        crowd = [subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                 for _ in range(CROWD)]
        statuses = [process.wait() for process in crowd]
        if statuses != [expect] * CROWD:
            raise Skip("%s: statuses %s" % (pathlib.Path(argv[0]).name, sorted(set(statuses))))
        return time.monotonic() - begin

    def crowd_time(self):
        our_argv, peer_argv = self.crowd_commands("hello", "")
        ours, peer = [], []
        for _ in range(min(ROUNDS, 5)):
            ours.append(self.run_crowd(our_argv, GUEST_PASSED))
            peer.append(self.run_crowd(peer_argv, 2 * GUEST_PASSED + 1))
        return ours, peer, None, "hello guests, each with a throwaway disk; QEMU's without a disk"

    def crowd_io_time(self):
        argv, _ = self.crowd_commands("blk_marker", "expect=119 write=2")
        return ([self.run_crowd(argv, GUEST_PASSED) for _ in range(min(ROUNDS, 5))], None, None,
                "each reads the base, writes its own and reads that back")

    @staticmethod
    def crowd_pss(argv):
        """KiB that all of them take together, each page counted once."""
        crowd = []
        try:
            for _ in range(CROWD):
                crowd.append(subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE,
                                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            for process in crowd:
                output = b""
                while b"ready" not in output:
                    chunk = os.read(process.stdout.fileno(), 4096)
                    if not chunk:
                        raise Skip("%s ended early" % pathlib.Path(argv[0]).name)
                    output += chunk
            return sum(int(re.search(r"^Pss: +([0-9]+)", pathlib.Path(
                "/proc/%d/smaps_rollup" % process.pid).read_text(), re.MULTILINE).group(1))
                       for process in crowd)
        finally:
            for process in crowd:
                process.kill()
                process.wait()
                process.stdin.close()
                process.stdout.close()

    def crowd_memory(self):
        our_argv, peer_argv = self.crowd_commands("hang", "halt")
        rounds = range(min(ROUNDS, 3))
        return ([self.crowd_pss(our_argv) for _ in rounds],
                [self.crowd_pss(peer_argv) for _ in rounds], None,
                "guests' memory included; QEMU's without a disk")

    def boot(self, machine):
        """The stock kernel's way to its init: tests/bench/boot.sh, run once for all rows."""
        if QUICK:
            raise Skip("takes minutes: not with QUICK=1")
        if not self.boot_seconds:
            text = sh(pathlib.Path(__file__).with_name("boot.sh"), timeout=1500,
                      env=dict(os.environ, BUILD=str(self.build)))
            for name, seconds in re.findall(r"^(\S.*?) +([0-9.]+) s  ", text, re.MULTILINE):
                self.boot_seconds[name] = float(seconds)
        return ([self.boot_seconds["minivmm"]], [self.boot_seconds["QEMU " + machine]], None,
                "against QEMU's " + machine)


def rows(bench):
    def kilo(value):
        return "%.1f k/s" % (value / 1000)

    def rate(value):
        return "%.2f GB/s" % (value * MIB / 1e9)

    def millis(value):
        return "%.1f ms" % (value * 1000)

    def mebis(value):
        return "%.1f MiB" % (value / 1024)

    def random(count, depth, **more):
        return lambda: bench.requests(count, depth, 4096, STRIDE, **more)

    def micros(value):
        return "%.2f us" % (value * 1e6)

    def kibis(value):
        return "%.1f KiB" % (value / 1024)

    up, down = True, False
    scaling = [("4K random %s, queues on one overlay: %d" % (name, queues), kilo, up,
                lambda q=queues, w=write: bench.scaling(q, w))
               for name, write in (("read", False), ("overwrite", True)) for queues in (1, 2, 4)]
    scaling += [("4K random %s, served, queues: %d" % (name, queues), kilo, up,
                 lambda q=queues, w=write: bench.served(READS, 32, write=w, queues=q))
                for name, write in (("read", False), ("overwrite", True)) for queues in (1, 2, 4)]
    first = [("bytes %s for a first 4K write%s" % (name, suffix), kibis, down,
              lambda i=index, e=extended: bench.first_writes(i, e))
             for extended, suffix in ((False, ""), (True, ", extended L2"))
             for index, name in enumerate(("written", "allocated"))]
    first += [("pieces of a stream of first writes, of four", lambda value: "%.1f" % value, down, bench.pieces)]
    commands = [(prefix + name, show, down, functools.partial(bench.column, index, name, *what))
                for name, *what in (
                    ("open and close a 100 GB overlay for writing", bench.open_large),
                    ("open a chain of 100", bench.open_chain, 100),
                    ("create an overlay", bench.create),
                    ("convert raw to qcow2", bench.convert, "base.raw", "raw", "qcow2"),
                    ("convert qcow2 to raw", bench.convert, "base.qcow2", "qcow2", "raw"),
                    ("convert to zlib", bench.compress, "zlib"),
                    ("convert to zstd", bench.compress, "zstd"),
                    ("convert from zlib", bench.decompress, "zlib"),
                    ("convert from zstd", bench.decompress, "zstd"),
                    ("compare", bench.compare),
                    ("rebase", bench.rebase),
                    ("check", bench.check),
                    ("check 1,000,000 clusters", bench.check_large),
                    ("commit half of the disk", bench.commit))
                for index, prefix, show in ((0, "", millis), (2, "memory, ", mebis))]
    commands += [("memory, chain of %d after reads" % depth, mebis, down,
                  lambda d=depth: bench.column(2, "chain %d" % d, bench.open_chain, d, count=20000))
                 for depth in (1, 100)]
    return [
        ("4K random read, overlay on full base, depth 32", kilo, up, random(READS, 32)),
        ("4K random read, overlay on full base, depth 1", kilo, up, random(READS // 2, 1)),
        ("4K random read, chain of 10, depth 32", kilo, up,
         random(READS, 32, image="chain10.qcow2")),
        ("4K random read, chain of 100, depth 32", kilo, up,
         random(READS, 32, image="chain100.qcow2", peer_count=READS // 10)),
        ("4K random read, chain of 1000, depth 32", kilo, up,
         random(READS, 32, image="chain1000.qcow2", peer_count=READS // 100)),
        ("4K random write, warm overlay, depth 32", kilo, up, random(READS, 32, write=True)),
        ("4K random write, cold overlay, depth 32", kilo, up,
         random(WRITES, 32, write=True, cold=True)),
        ("64K random write, cold overlay, depth 8", kilo, up,
         lambda: bench.requests(WRITES, 8, 65536, 65536 * 1201, write=True, cold=True)),
        ("4K random write, warm, cost of overlap checks", kilo, up,
         lambda: bench.overlap_checks(cold=False)),
        ("4K random write, cold, cost of overlap checks", kilo, up,
         lambda: bench.overlap_checks(cold=True)),
        ("4K random write, throwaway file, depth 32", kilo, up,
         random(WRITES, 32, write=True, cold=True, throwaway="on")),
        ("4K random write, throwaway memory, depth 32", kilo, up,
         random(WRITES, 32, write=True, cold=True, throwaway="ram")),
        ("4K random read, served, depth 32", kilo, up, lambda: bench.served(READS, 32)),
        ("4K random read, served, depth 1", kilo, up, lambda: bench.served(READS // 5, 1)),
        ("processor time of a 4K random read, depth 32", micros, down,
         lambda: bench.cpu_time(write=False)),
        ("processor time of a 4K random overwrite, depth 32", micros, down,
         lambda: bench.cpu_time(write=True)),
        ("4K random write, served, warm overlay, depth 32", kilo, up,
         lambda: bench.served(READS, 32, write=True)),
        ("4K random write, served, cold, crash-safe, depth 32", kilo, up,
         lambda: bench.served(WRITES, 32, write=True, cold=True, recorded=True)),
        ("4K random write, served, cold, depth 32", kilo, up,
         lambda: bench.served(WRITES, 32, write=True, cold=True)),
        ("64K random write, served, cold, depth 8", kilo, up,
         lambda: bench.served(WRITES, 8, 65536, 65536 * 1201, write=True, cold=True)),
        ("4K random read, served, chain of 10, depth 32", kilo, up,
         lambda: bench.served(READS, 32, chain="chain10.qcow2")),
        ("4K random read, served, chain of 100, depth 32", kilo, up,
         lambda: bench.served(READS // 5, 32, chain="chain100.qcow2")),
        *scaling,
        *first,
        ("4K random read, past the page cache, depth 32", kilo, up,
         random(READS // 5, 32, direct=True)),
        ("4K random read, past the page cache, depth 1", kilo, up,
         random(READS // 20, 1, direct=True)),
        ("4K random overwrite, past the page cache, depth 32", kilo, up,
         random(READS // 5, 32, write=True, direct=True)),
        ("4K random overwrite, past the page cache, depth 1", kilo, up,
         random(READS // 20, 1, write=True, direct=True)),
        ("1M sequential read, depth 4", rate, up,
         lambda: bench.requests(IMAGE // MIB * 4, 4, MIB, MIB)),
        *commands,
        ("start a machine, CPU time", millis, down, lambda: bench.start("microvm", 1)),
        ("start a machine, wall time", millis, down, lambda: bench.start("microvm", 0)),
        ("start a machine, wall time, q35", millis, down, lambda: bench.start("q35", 0)),
        ("until the first guest instruction, CPU time", millis, down,
         lambda: bench.first_instruction(0)),
        ("until the first guest instruction, wall time", millis, down,
         lambda: bench.first_instruction(1)),
        ("memory beyond the guest's", mebis, down, lambda: bench.machine_memory("microvm")),
        ("%d machines at once, until all have run" % CROWD, millis, down, bench.crowd_time),
        ("%d machines at once, using their disks" % CROWD, millis, down, bench.crowd_io_time),
        ("%d machines at once, memory together" % CROWD, mebis, down, bench.crowd_memory),
        ("base read from disk, %d disks on it, times" % CROWD, lambda value: "%.2f" % value, down,
         bench.read_once),
        ("stock kernel to init, microvm", millis, down, lambda: bench.boot("microvm")),
        ("stock kernel to init, q35", millis, down, lambda: bench.boot("q35")),
    ]


def print_row(name, show, higher_is_better, measure):
    try:
        ours, peer, limit, note = measure()
    except Skip as reason:
        print("%-48s %12s %12s %7s %12s  %s" % (name, "n/a", "n/a", "", "", reason), flush=True)
        return
    except subprocess.TimeoutExpired:
        print("%-48s out of time" % name, flush=True)
        return
    except subprocess.CalledProcessError as problem:
        print("%-48s failed: %s" % (name, (problem.stderr or str(problem)).strip()), flush=True)
        return
    o, p, l = (statistics.median(v) if v else None for v in (ours, peer, limit))
    ratio = "" if o is None or p is None else "%.2f" % (o / p if higher_is_better else p / o)
    print("%-48s %12s %12s %7s %12s  %s" % (name, show(o) if o is not None else "n/a",
                                           show(p) if p is not None else "n/a", ratio,
                                           show(l) if l is not None else "", note), flush=True)


def main():
    build = pathlib.Path(sys.argv[1])
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    work = pathlib.Path(tempfile.mkdtemp(prefix="minivmm-bench.", dir=os.environ.get("BENCH_DIR")))
    # QEMU needs a descriptor for each image of a chain, and does not ask for more.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        bench = Bench(build, work)
        print("medians of %d interleaved runs, page cache warm, %d MiB images; ratio > 1: ours is "
              "better" % (ROUNDS, IMAGE // MIB))
        print("%-48s %12s %12s %7s %12s" % ("", "ours", "QEMU", "ratio", "limit"), flush=True)
        bench.prepare()
        chosen = [row for row in rows(bench) if only in row[0]]
        for name, show, higher_is_better, measure in chosen:
            print_row(name, show, higher_is_better, measure)
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
