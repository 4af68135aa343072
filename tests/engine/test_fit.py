"""The training loop: repeatable, with epochs or updates, accumulation, and errors."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from wsss_fast import InputError, RunError
from wsss_fast.engine.fit import Length, fit
from wsss_fast.engine.runtime import resolve_runtime, set_seed
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import Constant

IDS = tuple(f"{i}" for i in range(10))


def load_sample(id, rng):
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
    targets=None,
    updates=None,
    accumulate=1,
):
    """A linear network and its history; `targets` gets the targets of each batch."""
    set_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))

    def squared_error(net, batch):
        if targets is not None:
            targets.append(batch["y"].flatten().tolist())
        return (net(batch["x"]) - batch["y"]).square().mean()

    history = fit(
        net,
        step or squared_error,
        Samples(IDS, load_sample, seed),
        optimizer=torch.optim.SGD(net.parameters(), lr),
        schedule=schedule or Constant(),
        length=Length(batch_size, epochs, updates, accumulate),
        runtime=resolve_runtime("cpu", seed, workers, "fp32", prefer_bf16=False),
        label="train",
    )
    return net, history


def test_training_reduces_the_loss():
    _, history = train(epochs=40)
    assert history.losses[-1] < 0.2 * history.losses[0] and len(history.losses) == 40


def test_same_seed_gives_same_weights_with_and_without_workers():
    first, with_workers, other = train()[0], train(workers=2)[0], train(seed=1)[0]
    for a, b, c in zip(
        first.parameters(), with_workers.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_an_epoch_has_each_sample_at_most_once_with_new_random_numbers():
    targets = []
    train(epochs=2, batch_size=5, targets=targets)
    flat = [v for batch in targets for v in batch]
    assert len(flat) == 20 == len({round(v, 4) for v in flat})


def test_schedule_scales_the_learning_rate():
    net, _ = train(schedule=lambda progress: 0.0)
    untrained, _ = train(epochs=1, lr=0.0)
    for a, b in zip(net.parameters(), untrained.parameters(), strict=True):
        assert torch.equal(a, b)


def test_updates_instead_of_epochs():
    targets, whole, with_workers = [], [], []
    _, history = train(epochs=None, updates=7, targets=targets)  # two batches per epoch
    assert len(targets) == 7 and len(history.losses) == 4
    train(epochs=4, targets=whole)
    assert targets == whole[:7]
    np.testing.assert_allclose(history.losses[0], train(epochs=4)[1].losses[0])
    train(epochs=None, updates=3, workers=2, targets=with_workers)
    assert with_workers == targets[:3]


def test_accumulated_parts_have_the_gradient_of_the_whole_batch():
    whole, parts = train(epochs=2), train(epochs=2, accumulate=2)
    np.testing.assert_allclose(whole[1].losses, parts[1].losses, rtol=1e-5)
    for a, b in zip(whole[0].parameters(), parts[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    targets = []
    train(epochs=1, accumulate=2, targets=targets)
    assert [len(part) for part in targets] == [2] * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 11}, "10 images are fewer than one batch of 11"),
        ({"epochs": 0}, "epochs and batch size must be >= 1, got 0 and 4"),
        ({"epochs": None}, "updates and batch size must be >= 1, got None and 4"),
        ({"accumulate": 3}, "a batch of 4 cannot be divided into 3 equal parts"),
    ],
)
def test_impossible_lengths_raise(wrong, message):
    with pytest.raises(InputError, match=message):
        train(**wrong)


def test_loss_that_is_not_finite_raises():
    with pytest.raises(RunError, match="loss became nan in epoch 1"):
        train(step=lambda net, batch: net(batch["x"]).sum() * math.nan)
