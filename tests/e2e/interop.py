#!/usr/bin/env python3
"""Images written by turns here and by QEMU's tools, over the matrix of features. Speaks TAP.

Rows of features (interop_features.py) cover every pair that is legal; the rest is random. What
happens to the image of a row, and what must hold, is in interop_story.py. Run by interop_matrix.sh:

    BUILD=build tests/e2e/interop_matrix.sh [--count N] [--seed N] [--only N] [--jobs N] [--keep]

Seeds make rows and everything that happens to them; SEED in the environment is the same as --seed.
"""

import argparse
import concurrent.futures
import os
import pathlib
import random
import shutil
import subprocess
import traceback

import interop_features as features
from interop_story import Story
from interop_tools import Folder, Mismatch, Ours, Qemu


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("work", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", 1)))
    parser.add_argument("--only", type=int, help="this row alone")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", action="store_true", help="leave the files of rows that fail")
    return parser.parse_args()


def run_row(arguments, number, row):
    """What is wrong, or None. The row behind the last is a deep chain."""
    folder = Folder(arguments.work / str(number))
    folder.path.mkdir()
    sides = {"qemu": Qemu(folder), "ours": Ours(arguments.build, folder)}
    try:
        story = Story(row, folder, sides, random.Random("%d/%d" % (arguments.seed, number)))
        if number > arguments.count:
            story.deep_chain(24)
        else:
            story.run()
    except (Mismatch, subprocess.TimeoutExpired) as problem:
        return "%s\n\nwhat was done:\n%s" % (problem, "\n".join(folder.history))
    except Exception:  # A fault of the test must not pass for silence.
        return "%s\n%s" % (traceback.format_exc(), "\n".join(folder.history))
    finally:
        if not arguments.keep:
            shutil.rmtree(folder.path)
    return None


def main():
    arguments = parse()
    rows, covered, possible = features.rows(arguments.seed, arguments.count)
    rows.append({d: values[0] for d, values in features.DIMENSIONS.items()})
    numbered = [(n, row) for n, row in enumerate(rows, 1) if arguments.only in (None, n)]
    print("# seed %d: %d rows cover %d of %d pairs of features" %
          (arguments.seed, arguments.count, covered, possible))
    failures = covered < possible and arguments.count >= 500
    print("%s 1 - all pairs of features are covered" % ("not ok" if failures else "ok"))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        problems = pool.map(lambda item: run_row(arguments, *item), numbered)
        for (number, row), problem in zip(numbered, problems):
            name = features.name_of(row) if number <= arguments.count else "a chain of 24"
            print("%s %d - row %d, %s" % ("not ok" if problem else "ok", number + 1, number, name),
                  flush=True)
            if problem:
                failures += 1
                repeat = "repeat: tests/e2e/interop_matrix.sh --seed %d --count %d --only %d" % (
                    arguments.seed, arguments.count, number)
                print("\n".join("# " + line for line in [repeat, *problem.splitlines()]), flush=True)
    print("1..%d" % (len(numbered) + 1))
    return failures > 0


if __name__ == "__main__":
    raise SystemExit(main())
