"""The state of a training on disk, so that a killed one goes on at the update where it was."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import torch

from wsss_fast.engine import distributed
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import say


class Checkpoints:
    """`<folder>/checkpoint-<update>.pth`: weights, optimizer, random state; each written atomically, the last few kept.

    Args:
        folder: of the training stage.
        every: seconds between two, at least.
        share: of the time that may go into writing, where checkpoints are large.
        keep: how many stay; one that cannot be read is passed over for the one before it.
    """

    def __init__(self, folder: Path, *, every: float = 60.0, share: float = 0.02, keep: int = 2):
        self.folder, self.every, self.share, self.keep = folder, every, share, keep
        self._next = time.monotonic() + every

    def due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() >= self._next

    def save(self, update: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; the main process does. A full disk costs the checkpoint, not the training; it is said."""
        start = time.monotonic()
        if not distributed.is_main_process():
            self._next = start + self.every
            return
        path = self.folder / f"checkpoint-{update:09d}.pth"
        try:
            with atomic_write(path) as temporary:
                torch.save(state, temporary)
            for old in self._files()[: -self.keep]:
                old.unlink()
        except (
            OSError,
            RuntimeError,
        ) as error:  # torch's writer turns a full disk into a RuntimeError
            why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            say(f"{path}: could not be written ({why}); training goes on without it")
        end = time.monotonic()
        self._next = end + max(self.every, (end - start) / self.share)

    def newest(self) -> dict[str, Any] | None:
        """The newest state that can be read; None if there is none. Nothing but tensors and plain values is unpickled."""
        for path in reversed(self._files()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except (
                RuntimeError,
                EOFError,
                OSError,
                ValueError,
                KeyError,
                pickle.UnpicklingError,
            ) as error:
                say(
                    f"{path}: cannot be read ({str(error).splitlines()[0][:120]}); going on from an earlier one"
                )
        return None

    def clear(self) -> None:
        """Remove all of them: the training is finished, or must not go on."""
        for path in self._files() if distributed.is_main_process() else ():
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pth"))
