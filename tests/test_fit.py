"""The training loop: repeatable, schedules, errors."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from wsss_fast import InputError, RunError
from wsss_fast.fit import Samples, constant, fit, one_cycle, poly
from wsss_fast.run import runtime, set_seed

IDS = tuple(f"{i}" for i in range(10))


def make(id, rng):
    x = rng.standard_normal((3, 4, 4)).astype(np.float32)
    return {"x": torch.from_numpy(x), "y": torch.tensor([float(x.sum())])}


def train(seed=0, workers=0, schedule=None, epochs=3, lr=0.02, step=None, batch_size=4, seen=None):
    set_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))

    def squared(net, batch):
        if seen is not None:
            seen.append(batch["y"].flatten().tolist())
        return (net(batch["x"]) - batch["y"]).square().mean()

    history = fit(net, step or squared, Samples(IDS, make, seed), optimizer=torch.optim.SGD(net.parameters(), lr),
                  schedule=schedule or constant(), epochs=epochs, batch_size=batch_size,
                  runtime=runtime("cpu", seed, workers, "fp32", prefer_bf16=False), label="train")
    return net, history


def test_it_learns():
    _, history = train(epochs=40)
    assert history.losses[-1] < 0.2 * history.losses[0] and len(history.losses) == 40


def test_same_seed_same_weights_whatever_loads():
    ours, other, third = train()[0], train(workers=2)[0], train(seed=1)[0]
    for a, b, c in zip(ours.parameters(), other.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_an_epoch_sees_each_sample_at_most_once_and_draws_anew():
    seen = []
    train(epochs=2, batch_size=5, seen=seen)
    flat = [v for batch in seen for v in batch]
    assert len(flat) == 20 == len({round(v, 4) for v in flat})


def test_schedules():
    assert poly(0.9)(0.0) == 1.0 and poly(0.9)(0.5) == pytest.approx(0.5**0.9)
    cycle = one_cycle(warmup=0.3, start=0.04, end=0.0)
    assert cycle(0.0) == pytest.approx(0.04) and cycle(0.3) == pytest.approx(1.0) and cycle(0.999) < 1e-3
    assert max(cycle(i / 100) for i in range(100)) <= 1.0
    net, _ = train(schedule=lambda progress: 0.0)
    fresh, _ = train(epochs=1, lr=0.0)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))


def test_too_few_samples_and_a_loss_that_explodes():
    with pytest.raises(InputError, match="10 images are fewer than one batch of 11"):
        train(batch_size=11)
    with pytest.raises(RunError, match="loss became nan in epoch 1"):
        train(step=lambda net, batch: net(batch["x"]).sum() * math.nan)
    with pytest.raises(InputError, match="epochs"):
        train(epochs=0)
