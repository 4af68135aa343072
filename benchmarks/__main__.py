"""`python -m benchmarks NAME [options]` runs a benchmark of this folder or of `wsss-fast bench`."""

import sys

from benchmarks import amn_analyses, ccr, energy, export, processes, refinement, seg_recipes, shapes
from wsss_fast import bench, cli

MODULES = {
    "shapes": shapes,
    "amn_analyses": amn_analyses,
    "ccr": ccr,
    "energy": energy,
    "export": export,
    "processes": processes,
    "refinement": refinement,
    "seg_recipes": seg_recipes,
}

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in bench.summaries():
        cli.main(["bench", name, *rest])
    if name not in MODULES:
        names = ",".join([*bench.summaries(), *MODULES])
        sys.exit(f"usage: python -m benchmarks {{{names}}} [--help]")
    MODULES[name].main(rest)
