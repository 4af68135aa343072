"""The arguments that all commands share: device, seed, workers, precision."""

import importlib
import multiprocessing

import pytest
import torch

from wsss_fast import InputError
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "tpu"}, "device: got 'tpu', must be auto, cpu, cuda or cuda:N"),
        ({"seed": -1}, "seed and workers must be >= 0, got seed=-1, workers=0"),
        ({"workers": -1}, "seed and workers must be >= 0, got seed=0, workers=-1"),
        ({"precision": "fp8"}, "precision: got 'fp8', must be one of auto, fp32, bf16"),
        pytest.param({"device": "cuda"}, "finds no CUDA device", marks=no_gpu),
    ],
)
def test_impossible_arguments_raise(wrong, message):
    arguments = {"device": "cpu", "seed": 0, "workers": 0, "precision": "auto", **wrong}
    with pytest.raises(InputError, match=message):
        resolve_runtime(**arguments, prefer_bf16=False)


def test_loader_process_that_runs_an_unguarded_script_again_raises(monkeypatch):
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "_inheriting", True, raising=False)  # as multiprocessing sets it
    resolve_runtime("cpu", 0, 0, "auto", prefer_bf16=False)
    with pytest.raises(InputError, match='under `if __name__ == "__main__":`'):
        resolve_runtime("cpu", 0, 1, "auto", prefer_bf16=False)


def test_auto_precision_depends_on_the_recipe():
    assert resolve_runtime("cpu", 0, 0, "auto", prefer_bf16=False).dtype == torch.float32
    assert resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=True).dtype == torch.float32
    assert resolve_runtime("cpu", 0, 0, "bf16", prefer_bf16=False).dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["cam", "amn", "irn", "eps", "ccr", "seg"])
def test_a_users_defaults_of_torch_do_not_reach_the_stages(method):
    module = importlib.import_module(f"wsss_fast.{method}")
    assert all(hasattr(function, "__wrapped__") for function in (module.train, module.infer))


def test_defaults_of_torch_within_a_stage():
    made = with_torch_defaults(lambda: torch.zeros(1))
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        assert made().dtype == torch.float32 and made().device.type == "cpu"
        assert torch.zeros(1).dtype == torch.float64 and torch.zeros(1).device.type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
