"""Published results by name: runs with several seeds, compared with the published numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from wsss_fast import amn, ccr, eps, irn, nets, seg
from wsss_fast import data as data_sets
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed, ranges
from wsss_fast.engine.config_file import read_config
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_lock import check_out, exclusive
from wsss_fast.engine.serialize import from_config
from wsss_fast.errors import InputError
from wsss_fast.evaluation import comparison, report, run_scores
from wsss_fast.evaluation.protocol import Protocol
from wsss_fast.presets import Preset, Row
from wsss_fast.readers import weight_files
from wsss_fast.runs import Compute, RunResult, run_arguments, started
from wsss_fast.stages import saliency as saliency_maps

_MOST_SEEDS = 100
_OPTIONS = ("weights", "irn_weights", "seg_weights", "masks")


@dataclasses.dataclass(frozen=True)
class ReproduceResult:
    """Result of `reproduce`.

    Attributes:
        out: folder of the runs, `<out>/seed-<n>`.
        comparison: the published numbers and ours.
        page: `<out>/reproduce.html`.
        file: `<out>/reproduce.json`.
    """

    out: Path
    comparison: comparison.Comparison
    page: Path
    file: Path


class Known(NamedTuple):
    """A published row.

    Attributes:
        method: "amn", "ccr", "eps", "irn", or "seg" for a segmentation recipe alone.
        run: the function that runs it.
        preset: numbers and row.
    """

    method: str
    run: Callable[..., RunResult]
    preset: Preset[Any]

    @property
    def row(self) -> Row:
        """How the published result was made."""
        assert self.preset.row is not None
        return self.preset.row


def rows() -> dict[str, Known]:
    """The published rows of all methods and segmentation recipes by name."""
    methods: dict[str, Any] = {"amn": amn, "ccr": ccr, "eps": eps, "irn": irn}
    found: dict[str, Known] = {}
    for method, module in methods.items():
        for name, preset in module.PRESETS.items():
            # A later name of the same preset is an older one.
            if preset.row is not None and all(preset is not one.preset for one in found.values()):
                found[name] = Known(method, module.run, preset)
    for name, preset in seg.PRESETS.items():
        if preset.row is not None:
            found[name] = Known("seg", train_segmentation, preset)
    return found


def reproduce(
    row: str,
    data: str | Path | None,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    irn_weights: str | Path | None = None,
    seg_weights: str | Path | None = None,
    masks: str | Path | None = None,
    saliency: str | Path | None = None,
    seeds: int = 3,
    until: Literal["masks"] | None = None,
    pipeline: Any = None,
    device: str = "auto",
    workers: int = 0,
    precision: str = "auto",
) -> ReproduceResult:
    """Run a published row with several seeds, and compare with its published numbers.

    Finished stages are skipped: an interrupted call resumes when it is repeated, and a call with
    more seeds only makes those. On other data than the row's it runs, too, and says that the
    comparison means nothing. Collective.

    Args:
        row: name of a preset with published numbers: of a method, such as "amn-voc", or of a
            segmentation recipe, such as "deeplab-pytorch", which is trained on given masks.
        data: folder of the data set; its lists and true masks are chosen as the row has them. None
            is an error that says what the row needs.
        out: folder; gets seed-0/, seed-1/ and so on, which are run folders, reproduce.json and
            reproduce.html.
        weights: initial weights of the method's networks, or of a segmentation recipe's.
        irn_weights: initial weights of IRN's backbone, for CCR.
        seg_weights: initial weights of the segmentation network.
        masks: folder of label PNGs that a segmentation recipe is trained on; default: the true
            masks.
        saliency: folder of `<id>.png` saliency maps; default `<data>/saliency`.
        seeds: number of runs; their seeds are 0, 1 and so on.
        until: "masks" to end with the pseudo-masks.
        pipeline: numbers instead of the row's, of the same type; the protocol names those that
            differ.
        device: auto, cpu, cuda or cuda:N.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an unknown row; the data set, a list, a weights file or a saliency map that the
            row needs is missing. Nothing is written then.
        RunError: a loss is not finite.
    """
    known = rows()
    if row not in known:
        raise InputError(f"reproduce: no row {row!r}; the rows are {', '.join(known)}")
    chosen, out = known[row], check_out(out)
    if not 1 <= seeds <= _MOST_SEEDS:
        raise InputError(f"reproduce: seeds is {seeds}, must be in 1..{_MOST_SEEDS}")
    given = {"weights": weights, "irn_weights": irn_weights, "seg_weights": seg_weights}
    if data is None:
        with _naming(row, chosen.row):
            raise InputError("reproduce: needs --data, the folder of the data set")
    options = _used(row, chosen, {**given, "masks": masks, "until": until})
    _check_starts(row, chosen, options, until)
    train, val = _open(row, chosen, data, saliency, until)
    if chosen.method == "seg":
        options["masks"] = _masks_of(row, chosen, data, masks, train)
    runs: dict[int, Path] = {}
    with exclusive(out):
        for seed in range(seeds):
            say(f"{row}: seed {seed}, {seed + 1} of {seeds}, in {out / f'seed-{seed}'}")
            result = chosen.run(
                train,
                out / f"seed-{seed}",
                preset=row,
                pipeline=pipeline,
                val=val,
                device=device,
                seed=seed,
                workers=workers,
                precision=precision,
                **options,
            )
            runs[seed] = result.out
            # After each run, so that there is a table while the next one takes days.
            found = comparison.Comparison.of(row, chosen.row, runs, seeds)
            page, file = distributed.run_on_main(functools.partial(comparison.write, found, out))
    return ReproduceResult(out, found, page, file)


def changed_numbers(row: str, path: Path) -> Any:
    """The numbers of a row with those of a YAML or JSON file in their places.

    Args:
        row: name of the row.
        path: of the file, such as "seg: {updates: 100}".

    Raises:
        InputError: an unknown row, an unreadable file, or a number that the row does not have.
    """
    known = rows()
    if row not in known:
        raise InputError(f"reproduce: no row {row!r}; the rows are {', '.join(known)}")
    numbers = known[row].preset.numbers
    return from_config(read_config(path, "reproduce"), type(numbers), str(path), numbers)


def _used(row: str, known: Known, given: dict[str, Any]) -> dict[str, Any]:
    """The given arguments of the function that runs the row.

    Raises:
        InputError: one that it does not have.
    """
    parameters = inspect.signature(known.run).parameters
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in parameters:
            raise InputError(f"reproduce: row {row} has no {_option(name)}")
    return options


def _check_starts(row: str, known: Known, given: dict[str, Any], until: str | None) -> None:
    """Raise InputError unless all weights files that the row starts from are given."""
    for start in known.row.starts:
        if start.argument == "seg_weights" and until == "masks":
            continue
        whence = f"row {row} starts from {start.what} ({start.where})"
        if start.argument not in given:
            raise InputError(f"reproduce: needs {_option(start.argument)}; {whence}")
        try:
            weight_files.files(Path(given[start.argument]))
        except InputError as error:
            raise InputError(f"{_option(start.argument)}: {error}; {whence}") from None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _open(
    row: str,
    known: Known,
    source: str | Path,
    saliency: str | Path | None,
    until: str | None,
) -> tuple[Dataset, Dataset | None]:
    """Training and validation images, with the row's lists where the data set can have them.

    Raises:
        InputError: what the row needs is missing; with what the row says of it.
    """
    published = known.row
    with _naming(row, published):
        lists = data_sets.default_split(source, published)
        options: dict[str, Any] = {"truth": lists.truth}
        train = data_sets.load(
            source, split=lists.split, saliency=saliency, score_on=lists.score_on, **options
        )
        val = None
        if until != "masks" and published.val_split is not None:
            # An error if it is missing, since the published score is that of the list.
            with contextlib.nullcontext() if lists.found else contextlib.suppress(InputError):
                val = data_sets.load(source, split=published.val_split, **options)
        if known.method == "eps" or (known.method == "ccr" and until != "masks"):
            saliency_maps.check(train)
    return train, val


@contextlib.contextmanager
def _naming(row: str, published: Row) -> Iterator[None]:
    """Adds what the row was made with to an InputError."""
    title = {"voc": "VOC12", "coco": "COCO14"}[published.layout]
    predicted = "" if published.val_split is None else f", scored on {published.val_split}"
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{error}; row {row} is trained on {title}'s {published.split}{predicted} "
            f"({published.source})"
        ) from None


def _masks_of(
    row: str, known: Known, source: str | Path, masks: str | Path | None, train: Dataset
) -> Path:
    """The folder of masks that a segmentation recipe is trained on.

    Raises:
        InputError: none is given, and not every image has a true mask in one folder.
    """
    if masks is not None:
        return Path(masks)
    with _naming(row, known.row):
        split = {} if train.source is None else {"split": train.source["split"]}
        every = data_sets.load(source, **split, score_on="all")  # type: ignore[arg-type]
        folders = {path.parent for path in every.masks.values()}
        if len(every.masks) < len(every) or len(folders) > 1:
            raise InputError(
                f"masks: none are given, and only {len(every.masks)} of {len(every)} images of "
                f"{every.split} have a true mask in {every.truth or 'a folder'}; give --masks"
            )
    return folders.pop()


def train_segmentation(
    data: Dataset,
    out: Path,
    *,
    preset: str,
    masks: str | Path,
    weights: str | Path | None = None,
    pipeline: seg.Recipe | None = None,
    val: Dataset | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> RunResult:
    """Train a segmentation recipe on masks, and score its predictions before and after the CRF.

    Collective.

    Args:
        data: training images.
        out: run folder; gets seg/, config.json, metrics.json and report.html.
        preset: name in `seg.PRESETS`.
        masks: folder of label PNGs.
        weights: initial weights.
        pipeline: a recipe instead of the preset's, or None.
        val: images that are predicted; None for `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: number of loader processes.
        precision: fp32, bf16, or auto.

    Raises:
        InputError: as `seg.train` and `seg.infer`.
    """
    chosen, unseen = seg.PRESETS[preset], data if val is None else val
    recipe = chosen.numbers if pipeline is None else pipeline
    ranges.check(recipe, "pipeline")
    nets.check_file("weights", weights)
    unseen.check_masks()
    compute = Compute(chosen.backbone, device, seed, workers, precision)
    compute.resolved_device()
    own = {"preset": preset, "masks": Path(masks).absolute(), "weights": weights, "recipe": recipe}
    arguments = run_arguments(out, data, None, compute, own)
    del arguments["val_split"]  # the command of config.json, `seg train`, has no such option
    unscored = dataclasses.replace(data, masks={})
    card = Protocol.of("seg train", arguments, unscored, unseen, preset, chosen, numbers="recipe")
    stages = ("seg", *(name for name, _, _ in _PREDICTIONS))
    with started(out, "seg train", stages, arguments, redo=None, from_stage=None, protocol=card):
        trained = seg.train(
            data, out, masks=masks, weights=weights, recipe=recipe, **compute.train()
        )
        panels = {"image": report.photo(unseen), **report.truth_column(unseen)}
        results = []
        for name, crf, text in _PREDICTIONS:
            found = seg.infer(
                unseen, trained.weights, out, recipe=recipe, crf=crf, name=name, **compute.infer()
            )
            record = f"seg on {unseen.split}{text}"
            metrics = run_scores.masks(out, record, unseen, found.predictions)
            panels[f"prediction{text}"] = report.labels(unseen, found.predictions)
            results.append((found.predictions, metrics))
        page = report.write(out, unseen, panels, title=f"{preset}: on masks", curves={})
    return RunResult(out, Path(masks), None, page, *results[0])


# Name of the stage, whether the CRF refines, what follows the name of the record.
_PREDICTIONS = (
    ("seg/predictions", True, ""),
    ("seg/predictions-without-crf", False, " without CRF"),
)
