"""Installed packages: sources, ahead-of-time libraries, and the choice between them."""

import dataclasses
import json
import os
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


def fake_wheel(folder, monkeypatch, **manifests):
    """Files in place of libraries, with manifests as of a build from these sources."""
    monkeypatch.setattr(libraries, "LIBRARIES", folder)
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
@pytest.mark.skipif(not _build.is_x86(), reason="one library on other platforms")
@pytest.mark.parametrize(
    ("capability", "chosen"), [("AVX512", "avx512"), ("AVX2", "avx2"), ("DEFAULT", None)]
)
def test_fastest_supported_library_is_chosen(tmp_path, monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(libraries, "LIBRARIES", tmp_path)
    assert libraries.installed_library("cpu") is None
    fake_wheel(tmp_path, monkeypatch, wsss_fast_cpu_avx512={}, wsss_fast_cpu_avx2={})
    if chosen:
        assert libraries.installed_library("cpu")[0] == tmp_path / f"libwsss_fast_cpu_{chosen}.so"
    else:
        with pytest.raises(_native.Unavailable, match="do not run on this CPU"):
            libraries.installed_library("cpu")


@needs_compiler
@pytest.mark.skipif(not _build.is_x86(), reason="names of x86 libraries")
def test_stale_or_damaged_installed_library_raises(tmp_path, monkeypatch):
    fake_wheel(tmp_path, monkeypatch, wsss_fast_cpu_avx2={"source_hash": "0"})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(
        _native.Unavailable, match="libwsss_fast_cpu_avx2.so was built from other sources"
    ):
        libraries.installed_library("cpu")
    (tmp_path / "libwsss_fast_cpu_avx2.so").write_bytes(b"cut")
    with pytest.raises(_native.Unavailable, match="libwsss_fast_cpu_avx2.so is damaged"):
        libraries.installed_library("cpu")


@needs_compiler
@pytest.mark.parametrize(
    ("torch_cuda", "driver", "cards", "error"),
    [
        ("13.0", 13000, [(9, 0)], None),
        ("13.1", 13010, [(8, 6), (9, 0)], None),
        ("13.0", 13000, [(8, 9)], None),  # machine code of 8.6
        ("13.0", 13000, [(11, 0)], None),  # PTX of 8.0
        ("12.8", 13000, [(9, 0)], "is for CUDA 13, this torch is for CUDA 12.8"),
        (None, 13000, [(9, 0)], "this torch is for CUDA none"),
        (
            "13.0",
            12080,
            [(9, 0)],
            "the driver supports CUDA 12.8, the installed library needs 13.0",
        ),
        ("13.0", 0, [(9, 0)], "the driver supports CUDA 0.0"),
        ("13.0", 13000, [(7, 5)], "not for compute capability 7.5"),
    ],
)
def test_cuda_library_is_chosen_only_if_supported(
    tmp_path, monkeypatch, torch_cuda, driver, cards, error
):
    fake_wheel(
        tmp_path, monkeypatch, wsss_fast_cuda={"cuda": "13.0", "cuda_archs": "80+ptx 86 90 120"}
    )
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(libraries, "_cuda_driver", lambda: driver)
    monkeypatch.setattr(libraries, "capabilities", lambda: cards)
    if error is None:
        assert libraries.installed_library("cuda")[0].name == "libwsss_fast_cuda.so"
    else:
        with pytest.raises(_native.Unavailable, match=error):
            libraries.installed_library("cuda")


def test_functions_missing_in_torch_are_reported_before_loading(tmp_path):
    manifest = {"part": "cpu", "torch_symbols": "aoti_torch_get_data_ptr aoti_torch_of_next_year"}
    with pytest.raises(
        _native.Unavailable, match="has no aoti_torch_of_next_year, which libx.so needs"
    ):
        libraries.open_library(tmp_path / "libx.so", manifest)


def install(tmp_path, **settings):
    """Install a copy of the checkout with pip; return the site-packages directory."""
    site, source = tmp_path / "site", tmp_path / "source"
    skip = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".*_cache", "runs")
    shutil.copytree(ROOT, source, ignore=skip)
    renamed = source / "build/lib/wsss_fast/csrc/cpu/renamed_since.cpp"  # from an earlier build
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
def test_installed_package_has_all_sources(built, tmp_path):
    """It finds the library that the checkout built, whose key has a hash of all sources."""
    site = install(tmp_path)
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
def test_package_built_ahead_of_time_needs_no_compiler(tmp_path, quick_compiler):
    site = install(tmp_path, WSSS_FAST_AOT="1", CXX=quick_compiler)
    names = (
        {_build.NAMES["cpu"] + suffix for suffix, _, _ in _build.X86_LEVELS}
        if _build.is_x86()
        else {_build.NAMES["cpu"]}
    )
    assert {p.stem for p in (site / "wsss_fast" / "lib").glob("*.so")} == names
    tag = next(site.glob("*.dist-info/WHEEL")).read_text()
    # For one platform and any Python.
    assert "Tag: py3-none-linux" in tag or "Tag: py3-none-macos" in tag
    alone = without_compiler(tmp_path) | {"PYTHONPATH": str(site)}
    for capability in ("avx512", "avx2"):  # each library, if the CPU supports both
        settings = {"ATEN_CPU_CAPABILITY": capability, **alone}
        process = start(tmp_path / "cache", SCRIPT_WITH_COMPILE, **settings)
        assert finish(process)[0] == ["native", "True", "built ahead of time"]
    # A damaged library is reported; without a compiler to build another, the reference is used.
    for library in (site / "wsss_fast" / "lib").glob("*.so"):
        library.write_bytes(library.read_bytes()[:100_000])
    (backend, right, why), err = finish(start(tmp_path / "cache", **alone))
    assert (
        (backend, right) == ("reference", "True")
        and "is damaged" in why
        and "no C++ compiler on PATH" in why
    )
    assert err.count("RuntimeWarning: wsss_fast") == 1
