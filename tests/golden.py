"""Where the public implementations' stored outputs are; they are not part of this repository."""

import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(os.environ.get("WSSS_FAST_GOLDEN", Path(__file__).resolve().parents[2] / "shared" / "golden"))
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference data in {GOLDEN}")


def golden(name):
    return np.load(GOLDEN / f"{name}.npz")


def cases(name):
    """Prefixes that number the cases of a file; none without the data."""
    return sorted({key.split("/")[0] for key in golden(name).files if "/" in key}) if GOLDEN.is_dir() else []
