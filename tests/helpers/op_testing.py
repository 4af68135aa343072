"""Shared by the tests of the ops: devices, numbers of threads, arguments that every op rejects."""

from contextlib import contextmanager

import pytest
import torch

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
each_device = pytest.mark.parametrize("device", DEVICES)


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wrong_values(arguments, optional=()):
    """Test parameters (name, value): values that no op accepts for each of its valid arguments.

    Args:
        arguments: valid arguments by name; booleans are skipped, since any value converts to one.
        optional: names that may be None.
    """
    found = []
    for name, valid in arguments.items():
        if isinstance(valid, torch.Tensor):
            values = _wrong_tensors(valid)
        elif isinstance(valid, bool):
            continue
        elif isinstance(valid, int):
            values = {"fraction": 1.5, "huge": 2**70, "text": "x", "list": [1], "nan": float("nan")}
        elif isinstance(valid, float):
            values = {"nan": float("nan"), "infinite": float("inf"), "text": "x", "complex": 1j}
        elif isinstance(valid, str):
            values = {"text": "other", "number": 1}
        else:
            values = {"number": 1.5, "text": "x"}
        if name not in optional and not isinstance(valid, tuple):
            values["none"] = None
        found += [pytest.param(name, value, id=f"{name}-{kind}") for kind, value in values.items()]
    return found


def _wrong_tensors(valid):
    values = {
        "list": valid.tolist(),
        "number": 3,
        "sparse": valid.to_sparse(),
        "rank": valid[None, None, None],
        "scalar": valid.new_zeros(()),
    }
    if valid.is_floating_point():
        values["float8"] = valid.to(torch.float8_e4m3fn)
        values["complex"] = valid.to(torch.complex64)
    return values
