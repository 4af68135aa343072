"""Stored inputs and outputs of the papers' public implementations.

The full data is outside this repository: in the folder that the environment variable
WSSS_FAST_GOLDEN names, else in `../shared/golden` next to the repository. In any other clone, tests
run on the subset in `tests/golden/data`, which has only arrays whose inputs are synthetic.
"""

import functools
import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_fast import nets

SUBSET = Path(__file__).resolve().parents[1] / "golden" / "data"


def _find() -> Path:
    if given := os.environ.get("WSSS_FAST_GOLDEN"):
        return Path(given).resolve(strict=True)
    full = Path(__file__).resolve().parents[3] / "shared" / "golden"
    return full if full.is_dir() else SUBSET


GOLDEN = _find()
FULL = GOLDEN != SUBSET
needs_full_golden = pytest.mark.skipif(
    not FULL, reason="needs the full golden data (WSSS_FAST_GOLDEN): it was computed from photos"
)
needs_golden = needs_full_golden  # former name


def golden(name):
    """The arrays of one file."""
    return np.load(GOLDEN / f"{name}.npz")


def cases(name):
    """Prefixes that number the cases of a file; none where the file is not in the subset."""
    if not FULL and not (GOLDEN / f"{name}.npz").is_file():
        return []
    return sorted({key.split("/")[0] for key in golden(name).files if "/" in key})


def public_keys(name):
    """Every parameter name of a public checkpoint, with shape and dtype."""
    return json.loads((GOLDEN / "keys" / f"{name}.json").read_text())


def recipe_weights(name, shape):
    """The weights behind the stored outputs: noise seeded by the parameter's name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if name.endswith(("running_mean", "bias")):
        return 0.1 * noise
    if len(shape) <= 1:
        return 1 + 0.1 * noise
    return noise / math.sqrt(math.prod(shape[1:]))


@functools.cache  # the networks share most of their parameters' names
def _weights_and_sum(name, shape):
    value = recipe_weights(name, shape)
    return value, float(value.double().sum())


def public_state(name):
    """The state dict of a public checkpoint, repeated names included, with recipe weights."""
    keys = public_keys(name)
    state = {}
    for key, entry in keys["canonical"].items():
        value, total = _weights_and_sum(key, tuple(entry["shape"]))
        assert total == pytest.approx(entry["sum"], abs=1e-4)
        state.update(dict.fromkeys((key, *entry["aliases"]), value))
    for key, entry in keys["state_dict"].items():
        state.setdefault(key, torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"])))
    return state


def filled(net, name):
    """`net` with the recipe weights of a public checkpoint, in evaluation mode."""
    return nets.load_weights(net, public_state(name), complete=True).eval()
