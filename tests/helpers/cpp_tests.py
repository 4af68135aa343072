"""The build of the C++ tests of the kernels (csrc/tests) with CMake and sanitizers.

`python tests/helpers/cpp_tests.py FOLDER` builds them in FOLDER on one core; a session with
WSSS_FAST_CPP_TESTS=FOLDER uses this build, and waits for it if it still runs. It needs nothing that
is installed.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("g++") or shutil.which("c++")
CMAKE = shutil.which("cmake")
JOBS = str(min(2, os.cpu_count() or 1))


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


def build(folder: Path, jobs: str = JOBS) -> None:
    """Build all tests, with the address and undefined-behaviour sanitizers where there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    sanitizers = "address,undefined"
    with open(folder / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not has_sanitizers(folder, sanitizers):
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
        if not (folder / "CMakeCache.txt").is_file():  # which has the generator
            run("cmake", *generator, *definitions, "-S", ROOT, "-B", folder)
        run("cmake", "--build", folder, "--parallel", jobs)


if __name__ == "__main__":
    if COMPILER and CMAKE:  # else they are skipped
        build(Path(sys.argv[1]), jobs="1")
