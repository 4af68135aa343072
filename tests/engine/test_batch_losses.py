"""Losses over the whole batch: the mean over processes is the loss of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from wsss_fast.engine import distributed
from wsss_fast.stages.batch_losses import cross_entropy

WORLD = 2


@pytest.fixture
def exchange(monkeypatch):
    """Calls a function for the shares of two processes at once, which are threads here."""
    barrier, values = threading.Barrier(WORLD, timeout=60), {}

    def all_reduce_mean(own):
        values[threading.get_ident()] = own
        barrier.wait()
        mean = torch.stack([*values.values()]).mean(0)
        barrier.wait()  # no thread writes its next value before both have read
        return mean

    def run(function, *shares):
        values.clear()
        monkeypatch.setattr(distributed, "world_size", lambda: WORLD)
        monkeypatch.setattr(distributed, "all_reduce_mean", all_reduce_mean)
        with ThreadPoolExecutor(WORLD) as pool:
            found = [*pool.map(function, *shares)]
        monkeypatch.undo()
        return found

    return run


@pytest.mark.parametrize("resize", ["labels", "logits"])
@pytest.mark.parametrize("balance", [False, True, "none", "batch", "image"])
def test_mean_over_processes_is_the_loss_of_the_whole_batch(balance, resize, exchange):
    """The processes have different numbers of pixels; one image has no labelled pixel."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2 * WORLD, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2 * WORLD, 9, 7), generator=generator)
    labels[0], labels[1, :, :5], labels[3][labels[3] > 0] = 255, 255, 0

    def gradient(z, y):
        z = z.clone().requires_grad_()
        loss = cross_entropy(z, y, smoothing=0.2, balance=balance, resize=resize)
        return loss.detach(), torch.autograd.grad(loss, z)[0]

    losses, gradients = zip(
        *exchange(gradient, logits.chunk(WORLD), labels.chunk(WORLD)), strict=True
    )
    whole, of_whole = gradient(logits, labels)
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    torch.testing.assert_close(torch.cat(gradients) / WORLD, of_whole)


def test_unknown_balance_is_refused_by_every_process(exchange):
    def loss(z):
        with pytest.raises(ValueError, match="balance is 'pixel'; must be a bool or one of"):
            cross_entropy(z, torch.zeros(1, 1, 1, dtype=torch.uint8), balance="pixel")

    exchange(loss, torch.zeros(WORLD, 1, 2, 1, 1).unbind())
