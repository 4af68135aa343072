"""The ops' Python tests on the CUDA backend, emulated on the CPU (csrc/tests/cuda_on_cpu.h).

The kernels' C++ tests are run by tests/cpp.
"""

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
    pytest.mark.skipif(
        platform.system() != "Linux", reason="the emulator switches stacks as on Linux"
    ),
    pytest.mark.skipif(
        "WSSS_FAST_EMULATE_CUDA" in os.environ, reason="this is the process that it starts"
    ),
]

# Tests of the ops that run on every device.
OP_TESTS = sorted(path for path in TESTS.glob("test_*.py") if "@each_device" in path.read_text())
# Tests that do not hold or are of no use there: parts of test names, for pytest's -k.
EXCLUDED = {
    # Too many pixels for threads that run one after the other.
    "4096",
    # Properties of the lattice or the model, shown by hundreds of random draws; the CASES are run.
    "test_properties",
    "flips_commute",
    "test_reference_gradcheck",
    # What is traced is the same for every backend.
    "compile",
    # Threads of the CPU kernels.
    "thread",
    "a_nan_stays_in_its_map",
    # Only the CPU kernels inspect values, which would stall a CUDA stream.
    "test_wrong_arguments and (nan or inf or below)",
    "kernel_checks_values",
    "kernels_check_the_levels",
    "a_lattice_of_other_images",
    # Numbers that are slow on a CPU.
    "slow_denormal",
    "test_wrong_arguments and pixel_ and holds",
    # Memory of the native CPU kernels.
    "only_the_result_is_as_large",
    # A gradcheck calls the op twice for each number: thousands of calls, each with blocks of 256
    # fibers for every logit. The smaller cases are checked, and the gradients of these are compared
    # with the reference (is_as_close_as_eager).
    "test_gradients and (wide or upsampled or coco or deeplab or amn or twofold)",
    "test_gradcheck and (deeplab or coco)",
    # A product of half-precision matrices takes seconds on the CPU.
    "twice_eagers and float16 and amn",
}


@pytest.fixture(scope="session")
def library() -> Path:
    return emulated_cuda.build(COMPILER, _native.cache_folder())


@pytest.mark.slow
def test_the_ops_tests_pass_on_the_emulated_backend(library):
    excluded = " or ".join(f"({part})" for part in sorted(EXCLUDED))
    environment = {
        **os.environ,
        "WSSS_FAST_EMULATE_CUDA": str(library),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    options = ["-q", "-p", "no:cacheprovider", "-k", f"not ({excluded})"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, OP_TESTS)]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        cwd=TESTS.parents[1],
        check=False,
    )
    print(done.stdout[-4000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
