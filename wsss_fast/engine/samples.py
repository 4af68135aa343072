"""Training samples and batches whose randomness depends on (seed, epoch, image) only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from wsss_fast.engine import distributed

Batch = Mapping[str, torch.Tensor]


class Samples(Dataset):
    """Training samples whose randomness depends only on (seed, epoch, image), whatever process makes them.

    Args:
        ids: image ids.
        make: (id, generator) -> one sample, a dict of tensors; loader processes get it pickled where they are not forked.
        seed: of all samples.
    """

    def __init__(
        self, ids: tuple[str, ...], make: Callable[[str, np.random.Generator], Batch], seed: int
    ):
        self.ids, self.make, self.seed = ids, make, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Batch:
        epoch, index = divmod(
            position, len(self.ids)
        )  # positions run on over epochs, so workers need no epoch state
        return self.make(self.ids[index], np.random.default_rng([self.seed, epoch, index]))


class _Batches(Sampler):
    """Positions of each batch of one epoch: a shuffle that depends on (seed, epoch); the last, short batch is dropped.

    `limit` is how many batches the epoch at hand may have; the last one of a given number of updates has fewer. `skip` of
    them were seen before the training was interrupted. Of each of the `parts` of a batch a process gets its share.
    """

    def __init__(self, count: int, batch_size: int, seed: int, parts: int):
        self.count, self.batch_size, self.seed, self.epoch, self.skip, self.parts = (
            count,
            batch_size,
            seed,
            0,
            0,
            parts,
        )
        self.limit = self.whole = count // batch_size

    def __len__(self) -> int:
        return min(self.limit, self.whole - self.skip)

    def __iter__(self) -> Iterator[list[int]]:
        order = (
            np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
            + self.epoch * self.count
        )
        for start in range(
            self.skip * self.batch_size, (self.skip + len(self)) * self.batch_size, self.batch_size
        ):
            parts = order[start : start + self.batch_size].reshape(
                self.parts, distributed.world_size(), -1
            )
            yield parts[:, distributed.rank()].ravel().tolist()
