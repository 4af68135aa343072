"""Training samples and batches whose randomness depends on (seed, epoch, image) only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from wsss_fast.engine import distributed

Batch = Mapping[str, torch.Tensor]
LoadSample = Callable[[str, np.random.Generator], Batch]  # (image id, generator) -> sample


class Samples(Dataset[Batch]):
    """Training samples, the same whichever process loads them.

    Args:
        ids: image ids.
        load: (id, generator) -> one sample, a dict of tensors; a frozen dataclass of the method,
            since loader processes that are not forked get it pickled.
        seed: of all samples.
    """

    def __init__(self, ids: tuple[str, ...], load: LoadSample, seed: int):
        self.ids, self.load, self.seed = ids, load, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Batch:
        # Positions count on over epochs, so loader processes need no state for the epoch.
        epoch, index = divmod(position, len(self.ids))
        return self.load(self.ids[index], np.random.default_rng([self.seed, epoch, index]))


class EpochBatches(Sampler[list[int]]):
    """Positions of each batch of one epoch, shuffled by (seed, epoch), without a short last batch.

    Args:
        count: number of samples.
        batch_size: images per update, of all processes together.
        seed: of the shuffle.
        parts: equal parts that a batch is accumulated in; each process gets its share of each part.

    Attributes:
        epoch: the epoch to iterate over.
        skip: batches of it that were seen before the training was interrupted.
        limit: batches that the epoch may still have; fewer in the last one of a number of updates.
    """

    def __init__(self, count: int, batch_size: int, seed: int, parts: int):
        self.count, self.batch_size, self.seed, self.parts = count, batch_size, seed, parts
        self.epoch, self.skip = 0, 0
        self.limit = self.per_epoch = count // batch_size

    def __len__(self) -> int:
        return min(self.limit, self.per_epoch - self.skip)

    def __iter__(self) -> Iterator[list[int]]:
        shuffle = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        positions = shuffle + self.epoch * self.count
        size = self.batch_size
        for first in range(self.skip * size, (self.skip + len(self)) * size, size):
            batch = positions[first : first + size]
            parts = batch.reshape(self.parts, distributed.world_size(), -1)
            yield parts[:, distributed.rank()].ravel().tolist()
