"""The native libraries: found, built at first use under a file lock, loaded; what is in use and why; the one warning.

`load(device)` is called by the first op that runs on a device, never at import. It takes, in this order: a library of the
installed package, one from the cache, or a fresh build (_build.py). Else the PyTorch reference stays in charge.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from wsss_fast import _build
from wsss_fast._build import NAMES, BuildFailed, Plan, Unavailable

try:
    import fcntl
except ImportError:  # Windows: the reference serves there
    fcntl = None

LIBRARIES = Path(__file__).resolve().parent / "lib"  # of a wheel that was built ahead of time


@dataclass
class _Backend:
    """What serves one type of device."""

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
    """The manifest of an undamaged library; a library that is not what was built would end the process when loaded."""
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
            f"{library} is damaged: {len(data)} bytes, not what its manifest says of {size}"
        )
    return manifest


def _open(library: Path, manifest: dict) -> None:
    """Load a library, which registers its kernels.

    That of a wheel is not linked against torch's libraries, wherever they may lie: it looks their functions up among those
    that are loaded. They are looked for here first, since it could not report what is missing.
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
            hint = "; an older libstdc++ comes first: take it off LD_LIBRARY_PATH, or set CXX to the compiler that goes with it"
        raise Unavailable(f"{error}{hint}") from None


# ---- libraries of an installed wheel


def _cuda_driver() -> int:
    """The newest CUDA version that the driver runs, as 13000; 0 when there is no driver."""
    version = ctypes.c_int(0)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def _capabilities() -> list[tuple[int, int]]:
    return sorted({torch.cuda.get_device_capability(d) for d in range(torch.cuda.device_count())})


def _runs(capability: tuple[int, int], archs: list[str]) -> bool:
    """Whether code for `archs` ("90": its machine code, "90+ptx": compiled by the driver, too) runs on a card."""
    for arch in archs:
        number, _, ptx = arch.partition("+")
        major, minor = int(number[:-1]), int(number[-1])
        if (ptx and (major, minor) <= capability) or (
            major == capability[0] and minor <= capability[1]
        ):
            return True
    return False


def _check_cuda(manifest: dict) -> None:
    """Refuse a CUDA library that this torch, driver or card does not run."""
    built, ours = manifest.get("cuda", ""), torch.version.cuda or ""
    if built.split(".")[0] != ours.split(".")[0]:
        raise Unavailable(
            f"the installed library is for CUDA {built.split('.')[0]}, this torch for CUDA {ours or 'none'}"
        )
    driver, needed = _cuda_driver(), int(built.split(".")[0]) * 1000
    if driver < needed:
        raise Unavailable(
            f"the driver runs CUDA {driver // 1000}.{driver % 1000 // 10}, the installed library needs {built}"
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
    """The best library of the installed package for this machine, with its manifest; None if the package has none.

    Raises:
        Unavailable: there are some, and none of them runs here.
    """
    names = _cpu_candidates() if part == "cpu" else [NAMES[part]]
    found = [path for path in (LIBRARIES / f"{name}.so" for name in names) if path.is_file()]
    if not found:
        if any(LIBRARIES.glob(f"{NAMES[part]}*.so")):
            raise Unavailable(
                f"the installed libraries do not run on this CPU ({torch.backends.cpu.get_cpu_capability()})"
            )
        return None
    manifest = _read_manifest(found[0])
    if manifest.get("source_hash") != _build.source_hash(part):
        raise Unavailable(
            f"{found[0]} was built from other sources than those of this installation; reinstall wsss-fast"
        )
    if part == "cuda":
        _check_cuda(manifest)
    return found[0], manifest


# ---- the cache


def _temporary_cache() -> Path:
    return Path(tempfile.gettempdir()) / f"wsss_fast-{os.getuid()}"


def _cache_folders() -> list[Path]:
    """Where builds may lie: WSSS_FAST_CACHE, else the user's cache and a private folder under the temporary directory."""
    if explicit := os.environ.get("WSSS_FAST_CACHE"):
        return [Path(explicit)]
    folders = [_temporary_cache()]
    with suppress(RuntimeError):  # a user without a home
        folders.insert(
            0, Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "wsss_fast"
        )
    return folders


def _is_foreign(folder: Path) -> bool:
    """Whether the folder of our name under the temporary directory is someone else's: no code is loaded from there."""
    return folder == _temporary_cache() and folder.stat().st_uid != os.getuid()


def cache_folder() -> Path:
    """The first of the cache folders that can be written to."""
    refused = ""
    for folder in _cache_folders():
        try:
            folder.mkdir(
                mode=0o700 if folder == _temporary_cache() else 0o777, parents=True, exist_ok=True
            )
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            refused = f"{folder} is not writable ({error.strerror})"
            continue
        if not _is_foreign(folder):
            return folder
        refused = f"{folder} belongs to another user"
    raise Unavailable(f"no place for the build: {refused}; set WSSS_FAST_CACHE")


def _find_cached(plan: Plan) -> tuple[Path, dict] | None:
    """The undamaged library of `plan` in a cache, with its manifest; not writable perhaps: another user may keep it for all."""
    for folder in _cache_folders():
        library = folder / plan.key / plan.library
        if os.access(library, os.R_OK) and not _is_foreign(folder):
            with suppress(Unavailable):
                return library, _read_manifest(library)
    return None


@contextmanager
def _locked(path: Path):
    """Exclusive between processes; the kernel drops the lock when its holder dies, however it dies."""
    of_another_user = path.exists() and not os.access(
        path, os.W_OK
    )  # with whom the cache is shared: read-only will do
    with open(path, "r" if of_another_user else "a") as file:
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
    """The cached library of `plan` with its manifest, built when missing; and the seconds that took."""
    if found := _find_cached(plan):
        return *found, None
    cache = cache_folder()
    library = cache / plan.key / plan.library
    with _locked(cache / f"{plan.key}.lock"):
        if found := _find_cached(plan):
            return *found, None
        # Holding the lock: whatever other builds of this key left behind is dead.
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
                    f"nothing can be built in {cache}: {error}; set WSSS_FAST_CACHE to another folder"
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
    return f" (all that was printed: {path})"


def _build_into(library: Path, plan: Plan) -> None:
    """Compile beside the library's folder and rename: what has its name is whole, and on the disk."""
    folder = Path(tempfile.mkdtemp(prefix=f"{plan.key}.build-", dir=library.parent.parent))
    try:
        built = _build.compile_library(plan, folder)
        done = folder / "done"
        done.mkdir()
        os.replace(built, done / built.name)
        manifest = _build.write_manifest(plan, done / built.name)
        for path in (done / built.name, manifest, done):
            _sync(path)
        shutil.rmtree(library.parent, ignore_errors=True)  # damaged
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
            f"{nvcc} is of CUDA {_build.nvcc_release(nvcc)}, this torch of CUDA {torch.version.cuda}: "
            f"point CUDA_HOME at a toolkit of CUDA {wanted}"
        )
    return _build.make_plan("cuda", archs=tuple(f"{a}{b}" for a, b in _capabilities()))


def _load_native(backend: _Backend) -> None:
    """Load a library for `backend` or raise with every reason why there is none."""
    refused = ""
    try:
        if installed := installed_library(backend.part):
            path, manifest = installed
            _open(path, manifest)
            backend.path, backend.manifest, backend.reason = path, manifest, "built ahead of time"
            return
    except (Unavailable, OSError) as error:
        refused = f"{error}; "
    try:
        plan = _plan(backend.part)
        path, manifest, backend.build_seconds = _build_into_cache(plan)
        _open(path, manifest)
    except (Unavailable, OSError) as error:
        raise Unavailable(f"{refused}{error}") from None
    backend.path, backend.manifest = path, manifest
    backend.reason = refused + (
        "found in the cache" if backend.build_seconds is None else "built at first use"
    )


def _warn_once(message: str) -> None:
    # Worker processes inherit the variable, so a data loader does not repeat the warning.
    warned = os.environ.get("WSSS_FAST_WARNED", "")
    if message not in warned:
        os.environ["WSSS_FAST_WARNED"] = warned + message
        warnings.warn(f"wsss_fast: {message}", RuntimeWarning, stacklevel=2)


def load(device: str = "cpu") -> bool:
    """Make the native kernels of a device type ("cpu", "cuda") available if they can be; True when they are.

    Builds at most once a process. Other device types have no kernels: False.
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


def module():
    """The pybind11 module `_C`, built at first use: what the loaded libraries say of themselves.

    Raises:
        Unavailable: it cannot be built here; it also needs the Python headers and pybind11.
    """
    path, *_ = _build_into_cache(_build.make_plan("module"))
    loader = importlib.machinery.ExtensionFileLoader("_C", str(path))
    found = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("_C", path, loader=loader)
    )
    loader.exec_module(found)
    return found


def info() -> dict:
    """The backend in use and why, versions, SIMD level, CUDA architectures, build time and place.

    Loads, and where needed builds, the libraries for the CPU and, where torch sees a GPU, for CUDA.
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
