"""`python -m benchmarks shapes [options]`: see the module of that name. The kernels' benchmarks are `wsss-fast bench`."""

import importlib
import sys

BENCHMARKS = ("shapes",)

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        sys.exit(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [--help]")
    importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
