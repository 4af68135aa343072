"""Label maps from class maps, image by image: what seeds, pseudo-masks and CRF curves share."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import LABEL_NAMES, label_files, write_label_names
from wsss_fast.engine import distributed, stream
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_folder import stage
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, load_stored, maps_path
from wsss_fast.readers.label_maps import IGNORE, write_labels
from wsss_fast.stages.crf import Crf
from wsss_fast.thresholds import label_index

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Class maps of a batch of images of one size and number of classes.

    Attributes:
        keys: labels of the rows of each image, int16 [K].
        scores: float32 [B, K, H, W], on the device to compute on.
        photos: uint8 RGB [B, H, W, 3] on the device, if a CRF needs them.
        times: around the CRF, `times.computing()`.
    """

    keys: tuple[np.ndarray, ...]
    scores: torch.Tensor
    photos: torch.Tensor | None
    times: stream.Times


def label_stage(
    out: Path,
    name: str,
    data: Dataset,
    arguments: dict[str, Any],
    work: Callable[[], dict[str, Any]],
    *,
    more_files: Sequence[str] = (),
) -> dict[str, Any]:
    """A stage that writes `<out>/<name>/<id>.png` and the names of the labels. Collective.

    Args:
        out: run folder.
        name: sub-folder of `out`.
        data: images and class names.
        arguments: everything the labels depend on.
        work: writes the PNGs that are missing; returns notes.
        more_files: names of other files that `work` writes.

    Returns:
        The notes.
    """

    def work_and_name() -> dict[str, Any]:
        notes = work()
        if distributed.is_main_process():
            write_label_names(out / name, data)
        return notes

    files = [*label_files(data), LABEL_NAMES, *more_files]
    return stage(out, name, arguments, work_and_name, files=files)


def unfinished_shard(data: Dataset, folder: Path) -> tuple[Dataset, Dataset]:
    """This process' shard of `data`, and the part of it without a label PNG in `folder` yet.

    The latter is what an interrupted stage still has to do.
    """
    own = data.only(distributed.shard(data.ids))
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    return own, own.only([id for id in own.ids if f"{id}.png" not in present])


def write_all(
    data: Dataset,
    maps: Path,
    folder: Path,
    index_of: Callable[[Scores], torch.Tensor],
    *,
    batch_size: int,
    device: str,
    photos: bool,
    written: Callable[[np.ndarray], None] = lambda labels: None,
) -> dict[str, Any]:
    """Write the label PNGs that are missing in `folder`. Collective.

    Args:
        data: images and tags.
        maps: folder of the class maps.
        folder: folder to write `<id>.png` to.
        index_of: scores -> uint8 [B, H, W]: 0 background, 1..K the rows of the scores, 255 unsure.
        batch_size: number of images of equal size and class count that share a call.
        device: to compute on.
        photos: whether `index_of` needs the photos.
        written: called with each label map, uint8 [H, W], in this process.

    Returns:
        Notes: `images_per_second` and `time`.
    """
    own, todo = unfinished_shard(data, folder)

    def write(id: str, keys: np.ndarray, index: np.ndarray) -> np.ndarray:
        # Twice as fast as NumPy's `take`.
        content = index.tobytes().translate(_labels_of(keys))
        labels = np.frombuffer(content, np.uint8).reshape(index.shape)
        write_labels(folder / f"{id}.png", labels)
        return labels

    with Bar(folder.name, len(own), done=len(own) - len(todo)) as bar:

        def done(labels: list[np.ndarray]) -> None:
            for one in labels:
                written(one)
            bar.advance(len(labels))

        times = stream_labels(
            todo, maps, index_of, write, done, batch_size=batch_size, device=device, photos=photos
        )
        speed = len(todo) / max(bar.seconds(), 1e-9)
    speeds = distributed.all_gather_objects(speed)
    return {"images_per_second": sum(speeds), "time": times.notes()}


def _labels_of(keys: np.ndarray) -> bytes:
    """The label of each index 0..255; 255 stays."""
    table = np.zeros(256, np.uint8)
    table[1 : len(keys) + 1], table[IGNORE] = keys, IGNORE
    return table.tobytes()


def stream_labels(
    data: Dataset,
    maps: Path,
    index_of: Callable[[Scores], torch.Tensor],
    write: Callable[[str, np.ndarray, np.ndarray], T],
    done: Callable[[list[T]], None],
    *,
    batch_size: int,
    device: str,
    photos: bool,
) -> stream.Times:
    """Compute label maps of all images of `data`, which the caller has sharded.

    Images of one size and class count share a call; files are read and written in threads.

    Args:
        data: images and tags.
        maps: folder of the class maps.
        index_of: scores -> indices of any shape that begins with B; see `write_all`.
        write: (id, keys of its maps, its indices) -> a value; called in threads.
        done: called with the values of a batch, in the main thread.
        batch_size: largest number of images of a call.
        device: to compute on.
        photos: whether `index_of` needs the photos.

    Returns:
        Where the time went.
    """
    where = torch.device(device)
    times = stream.Times(where)

    def load(ids: list[str]) -> tuple[Any, ...]:
        loaded = [tagged_maps(data, maps, id) for id in ids]
        size = data.size(ids[0])
        scores = stream.host_tensor(np.stack([m.at_size(*size) for m in loaded]), where)
        images = None
        if photos and len(loaded[0].keys):
            images = stream.host_tensor(np.stack([data.image(id) for id in ids]), where)
        return tuple(m.keys for m in loaded), scores, images

    def compute(ids: list[str], loaded: tuple[Any, ...]) -> tuple[Any, ...]:
        keys, scores, images = loaded
        on_device = scores.to(where, non_blocking=True).float()
        if images is not None:
            images = images.to(where, non_blocking=True)
        return keys, index_of(Scores(keys, on_device, images, times))

    def write_batch(ids: list[str], result: tuple[Any, ...]) -> list[T]:
        return [write(id, *one) for id, *one in zip(ids, result[0], result[1].numpy(), strict=True)]

    def size_of(ids: list[str]) -> int:
        height, width = data.size(ids[0])
        rows = 1 + int(data.tags_of(ids[0]).sum())
        return len(ids) * height * width * (3 * photos + 4 * rows)

    steps = stream.Steps(load, compute, write_batch, lambda _, values: done(values), size_of)
    with torch.inference_mode():
        stream.run(_batches(data, batch_size), steps, times)
    return times


def _batches(data: Dataset, batch_size: int) -> list[list[str]]:
    """Ids of images of one size and class count, up to `batch_size` together."""

    def kind(id: str) -> tuple[tuple[int, int], int]:
        return data.size(id), int(data.tags_of(id).sum())

    batches = []
    for _, run in itertools.groupby(sorted(data.ids, key=kind), key=kind):
        same = list(run)
        batches += [same[i : i + batch_size] for i in range(0, len(same), batch_size)]
    return batches


def index_at(given: Scores, thresholds: Sequence[float], crf: Crf | None) -> torch.Tensor:
    """Argmax of the scores and of each constant background score, after `crf` if there is one.

    Args:
        given: the batch; the thresholds of an image share its CRF's lattice.
        thresholds: S background scores.
        crf: parameters of the dense CRF, or None.

    Returns:
        uint8 [B, S, H, W] in 0..K.
    """
    index = label_index(given.scores, thresholds)
    if crf is None or given.photos is None:
        return index
    with given.times.computing():
        return crf.refine_labels(given.photos, index, given.scores.shape[1] + 1)


def tagged_maps(data: Dataset, folder: Path, id: str) -> ClassMaps:
    """The maps of an image as they are stored, without a background row.

    Raises:
        InputError: they cannot be read, or their labels are not the image's tags.
    """
    maps, present = load_stored(folder, id).foreground(), np.flatnonzero(data.tags_of(id)) + 1
    if not np.array_equal(maps.keys, present):
        raise InputError(
            f"{maps_path(folder, id)}: has maps of labels {maps.keys.tolist()}, "
            f"but the image's tags are {present.tolist()}"
        )
    return maps
