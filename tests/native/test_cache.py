"""The cache of native builds: cold, warm, damaged, shared, read-only; killed builds and locks."""

import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from native_builds import (
    ROOT,
    SCRIPT_WITH_COPIED_LIBRARY,
    finish,
    needs_compiler,
    start,
    without_compiler,
)
from powerless import powerless

from wsss_fast import _build, _native
from wsss_fast._native import cache as caches


@needs_compiler
def test_cold_build_prints_one_line(built):
    cache, err = built
    lines = [line for line in err.splitlines() if line.startswith("wsss_fast:")]
    assert (
        len(lines) == 1 and "building native ops (CPU" in lines[0] and " s, cached in " in lines[0]
    )
    assert not list(cache.glob("*.build-*"))


@needs_compiler
def test_warm_cache_prints_nothing(built):
    (backend, right, why), err = finish(start(built[0]))
    assert (backend, right, why) == ("native", "True", "found in the cache")
    assert "wsss_fast:" not in err


def damage(library, kind):
    """Change a library or its manifest as an interrupted copy or a power cut would."""
    data, manifest = library.read_bytes(), library.with_suffix(".json")
    half = len(data) // 2
    if kind == "no manifest":
        manifest.unlink()
    elif kind == "broken manifest":
        manifest.write_text('{"size": ')
    elif kind == "zeroed manifest":
        manifest.write_bytes(bytes(manifest.stat().st_size))
    elif kind == "no library":
        library.unlink()
    else:
        library.write_bytes(
            {
                "empty": b"",
                "cut": data[:200_000],
                "half": data[:half],
                "text": b"not a library",
                "zeroed": data[: half - 4096] + bytes(8192) + data[half + 4096 :],
                "all zero": bytes(len(data)),
            }[kind]
        )


@needs_compiler
@pytest.mark.parametrize("kind", ["cut", "zeroed"])
def test_damaged_library_is_rebuilt(built, tmp_path, kind):
    """Loading a truncated library raises SIGBUS, loading one with zeroed pages SIGSEGV."""
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/libwsss_fast_cpu.so")
    whole = _build.read_manifest(library)
    damage(library, kind)
    (source,) = built[0].glob("*/libwsss_fast_cpu.so")
    fields, err = finish(start(cache, SCRIPT_WITH_COPIED_LIBRARY.format(library=str(source))))
    assert fields == ["native", "True", "built at first use"]
    (line,) = (line for line in err.splitlines() if line.startswith("wsss_fast:"))
    assert f"{library} is damaged" in line and "; building native ops (CPU)" in line
    assert _build.read_manifest(library)["sha256"] == whole["sha256"]


@needs_compiler
@pytest.mark.parametrize(
    "kind",
    ["empty", "half", "text", "all zero", "no library", "no manifest", "broken manifest",
     "zeroed manifest"],
)  # fmt: skip
def test_damage_is_noticed_before_loading(built, tmp_path, monkeypatch, capfd, kind):
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/libwsss_fast_cpu.so")
    (source,) = built[0].glob("*/libwsss_fast_cpu.so")
    damage(library, kind)
    monkeypatch.setenv("WSSS_FAST_CACHE", str(cache))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(
        _build, "compile_library", lambda plan, folder: shutil.copy(source, folder / plan.library)
    )
    fitting, problem = caches.find_fitting("cpu")
    assert not fitting and (kind == "no library" or str(library.parent) in problem)
    found = caches.find_or_build("cpu", lambda: _build.make_plan("cpu"))
    assert found.path.read_bytes() == source.read_bytes() and found.build_seconds is not None
    line = capfd.readouterr().err
    assert re.search("is damaged: |is missing; |cannot be read: ", line) and line.count("\n") == 1


@needs_compiler
def test_warm_cache_needs_no_compiler(built, tmp_path):
    """As in a container that is given the cache of another one."""
    fields, err = finish(start(built[0], **without_compiler(tmp_path), CXX="no-such-compiler -m64"))
    assert fields[:2] == ["native", "True"] and "RuntimeWarning" not in err
    assert re.fullmatch("no C\\+\\+ compiler 'no-such.*; found in the cache", fields[2])


@needs_compiler
def test_damaged_library_without_a_compiler(built, tmp_path, monkeypatch):
    """The reason names both."""
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/libwsss_fast_cpu.so")
    damage(library, "zeroed")
    for name, value in (without_compiler(tmp_path) | {"WSSS_FAST_CACHE": str(cache)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        _native.Unavailable, match=r"^.*_cpu\.so is damaged: .*; no C\+\+ compiler on PATH: "
    ):
        _native._load_native(_native._Backend("cpu"))


@needs_compiler
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cpu", "a CPU with avx4096, which this one lacks"),
        ("torch", f"torch {torch.__version__} avx4096"),
        ("machine", f"a machine of type {platform.machine()} avx4096"),
        ("source_hash", "other sources of wsss-fast"),
        ("old", "torch None"),
        (None, ""),
    ],
)
def test_library_that_does_not_fit_is_not_loaded(built, tmp_path, monkeypatch, change, message):
    """Code for another CPU would end the process with an illegal instruction."""
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/libwsss_fast_cpu.so")
    manifest = json.loads(library.with_suffix(".json").read_text())
    if change == "old":
        del manifest["runs_on"]
    elif change == "source_hash":
        manifest["source_hash"] = "0"
    elif change:
        manifest["runs_on"][change] += " avx4096"
    library.with_suffix(".json").write_text(json.dumps(manifest))
    monkeypatch.setenv("WSSS_FAST_CACHE", str(cache))
    found, problem = caches.find_fitting("cpu")
    assert [one.path for one in found] == ([] if change else [library])
    assert problem == (f"{library} was built for {message}" if change else "")


def test_library_for_fewer_features_fits():
    here = {"source_hash": "0", **_build.runs_on("cpu")}
    first, *others = here["cpu"].split()
    older = here | {"cpu": " ".join(others)}
    assert not caches._misfit("cpu", {"source_hash": "0", "runs_on": older}, here)
    assert first in caches._misfit("cpu", {"source_hash": "0", "runs_on": here}, older)
    assert caches._misfit("cpu", {"source_hash": "0", "runs_on": "text"}, here)


@needs_compiler
def test_two_processes_find_the_same_damaged_library(built, tmp_path):
    cache = shutil.copytree(built[0], tmp_path / "cache")
    (library,) = cache.glob("*/libwsss_fast_cpu.so")
    library.write_bytes(bytes(library.stat().st_size))
    (source,) = built[0].glob("*/libwsss_fast_cpu.so")
    script = SCRIPT_WITH_COPIED_LIBRARY.format(library=str(source))
    processes = [start(cache, script) for _ in range(2)]
    results = [finish(p) for p in processes]
    assert [fields[:2] for fields, _ in results] == [["native", "True"]] * 2
    assert sum("is damaged" in err for _, err in results) == 1


@needs_compiler
def test_file_system_without_locks(built, tmp_path, monkeypatch):
    def unsupported(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (source,) = built[0].glob("cpu-*/libwsss_fast_cpu.so")
    monkeypatch.setenv("WSSS_FAST_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(caches.fcntl, "flock", unsupported)
    monkeypatch.setattr(
        _build, "compile_library", lambda plan, folder: shutil.copy(source, folder / plan.library)
    )
    found = caches.find_or_build("cpu", lambda: _build.make_plan("cpu"))
    assert found.build_seconds is not None and found.path.is_file()
    assert caches.find_or_build("cpu", lambda: _build.make_plan("cpu")).build_seconds is None


@needs_compiler
def test_undamaged_library_that_cannot_be_loaded_is_not_rebuilt(built, tmp_path):
    """For example with a libstdc++ older than the compiler's: one warning, then the reference."""
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
def test_after_a_killed_build_one_of_two_processes_builds(built, tmp_path):
    victim = start(tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.build-*/build.ninja")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert list(tmp_path.glob("*.build-*"))  # its directory is left
    # Their build copies a library, and takes so long that the other process has to wait for it.
    (source,) = built[0].glob("*/libwsss_fast_cpu.so")
    script = SCRIPT_WITH_COPIED_LIBRARY.format(library=str(source))
    script = script.replace("    return Path(shutil", "    time.sleep(2)\n    return Path(shutil")
    processes = [start(tmp_path, "import time\n" + script) for _ in range(2)]
    results = [finish(p) for p in processes]
    assert [r[0][:2] for r in results] == [["native", "True"]] * 2
    assert sum("building native ops" in r[1] for r in results) == 1
    assert not list(tmp_path.glob("*.build-*"))


def give_to_another_user(folder, *, read_only=True):
    """Change the owner of a directory; if the tests do not run as root, make it read-only."""
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


def modification_times(folder):
    return {str(p): p.lstat().st_mtime_ns for p in (folder, *folder.rglob("*"))}


@needs_compiler
def test_cache_of_another_user_is_used_but_not_written(built, tmp_path):
    cache = shutil.copytree(built[0], tmp_path / "cache")
    give_to_another_user(cache)
    before = modification_times(cache)
    (backend, right, why), err = finish(start(cache, preexec_fn=powerless))
    assert (backend, right, why) == (
        "native",
        "True",
        "found in the cache",
    ) and "wsss_fast:" not in err
    assert modification_times(cache) == before


@needs_compiler
def test_cache_shared_with_another_user_whose_build_was_killed(built, tmp_path):
    """The other user's lock and partial build cannot be written; ours goes next to them."""
    (library,) = built[0].glob("cpu-*/*.so")
    cache = tmp_path / "cache"
    dead = cache / f"{library.parent.name}.build-dead"
    dead.mkdir(parents=True)
    (dead / "0.o").write_bytes(b"half")
    (cache / f"{library.parent.name}.lock").touch()
    give_to_another_user(cache, read_only=False)
    if os.getuid() == 0:
        cache.chmod(0o777)
    process = start(cache, SCRIPT_WITH_COPIED_LIBRARY.format(library=str(library)), powerless)
    assert finish(process)[0] == ["native", "True", "built at first use"]
    assert (cache / library.parent.name / "libwsss_fast_cpu.so").is_file()
    assert finish(start(cache))[0] == ["native", "True", "found in the cache"]


@needs_compiler
def test_read_only_home_builds_in_the_temporary_directory(built, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    (library,) = built[0].glob("cpu-*/*.so")
    settings = {"HOME": str(home), "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)}
    process = start(
        None, SCRIPT_WITH_COPIED_LIBRARY.format(library=str(library)), powerless, **settings
    )
    assert finish(process)[0] == ["native", "True", "built at first use"]
    private = tmp_path / f"wsss_fast-{os.getuid()}"
    assert private.stat().st_mode & 0o777 == 0o700 and not list(home.iterdir())
    assert finish(start(None, preexec_fn=powerless, **settings))[0] == [
        "native",
        "True",
        "found in the cache",
    ]
    if os.getuid() == 0:  # code in another user's directory is not trusted
        os.chown(private, 12345, 12345)
        private.chmod(0o777)
        (backend, right, why), err = finish(start(None, preexec_fn=powerless, **settings))
        assert (backend, right) == (
            "reference",
            "True",
        ) and f"{private} belongs to another user" in why
        assert err.count("RuntimeWarning: wsss_fast") == 1


@needs_compiler
def test_read_only_empty_cache(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    (backend, right, why), err = finish(start(cache, preexec_fn=powerless))
    assert (backend, right) == ("reference", "True") and err.count("RuntimeWarning: wsss_fast") == 1
    assert why == (
        f"no directory for the build: {cache} is not writable (Permission denied); "
        "set WSSS_FAST_CACHE"
    )


@needs_compiler
def test_full_disk_leaves_nothing_in_the_cache(tmp_path, monkeypatch, capfd):
    def full(plan, folder):
        (folder / "0.o").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("WSSS_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(_build, "compile_library", full)
    with pytest.raises(
        _native.Unavailable, match=f"cannot build in {tmp_path}: .*No space left on device"
    ):
        caches.find_or_build("cpu", lambda: _build.make_plan("cpu"))
    assert [p.suffix for p in tmp_path.iterdir()] == [
        ".lock"
    ] and "failed" in capfd.readouterr().err


def test_user_without_home_directory(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    for name in ("WSSS_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert caches.cache_folders() == [caches.temporary_cache()]


def test_import_does_not_build(tmp_path):
    environment = os.environ | {"WSSS_FAST_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", "import wsss_fast.ops"], env=environment, check=True, timeout=120
    )
    assert not list(tmp_path.iterdir())
