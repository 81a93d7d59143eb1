"""The two programs behind one interface, and the flat file that says what a disk must hold."""

import itertools
import json
import os
import shlex
import socket
import subprocess

OURS, QEMU = "ours", "qemu"
SECRET = "--object", "secret,id=key,file=key"
LIMIT = 120  # seconds a command


class Mismatch(Exception):
    pass


class Image:
    """A name in the folder of the row, and what a program must be told to open it."""

    def __init__(self, name, fmt, encrypted=False, below=None):
        self.name, self.format, self.encrypted, self.below = name, fmt, encrypted, below

    @property
    def needs_key(self):
        return self.encrypted or (self.below is not None and self.below.needs_key)

    @property
    def secret(self):
        return SECRET if self.needs_key else ()

    def keys(self, layer=""):
        """The options that give each encrypted layer its key."""
        own = [layer + "encrypt.key-secret=key"] * self.encrypted
        return own + (self.below.keys(layer + "backing.") if self.below else [])

    def options(self, *more):
        return ",".join(["driver=" + self.format, "file.filename=" + self.name, *more, *self.keys()])


class Folder:
    """Where the files of one row are. Everything runs in there, and is written down."""

    def __init__(self, path):
        self.path, self.history = path, []

    def run(self, *argv, stdin=None, status=0):
        argv = [str(a) for a in argv]
        self.history.append(shlex.join(argv) + (" <<'END'\n%s\nEND" % stdin if stdin else ""))
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=LIMIT,
                              check=False, cwd=self.path)
        if done.returncode != status:
            raise Mismatch("status %d from %s\n%s%s" % (done.returncode, shlex.join(argv),
                                                        done.stdout[-900:], done.stderr[-900:]))
        return done.stdout


class Side:
    """What both do with the same words."""

    def img(self, verb, image, *argv, status=0, options=()):
        return self.folder.run(self.program, verb, *image.secret,
                               *self.target(image, *argv, options=options), status=status)

    def target(self, image, *argv, options=()):
        first = ("--image-opts", image.options()) if image.needs_key else (image.name,)
        return (*options, *first[:-1], first[-1], *argv)

    @staticmethod
    def dash_o(options, encrypted):
        options = dict(options or {})
        if encrypted:
            options.update({"encrypt.format": "luks", "encrypt.key-secret": "key",
                            "encrypt.iter-time": 10})
        return ["-o", ",".join("%s=%s" % item for item in options.items())] if options else []

    def create(self, image, size, options=None, backing=None):
        argv = self.dash_o(options, image.encrypted)
        if backing:
            argv += ["-b", backing.name, "-F", backing.format]
        self.make("create", "-q", *image.secret, "-f", image.format, *argv, image.name, size)

    def make(self, *argv):
        self.folder.run(self.program, *argv)

    def resize(self, image, size, shrinks, preallocation):
        self.img("resize", image, size, options=["-q", "--preallocation=" + preallocation] +
                 ["--shrink"] * shrinks)

    def commit(self, image):
        self.img("commit", image, options=["-q"])

    def rebase(self, image, base):
        self.img("rebase", image, options=["-q", "-F", base.format, "-b",
                                            self.folder.path / base.name])

    def snapshot(self, image, action, name):
        self.img("snapshot", image, options=[action, name])

    def bitmap(self, image, name, *actions):
        alone = Image(image.name, image.format, image.encrypted)  # QEMU opens nothing below
        self.img("bitmap", alone, name, options=actions)

    def info(self, image):
        info = json.loads(self.folder.run(self.program, "info", "--output=json", "-f", image.format,
                                          image.name))
        return info

    def check(self, image, repair=False):
        said = json.loads(self.img("check", image, options=["--output=json"] +
                                   ["-r", "all"][:2 * repair]))
        return {k: v for k, v in said.items() if k not in ("filename", "leaks-fixed",
                                                           "corruptions-fixed")}


class Ours(Side):
    name = OURS

    def __init__(self, build, folder):
        self.program, self.blkio = build / "minivmm-img", build / "tests/tools/blkio"
        self.folder = folder

    def requests(self, image, operations, dies=False):
        lines = [self.line(*o) for o in operations]
        end = ["flush"] + ["die"] * dies
        answers = self.folder.run(self.blkio, *self.key(image), "-t", "unsafe", "-f", image.format, image.name, "batch",
                                  stdin="\n".join(lines + end) + "\n", status=-9 if dies else 0)
        if answers.split("\n")[:-1] != ["ok"] * (len(lines) + 1):
            raise Mismatch("%s\nanswers: %s" % (self.folder.history[-1], answers))

    @staticmethod
    def key(image):
        return ["-k", "key"] if image.needs_key else []

    @staticmethod
    def line(kind, offset, length, source=None):
        verbs = {"write": "load", "compressed": "cload", "zero": "zero", "unmap": "unmap-zero",
                 "discard": "discard"}
        return " ".join(map(str, filter(lambda w: w is not None,
                                        (verbs[kind], source, offset, length))))

    def compare(self, image, flat):
        self.folder.run(self.blkio, *self.key(image), "-r", "-f", image.format, image.name,
                        "compare %s" % flat.name)

    def dirty(self, image, bitmap):
        said = self.folder.run(self.blkio, *self.key(image), "-r", "-f", image.format, image.name,
                               "dirty %s" % bitmap)
        return [tuple(map(int, line.split())) for line in said.splitlines()]


class Qemu(Side):
    name, program = QEMU, "qemu-img"

    def __init__(self, folder):
        self.folder = folder

    def requests(self, image, operations, dies=False):
        """Compressed writes come in a process of their own: one that overwrites what it has compressed
        itself gives a cluster away that it goes on filling (7.2, refcount 2 with COPIED). They come first,
        which they may: none goes to a cluster that was touched before."""
        def is_plain(operation):
            return operation[0] != "compressed"
        groups = [list(g) for _, g in itertools.groupby(sorted(operations, key=is_plain), is_plain)]
        for group in groups or [[]]:
            self.run_commands(image, [self.command(*o) for o in group], dies and group is groups[-1])

    def run_commands(self, image, commands, dies):
        argv = ["qemu-io", "-t", "unsafe", *image.secret, "--image-opts",
                image.options("discard=unmap")]
        for command in commands + ["flush"] + ["sigraise 9"] * dies:
            argv += ["-c", command]
        said = self.folder.run(*argv, status=-9 if dies else 0)
        if "failed" in said or "error" in said.lower():
            raise Mismatch("%s\n%s" % (self.folder.history[-1], said))

    def make(self, *argv):
        """Creates. How long the derivation of a key takes, QEMU measures with a clock that is sometimes
        too coarse for it."""
        for attempt in range(9, -1, -1):
            try:
                return super().make(*argv)
            except Mismatch as problem:
                if attempt == 0 or "accurate CPU usage" not in str(problem):
                    raise

    @staticmethod
    def command(kind, offset, length, source=None):
        verbs = {"write": "write -s %s" % source, "compressed": "write -c -s %s" % source,
                 "zero": "write -z", "unmap": "write -z -u", "discard": "discard"}
        return "%s %d %d" % (verbs[kind], offset, length)

    def compare(self, image, flat):
        self.folder.run("qemu-img", "compare", "-q", *image.secret, "--image-opts",
                        Image(flat.name, "raw").options(), image.options())

    def dirty(self, image, bitmap):
        """What the bitmap context of its NBD server says. The server gets a socket that listens, so
        nobody waits for its start, and ends with its first client."""
        path = "nbd.sock"
        (self.folder.path / path).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.folder.path / path))
            listener.listen()
            server = subprocess.Popen(
                ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null', "sh", "qemu-nbd",
                 *image.secret, "-r", "-B", bitmap, "--image-opts", image.options()],
                stdin=listener, cwd=self.folder.path)
        try:
            said = self.folder.run(
                "qemu-img", "map", "--output=json", "--image-opts",
                "driver=nbd,server.type=unix,server.path=%s,x-dirty-bitmap=qemu:dirty-bitmap:%s"
                % (path, bitmap))
            server.wait(LIMIT)
        finally:
            server.kill()
            server.wait()
        return joined((e["start"], e["length"]) for e in json.loads(said) if not e["data"])


def joined(extents):
    """Sorted extents without the seams between neighbours."""
    result = []
    for start, length in sorted(extents):
        if result and result[-1][0] + result[-1][1] >= start:
            end = max(start + length, sum(result[-1]))
            result[-1] = (result[-1][0], end - result[-1][0])
        else:
            result.append((start, length))
    return result


class Flat:
    """What a disk holds, as a sparse file."""

    def __init__(self, folder, name, size, keep=False):
        """Zeros, or (keep) what a file of that size already holds."""
        self.folder, self.name, self.size = folder, name, size
        self.path = folder.path / name
        if not keep:
            with open(self.path, "wb") as file:
                file.truncate(size)

    def write(self, offset, content):
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(content)

    def data(self):
        """(offset, bytes) of what is not a hole."""
        with open(self.path, "rb") as file:
            for start, end in data_of(file.fileno(), self.size):
                yield start, os.pread(file.fileno(), end - start, start)

    def resize(self, size):
        os.truncate(self.path, size)
        self.size = size

    def copy(self, name):
        """Another one of the same content, its holes too."""
        copy = Flat(self.folder, name, self.size)
        for start, data in self.data():
            copy.write(start, data)
        return copy

    def over(self, other, name):
        """Another one: this, and behind its end what the other has there."""
        both = self.copy(name)
        if other.size > self.size:
            both.resize(other.size)
            for start, data in other.data():
                both.write(max(start, self.size), data[max(self.size - start, 0):])
        return both

    def equals_file(self, name):
        """Compares with a file, which is to be as long."""
        return ((self.folder.path / name).stat().st_size >= self.size and
                self.difference(name, self.size) is None)

    def difference(self, name, size):
        """Where among the first `size` bytes another file differs first, or None. Behind the end of a file
        there are zeros."""
        with open(self.path, "rb") as one, open(self.folder.path / name, "rb") as other:
            extents = [e for f in (one, other) for e in data_of(f.fileno(), size)]
            for at, length in joined((s, e - s) for s, e in extents):
                a, b = (os.pread(f.fileno(), length, at).ljust(length, b"\0") for f in (one, other))
                if a != b:
                    return at + next(i for i in range(length) if a[i] != b[i])
        return None


def data_of(fd, size):
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at
