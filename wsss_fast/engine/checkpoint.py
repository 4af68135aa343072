"""The state of a training on disk, so that a killed training resumes at its last update."""

from __future__ import annotations

import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from wsss_fast.engine import distributed
from wsss_fast.engine.files import atomic_write, damaged_entry
from wsss_fast.engine.progress import say


class Checkpoints:
    """`<folder>/checkpoint-<update>.pth`, each written atomically; the last few are kept.

    Args:
        folder: of the training stage.
        every: minimum seconds between two checkpoints.
        share: largest share of the time that may go into writing, where checkpoints are large.
        keep: number of checkpoints kept; an unreadable one is skipped for the one before it.
    """

    def __init__(self, folder: Path, *, every: float = 60.0, share: float = 0.02, keep: int = 2):
        self.folder, self.every, self.share, self.keep = folder, every, share, keep
        self._next = time.monotonic() + every

    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() >= self._next

    def save(self, update: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, in the main process only.

        A full disk costs the checkpoint, not the training; a message reports it.
        """
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
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            say(f"{path}: could not be written ({why}); training continues without it")
        end = time.monotonic()
        self._next = end + max(self.every, (end - start) / self.share)

    def newest(self) -> dict[str, Any] | None:
        """The newest readable state, or None. Only tensors and plain values are unpickled."""
        for path in reversed(self._files()):
            try:
                with zipfile.ZipFile(path) as archive:
                    if (damaged := damaged_entry(archive)) is not None:
                        raise ValueError(f"the checksum of {damaged} in it is wrong")
                return torch.load(path, map_location="cpu", weights_only=True)
            except (
                zipfile.BadZipFile,
                struct.error,
                NotImplementedError,
                RuntimeError,
                EOFError,
                OSError,
                ValueError,
                KeyError,
                pickle.UnpicklingError,
            ) as error:
                why = str(error).splitlines()[0][:120]
                say(f"{path}: cannot be read ({why}); resuming from an earlier one")
        return None

    def clear(self) -> None:
        """Remove all checkpoints: the training is finished, or must not be resumed."""
        for path in self._files() if distributed.is_main_process() else ():
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pth"))
