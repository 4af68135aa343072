"""Shared fixtures: a small Shapes set, and a way to change one file of a copy of it."""

import os
import shutil

import emulated_cuda
import pytest

from wsss_fast import data

if emulated := os.environ.get("WSSS_FAST_EMULATE_CUDA"):  # the library that test_cuda_on_cpu.py builds
    emulated_cuda.serve(emulated)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    return data.make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=3, train=24, val=8, size=64)


@pytest.fixture(scope="session")
def shapes(shapes_root):
    return data.load(shapes_root)


@pytest.fixture
def own_shapes(shapes_root, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(shapes_root, tmp_path / "shapes")
