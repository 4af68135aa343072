"""Load a library into the process, and find the libraries of an installed wheel."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

from wsss_fast import _build
from wsss_fast._build import NAMES, X86_LEVELS, Unavailable, read_manifest

LIBRARIES = Path(__file__).resolve().parents[1] / "lib"  # only in ahead-of-time wheels


def open_library(library: Path, manifest: dict) -> None:
    """Load a library, which registers its kernels.

    A library of a wheel is not linked against torch's libraries, whose location is not known at
    build time; it looks up their functions in the process. This is checked here first, because the
    library itself could not report a missing function.
    """
    _build.check_torch()
    if wanted := manifest.get("torch_symbols", "").split():
        names = (
            ("libtorch_cpu.so", "libtorch_cuda.so")
            if manifest["part"] == "cuda"
            else ("libtorch_cpu.so",)
        )
        torch_libraries = [ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY) for name in names]
        missing = [
            name for name in wanted if not any(hasattr(found, name) for found in torch_libraries)
        ]
        if missing:
            raise Unavailable(
                f"torch {torch.__version__} has no {missing[0]}, which {library.name} needs"
            )
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        hint = ""
        if "GLIBCXX" in str(error) or "CXXABI" in str(error):
            hint = (
                "; an older libstdc++ comes first: take it off LD_LIBRARY_PATH, "
                "or set CXX to the compiler that goes with it"
            )
        raise Unavailable(f"{error}{hint}") from None


def _cuda_driver() -> int:
    """The newest CUDA version that the driver supports, as 13000; 0 without a driver."""
    version = ctypes.c_int(0)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def capabilities() -> list[tuple[int, int]]:
    """Compute capabilities of the GPUs, each once, ascending."""
    return sorted({torch.cuda.get_device_capability(d) for d in range(torch.cuda.device_count())})


def runs(capability: tuple[int, int], archs: list[str]) -> bool:
    """Whether code for `archs` ("90": machine code, "90+ptx": also PTX) runs on a GPU."""
    for arch in archs:
        number, _, ptx = arch.partition("+")
        major, minor = int(number[:-1]), int(number[-1])
        if (ptx and (major, minor) <= capability) or (
            major == capability[0] and minor <= capability[1]
        ):
            return True
    return False


def _check_cuda(manifest: dict) -> None:
    """Raise Unavailable if torch, the driver or a GPU cannot run the CUDA library."""
    built, ours = manifest.get("cuda", ""), torch.version.cuda or ""
    if built.split(".")[0] != ours.split(".")[0]:
        raise Unavailable(
            f"the installed library is for CUDA {built.split('.')[0]}, "
            f"this torch is for CUDA {ours or 'none'}"
        )
    driver, needed = _cuda_driver(), int(built.split(".")[0]) * 1000
    if driver < needed:
        raise Unavailable(
            f"the driver supports CUDA {driver // 1000}.{driver % 1000 // 10}, "
            f"the installed library needs {built}"
        )
    archs = manifest.get("cuda_archs", "").split()
    missing = [f"{a}.{b}" for a, b in capabilities() if not runs((a, b), archs)]
    if missing:
        raise Unavailable(
            f"the installed library has code for sm_{', sm_'.join(archs)}, "
            f"not for compute capability {missing[0]}"
        )


def _cpu_candidates() -> list[str]:
    if not _build.is_x86():
        return [NAMES["cpu"]]
    capability = torch.backends.cpu.get_cpu_capability()
    return [NAMES["cpu"] + suffix for suffix, _, cpus in X86_LEVELS if capability.startswith(cpus)]


def installed_library(part: str) -> tuple[Path, dict] | None:
    """The fastest library of the installed package for this machine, with its manifest.

    Returns:
        Path and manifest; None if the package has no libraries.

    Raises:
        Unavailable: the package has libraries, but none of them runs on this machine.
    """
    names = _cpu_candidates() if part == "cpu" else [NAMES[part]]
    found = [path for path in (LIBRARIES / f"{name}.so" for name in names) if path.is_file()]
    if not found:
        if any(LIBRARIES.glob(f"{NAMES[part]}*.so")):
            raise Unavailable(
                "the installed libraries do not run on this CPU "
                f"({torch.backends.cpu.get_cpu_capability()})"
            )
        return None
    manifest = read_manifest(found[0])
    if manifest.get("source_hash") != _build.source_hash(part):
        raise Unavailable(
            f"{found[0]} was built from other sources than those of this installation; "
            "reinstall wsss-fast"
        )
    if part == "cuda":
        _check_cuda(manifest)
    return found[0], manifest
