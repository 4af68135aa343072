"""`python -m benchmarks crf|label_conditioned|shapes [options]`: see the module of that name."""

import importlib
import sys

BENCHMARKS = ("crf", "label_conditioned", "shapes")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        sys.exit(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [--help]")
    importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
