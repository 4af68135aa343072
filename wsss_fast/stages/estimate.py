"""What a pipeline will need: room on the disk before it starts, time once a rate is measured."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import label_files
from wsss_fast.engine import distributed
from wsss_fast.engine.marker import WEIGHTS_FILE
from wsss_fast.engine.progress import duration, say
from wsss_fast.engine.run_folder import read_notes
from wsss_fast.maps import map_files, strided_size

_ARCHIVE = 900  # bytes of an .npz besides its arrays
# While it trains, a network is on the disk up to three times, each with up to two more values per
# weight, which the optimizer keeps.
_CHECKPOINTS = 3 * 3
_FILES = 2  # weights.pth and model.safetensors


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train.

    Attributes:
        backbone: a function that makes its backbone, which has most of its weights.
        images: number of images that the training sees, counted each time.
    """

    backbone: Callable[[], nn.Module]
    images: int

    @classmethod
    def of(cls, backbone: Callable[[], nn.Module], recipe: Any, data: Dataset) -> Network:
        """From a recipe with `updates` and `batch_size`, or with `epochs`."""
        updates = getattr(recipe, "updates", None)
        images = recipe.epochs * len(data) if updates is None else updates * recipe.batch_size
        return cls(backbone, images)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pipeline writes.

    Attributes:
        maps: names of the stages that write class maps; for each, the rows besides the image's
            tags: 1 with a background row, else 0.
        labels: names of the stages that write label maps of the same images.
        networks: what is trained, by the name of the stage.
    """

    maps: Mapping[str, int]
    labels: Sequence[str]
    networks: Mapping[str, Network]

    def __add__(self, other: Plan) -> Plan:
        return Plan(
            {**self.maps, **other.maps},
            (*self.labels, *other.labels),
            {**self.networks, **other.networks},
        )


def say_disk(data: Dataset, out: Path, plan: Plan) -> None:
    """Print how much a pipeline will write to the run folder, and how much is free.

    Class maps are not compressed, so their size is known; label maps are PNGs, mostly a small part
    of their pixels. What is already there is not counted.
    """
    if not distributed.is_main_process():
        return
    maps, labels, networks = _maps(data, out, plan), _labels(data, out, plan), _networks(out, plan)
    folder = next(p for p in (out.absolute(), *out.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    parts = f"maps {readable(maps)}, networks and checkpoints up to {readable(networks)}"
    text = (
        f"{out}: will need about {readable(maps + networks)} ({parts}) and up to "
        f"{readable(labels)} for label maps; {readable(free)} are free"
    )
    if maps + networks > free:
        text += ": too little; the run will stop at a full disk, and resume once there is room"
    if maps + networks + labels:
        say(text)


def _maps(data: Dataset, out: Path, plan: Plan) -> int:
    todo = {name: _todo(out / name, map_files(data)) for name in plan.maps}
    total = 0
    for id, file in zip(data.ids, map_files(data), strict=True):
        height, width = data.size(id)
        rows, columns = strided_size(height, width)
        tagged = int(data.tags_of(id).sum())
        for name, more in plan.maps.items():
            if file in todo[name]:
                total += _ARCHIVE + 2 * (tagged + more) * (1 + rows * columns + height * width)
    return total


def _labels(data: Dataset, out: Path, plan: Plan) -> int:
    todo = [_todo(out / name, label_files(data)) for name in plan.labels]
    total = 0
    for id, file in zip(data.ids, label_files(data), strict=True):
        height, width = data.size(id)
        total += height * width * sum(file in names for names in todo)
    return total


def _networks(out: Path, plan: Plan) -> int:
    sizes = []
    for name, network in plan.networks.items():
        if _todo(out / name, [WEIGHTS_FILE]):
            with torch.device("meta"):
                net = network.backbone()
            sizes.append(sum(value.nbytes for value in net.state_dict().values()))
    return sum(sizes) * _FILES + max(sizes, default=0) * _CHECKPOINTS


def _todo(folder: Path, files: Sequence[str]) -> set[str]:
    """Those of the files that the folder does not have."""
    return set(files) - ({p.name for p in folder.iterdir()} if folder.is_dir() else set())


def say_time(out: Path, plan: Plan) -> None:
    """Print about how long the other trainings take, at the rate of the classifier's.

    Args:
        out: run folder.
        plan: trainings; those that are finished are not counted.
    """
    if not distributed.is_main_process() or not (out / "cam/done.json").is_file():
        return
    first = read_notes(out, "cam").get("samples_per_second", 0)
    todo = {
        name: network.images
        for name, network in plan.networks.items()
        if not (out / name / "done.json").is_file()
    }
    if todo and first > 0:
        images = sum(todo.values())
        say(
            f"{out}: the trainings of {', '.join(todo)} see {images} images; at the classifier's "
            f"{first:.3g} images/s that takes about {duration(images / first)}, but their networks "
            "differ: each shows its own remaining time"
        )


def readable(size: float) -> str:
    """A number of bytes as text: 3.1 GB."""
    power = 0
    while size >= 1000 and power < 4:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
