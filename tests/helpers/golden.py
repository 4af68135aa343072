"""Where the public implementations' stored outputs are; they are not part of this repository."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_fast import nets

GOLDEN = Path(
    os.environ.get("WSSS_FAST_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden")
)
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference data in {GOLDEN}")


def golden(name):
    return np.load(GOLDEN / f"{name}.npz")


def cases(name):
    """Prefixes that number the cases of a file; none without the data."""
    return (
        sorted({key.split("/")[0] for key in golden(name).files if "/" in key})
        if GOLDEN.is_dir()
        else []
    )


def public_keys(name):
    """Every name of a public checkpoint, with shape and dtype."""
    return json.loads((GOLDEN / "keys" / f"{name}.json").read_text())


def public_state(name):
    """The complete state dict of a public checkpoint, with its repeated names, filled by the stored recipe."""
    spec = importlib.util.spec_from_file_location("weight_recipe", GOLDEN / "weight_recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    keys = public_keys(name)
    state = {}
    for key, entry in keys["canonical"].items():
        value = recipe.weights_for(key, entry["shape"])
        assert float(value.double().sum()) == pytest.approx(entry["sum"], abs=1e-4)
        state.update(dict.fromkeys((key, *entry["aliases"]), value))
    for key, entry in keys["state_dict"].items():
        state.setdefault(key, torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"])))
    return state


def filled(net, name):
    return nets.load_weights(net, public_state(name), complete=True).eval()
