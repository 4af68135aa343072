"""Find, build and load the native libraries; report which backend is in use and why.

`load(device)` is called by the first op that runs on a device, never at import. It tries, in this
order: a library of the installed package, one from the cache, a new build (`_build`) under a file
lock, any library of the cache that fits. If none of them is available, it warns once and the ops
use the PyTorch reference.
"""

import importlib.machinery
import importlib.util
import os
import platform
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

from wsss_fast import _build
from wsss_fast._build import Plan, Unavailable
from wsss_fast._native import libraries
from wsss_fast._native.cache import Found, cache_folder, find_fitting, find_or_build
from wsss_fast._process import shared

__all__ = ["Unavailable", "cache_folder", "info", "load", "module"]


@dataclass
class _Backend:
    """The library for one type of device, or the reason why there is none."""

    part: str
    path: Path | None = None
    manifest: dict = field(default_factory=dict)
    reason: str = "not loaded yet: no op has run"
    build_seconds: float | None = None
    done: bool = False

    @property
    def native(self) -> bool:
        return self.path is not None


_state: dict[str, _Backend] = shared(
    "backends", lambda: {part: _Backend(part) for part in ("cpu", "cuda")}
)
_lock = shared("lock", threading.RLock)


def _cuda_plan(archs: tuple[str, ...]) -> Plan:
    """The plan of the CUDA library; Unavailable without a toolkit of torch's CUDA release."""
    wanted = (torch.version.cuda or "").split(".")[0]
    nvcc = _build.find_nvcc()
    if nvcc is None:
        raise Unavailable(
            f"nvcc is missing: install the CUDA toolkit {torch.version.cuda} or set CUDA_HOME"
        )
    if _build.nvcc_release(nvcc).split(".")[0] != wanted:
        raise Unavailable(
            f"{nvcc} is of CUDA {_build.nvcc_release(nvcc)}, "
            f"this torch of CUDA {torch.version.cuda}: "
            f"point CUDA_HOME at a toolkit of CUDA {wanted}"
        )
    return _build.make_plan("cuda", archs=archs)


def _library(part: str) -> Found:
    """The library of a part from the cache, or built into it."""
    if part != "cuda":
        return find_or_build(part, lambda: _build.make_plan(part))
    if not torch.version.cuda:
        raise Unavailable("this torch is not built for CUDA")
    archs = tuple(f"{a}{b}" for a, b in libraries.capabilities())
    return find_or_build(part, lambda: _cuda_plan(archs), archs)


def _load_native(backend: _Backend) -> None:
    """Load a library for `backend`.

    Raises:
        Unavailable: there is none; the message has all reasons.
    """
    problem = ""
    try:
        if installed := libraries.installed_library(backend.part):
            path, manifest = installed
            libraries.open_library(path, manifest)
            backend.path, backend.manifest, backend.reason = path, manifest, "built ahead of time"
            return
    except (Unavailable, OSError) as error:
        problem = f"{error}; "
    try:
        path, manifest, seconds = _library(backend.part)
        libraries.open_library(path, manifest)
    except (Unavailable, OSError) as error:
        fitting, others = _open_fitting(backend.part)
        if fitting is None:
            # The library that could not be opened or built is named already.
            more = "" if not others or others in str(error) else f"{others}; "
            raise Unavailable(f"{problem}{more}{error}") from None
        path, manifest, seconds = fitting
        problem += f"{error}; "
    backend.path, backend.manifest, backend.build_seconds = path, manifest, seconds
    backend.reason = problem + ("found in the cache" if seconds is None else "built at first use")


def _open_fitting(part: str) -> tuple[Found | None, str]:
    """Open a library of the cache that was built elsewhere; None, and why not, without one."""
    problem = ""
    with suppress(Unavailable):  # the sources are missing
        fitting, problem = find_fitting(part)
        for found in fitting:
            with suppress(Unavailable, OSError):
                libraries.open_library(found.path, found.manifest)
                return found, ""
    return None, problem


def _warn_once(message: str) -> None:
    # Worker processes inherit the variable, so that data loader workers do not warn again.
    warned = os.environ.get("WSSS_FAST_WARNED", "")
    if message not in warned:
        os.environ["WSSS_FAST_WARNED"] = warned + message
        warnings.warn(f"wsss_fast: {message}", RuntimeWarning, stacklevel=2)


def load(device: str = "cpu") -> bool:
    """Load the native kernels for a device type, which may build them; once per process.

    Args:
        device: "cpu" or "cuda"; other device types have no native kernels.

    Returns:
        Whether the native kernels are available.

    Raises:
        ValueError: WSSS_FAST_BACKEND is not native, reference or auto.
        RuntimeError: WSSS_FAST_BACKEND is native and the kernels are not available.
    """
    backend = _state.get(device)
    if backend is None:
        return False
    if backend.done:
        return backend.native
    wanted = os.environ.get("WSSS_FAST_BACKEND", "auto")
    if wanted not in ("native", "reference", "auto"):
        raise ValueError(f"WSSS_FAST_BACKEND is {wanted!r}; must be native, reference or auto")
    with _lock:
        if backend.done:
            return backend.native
        if wanted == "reference":
            backend.reason = "WSSS_FAST_BACKEND=reference"
        else:
            try:
                _load_native(backend)
            except Unavailable as error:
                backend.reason = str(error)
                if wanted == "native":
                    raise RuntimeError(f"WSSS_FAST_BACKEND=native, but {error}") from error
                tensors = "" if device == "cpu" else f" for {device.upper()} tensors"
                _warn_once(f"using the slower PyTorch reference{tensors}, because {error}")
        backend.done = True
    return backend.native


def module() -> ModuleType:
    """The pybind11 module `_C`, built at first use, which reads build information from libraries.

    Raises:
        Unavailable: it cannot be built; it also needs the Python headers and pybind11.
    """
    path = _library("module").path
    loader = importlib.machinery.ExtensionFileLoader("_C", str(path))
    spec = importlib.util.spec_from_file_location("_C", path, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    return found


def info() -> dict:
    """The backend in use and why, versions, SIMD level, CUDA architectures, build time and path.

    Loads, and builds if needed, the libraries for the CPU and, if torch finds a GPU, for CUDA.
    """
    load("cpu")
    cpu, cuda = _state["cpu"], _state["cuda"]
    if torch.cuda.is_available():
        load("cuda")
    elif not cuda.done:
        cuda.reason = (
            "torch sees no GPU" if torch.version.cuda else "this torch is not built for CUDA"
        )
    return {
        "backend": "native" if cpu.native else "reference",
        "why": cpu.reason,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiler": cpu.manifest.get("compiler"),
        "simd": cpu.manifest.get("simd"),
        "build_seconds": cpu.build_seconds,
        "library": str(cpu.path) if cpu.path else None,
        "cuda_backend": "native" if cuda.native else "reference",
        "cuda_why": cuda.reason,
        "cuda_archs": cuda.manifest.get("cuda_archs", "").split(),
        "cuda_build_seconds": cuda.build_seconds,
        "cuda_library": str(cuda.path) if cuda.path else None,
        "build_info": {
            key: value
            for key, value in cpu.manifest.items()
            if key not in ("torch_symbols", "runs_on")
        },
    }
