"""Class maps of every image: a network sees views at several scales, mirrored too.

The method's `ViewsToMaps` runs the network and merges its outputs.
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
from wsss_fast.data.transforms import MEAN, STD
from wsss_fast.engine import distributed, stream
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.runtime import Runtime
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, map_files, maps_path, save_maps, strided_size
from wsss_fast.ops import MergedMaps, image_views

_CUDA_BATCH = 8  # images, each with its mirror image; more hardly gain anything
# Memory per pixel of an image that the largest network, ResNet-38 at scale 2, needs on an H200.
_CUDA_BYTES = 12_000


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of a batch of images of one size.

    Attributes:
        ids: ids of the images.
        tags: multi-hot tags of the images, float32 [B, C].
        scales: one tensor per scale, float32 [2B, 3, h_s, w_s]: the images, then their mirror
            images.
        size: size (H, W) of the images.
        classes: indices of the classes that each image has; None: they are read from `tags`, for
            which a GPU has to be waited for.
        loaded: what `ViewsToMaps.load` returned for each image; None: it is called when needed.
    """

    ids: tuple[str, ...]
    tags: torch.Tensor
    scales: tuple[torch.Tensor, ...]
    size: tuple[int, int]
    classes: tuple[tuple[int, ...], ...] | None = None
    loaded: tuple[Any, ...] | None = None

    def present(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the classes that each image has."""
        if self.classes is not None:
            return self.classes
        return tuple(tuple(tags.nonzero()[:, 0].tolist()) for tags in self.tags)


@dataclasses.dataclass(frozen=True)
class Maps:
    """The maps of one image on the device of the network; see `ClassMaps`.

    Attributes:
        keys: labels.
        strided: scores [K, (H-1)//4+1, (W-1)//4+1].
        high_res: scores [K, H, W].
    """

    keys: tuple[int, ...]
    strided: torch.Tensor
    high_res: torch.Tensor

    @classmethod
    def of(cls, keys: tuple[int, ...], maps: MergedMaps) -> Maps:
        """From labels and the result of `ops.merge_maps` for them."""
        assert maps.strided is not None
        return cls(keys, maps.strided, maps.full)

    def on_host(self) -> ClassMaps:
        """As NumPy arrays."""
        keys = np.array(self.keys, np.int16)
        return ClassMaps(keys, self.strided.cpu().numpy(), self.high_res.cpu().numpy())


def _nothing(id: str) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class ViewsToMaps:
    """How a method computes the class maps of a batch of images; a function of `Views`.

    Attributes:
        network: views -> outputs of the network, in any form.
        merge: (views, these outputs) -> maps of each image, as float32.
        load: id -> what else the method needs of an image, from files; it is called in threads.
    """

    network: Callable[[Views], Any]
    merge: Callable[[Views, Any], list[Maps]]
    load: Callable[[str], Any] = _nothing

    def __call__(self, views: Views) -> list[ClassMaps]:
        """Class maps of each image."""
        if views.loaded is None:
            views = dataclasses.replace(views, loaded=tuple(map(self.load, views.ids)))
        return [maps.on_host() for maps in self.merge(views, self.network(views))]


def make_views(
    data: Dataset, ids: Sequence[str], scales: Sequence[float], device: torch.device
) -> Views:
    """Load images of one size and resize them to `scales` (bicubic on uint8, as published)."""
    return views_of(ids, _load_photos(data, ids, device), _tags(data, ids), scales, device)


def _load_photos(data: Dataset, ids: Sequence[str], device: torch.device) -> torch.Tensor:
    """Photos of one size, uint8 [B, H, W, 3], on the CPU."""
    return stream.host_tensor(np.stack([data.image(id) for id in ids]), device)


def _tags(data: Dataset, ids: Sequence[str]) -> np.ndarray:
    """Multi-hot tags of a few images, uint8 [B, C]."""
    return np.stack([data.tags_of(id) for id in ids])


def views_of(
    ids: Sequence[str],
    photos: torch.Tensor,
    tags: np.ndarray,
    scales: Sequence[float],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    loaded: tuple[Any, ...] | None = None,
) -> Views:
    """Views of photos in memory; see `make_views`.

    Args:
        ids: of the images.
        photos: uint8 RGB [B, H, W, 3].
        tags: multi-hot tags, uint8 [B, C], on the CPU.
        scales: of the views.
        device: that the network computes on.
        dtype: of the views.
        loaded: as in `Views`.
    """
    on_device = photos.to(device, non_blocking=True)
    views = image_views(on_device, scales, mean=tuple(MEAN), std=tuple(STD), dtype=dtype)
    return Views(
        tuple(ids),
        stream.host_tensor(tags.astype(np.float32), device).to(device, non_blocking=True),
        tuple(views),
        (photos.shape[1], photos.shape[2]),
        tuple(tuple(np.flatnonzero(one).tolist()) for one in tags),
        loaded,
    )


def views_dtype(runtime: Runtime) -> torch.dtype:
    """The dtype of the views: a GPU's convolutions take bfloat16, a CPU's autocast makes it."""
    return runtime.dtype if runtime.device.type == "cuda" else torch.float32


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
) -> dict[str, Any]:
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
        `images_per_second`, summed over the processes, and `time`, see `stream.Times`.

    Raises:
        InputError: a scale or the batch size is not positive, or an image cannot be read.
    """
    if not scales or min(scales) <= 0 or batch_size < 1:
        raise InputError(
            f"{label}: scales must be > 0 and batch_size >= 1, got {tuple(scales)} and {batch_size}"
        )
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    batches, own = unfinished_batches(
        data, batch_size, runtime.device, lambda id: maps_path(folder, id).name in present
    )
    todo = sum(map(len, batches))
    times, device = stream.Times(runtime.device), runtime.device
    dtype = views_dtype(runtime)

    def load(ids: list[str]) -> tuple[torch.Tensor, tuple[Any, ...]]:
        return _load_photos(data, ids, device), tuple(map(views_to_maps.load, ids))

    def compute(ids: list[str], loaded: tuple[torch.Tensor, tuple[Any, ...]]) -> list[Any]:
        views = views_of(ids, loaded[0], _tags(data, ids), scales, device, dtype, loaded[1])
        with runtime.autocast():
            with times.computing():
                outputs = views_to_maps.network(views)
            maps = views_to_maps.merge(views, outputs)
        return [(one.keys, one.strided.half(), one.high_res.half()) for one in maps]

    def write(ids: list[str], results: list[Any]) -> None:
        for id, (keys, strided, high_res) in zip(ids, results, strict=True):
            found = ClassMaps(np.array(keys, np.int16), strided.numpy(), high_res.numpy())
            save_maps(folder, id, found)

    with Bar(label, own, done=own - todo) as bar, torch.inference_mode():
        steps = stream.Steps(
            load,
            compute,
            write,
            lambda ids, _: bar.advance(len(ids)),
            lambda ids: _bytes(data, ids),
        )
        stream.run(batches, steps, times)
        speed = todo / max(bar.seconds(), 1e-9)
    return {
        "images_per_second": sum(distributed.all_gather_objects(speed)),
        "time": times.notes(),
    }


def _bytes(data: Dataset, ids: Sequence[str]) -> int:
    """Memory of the photos and maps of a batch."""
    height, width = data.size(ids[0])
    rows, columns = strided_size(height, width)
    labels = sum(1 + int(data.tags_of(id).sum()) for id in ids)
    return 3 * len(ids) * height * width + 2 * labels * (height * width + rows * columns)


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
        found = activate(
            data,
            views_to_maps,
            out / name,
            scales=scales,
            batch_size=batch_size,
            runtime=runtime,
            label=name,
        )
        return {**found, **notes()}

    depends = {"data": data.fingerprint(), "scales": scales, "dtype": str(runtime.dtype)}
    stage(out, name, {**depends, **arguments}, work, files=map_files(data))
    return out / name


def unfinished_batches(
    data: Dataset, batch_size: int, device: torch.device, finished: Callable[[str], bool]
) -> tuple[list[list[str]], int]:
    """This process' batches with an unfinished image, and the number of images in its shard.

    The batches are those of an uninterrupted run on one process, since the last bits of a network's
    outputs may depend on the batch. On CUDA, which small batches leave idle, images are sorted by
    size, and as many share a pass as its memory allows.
    """
    if device.type != "cuda":
        every = list(same_size_batches(data, data.ids, batch_size))
    else:
        memory = torch.cuda.get_device_properties(device).total_memory
        every = list(_large_batches(data, batch_size, memory))
    batches = distributed.shard(every)
    return [ids for ids in batches if not all(map(finished, ids))], sum(map(len, batches))


def _large_batches(data: Dataset, least: int, memory: int) -> Iterator[list[str]]:
    """Batches of images of one size, of at least `least` and up to `_CUDA_BATCH` images."""
    for (height, width), run in itertools.groupby(sorted(data.ids, key=data.size), key=data.size):
        same = list(run)
        fits = int(memory / 2 / (_CUDA_BYTES * height * width))
        size = max(least, min(_CUDA_BATCH, fits))
        yield from (same[i : i + size] for i in range(0, len(same), size))


def same_size_batches(data: Dataset, ids: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    """Yield up to `batch_size` consecutive ids whose images have one size."""
    for _, run in itertools.groupby(ids, key=data.size):
        same = list(run)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
