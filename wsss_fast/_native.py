"""Find, build and load the native libraries; report which backend is in use and why.

`load(device)` is called by the first op that runs on a device, never at import. It tries, in this
order: a library of the installed package, one from the cache, a new build (_build.py) under a file
lock. If none of them is available, it warns once and the ops use the PyTorch reference.
"""

import ctypes
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

from wsss_fast import _build
from wsss_fast._build import NAMES, BuildFailed, Plan, Unavailable

try:
    import fcntl
except ImportError:  # Windows always uses the PyTorch reference
    fcntl = None  # type: ignore[assignment]

LIBRARIES = Path(__file__).resolve().parent / "lib"  # only in ahead-of-time wheels


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


_state = {part: _Backend(part) for part in ("cpu", "cuda")}
_lock = threading.RLock()


# ---- a library's manifest


def _read_manifest(library: Path) -> dict:
    """Read the manifest of a library and compare the file with it.

    Loading a damaged library would crash the process.

    Raises:
        Unavailable: a file is missing or damaged.
    """
    path = library.with_suffix(".json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        size, expected = int(manifest["size"]), manifest["sha256"]
        data = library.read_bytes()
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"{path} cannot be read: {error}") from None
    if len(data) != size or hashlib.sha256(data).hexdigest() != expected:
        raise Unavailable(
            f"{library} is damaged: its {len(data)} bytes do not match its manifest ({size} bytes)"
        )
    return manifest


def _open(library: Path, manifest: dict) -> None:
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


# ---- libraries of an installed wheel


def _cuda_driver() -> int:
    """The newest CUDA version that the driver supports, as 13000; 0 without a driver."""
    version = ctypes.c_int(0)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def _capabilities() -> list[tuple[int, int]]:
    return sorted({torch.cuda.get_device_capability(d) for d in range(torch.cuda.device_count())})


def _runs(capability: tuple[int, int], archs: list[str]) -> bool:
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
    missing = [f"{a}.{b}" for a, b in _capabilities() if not _runs((a, b), archs)]
    if missing:
        raise Unavailable(
            f"the installed library has code for sm_{', sm_'.join(archs)}, "
            f"not for compute capability {missing[0]}"
        )


def _cpu_candidates() -> list[str]:
    if not _build.is_x86():
        return [NAMES["cpu"]]
    capability = torch.backends.cpu.get_cpu_capability()
    return [
        NAMES["cpu"] + suffix
        for suffix, _, cpus in _build.X86_LEVELS
        if capability.startswith(cpus)
    ]


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
    manifest = _read_manifest(found[0])
    if manifest.get("source_hash") != _build.source_hash(part):
        raise Unavailable(
            f"{found[0]} was built from other sources than those of this installation; "
            "reinstall wsss-fast"
        )
    if part == "cuda":
        _check_cuda(manifest)
    return found[0], manifest


# ---- the cache


def _temporary_cache() -> Path:
    return Path(tempfile.gettempdir()) / f"wsss_fast-{os.getuid()}"


def _cache_folders() -> list[Path]:
    """Directories for builds, in order of preference.

    WSSS_FAST_CACHE if it is set, else the user's cache directory and a private directory under the
    temporary directory.
    """
    if explicit := os.environ.get("WSSS_FAST_CACHE"):
        return [Path(explicit)]
    folders = [_temporary_cache()]
    with suppress(RuntimeError):  # the user has no home directory
        folders.insert(
            0, Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "wsss_fast"
        )
    return folders


def _is_foreign(folder: Path) -> bool:
    """Whether another user owns our directory under the temporary directory.

    Anybody can create it, so no code is loaded from it.
    """
    return folder == _temporary_cache() and folder.stat().st_uid != os.getuid()


def cache_folder() -> Path:
    """The first writable cache directory.

    Raises:
        Unavailable: no cache directory is writable.
    """
    problem = ""
    for folder in _cache_folders():
        try:
            folder.mkdir(
                mode=0o700 if folder == _temporary_cache() else 0o777, parents=True, exist_ok=True
            )
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            problem = f"{folder} is not writable ({error.strerror})"
            continue
        if not _is_foreign(folder):
            return folder
        problem = f"{folder} belongs to another user"
    raise Unavailable(f"no directory for the build: {problem}; set WSSS_FAST_CACHE")


def _find_cached(plan: Plan) -> tuple[Path, dict] | None:
    """The undamaged library of `plan` in a cache, with its manifest; None if there is none.

    The cache may be read-only, for example one that another user maintains for all.
    """
    for folder in _cache_folders():
        library = folder / plan.key / plan.library
        if os.access(library, os.R_OK) and not _is_foreign(folder):
            with suppress(Unavailable):
                return library, _read_manifest(library)
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel releases it when its holder dies."""
    # In a shared cache the file may belong to another user: reading it is enough for a lock.
    read_only = path.exists() and not os.access(path, os.W_OK)
    with open(path, "r" if read_only else "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                "wsss_fast: another process is building the native ops; waiting for it",
                file=sys.stderr,
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_into_cache(plan: Plan) -> tuple[Path, dict, float | None]:
    """The library of `plan`, from a cache or built into it.

    Returns:
        The library, its manifest, and the seconds of the build (None if it was in a cache).
    """
    if found := _find_cached(plan):
        return *found, None
    cache = cache_folder()
    library = cache / plan.key / plan.library
    with _locked(cache / f"{plan.key}.lock"):
        if found := _find_cached(plan):
            return *found, None
        # We hold the lock, so any other build directory of this key was left by a killed build.
        for leftover in cache.glob(f"{plan.key}.build-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        archs = f" sm_{','.join(plan.cuda_archs)}" if plan.cuda_archs else ""
        what = (
            "the module _C" if plan.part == "module" else f"native ops ({plan.part.upper()}{archs})"
        )
        print(
            f"wsss_fast: building {what} with {plan.compiler} ... ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        start = time.perf_counter()
        try:
            _build_into(library, plan)
        except BaseException as error:
            print("failed", file=sys.stderr, flush=True)
            if isinstance(error, BuildFailed):
                raise Unavailable(
                    f"the build failed: {error}{_keep_log(error, cache / f'{plan.key}.log')}"
                ) from None
            if isinstance(error, OSError):
                raise Unavailable(
                    f"cannot build in {cache}: {error}; set WSSS_FAST_CACHE to another directory"
                ) from None
            raise
        seconds = time.perf_counter() - start
        print(f"{seconds:.1f} s, cached in {library.parent}", file=sys.stderr, flush=True)
        return library, _read_manifest(library), seconds


def _keep_log(error: BuildFailed, path: Path) -> str:
    try:
        path.write_text(error.log, encoding="utf-8")
    except OSError:
        return ""
    return f" (full log: {path})"


def _build_into(library: Path, plan: Plan) -> None:
    """Build in a temporary directory, sync and rename: the final directory is always complete."""
    folder = Path(tempfile.mkdtemp(prefix=f"{plan.key}.build-", dir=library.parent.parent))
    try:
        built = _build.compile_library(plan, folder)
        done = folder / "done"
        done.mkdir()
        os.replace(built, done / built.name)
        manifest = _build.write_manifest(plan, done / built.name)
        for path in (done / built.name, manifest, done):
            _sync(path)
        shutil.rmtree(library.parent, ignore_errors=True)  # a damaged build
        os.replace(done, library.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- loading


def _plan(part: str) -> Plan:
    if part == "cpu":
        return _build.make_plan("cpu")
    wanted = (torch.version.cuda or "").split(".")[0]
    nvcc = _build.find_nvcc()
    if not wanted:
        raise Unavailable("this torch is not built for CUDA")
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
    return _build.make_plan("cuda", archs=tuple(f"{a}{b}" for a, b in _capabilities()))


def _load_native(backend: _Backend) -> None:
    """Load a library for `backend`.

    Raises:
        Unavailable: there is none; the message has all reasons.
    """
    problem = ""
    try:
        if installed := installed_library(backend.part):
            path, manifest = installed
            _open(path, manifest)
            backend.path, backend.manifest, backend.reason = path, manifest, "built ahead of time"
            return
    except (Unavailable, OSError) as error:
        problem = f"{error}; "
    try:
        plan = _plan(backend.part)
        path, manifest, backend.build_seconds = _build_into_cache(plan)
        _open(path, manifest)
    except (Unavailable, OSError) as error:
        raise Unavailable(f"{problem}{error}") from None
    backend.path, backend.manifest = path, manifest
    backend.reason = problem + (
        "found in the cache" if backend.build_seconds is None else "built at first use"
    )


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
    path, *_ = _build_into_cache(_build.make_plan("module"))
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
        "build_info": {key: value for key, value in cpu.manifest.items() if key != "torch_symbols"},
    }
