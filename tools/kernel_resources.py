"""Registers, spills, shared memory and theoretical occupancy of every CUDA kernel, without a GPU.

    python tools/kernel_resources.py [--archs 80 90] [--only pixel_loss dense_crf] [--json FILE]

Compiles the sources of csrc/cuda and reads ptxas' report and the launch bounds in the PTX. A kernel
without launch bounds is taken to have blocks of 256 threads; dynamic shared memory is not known.
The exit code is 1 if a kernel spills more than ALLOWED_SPILLS has.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from wsss_fast import _build  # noqa: E402

ARCHS = ("80", "90")
THREADS = 256  # kThreads in csrc/cuda/launch.cuh
REGISTERS, WARPS, BLOCKS = 65536, 64, 32  # of a multiprocessor of sm_80 and sm_90
SHARED = {"80": 164 << 10, "90": 228 << 10}  # bytes of a multiprocessor
RESERVED = 1 << 10  # bytes of shared memory of each block
# (kernel without template arguments, architecture): bytes.
ALLOWED_SPILLS: dict[tuple[str, str], int] = {}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What ptxas says of a kernel.

    Attributes:
        name: its name without namespaces and parameters.
        arch: compute capability, as "90".
        registers: of a thread.
        spills: bytes stored to local memory for want of registers.
        stack: bytes of a thread's stack frame.
        shared: bytes of static shared memory of a block.
        threads: largest block.
    """

    name: str
    arch: str
    registers: int
    spills: int
    stack: int
    shared: int
    threads: int = THREADS

    @property
    def blocks(self) -> int:
        """Blocks that fit on a multiprocessor."""
        warps = -(-self.threads // 32)
        of_a_warp = -(-max(self.registers, 1) * 32 // 256) * 256
        by_registers = REGISTERS // of_a_warp // 4 * 4 // warps
        by_memory = SHARED.get(self.arch, SHARED["90"]) // (self.shared + RESERVED)
        return min(BLOCKS, WARPS // warps, by_registers, by_memory)

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's warps."""
        return self.blocks * -(-self.threads // 32) / WARPS

    @property
    def excess(self) -> int:
        """Bytes of spills that are not allowed."""
        return max(0, self.spills - ALLOWED_SPILLS.get((self.name.split("<")[0], self.arch), 0))


def from_log(log: str, arch: str, threads: dict[str, int] | None = None) -> list[Kernel]:
    """This project's kernels in ptxas' verbose report; those of CUB are left out.

    Args:
        log: output of `nvcc -Xptxas=-v`.
        arch: only kernels for this compute capability.
        threads: largest block by mangled name.
    """
    entry = re.compile(
        r"'(\S+)' for 'sm_(\d+)\w?'.*?(\d+) bytes stack frame, (\d+) bytes spill stores"
        r".*?Used (\d+) registers(?:.*?(\d+) bytes smem)?",
        re.DOTALL,
    )
    reports = (entry.match(part) for part in log.split("Compiling entry function ")[1:])
    ours = [r.groups() for r in reports if r and r.group(2) == arch and "wsss" in r.group(1)]
    names = demangled(mangled for mangled, *_ in ours)
    return [
        Kernel(
            names[mangled],
            arch,
            registers=int(registers),
            spills=int(spills),
            stack=int(stack),
            shared=int(shared or 0),
            threads=(threads or {}).get(mangled, THREADS),
        )
        for mangled, _, stack, spills, registers, shared in ours
    ]


def block_sizes(ptx: str) -> dict[str, int]:
    """Largest block of the kernels that have launch bounds, by mangled name."""
    pattern = r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)(?:, (\d+), (\d+))?"
    return {name: int(x) * int(y or 1) * int(z or 1) for name, x, y, z in re.findall(pattern, ptx)}


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Readable names without namespaces and parameters; the mangled ones without c++filt."""
    mangled = list(names)
    tool = shutil.which("c++filt")
    if not tool or not mangled:
        return {name: name for name in mangled}
    done = subprocess.run([tool], input="\n".join(mangled), text=True, capture_output=True)
    return dict(zip(mangled, map(short, done.stdout.splitlines()), strict=True))


def short(name: str) -> str:
    """`void wsss::cuda::(anonymous namespace)::blur<4>(int*)` as `blur<4>`."""
    for scope in ("(anonymous namespace)::", "wsss::cuda::", "wsss::"):
        name = name.replace(scope, "")
    depth = 0
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            name = name[:at]
            break
    return name.removeprefix("void ").replace("__nv_bfloat16", "bf16").replace("__half", "half")


def compiled(archs: tuple[str, ...], only: Iterable[str] = ()) -> dict[str, list[Kernel]]:
    """The kernels of each source of csrc/cuda, by its name."""
    sources = [
        source
        for source in _build.list_sources("cuda")
        if source.suffix == ".cu" and (not only or source.stem in only)
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NVCC_APPEND_FLAGS"] = f"--keep --keep-dir={folder}"
        try:
            _build.compile_objects("cuda", sources, Path(folder), archs)
        finally:
            del os.environ["NVCC_APPEND_FLAGS"]
        threads: dict[str, int] = {}
        for ptx in Path(folder).glob("*.ptx"):
            threads |= block_sizes(ptx.read_text())
        logs = [Path(folder, f"{number}.log").read_text() for number in range(len(sources))]
    return {
        source.name: [k for arch in archs for k in from_log(log, arch, threads)]
        for source, log in zip(sources, logs, strict=True)
    }


def table(kernels: list[Kernel]) -> list[str]:
    """Lines, kernels with the fewest warps on a multiprocessor first."""
    return [
        f"  sm_{k.arch}{k.registers:>5} registers{k.spills:>5} B spilled{k.shared:>7} B shared"
        f"{k.threads:>6} threads{k.blocks:>4} blocks{100 * k.occupancy:>5.0f} %  {k.name}"
        for k in sorted(kernels, key=lambda k: (k.arch, k.occupancy, k.name))
    ]


def spilling(kernels: Iterable[Kernel]) -> list[str]:
    """The kernels that spill more than is allowed."""
    return [f"{k.name}, sm_{k.arch}: {k.spills} bytes are spilled" for k in kernels if k.excess]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=ARCHS, help="default: 80 90")
    parser.add_argument("--only", nargs="+", default=(), help="sources without .cu")
    parser.add_argument("--json", type=Path, help="file for the kernels")
    given = parser.parse_args()
    try:
        found = compiled(tuple(given.archs), given.only)
    except _build.BuildFailed as error:
        print(f"{error.log}\n{error}")
        return 1
    except _build.Unavailable as error:
        print(error)
        return 3
    for source, kernels in found.items():
        print("\n".join([source, *table(kernels)]))
    if given.json:
        rows = {
            source: [
                {**dataclasses.asdict(k), "blocks": k.blocks, "occupancy": k.occupancy}
                for k in kernels
            ]
            for source, kernels in found.items()
        }
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = spilling(k for kernels in found.values() for k in kernels)
    print("\n".join(wrong or ["no kernel spills more than is allowed"]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
