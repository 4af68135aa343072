"""The cache of native builds: find a library that fits, else build one under a lock."""

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from wsss_fast import _build
from wsss_fast._build import NAMES, BuildFailed, Plan, Unavailable, read_manifest

from .libraries import capabilities, runs

try:
    import fcntl
except ImportError:  # Windows always uses the PyTorch reference
    fcntl = None  # type: ignore[assignment]


class Found(NamedTuple):
    """A library of the cache, its manifest, and the seconds of its build if it was built now."""

    path: Path
    manifest: dict
    build_seconds: float | None = None


def temporary_cache() -> Path:
    return Path(tempfile.gettempdir()) / f"wsss_fast-{os.getuid()}"


def cache_folders() -> list[Path]:
    """Directories for builds, in order of preference.

    WSSS_FAST_CACHE if it is set, else the user's cache directory and a private directory under the
    temporary directory.
    """
    if explicit := os.environ.get("WSSS_FAST_CACHE"):
        return [Path(explicit)]
    folders = [temporary_cache()]
    with suppress(RuntimeError):  # the user has no home directory
        folders.insert(
            0, Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "wsss_fast"
        )
    return folders


def _is_foreign(folder: Path) -> bool:
    """Whether another user owns our directory under the temporary directory.

    Anybody can create it, so no code is loaded from it.
    """
    return folder == temporary_cache() and folder.stat().st_uid != os.getuid()


def cache_folder() -> Path:
    """The first writable cache directory.

    Raises:
        Unavailable: no cache directory is writable.
    """
    problem = ""
    for folder in cache_folders():
        try:
            folder.mkdir(
                mode=0o700 if folder == temporary_cache() else 0o777, parents=True, exist_ok=True
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


def _find(part: str, key: str) -> tuple[Found | None, str]:
    """The undamaged library of `key` in a cache, and what is wrong with a damaged one.

    The cache may be read-only, for example one that another user maintains for all.
    """
    damage = ""
    for folder in cache_folders():
        library = folder / key / f"{NAMES[part]}.so"
        if os.access(library.parent, os.R_OK) and not _is_foreign(folder):
            try:
                return Found(library, read_manifest(library)), ""
            except Unavailable as error:
                damage = damage or str(error)
    return None, damage


def find_fitting(part: str) -> tuple[list[Found], str]:
    """Libraries of the caches that were built elsewhere, or by another compiler, and run here.

    They serve where none can be built, as in a container without a compiler.

    Returns:
        The libraries, newest first, and why another one is not among them: "" without others.
    """
    if fcntl is None:
        return [], ""
    here = {"source_hash": _build.source_hash(part), **_build.runs_on(part)}
    found, problem = [], ""
    for folder in filter(Path.is_dir, cache_folders()):
        for library in sorted(folder.glob(f"{part}-*/{NAMES[part]}.so")):
            try:
                if _is_foreign(folder):
                    continue
                manifest = read_manifest(library)
                if misfit := _misfit(part, manifest, here):
                    raise Unavailable(f"{library} {misfit}")
                found.append((library.stat().st_mtime_ns, Found(library, manifest)))
            except Unavailable as error:
                problem = problem or str(error)
            except OSError:  # removed by another process
                continue
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [library for _, library in found], problem


def _misfit(part: str, manifest: dict, here: dict[str, str]) -> str:
    """Why a library that another process built does not run here; "" if it does."""
    runs_on = manifest.get("runs_on")
    built = {"source_hash": manifest.get("source_hash")}
    built |= runs_on if isinstance(runs_on, dict) else {}
    for name, what in (
        ("source_hash", "other sources of wsss-fast"),
        ("torch", f"torch {built.get('torch')}"),
        ("machine", f"a machine of type {built.get('machine')}"),
        ("python", f"Python {built.get('python')}"),
    ):
        if built.get(name) != here[name]:
            return f"was built for {what}"
    missing = set(str(built.get("cpu")).split()) - set(here["cpu"].split())
    if missing:
        return f"was built for a CPU with {sorted(missing)[0]}, which this one lacks"
    archs = str(manifest.get("cuda_archs", "")).split()
    if part == "cuda" and not all(runs(capability, archs) for capability in capabilities()):
        return f"was built for sm_{', sm_'.join(archs)} only"
    return ""


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
        except OSError:  # a file system without locks: at worst, two processes build
            pass
        yield


def find_or_build(part: str, make_plan: Callable[[], Plan], archs: tuple[str, ...] = ()) -> Found:
    """The library of a part from a cache, or built into it.

    Args:
        part: "cpu", "cuda" or "module".
        make_plan: chooses compilers and flags; called only if there is no library.
        archs: compute capabilities of the CUDA code, as "90".

    Raises:
        Unavailable: there is none, and it cannot be built; the message has the reasons.
    """
    damage = ""
    try:
        key = _build.cache_key(part, archs)
        found, damage = _find(part, key)
        if found:
            return found
        cache, plan = cache_folder(), make_plan()
        with _locked(cache / f"{key}.lock"):
            found, damage = _find(part, key)
            return found or _build_into(cache, plan, damage)
    except Unavailable as error:
        raise Unavailable(f"{damage}; {error}" if damage else str(error)) from None


def _build_into(cache: Path, plan: Plan, damage: str) -> Found:
    """Build a library into a cache whose lock we hold, with one line about it on stderr."""
    # Any other build directory of this key was left by a killed build.
    for leftover in cache.glob(f"{plan.key}.build-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    archs = f" sm_{','.join(plan.cuda_archs)}" if plan.cuda_archs else ""
    what = "the module _C" if plan.part == "module" else f"native ops ({plan.part.upper()}{archs})"
    again = f"{damage}; " if damage else ""
    print(
        f"wsss_fast: {again}building {what} with {plan.compiler} ... ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    start = time.perf_counter()
    library = cache / plan.key / plan.library
    try:
        _build_and_rename(library, plan)
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
    return Found(library, read_manifest(library), seconds)


def _keep_log(error: BuildFailed, path: Path) -> str:
    try:
        path.write_text(error.log, encoding="utf-8")
    except OSError:
        return ""
    return f" (full log: {path})"


def _build_and_rename(library: Path, plan: Plan) -> None:
    """Build in a temporary directory, sync and rename: the final directory is always complete."""
    cache = library.parent.parent
    folder = Path(tempfile.mkdtemp(prefix=f"{plan.key}.build-", dir=cache))
    try:
        built = _build.compile_library(plan, folder)
        done = folder / "done"
        done.mkdir()
        os.replace(built, done / built.name)
        manifest = _build.write_manifest(plan, done / built.name)
        for path in (done / built.name, manifest, done):
            _sync(path)
        shutil.rmtree(library.parent, ignore_errors=True)  # a damaged build
        try:
            os.replace(done, library.parent)
        except OSError:
            # Without locks, another process may have been first.
            if _find(plan.part, plan.key)[0] is None:
                raise
        _sync(cache)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Write a file or the entries of a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not possible on this file system
            raise
    finally:
        os.close(descriptor)
