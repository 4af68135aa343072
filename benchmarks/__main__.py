"""`python -m benchmarks NAME [options]`: an op of `wsss-fast bench`, or label_conditioned, shapes, the modules of that name."""

import importlib
import sys

from wsss_fast import cli
from wsss_fast.bench import BENCHMARKS

HERE = ("label_conditioned", "shapes")

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in BENCHMARKS:
        cli.main(["bench", name, *rest])
    if name not in HERE:
        sys.exit(f"usage: python -m benchmarks {{{','.join([*BENCHMARKS, *HERE])}}} [--help]")
    importlib.import_module(f"benchmarks.{name}").main(rest)
