"""What happens to the image of one row: its maker builds it, then both write by turns and look."""

import array
import os

from interop_tools import QEMU, Flat, Image, Mismatch, joined

K, M = 1024, 1024 * 1024
SIZES = {512: 640 * K, 4 * K: 2 * M, 16 * K: 2 * M, 64 * K: 2 * M, 2 * M: 8 * M}
LARGE = 3072 * M
BYTES = {"512": 512, "4k": 4 * K, "16k": 16 * K, "64k": 64 * K, "2M": 2 * M}
CONTENTS = ["byte", "noise", "counter", "mixed"]


def content(rng, length):
    """Bytes that differ from place to place, of which some compress and some do not."""
    kind = rng.choice(CONTENTS)
    if kind == "byte":
        return bytes([rng.randint(1, 255)]) * length
    if kind == "noise":
        return rng.randbytes(length)
    first = rng.randrange(1 << 31)
    counted = array.array("I", range(first, first + length // 4 + 1)).tobytes()[:length]
    return counted if kind == "counter" else counted[:length // 2] + rng.randbytes(length - length // 2)


def create_options(row, data_file):
    """What create and convert take in -o to make an image of these features."""
    options = {"compat": {"v2": "0.10", "v3": "1.1"}[row["compat"]],
               "cluster_size": BYTES[row["cluster"]], "refcount_bits": row["refcount"],
               "extended_l2": row["extended_l2"], "compression_type": row["type"],
               "lazy_refcounts": "off" if row["lazy"] == "off" else "on"}
    if row["preallocation"] != "off":
        options["preallocation"] = row["preallocation"]
    if row["data_file"] != "none":
        options["data_file"] = data_file
        options["data_file_raw"] = "on" if row["data_file"] == "raw" else "off"
    return options


class Disk:
    """An image, what it must hold, and what may be done to it."""

    def __init__(self, folder, rng, image, flat, cluster, has_zeros):
        self.folder, self.rng, self.file, self.flat = folder, rng, image, flat
        self.cluster, self.has_zeros = cluster, has_zeros
        self.touched = set()   # clusters over which QEMU may not write compressed
        self.snapshots = {}    # name: flat
        self.bitmap = None     # what an enabled one must have
        self.sources = 0
        self.writer, self.pending = None, []  # who is to do what

    @property
    def image(self):
        """What a program is given. Whatever was asked for is done by then."""
        self.settle()
        return self.file

    def settle(self):
        if self.pending:
            self.writer.requests(self.file, self.pending)
            self.pending = []

    def place(self, length):
        """An offset; on large disks at few places."""
        size = self.flat.size
        window = min(size, LARGE // 1024)
        start = self.rng.choice([0, (size - window) // 3, size - window])
        offset = start + self.rng.randint(0, window - length)
        return self.rng.choice([offset, offset // 512 * 512, size - length])

    def change(self, kind, offset, length):
        """Brings everything up to date and returns what a program is to do."""
        if kind in ("write", "compressed"):
            data = content(self.rng, length)
            self.sources += 1
            source = "%s-%d.bin" % (self.file.name, self.sources)
            (self.folder.path / source).write_bytes(data)
        else:
            data, source = bytes(length), None
        self.flat.write(offset, data)
        self.touched.update(range(offset // self.cluster, (offset + length - 1) // self.cluster + 1))
        if self.bitmap is not None:
            self.bitmap.append((offset, length))
        return (kind, offset, length) if source is None else (kind, offset, length, source)

    def whole_clusters(self, most, is_free=lambda cluster: True):
        """(offset, length) of some clusters, up to the end of the disk; None where there are none."""
        count = -(-self.flat.size // self.cluster)
        hot = sorted({min(count - 1, (start + i * self.cluster) // self.cluster)
                      for start in (0, self.flat.size // 3, self.flat.size - 2 * self.cluster)
                      for i in range(-8, max(8, 2 * M // self.cluster))
                      if start + i * self.cluster >= 0})
        free = [c for c in hot if is_free(c)]
        if not free:
            return None
        first = last = self.rng.choice(free)
        while last + 1 - first < self.rng.randint(1, most) and last + 1 < count and is_free(last + 1):
            last += 1
        return first * self.cluster, min((last + 1) * self.cluster, self.flat.size) - first * self.cluster

    def operations(self, side, kinds, count):
        chosen = [self.rng.choice(kinds) for _ in range(count)]
        if side.name == QEMU:
            chosen.sort(key=lambda kind: kind != "compressed")
        for kind in chosen:
            length = min(self.flat.size, LARGE // 1024, self.rng.choice(
                [1, 512, 4096, 65537, self.rng.randint(1, self.cluster), self.cluster,
                 2 * self.cluster + 512]))
            where = self.place(length), length
            if kind == "compressed":
                is_free = (lambda c: c not in self.touched) if side.name == QEMU else (lambda c: True)
                where = self.whole_clusters(3, is_free)
            elif kind in ("discard", "plain", "preallocated"):
                where = self.whole_clusters(5 if self.cluster < 2 * M else 1)
            if where and kind == "plain":
                yield self.change("unmap", *where)
            elif where and kind == "preallocated":
                yield self.change("write", *where)
                yield self.change("zero", *where)
            elif where:
                yield self.change(kind, *where)

    def requests(self, side, kinds, count):
        """Has one side do some; as late as can be, so that one process does more of them."""
        if side is not self.writer:
            self.settle()
            self.writer = side
        self.pending += self.operations(side, kinds, count)

    def requests_and_death(self, side, kinds, count):
        side.requests(self.image, list(self.operations(side, kinds, count)), dies=True)

    def resize(self, side, size, preallocation="off"):
        first = min(size, self.flat.size) // self.cluster
        self.touched.update(range(first, -(-max(size, self.flat.size) // self.cluster)))
        side.resize(self.image, size, size < self.flat.size, preallocation)
        self.flat.resize(size)


class Story:
    def __init__(self, row, folder, sides, rng):
        self.row, self.folder, self.rng, self.sides = row, folder, rng, sides
        self.maker = sides[row["maker"]]
        self.other = next(s for s in sides.values() if s is not self.maker)
        self.bases, self.disk = [], None
        self.compresses = (row["data_file"] == "none" and row["encryption"] == "none" and
                           (row["snapshots"] == "none" or int(row["refcount"]) > 4))
        if row["encryption"] == "luks":
            (folder.path / "key").write_bytes(b"a secret that is not one")

    # ---- how it is made ----

    def final_size(self):
        size = SIZES[BYTES[self.row["cluster"]]]
        return {"aligned": size, "odd": size - 2560, "large": LARGE + 3584}[self.row["size"]]

    def first_size(self):
        final = self.final_size()
        step = min(final * 2 // 5, 8 * M) // 512 * 512
        return final + {"none": 0, "grow": -step, "shrink": step}[self.row["resize"]]

    def add_base(self, fmt, size, cluster=64 * K, side=None):
        """Puts another layer on the backing chain, made and written by one of the two."""
        side = side or self.rng.choice(list(self.sides.values()))
        below = self.bases[-1] if self.bases and fmt != "raw" else None
        name = "base%d.%s" % (len(self.bases), fmt)
        compat = self.rng.choice(["1.1", "1.1", "0.10"])
        encrypted = (fmt == "qcow2" and self.row["encryption"] == "luks" and self.rng.random() < 0.5)
        image = Image(name, fmt, encrypted, below and below.image)
        if fmt == "raw":
            side.create(image, size)
            flat = Flat(self.folder, name + ".flat", size)
        else:
            side.create(image, size, {"cluster_size": cluster, "compat": compat}, below and below.image)
            flat = self.flat_over(below, name + ".flat", size)
        disk = Disk(self.folder, self.rng, image, flat, cluster, fmt == "qcow2" and compat == "1.1")
        kinds = ["write", "write", "zero"]
        if fmt == "qcow2" and self.row["compressed"] == "yes":
            kinds.append("compressed")
        disk.requests(side, kinds, 4)
        self.bases.append(disk)

    def flat_over(self, below, name, size):
        if below is None:
            return Flat(self.folder, name, size)
        flat = below.flat.copy(name)
        flat.resize(size)
        return flat

    def make_bases(self, size):
        cluster = BYTES[self.row["cluster"]]
        other = self.rng.choice([c for c in BYTES.values() if c != cluster])
        kind = self.row["backing"]
        if kind == "shorter raw":
            self.add_base("raw", size * 2 // 5 // 512 * 512)
        elif kind == "longer raw":
            self.add_base("raw", size * 3 // 2 // 512 * 512)
        elif kind == "same clusters":
            self.add_base("qcow2", size, cluster)
        elif kind == "other clusters":
            self.add_base("qcow2", size + self.rng.randint(-4, 4) * 512, other)
        elif kind == "chain of 3":
            self.add_base("raw", size * 4 // 5 // 512 * 512)
            self.add_base("qcow2", size * 3 // 5 // 512 * 512, other)
            self.add_base("qcow2", size, cluster)

    def create(self):
        row, size = self.row, self.first_size()
        self.make_bases(size)
        options = create_options(row, "top.data")
        below = self.bases[-1] if self.bases else None
        image = Image("top.qcow2", "qcow2", row["encryption"] == "luks", below and below.image)
        self.maker.create(image, size, options, below and below.image)
        self.disk = Disk(self.folder, self.rng, image, self.flat_over(below, "top.flat", size),
                         options["cluster_size"], row["compat"] == "v3")
        if row["preallocation"] != "off":
            self.disk.touched.update(range(-(-size // self.disk.cluster)))
        if image.encrypted and not self.bases and (row["preallocation"] != "off" or
                                                   row["data_file"] == "raw"):
            # What was not written decrypts to anything.
            self.maker.requests(image, [("zero", 0, size)])

    def resize(self):
        if self.disk.flat.size != self.final_size():
            # QEMU refuses it over a backing file; what it preallocates encrypted decrypts to anything.
            may_preallocate = (self.row["resize"] == "grow" and not self.bases and
                               self.row["encryption"] == "none" and self.row["size"] != "large")
            mode = self.rng.choice(["off", "metadata", "falloc", "full"]) if may_preallocate else "off"
            self.disk.resize(self.maker, self.final_size(), mode)

    def build(self):
        row, disk = self.row, self.disk
        compressed = ["compressed"] if row["compressed"] == "yes" else []
        history = [row["zero"]] * (row["zero"] != "none") + ["discard"] * (row["discards"] == "some")
        disk.requests(self.maker, ["write"] + compressed, 6)
        if history and row["snapshots"] == "one":
            disk.requests(self.maker, history, 4)
        if row["compat"] == "v2" or self.rng.random() < 0.5:
            self.resize()
        if row["snapshots"] != "none":
            self.take_snapshot(self.maker, "s1")
        if row["bitmaps"] != "none":
            self.maker.bitmap(disk.image, "b", *["--add"] + ["--disable"] * (row["bitmaps"] == "disabled"))
            disk.bitmap = [] if row["bitmaps"] == "enabled" else None
        if row["snapshots"] != "one":
            disk.requests(self.maker, ["write", "write"] + compressed + history, 6)
        self.resize()
        if row["snapshots"] == "applied":
            self.apply_snapshot(self.maker, "s1")
        if row["lazy"] == "dirty":
            disk.requests_and_death(self.maker, ["write"], 2)

    # ---- what is done to it ----

    def take_snapshot(self, side, name):
        side.snapshot(self.disk.image, "-c", name)
        self.disk.snapshots[name] = self.disk.flat.copy(name + ".flat")

    def apply_snapshot(self, side, name):
        flat = self.disk.snapshots[name]
        side.snapshot(self.disk.image, "-a", name)
        self.disk.flat = flat.copy("top-%s.flat" % name)
        self.disk.touched.update(range(-(-flat.size // self.disk.cluster)))

    def change_snapshots(self, side):
        names = list(self.disk.snapshots)
        # Applying one takes another reference to its clusters before it gives any up.
        most = 1 if self.row["refcount"] == "2" else 2
        actions = ["create"] * (len(names) < most) + ["delete"] * bool(names) + ["nothing"]
        actions += ["apply"] * (bool(names) and self.row["bitmaps"] == "none")
        action = self.rng.choice(actions)
        if action == "create":
            self.take_snapshot(side, next(n for n in ("s1", "s2") if n not in names))
        elif action == "apply":
            self.apply_snapshot(side, self.rng.choice(names))
        elif action == "delete":
            name = self.rng.choice(names)
            side.snapshot(self.disk.image, "-d", name)
            del self.disk.snapshots[name]

    def change_bitmap(self, side):
        image, disk = self.disk.image, self.disk
        action = self.rng.choice(["clear", "enable", "disable", "merge", "nothing"])
        if action == "merge":
            side.bitmap(image, "c", "--add", "--merge", "b")
            side.bitmap(image, "c", "--remove")
        elif action != "nothing":
            side.bitmap(image, "b", "--" + action)
        if action == "disable" or (action in ("enable", "clear") and disk.bitmap is None):
            # Of a disabled one nothing is known but that both must read the same.
            disk.bitmap = [] if action == "enable" else None
        elif action == "clear":
            disk.bitmap = []

    def turn(self, side):
        kinds = ["write", "write", "write", "zero", "unmap"]
        if self.disk.has_zeros or not self.bases:
            kinds.append("discard")
        if self.compresses:
            kinds.append("compressed")
        self.disk.requests(side, kinds, 8)
        if self.row["snapshots"] != "none":
            self.change_snapshots(side)
        if self.row["bitmaps"] != "none":
            self.change_bitmap(side)
        if self.row["snapshots"] != "none" or self.row["bitmaps"] != "none":
            self.disk.requests(side, kinds, 3)

    # ---- what is expected ----

    def expect_equal(self, what, found):
        values = list(found.values())
        if values[0] != values[1]:
            raise Mismatch("%s: %s" % (what, ", ".join("%s says %s" % i for i in found.items())))

    def agree(self, reader):
        """What the other one wrote is read, and found sound."""
        reader.compare(self.disk.image, self.disk.flat)
        if (self.row["data_file"] == "raw" and self.row["encryption"] == "none" and
                not self.disk.flat.equals_file("top.data")):
            raise Mismatch("the raw data file is not what the disk shows")
        reader.check(self.disk.image)

    def agree_about_check(self):
        self.expect_equal("check", {s.name: s.check(self.disk.image) for s in self.sides.values()})

    def deep_chain(self, depth):
        """Layers of both by turns: what every one of them shows."""
        self.add_base("raw", 512 * K)
        for i in range(1, depth):
            self.add_base("qcow2", 512 * K + 512 * (i % 5), (512, 4 * K, 64 * K)[i % 3],
                          (self.maker, self.other)[i % 2])
            self.disk = self.bases[-1]
            self.agree(self.maker)
            self.agree(self.other)

    def agree_about_info(self):
        found = {side.name: side.info(self.disk.image) for side in self.sides.values()}
        self.expect_equal("info", found)
        if found[QEMU]["virtual-size"] != self.disk.flat.size:
            raise Mismatch("size %d instead of %d" % (found[QEMU]["virtual-size"], self.disk.flat.size))

    def agree_about_bitmap(self):
        if self.row["bitmaps"] == "none":
            return
        found = {side.name: side.dirty(self.disk.image, "b") for side in self.sides.values()}
        self.expect_equal("bitmap", found)
        extents = found[QEMU]
        for start, length in joined(self.disk.bitmap or []):
            length = min(length, self.disk.flat.size - start)
            if length > 0 and not any(s <= start and start + length <= s + n for s, n in extents):
                raise Mismatch("bitmap: %d bytes at %d are missing in %s" % (length, start, extents))

    def look_at_snapshots(self, side):
        """Each holds what it held, and none leaves anything behind."""
        if not self.disk.snapshots:
            return
        if self.row["bitmaps"] != "none":
            side.bitmap(self.disk.image, "b", "--remove")
        for name in self.disk.snapshots:
            self.apply_snapshot(side, name)
            side.compare(self.disk.image, self.disk.flat)
        for name in self.disk.snapshots:
            side.snapshot(self.disk.image, "-d", name)
        self.agree_about_check()

    def leave_the_base(self, side, reader):
        """The overlay goes into its base, or onto another one: what it shows stays."""
        disk, base = self.disk, self.bases[-1]
        if self.rng.random() < 0.5:
            side.commit(disk.image)
            reader.compare(base.image, disk.flat.over(base.flat, "committed.flat"))
            if base.image.format == "qcow2":
                reader.check(base.image)
        else:
            self.add_base("raw", disk.flat.size // 1536 * 512)
            side.rebase(disk.image, self.bases[-1].image)
            disk.file.below = self.bases[-1].image
        self.agree(reader)

    def base_states(self):
        files = [os.stat(self.folder.path / base.image.name) for base in self.bases]
        return [(f.st_size, f.st_mtime_ns) for f in files]

    def run(self):
        self.create()
        bases = self.base_states()
        self.build()
        if self.row["lazy"] == "dirty":
            self.agree_about_info()
            self.other.compare(self.disk.image, self.disk.flat)
            self.other.check(self.disk.image, repair=True)
        self.agree(self.other)
        self.turn(self.other)
        self.agree(self.maker)
        self.turn(self.maker)
        self.agree(self.other)
        self.agree_about_check()
        self.agree_about_info()
        self.agree_about_bitmap()
        self.look_at_snapshots(self.rng.choice([self.maker, self.other]))
        if self.base_states() != bases:
            raise Mismatch("a backing file was written")
        if self.bases and self.row["size"] != "large" and self.rng.random() < 0.5:
            self.leave_the_base(*self.rng.sample(list(self.sides.values()), 2))
