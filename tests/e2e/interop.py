#!/usr/bin/env python3
"""Images written by turns here and by QEMU's tools, over a matrix of features. Speaks TAP.

Each row is a chain. Its layers are made by one program or the other; each layer is then written by
both in turns, seeded, while a flat model says what the device must hold. After every turn both read
the whole device, and both check the image. Run by interop_matrix.sh.
"""

import os
import pathlib
import random
import subprocess
import sys

K, M = 1024, 1024 * 1024
OURS, QEMU = "ours", "qemu"


class Mismatch(Exception):
    pass


def run(*argv, stdin=None):
    done = subprocess.run([str(a) for a in argv], input=stdin, capture_output=True, text=True,
                          timeout=120, check=False)
    if done.returncode != 0:
        raise Mismatch("status %d from %s\n%s%s" % (done.returncode, " ".join(map(str, argv)),
                                                   done.stdout[-600:], done.stderr[-600:]))
    return done.stdout


class Layer:
    def __init__(self, maker, size, fmt="qcow2", **options):
        self.maker, self.size, self.format, self.options = maker, size, fmt, options

    @property
    def cluster(self):
        return self.options.get("cluster_size", 64 * K) if self.format == "qcow2" else 4096

    @property
    def keeps_zeros(self):
        """Whether a discard of a whole cluster must read as zeros afterwards."""
        return self.format == "qcow2" and self.options.get("compat", "1.1") == "1.1"


class Chain:
    def __init__(self, tools, work, rng):
        self.tools, self.work, self.rng = tools, work, rng
        self.paths, self.layers = [], []
        self.model = bytearray()
        self.flat = work / "model.raw"

    def add(self, layer):
        path = self.work / ("%d.%s" % (len(self.paths), layer.format))
        tool = self.tools["img"] if layer.maker == OURS else "qemu-img"
        argv = [tool, "create", "-q", "-f", layer.format]
        if layer.options:
            argv += ["-o", ",".join("%s=%s" % item for item in layer.options.items())]
        if self.paths:
            argv += ["-b", self.paths[-1].name, "-F", self.layers[-1].format]
        run(*argv, path, layer.size)
        self.paths.append(path)
        self.layers.append(layer)
        del self.model[layer.size:]
        self.model.extend(bytes(layer.size - len(self.model)))

    def operations(self, count):
        """Yields (kind, byte, offset, length) and brings the model up to date."""
        layer = self.layers[-1]
        cluster, size = layer.cluster, layer.size
        for _ in range(count):
            length = min(size, self.rng.choice([1, 512, 4096, 65537, self.rng.randint(1, cluster),
                                                cluster, 3 * cluster + 512]))
            offset = self.rng.choice([self.rng.randint(0, size - length), size - length,
                                      self.rng.randrange(0, size - length + 1, 512)])
            kind = self.rng.choice(["write", "write", "write", "zero", "unmap-zero", "discard"])
            byte = self.rng.randint(1, 255)
            if kind == "discard":
                if not layer.keeps_zeros or length < cluster:
                    continue
                offset -= offset % cluster
                length -= length % cluster
            content = bytes([byte if kind == "write" else 0]) * length
            self.model[offset:offset + length] = content
            yield kind, byte, offset, length

    def turn(self, program):
        operations = list(self.operations(12))
        if program == OURS:
            lines = ["%s %d %d %d" % o if o[0] == "write" else "%s %d %d" % (o[0], o[2], o[3])
                     for o in operations]
            answers = run(self.tools["blkio"], "-f", self.layers[-1].format, self.paths[-1],
                          "batch", stdin="\n".join(lines) + "\nflush\n").split("\n")
            if answers[:-1] != ["ok"] * (len(lines) + 1):
                raise Mismatch("answers: %s" % answers)
            return
        verbs = {"write": "write -P %d %d %d", "zero": "write -z %d %d",
                 "unmap-zero": "write -z -u %d %d", "discard": "discard %d %d"}
        argv = ["qemu-io", "-f", self.layers[-1].format, "-d", "unmap"]
        for kind, byte, offset, length in operations:
            values = (byte, offset, length) if kind == "write" else (offset, length)
            argv += ["-c", verbs[kind] % values]
        output = run(*argv, self.paths[-1])
        if "failed" in output or "error" in output.lower():
            raise Mismatch(output)

    def both_agree(self):
        top, layer = self.paths[-1], self.layers[-1]
        self.flat.write_bytes(self.model)
        run(self.tools["blkio"], "-r", "-f", layer.format, top, "compare %s" % self.flat)
        run("qemu-img", "compare", "-f", "raw", "-F", layer.format, self.flat, top)
        if layer.format == "qcow2":
            run("qemu-img", "check", "-f", "qcow2", top)
            run(self.tools["img"], "check", "-f", "qcow2", top)


def matrix():
    for cluster in (512, 1 * K, 4 * K, 64 * K, 2 * M):
        for compat in ("0.10", "1.1"):
            size = 3 * M + 512 * 5 if cluster < 2 * M else 9 * M + 512
            for maker in (OURS, QEMU):
                yield ("%s, %d-byte clusters, compat %s" % (maker, cluster, compat),
                       [Layer(maker, size, cluster_size=cluster, compat=compat)])
    for prealloc in ("metadata", "falloc", "full"):
        for maker in (OURS, QEMU):
            yield ("%s, preallocation %s" % (maker, prealloc),
                   [Layer(maker, 2 * M, preallocation=prealloc)])
    for maker, other in ((OURS, QEMU), (QEMU, OURS)):
        yield "%s, raw" % maker, [Layer(maker, M + 512, "raw")]
        yield "%s, lazy refcounts" % maker, [Layer(maker, 2 * M, lazy_refcounts="on")]
        yield ("%s over %s, shorter raw base" % (maker, other),
               [Layer(other, M, "raw"), Layer(maker, 2 * M + 512)])
        yield ("%s over %s, longer raw base" % (maker, other),
               [Layer(other, 3 * M, "raw"), Layer(maker, 2 * M + 512, cluster_size=4 * K)])
        yield ("%s over %s, small over large clusters" % (maker, other),
               [Layer(other, 5 * M, cluster_size=2 * M), Layer(maker, 4 * M, cluster_size=K)])
        yield ("%s over %s, compat 0.10 over 1.1" % (maker, other),
               [Layer(other, 2 * M), Layer(maker, 2 * M, compat="0.10")])
        yield ("%s over %s, compat 1.1 over 0.10" % (maker, other),
               [Layer(other, 2 * M, compat="0.10"), Layer(maker, 2 * M)])
    yield ("a chain of 24 by turns",
           [Layer(OURS, 512 * K, "raw")] +
           [Layer((OURS, QEMU)[i % 2], 512 * K + 512 * (i % 5),
                  cluster_size=(512, 4 * K, 64 * K)[i % 3], compat=("1.1", "0.10")[i % 4 == 3])
            for i in range(23)])


def exercise(chain, layers):
    for depth, layer in enumerate(layers):
        chain.add(layer)
        turns = [OURS, QEMU] if layer.maker == QEMU else [QEMU, OURS]
        if len(layers) > 4:
            turns = turns[depth % 2:][:1]
        for program in turns:
            chain.turn(program)
            chain.both_agree()


def main():
    build, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    tools = {"img": build / "minivmm-img", "blkio": build / "tests/tools/blkio"}
    failures = count = 0
    print("# seed %d (repeat with SEED=)" % seed)
    for count, (name, layers) in enumerate(matrix(), 1):
        folder = work / str(count)
        folder.mkdir()
        try:
            exercise(Chain(tools, folder, random.Random(seed + count)), layers)
            print("ok %d - %s" % (count, name), flush=True)
        except (Mismatch, subprocess.TimeoutExpired) as problem:
            failures += 1
            print("not ok %d - %s" % (count, name))
            print("\n".join("# " + line for line in str(problem).splitlines()), flush=True)
    print("1..%d" % count)
    return failures > 0


sys.exit(main())
