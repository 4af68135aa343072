"""Compilers and toolkits: missing, failing, too old, launchers, odd paths; backends on request."""

import ctypes
import dataclasses
import re
import shutil
import subprocess
import sys

import pytest
import torch
from native_builds import (
    ROOT,
    SCRIPT_WITH_COMPILE,
    finish,
    needs_compiler,
    start,
    without_compiler,
)

from wsss_fast import _build, _native
from wsss_fast._native import libraries


@needs_compiler
def test_directories_with_special_characters(tmp_path):
    """Spaces, quotes, dollars and non-ASCII letters in paths of sources, build and compiler."""
    odd = tmp_path / "hö me $x'q: 東"
    (odd / "build").mkdir(parents=True)
    (odd / "one.cpp").write_text(
        '#include "wsss_build_info.h"\nextern "C" const char* flags() { return WSSS_FLAGS; }\n'
    )
    compiler = odd / "g++"
    compiler.symlink_to(shutil.which("g++") or shutil.which("c++") or shutil.which("clang++"))
    plan = dataclasses.replace(
        _build.make_plan("cpu"), cxx=(str(compiler),), sources=(odd / "one.cpp",)
    )
    assert (
        b"-march=" in _build.compile_library(plan, odd / "build").read_bytes()
        or not _build.is_x86()
    )


@needs_compiler
@pytest.mark.parametrize(
    ("version", "rejected"),
    [("2.9.1", True), ("1.13.1+cpu", True), ("2.10.0", False), ("2.16.0.dev1", False)],
)
def test_torch_older_than_the_oldest_supported_raises(monkeypatch, version, rejected):
    monkeypatch.setattr(torch, "__version__", version)
    if rejected:
        with pytest.raises(
            _native.Unavailable, match=f"torch {re.escape(version)} is older than 2.10"
        ):
            _build.make_plan("cpu")
    else:
        assert _build.make_plan("cpu").key


def fake_toolkit(folder, release, *, files=("include/cuda_runtime.h", "lib64/libcudart_static.a")):
    """A CUDA toolkit whose nvcc only prints its release."""
    for name in ("bin/nvcc", *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(
            f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n"
        )
    (folder / "bin/nvcc").chmod(0o755)
    return folder


@needs_compiler
@pytest.mark.parametrize(
    ("release", "files", "message"),
    [
        (
            "12.4",
            ("include/cuda_runtime.h", "lib64/libcudart_static.a"),
            "nvcc is of CUDA 12.4, this torch of CUDA 13.0: point CUDA_HOME",
        ),
        ("13.0", ("include/cuda_runtime.h",), "incomplete: .*lib64/libcudart_static.a is missing"),
        ("13.0", (), "incomplete: .*include/cuda_runtime.h is missing"),
    ],
)
def test_unsuitable_toolkit_raises(tmp_path, monkeypatch, release, files, message):
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path, release, files=files)))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(libraries, "capabilities", lambda: [(9, 0)])
    monkeypatch.setenv("WSSS_FAST_CACHE", str(tmp_path / "cache"))  # an empty one
    with pytest.raises(_native.Unavailable, match=message):
        _native._library("cuda")


@needs_compiler
def test_nvcc_uses_the_compiler_named_by_cxx(tmp_path, monkeypatch):
    """CXX is often set because the system's compiler is too new for nvcc."""
    real = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    launcher = tmp_path / "ccache"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path, "13.0")))
    for cxx, named in (("", []), (real, [real]), (f"{launcher} {real} -DX", [real])):
        monkeypatch.setenv("CXX", cxx)
        plan = _build.make_plan("cuda", archs=("90",))
        assert [flag for flag in plan.nvcc_flags if "bindir" in flag] == [
            f"--compiler-bindir={word}" for word in named
        ]


@needs_compiler
def test_missing_cuda_library_does_not_affect_the_cpu(tmp_path, monkeypatch):
    """Each part has its own backend, reason and warning."""
    monkeypatch.setattr(
        _native, "_state", {part: _native._Backend(part) for part in ("cpu", "cuda")}
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_build, "find_nvcc", lambda: None)
    monkeypatch.delenv("WSSS_FAST_WARNED", raising=False)
    monkeypatch.delenv("WSSS_FAST_BACKEND", raising=False)
    monkeypatch.setenv("WSSS_FAST_CACHE", str(tmp_path))  # an empty one
    message = "reference for CUDA tensors, because nvcc is missing: install the CUDA toolkit 13.0"
    with pytest.warns(RuntimeWarning, match=message):
        assert not _native.load("cuda")
    assert not _native._state["cpu"].done and not _native.load("mps")


def test_without_compiler_the_reference_is_used_with_one_warning(tmp_path):
    process = start(tmp_path / "cache", SCRIPT_WITH_COMPILE, **without_compiler(tmp_path))
    (backend, right, why), err = finish(process)
    assert (backend, right) == ("reference", "True")
    assert why.startswith("no C++ compiler on PATH: install g++")
    assert err.count("RuntimeWarning: wsss_fast") == 1 and "install g++" in err


def test_native_backend_raises_without_a_compiler(tmp_path):
    process = start(tmp_path / "cache", WSSS_FAST_BACKEND="native", **without_compiler(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "RuntimeError: WSSS_FAST_BACKEND=native, but no C++ compiler on PATH" in err


@needs_compiler
def test_failed_build_reports_first_error_and_log(tmp_path):
    """The compiler reports an error for one source, and long output for the others."""
    compiler = tmp_path / "broken-g++"
    compiler.write_text("""#!/bin/sh
case "$*" in
  *--version) echo "broken 1.0"; exit 0;;
  *-dM*) exit 0;;
  *lattice.cpp*) echo "/a/b.h:7:3: error: kaput here" >&2; exit 1;;
  *) sleep 0.3; yes "noise: this is not an error line, only noise" | head -2000; exit 1;;
esac
""")
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    (backend, right, why), err = finish(start(cache, CXX=str(compiler)))
    assert (backend, right) == ("reference", "True")
    (log,) = cache.glob("cpu-*.log")
    assert why == f"the build failed: /a/b.h:7:3: error: kaput here (full log: {log})"
    assert err.count("RuntimeWarning") == 1 and why in err and err.count("noise") == 0
    assert "kaput here" in log.read_text()


@pytest.mark.parametrize(
    ("log", "first"),
    [
        (
            "[1/2] x\nFAILED: [code=1] 0.o\ng++ -c a.cpp\na.cpp: In function f:\n"
            "a.cpp:3:4: error: no member\n"
            "a.cpp:9:1: error: second\nninja: build stopped: subcommand failed.\n",
            "a.cpp:3:4: error: no member",
        ),
        (
            "FAILED: 1.o\nnvcc x.cu\nx.cu(12): error: identifier y is undefined\n",
            "x.cu(12): error: identifier y is undefined",
        ),
        (
            "FAILED: y.so\n/usr/bin/ld: 0.o: in function `f':\n"
            "a.cpp:(.text+0x1): undefined reference to `g'\n"
            "collect2: error: ld returned 1\n",
            "a.cpp:(.text+0x1): undefined reference to `g'",
        ),
        (
            "FAILED: y.so\n/usr/bin/ld: cannot find -ltorch: No such file\n",
            "/usr/bin/ld: cannot find -ltorch: No such file",
        ),
        (
            "FAILED: 0.o\ng++ -c x\ng++: fatal error: Killed signal terminated program cc1plus\n",
            "g++: fatal error: Killed signal terminated program cc1plus",
        ),
        (
            "In file included from a.h:1,\n                 from b.h:2:\n"
            '/x/y.h:4:2: error: #error "guarded"\n',
            '/x/y.h:4:2: error: #error "guarded"',
        ),
        ("ninja: fatal: posix_spawn: No such file\n", "ninja failed and printed nothing"),
        ("", "ninja failed and printed nothing"),
    ],
)
def test_first_error(log, first):
    assert _build.first_error(log) == first


@needs_compiler
def test_cxx_with_launcher_and_flags(tmp_path, monkeypatch):
    launcher = tmp_path / "my launcher"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    real = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    keys = {}
    for cxx in ("", real, f"{real} -DONE", f"{real} -DTWO", f"'{launcher}' {real} -DONE"):
        monkeypatch.setenv("CXX", cxx)
        plan = _build.make_plan("cpu")
        keys[cxx] = plan.key
        assert plan.compiler and plan.simd
    # The same compiler, from PATH or from CXX, has the same key.
    assert len(set(keys.values())) == 4 and keys[""] == keys[real]
    (tmp_path / "one.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) int one() { return ONE; }\n'
    )
    monkeypatch.setenv("CXX", f"'{launcher}' {real} -DONE=1")
    plan = dataclasses.replace(
        _build.make_plan("cpu"), sources=(tmp_path / "one.cpp",), link_flags=("-shared",)
    )
    assert ctypes.CDLL(str(_build.compile_library(plan, tmp_path))).one() == 1
    for wrong in ("no-such-compiler", f"no-such-launcher {real}"):
        monkeypatch.setenv("CXX", wrong)
        with pytest.raises(
            _native.Unavailable, match="no C\\+\\+ compiler '.*' \\(from CXX\\): install g"
        ):
            _build.make_plan("cpu")


@needs_compiler
def test_odd_values_of_cxx(tmp_path, monkeypatch):
    """Paths with spaces, relative paths, and values that name no C++ compiler."""
    real = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    spaced = tmp_path / "my tools" / "g++"
    spaced.parent.mkdir()
    spaced.symlink_to(real)
    (tmp_path / "ccache").symlink_to(real)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    for cxx, words in (
        (f"{spaced}", (str(spaced),)),
        (f"{spaced} -m64 -DX='a b'", (str(spaced), "-m64", "-DX=a b")),
        (f"  '{spaced}'  -m64 ", (str(spaced), "-m64")),
        ("./my\\ tools/g++", (str(spaced),)),
        ("   ", (shutil.which("g++") or shutil.which("clang++") or shutil.which("c++"),)),
    ):
        monkeypatch.setenv("CXX", cxx)
        assert _build.find_compiler() == words
        assert _build.make_plan("cpu").compiler
    for cxx, message in (
        ("'g++", "'g++.* cannot be split into words"),
        ("ccache", "a launcher without a compiler"),
        ("ccache -m64", "a launcher without a compiler"),
        ("/usr/bin/gcc", "is a C compiler: set CXX to a C\\+\\+ compiler"),
        (str(tmp_path), "no C\\+\\+ compiler"),
        (f"{real} -no-such-flag", "fails with exit code 1"),
        ("false", "false --version fails with exit code 1"),
    ):
        monkeypatch.setenv("CXX", cxx)
        with pytest.raises(_native.Unavailable, match=message):
            _build.make_plan("cpu")


def test_requested_reference_backend_prints_nothing(tmp_path):
    (backend, right, why), err = finish(start(tmp_path, WSSS_FAST_BACKEND="reference"))
    assert (backend, right, why) == ("reference", "True", "WSSS_FAST_BACKEND=reference")
    assert "wsss_fast:" not in err


def test_unknown_backend_raises(tmp_path):
    process = start(tmp_path, WSSS_FAST_BACKEND="fast")
    _, err = process.communicate(timeout=120)
    assert (
        process.returncode == 1
        and "WSSS_FAST_BACKEND is 'fast'; must be native, reference or auto" in err
    )


def test_check_sources_without_nvcc(monkeypatch, tmp_path):
    monkeypatch.setattr(_build.ninja, "find_nvcc", lambda: None)
    with pytest.raises(_native.Unavailable, match="nvcc is missing"):
        _build.compile_objects("cuda", _build.list_sources("cuda"), tmp_path, ("90",))


def test_check_sources_with_wrong_include_directory(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tools/check_sources.py", "cpu", "--torch-include", tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (
        done.returncode == 2
        and f"{tmp_path} has no torch/csrc/stable: not the headers of torch 2.10" in done.stderr
    )
