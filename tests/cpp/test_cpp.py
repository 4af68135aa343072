"""The C++ tests of the kernels (csrc/tests), built with CMake and sanitizers."""

import os
import platform
from pathlib import Path

import pytest
from cpp_tests import CMAKE, COMPILER, JOBS, ROOT, build, run

TESTS = {path.stem for path in (ROOT / "csrc" / "tests").glob("*_test.cpp")}

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(CMAKE is None, reason="no cmake"),
    pytest.mark.skipif(
        platform.system() != "Linux", reason="the emulator switches stacks as on Linux"
    ),
]


@pytest.mark.slow
def test_kernels_in_cpp(tmp_path):
    """All C++ tests, with the address and undefined-behaviour sanitizers where there are any."""
    folder = Path(os.environ.get("WSSS_FAST_CPP_TESTS", tmp_path))
    build(folder)
    output = run("ctest", "--test-dir", folder, "--output-on-failure", "--parallel", JOBS)
    assert {line.split()[3] for line in output.splitlines() if "Passed" in line} == TESTS
