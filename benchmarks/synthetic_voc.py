"""Write a folder in VOC2012 layout with synthetic photos.

    python benchmarks/synthetic_voc.py FOLDER [--train 64] [--val 16] [--size 375 500] [--odd 0]

Tags are in XML files; there are masks and saliency maps. The same arguments give the same files.
`wsss_fast/bench/harness/synthetic_voc.py` makes the images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from wsss_fast.bench.harness.synthetic_voc import make  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=64, help="number of training images")
    parser.add_argument("--val", type=int, default=16, help="number of validation images")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(375, 500),
        metavar=("HEIGHT", "WIDTH"),
        help="size in pixels",
    )
    parser.add_argument("--odd", type=int, default=0, help="every n-th image has another size")
    options = parser.parse_args()
    make(options.folder, options.train, options.val, tuple(options.size), odd=options.odd)


if __name__ == "__main__":
    main()
