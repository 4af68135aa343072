"""mIoU over the background threshold, with and without a dense CRF."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed, stream
from wsss_fast.engine.progress import Bar
from wsss_fast.errors import InputError
from wsss_fast.evaluation.metrics import Metrics, confusion_matrix, metrics_of, remark_on_absent
from wsss_fast.maps import check_maps, load_maps, load_stored, to_labels
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.labels import index_at, stream_labels
from wsss_fast.thresholds import add_counts, label_index

THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(46))  # 0.00 .. 0.90


@dataclasses.dataclass(frozen=True)
class Curve:
    """mIoU over the constant background score.

    Attributes:
        thresholds: background scores, ascending.
        miou: mIoU in 0..1 at each threshold.
        best: threshold of the highest mIoU.
        metrics: metrics at the best threshold.
    """

    thresholds: tuple[float, ...]
    miou: tuple[float, ...]
    best: float
    metrics: Metrics

    def at(self, threshold: float) -> float:
        """mIoU at the threshold of the curve that is nearest to the given one."""
        return self.miou[int(np.abs(np.array(self.thresholds) - threshold).argmin())]


def width_of_top(
    thresholds: Sequence[float], miou: Sequence[float], *, within: float = 0.02
) -> float:
    """Width of the range of thresholds at which the mIoU is within 0.02 (2 points) of the best."""
    near = np.asarray(thresholds)[np.asarray(miou) >= max(miou) - within]
    return float(near.max() - near.min())


def threshold_curve(
    maps: str | Path,
    data: Source,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    device: str = "cpu",
) -> Curve:
    """mIoU of the argmax of class maps, over the constant background score.

    One pass serves all thresholds, since a pixel's best class and its score decide its label at
    each.

    Collective: each process reads its shard of the maps.

    Args:
        maps: folder of maps.
        data: data set with masks; ids without a mask are not counted.
        thresholds: background scores to evaluate, ascending, 0..1.
        device: device that counts.

    Raises:
        InputError: there are no masks, maps are missing, of another size or of classes that the
            data set does not have, or a threshold is out of order or range.
    """
    _check_thresholds(thresholds)
    folder, whole = Path(maps), opened(data, tags=False)
    data = whole.with_masks()
    num_labels, steps = len(data.classes) + 1, len(thresholds)
    check_maps(folder, data)
    where = torch.device(device)
    bounds = torch.tensor(thresholds, dtype=torch.float32).to(where)
    # passed[t, g, p]: number of pixels of truth g whose best class p exceeds exactly t thresholds
    passed = torch.zeros((steps + 1, num_labels, num_labels), dtype=torch.int64, device=where)

    def count(id: str, loaded: tuple[torch.Tensor, ...]) -> None:
        scores, keys, truth = (one.to(where, non_blocking=True) for one in loaded)
        add_counts(passed, scores.float(), keys, truth, bounds)

    own, load = distributed.shard(data.ids), scores_and_truth(folder, data, where)
    stream.scan(own, load, count, where, f"curve {folder.parent.name}", data.size)
    matrices = by_threshold(distributed.all_reduce_sum(passed.cpu().numpy()))
    curve = _curve(thresholds, list(matrices), data.classes, (len(data), len(whole)))
    remark_on_absent(curve.metrics)
    return curve


def scores_and_truth(
    folder: Path, data: Dataset, device: torch.device
) -> Callable[[str], tuple[torch.Tensor, ...]]:
    """Function from an id to the arguments `scores`, `keys` and `truth` of `add_counts`."""

    def load(id: str) -> tuple[torch.Tensor, ...]:
        truth = data.mask(id)
        loaded = load_stored(folder, id, data).foreground()
        arrays = loaded.at_size(*truth.shape), loaded.keys.astype(np.int64), truth
        return tuple(stream.host_tensor(array, device) for array in arrays)

    return load


def by_threshold(counts: np.ndarray) -> np.ndarray:
    """Confusion matrices int64 [T, L, L] at each threshold, from the counts of `add_counts`."""
    below = np.cumsum(counts, axis=0)
    matrices = below[-1] - below[:-1]  # foreground: exceeds more than t thresholds
    matrices[:, :, 0] += below[:-1].sum(axis=2)
    return matrices


def _check_thresholds(thresholds: Sequence[float]) -> None:
    steps = np.asarray(thresholds, float)
    if not steps.size or not ((steps >= 0) & (steps <= 1)).all() or (np.diff(steps) < 0).any():
        raise InputError(f"thresholds must be ascending in 0..1, got {tuple(thresholds)}")


def labels_at(folder: Path, data: Dataset, threshold: float) -> Callable[[str], np.ndarray]:
    """Function from an id to labels uint8 [H, W]: the argmax of its maps and a background score."""

    def labels(id: str) -> np.ndarray:
        loaded = load_maps(folder, id, data).foreground()
        scores = torch.from_numpy(loaded.at_size(*data.size(id)))
        return to_labels(label_index(scores, (threshold,))[0].numpy(), loaded.keys)

    return labels


def crf_curve(
    maps: str | Path,
    data: Dataset,
    crf: Crf,
    *,
    thresholds: Sequence[float],
    batch_size: int = 16,
    device: str = "cpu",
    label: str = "CRF curve",
) -> Curve:
    """As `threshold_curve`, after CRF refinement of the argmax at each threshold.

    These are the rows "+ dCRF" of the papers.

    Collective: each process refines its shard of the images.

    Args:
        maps: folder of maps.
        data: data set with masks; ids without a mask are not counted.
        crf: parameters of the dense CRF.
        thresholds: background scores to evaluate, ascending, 0..1.
        batch_size: number of images of equal size and class count that share a CRF call.
        device: device of the CRF.
        label: text of the progress bar.

    Raises:
        InputError: there are no masks, or maps are missing or of another size.
    """
    _check_thresholds(thresholds)
    whole, folder, num_labels = data, Path(maps), len(data.classes) + 1
    data = data.with_masks()
    check_maps(folder, data)
    matrices = np.zeros((len(thresholds), num_labels, num_labels), np.int64)
    own = data.only(distributed.shard(data.ids))
    with Bar(label, len(own)) as bar:

        def compare(id: str, keys: np.ndarray, index: np.ndarray) -> np.ndarray:
            truth, labels = data.mask(id), to_labels(index, keys)
            return np.stack([confusion_matrix(truth, one, num_labels) for one in labels])

        def add(found: list[np.ndarray]) -> None:
            nonlocal matrices
            matrices += sum(found)
            bar.advance(len(found))

        stream_labels(
            own,
            folder,
            lambda given: index_at(given, thresholds, crf),
            compare,
            add,
            batch_size=batch_size,
            device=device,
            photos=True,
        )
    counted = len(data), len(whole)
    return _curve(thresholds, list(distributed.all_reduce_sum(matrices)), data.classes, counted)


def _curve(
    thresholds: Sequence[float],
    matrices: list[np.ndarray],
    classes: Sequence[str],
    counted: tuple[int, int],
) -> Curve:
    metrics = [metrics_of(m, classes, *counted) for m in matrices]
    best = int(np.argmax([m.miou for m in metrics]))
    return Curve(tuple(thresholds), tuple(m.miou for m in metrics), thresholds[best], metrics[best])
