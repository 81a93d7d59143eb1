#!/usr/bin/env python3
"""Images written by turns here and by QEMU's tools, over the matrix of features. Speaks TAP.

Rows of features (interop_features.py) cover every pair that is legal; the rest is random. What
happens to the image of a row, and what must hold, is in interop_story.py. Run by interop_matrix.sh:

    BUILD=build tests/e2e/interop_matrix.sh [--count N] [--seed N] [--only N] [--jobs N] [--keep]

Seeds make rows and everything that happens to them; SEED in the environment is the same as --seed.
"""

import interop_features as features
import interop_rows


def main():
    arguments = interop_rows.parse(count=500)
    named, all_pairs = interop_rows.choose(arguments)
    failures = not all_pairs and arguments.count >= 500
    print("%s 1 - all pairs of features are covered" % ("not ok" if failures else "ok"))
    named.append(("a chain of 24", {d: values[0] for d, values in features.DIMENSIONS.items()}))

    def tell(number, story):
        if number > arguments.count:
            story.deep_chain(24)
        else:
            story.run()

    failures += interop_rows.run(arguments, "interop_matrix", named, tell)
    return failures > 0


if __name__ == "__main__":
    raise SystemExit(main())
