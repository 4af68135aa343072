"""One thread per process, cheap garbage collections, and shared fixtures: a small Shapes set."""

import gc
import os
import shutil

# The tests' tensors are small: a second OpenMP thread would mostly spin, especially when
# pytest-xdist runs several processes. Set before torch is imported, and for child processes too.
# Tests of several threads call torch.set_num_threads; OMP_NUM_THREADS=N runs every test with N.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import emulated_cuda  # noqa: E402
import pytest  # noqa: E402

from wsss_fast import data  # noqa: E402
from wsss_fast.engine import signals  # noqa: E402

# The library that test_cuda_on_cpu.py builds.
if emulated := os.environ.get("WSSS_FAST_EMULATE_CUDA"):
    emulated_cuda.serve(emulated)


def pytest_collection_finish():
    """The modules and tests stay to the end: garbage collections need not visit them."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_earlier_signal():
    """No test inherits what an earlier one of its process did with signals."""
    state = signals._State
    state.installed = state.stopping = state.ended = False
    state.deferred, state.pending, state.first = 0, None, 0.0


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory):
    return data.make_shapes(
        tmp_path_factory.mktemp("data") / "shapes", seed=3, train=24, val=8, size=64
    )


@pytest.fixture(scope="session")
def shapes(shapes_root):
    return data.load(shapes_root)


@pytest.fixture(scope="session")
def true_masks(shapes, tmp_path_factory):
    """Folder of pseudo-masks that are the true masks."""
    folder = tmp_path_factory.mktemp("masks")
    for id in shapes.ids:
        data.write_labels(folder / f"{id}.png", shapes.mask(id))
    return folder


@pytest.fixture
def own_shapes(shapes_root, tmp_path):
    """A copy of the Shapes set that a test may damage."""
    return shutil.copytree(shapes_root, tmp_path / "shapes")
