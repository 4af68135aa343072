"""The plan of a build: compilers, flags, and the name of its directory in the cache."""

import hashlib
import json
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from .compilers import (
    TORCH_TARGET,
    arch_flags,
    check_torch,
    cpu_features,
    find_compiler,
    find_nvcc,
    host_compiler_of,
    nvcc_flags,
    nvcc_release,
    run,
    simd_level,
    toolkit_libraries,
)
from .sources import NAMES, Unavailable, list_sources, source_hash

TORCH_INCLUDE = Path(torch.__file__).parent / "include"


def system_includes(part: str, torch_include: Path) -> tuple[str, ...]:
    """Directories of torch's headers, or for the module part of pybind11's and Python's.

    The copies of pybind11 in torch 2.10 to 2.12 cannot be compiled with the stable ABI.
    """
    if part != "module":
        return (str(torch_include),)
    try:
        import pybind11  # only the module part needs it
    except ImportError:
        raise Unavailable("pybind11 is missing: pip install pybind11") from None
    python = sysconfig.get_paths()["include"]
    if not Path(python, "Python.h").is_file():
        raise Unavailable(
            f"Python.h is not in {python}: install the Python headers (apt install python3-dev)"
        )
    return pybind11.get_include(), python


def cxx_flags(part: str, arch: str) -> tuple[str, ...]:
    """Flags of the C++ compiler, for a part and a value of -march."""
    # No contraction: see nvcc_flags. It costs no speed, because the kernels are memory-bound.
    flags: tuple[str, ...] = (
        "-std=c++20",
        "-O3",
        "-fPIC",
        "-fvisibility=hidden",
        "-ffp-contract=off",
        "-Wall",
        "-Wno-psabi",
    )
    flags += (f"-DTORCH_TARGET_VERSION={TORCH_TARGET}",)
    if part == "cpu":
        openmp = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
        return *flags, *["-DWSSS_TORCH_USES_OPENMP"] * openmp, *arch_flags(arch)
    return (*flags, "-DUSE_CUDA") if part == "cuda" else flags


@dataclass(frozen=True)
class Plan:
    """All inputs of the build of one library; `key` names its directory in the cache."""

    part: str
    cxx: tuple[str, ...]
    compiler: str
    cxx_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    nvcc: str | None
    nvcc_flags: tuple[str, ...]
    cuda: str
    cuda_archs: tuple[str, ...]
    simd: str
    sources: tuple[Path, ...]
    key: str
    runs_on: dict[str, str]

    @property
    def library(self) -> str:
        """The file name of the library."""
        return NAMES[self.part] + ".so"

    def describe(self) -> dict[str, str]:
        """Build information that is compiled into the library and written to its manifest."""
        return {
            "part": self.part,
            "source_hash": source_hash(self.part),
            "compiler": self.compiler,
            "flags": " ".join(self.cxx_flags),
            "simd": self.simd,
            "cuda": self.cuda,
            "cuda_archs": " ".join(self.cuda_archs),
        }


def cache_key(part: str, archs: tuple[str, ...] = (), arch: str = "native") -> str:
    """The name of a library's directory in the cache; no compiler is run for it.

    Args:
        part: "cpu", "cuda" or "module".
        archs: compute capabilities of the CUDA code, as "90".
        arch: -march of the CPU code.

    Raises:
        Unavailable: there is no compiler, or the sources are missing.
    """
    if os.name == "nt":  # Windows always uses the PyTorch reference
        raise Unavailable("native builds need Linux or macOS")
    cxx = find_compiler()
    identity = [
        part,
        source_hash(part),
        cxx,
        cxx_flags(part, arch),
        nvcc_flags(archs, host_compiler_of(cxx)) if part == "cuda" else (),
        runs_on(part, arch),
    ]
    return f"{part}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]}"


def runs_on(part: str, arch: str = "native") -> dict[str, str]:
    """What a process must have to load a library that is built here: torch, CPU, Python."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": " ".join(sorted(cpu_features())) if part == "cpu" and arch == "native" else "",
        "python": str(sysconfig.get_config_var("SOABI")) if part == "module" else "",
    }


def make_plan(
    part: str, *, arch: str = "native", archs: tuple[str, ...] = (), torch_libraries: bool = True
) -> Plan:
    """Choose compilers and flags for the build of one library.

    Args:
        part: "cpu", "cuda" or "module".
        arch: -march of the CPU code: "native", or a level such as "x86-64-v3" for a wheel.
        archs: compute capabilities of the CUDA code, as "90".
        torch_libraries: link against the libraries of the installed torch; if False, their symbols
            are resolved when the library is loaded.

    Raises:
        Unavailable: a compiler, a header or a toolkit is missing.
    """
    check_torch()
    cxx = find_compiler()
    compiler = run(*cxx, "--version").strip().splitlines()[:1]
    flags = cxx_flags(part, arch)
    link: tuple[str, ...] = ("-shared", "-pthread")
    if torch_libraries and part != "module":
        link += (f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-ltorch_cpu")
        link += ("-ltorch_cuda",) if part == "cuda" else ()
    if sys.platform == "darwin":
        link += ("-undefined", "dynamic_lookup")
    nvcc, cuda = None, ""
    device_flags: tuple[str, ...] = ()
    if part == "cuda":
        nvcc = find_nvcc()
        if nvcc is None:
            raise Unavailable("nvcc is missing: install the CUDA toolkit or set CUDA_HOME")
        cuda, device_flags = nvcc_release(nvcc), nvcc_flags(archs, host_compiler_of(cxx))
        link += (f"-L{toolkit_libraries(nvcc)}", "-lcudart_static", "-ldl", "-lrt")
    return Plan(
        part,
        cxx,
        "".join(compiler),
        flags,
        link,
        nvcc,
        device_flags,
        cuda,
        archs,
        simd_level(cxx, flags) if part == "cpu" else "",
        list_sources(part),
        cache_key(part, archs, arch),
        runs_on(part, arch),
    )
