"""The native build: signatures, cache, no compiler, two processes at once, killed builds, ahead of time."""

import ctypes
import dataclasses
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from powerless import powerless

from wsss_fast import _build, _native
from wsss_fast.ops import dense_crf

ROOT = Path(__file__).resolve().parents[2]
HAS_COMPILER = any(shutil.which(c) for c in ("g++", "clang++", "c++"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")

# A small CRF, then what the library says about itself; printed as one line.
SCRIPT = """
import torch
from wsss_fast import _build, _native
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
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("WSSS_FAST") and k != "CXX"
    }
    environment |= (
        {"PYTHONPATH": str(ROOT)} | ({"WSSS_FAST_CACHE": str(cache)} if cache else {}) | variables
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        preexec_fn=preexec_fn,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd="/",  # not the checkout, which would come first on sys.path
    )


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
    assert (
        len(lines) == 1 and "building native ops (CPU" in lines[0] and " s, cached in " in lines[0]
    )
    assert not list(cache.glob("*.build-*"))


@needs_compiler
def test_warm_cache_is_silent(built):
    (backend, right, why), err = finish(start(built[0]))
    assert (backend, right, why) == ("native", "True", "found in the cache")
    assert "wsss_fast:" not in err


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "zeroed", "text", "no_manifest", "broken_manifest"])
def test_a_damaged_library_is_never_loaded(built, tmp_path, damage):
    """Loading a cut library ends the process with a bus error, one with a zeroed middle with a segmentation fault."""
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/libwsss_fast_cpu.so")
    data = library.read_bytes()
    whole = _native._read_manifest(library)
    if damage == "no_manifest":
        library.with_suffix(".json").unlink()
    elif damage == "broken_manifest":
        library.with_suffix(".json").write_text('{"size": ')
    else:
        half = len(data) // 2
        library.write_bytes(
            {
                "cut": data[:200_000],
                "text": b"not a library",
                "zeroed": data[: half - 4096] + bytes(8192) + data[half + 4096 :],
            }[damage]
        )
    with pytest.raises(_native.Unavailable, match="damaged|missing|cannot be read"):
        _native._read_manifest(library)
    # What a build puts in its place, without building.
    process = start(
        cache, BUILT_AT_ONCE.format(library=str(next(built[0].glob("*/libwsss_fast_cpu.so"))))
    )
    assert finish(process)[0] == ["native", "True", "built at first use"]
    assert _native._read_manifest(library)["sha256"] == whole["sha256"]


@needs_compiler
def test_a_whole_library_that_does_not_load_is_not_built_again(built, tmp_path):
    """As with a libstdc++ that is older than the compiler's: one line says so, and the reference serves."""
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/libwsss_fast_cpu.so")
    source = tmp_path / "x.cpp"
    source.write_text("extern void nowhere(); struct A { A() { nowhere(); } } a;")
    subprocess.run([*_build.find_compiler(), "-shared", "-fPIC", source, "-o", library], check=True)
    _build.write_manifest(_build.make_plan("cpu"), library)
    (backend, right, why), err = finish(start(cache))
    assert (backend, right) == ("reference", "True") and "undefined symbol" in why
    assert "building" not in err and err.count("RuntimeWarning: wsss_fast") == 1


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
        path.chmod(
            (0o555 if path.is_dir() else 0o444)
            if read_only and os.getuid()
            else 0o755
            if path.is_dir()
            else 0o644
        )


def times(folder):
    return {str(p): p.lstat().st_mtime_ns for p in (folder, *folder.rglob("*"))}


@needs_compiler
def test_a_cache_of_another_user_is_used_and_never_written_to(built, tmp_path):
    cache = shutil.copytree(built[0], tmp_path / "cache")
    made_by_another_user(cache)
    before = times(cache)
    (backend, right, why), err = finish(start(cache, preexec_fn=powerless))
    assert (backend, right, why) == (
        "native",
        "True",
        "found in the cache",
    ) and "wsss_fast:" not in err
    assert times(cache) == before


# What a build would leave, without the minute that it takes.
BUILT_AT_ONCE = (
    """
import shutil, sys
from pathlib import Path
from wsss_fast import _build, _native
def compile_library(plan, folder):
    return Path(shutil.copy({library!r}, folder / plan.library))
_build.compile_library = compile_library
"""
    + SCRIPT
)


@needs_compiler
def test_a_cache_shared_with_another_user_whose_build_died(built, tmp_path):
    """Its lock and its half-written build are not ours to write or remove; the build is made beside them."""
    (library,) = built[0].glob("cpu-*/*.so")
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
    assert (cache / library.parent.name / "libwsss_fast_cpu.so").is_file()
    assert finish(start(cache))[0] == ["native", "True", "found in the cache"]


@needs_compiler
def test_a_read_only_home_has_its_builds_under_the_temporary_folder(built, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    (library,) = built[0].glob("cpu-*/*.so")
    settings = {"HOME": str(home), "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)}
    process = start(None, BUILT_AT_ONCE.format(library=str(library)), powerless, **settings)
    assert finish(process)[0] == ["native", "True", "built at first use"]
    private = tmp_path / f"wsss_fast-{os.getuid()}"
    assert private.stat().st_mode & 0o777 == 0o700 and not list(home.iterdir())
    assert finish(start(None, preexec_fn=powerless, **settings))[0] == [
        "native",
        "True",
        "found in the cache",
    ]
    if os.getuid() == 0:  # of another user: code in it is not trusted
        os.chown(private, 12345, 12345)
        private.chmod(0o777)
        (backend, right, why), err = finish(start(None, preexec_fn=powerless, **settings))
        assert (backend, right) == (
            "reference",
            "True",
        ) and f"{private} belongs to another user" in why
        assert err.count("RuntimeWarning: wsss_fast") == 1


@needs_compiler
def test_a_cache_that_is_read_only_and_empty(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    (backend, right, why), err = finish(start(cache, preexec_fn=powerless))
    assert (backend, right) == ("reference", "True") and err.count("RuntimeWarning: wsss_fast") == 1
    assert (
        why
        == f"no place for the build: {cache} is not writable (Permission denied); set WSSS_FAST_CACHE"
    )


@needs_compiler
def test_a_full_disk_leaves_nothing_in_the_cache(tmp_path, monkeypatch, capfd):
    def full(plan, folder):
        (folder / "0.o").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("WSSS_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(_build, "compile_library", full)
    with pytest.raises(
        _native.Unavailable, match=f"nothing can be built in {tmp_path}: .*No space left on device"
    ):
        _native._build_into_cache(_build.make_plan("cpu"))
    assert [p.suffix for p in tmp_path.iterdir()] == [
        ".lock"
    ] and "failed" in capfd.readouterr().err


@needs_compiler
def test_folders_with_odd_names(tmp_path):
    """Blanks, quotes, dollars and letters beyond ASCII in the path of the sources, the build and the compiler."""
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


def test_a_user_without_a_home(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    for name in ("WSSS_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert _native._cache_folders() == [_native._temporary_cache()]


def fake_wheel(folder, monkeypatch, **manifests):
    """Libraries that nobody loads, with manifests as of a build from these sources."""
    monkeypatch.setattr(_native, "LIBRARIES", folder)
    folder.mkdir(exist_ok=True)
    for name, changes in manifests.items():
        library = folder / f"lib{name}.so"
        library.write_bytes(name.encode())
        part = "cuda" if "cuda" in name else "cpu"
        plan = dataclasses.replace(_build.make_plan("cpu"), part=part)
        _build.write_manifest(plan, library)
        text = json.loads(library.with_suffix(".json").read_text()) | changes
        library.with_suffix(".json").write_text(json.dumps(text))


@needs_compiler
@pytest.mark.skipif(not _build.is_x86(), reason="elsewhere there is one library")
@pytest.mark.parametrize(
    ("capability", "chosen"), [("AVX512", "avx512"), ("AVX2", "avx2"), ("DEFAULT", None)]
)
def test_of_two_libraries_built_ahead_of_time_the_best_that_runs(
    tmp_path, monkeypatch, capability, chosen
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(_native, "LIBRARIES", tmp_path)
    assert _native.installed_library("cpu") is None
    fake_wheel(tmp_path, monkeypatch, wsss_fast_cpu_avx512={}, wsss_fast_cpu_avx2={})
    if chosen:
        assert _native.installed_library("cpu")[0] == tmp_path / f"libwsss_fast_cpu_{chosen}.so"
    else:
        with pytest.raises(_native.Unavailable, match="do not run on this CPU"):
            _native.installed_library("cpu")


@needs_compiler
@pytest.mark.skipif(not _build.is_x86(), reason="the names are those of x86")
def test_an_installed_library_of_other_sources_or_damaged_is_refused_by_name(tmp_path, monkeypatch):
    fake_wheel(tmp_path, monkeypatch, wsss_fast_cpu_avx2={"source_hash": "0"})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(
        _native.Unavailable, match="libwsss_fast_cpu_avx2.so was built from other sources"
    ):
        _native.installed_library("cpu")
    (tmp_path / "libwsss_fast_cpu_avx2.so").write_bytes(b"cut")
    with pytest.raises(_native.Unavailable, match="libwsss_fast_cpu_avx2.so is damaged"):
        _native.installed_library("cpu")


@needs_compiler
@pytest.mark.parametrize(
    ("torch_cuda", "driver", "cards", "refusal"),
    [
        ("13.0", 13000, [(9, 0)], None),
        ("13.1", 13010, [(8, 6), (9, 0)], None),
        ("13.0", 13000, [(8, 9)], None),  # machine code of 8.6
        ("13.0", 13000, [(11, 0)], None),  # compiled by the driver from 8.0+ptx
        ("12.8", 13000, [(9, 0)], "is for CUDA 13, this torch for CUDA 12.8"),
        (None, 13000, [(9, 0)], "this torch for CUDA none"),
        ("13.0", 12080, [(9, 0)], "the driver runs CUDA 12.8, the installed library needs 13.0"),
        ("13.0", 0, [(9, 0)], "the driver runs CUDA 0.0"),
        ("13.0", 13000, [(7, 5)], "not for compute capability 7.5"),
    ],
)
def test_the_cuda_library_is_loaded_only_where_it_runs(
    tmp_path, monkeypatch, torch_cuda, driver, cards, refusal
):
    fake_wheel(
        tmp_path, monkeypatch, wsss_fast_cuda={"cuda": "13.0", "cuda_archs": "80+ptx 86 90 120"}
    )
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(_native, "_cuda_driver", lambda: driver)
    monkeypatch.setattr(_native, "_capabilities", lambda: cards)
    if refusal is None:
        assert _native.installed_library("cuda")[0].name == "libwsss_fast_cuda.so"
    else:
        with pytest.raises(_native.Unavailable, match=refusal):
            _native.installed_library("cuda")


@needs_compiler
@pytest.mark.parametrize(
    ("version", "refused"),
    [("2.9.1", True), ("1.13.1+cpu", True), ("2.10.0", False), ("2.16.0.dev1", False)],
)
def test_a_torch_older_than_the_oldest_is_named(monkeypatch, version, refused):
    monkeypatch.setattr(torch, "__version__", version)
    if refused:
        with pytest.raises(
            _native.Unavailable, match=f"torch {re.escape(version)} is older than 2.10"
        ):
            _build.make_plan("cpu")
    else:
        assert _build.make_plan("cpu").key


def test_functions_that_a_torch_lacks_are_named_before_the_library_is_loaded(tmp_path):
    manifest = {"part": "cpu", "torch_symbols": "aoti_torch_get_data_ptr aoti_torch_of_next_year"}
    with pytest.raises(
        _native.Unavailable, match="has no aoti_torch_of_next_year, which libx.so needs"
    ):
        _native._open(tmp_path / "libx.so", manifest)


def nvcc_of(folder, release, *, files=("include/cuda_runtime.h", "lib64/libcudart_static.a")):
    """A toolkit whose nvcc only names its release."""
    for name in ("bin/nvcc", *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(
            f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n"
        )
    (folder / "bin/nvcc").chmod(0o755)
    return folder


@needs_compiler
@pytest.mark.parametrize(
    ("release", "files", "said"),
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
def test_a_toolkit_that_does_not_fit_is_named(tmp_path, monkeypatch, release, files, said):
    monkeypatch.setenv("CUDA_HOME", str(nvcc_of(tmp_path, release, files=files)))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_native, "_capabilities", lambda: [(9, 0)])
    with pytest.raises(_native.Unavailable, match=said):
        _native._plan("cuda")


@needs_compiler
def test_nvcc_takes_the_compiler_that_cxx_names(tmp_path, monkeypatch):
    """Who sets CXX often does so because the system's compiler is too new for nvcc."""
    real = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    launcher = tmp_path / "ccache"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(nvcc_of(tmp_path, "13.0")))
    for cxx, named in (("", []), (real, [real]), (f"{launcher} {real} -DX", [real])):
        monkeypatch.setenv("CXX", cxx)
        plan = _build.make_plan("cuda", archs=("90",))
        assert [flag for flag in plan.nvcc_flags if "bindir" in flag] == [
            f"--compiler-bindir={word}" for word in named
        ]


@needs_compiler
def test_the_cuda_library_does_not_hold_up_the_cpu(tmp_path, monkeypatch):
    """Of two parts each has its own backend, reason and warning."""
    monkeypatch.setattr(
        _native, "_state", {part: _native._Backend(part) for part in ("cpu", "cuda")}
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_build, "find_nvcc", lambda: None)
    monkeypatch.delenv("WSSS_FAST_WARNED", raising=False)
    monkeypatch.delenv("WSSS_FAST_BACKEND", raising=False)
    said = "reference for CUDA tensors, because nvcc is missing: install the CUDA toolkit 13.0"
    with pytest.warns(RuntimeWarning, match=said):
        assert not _native.load("cuda")
    assert not _native._state["cpu"].done and not _native.load("mps")


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
def test_a_failing_build_names_the_first_error_and_the_log(tmp_path):
    """The compiler fails for one source only, while other jobs print pages."""
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
    assert why == f"the build failed: /a/b.h:7:3: error: kaput here (all that was printed: {log})"
    assert err.count("RuntimeWarning") == 1 and why in err and err.count("noise") == 0
    assert "kaput here" in log.read_text()


@pytest.mark.parametrize(
    ("log", "first"),
    [
        (
            "[1/2] x\nFAILED: [code=1] 0.o\ng++ -c a.cpp\na.cpp: In function f:\na.cpp:3:4: error: no member\n"
            "a.cpp:9:1: error: second\nninja: build stopped: subcommand failed.\n",
            "a.cpp:3:4: error: no member",
        ),
        (
            "FAILED: 1.o\nnvcc x.cu\nx.cu(12): error: identifier y is undefined\n",
            "x.cu(12): error: identifier y is undefined",
        ),
        (
            "FAILED: y.so\n/usr/bin/ld: 0.o: in function `f':\na.cpp:(.text+0x1): undefined reference to `g'\n"
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
            'In file included from a.h:1,\n                 from b.h:2:\n/x/y.h:4:2: error: #error "guarded"\n',
            '/x/y.h:4:2: error: #error "guarded"',
        ),
        ("ninja: fatal: posix_spawn: No such file\n", "ninja failed and printed nothing"),
        ("", "ninja failed and printed nothing"),
    ],
)
def test_first_error(log, first):
    assert _build.first_error(log) == first


@needs_compiler
def test_cxx_may_be_a_launcher_with_flags_and_is_part_of_the_key(tmp_path, monkeypatch):
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
    assert (
        len(set(keys.values())) == 4 and keys[""] == keys[real]
    )  # the plain compiler is one build, whoever names it
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


def test_reference_backend_on_request_is_silent(tmp_path):
    (backend, right, why), err = finish(start(tmp_path, WSSS_FAST_BACKEND="reference"))
    assert (backend, right, why) == ("reference", "True", "WSSS_FAST_BACKEND=reference")
    assert "wsss_fast:" not in err


def test_unknown_backend_is_refused(tmp_path):
    process = start(tmp_path, WSSS_FAST_BACKEND="fast")
    _, err = process.communicate(timeout=120)
    assert (
        process.returncode == 1
        and "WSSS_FAST_BACKEND is 'fast'; must be native, reference or auto" in err
    )


def test_import_does_not_build(tmp_path):
    environment = os.environ | {"WSSS_FAST_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", "import wsss_fast.ops"], env=environment, check=True, timeout=120
    )
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_what_a_library_says_of_itself():
    """TORCH_BOX does not compare a kernel with its schema; a mismatch would read garbage."""
    if not _native.load():
        pytest.skip("native library not available")
    library, manifest = _native._state["cpu"].path, _native._state["cpu"].manifest
    module = _native.module()
    assert module.build_info(str(library)) == {
        k: v for k, v in manifest.items() if k not in ("size", "sha256")
    }
    signatures = module.signatures(str(library))
    assert ["dense_crf", "CPU"] in [s[:2] for s in signatures] and len(signatures) >= 12
    for op, _, arguments, result in signatures:
        schema = getattr(torch.ops.wsss_fast, op).default._schema
        assert arguments == ", ".join(str(a.type) for a in schema.arguments), op
        assert result == ", ".join(str(r.type) for r in schema.returns), op
    with pytest.raises(ValueError, match="/no/such.so is not loaded"):
        module.signatures("/no/such.so")


@needs_compiler
@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (
            "dense_crf",
            (torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 2, 4, 5), [], [], [0.0, 255.0], 1),
            r"dense_crf: image is \[1,3,4,4\] but unary is \[1,1,2,4,5\]",
        ),
        (
            "permutohedral_lattice",
            (torch.full((4, 2), math.nan),),
            "permutohedral_lattice: features has NaN",
        ),
        (
            "label_conditioned_logits",
            (torch.zeros(1, 2, 3, 3), None, torch.zeros(1, 4, 2, 1, 1), torch.zeros(1, 5), [1]),
            r"label_conditioned_logits: weight is \[1,4,2,1,1\] but bias is \[1,5\]; must be \[R, K\]",
        ),
        (
            "resized_activation",
            (torch.zeros(2, 3, 3), [4, 4], True),
            r"resized_activation: logits is \[2,3,3\]",
        ),
        (
            "random_walk",
            (torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4), 33, 10.0, 1),
            "random_walk: radius is 33",
        ),
        (
            "pixel_cross_entropy",
            (torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), 7), 0.0, False, 255, False, False),
            r"pixel_cross_entropy: labels holds 7; must be 0..1 or 255",
        ),
        (
            "saliency_loss",
            (
                torch.zeros(1, 3, 2, 2),
                torch.zeros(1, 2, 2),
                torch.zeros(1, 2).byte(),
                0.4,
                0.5,
                False,
                [3],
            ),
            r"saliency_loss: background_classes holds 3; must be in 1\.\.2",
        ),
        (
            "aamr_loss",
            (torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), 0.5, 0.5, 0.5),
            r"aamr_loss: logits is \[1,1,2,2\]; must be \[B, K, h, w\], K >= 2",
        ),
    ],
)
def test_native_kernels_raise_value_errors(op, arguments, message):
    """Also where the public function's checks are passed by: in a compiled graph, or by torch.ops."""
    if not _native.load():
        pytest.skip("native library not available")
    with pytest.raises(ValueError, match=message):
        getattr(torch.ops.wsss_fast, op)(*arguments)


@needs_compiler
def test_a_library_of_ops_needs_no_python():
    if not _native.load() or not shutil.which("nm"):
        pytest.skip("native library or nm not available")
    command = ["nm", "-D", "--undefined-only", _native._state["cpu"].path]
    names = subprocess.run(command, capture_output=True, text=True, check=True)
    undefined = [line.split()[-1] for line in names.stdout.splitlines()]
    assert any(name.startswith("aoti_torch") for name in undefined)
    assert not [
        name
        for name in undefined
        if name.startswith(("Py", "_Py", "_ZN2at", "_ZN3c10", "_ZN5torch"))
    ]


def test_kernels_know_no_torch_header():
    for folder in ("math", "cpu", "cuda"):
        for path in filter(Path.is_file, (_build.csrc() / folder).rglob("*")):
            found = re.search(r'#include [<"](torch|.*bind)/.*', path.read_text())
            assert not found, f"{path}: {found.group()}"


def test_one_oldest_torch():
    """The stable ABI that is targeted, the metadata and the README name the same release."""
    oldest = ".".join(map(str, _build.OLDEST_TORCH))
    assert f'"torch>={oldest}"' in (ROOT / "pyproject.toml").read_text()
    assert f"torch {oldest}" in (ROOT / "README.md").read_text()
    assert (
        f"0x{_build.OLDEST_TORCH[0]:02x}{_build.OLDEST_TORCH[1]:02x}"
        in (ROOT / "CMakeLists.txt").read_text()
    )


def test_info():
    dense_crf(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2), iterations=1)
    info = _native.info()
    assert info["backend"] in ("native", "reference") and info["why"]
    if info["backend"] == "native":
        assert info["build_info"]["source_hash"] == _build.source_hash("cpu")
        assert info["simd"] and info["compiler"] and Path(info["library"]).is_file()


def test_checking_without_nvcc(monkeypatch, tmp_path):
    monkeypatch.setattr(_build, "find_nvcc", lambda: None)
    with pytest.raises(_native.Unavailable, match="nvcc is missing"):
        _build.compile_objects("cuda", _build.list_sources("cuda"), tmp_path, ("90",))


def test_checking_against_headers_that_are_none(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tools/check_sources.py", "cpu", "--torch-include", tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (
        done.returncode == 2
        and f"{tmp_path} holds no torch/csrc/stable: not the headers of torch 2.10" in done.stderr
    )


def installed(tmp_path, **settings):
    """`pip install .` (not editable) of a copy of the checkout; returns the folder with the packages."""
    site, source = tmp_path / "site", tmp_path / "source"
    skip = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".*_cache", "runs")
    shutil.copytree(ROOT, source, ignore=skip)
    renamed = source / "build/lib/wsss_fast/csrc/cpu/renamed_since.cpp"  # of an earlier build
    renamed.parent.mkdir(parents=True)
    renamed.touch()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            site,
            source,
        ],
        check=True,
        env=os.environ | settings,
        timeout=1200,
    )
    return site


@needs_compiler
def test_an_installed_package_has_its_sources(built, tmp_path):
    """All of them: it finds the library that the checkout built, whose name holds a hash of the sources."""
    site = installed(tmp_path)
    assert (
        not list(site.rglob("*.so"))
        and "Tag: py3-none-any" in next(site.glob("*.dist-info/WHEEL")).read_text()
    )
    assert finish(start(built[0], PYTHONPATH=str(site)))[0] == [
        "native",
        "True",
        "found in the cache",
    ]


@needs_compiler
@pytest.mark.slow
def test_a_package_built_ahead_of_time_needs_no_compiler(tmp_path):
    site = installed(tmp_path, WSSS_FAST_AOT="1")
    names = (
        {_build.NAMES["cpu"] + suffix for suffix, _, _ in _build.X86_LEVELS}
        if _build.is_x86()
        else {_build.NAMES["cpu"]}
    )
    assert {p.stem for p in (site / "wsss_fast" / "lib").glob("*.so")} == names
    tag = next(site.glob("*.dist-info/WHEEL")).read_text()
    assert (
        "Tag: py3-none-linux" in tag or "Tag: py3-none-macos" in tag
    )  # of one platform, and of any Python
    alone = without_compiler(tmp_path) | {"PYTHONPATH": str(site)}
    for capability in ("avx512", "avx2"):  # each library, where the CPU has both
        process = start(tmp_path / "cache", ATEN_CPU_CAPABILITY=capability, **alone)
        assert finish(process)[0] == ["native", "True", "built ahead of time"]
    # Damaged, it is named, and what a compiler can build takes over; without one, the reference does.
    for library in (site / "wsss_fast" / "lib").glob("*.so"):
        library.write_bytes(library.read_bytes()[:100_000])
    (backend, right, why), err = finish(start(tmp_path / "cache", **alone))
    assert (
        (backend, right) == ("reference", "True")
        and "is damaged" in why
        and "no C++ compiler on PATH" in why
    )
    assert err.count("RuntimeWarning: wsss_fast") == 1
