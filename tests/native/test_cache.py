"""The cache of native builds: cold, warm, damaged, shared, read-only; killed builds and locks."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from native_builds import ROOT, SCRIPT_WITH_COPIED_LIBRARY, finish, needs_compiler, start
from powerless import powerless

from wsss_fast import _build, _native


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


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "zeroed", "text", "no_manifest", "broken_manifest"])
def test_damaged_library_is_rebuilt(built, tmp_path, damage):
    """Loading a truncated library raises SIGBUS, loading one with zeroed pages SIGSEGV."""
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
    process = start(
        cache,
        SCRIPT_WITH_COPIED_LIBRARY.format(
            library=str(next(built[0].glob("*/libwsss_fast_cpu.so")))
        ),
    )
    assert finish(process)[0] == ["native", "True", "built at first use"]
    assert _native._read_manifest(library)["sha256"] == whole["sha256"]


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
def test_after_a_killed_build_one_of_two_processes_builds(tmp_path, quick_compiler):
    victim = start(tmp_path, CXX=quick_compiler)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.build-*/build.ninja")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert list(tmp_path.glob("*.build-*"))  # its directory is left
    processes = [start(tmp_path, CXX=quick_compiler) for _ in range(2)]
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
        _native._build_into_cache(_build.make_plan("cpu"))
    assert [p.suffix for p in tmp_path.iterdir()] == [
        ".lock"
    ] and "failed" in capfd.readouterr().err


def test_user_without_home_directory(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    for name in ("WSSS_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert _native._cache_folders() == [_native._temporary_cache()]


def test_import_does_not_build(tmp_path):
    environment = os.environ | {"WSSS_FAST_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", "import wsss_fast.ops"], env=environment, check=True, timeout=120
    )
    assert not list(tmp_path.iterdir())
