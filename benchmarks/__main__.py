"""`python -m benchmarks NAME [options]`: an op of `wsss-fast bench`, or `shapes` or `ccr`, the module of that name."""

import sys

from benchmarks import ccr, shapes
from wsss_fast import cli
from wsss_fast.bench import BENCHMARKS

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in BENCHMARKS:
        cli.main(["bench", name, *rest])
    own = {"shapes": shapes, "ccr": ccr}
    if name not in own:
        sys.exit(f"usage: python -m benchmarks {{{','.join([*BENCHMARKS, *own])}}} [--help]")
    own[name].main(rest)
