"""Where the time of the stages of a run went, as they recorded it in their done.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsss_fast.engine.marker import Marker

HEAD = (
    "stage",
    "images",
    "images/s",
    "seconds",
    "CPU work (s)",
    "network, kernels (s)",
    "waiting (s)",
    "peak memory",
    "peak GPU memory",
)
EXPLANATION = (
    "Seconds: from the first image to the last one. CPU work: processor time of reading, preparing "
    "and writing, summed over threads, without the network. Network, kernels: time in which the "
    "device computed; on a CPU, the time of the network's calls. Waiting: time in which the main "
    "thread waited for files to be read or results to be written. These overlap, so they do not "
    "add up to the seconds. Where network and kernels take almost all of the seconds, only a "
    "faster device helps; where they do not and waiting is long, more CPU cores or a faster disk "
    "do. Peak memory is that of the process until then."
)
_SUFFIXES = (".npz", ".png")


@dataclasses.dataclass(frozen=True)
class StageTime:
    """What one stage did with its time; None where it was not recorded.

    Attributes:
        stage: name of the stage.
        images: number of images.
        rate: images per second.
        wall: seconds of the stage's loop.
        host: CPU seconds of all threads, without the network.
        device: seconds of the network and of the kernels.
        wait: seconds in which the main thread waited for files to be read or written.
        peak_memory: largest resident memory, in bytes.
        peak_device_memory: largest memory of tensors on the GPU, in bytes.
    """

    stage: str
    images: int | None = None
    rate: float | None = None
    wall: float | None = None
    host: float | None = None
    device: float | None = None
    wait: float | None = None
    peak_memory: int | None = None
    peak_device_memory: int | None = None

    def share(self, seconds: float | None) -> float | None:
        """A part of the loop's seconds, as a share of them."""
        return seconds / self.wall if seconds is not None and self.wall else None

    def per_image(self, seconds: float | None) -> float | None:
        """Seconds per image, in milliseconds."""
        return 1e3 * seconds / self.images if seconds is not None and self.images else None


def from_notes(stage: str, notes: Mapping[str, Any], images: int | None = None) -> StageTime | None:
    """The time that a stage noted; None if it noted none. Of trainings the rate may be all.

    Args:
        stage: name of the stage.
        notes: notes of its done.json.
        images: number of its images.
    """
    trained = notes.get("samples_per_second")
    if not (noted := notes.get("time", {})) and not trained:
        return None
    names = ("wall", "host", "device", "wait", "peak_memory", "peak_device_memory")
    time = {name: noted.get(name) for name in names}
    if trained:
        time["wall"] = time["wall"] or notes.get("seconds")
    return StageTime(stage, images, trained or notes.get("images_per_second"), **time)


def of_run(out: Path) -> list[StageTime]:
    """The stages of a run folder that noted their time, in the order in which they finished."""
    found = []
    for name, done in finished(out):
        count = sum(file.endswith(_SUFFIXES) for file in done["files"])
        found.append(from_notes(name, done["notes"], count or None))
    return [time for time in found if time is not None]


def finished(out: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and done.json of the stages of a run folder, in the order in which they finished.

    Runs inside of the folder, as analyses are, are left out.
    """
    files = [
        path
        for path in out.rglob("done.json")
        if not any((folder / "metrics.json").exists() for folder in _between(out, path))
    ]
    files.sort(key=lambda path: (path.stat().st_mtime_ns, path))
    return [(path.parent.relative_to(out).as_posix(), Marker.read(path)) for path in files]


def _between(out: Path, path: Path) -> list[Path]:
    """The folders above a file, below `out`."""
    return [folder for folder in path.parents if out in folder.parents]


def rows(times: Sequence[StageTime]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a table, as text; columns without any entry are left out."""
    cells = [
        [
            time.stage,
            "" if time.images is None else f"{time.images:,}",
            _short(time.rate),
            *(_short(seconds) for seconds in (time.wall, time.host, time.device, time.wait)),
            _size(time.peak_memory),
            _size(time.peak_device_memory),
        ]
        for time in times
    ]
    used = [column for column in range(len(HEAD)) if any(row[column] for row in cells)]
    return [HEAD[column] for column in used], [[row[column] for column in used] for row in cells]


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f} MB"
