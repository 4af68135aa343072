"""The complete evaluation of predictions or maps as one result, as JSON and as a picture.

It consists of the metrics, the threshold curve and confusion ratios.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.files import atomic_write, write_json
from wsss_fast.engine.serialize import jsonable
from wsss_fast.errors import InputError
from wsss_fast.evaluation.confusion_ratio import confusion_ratios, named_pairs
from wsss_fast.evaluation.curves import Curve, labels_at, threshold_curve
from wsss_fast.evaluation.metrics import Ignored, Metrics, evaluate
from wsss_fast.evaluation.protocol import Images
from wsss_fast.evaluation.protocol_text import image_facts
from wsss_fast.readers.label_maps import IGNORE, read_labels

_INK, _SECOND, _THIRD = "#1d4ed8", "#b45309", "#94a3b8"
_IGNORED = {
    "error": "is an error, and there was none",
    "background": "counts as background",
    "leave-out": "is left out",
}
_MAX_NAMES = 30  # more names along an axis of the confusion matrix would be illegible


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of `summarize`.

    Attributes:
        title: names of what was evaluated and of the data set.
        metrics: metrics of the predictions, or of the maps at their best threshold.
        curve: mIoU over the background threshold; None for predictions.
        confusion_ratios: confusion ratio by pair "target/coincident".
        scored: list of the images, number of images that were scored, and their true masks.
        files: files that were written.
    """

    title: str
    metrics: Metrics
    curve: Curve | None
    confusion_ratios: dict[str, float]
    scored: Images
    files: tuple[Path, ...] = ()

    def protocol(self) -> dict[str, Any]:
        """What evaluation.json has under "protocol"."""
        ignored = self.metrics.ignored if self.curve is None else None
        return {"data": jsonable(self.scored), "ignored": ignored}

    def facts(self) -> list[tuple[str, str]]:
        """What was scored and how, as (name, text) pairs."""
        found = self.protocol()
        pairs = list(image_facts(found["data"]))
        if found["ignored"] is not None:
            pairs.append((f"predicted {IGNORE}", _IGNORED[found["ignored"]]))
        return pairs


def summarize(
    data: Source,
    *,
    predictions: str | Path | None = None,
    maps: str | Path | None = None,
    pairs: Sequence[str] = (),
    ignored: Ignored = "error",
    out: str | Path | None = None,
) -> Evaluation:
    """Score label PNGs, or maps at every threshold, against the masks of a data set.

    Collective: each process reads its shard of the images.

    Args:
        data: data set with masks; ids without a mask are not counted.
        predictions: folder of `<id>.png` with labels 0..C.
        maps: folder of `<id>.npz` maps, instead of predictions; all but the curve is then at the
            best threshold.
        pairs: "target/coincident" names whose confusion ratio is computed, see `confusion_ratios`.
        ignored: what a predicted 255 counts as, see `evaluate`.
        out: folder for `evaluation.json` and `evaluation.png`, which are written when all is
            computed; None to write nothing.

    Raises:
        InputError: not exactly one of predictions and maps is given; or as `evaluate`,
            `threshold_curve` and `confusion_ratios`.
    """
    if (predictions is None) == (maps is None):
        raise InputError(
            "evaluate: needs either predictions (label PNGs) or maps (scores), exactly one of them"
        )
    if maps is not None and ignored != "error":
        raise InputError(f"ignored: {ignored!r} is for predictions; maps have a label everywhere")
    data = opened(data, tags=False)
    named_pairs(data, pairs)  # raises for a misspelt name before a pass over all images
    if predictions is not None:
        curve, folder = None, Path(predictions)
        metrics, labels = evaluate(folder, data, ignored=ignored), _predictions_of(folder, data)
    else:
        assert maps is not None
        folder = Path(maps)
        curve = threshold_curve(folder, data)
        metrics, labels = curve.metrics, labels_at(folder, data, curve.best)

    title = f"{folder} on {data.name}, {data.split}"
    ratios = confusion_ratios(data, pairs, labels)
    found = Evaluation(title, metrics, curve, ratios, Images.of(data))
    if out is None:
        return found
    files = distributed.run_on_main(lambda: _write(found, Path(out)))
    return dataclasses.replace(found, files=files)


def _predictions_of(folder: Path, data: Dataset) -> Callable[[str], np.ndarray]:
    """Function from an id to its label PNG in `folder`."""
    return lambda id: read_labels(folder / f"{id}.png", len(data.classes))


def _write(found: Evaluation, out: Path) -> tuple[Path, ...]:
    files = out / "evaluation.json", out / "evaluation.png"
    curve = (
        None
        if found.curve is None
        else {
            "thresholds": found.curve.thresholds,
            "miou": found.curve.miou,
            "best": found.curve.best,
        }
    )
    picture = _picture(found)
    write_json(
        files[0],
        {
            "title": found.title,
            "protocol": found.protocol(),
            **found.metrics.summary(),
            "confusion_ratios": found.confusion_ratios,
            "curve": curve,
            "confusion": found.metrics.confusion,
        },
    )
    with atomic_write(files[1]) as temporary:
        picture.savefig(temporary, dpi=110)
    return files


def _picture(found: Evaluation) -> Any:
    """Bars of the classes, confusion matrix, and the curve and the confusion ratios if given."""
    from matplotlib.figure import Figure  # imported here, since it takes 0.2 s

    names = list(found.metrics.iou)
    below = (found.curve is not None) + bool(found.confusion_ratios)
    height = max(4.5, 1.2 + 0.2 * len(names)) + 2.6 * bool(below)
    figure = Figure(figsize=(12, height), layout="constrained")
    figure.suptitle(
        f"{found.title}\nmIoU {100 * found.metrics.miou:.2f} % over {found.metrics.counted()}",
        fontsize=9,
        parse_math=False,
    )
    ratios = [max(3.0, 0.2 * len(names)), 2.4] if below else None
    grid = figure.add_gridspec(2 if below else 1, 2, height_ratios=ratios)
    _bars(figure.add_subplot(grid[0, 0]), found.metrics)
    _matrix(figure, figure.add_subplot(grid[0, 1]), found.metrics)
    if found.curve is not None:
        _curve(figure.add_subplot(grid[1, 0]), found.curve)
    if found.confusion_ratios:
        _ratios(figure.add_subplot(grid[1, below - 1]), found.confusion_ratios)
    return figure


def _bars(axes: Any, metrics: Metrics) -> None:
    names, places = list(metrics.iou), range(len(metrics.iou))
    percent = [
        [100 * values[n] for n in names]
        for values in (metrics.iou, metrics.precision, metrics.recall)
    ]
    axes.barh(places, np.nan_to_num(percent[0]), 0.7, color=_THIRD, label="IoU")
    axes.plot(percent[1], places, "o", ms=3.5, color=_INK, label="precision")
    axes.plot(percent[2], places, "x", ms=4, color=_SECOND, label="recall")
    for place, iou in zip(places, percent[0], strict=True):
        # Next to the names, where no marker is drawn.
        axes.text(1, place, "absent" if np.isnan(iou) else f"{iou:.1f}", va="center", fontsize=6)
    axes.set(xlim=(0, 100), xlabel="%", ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(places, names, fontsize=7, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _matrix(figure: Any, axes: Any, metrics: Metrics) -> None:
    rows = metrics.confusion.sum(axis=1, keepdims=True)
    shares = np.divide(
        100 * metrics.confusion, rows, out=np.full(metrics.confusion.shape, np.nan), where=rows > 0
    )
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    if len(metrics.iou) <= _MAX_NAMES:
        axes.set_xticks(
            range(len(metrics.iou)), metrics.iou, rotation=90, fontsize=6, parse_math=False
        )
        axes.set_yticks(range(len(metrics.iou)), metrics.iou, fontsize=6, parse_math=False)
    axes.set(xlabel="predicted", ylabel="truth")
    axes.set_anchor("N")
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.5, aspect=40)
    bar.set_label("% of the true class's pixels (white row: class absent)", fontsize=8)


def _curve(axes: Any, curve: Curve) -> None:
    axes.plot(curve.thresholds, 100 * np.array(curve.miou), color=_INK)
    axes.axvline(curve.best, color=_THIRD, lw=0.8)
    axes.set(
        xlabel=f"background threshold (best {curve.best:.2f})", ylabel="mIoU, %", ylim=(0, None)
    )
    axes.spines[["top", "right"]].set_visible(False)


def _ratios(axes: Any, ratios: dict[str, float]) -> None:
    values = [ratio if np.isfinite(ratio) else 0.0 for ratio in ratios.values()]
    bars = axes.barh(range(len(ratios)), values, 0.6, color=_SECOND)
    axes.bar_label(bars, [f"{ratio:.3g}" for ratio in ratios.values()], padding=2, fontsize=7)
    axes.set_yticks(range(len(ratios)), ratios, fontsize=7, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="confusion ratio (target/coincident): confused pixels per true positive")
    axes.set_xlim(0, 1.15 * max(values) or 1)
    axes.spines[["top", "right"]].set_visible(False)
