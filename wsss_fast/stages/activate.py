"""Maps for every image of a data set: multi-scale, flipped views through a network, merged by the method's views_to_maps."""

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
from wsss_fast.maps import ClassMaps, maps_path, save_maps


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of a few images of one size.

    Attributes:
        ids: of the images.
        tags: multi-hot, float32 [B, C].
        scales: one tensor a scale, float32 [2B, 3, h_s, w_s]: the images, then their mirror images.
        size: (H, W) of the images.
    """

    ids: tuple[str, ...]
    tags: torch.Tensor
    scales: tuple[torch.Tensor, ...]
    size: tuple[int, int]


# (views) -> maps of each image
ViewsToMaps = Callable[[Views], list[ClassMaps]]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(H, W) of a view: rounded as the public code does, at least one px."""
    height, width = (max(1, int(np.round(n * scale))) for n in size)
    return height, width


def make_views(
    data: Dataset, ids: Sequence[str], scales: Sequence[float], device: torch.device
) -> Views:
    """Load images of one size and resize them to `scales` (bicubic on uint8, rounded size, as the public code)."""
    images = [data.image(i) for i in ids]
    height, width = images[0].shape[:2]
    views = []
    for scale in scales:
        size = scaled_size((height, width), scale)
        batch = torch.from_numpy(
            np.stack([normalise(resize_image(image, *size)) for image in images])
        ).to(device)
        views.append(
            torch.cat([batch, batch.flip(-1)]).contiguous(memory_format=torch.channels_last)
        )
    tags = torch.from_numpy(np.stack([data.tags_of(i) for i in ids]).astype(np.float32)).to(device)
    return Views(tuple(ids), tags, tuple(views), (height, width))


def unflipped(views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [2B, K, h, w] of images and mirror images -> (images', mirror images' mirrored back), [B, K, h, w] each."""
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
    """Write the maps of every image that has none yet to `folder`; each process does its share.

    Args:
        data: images and tags.
        views_to_maps: the method: views -> maps; runs without gradients under the runtime's autocast.
        folder: where `<id>.npz` go.
        scales: of the views, each also mirrored.
        batch_size: images of equal size that share a pass.
        runtime: device and dtype.
        label: what the progress bar calls this.

    Returns:
        Images a second, of all processes together.
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
    """`activate` as a stage of a run: the folder `<out>/<name>` of maps, made once.

    Args:
        out: run folder.
        name: sub-folder of `out`.
        data: images and tags.
        views_to_maps: the method.
        scales: of the views.
        batch_size: images of equal size that share a pass.
        runtime: device and dtype.
        arguments: everything else that the maps depend on.
        notes: more to note when all maps are there.

    Raises:
        InputError: the stage was made with other arguments, or an image, a scale or the batch size cannot be used.
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

    stage(
        out,
        name,
        {"data": data.fingerprint(), "scales": scales, "dtype": str(runtime.dtype), **arguments},
        work,
    )
    return out / name


def unfinished_batches(
    data: Dataset, batch_size: int, finished: Callable[[str], bool]
) -> tuple[list[list[str]], int]:
    """This process' batches of which not all images are `finished`; and how many images its share of all batches holds.

    The batches are those of an uninterrupted run on one process: a network may give other last bits for another batch.
    """
    batches = distributed.shard(list(same_size_batches(data, data.ids, batch_size)))
    return [ids for ids in batches if not all(map(finished, ids))], sum(map(len, batches))


def same_size_batches(data: Dataset, ids: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    """Runs of up to `batch_size` consecutive ids whose images have one size."""
    for _, run in itertools.groupby(ids, key=data.size):
        same = list(run)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
