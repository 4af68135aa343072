"""`python -m benchmarks NAME [options]`: an op of `wsss-fast bench`, or a module beside this file."""

import sys

from benchmarks import ccr, fuzz, kill, processes, shapes
from wsss_fast import cli
from wsss_fast.bench import BENCHMARKS

MODULES = {"shapes": shapes, "kill": kill, "fuzz": fuzz, "ccr": ccr, "processes": processes}

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in BENCHMARKS:
        cli.main(["bench", name, *rest])
    if name not in MODULES:
        sys.exit(f"usage: python -m benchmarks {{{','.join([*BENCHMARKS, *MODULES])}}} [--help]")
    MODULES[name].main(rest)
