#!/usr/bin/env python3
"""Promises of minivmm-img that hold for every image, tried over the matrix of features. Speaks TAP.

An image of each row (interop_features.py) is made and written by one of the two programs; what it holds
is known (interop_story.py). Its properties are in img_promises.py; qemu-img is who reads the results.
Run by img_properties.sh:

    BUILD=build tests/e2e/img_properties.sh [--count N] [--seed N] [--only N] [--jobs N] [--keep]

Seeds make rows and everything that happens to them; SEED in the environment is the same as --seed.
"""

import interop_rows
from img_promises import Promises


def main():
    arguments = interop_rows.parse(count=60)
    named, _ = interop_rows.choose(arguments)
    print("ok 1 - there are rows")
    return interop_rows.run(arguments, "img_properties", named,
                            lambda _, story: Promises(story, arguments.build).run()) > 0


if __name__ == "__main__":
    raise SystemExit(main())
