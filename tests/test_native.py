"""The native build: signatures, cache, no compiler, two processes at once, killed builds, ahead of time."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from powerless import powerless

from wsss_fast import _native
from wsss_fast.ops import dense_crf

ROOT = Path(__file__).resolve().parent.parent
HAS_COMPILER = any(shutil.which(c) for c in ("g++", "clang++", "c++"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")

# A small CRF, then what the library says about itself; printed as one line.
SCRIPT = """
import torch
from wsss_fast import _native
from wsss_fast.ops import dense_crf, reference
image = torch.arange(3 * 6 * 8, dtype=torch.uint8).reshape(1, 3, 6, 8)
unary = torch.linspace(0, 3, 2 * 6 * 8).reshape(1, 2, 6, 8)
q = dense_crf(image, unary, iterations=2)
call = torch.compile(lambda i, u: dense_crf(i, u, iterations=2), fullgraph=True, backend="aot_eager")
assert torch.equal(call(image, unary), q)
error = (q - reference.dense_crf(image, unary, iterations=2)).abs().max().item()
info = _native.info()
print(info["backend"], error < 1e-5, info["why"].splitlines()[0], sep="|")
"""


def start(cache, script=SCRIPT, preexec_fn=None, **variables):
    """A script in a fresh process with its own cache; `cache` None: the one that HOME and TMPDIR lead to."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WSSS_FAST") and k != "CXX"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"WSSS_FAST_CACHE": str(cache)} if cache else {}) | variables
    return subprocess.Popen(
        [sys.executable, "-c", script], preexec_fn=preexec_fn, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, cwd="/",  # not the checkout, which would come first on sys.path
    )  # fmt: skip


def finish(process, timeout=240):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out.strip().splitlines()[-1].split("|"), err


def without_compiler(tmp_path):
    """A PATH with nothing on it."""
    empty = tmp_path / "bin"
    empty.mkdir()
    return {"PATH": str(empty)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A warm cache, and what its build printed."""
    cache = tmp_path_factory.mktemp("cache")
    before = time.perf_counter()
    (backend, right, why), err = finish(start(cache))
    assert (backend, right, why) == ("native", "True", "built at first use")
    return cache, err, time.perf_counter() - before


@needs_compiler
def test_cold_build_says_so_in_one_line(built):
    cache, err, _ = built
    lines = [line for line in err.splitlines() if line.startswith("wsss_fast:")]
    assert len(lines) == 1 and "building native ops (CPU" in lines[0] and " s, cached in " in lines[0]
    assert not list(cache.glob("*.build-*"))


@needs_compiler
def test_warm_cache_is_silent(built):
    (backend, right, why), err = finish(start(built[0]))
    assert (backend, right, why) == ("native", "True", "found in the cache")
    assert "wsss_fast:" not in err


@needs_compiler
def test_damaged_cache_is_rebuilt(built, tmp_path):
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/_C.so")
    library.write_bytes(b"not a library")
    assert finish(start(cache))[0][:2] == ["native", "True"]


@needs_compiler
def test_killed_build_blocks_nobody_and_of_two_processes_one_builds(tmp_path):
    victim = start(tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.build-*/build.ninja")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert list(tmp_path.glob("*.build-*"))  # it did leave something behind
    processes = [start(tmp_path) for _ in range(2)]
    results = [finish(p) for p in processes]
    assert [r[0][:2] for r in results] == [["native", "True"]] * 2
    assert sum("building native ops" in r[1] for r in results) == 1
    assert not list(tmp_path.glob("*.build-*"))


def made_by_another_user(folder, *, read_only=True):
    """As umask 022 leaves it for others; where the tests do not run as root, for lack of another user, as read-only."""
    for path in (folder, *folder.rglob("*")):
        if os.getuid() == 0:
            os.chown(path, 12345, 12345)
        path.chmod((0o555 if path.is_dir() else 0o444) if read_only and os.getuid() else 0o755 if path.is_dir() else 0o644)


def times(folder):
    return {str(p): p.lstat().st_mtime_ns for p in (folder, *folder.rglob("*"))}


@needs_compiler
def test_a_cache_of_another_user_is_used_and_never_written_to(built, tmp_path):
    cache = shutil.copytree(built[0], tmp_path / "cache")
    made_by_another_user(cache)
    before = times(cache)
    (backend, right, why), err = finish(start(cache, preexec_fn=powerless))
    assert (backend, right, why) == ("native", "True", "found in the cache") and "wsss_fast:" not in err
    assert times(cache) == before


# What a build would leave, without the minute that it takes.
BUILT_AT_ONCE = """
import shutil, sys
from pathlib import Path
from wsss_fast import _native
def compile_library(plan, folder):
    return Path(shutil.copy({library!r}, folder / "_C.so"))
_native.compile_library = compile_library
""" + SCRIPT


@needs_compiler
def test_a_cache_shared_with_another_user_whose_build_died(built, tmp_path):
    """Its lock and its half-written build are not ours to write or remove; the build is made beside them."""
    (library,) = built[0].glob("*/_C.so")
    cache = tmp_path / "cache"
    dead = cache / f"{library.parent.name}.build-dead"
    dead.mkdir(parents=True)
    (dead / "0.o").write_bytes(b"half")
    (cache / f"{library.parent.name}.lock").touch()
    made_by_another_user(cache, read_only=False)
    if os.getuid() == 0:
        cache.chmod(0o777)
    process = start(cache, BUILT_AT_ONCE.format(library=str(library)), powerless)
    assert finish(process)[0] == ["native", "True", "built at first use"]
    assert (cache / library.parent.name / "_C.so").is_file()
    assert finish(start(cache))[0] == ["native", "True", "found in the cache"]


@needs_compiler
def test_a_read_only_home_has_its_builds_under_the_temporary_folder(built, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    (library,) = built[0].glob("*/_C.so")
    settings = {"HOME": str(home), "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)}
    process = start(None, BUILT_AT_ONCE.format(library=str(library)), powerless, **settings)
    assert finish(process)[0] == ["native", "True", "built at first use"]
    private = tmp_path / f"wsss_fast-{os.getuid()}"
    assert private.stat().st_mode & 0o777 == 0o700 and not list(home.iterdir())
    assert finish(start(None, preexec_fn=powerless, **settings))[0] == ["native", "True", "found in the cache"]
    if os.getuid() == 0:  # of another user: code in it is not trusted
        os.chown(private, 12345, 12345)
        private.chmod(0o777)
        (backend, right, why), err = finish(start(None, preexec_fn=powerless, **settings))
        assert (backend, right) == ("reference", "True") and f"{private} belongs to another user" in why
        assert err.count("RuntimeWarning: wsss_fast") == 1


@needs_compiler
def test_a_cache_that_is_read_only_and_empty(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    (backend, right, why), err = finish(start(cache, preexec_fn=powerless))
    assert (backend, right) == ("reference", "True") and err.count("RuntimeWarning: wsss_fast") == 1
    assert why == f"no place for the build: {cache} is not writable (Permission denied); set WSSS_FAST_CACHE"


@needs_compiler
def test_a_full_disk_leaves_nothing_in_the_cache(tmp_path, monkeypatch, capfd):
    def full(plan, folder):
        (folder / "0.o").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("WSSS_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(_native, "compile_library", full)
    with pytest.raises(_native.Unavailable, match=f"nothing can be built in {tmp_path}: .*No space left on device"):
        _native._build_into_cache(_native.make_plan(cuda=False))
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"] and "failed" in capfd.readouterr().err


@needs_compiler
def test_folders_with_odd_names(tmp_path):
    """Blanks, quotes, dollars and letters beyond ASCII in the path of the sources, the build and the compiler."""
    odd = tmp_path / "hö me $x'q: 東"
    (odd / "build").mkdir(parents=True)
    (odd / "one.cpp").write_text('#include "wsss_build_info.h"\nextern "C" const char* flags() { return WSSS_FLAGS; }\n')
    compiler = odd / "g++"
    compiler.symlink_to(shutil.which("g++") or shutil.which("c++") or shutil.which("clang++"))
    plan = dataclasses.replace(_native.make_plan(cuda=False), cxx=str(compiler), sources=(odd / "one.cpp",))
    assert b"-march=" in _native.compile_library(plan, odd / "build").read_bytes() or not _native._is_x86()


def test_a_user_without_a_home(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    for name in ("WSSS_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert _native._cache_folders() == [_native._temporary_cache()]


@pytest.mark.skipif(not _native._is_x86(), reason="elsewhere there is one library")
@pytest.mark.parametrize(("capability", "chosen"), [("AVX512", "_C_avx512.so"), ("AVX2", "_C.so"), ("DEFAULT", None)])
def test_of_two_libraries_built_ahead_of_time_the_best_that_runs(tmp_path, monkeypatch, capability, chosen):
    monkeypatch.setattr(_native, "PACKAGE", tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert _native.installed_library() is None
    for module in _native.portable_modules():
        (tmp_path / f"{module}.so").touch()
    assert _native.installed_library() == (tmp_path / chosen if chosen else None)


def test_no_compiler_uses_the_reference_with_one_warning(tmp_path):
    (backend, right, why), err = finish(start(tmp_path / "cache", **without_compiler(tmp_path)))
    assert (backend, right) == ("reference", "True")
    assert why.startswith("no C++ compiler on PATH: install g++")
    assert err.count("RuntimeWarning: wsss_fast") == 1 and "install g++" in err


def test_native_backend_raises_without_a_compiler(tmp_path):
    process = start(tmp_path / "cache", WSSS_FAST_BACKEND="native", **without_compiler(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "RuntimeError: WSSS_FAST_BACKEND=native, but no C++ compiler on PATH" in err


@needs_compiler
def test_failing_compiler_falls_back_with_its_message(tmp_path):
    compiler = tmp_path / "broken-g++"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "broken 1.0" && exit 0\necho "kaput" >&2; exit 1\n')
    compiler.chmod(0o755)
    (backend, right, _), err = finish(start(tmp_path / "cache", CXX=str(compiler)))
    assert (backend, right) == ("reference", "True")
    assert err.count("RuntimeWarning") == 1 and "kaput" in err


def test_reference_backend_on_request_is_silent(tmp_path):
    (backend, right, why), err = finish(start(tmp_path, WSSS_FAST_BACKEND="reference"))
    assert (backend, right, why) == ("reference", "True", "WSSS_FAST_BACKEND=reference")
    assert "wsss_fast:" not in err


def test_unknown_backend_is_refused(tmp_path):
    process = start(tmp_path, WSSS_FAST_BACKEND="fast")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "WSSS_FAST_BACKEND is 'fast'; must be native, reference or auto" in err


def test_import_does_not_build(tmp_path):
    environment = os.environ | {"WSSS_FAST_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", "import wsss_fast.ops"], env=environment, check=True, timeout=120)
    assert not list(tmp_path.iterdir())


def test_signatures_match_the_schemas():
    """TORCH_BOX does not compare a kernel with its schema; a mismatch would read garbage."""
    if not _native.load():
        pytest.skip("native library not available")
    signatures = _native._state.module.signatures()
    assert ["dense_crf", "CPU"] in [s[:2] for s in signatures]
    for op, _, arguments, result in signatures:
        schema = getattr(torch.ops.wsss_fast, op).default._schema
        assert arguments == ", ".join(str(a.type) for a in schema.arguments), op
        assert result == ", ".join(str(r.type) for r in schema.returns), op


def test_sources_are_listed_once():
    csrc = _native.csrc()
    listed = set(_native.list_sources(cuda=True))
    assert listed == {p for p in csrc.rglob("*") if p.suffix in (".cpp", ".cu") and p.parent.name != "tests"}


def test_info():
    dense_crf(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2), iterations=1)
    info = _native.info()
    assert info["backend"] in ("native", "reference") and info["why"]
    if info["backend"] == "native":
        assert info["build_info"]["source_hash"] == _native.source_hash()
        assert info["simd"] and info["compiler"] and Path(info["library"]).is_file()


@pytest.mark.skipif(_native.find_nvcc() is not None, reason="nvcc is here")
def test_check_cuda_without_nvcc():
    assert _native.check_cuda() == 3


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("ahead", [False, True])
def test_installed_package_works(tmp_path, ahead):
    """`pip install .` (not editable) ships the sources; with WSSS_FAST_AOT=1 also the library."""
    site = tmp_path / "site"
    source = tmp_path / "source"
    skip = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".*_cache", "runs")
    shutil.copytree(ROOT, source, ignore=skip)
    environment = os.environ | {"WSSS_FAST_AOT": "1" if ahead else "0"}
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site, source],
        check=True, env=environment, timeout=1200,  # two libraries, perhaps beside other work
    )  # fmt: skip
    assert (site / "wsss_fast" / "csrc" / "sources.txt").is_file()
    assert {p.stem for p in (site / "wsss_fast").glob("*.so")} == (set(_native.portable_modules()) if ahead else set())
    (tags,) = site.glob("wsss_fast-*.dist-info/WHEEL")
    assert ("Tag: py3-none-any" in tags.read_text()) != ahead  # the libraries are of one Python and one platform
    (backend, right, why), _ = finish(start(tmp_path / "cache", PYTHONPATH=str(site)))
    assert (backend, right) == ("native", "True")
    assert why == ("built ahead of time" if ahead else "built at first use")
    if ahead:
        alone = without_compiler(tmp_path) | {"PYTHONPATH": str(site)}
        for capability in ("avx512", "avx2"):  # each library, where the CPU has both
            process = start(tmp_path / "cache", ATEN_CPU_CAPABILITY=capability, **alone)
            assert finish(process)[0] == ["native", "True", "built ahead of time"]
