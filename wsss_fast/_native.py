"""The native library: build flags, find / build / load under a file lock, status, the one warning.

`load()` is called by the first op that runs, never at import. It takes, in this order: a library installed ahead of
time, one from the cache, or a fresh build with ninja. Without a compiler the PyTorch reference stays in charge.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:  # Windows: the reference serves there
    fcntl = None

MODULE = "_C"
PACKAGE = Path(__file__).resolve().parent
# Oldest torch whose stable ABI the sources use: 2.10.
TORCH_TARGET = "0x020a000000000000"
CHECKED_ARCHS = ("80", "90")
# The libraries of an ahead-of-time build for x86, best first: module, -march, and what torch calls the CPUs that run it. The
# loader picks one, so that a wheel computes with AVX-512 where there is any: twice as fast as AVX2 for a CRF of 21 labels.
_X86_LEVELS = (("_C_avx512", "x86-64-v4", ("AVX512",)), (MODULE, "x86-64-v3", ("AVX2", "AVX512")))
INSTALL_COMPILER = "install g++ 11 or newer (Debian/Ubuntu: apt install g++; conda: conda install gxx)"


class Unavailable(Exception):
    """The native library cannot be had here; the message says what is missing and what to install."""


@dataclass
class _State:
    module: object = None
    path: Path | None = None
    reason: str = "not loaded yet: no op has run"
    build_seconds: float | None = None
    compiler: str | None = None
    done: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_state = _State()


@dataclass(frozen=True)
class Plan:
    """Everything that determines a build; `key` names its place in the cache."""

    cxx: str
    compiler: str
    cxx_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    nvcc: str | None
    nvcc_flags: tuple[str, ...]
    cuda_archs: tuple[str, ...]
    sources: tuple[Path, ...]
    key: str


def csrc() -> Path:
    """The C++ sources: inside the package when installed, beside it in a checkout."""
    for folder in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if (folder / "sources.txt").is_file():
            return folder
    raise Unavailable("the C++ sources (csrc) are missing from the installation; reinstall wsss-fast")


def source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in csrc().rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu", ".txt")):
        digest.update(path.relative_to(csrc()).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def list_sources(cuda: bool) -> tuple[Path, ...]:
    names = [line.split("#")[0].strip() for line in (csrc() / "sources.txt").read_text().splitlines()]
    return tuple(csrc() / n for n in names if n and (cuda or not n.endswith(".cu")))


def find_nvcc() -> str | None:
    homes = [os.environ[v] for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    candidates = [f"{home}/bin/nvcc" for home in homes] + [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)


def include_flags() -> tuple[str, ...]:
    try:
        import pybind11  # only a build needs it
    except ImportError:
        raise Unavailable("pybind11 is missing: pip install pybind11") from None
    python = sysconfig.get_paths()["include"]
    if not Path(python, "Python.h").is_file():
        raise Unavailable(f"Python.h is not in {python}: install the Python headers (apt install python3-dev)")
    torch_include = Path(torch.__file__).parent / "include"
    system = [str(torch_include), python, pybind11.get_include()]
    return f"-I{csrc()}", *(part for path in system for part in ("-isystem", path))


def _first_line(*command: str) -> str:
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{command[0]} does not run ({error}); {INSTALL_COMPILER}") from None
    return out.stdout.strip().splitlines()[-1 if "nvcc" in command[0] else 0]


def _cpu_identity() -> str:
    """What -march=native depends on: a shared home may serve different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor()


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _arch_flags(arch: str) -> tuple[str, ...]:
    if _is_x86():
        return (f"-march={arch}",)
    return ("-mcpu=native",) if arch == "native" else ()


def portable_modules() -> dict[str, str]:
    """The modules of an ahead-of-time build, and the `arch` of `make_plan` for each."""
    return {module: arch for module, arch, _ in _X86_LEVELS} if _is_x86() else {MODULE: "baseline"}


def installed_library() -> Path | None:
    """The library built ahead of time that is the best for this CPU; None if none is there or none would run."""
    capability = torch.backends.cpu.get_cpu_capability()
    names = [m for m, _, cpus in _X86_LEVELS if capability.startswith(cpus)] if _is_x86() else [MODULE]
    return next((path for path in (PACKAGE / f"{name}.so" for name in names) if path.is_file()), None)


def _cuda_setting() -> tuple[str | None, tuple[str, ...], str]:
    """nvcc, architectures of the devices here, and why CUDA is left out ('' when it is not)."""
    if not torch.cuda.is_available():
        return None, (), ""
    wanted = (torch.version.cuda or "").split(".")[0]
    nvcc = find_nvcc()
    if not wanted or not nvcc:
        return None, (), f"nvcc is missing: install the CUDA toolkit {torch.version.cuda} or set CUDA_HOME"
    release = re.search(r"release (\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    if not release or release.group(1) != wanted:
        return None, (), f"{nvcc} is not CUDA {wanted} like this torch: point CUDA_HOME at a matching toolkit"
    devices = range(torch.cuda.device_count())
    return nvcc, tuple(sorted({"{}{}".format(*torch.cuda.get_device_capability(d)) for d in devices})), ""


def nvcc_flags(archs: tuple[str, ...]) -> tuple[str, ...]:
    code = (f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs)
    # No fused multiply-add: lattice coordinates must come out the same on every device (see csrc/math/lattice.h).
    flags = ("-std=c++20", "-O3", "--fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden", "--expt-relaxed-constexpr")
    return *flags, "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *code


def make_plan(*, arch: str = "native", cuda: bool = True) -> Plan:
    """The build for this machine, or for an architecture in general, as in a wheel."""
    if fcntl is None:
        raise Unavailable("native builds need Linux or macOS")
    named = os.environ.get("CXX")
    cxx = shutil.which(named) if named else next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if cxx is None:
        raise Unavailable(f"no C++ compiler {named!r}: {INSTALL_COMPILER}" if named
                          else f"no C++ compiler on PATH: {INSTALL_COMPILER}")  # fmt: skip
    compiler = _first_line(cxx, "--version")
    nvcc, archs, _ = _cuda_setting() if cuda else (None, (), "")
    # No contraction: see nvcc_flags. Throughput does not suffer, the kernels wait for memory.
    cxx_flags = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wno-psabi")
    cxx_flags += (f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *_arch_flags(arch))
    libraries = Path(torch.__file__).parent / "lib"
    link_flags = ("-shared", "-pthread", f"-L{libraries}", "-ltorch", "-ltorch_cpu")
    if sys.platform == "darwin":
        link_flags += ("-undefined", "dynamic_lookup")
    if nvcc:
        link_flags += ("-ltorch_cuda", f"-L{Path(nvcc).parent.parent}/lib64", "-lcudart_static", "-ldl", "-lrt")
    identity = [source_hash(), cxx_flags, link_flags, torch.__version__, compiler, sysconfig.get_config_var("SOABI")]
    identity += [_cpu_identity() if arch == "native" else arch, nvcc and _first_line(nvcc, "--version"), archs]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]
    return Plan(cxx, compiler, cxx_flags, link_flags, nvcc, nvcc_flags(archs), archs, list_sources(bool(nvcc)), key)


def _ninja() -> str:
    try:
        import ninja  # only a build needs it

        return str(Path(ninja.BIN_DIR) / "ninja")
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise Unavailable("ninja is missing: pip install ninja") from None
        return found


def _command(*words: str) -> str:
    """Words of a ninja command: quoted for the shell, since folders may have blanks in their names, then for ninja."""
    return shlex.join(words).replace("$", "$$")


def compile_library(plan: Plan, folder: Path) -> Path:
    """Compile and link in `folder`, which becomes self-contained; returns the library."""
    quoted = {"compiler": plan.compiler, "flags": " ".join(plan.cxx_flags), "cuda_archs": " ".join(plan.cuda_archs)}
    quoted["source_hash"] = source_hash()
    header = "".join(f"#define WSSS_{k.upper()} {json.dumps(v)}\n" for k, v in quoted.items())
    (folder / "wsss_build_info.h").write_text(header, encoding="utf-8")
    includes = (f"-I{folder}", *include_flags())
    rules = [f"rule cxx\n  command = {_command(plan.cxx, *plan.cxx_flags, *includes)} -c $in -o $out"]
    if plan.nvcc:
        rules.append(f"rule nvcc\n  command = {_command(plan.nvcc, *plan.nvcc_flags, *includes)} -c $in -o $out")
    rules.append(f"rule link\n  command = {_command(plan.cxx)} $in {_command(*plan.link_flags)} -o $out")
    objects = []
    for number, source in enumerate(plan.sources):
        objects.append(f"{number}.o")
        rule = "nvcc" if source.suffix == ".cu" else "cxx"
        rules.append(f"build {number}.o: {rule} " + re.sub("([$ :])", r"$\1", str(source)))
    rules.append(f"build {MODULE}.so: link {' '.join(objects)}")
    (folder / "build.ninja").write_bytes(os.fsencode("\n".join(rules) + "\n"))
    done = subprocess.run([_ninja(), "-C", str(folder)], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise Unavailable(f"the build failed:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
    return folder / f"{MODULE}.so"


def _temporary_cache() -> Path:
    return Path(tempfile.gettempdir()) / f"wsss_fast-{os.getuid()}"


def _cache_folders() -> list[Path]:
    """Where builds may lie: WSSS_FAST_CACHE, else the user's cache and a private folder under the temporary directory."""
    if explicit := os.environ.get("WSSS_FAST_CACHE"):
        return [Path(explicit)]
    folders = [_temporary_cache()]
    with suppress(RuntimeError):  # a user without a home
        folders.insert(0, Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "wsss_fast")
    return folders


def _is_foreign(folder: Path) -> bool:
    """Whether the folder of our name under the temporary directory is someone else's: no code is loaded from there."""
    return folder == _temporary_cache() and folder.stat().st_uid != os.getuid()


def cache_folder() -> Path:
    """The first of the cache folders that can be written to."""
    refused = ""
    for folder in _cache_folders():
        try:
            folder.mkdir(mode=0o700 if folder == _temporary_cache() else 0o777, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            refused = f"{folder} is not writable ({error.strerror})"
            continue
        if not _is_foreign(folder):
            return folder
        refused = f"{folder} belongs to another user"
    raise Unavailable(f"no place for the build: {refused}; set WSSS_FAST_CACHE")


def _find_cached(plan: Plan) -> Path | None:
    """The library of `plan` in a cache, which need not be writable: another user may keep it for all."""
    libraries = [folder / plan.key / f"{MODULE}.so" for folder in _cache_folders()]
    return next((x for x in libraries if os.access(x, os.R_OK) and not _is_foreign(x.parent.parent)), None)


@contextmanager
def _locked(path: Path):
    """Exclusive between processes; the kernel drops the lock when its holder dies, however it dies."""
    of_another_user = path.exists() and not os.access(path, os.W_OK)  # with whom the cache is shared: read-only will do
    with open(path, "r" if of_another_user else "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("wsss_fast: another process is building the native ops; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_into_cache(plan: Plan, *, replace: bool = False) -> tuple[Path, float | None]:
    """The cached library of `plan`, built when missing; and the seconds that took."""
    if not replace and (library := _find_cached(plan)):
        return library, None
    cache = cache_folder()
    library = cache / plan.key / f"{MODULE}.so"
    with _locked(cache / f"{plan.key}.lock"):
        if library.is_file() and not replace:
            return library, None
        # Holding the lock: whatever other builds of this key left behind is dead.
        for leftover in cache.glob(f"{plan.key}.build-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        parts = "CPU" + (f" and CUDA sm_{','.join(plan.cuda_archs)}" if plan.nvcc else "")
        print(f"wsss_fast: building native ops ({parts}) with {plan.compiler} ... ", end="", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            _build_into(library, plan)
        except BaseException as error:
            print("failed", file=sys.stderr, flush=True)
            if isinstance(error, OSError):
                raise Unavailable(f"nothing can be built in {cache}: {error}; set WSSS_FAST_CACHE to another folder") from None
            raise
        seconds = time.perf_counter() - start
        print(f"{seconds:.1f} s, cached in {library.parent}", file=sys.stderr, flush=True)
        return library, seconds


def _build_into(library: Path, plan: Plan) -> None:
    """Compile beside `library` and rename: what has its name is whole."""
    folder = Path(tempfile.mkdtemp(prefix=f"{plan.key}.build-", dir=library.parent.parent))
    try:
        built = compile_library(plan, folder)
        library.parent.mkdir(exist_ok=True)
        os.replace(built, library)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _import_library(path: Path):
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(path))
    spec = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _load_native() -> None:
    why = ""
    if installed := installed_library():
        module = _import_library(installed)
        if module.build_info()["source_hash"] == source_hash():
            _state.module, _state.path, _state.reason = module, installed, "built ahead of time"
            return
        raise Unavailable(f"{installed} was built from other sources; delete it or build again")
    _, _, why = _cuda_setting()
    plan = make_plan()
    _state.compiler = plan.compiler
    try:
        path, seconds = _build_into_cache(plan)
    except Unavailable as error:
        if not plan.nvcc:
            raise
        why = f"its sources did not compile; {error}"
        plan = make_plan(cuda=False)
        path, seconds = _build_into_cache(plan)
    try:
        module = _import_library(path)
    except ImportError:  # a damaged cache entry
        path, seconds = _build_into_cache(plan, replace=True)
        module = _import_library(path)
    _state.module, _state.path, _state.build_seconds = module, path, seconds
    _state.reason = "found in the cache" if seconds is None else "built at first use"
    if why:
        _warn_once(f"CUDA kernels are not available, CUDA tensors use the slower PyTorch reference: {why}")


def _warn_once(message: str) -> None:
    # Worker processes inherit the variable, so a data loader does not repeat the warning.
    if os.environ.get("WSSS_FAST_WARNED") != message:
        os.environ["WSSS_FAST_WARNED"] = message
        warnings.warn(f"wsss_fast: {message}", RuntimeWarning, stacklevel=2)


def load() -> bool:
    """Make the native kernels available if they can be; True when they are. Builds at most once a process."""
    if _state.done:
        return _state.module is not None
    backend = os.environ.get("WSSS_FAST_BACKEND", "auto")
    if backend not in ("native", "reference", "auto"):
        raise ValueError(f"WSSS_FAST_BACKEND is {backend!r}; must be native, reference or auto")
    with _state.lock:
        if _state.done:
            return _state.module is not None
        if backend == "reference":
            _state.reason = "WSSS_FAST_BACKEND=reference"
        else:
            try:
                _load_native()
            except (Unavailable, ImportError, OSError) as error:
                _state.reason = str(error)
                if backend == "native":
                    raise RuntimeError(f"WSSS_FAST_BACKEND=native, but {error}") from error
                _warn_once(f"using the slower PyTorch reference, because {error}")
        _state.done = True
    return _state.module is not None


def info() -> dict:
    """The backend in use and why, versions, SIMD level, CUDA architectures, build time and place."""
    native = load()
    built = _state.module.build_info() if native else {}
    return {
        "backend": "native" if native else "reference",
        "why": _state.reason,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiler": built.get("compiler", _state.compiler),
        "simd": built.get("simd"),
        "cuda_archs": built.get("cuda_archs", "").split(),
        "build_seconds": _state.build_seconds,
        "library": str(_state.path) if _state.path else None,
        "build_info": built,
    }


def check_cuda() -> int:
    """Compile the CUDA sources for CHECKED_ARCHS without a GPU; print registers and spills. Returns an exit code."""
    nvcc = find_nvcc()
    if nvcc is None:
        print("check-cuda: nvcc is missing; install the CUDA toolkit or set CUDA_HOME")
        return 3

    def compile_one(source: Path) -> tuple[subprocess.CompletedProcess, float]:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            command = [nvcc, *nvcc_flags(CHECKED_ARCHS), *include_flags(), "-Xptxas=-v"]
            done = subprocess.run([*command, "-c", str(source), "-o", f"{folder}/x.o"], capture_output=True, text=True)
        return done, time.perf_counter() - start

    sources = [s for s in list_sources(cuda=True) if s.suffix == ".cu"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for its own nvcc
        results = list(pool.map(compile_one, sources))
    for source, (done, seconds) in zip(sources, results, strict=True):
        if done.returncode != 0:
            print(done.stdout + done.stderr)
            return 1
        pattern = r"Compiling entry function '(\S+)' for '(sm_\d+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
        found = re.findall(pattern, done.stderr, re.S)
        for arch in CHECKED_ARCHS:
            # CUB's own kernels are not ours to tune.
            ours = [(int(r), int(s), name) for name, a, s, r in found if a == f"sm_{arch}" and "wsss" in name]
            spills = [f"{name} ({bytes_} bytes)" for _, bytes_, name in ours if bytes_]
            print(f"{source.name}: sm_{arch}: {len(ours)} kernels, at most {max(ours)[0]} registers, "
                  f"spills: {', '.join(spills) or 'none'}")  # fmt: skip
        print(f"{source.name}: compiled for {len(CHECKED_ARCHS)} architectures in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] != ["--check-cuda"]:
        sys.exit("usage: python -m wsss_fast._native --check-cuda")
    sys.exit(check_cuda())
