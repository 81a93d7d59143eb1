"""What the commands of minivmm-img promise about one image.

convert keeps what is shown, whatever the target is. measure says at least what convert then takes, and
little more. compare says what comparing the raw contents says. rebase keeps what the overlay shows.
commit gives the base what the overlay showed.
"""

import json
import os
import shutil

import interop_features as features
from interop_story import BYTES, LARGE, Disk, create_options
from interop_tools import SECRET, Flat, Folder, Image, Mismatch, Ours, Qemu

K = 1024
SPARSE = ["0", "512", "4k", "64k", "1M"]
DEFAULT_SPARSE = 4 * K


class Promises:
    def __init__(self, story, build):
        self.story, self.build = story, build
        self.rng, self.folder, self.row = story.rng, story.folder, story.row
        self.ours, self.qemu = story.sides["ours"], story.sides["qemu"]

    def run(self):
        # What is not encrypted may be converted to what is.
        (self.folder.path / "key").write_bytes(b"a secret that is not one")
        self.story.create()
        self.story.build()
        self.image, self.flat = self.story.disk.image, self.story.disk.flat
        if self.row["lazy"] == "dirty":
            self.ours.check(self.image, repair=True)
        before = self.file_states(self.folder)
        self.convert_to_raw()
        self.convert_to_qcow2("copy0", SPARSE)
        # What measure can be held to.
        self.convert_to_qcow2("copy1", SPARSE[:3], preallocation="off", data_file="none",
                              compressed="no", backing="none")
        self.convert_into_existing()
        self.convert_snapshots()
        self.concatenate()
        self.compare()
        if self.file_states(self.folder) != before:
            raise Mismatch("a source was written")
        if self.story.bases:
            self.rebase()
            self.commit()

    # ---- helpers ----

    def files(self):
        """The image and what belongs to it."""
        names = [self.image.name, *(base.image.name for base in self.story.bases)]
        return names + [n for n in ("top.data", "key") if (self.folder.path / n).exists()]

    def file_states(self, folder):
        states = [os.stat(folder.path / name) for name in self.files()]
        return [(s.st_size, s.st_mtime_ns) for s in states]

    def copy(self, name):
        """The image and its chain in a folder of their own, and the two programs there."""
        folder = Folder(self.folder.path / name)
        folder.path.mkdir()
        folder.history = self.folder.history
        self.folder.run("cp", *self.files(), name)
        self.folder.history.append("cd %s" % name)
        return folder, Ours(self.build, folder), Qemu(folder)

    def convert(self, target, *more, options=None, source=None):
        source = source or self.image
        keys = SECRET if source.needs_key or target.encrypted else ()
        self.folder.run(self.ours.program, "convert", *keys, "-O", target.format,
                        *self.ours.dash_o(options, target.encrypted), *more,
                        *self.ours.target(source), target.name)

    def holds(self, image, flat, folder=None):
        """qemu-img reads that the image holds just this."""
        Qemu(folder or self.folder).compare(image, flat)
        if image.format == "qcow2":
            Qemu(folder or self.folder).check(image)

    def remove(self, *names):
        for name in names:
            (self.folder.path / name).unlink(missing_ok=True)

    # ---- convert and measure ----

    def convert_to_raw(self):
        target = Image("copy.raw", "raw")
        self.convert(target, "-S", self.rng.choice(SPARSE[1:] if self.is_large() else SPARSE))
        measured = self.measure(target, {})
        size = (self.folder.path / target.name).stat().st_size
        if size != self.flat.size or measured != (size, size):
            raise Mismatch("a raw copy has %d bytes, the image %d, measured were %s" %
                           (size, self.flat.size, measured))
        if not self.flat.equals_file(target.name):
            raise Mismatch("the raw copy differs at %d" %
                           self.flat.difference(target.name, self.flat.size))

    def is_large(self):
        return self.flat.size > LARGE // 2

    def target_row(self, wanted):
        """Features of a target that this image can be converted to."""
        fixed = {"maker": "ours", "size": "large" if self.is_large() else "aligned", "zero": "none",
                 "snapshots": "none", "bitmaps": "none", "discards": "none", "resize": "none"}
        # The command line has no place for the key of a target's backing file.
        if not self.story.bases or self.story.bases[-1].image.needs_key:
            fixed["backing"] = "none"
        fixed.update(wanted)
        while True:
            row = features.complete(dict(fixed), self.rng)
            # Refused, as qemu-img does.
            if row["compressed"] == "no" or row["preallocation"] == "off":
                return row

    def convert_to_qcow2(self, name, sparse, **wanted):
        row = self.target_row(wanted)
        options = create_options(row, name + ".data")
        base = self.story.bases[-1].image if row["backing"] != "none" else None
        target = Image(name + ".qcow2", "qcow2", row["encryption"] == "luks", base)
        more = ["-S", self.rng.choice(sparse[1:] if self.is_large() else sparse)] if self.rng.random() < 0.7 else []
        more += ["-c"] if row["compressed"] == "yes" else []
        more += ["-W"] if self.rng.random() < 0.3 else []
        more += ["-B", base.name, "-F", base.format] if base else []
        required, fully_allocated = self.measure(target, options)
        self.convert(target, *more, options=options)
        self.holds(target, self.flat)
        if row["data_file"] == "raw" and not target.encrypted:
            if not self.flat.equals_file(name + ".data"):
                raise Mismatch("the raw data file is not what the disk shows")
        if not base:
            self.is_measured(target, row, more, required, fully_allocated)
        # And back.
        again = Image("again.raw", "raw")
        self.convert(again, source=target)
        if not self.flat.equals_file(again.name):
            raise Mismatch("what is converted back differs at %d" %
                           self.flat.difference(again.name, self.flat.size))
        self.remove(again.name, target.name, name + ".data")

    def measure(self, target, options):
        keys = SECRET if self.image.needs_key or target.encrypted else ()
        said = json.loads(self.folder.run(
            self.ours.program, "measure", *keys, "--output=json", "-O", target.format,
            *self.ours.dash_o(options, target.encrypted), *self.ours.target(self.image)))
        return said["required"], said["fully-allocated"]

    def is_measured(self, target, row, more, required, fully_allocated):
        """The file is as large as was measured. Tables and refcounts, which were counted as if every
        cluster had a place, may be missing, and clusters whose data is zeros."""
        file = (self.folder.path / target.name).stat()
        dense = "-S" in more and more[more.index("-S") + 1] == "0"
        most = fully_allocated if dense or row["preallocation"] != "off" else required
        size = file.st_size
        if size > most:
            raise Mismatch("%d bytes were measured, %d it is" % (most, size))
        if row["data_file"] != "none" or row["compressed"] == "yes":
            return
        if not dense and more[:1] == ["-S"] and more[1] not in SPARSE[1:3]:
            return
        slack = 0 if row["preallocation"] != "off" else self.slack(row, dense, size, fully_allocated)
        if size < most - slack:
            raise Mismatch("%d bytes were measured, with %d to spare; %d it is" % (most, slack, size))

    def slack(self, row, dense, size, fully_allocated):
        cluster = BYTES[row["cluster"]]
        per_table = cluster // (16 if row["extended_l2"] == "on" else 8)
        used = self.clusters_with_data(cluster)
        zeros, l2_tables = 0, 0
        if not dense:
            zeros = len(self.mapped_clusters(cluster)) - len(used)
            clusters = -(-self.flat.size // cluster)
            l2_tables = -(-clusters // per_table) - len({n // per_table for n in used})
        refcounts = self.refcount_clusters(row, fully_allocated) - self.refcount_clusters(row, size)
        return (zeros + l2_tables + refcounts) * cluster

    def refcount_clusters(self, row, size):
        """Blocks and table of a file of this size."""
        cluster = BYTES[row["cluster"]]
        blocks = -(-size * int(row["refcount"]) // 8 // cluster // cluster)
        return blocks + -(-blocks * 8 // cluster)

    def mapped_clusters(self, cluster):
        said = json.loads(self.ours.img("map", self.image, options=["--output=json"]))
        return {n for e in said if e["data"]
                for n in range(e["start"] // cluster, (e["start"] + e["length"] - 1) // cluster + 1)}

    def clusters_with_data(self, cluster):
        return {start // cluster + i for start, data in self.flat.data()
                for i in range(-(-len(data) // cluster)) if any(data[i * cluster:(i + 1) * cluster])}

    def convert_into_existing(self):
        """-n: as long as the image or longer; what is behind it stays."""
        cluster = self.rng.choice([4 * K, 64 * K])
        size = self.flat.size + self.rng.choice([0, 0, 512, 300 * K])
        target = Image("existing.qcow2", "qcow2")
        self.rng.choice([self.ours, self.qemu]).create(target, size, {"cluster_size": cluster})
        disk = Disk(self.folder, self.rng, target, Flat(self.folder, "existing.flat", size), cluster, True)
        is_zero = self.rng.random() < 0.3
        if not is_zero:
            disk.requests(self.ours, ["write", "write", "zero"], 5)
            disk.settle()
        more = ["--target-is-zero"] * is_zero + ["-c"] * (self.rng.random() < 0.3)
        self.convert(target, "-n", *more)
        self.holds(target, self.flat.over(disk.flat, "both.flat"))
        self.remove(target.name)

    def convert_snapshots(self):
        for name, flat in self.story.disk.snapshots.items():
            target = Image("snapshot.raw", "raw")
            self.convert(target, "-l", name)
            if (self.folder.path / target.name).stat().st_size != flat.size or \
                    not flat.equals_file(target.name):
                raise Mismatch("snapshot %s is not what was converted" % name)
            self.remove(target.name)

    def concatenate(self):
        """Several sources: one behind the other."""
        if self.image.needs_key or self.is_large():
            return
        target = Image("two.qcow2", "qcow2")
        self.folder.run(self.ours.program, "convert", "-O", "qcow2", self.image.name, "copy.raw",
                        self.image.name, target.name)
        both = self.flat.copy("two.flat")
        both.resize(3 * self.flat.size)
        for start, data in self.flat.data():
            both.write(self.flat.size + start, data)
            both.write(2 * self.flat.size + start, data)
        self.holds(target, both)
        self.remove(target.name)

    # ---- compare ----

    def compare(self):
        """With a raw copy that is the same, has another byte somewhere, or another size."""
        copy = Flat(self.folder, "copy.raw", self.flat.size, keep=True)
        self.compares(copy)
        for _ in range(2):
            at = self.rng.randrange(copy.size)
            with open(copy.path, "rb") as file:
                byte = os.pread(file.fileno(), 1, at)
            copy.write(at, bytes([byte[0] ^ self.rng.randint(1, 255)]))
            self.compares(copy)
            copy.write(at, byte)
        tail = self.rng.choice([1, 512, 3 * K, 70 * K])
        copy.resize(self.flat.size + tail)
        self.compares(copy)
        copy.write(self.flat.size + self.rng.randrange(tail), b"\1")
        self.compares(copy)
        copy.resize(self.rng.randrange(self.flat.size))
        self.compares(copy)

    def compares(self, copy):
        """What compare says of the image and the copy is what their contents say."""
        both = [self.image, Image(copy.name, "raw")]
        names = [i.options() for i in both] if self.image.needs_key else [i.name for i in both]
        words = ["--image-opts"] if self.image.needs_key else ["-f", "qcow2", "-F", "raw"]
        if self.rng.random() < 0.5:
            names.reverse()
            words = words if self.image.needs_key else ["-f", "raw", "-F", "qcow2"]
        # A file's last sector counts whole.
        sizes = [self.flat.size, -(-copy.size // 512) * 512]
        at = self.flat.difference(copy.name, max(sizes))
        # Of the sizes nothing is said where what both have differs.
        both_have_it = at is not None and at < min(sizes)
        said = [] if sizes[0] == sizes[1] or both_have_it else ["Warning: Image size mismatch!"]
        said.append("Images are identical." if at is None else
                    "Content mismatch at offset %d!" % (at // 512 * 512))
        argv = [self.ours.program, "compare", *self.image.secret, *words, *names]
        found = self.folder.run(*argv, status=int(at is not None)).splitlines()
        if found != said:
            raise Mismatch("compare says %s, the contents %s" % (found, said))
        if sizes[0] != sizes[1]:
            self.folder.run(*argv, "-s", status=1)

    # ---- rebase ----

    def rebase(self):
        story, old = self.story, list(self.story.bases)
        cluster = self.rng.choice([512, 4 * K, 64 * K])
        # What could be its new base: any length, alone or on top of its old one.
        size = self.flat.size
        for fmt, length in (("raw", size // 3 // 512 * 512), ("raw", size + 700 * K),
                            ("qcow2", size - self.rng.randrange(size // 512) * 512)):
            story.add_base(fmt, length, cluster)
            story.bases[-1].settle()
        for number in range(2):
            folder, ours, qemu = self.copy("rebase%d" % number)
            self.rebase_to(self.rng.choice([None, *story.bases]), folder, ours)
            shutil.rmtree(folder.path)
        del story.bases[len(old):]

    def rebase_to(self, base, folder, ours):
        compressed = ["-c"] if self.story.compresses and self.row["data_file"] == "none" and \
            self.rng.random() < 0.3 else []
        before = self.file_states(folder)[1:]
        words = ["-F", base.image.format, "-b", base.image.name] if base else ["-b", ""]
        new = Image(self.image.name, "qcow2", self.image.encrypted, base and base.image)
        keys = ["--key-file", "key"]  # for whatever is encrypted in the old chain and in the new one
        folder.run(ours.program, "rebase", *keys, *words, *compressed, self.image.name)
        flat = Flat(folder, "../" + self.flat.name, self.flat.size, keep=True)
        self.holds(new, flat, folder)
        names = [n for n in self.files()[1:] if n != "top.data"]
        if [s for s, n in zip(self.file_states(folder)[1:], self.files()[1:]) if n in names] != \
                [s for s, n in zip(before, self.files()[1:]) if n in names]:
            raise Mismatch("a backing file was written")
        named = json.loads(folder.run(ours.program, "info", "--output=json", "-f", "qcow2",
                                      self.image.name)).get("backing-filename")
        if named != (base and base.image.name):
            raise Mismatch("the backing file is %s" % named)

    # ---- commit ----

    def commit(self):
        folder, ours, _ = self.copy("commit")
        bases = self.story.bases
        base = self.rng.choice(bases)
        words = self.rng.choice([[], ["-d"]]) if base is bases[-1] else ["-b", base.image.name]
        before = (folder.path / self.image.name).read_bytes() if not self.is_large() and words else None
        ours.img("commit", self.image, options=["-q", *words])
        flat = Flat(folder, "../" + self.flat.name, self.flat.size, keep=True)
        below = Flat(folder, "../" + base.flat.name, base.flat.size, keep=True)
        self.holds(base.image, flat.over(below, "committed.flat"), folder)
        if base is bases[-1]:
            self.holds(self.image, flat, folder)
        if before is not None and before != (folder.path / self.image.name).read_bytes():
            raise Mismatch("the overlay was written")
        shutil.rmtree(folder.path)
