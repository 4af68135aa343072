"""The log of a training: log.csv, and TensorBoard events where that package is installed.

The training never waits for the device to write a row, and a log that cannot be written does not
end it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wsss_fast.engine import distributed
from wsss_fast.engine.progress import say
from wsss_fast.engine.transfer import LateValues

LOG, EVENTS = "log.csv", "events.out.tfevents.*"
EVERY = 10  # updates per row


def log_files(folder: Path) -> list[Path]:
    """The log files in the folder of a training."""
    return [*folder.glob(LOG), *folder.glob(EVENTS)]


class _Row(NamedTuple):
    """What a row of the log needs besides its mean losses."""

    update: int
    names: tuple[str, ...]  # of the losses; "" for a loss without named parts
    lrs: tuple[float, ...]
    updates: int  # that this process made since the last row


class RunLog:
    """`<folder>/log.csv`: a row for every ten updates of a training, and for the last one.

    Its columns are `update`, `epoch`, `loss`, the named parts of the loss, the learning rate of
    each parameter group (`lr0`, `lr1`, ...), `images_per_second` and `seconds`, those of the
    training so far. Losses are means over the updates since the row before. Only the main process
    writes.

    Args:
        folder: of the training; None: no log.
        device: where the losses are computed.
        images: per update.
        per_epoch: updates per epoch.
        total: updates of the training.
    """

    def __init__(
        self, folder: Path | None, device: torch.device, *, images: int, per_epoch: int, total: int
    ):
        self._folder = folder if distributed.is_main_process() else None
        self._images, self._per_epoch, self._total = images, per_epoch, total
        # Losses of the updates since the last row, by part.
        self._recent: list[tuple[torch.Tensor, ...]] = []
        self._restored = 0  # of these, those of an earlier process
        self._done = 0  # updates of earlier processes
        self._late: LateValues[_Row] = LateValues(device)
        self._files: _Files | None = None
        self._seconds, self._last = 0.0, time.monotonic()

    def resume(self, done: int, recent: torch.Tensor | None) -> None:
        """Continue after update `done`: later rows are dropped. `recent`: what `state` returned."""
        self._done = done
        if recent is not None:
            self._recent = [losses.unbind() for losses in recent.to(self._late.device)]
            self._restored = len(self._recent)

    def state(self) -> torch.Tensor | None:
        """What a checkpoint keeps: losses that no row has yet. All other rows are written first."""
        self._write(self._late.arrived(wait=True))
        return self._losses() if self._recent else None

    def add(
        self,
        update: int,
        losses: Mapping[str, torch.Tensor],
        groups: Sequence[Mapping[str, Any]],
    ) -> None:
        """Note an update.

        Args:
            update: its number, from 1.
            losses: its loss, a scalar, by the name of the part.
            groups: of the optimizer, with the learning rates of this update.
        """
        if self._folder is None:
            return
        self._recent.append(tuple(losses.values()))
        if update % EVERY == 0 or update == self._total:
            lrs = tuple(group["lr"] for group in groups)
            row = _Row(update, tuple(losses), lrs, len(self._recent) - self._restored)
            self._late.note(self._losses().mean(0), row)
            self._recent, self._restored = [], 0
        self._write(self._late.arrived())

    def _losses(self) -> torch.Tensor:
        """[updates since the last row, parts]."""
        each = [loss for losses in self._recent for loss in losses]
        return torch.stack(each).view(len(self._recent), -1)

    def __enter__(self) -> RunLog:
        self._last = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._write(self._late.arrived(wait=kind is None))  # after an error it may not respond
        if self._files is not None:
            self._files.close()

    def _write(self, rows: Iterable[tuple[_Row, list[float]]]) -> None:
        for row, means in rows:
            now = time.monotonic()
            elapsed, self._last = max(now - self._last, 1e-9), now
            named = {"loss": sum(means)}
            named |= {n: mean for n, mean in zip(row.names, means, strict=True) if n}
            named |= {f"lr{number}": lr for number, lr in enumerate(row.lrs)}
            named["images_per_second"] = self._images * row.updates / elapsed
            if self._files is None:
                assert self._folder is not None
                self._files = _Files(self._folder, [*named], self._done)
                self._seconds = self._files.seconds
            self._seconds += elapsed
            epoch = (row.update - 1) // self._per_epoch + 1
            self._files.write(row.update, epoch, named, self._seconds)


class _Files:
    """The files of a log.

    Args:
        folder: of the training.
        names: of the columns between `epoch` and `seconds`.
        done: updates whose rows are kept.

    Attributes:
        seconds: of the training up to the last row that is kept.
    """

    def __init__(self, folder: Path, names: Sequence[str], done: int):
        header = ",".join(["update", "epoch", *names, "seconds"]) + "\n"
        size, self.seconds = _kept(folder / LOG, header, done)
        self._table = _GrowingFile(folder / LOG, size)
        if size == 0:
            self._table.append(header.encode())
        if done == 0:
            for path in folder.glob(EVENTS):
                with contextlib.suppress(OSError):
                    path.unlink()
        self._events = _Events.of(folder, done)

    def write(self, update: int, epoch: int, named: Mapping[str, float], seconds: float) -> None:
        values = [f"{value:.7g}" for value in named.values()]
        line = ",".join([str(update), str(epoch), *values, f"{seconds:.2f}"])
        self._table.append(f"{line}\n".encode())
        if self._events is not None:
            self._events.append(update, named)

    def close(self) -> None:
        self._table.close()
        if self._events is not None:
            self._events.file.close()


def _kept(path: Path, header: str, done: int) -> tuple[int, float]:
    """The bytes of a table up to the row of update `done`, and the seconds in its last row."""
    try:
        lines = path.read_bytes().splitlines(keepends=True) if done else []
    except OSError:
        return 0, 0.0
    if not lines or lines[0] != header.encode():
        return 0, 0.0
    size, seconds = len(lines[0]), 0.0
    for line in lines[1:]:
        fields = line.split(b",")
        if not line.endswith(b"\n") or len(fields) != header.count(",") + 1:
            break  # of a process that was killed, or a full disk
        try:
            update, at = int(fields[0]), float(fields[-1])
        except ValueError:
            break
        if update > done:
            break
        size, seconds = size + len(line), at
    return size, seconds


class _GrowingFile:
    """A file that grows; bytes that cannot be written are tried again with the next ones.

    It is open only while it is written, so that nothing is lost when the process is killed.

    Args:
        path: of the file.
        size: bytes of it that stay.
    """

    def __init__(self, path: Path, size: int = 0):
        self.path, self._size = path, size
        self._waiting, self._failed = b"", False

    def append(self, data: bytes) -> None:
        """Write `data` after what was written; whatever else followed that is cut off."""
        self._waiting += data
        try:
            with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
                file.seek(self._size)
                file.write(self._waiting)
                file.truncate()
        except OSError as error:
            if not self._failed:
                say(f"{self.path}: could not be written ({error.strerror}); training continues")
            self._failed = True
            return
        self._size, self._waiting = self._size + len(self._waiting), b""

    def close(self) -> None:
        """Report what could not be written."""
        if self._waiting:
            say(f"{self.path}: is not complete, since it could not be written")


class _Events:
    """TensorBoard events of a training, written by that package's protocol buffers.

    Its `EventFileWriter`, and torch's `SummaryWriter` around it, import TensorFlow where that is
    installed, and write in a thread that drops errors.
    """

    def __init__(self, folder: Path, done: int, event: Any, record_writer: Any):
        self._event, self._record_writer = event, record_writer
        # TensorBoard reads the files of a folder in the order of their names.
        stamps = [path.name.split(".")[3] for path in folder.glob(EVENTS)]
        stamp = max([int(time.time()), *(int(s) + 1 for s in stamps if s.isdigit())])
        name = f"{EVENTS[:-1]}{stamp:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self.file = _GrowingFile(folder / name)
        self._append(file_version="brain.Event:2")
        if done:  # TensorBoard then drops what earlier files have from this step on
            self._append(step=done + 1, session_log={"status": "START"})

    @classmethod
    def of(cls, folder: Path, done: int) -> _Events | None:
        """None if the package tensorboard is not installed, or cannot be imported."""
        if importlib.util.find_spec("tensorboard") is None:
            return None
        try:  # takes a quarter of a second
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
        except Exception as error:  # of protobuf, too, where versions do not fit
            why = str(error).strip().splitlines() or [type(error).__name__]
            say(f"no TensorBoard events are written, since it cannot be imported ({why[0][:200]})")
            return None
        return cls(folder, done, Event, RecordWriter)

    def append(self, update: int, named: Mapping[str, float]) -> None:
        """Add the values of a row, with their columns' names as tags."""
        values = [{"tag": name, "simple_value": value} for name, value in named.items()]
        self._append(step=update, summary={"value": values})

    def _append(self, **fields: Any) -> None:
        record = io.BytesIO()
        event = self._event(wall_time=time.time(), **fields)
        self._record_writer(record).write(event.SerializeToString())
        self.file.append(record.getvalue())
