"""The CUDA backend as a library for CPU tensors.

csrc/tests/cuda_on_cpu.h runs its host code and kernels.
"""

import functools
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

CSRC = Path(__file__).resolve().parents[2] / "csrc"
# No contraction, as in the JIT build: otherwise lattice vertices would differ.
CXX_FLAGS = (
    "-std=c++20",
    "-O1",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
)
if platform.machine() in ("x86_64", "AMD64"):
    CXX_FLAGS += ("-march=x86-64-v3",)  # without it, fmaf is a slow library call


KEPT: list[torch.library.Library] = []  # a library's registrations end with it


def build(compiler: str, cache: Path) -> Path:
    """The library in `cache`, compiled unless there is a build of the same sources."""
    sources = [CSRC / "bind" / "cuda.cpp", *sorted((CSRC / "cuda").glob("*.cu"))]
    digest = hashlib.sha256(repr((CXX_FLAGS, torch.__version__, compiler)).encode())
    for path in sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cuh", ".cu", ".cpp")):
        if path.parent.name in ("bind", "cuda", "math") or path.name.endswith("_on_cpu.h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    library = cache / f"emulated-cuda-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    torch_folder = Path(torch.__file__).parent
    flags = [
        *CXX_FLAGS,
        "-fPIC",
        "-DWSSS_EMULATE_CUDA",
        "-DUSE_CUDA",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
    ]
    flags += [f"-I{CSRC}", "-isystem", str(torch_folder / "include")]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:

        def call(*words: str | Path) -> None:
            command = [compiler, *map(str, words)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

        # Every source includes the emulator, whose headers take a third of the time of most.
        emulator = Path(folder, "emulator.h")
        emulator.write_text('#include "tests/cuda_on_cpu.h"\n')
        call(*flags, "-x", "c++-header", emulator, "-o", f"{emulator}.gch")

        def compile_one(source: Path) -> str:
            target = f"{folder}/{source.name}.o"
            call(*flags, "-include", emulator, "-x", "c++", "-c", source, "-o", target)
            return target

        with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compile_one, sources))
        target = f"{folder}/library.so"
        libraries = (f"-L{torch_folder / 'lib'}", "-ltorch", "-ltorch_cpu")
        call("-shared", *objects, *libraries, "-o", target)
        os.replace(target, library)
    return library


def serve(library: str) -> None:
    """Use the emulated backend for CPU tensors in this process, not the native CPU kernels."""
    from wsss_fast import _native
    from wsss_fast.ops import bilateral_filter, dense_crf, dense_energy_loss, reference

    # Inputs that the CUDA kernels do not support go to the CPU kernels, which are not loaded here:
    # the reference implementations replace them.
    cpu = torch.library.Library("wsss_fast_cpu", "DEF")
    for name, function in (
        ("bilateral_filter", sys.modules[bilateral_filter.__module__]._reference),
        ("dense_crf", sys.modules[dense_crf.__module__]._reference),
        ("dense_energy_loss", sys.modules[dense_energy_loss.__module__]._reference),
        ("permutohedral_lattice", reference.permutohedral_lattice),
    ):
        schema = str(getattr(torch.ops.wsss_fast, name).default._schema)
        cpu.define(schema.replace("wsss_fast::", ""))
        cpu.impl(name, function, "CPU")
    torch.ops.load_library(library)
    _native._state["cpu"] = _native._Backend(
        "cpu", path=Path(library), reason=f"emulated CUDA: {library}", done=True
    )
    KEPT.append(cpu)
    # Autograd and tracing are the same for every backend: a kernel can only write where it must
    # not, or return something else than its fake.
    torch.library.opcheck = functools.partial(
        torch.library.opcheck, test_utils=("test_schema", "test_faketensor")
    )
