"""`python -m benchmarks label_conditioned|shapes [options]`: see the module of that name; dense_crf: `wsss-fast bench crf`."""

import importlib
import sys

BENCHMARKS = ("label_conditioned", "shapes")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        sys.exit(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [--help]")
    importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
