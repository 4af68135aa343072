"""The training loop: repeatable, schedules, errors."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from wsss_fast import InputError, RunError
from wsss_fast.engine.fit import Length, fit
from wsss_fast.engine.runtime import runtime, set_seed
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import Constant, OneCycle, Poly

IDS = tuple(f"{i}" for i in range(10))


def make(id, rng):
    x = rng.standard_normal((3, 4, 4)).astype(np.float32)
    return {"x": torch.from_numpy(x), "y": torch.tensor([float(x.sum())])}


def train(
    seed=0,
    workers=0,
    schedule=None,
    epochs=3,
    lr=0.02,
    step=None,
    batch_size=4,
    seen=None,
    updates=None,
    accumulate=1,
    **options,
):
    set_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))

    def squared(net, batch):
        if seen is not None:
            seen.append(batch["y"].flatten().tolist())
        return (net(batch["x"]) - batch["y"]).square().mean()

    history = fit(
        net,
        step or squared,
        Samples(IDS, make, seed),
        optimizer=torch.optim.SGD(net.parameters(), lr),
        schedule=schedule or Constant(),
        length=Length(batch_size, epochs, updates, accumulate),
        runtime=runtime("cpu", seed, workers, "fp32", prefer_bf16=False),
        label="train",
        **options,
    )
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
    assert Poly(0.9)(0.0) == 1.0 and Poly(0.9)(0.5) == pytest.approx(0.5**0.9)
    cycle = OneCycle(warmup=0.3, start=0.04, end=0.0)
    assert (
        cycle(0.0) == pytest.approx(0.04)
        and cycle(0.3) == pytest.approx(1.0)
        and cycle(0.999) < 1e-3
    )
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


def test_a_number_of_updates_instead_of_epochs():
    seen = []
    _, history = train(epochs=None, updates=7, batch_size=4, seen=seen)  # 2 batches an epoch
    assert len(seen) == 7 and len(history.losses) == 4
    whole = []
    train(epochs=4, batch_size=4, seen=whole)
    assert seen == whole[:7]
    np.testing.assert_allclose(history.losses[0], train(epochs=4, batch_size=4)[1].losses[0])
    workers = []
    train(epochs=None, updates=3, batch_size=4, workers=2, seen=workers)
    assert workers == seen[:3]
    with pytest.raises(InputError, match="updates and batch size must be >= 1, got None and 4"):
        train(epochs=None)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch():
    whole, parts = train(epochs=2), train(epochs=2, accumulate=2)
    np.testing.assert_allclose(whole[1].losses, parts[1].losses, rtol=1e-5)
    for a, b in zip(whole[0].parameters(), parts[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    seen = []
    train(epochs=1, accumulate=2, seen=seen)
    assert [len(part) for part in seen] == [2] * 4
    with pytest.raises(InputError, match="a batch of 4 cannot be divided into 3 equal parts"):
        train(accumulate=3)


def test_stairs_hold_the_rate():
    factor = Poly(0.9, stairs=5)
    rates = [factor(i / 50) for i in range(50)]
    assert len(set(rates)) == 5 and all(rates[i] == (1 - i // 10 / 5) ** 0.9 for i in range(50))
    every_ten = Poly(stairs=2000)
    assert all(every_ten(i / 20000) == (1 - i // 10 / 2000) ** 0.9 for i in range(20000))
