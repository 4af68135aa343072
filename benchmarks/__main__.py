"""`python -m benchmarks NAME [options]`: an op of `wsss-fast bench`, or a module beside this file."""

import sys

from benchmarks import ccr, processes, shapes
from wsss_fast import bench, cli

MODULES = {"shapes": shapes, "ccr": ccr, "processes": processes}

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in bench.summaries():
        cli.main(["bench", name, *rest])
    if name not in MODULES:
        sys.exit(
            f"usage: python -m benchmarks {{{','.join([*bench.summaries(), *MODULES])}}} [--help]"
        )
    MODULES[name].main(rest)
