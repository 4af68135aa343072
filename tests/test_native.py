"""The native build: signatures, cache, no compiler, two processes at once, killed builds, ahead of time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

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


def start(cache, **variables):
    """SCRIPT in a fresh process with its own cache."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WSSS_FAST") and k != "CXX"}
    environment |= {"WSSS_FAST_CACHE": str(cache), "PYTHONPATH": str(ROOT)} | variables
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, cwd="/",  # not the checkout, which would come first on sys.path
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
def test_two_processes_on_a_cold_cache(tmp_path):
    processes = [start(tmp_path) for _ in range(2)]
    results = [finish(p) for p in processes]
    assert [r[0][:2] for r in results] == [["native", "True"]] * 2
    assert sum("building native ops" in r[1] for r in results) == 1


@needs_compiler
def test_killed_build_blocks_nobody(tmp_path):
    victim = start(tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.build-*/build.ninja")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert list(tmp_path.glob("*.build-*"))  # it did leave something behind
    assert finish(start(tmp_path))[0][:2] == ["native", "True"]
    assert not list(tmp_path.glob("*.build-*"))


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
        check=True, env=environment, timeout=300,
    )  # fmt: skip
    assert (site / "wsss_fast" / "csrc" / "sources.txt").is_file()
    assert (site / "wsss_fast" / "_C.so").is_file() == ahead
    (backend, right, why), _ = finish(start(tmp_path / "cache", PYTHONPATH=str(site)))
    assert (backend, right) == ("native", "True")
    assert why == ("built ahead of time" if ahead else "built at first use")
