"""Child processes with their own native build, for tests/native.

`python tests/helpers/native_builds.py FOLDER` builds FOLDER/native-build, which the tests of a
session with WSSS_FAST_COLD_BUILD=FOLDER use instead of a build of their own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS_COMPILER = any(shutil.which(c) for c in ("g++", "clang++", "c++"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")

# Runs a small CRF and prints one line: backend | result is correct | reason for the backend.
SCRIPT = """
import sys
import torch
from wsss_fast import _build, _native
from wsss_fast.ops import dense_crf, reference
image = torch.arange(3 * 6 * 8, dtype=torch.uint8).reshape(1, 3, 6, 8)
unary = torch.linspace(0, 3, 2 * 6 * 8).reshape(1, 2, 6, 8)
q = dense_crf(image, unary, iterations=2)
assert "torch._dynamo" not in sys.modules  # it takes as long to import as torch
error = (q - reference.dense_crf(image, unary, iterations=2)).abs().max().item()
info = _native.info()
print(info["backend"], error < 1e-5, info["why"].splitlines()[0], sep="|")
"""

# SCRIPT with torch.compile, too: for the libraries themselves, not for what finds and loads them.
SCRIPT_WITH_COMPILE = (
    SCRIPT
    + """
call = torch.compile(
    lambda i, u: dense_crf(i, u, iterations=2), fullgraph=True, backend="aot_eager"
)
assert torch.equal(call(image, unary), q)
"""
)

# SCRIPT with a build that copies a finished library.
SCRIPT_WITH_COPIED_LIBRARY = (
    """
import shutil, sys
from pathlib import Path
from wsss_fast import _build, _native
def compile_library(plan, folder):
    return Path(shutil.copy({library!r}, folder / plan.library))
_build.compile_library = compile_library
"""
    + SCRIPT
)


def start(cache, script=SCRIPT, preexec_fn=None, **variables):
    """Start a script in a new process with its own cache (None: chosen from HOME and TMPDIR)."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("WSSS_FAST") and k != "CXX"
    }
    environment |= (
        {"PYTHONPATH": str(ROOT)} | ({"WSSS_FAST_CACHE": str(cache)} if cache else {}) | variables
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        preexec_fn=preexec_fn,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd="/",  # the checkout would come first on sys.path
    )


def finish(process, timeout=240):
    """Wait for `start`; return the fields that SCRIPT printed, and stderr."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out.strip().splitlines()[-1].split("|"), err


def paths_of(folder):
    """The cache of `build_cold`, and the file with what its build printed."""
    return folder / "native-build", folder / "native-build.txt"


def build_cold(folder):
    """Build the library in an empty cache in `folder`."""
    cache, printed = paths_of(folder)
    shutil.rmtree(cache, ignore_errors=True)  # of a build that failed
    fields, err = finish(start(cache, SCRIPT_WITH_COMPILE))
    assert fields == ["native", "True", "built at first use"], fields
    printed.write_text(err)


def without_compiler(tmp_path):
    """Environment variables with an empty PATH."""
    empty = tmp_path / "bin"
    empty.mkdir(exist_ok=True)
    return {"PATH": str(empty)}


if __name__ == "__main__":
    build_cold(Path(sys.argv[1]))
