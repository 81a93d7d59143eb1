"""The feature matrix of qcow2: dimensions, what excludes what, and rows that cover all pairs."""

import itertools
import random

# The first value of a dimension is the plain one: a row's name leaves it out.
DIMENSIONS = {
    "maker": ["qemu", "ours"],
    "compat": ["v3", "v2"],
    "cluster": ["64k", "512", "4k", "16k", "2M"],
    "refcount": ["16", "1", "2", "4", "8", "32", "64"],
    "extended_l2": ["off", "on"],
    "lazy": ["off", "on", "dirty"],
    "type": ["zlib", "zstd"],
    "compressed": ["no", "yes"],
    "zero": ["none", "plain", "preallocated"],
    "preallocation": ["off", "metadata", "falloc", "full"],
    "backing": ["none", "shorter raw", "longer raw", "same clusters", "other clusters", "chain of 3"],
    "snapshots": ["none", "one", "later writes", "applied"],
    "data_file": ["none", "plain", "raw"],
    "bitmaps": ["none", "enabled", "disabled"],
    "encryption": ["none", "luks"],
    "size": ["aligned", "odd", "large"],
    "discards": ["none", "some"],
    "resize": ["none", "grow", "shrink"],
}

# Where the rest is random, these come less often than their neighbours: they cost time, or exclude
# much.
WEIGHTS = {("compat", "v2"): 0.6, ("encryption", "luks"): 0.04, ("size", "large"): 0.3,
           ("data_file", "plain"): 0.3, ("data_file", "raw"): 0.3}


def but(dimension, *plain):
    """All values of a dimension except some."""
    return {dimension: [v for v in DIMENSIONS[dimension] if v not in plain]}


def rule(*parts, **values):
    """These values cannot be had together."""
    combined = {dimension: [value] for dimension, value in values.items()}
    for part in parts:
        combined.update(part)
    return combined


RULES = [
    # What came with version 3.
    rule(but("refcount", "16"), compat="v2"),
    rule(but("lazy", "off"), compat="v2"),
    rule(but("zero", "none"), compat="v2"),
    rule(but("data_file", "none"), compat="v2"),
    rule(but("bitmaps", "none"), compat="v2"),
    rule(compat="v2", type="zstd"),
    rule(compat="v2", extended_l2="on"),
    # Version 2 cannot say "zeros" over a backing file, so a discard does nothing.
    rule(but("backing", "none"), compat="v2", discards="some"),
    # A subcluster has 512 bytes at least.
    rule({"cluster": ["512", "4k"]}, extended_l2="on"),
    # QEMU refuses: preallocated clusters would hide the backing file, subclusters need not.
    rule(but("preallocation", "off"), but("backing", "none"), extended_l2="off"),
    rule(but("preallocation", "off"), but("backing", "none"), compat="v2"),
    rule(but("preallocation", "off"), but("backing", "none"), {"cluster": ["512", "4k"]}),
    rule(but("backing", "none"), data_file="raw"),
    rule(but("data_file", "none"), compressed="yes"),
    rule(but("data_file", "none"), but("snapshots", "none")),
    rule(encryption="luks", compressed="yes"),
    # A snapshot is a second reference to everything; compressed clusters share theirs.
    rule(but("snapshots", "none"), refcount="1"),
    rule(but("snapshots", "none"), {"refcount": ["2", "4"]}, compressed="yes"),
    # QEMU does not write compressed over a cluster that is allocated.
    rule(but("preallocation", "off"), maker="qemu", compressed="yes"),
    # QEMU cannot grow version 2 over a backing file that is longer.
    rule(but("backing", "none"), maker="qemu", compat="v2", resize="grow"),
    # What QEMU gains there decrypts to anything: it gives it places in a file of zeros.
    rule(maker="qemu", encryption="luks", data_file="raw", resize="grow"),
    # QEMU dies of an assertion where 2 GiB and more of an encrypted table are unallocated.
    rule(encryption="luks", cluster="2M", size="large"),
    # We refuse: what is preallocated there could not say that it reads as zeros.
    rule(but("preallocation", "off"), maker="ours", compat="v2", encryption="luks"),
    # QEMU does not apply a snapshot under a bitmap; a bitmap does not outlive a crash.
    rule(but("bitmaps", "none"), snapshots="applied"),
    rule(but("bitmaps", "none"), lazy="dirty"),
    # Gigabytes on disk, or at least to be read.
    rule(but("preallocation", "off"), size="large"),
    rule(data_file="raw", size="large"),
]


# The rules that a value of a dimension can break: the other parts of each.
BROKEN_BY = {(d, v): [{k: set(vs) for k, vs in r.items() if k != d} for r in RULES if v in r.get(d, [])]
             for d, values in DIMENSIONS.items() for v in values}


def may_have(row, dimension, value):
    """Whether a row, which may be incomplete and breaks no rule, may have this value too."""
    return not any(all(row.get(d) in values for d, values in others.items())
                   for others in BROKEN_BY[dimension, value])


def complete(row, rng, prefer=None):
    """Fills an incomplete row in: None when nothing legal is left. `prefer(row, dimension, value)` is
    the higher, the sooner a value is tried."""
    missing = [d for d in DIMENSIONS if d not in row]
    if not missing:
        return row
    dimension = rng.choice(missing)
    values = DIMENSIONS[dimension]
    order = {v: rng.random() ** (1 / WEIGHTS.get((dimension, v), 1.0)) for v in values}
    for value in sorted(values, key=lambda v: ((prefer(row, dimension, v) if prefer else 0),
                                               order[v]), reverse=True):
        filled = may_have(row, dimension, value) and complete({**row, dimension: value}, rng, prefer)
        if filled:
            return filled
    return None


def pairs_of(row):
    return set(itertools.combinations(sorted(row.items()), 2))


def possible_pairs(rng):
    """Every two values of two dimensions that some legal row has."""
    pairs = set()
    for a, b in itertools.combinations(sorted(DIMENSIONS), 2):
        for pair in itertools.product([(a, v) for v in DIMENSIONS[a]],
                                      [(b, v) for v in DIMENSIONS[b]]):
            if pair not in pairs:
                row = complete(dict(pair), rng) if may_have(dict(pair[:1]), *pair[1]) else None
                pairs.update(pairs_of(row) if row else [])
    return pairs


def rows(seed, count):
    """(rows, covered pairs, possible pairs): rows until all pairs are covered, then others up to
    `count`."""
    rng = random.Random(seed)
    possible = possible_pairs(rng)
    open_pairs = set(possible)
    chosen = []

    def gain(row, dimension, value):
        return sum(tuple(sorted([(dimension, value), item])) in open_pairs for item in row.items())

    while open_pairs and len(chosen) < count:
        target = rng.choice(sorted(open_pairs))
        tries = [complete(dict(target), rng, gain) for _ in range(4)]
        best = max(tries, key=lambda row: len(pairs_of(row) & open_pairs))
        open_pairs -= pairs_of(best)
        chosen.append(best)
    while len(chosen) < count:
        chosen.append(complete({}, rng))
    return chosen, len(possible) - len(open_pairs), len(possible)


def name_of(row):
    """What is not plain about it."""
    said = ["%s %s" % (d.replace("_", " "), row[d])
            for d in DIMENSIONS if d != "maker" and row[d] != DIMENSIONS[d][0]]
    return ", ".join(["made by " + row["maker"]] + said)
