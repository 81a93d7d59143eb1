"""Runs something on the image of every row of features, several at a time, and says how it went. Speaks TAP.

What the tests that do so share: their options, a folder of its own for every row, and what it takes to
repeat a row that failed.
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


def parse(count):
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("work", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", 1)))
    parser.add_argument("--only", type=int, help="this row alone")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", action="store_true", help="leave the files of rows that fail")
    return parser.parse_args()


def run_row(arguments, number, row, tell):
    """What is wrong, or None."""
    folder = Folder(arguments.work / str(number))
    folder.path.mkdir()
    sides = {"qemu": Qemu(folder), "ours": Ours(arguments.build, folder)}
    problem = None
    try:
        tell(number, Story(row, folder, sides, random.Random("%d/%d" % (arguments.seed, number))))
    except (Mismatch, subprocess.TimeoutExpired) as wrong:
        problem = "%s\n\nwhat was done:\n%s" % (wrong, "\n".join(folder.history))
    except Exception:  # A fault of the test must not pass for silence.
        problem = "%s\n%s" % (traceback.format_exc(), "\n".join(folder.history))
    if not (problem and arguments.keep):
        shutil.rmtree(folder.path)
    return problem


def choose(arguments):
    """The rows, each with its name, and whether they cover all pairs of features; says how many."""
    rows, covered, possible = features.rows(arguments.seed, arguments.count)
    print("# seed %d: %d rows cover %d of %d pairs of features" %
          (arguments.seed, arguments.count, covered, possible))
    return [(features.name_of(row), row) for row in rows], covered == possible


def run(arguments, script, rows, tell):
    """Calls tell(number, story) for each (name, row) of the list, and prints a result for each; the first
    one printed is number 2. Returns how many failed."""
    numbered = [(n, *row) for n, row in enumerate(rows, 1) if arguments.only in (None, n)]
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        problems = pool.map(lambda item: run_row(arguments, item[0], item[2], tell), numbered)
        for (number, name, _), problem in zip(numbered, problems):
            print("%s %d - row %d, %s" % ("not ok" if problem else "ok", number + 1, number, name),
                  flush=True)
            if problem:
                failures += 1
                repeat = "repeat: tests/e2e/%s.sh --seed %d --count %d --only %d" % (
                    script, arguments.seed, arguments.count, number)
                print("\n".join("# " + line for line in [repeat, *problem.splitlines()]), flush=True)
    print("1..%d" % (len(numbered) + 1))
    return failures
