"""`python -m benchmarks NAME [options]`: an op of `wsss-fast bench`, or `shapes`, the module of that name."""

import sys

from benchmarks import shapes
from wsss_fast import cli
from wsss_fast.bench import BENCHMARKS

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in BENCHMARKS:
        cli.main(["bench", name, *rest])
    if name != "shapes":
        sys.exit(f"usage: python -m benchmarks {{{','.join([*BENCHMARKS, 'shapes'])}}} [--help]")
    shapes.main(rest)
