"""The CUDA backend's host code and kernels, in the emulator (csrc/tests/cuda_on_cpu.h), under the Python tests of the ops.

The kernels' C++ tests are run by cpp/test_cpp.py."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import emulated_cuda
import pytest

from wsss_fast import _native

TESTS = Path(__file__).resolve().parent
COMPILER = shutil.which("g++") or shutil.which("c++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(platform.system() != "Linux", reason="the emulator's fibers need glibc's ucontext"),
    pytest.mark.skipif("WSSS_FAST_EMULATE_CUDA" in os.environ, reason="this is the process that it starts"),
]

OP_TESTS = ("dense_crf", "lattice", "label_conditioned", "resized_activation", "pixel_loss", "saliency_loss", "aamr_loss",
            "random_walk", "extreme_values")
# What does not hold or is of no use there, by pytest's -k: parts of test names.
LEFT_OUT = {
    # Oracles of the model, not of a backend; they are photos, too large for threads that run one after the other.
    "pydensecrf", "as_close_to_exact", "4096",
    # Properties of the lattice or the model that hundreds of random draws show; the CASES are run.
    "properties", "flips_commute", "test_reference_gradcheck",
    # Threads of the CPU kernels.
    "thread", "a_nan_stays_in_its_map",
    # Only the CPU kernel looks at the values: a look would stall a CUDA stream. The emulator does not.
    "test_bad_input and nan", "test_bad_input and inf", "kernel_checks_what_python_cannot_see",
    "test_errors_name_the_argument and pixel_ and (change3 or change7)",
    # Memory of the native CPU kernels.
    "only_the_result_is_as_large",
    # A gradcheck calls the op twice for each number: thousands of calls, or blocks of 256 fibers for every logit in each.
    # The smaller cases are checked, and the gradients of these against the reference (is_as_close_as_eager).
    "test_gradients and (wide or upsampled or coco or deeplab or amn-pixel)",
    # The CPU's product of half matrices takes seconds.
    "twice_eagers and float16 and amn",
}


@pytest.fixture(scope="session")
def library() -> Path:
    return emulated_cuda.build(COMPILER, _native.cache_folder())


@pytest.mark.slow
def test_the_ops_tests_pass_on_the_emulated_backend(library):
    files = [str(TESTS / f"test_{name}.py") for name in OP_TESTS]
    left_out = " or ".join(f"({part})" for part in sorted(LEFT_OUT))
    environment = {**os.environ, "WSSS_FAST_EMULATE_CUDA": str(library), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"not ({left_out})", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=TESTS.parent, check=False)
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
