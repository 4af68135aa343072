"""Class maps of every image: a network sees views at several scales, mirrored too.

The method's `views_to_maps` runs the network and merges its outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import normalise, resize_image
from wsss_fast.engine import distributed
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.runtime import Runtime
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, map_files, maps_path, save_maps


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of a batch of images of one size.

    Attributes:
        ids: ids of the images.
        tags: multi-hot tags of the images, float32 [B, C].
        scales: one tensor per scale, float32 [2B, 3, h_s, w_s]: the images, then their mirror
        images.
        size: size (H, W) of the images.
    """

    ids: tuple[str, ...]
    tags: torch.Tensor
    scales: tuple[torch.Tensor, ...]
    size: tuple[int, int]


# views -> class maps of each image
ViewsToMaps = Callable[[Views], list[ClassMaps]]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Size (H, W) of a view: rounded as in the public code, at least one pixel."""
    height, width = (max(1, int(np.round(n * scale))) for n in size)
    return height, width


def make_views(
    data: Dataset, ids: Sequence[str], scales: Sequence[float], device: torch.device
) -> Views:
    """Load images of one size and resize them to `scales` (bicubic on uint8, as published)."""
    images = [data.image(i) for i in ids]
    height, width = images[0].shape[:2]
    views = []
    for scale in scales:
        size = scaled_size((height, width), scale)
        inputs = np.stack([normalise(resize_image(image, *size)) for image in images])
        batch = torch.from_numpy(inputs).to(device)
        pair = torch.cat([batch, batch.flip(-1)])
        views.append(pair.contiguous(memory_format=torch.channels_last))
    tags = torch.from_numpy(np.stack([data.tags_of(i) for i in ids]).astype(np.float32)).to(device)
    return Views(tuple(ids), tags, tuple(views), (height, width))


def unflipped(views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split outputs [2B, K, h, w] into those of the images and of the mirror images, mirrored back.

    Returns:
        Two tensors [B, K, h, w].
    """
    images, mirrored = views.chunk(2)
    return images, mirrored.flip(-1)


def activate(
    data: Dataset,
    views_to_maps: ViewsToMaps,
    folder: Path,
    *,
    scales: Sequence[float],
    batch_size: int,
    runtime: Runtime,
    label: str,
) -> float:
    """Write the maps of every image that has none yet to `folder`.

    Collective: each process computes its shard of the images.

    Args:
        data: images and tags.
        views_to_maps: function from views to maps; it runs without gradients, under the runtime's
            autocast.
        folder: folder to write `<id>.npz` to.
        scales: scales of the views; each view is also mirrored.
        batch_size: number of images of equal size that share a pass.
        runtime: device and dtype.
        label: text of the progress bar.

    Returns:
        Images per second, summed over the processes.

    Raises:
        InputError: a scale or the batch size is not positive, or an image cannot be read.
    """
    if not scales or min(scales) <= 0 or batch_size < 1:
        raise InputError(
            f"{label}: scales must be > 0 and batch_size >= 1, got {tuple(scales)} and {batch_size}"
        )
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    batches, own = unfinished_batches(
        data, batch_size, lambda id: maps_path(folder, id).name in present
    )
    todo = sum(map(len, batches))
    with Bar(label, own, done=own - todo) as bar, torch.inference_mode():
        for ids in batches:
            with runtime.autocast():
                results = views_to_maps(make_views(data, ids, scales, runtime.device))
            for id, maps in zip(ids, results, strict=True):
                save_maps(folder, id, maps)
            bar.advance(len(ids))
        speed = todo / max(bar.seconds(), 1e-9)
    return sum(distributed.all_gather_objects(speed))


def maps_stage(
    out: Path,
    name: str,
    data: Dataset,
    views_to_maps: ViewsToMaps,
    *,
    scales: Sequence[float],
    batch_size: int,
    runtime: Runtime,
    arguments: dict[str, Any],
    notes: Callable[[], dict[str, Any]] = dict,
) -> Path:
    """`activate` as a stage of a run: it writes the folder `<out>/<name>` of maps once.

    Collective.

    Args:
        out: run folder.
        name: sub-folder of `out`.
        data: images and tags.
        views_to_maps: function from views to maps.
        scales: scales of the views.
        batch_size: number of images of equal size that share a pass.
        runtime: device and dtype.
        arguments: everything else that the maps depend on.
        notes: function that returns more to note in done.json; called when all maps are written.

    Returns:
        The folder of maps.

    Raises:
        InputError: the stage was run before with other arguments, or an image, a scale or the batch
            size cannot be used.
    """

    def work() -> dict[str, Any]:
        speed = activate(
            data,
            views_to_maps,
            out / name,
            scales=scales,
            batch_size=batch_size,
            runtime=runtime,
            label=name,
        )
        return {"images_per_second": speed, **notes()}

    depends = {"data": data.fingerprint(), "scales": scales, "dtype": str(runtime.dtype)}
    stage(out, name, {**depends, **arguments}, work, files=map_files(data))
    return out / name


def unfinished_batches(
    data: Dataset, batch_size: int, finished: Callable[[str], bool]
) -> tuple[list[list[str]], int]:
    """This process' batches with an unfinished image, and the number of images in its shard.

    The batches are those of an uninterrupted run on one process, since the last bits of a network's
    outputs may depend on the batch.
    """
    batches = distributed.shard(list(same_size_batches(data, data.ids, batch_size)))
    return [ids for ids in batches if not all(map(finished, ids))], sum(map(len, batches))


def same_size_batches(data: Dataset, ids: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    """Yield up to `batch_size` consecutive ids whose images have one size."""
    for _, run in itertools.groupby(ids, key=data.size):
        same = list(run)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
