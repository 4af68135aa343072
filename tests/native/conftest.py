"""Fixtures of the native builds: one cold build per test run, and a fast compiler."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from native_builds import HAS_COMPILER, build_cold, paths_of


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A warm cache, and what its build printed; all pytest-xdist workers share one build.

    WSSS_FAST_COLD_BUILD names the folder of a build by helpers/native_builds.py that is used.
    """
    if finished := os.environ.get("WSSS_FAST_COLD_BUILD"):
        cache, printed = paths_of(Path(finished))
        return cache, printed.read_text()
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    cache, printed = paths_of(base)
    with open(base / "native-build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.is_file():
            build_cold(base)
    return cache, printed.read_text()


@pytest.fixture(scope="session")
def built_cache(request):
    """The warm cache; without a compiler, None: the user's own cache."""
    return request.getfixturevalue("built")[0] if HAS_COMPILER else None


@pytest.fixture
def quick_compiler(tmp_path):
    """A script for CXX that compiles without optimization, which takes half the time."""
    real = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    script = tmp_path / "quick-compiler" / "g++"
    script.parent.mkdir()
    script.write_text(f"""#!/bin/bash
for word; do
  [[ $word == -O[13] ]] && word=-O0
  words+=("$word")
done
exec '{real}' "${{words[@]}}"
""")
    script.chmod(0o755)
    return str(script)
