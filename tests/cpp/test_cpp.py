"""The C++ tests of the kernels (csrc/tests), built with CMake and sanitizers."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = {path.stem for path in (ROOT / "csrc" / "tests").glob("*_test.cpp")}
COMPILER = shutil.which("g++") or shutil.which("c++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake"),
    pytest.mark.skipif(
        platform.system() != "Linux", reason="the emulator switches stacks as on Linux"
    ),
]


def run(*command: str | Path) -> str:
    """The output of a command, which must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def has_sanitizers(folder: Path, sanitizers: str) -> bool:
    """Whether a program with these sanitizers can be linked and run here."""
    (folder / "main.cpp").write_text("int main() {}\n")
    command = [COMPILER, f"-fsanitize={sanitizers}", folder / "main.cpp", "-o", folder / "main"]
    return all(
        subprocess.run(c, capture_output=True, check=False).returncode == 0
        for c in (command, [folder / "main"])
    )


@pytest.mark.slow
def test_kernels_in_cpp(tmp_path):
    """All C++ tests, with the address and undefined-behaviour sanitizers where there are any."""
    sanitizers = "address,undefined"
    if not has_sanitizers(tmp_path, sanitizers):
        sanitizers = ""
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    # -Og compiles in half the time of -O2, most of all with sanitizers.
    options = {
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_CXX_FLAGS": "-Og -Werror",
        "CMAKE_BUILD_TYPE": "None",
        "WSSS_SANITIZE": sanitizers,
    }
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    run("cmake", *generator, *definitions, "-S", ROOT, "-B", tmp_path)
    jobs = str(min(2, os.cpu_count() or 1))
    run("cmake", "--build", tmp_path, "--parallel", jobs)
    output = run("ctest", "--test-dir", tmp_path, "--output-on-failure", "--parallel", jobs)
    assert {line.split()[3] for line in output.splitlines() if "Passed" in line} == TESTS
