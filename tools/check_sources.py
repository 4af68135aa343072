"""Compile the native sources without linking, against any torch and for any CUDA architecture.

All sources, against the installed torch:

    python tools/check_sources.py cpu cuda

Only the files that include torch's headers, against those of another release:

    python tools/check_sources.py cpu cuda --torch-include HEADERS --binding-only

HEADERS is the directory `torch/include` of that release (tools/torch_headers.py downloads it). For
CUDA, the registers and spills of each source's kernels are printed; `kernel_resources.py` says
which spills are allowed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.kernel_resources import ARCHS, Kernel, from_log, spilling  # noqa: E402
from wsss_fast import _build  # noqa: E402


def summary(kernels: list[Kernel], arch: str) -> str:
    """The number of kernels, the most registers, and the spills."""
    if not kernels:
        return f"sm_{arch}: no kernels of this project"
    spills = ", ".join(f"{k.name} ({k.spills} bytes)" for k in kernels if k.spills)
    registers = max(k.registers for k in kernels)
    return (
        f"sm_{arch}: {len(kernels)} kernels, at most {registers} registers, "
        f"spills: {spills or 'none'}"
    )


def compile_part(part: str, archs: tuple[str, ...], include: Path, binding_only: bool) -> bool:
    """Compile one part's sources; print the error, or the kernels' registers.

    Returns:
        True on success; False also for a kernel that spills more than is allowed.
    """
    sources = [s for s in _build.list_sources(part) if s.parent.name == "bind" or not binding_only]
    start = time.perf_counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            _build.compile_objects(part, sources, Path(folder), archs, include)
        except _build.BuildFailed as error:
            print(f"{error.log}\n{part}: {error}")
            return False
        for number, source in enumerate(sources):
            if source.suffix == ".cu":
                log = Path(folder, f"{number}.log").read_text()
                for arch in archs:
                    kernels = from_log(log, arch)
                    wrong += spilling(kernels)
                    print(f"{source.name}: {summary(kernels, arch)}")
    print(
        f"{part}: {len(sources)} sources compiled in {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    print("\n".join(wrong), end="\n" * bool(wrong), flush=True)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=tuple(_build.NAMES))
    parser.add_argument(
        "--archs",
        nargs="+",
        default=ARCHS,
        help="compute capabilities of the CUDA code (default: 80 90)",
    )
    parser.add_argument(
        "--torch-include",
        type=Path,
        metavar="HEADERS",
        default=_build.TORCH_INCLUDE,
        help="headers of another torch (default: of the installed one)",
    )
    parser.add_argument(
        "--binding-only", action="store_true", help="only the sources that include torch's headers"
    )
    given = parser.parse_args()
    if not (given.torch_include / "torch" / "csrc" / "stable").is_dir():
        oldest = ".".join(map(str, _build.OLDEST_TORCH))
        parser.error(
            f"{given.torch_include} has no torch/csrc/stable: "
            f"not the headers of torch {oldest} or newer"
        )
    try:
        good = [
            compile_part(part, tuple(given.archs), given.torch_include, given.binding_only)
            for part in given.parts
        ]
        return 0 if all(good) else 1
    except (_build.Unavailable, subprocess.SubprocessError) as error:
        print(error)
        return 3


if __name__ == "__main__":
    sys.exit(main())
