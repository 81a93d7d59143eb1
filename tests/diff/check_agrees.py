#!/usr/bin/env python3
"""`check` and `check -r` of damaged images against qemu-img's. Speaks TAP; check_agrees.sh runs it.

Each image (tests/fuzz/damaged.c makes them) is checked by both programs, and repaired by both with
-r leaks and with -r all, each on a copy of its own. Exit status and counts must be equal; behind our
repair qemu-img must find what it finds behind its own, or less, and the guest must see what it sees
behind qemu-img's.

By hand: check_agrees.py BUILD WORK --count 5000 --seed 7 [--first N] [--keep]. BUILD is a build folder,
WORK an empty one. --first N --count 1 --keep leaves one image and its copies in WORK.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

LIMIT = 60  # seconds for one command; a sane check takes a few milliseconds
KEYS = ("image-end-offset", "total-clusters", "corruptions", "leaks", "check-errors",
        "corruptions-fixed", "leaks-fixed", "allocated-clusters", "compressed-clusters",
        "fragmented-clusters")

HEADER_SNAPSHOTS = 60
HEADER_AUTOCLEAR = 88
MAX_UNALIGNED = 256
TOO_FAR = "ERROR: I/O error in check_refcounts_l1"
IMAGE, KEY = "image.qcow2", "fuzz"
BESIDE = ("base", "data")  # the names of the files that images name


def snapshots(path):
    with open(path, "rb") as file:
        file.seek(HEADER_SNAPSHOTS)
        return int.from_bytes(file.read(4), "big")


def loses_snapshots(c, step):
    return c.snapshots > 0 and c.left_snapshots.get(step) == 0


def finds_less_after_rebuild(c, step):
    ours, theirs = c.ours[step], c.theirs[step]
    return ("Rebuilding refcount structure" in ours.errors
            and "exceeding the end of the file" in ours.errors
            and ours.counts["corruptions"] < theirs.counts["corruptions"])


def leaks_where_nothing_helps(c, step):
    ours, theirs = c.ours[step], c.theirs[step]
    return ("Rebuilding refcount structure" in ours.errors
            and ours.counts["corruptions"] == theirs.counts["corruptions"] > 0)


def flags_after_new_snapshot_table(c, step):
    theirs = c.theirs[step]
    left = theirs.errors.count("ERROR OFLAG_COPIED")
    return (step == "-r all" and left > 0
            and any(text in theirs.errors for text in ("Repairing snapshot table entry",
                                                       "Discarding too much extra metadata"))
            and c.ours[step].counts["corruptions"] < theirs.counts["corruptions"])


def harms_snapshots(c, step):
    def faulty(result):
        return set(re.findall("ERROR snapshot table entry [0-9]+", result.errors))

    return step != "check" and (
        c.theirs[step].counts["leaks"] > 0 and faulty(c.theirs[step]) != set()
        or faulty(c.theirs[step]) > faulty(c.ours[step]))


def rewrites_what_it_checks(c, step):
    ours = c.ours[step].errors
    if any(magic in ours for magic in ("514649fb", "6803f857")):
        return True
    if step == "check" or "ERROR cluster 0 refcount" not in ours:
        return False
    theirs = c.where / (step.split()[1] + ".theirs")
    return features_and_extensions(c.where / IMAGE) != features_and_extensions(theirs)


def features_and_extensions(path):
    with open(path, "rb") as file:
        return file.read(512)[HEADER_AUTOCLEAR:]


def is_clean(result):
    return not result.refused and not any(result.counts[key] for key in (
        "corruptions", "leaks", "check-errors"))


def leaves_faults(c, step):
    """What qemu-img finds behind our repair is compared with what we said in any case."""
    return step == "-r all" and is_clean(c.ours[step]) and not is_clean(c.theirs[step])


def leaves_leaks(c, step):
    ours, theirs = c.ours[step], c.theirs[step]
    return (theirs.counts["leaks-fixed"] > 0 and theirs.counts["leaks"] > 0
            and ours.counts["leaks"] == 0
            and ours.counts["corruptions"] <= theirs.counts["corruptions"])


def ours(text):
    return lambda c, step: text in c.ours[step].errors


def theirs(text):
    return lambda c, step: text in c.theirs[step].errors


# Where QEMU 7.2 does what we do not follow: the keys that differ then (None: any), when, and why.
EXCEPTIONS = [
    (None, loses_snapshots,
     "QEMU writes the header before it has read the snapshot table: all snapshots are gone"),
    (None, lambda c, step: (c.theirs[step].timed_out
                            or "Cannot allocate memory" in c.theirs[step].errors),
     "QEMU works through every cluster up to a refcount block that is far away"),
    (None, theirs("Marking image as corrupt"),
     "QEMU stops in the middle of a repair: its own overlap check takes what it meets for a fault"),
    (None, theirs("ERROR rebuilt refcount structure is still broken"),
     "QEMU overwrites a refcount block that it has just put into the file"),
    (["guest data"], theirs("exceeding the end of the file"),
     "QEMU stores bitmaps when it closes, where an entry led beyond the end"),
    (["corruptions", "corruptions-fixed"],
     lambda c, step: (step == "-r all" and "luks" in c.origin
                      and "ERROR OFLAG_COPIED L2 cluster" in c.ours[step].errors),
     "QEMU writes flags into a LUKS header over which an L1 table reaches; we never do"),
    (["guest data"], lambda c, step: ("data on a refcount block" in c.damage
                                      and "overflow cluster" in c.ours[step].errors),
     "a refcount block is guest data too: QEMU counts there what it allocates when it closes"),
    (None, flags_after_new_snapshot_table,
     "QEMU frees a snapshot table that lay on other things after it has looked at COPIED flags"),
    (None, leaves_faults, "QEMU's repair leaves faults, where qemu-img finds none behind ours"),
    (None, theirs("ERROR snapshot table offset invalid"),
     "QEMU stops at the snapshot table; what else is wrong we tell"),
    (["leaks", "image-end-offset"], leaves_leaks,
     "QEMU tells of leaks as repaired that are still there"),
    (None, rewrites_what_it_checks,
     "the header, with its extensions, is taken for a table: QEMU rewrites it when it opens it"),
    (None, theirs(TOO_FAR), "QEMU gives up at an L1 table that is farther out than a file can be"),
    (["corruptions"], lambda c, step: (
        c.ours["check"].errors.count("Table is not cluster aligned") > MAX_UNALIGNED),
     "of tables that are not aligned, which may all overlap, we walk as many as is worth the time"),
    (None, theirs("qcow2_free_clusters failed"),
     "QEMU fails to free what an entry beyond the end led to, and goes on"),
    (None, lambda c, step: all(text in c.theirs[step].errors for text in (
        "overflow cluster", "Rebuilding refcount structure")),
     "QEMU puts a new refcount block where clusters have more references than it could count"),
    (["image-end-offset"], ours("Rebuilding refcount structure"),
     "QEMU's new refcount structures overwrite the old ones; ours go behind the end"),
    (["leaks"], leaks_where_nothing_helps,
     "both give up with as many corruptions; QEMU's new refcount structures happen to take what leaks"),
    (None, harms_snapshots,
     "QEMU takes a damaged snapshot table for leaks and punches holes into it"),
    (["status", "corruptions"], finds_less_after_rebuild,
     "our rebuild makes the file longer: what led beyond its end leads to zeros"),
    (None, lambda c, step: c.theirs[step].refused and any(
        text in c.theirs[step].errors for text in ("Could not open", "Check failed: Invalid argument")),
     "QEMU does not open it, or not its bitmaps, so it cannot check it either"),
    (None, ours("L1 table offset 0x0 is invalid"),
     "the header would be the L1 table: QEMU follows what it says"),
]


def run(argv, where):
    """Relative names of backing and data files are in `where` for both programs."""
    return subprocess.run([str(a) for a in argv], capture_output=True, timeout=LIMIT, check=False,
                          cwd=where)


class Result:
    """What one program said of one image."""

    def __init__(self, argv, where):
        self.timed_out = False
        try:
            done = run(argv, where)
            self.status = done.returncode
            self.errors = done.stderr.decode(errors="replace")
            text = done.stdout.decode(errors="replace")
        except subprocess.TimeoutExpired:
            self.timed_out, self.status, self.errors, text = True, -1, "", ""
        try:
            self.json = json.loads(text)
        except ValueError:
            self.json = {}
        self.counts = {key: self.json.get(key, 0) for key in KEYS}

    @property
    def refused(self):
        return self.status == 1 and not self.json

    def said(self):
        return self.status, self.counts

    def look_again(self, again):
        """Another process says what is left behind this repair."""
        if not self.refused and not self.timed_out and not again.refused:
            fixed = {k: v for k, v in self.counts.items() if k.endswith("-fixed")}
            self.status, self.counts = again.status, {**again.counts, **fixed}


class Comparison:
    """One image: what it suffered, what both said, and in what they differ."""

    def __init__(self, number, origin, damage, where):
        self.number, self.origin, self.damage, self.where = number, origin, damage, where
        self.ours, self.theirs = {}, {}
        self.snapshots, self.left_snapshots = 0, {}
        self.differences, self.excused = [], []

    @property
    def kind(self):
        return self.damage.split(" + ")[0]

    def names(self, name):
        """How a command names this image: options before, and the name."""
        if "luks" not in self.origin:
            return [], ["-f", "qcow2", name]
        return (["--object", "secret,id=key,file=key", "--image-opts"],
                ["driver=qcow2,file.filename=%s,encrypt.key-secret=key" % name])

    def same_guest(self, a, b):
        secret, first = self.names(a)
        second = self.names(b)[1]
        if not secret:
            second = ["-F", "qcow2", b]
        return run(["qemu-img", "compare", "-U", *secret, *first, *second], self.where)

    def explain(self):
        print("# image %d (%s): %s" % (self.number, self.origin, self.damage))
        for step, key, detail in self.differences:
            print("#   %s: %s: %s" % (step, key, detail.strip().replace("\n", "\n#     ")))

    def differ(self, step, key, detail):
        for keys, applies, why in EXCEPTIONS:
            if (keys is None or key in keys) and applies(self, step):
                self.excused.append(why)
                return
        self.differences.append((step, key, detail))

    def compare(self, step):
        ours, theirs = self.ours[step], self.theirs[step]
        if ours.status != theirs.status:
            self.differ(step, "status", "%d, not %d" % (ours.status, theirs.status))
        if ours.refused and theirs.refused:
            return
        for key in KEYS:
            if ours.counts[key] != theirs.counts[key]:
                self.differ(step, key, "%d, not %d" % (ours.counts[key], theirs.counts[key]))


class Comparer:
    """In WORK/N lie image N, its backing file and data file, the key, and the copies."""

    def __init__(self, build, work, keep):
        self.img = build.resolve() / "minivmm-img"
        self.work, self.keep = work, keep

    def check(self, program, c, name, *options):
        secret, image = c.names(name)
        return Result([program, "check", "--output=json", "-T", "unsafe", *options, *secret, *image],
                      c.where)

    def repair(self, c, step, what):
        ours, theirs = what + ".ours", what + ".theirs"
        shutil.copy(c.where / IMAGE, c.where / ours)
        shutil.copy(c.where / IMAGE, c.where / theirs)
        c.ours[step] = self.check(self.img, c, ours, "-r", what)
        c.theirs[step] = self.check("qemu-img", c, theirs, "-r", what)
        c.left_snapshots[step] = snapshots(c.where / theirs)
        if c.ours[step].said() != c.theirs[step].said():
            # QEMU checks again in the same process and may look at what it had in memory.
            c.theirs[step].look_again(self.check("qemu-img", c, theirs))
        c.compare(step)
        if not same_bytes(c.where / ours, c.where / theirs):
            self.look_behind(c, step, ours, theirs)

    def look_behind(self, c, step, ours, theirs):
        after, said, left = self.check("qemu-img", c, ours), c.ours[step], c.theirs[step]
        if not said.refused and TOO_FAR not in after.errors:
            for key in ("corruptions", "leaks", "check-errors"):
                if after.counts[key] != said.counts[key]:
                    c.differ("check", key, "%s leaves %d, qemu-img finds %d" % (
                        step, said.counts[key], after.counts[key]))
        if after.refused or left.refused or left.timed_out:
            return
        if step == "-r leaks" and c.same_guest(IMAGE, IMAGE).returncode > 1:
            return  # it gives back clusters: what could not be read before need not be readable
        done = c.same_guest(ours, theirs)
        if done.returncode == 1 and c.same_guest(ours, IMAGE).returncode == 0:
            c.excused.append("QEMU's repair changes what the guest sees; ours does not")
            return
        # What cannot be read behind their repair need not be readable behind ours.
        if done.returncode == 1 or done.returncode > 1 and c.same_guest(theirs, theirs).returncode == 0:
            c.differ(step, "guest data", (done.stdout + done.stderr).decode(errors="replace"))

    def run(self, line):
        number, origin, damage = line.split("\t")
        c = Comparison(int(number), origin, damage, self.work / number)
        c.where.mkdir()
        shutil.move(self.work / (number + ".qcow2"), c.where / IMAGE)
        for name in BESIDE:
            (c.where / name).write_bytes(name.encode() * 5000)
        (c.where / "key").write_text(KEY)
        c.snapshots = snapshots(c.where / IMAGE)
        c.ours["check"] = self.check(self.img, c, IMAGE)
        c.theirs["check"] = self.check("qemu-img", c, IMAGE)
        c.compare("check")
        if c.theirs["check"].status != 0 or c.ours["check"].status != 0:
            self.repair(c, "-r leaks", "leaks")
            self.repair(c, "-r all", "all")
        if not self.keep:
            shutil.rmtree(c.where)
        return c


def same_bytes(a, b):
    if os.path.getsize(a) != os.path.getsize(b):
        return False
    return subprocess.run(["cmp", "-s", str(a), str(b)], check=False).returncode == 0


# Images that QEMU makes: a name that says the features, options, what qemu-io does, what comes after.
# IMAGE is the image. Relative names are those of BESIDE.
BASES = [
    ("v2", "compat=0.10,cluster_size=4k", ["write -P 1 0 300k", "write -c -P 2 512k 64k"],
     ["snapshot -c one IMAGE", "io write -P 3 64k 100k", "snapshot -c two IMAGE"]),
    ("v3", "cluster_size=64k", ["write -P 1 0 300k", "write -z 64k 64k", "write -z -u 256k 64k"],
     ["snapshot -c one IMAGE", "io discard 128k 64k", "io write -P 3 600k 5k"]),
    ("zstd", "compression_type=zstd,cluster_size=16k",
     ["write -c -P %d %dk 16k" % (n, 16 * n) for n in range(1, 12)], ["io write -P 3 32k 16k"]),
    ("extended", "extended_l2=on,cluster_size=16k",
     ["write -P 1 1k 3k", "write -P 2 20k 30k", "write -z 24k 2k", "write -c -P 4 64k 16k"],
     ["snapshot -c one IMAGE", "io write -P 5 3k 1k", "io discard 32k 16k"]),
    ("bitmaps", "cluster_size=4k,refcount_bits=8", ["write -P 1 0 100k"],
     ["bitmap --add IMAGE a", "bitmap --add -g 512 IMAGE b", "io write -P 2 40k 100k",
      "bitmap --disable IMAGE a", "io write -P 2 400k 4k"]),
    ("data file", "data_file=data,cluster_size=16k", ["write -P 1 0 100k", "write -z 32k 16k"],
     ["bitmap --add IMAGE a", "io write -P 2 160k 10k"]),
    ("raw data file", "data_file=data,data_file_raw=on,cluster_size=4k",
     ["write -P 1 0 100k", "discard 32k 16k"], []),
    ("backing", "backing_file=base,backing_fmt=raw,cluster_size=2k", ["write -P 1 3k 10k"],
     ["snapshot -c one IMAGE", "io write -P 2 0 30k", "io write -z 2k 4k"]),
    ("luks", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=1,cluster_size=4k",
     ["write -P 1 3k 100k"], ["snapshot -c one IMAGE", "io write -P 2 50k 10k"]),
    ("preallocated", "preallocation=metadata,cluster_size=512,refcount_bits=64",
     ["write -P 1 3k 10k", "write -z 1k 5k"], ["snapshot -c one IMAGE", "io write -P 2 4k 20k"]),
    ("lazy", "lazy_refcounts=on,refcount_bits=1,cluster_size=8k", ["write -P 1 3k 100k"], []),
]


def make_base(img, work, name, options, writes, after):
    where = work / "making"
    where.mkdir()
    for beside in BESIDE:
        (where / beside).write_bytes(beside.encode() * 5000)
    (where / "key").write_text(KEY)
    names = Comparison(0, name, "", where)
    secret, image = names.names(IMAGE)
    # Not every qemu-img comes to an end when it measures how long a key is to take.
    creator = img if secret else "qemu-img"
    steps = [[creator, "create", "-q", *secret[:2], "-f", "qcow2", "-o", options, IMAGE, "1M"],
             ["qemu-io", *secret, *image, *(word for w in writes for word in ("-c", w))]]
    for step in after:
        verb, rest = step.split(" ", 1)
        if verb == "io":
            steps.append(["qemu-io", *secret, *image, "-c", rest])
        else:
            options = image if verb == "bitmap" or secret else [IMAGE]
            place = [o for word in rest.split() for o in (options if word == "IMAGE" else [word])]
            steps.append(["qemu-img", verb, *secret, *place])
    for step in steps:
        done = run(step, where)
        if done.returncode != 0:
            sys.exit("%s: %s\n%s" % (name, step, (done.stdout + done.stderr).decode()))
    made = work / ("qemu-img " + name)
    shutil.move(where / IMAGE, made)
    shutil.rmtree(where)
    return made


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=252)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    comparer = Comparer(args.build, args.work, args.keep)
    bases = [make_base(comparer.img, args.work, *base) for base in BASES]
    damaged = subprocess.run([str(args.build / "tests/fuzz/damaged"), "--seed", str(args.seed),
                              "--first", str(args.first), "--count", str(args.count),
                              str(args.work), *map(str, bases)],
                             capture_output=True, text=True, check=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(comparer.run, damaged.stdout.splitlines()))
    failed = [c for c in results if c.differences]
    kinds = sorted({c.kind for c in results})
    for n, kind in enumerate(kinds, 1):
        print("%sok %d - %s: %d images" % (
            "not " if any(c.kind == kind for c in failed) else "", n, kind,
            sum(c.kind == kind for c in results)))
        for c in failed:
            if c.kind == kind:
                c.explain()
    print("1..%d" % len(kinds))
    print("# seed %d: %d images, %d with several damages, %d of them found at fault" % (
        args.seed, len(results), sum(" + " in c.damage for c in results),
        sum(c.theirs["check"].status != 0 for c in results)))
    for why, count in collections.Counter(w for c in results for w in set(c.excused)).items():
        print("# %d images: %s" % (count, why))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
