"""The CUDA kernels, compiled as C++ and run on the CPU (csrc/tests/cuda_on_cpu.h), against naive definitions."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parent.parent / "csrc"
NAMES = sorted({path.stem for path in (CSRC / "tests").glob("*_test.cpp")} - {"kernel_test"})  # that has no CUDA kernel
COMPILER = shutil.which("g++") or shutil.which("c++")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.skipif(platform.system() != "Linux", reason="the emulator's fibers need glibc's ucontext")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_kernels_on_the_cpu(name, tmp_path):
    program = tmp_path / name
    # As the JIT: no contraction, or vertices would differ.
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-Wno-psabi", "-Wno-unknown-pragmas", "-Werror"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-march=x86-64-v3")  # without it, fmaf is a slow library call
    source = CSRC / "tests" / f"{name}.cpp"
    built = subprocess.run([COMPILER, *flags, source, "-o", program], capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n")
