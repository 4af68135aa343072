"""Wrong arguments raise the same errors where no native library can be built."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def test_wrong_arguments_without_native_kernels():
    options = ["-q", "-p", "no:cacheprovider", "-k", "wrong and not backend"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(TESTS)],
        env={**os.environ, "WSSS_FAST_BACKEND": "reference"},
        capture_output=True,
        text=True,
        timeout=600,
        cwd=TESTS.parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
