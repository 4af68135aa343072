"""Batches on their device, the late flag, and what a training sets on CUDA."""

import copy

import pytest
import torch
from torch import nn

from wsss_fast.engine import transfer
from wsss_fast.engine.optimizers import Adam, AdamW, ParameterGroup, Sgd, use_fused

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_batches_arrive_in_order_with_their_values(device):
    made = [{"image": torch.randn(2, 3, 8, 9), "tags": torch.ones(2, 4) * i} for i in range(20)]
    if device == "cuda":
        made = [{name: value.pin_memory() for name, value in batch.items()} for batch in made]
    moved, held = [], None
    for batch in transfer.on_device(made, torch.device(device)):
        held = batch["image"] @ batch["image"].mT  # work that the next copies must not disturb
        moved.append((batch["image"].sum((1, 2, 3)), batch["tags"], held))
        assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    for batch, (sums, tags, products) in zip(made, moved, strict=True):
        torch.testing.assert_close(sums.cpu(), batch["image"].sum((1, 2, 3)))
        torch.testing.assert_close(tags.cpu(), batch["tags"])
        expected = batch["image"] @ batch["image"].mT
        torch.testing.assert_close(products.cpu(), expected, atol=1e-2, rtol=1e-2)  # TF32


@pytest.mark.parametrize("device", DEVICES)
def test_late_flag(device):
    late = device == "cuda"
    flag = transfer.LateFlag(torch.device(device))
    assert not flag.read() and not flag.read(newest=True)
    given = [False, True, True, False, True]
    for number, value in enumerate(given):
        flag.note(torch.full((), float(value), device=device))
        assert flag.read() == (given[number - 1] if late and number else value and not late)
        assert flag.read(newest=True) == value


@pytest.mark.parametrize("optimizer", [Sgd(5e-4, 0.9, True), Adam(1e-4), AdamW()])
def test_fused_updates_are_those_of_the_others(optimizer):
    """On the CPU, whose fused implementation takes the same options."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    results = []
    for fused in (False, True):
        own = copy.deepcopy(net)
        made = optimizer([ParameterGroup(list(own.named_parameters()), 1e-2)])
        use_fused(made.param_groups, CPU)
        assert all(group["fused"] is None for group in made.param_groups)
        if fused:
            use_fused(made.param_groups, torch.device("cuda"))
            assert all(group["fused"] for group in made.param_groups)
        for seed in range(3):
            x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
            made.zero_grad()
            own(x).square().mean().backward()
            made.step()
        results.append(torch.cat([p.detach().flatten() for p in own.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)
