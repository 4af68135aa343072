"""Protocol of a run: what a reader needs to know to compare its figures with others.

It is the part "protocol" of metrics.json; `protocol_text` shows it in reports and on the screen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from wsss_fast import _native, nets
from wsss_fast.data import lists
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.run_folder import versions
from wsss_fast.engine.runtime import Runtime, resolve_runtime
from wsss_fast.engine.serialize import jsonable
from wsss_fast.presets import Difference, Preset, Row, differences
from wsss_fast.stages.crf import DenseCrf

_PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclasses.dataclass(frozen=True)
class Images:
    """A list of images, and what of it is scored.

    Attributes:
        data: name of the data set.
        list: name of the id list.
        images: number of images.
        score_on: name of the list of the images that are scored.
        scored: number of images that are scored.
        truth: folders of the true masks; "" if nothing is scored.
        is_real: whether it is the published list of the published data set, as far as the number of
            images, their ids and the classes tell.
        why_not: what differs.
    """

    data: str
    list: str
    images: int
    score_on: str
    scored: int
    truth: str
    is_real: bool
    why_not: str

    @classmethod
    def of(cls, data: Dataset) -> Images:
        """The list of a data set."""
        info = lists.identify(data)
        score_on = info.name if data.score_on == "all" else data.score_on
        return cls(
            data.name,
            info.name,
            len(data),
            score_on,
            len(data.masks),
            data.truth,
            info.is_real,
            info.why_not,
        )


@dataclasses.dataclass(frozen=True)
class StartFile:
    """Initial weights of networks.

    Attributes:
        argument: parameter that takes the file, such as "seg_weights".
        file: path of the file; None if none was given.
        hash: the beginning of its SHA-256.
        row: what the published result starts from, and where that is; None if nothing was
            published.
    """

    argument: str
    file: str | None
    hash: str | None
    row: str | None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a reader needs to know to compare the figures of a run with others.

    Attributes:
        command: the words typed after `wsss-fast`.
        preset: name of the preset, or None.
        seg_preset: name of the segmentation recipe that replaces the preset's, or None.
        source: where the published numbers of the preset come from; None without a published row.
        unsure: what no source settles, a sentence each.
        data: images that the networks are trained on.
        validation: images that the segmentation network predicts, if these are others.
        masks: folder of masks that a segmentation network alone is trained on.
        starts: initial weights.
        differences: numbers, lists and folders that are not those of the preset.
        crf: dense CRF of each stage, by its place in the numbers.
        scales: image scales of each stage, by their place in the numbers.
        backbone: of the networks.
        seg_backbone: of the segmentation network of a pipeline; None without one.
        seed: of the run.
        processes: number of processes.
        device: what computes.
        precision: of each stage, by its place in the numbers.
        backend: of the operators: "native" with the SIMD level, or "reference".
        versions: of what results depend on.
    """

    command: str
    preset: str | None
    seg_preset: str | None
    source: str | None
    unsure: tuple[str, ...]
    data: Images
    validation: Images | None
    masks: str | None
    starts: tuple[StartFile, ...]
    differences: tuple[Difference, ...]
    crf: dict[str, DenseCrf]
    scales: dict[str, tuple[float, ...]]
    backbone: str
    seg_backbone: str | None
    seed: int
    processes: int
    device: str
    precision: dict[str, str]
    backend: str
    versions: dict[str, str]

    @classmethod
    def of(
        cls,
        command: str,
        arguments: Mapping[str, Any],
        data: Dataset,
        val: Dataset | None = None,
        name: str | None = None,
        preset: Preset[Any] | None = None,
        *,
        numbers: str = "pipeline",
    ) -> Protocol:
        """The protocol of a run, before it begins. Collective.

        Args:
            command: the words typed after `wsss-fast`.
            arguments: of the run, as in its config.json: among others `backbone`, `device`, `seed`,
                `workers`, `precision` and the weights files.
            data: images that the networks are trained on, after `check_masks`.
            val: images that the segmentation network predicts; None for `data`.
            name: name of the preset, or None.
            preset: the preset, or None.
            numbers: name of the argument with the hyper-parameters.

        Raises:
            InputError: a weights file cannot be read.
        """
        given, until = arguments[numbers], arguments.get("until", "seg")
        images, validation = Images.of(data), None if val is None else Images.of(val)
        row = None if preset is None else preset.row
        unused = _unused(given, _LATER if until == "masks" else ())
        parts = dict(_parts(given, unused))
        found = [] if preset is None else differences(given, preset.numbers)
        found = [one for one in found if not _is_below(one.name, unused)]
        device = _runtime(arguments, prefer_bf16=False).device
        return cls(
            command=command,
            preset=name,
            seg_preset=arguments.get("seg_preset"),
            source=None if row is None else row.source,
            unsure=() if row is None else row.unsure,
            data=images,
            validation=validation,
            masks=None if arguments.get("masks") is None else str(arguments["masks"]),
            starts=tuple(_starts(arguments, row, until)),
            differences=(*_other_lists(images, validation, row, until), *found),
            crf={place: one for place, one in parts.items() if isinstance(one, DenseCrf)},
            scales={place: one for place, one in parts.items() if _last(place) in _SCALES and one},
            backbone=arguments["backbone"],
            seg_backbone=parts.get("seg_backbone"),
            seed=arguments["seed"],
            processes=distributed.world_size(),
            device=_device(device),
            precision=dict(_precisions(arguments, parts)),
            backend=_backend(device),
            versions=versions(),
        )

    def as_json(self) -> dict[str, Any]:
        """What metrics.json has under "protocol"."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return jsonable({**found, "differences": [one._asdict() for one in self.differences]})


_SCALES = ("scales", "test_scales")
_LATER = ("seg", "seg_backbone", "instances")  # parts of pipelines after the pseudo-masks


def _last(place: str) -> str:
    return place.rpartition(".")[2]


def _is_below(place: str, names: Sequence[str]) -> bool:
    """Whether a dotted place is one of `names` or in one of them."""
    return any(place == name or place.startswith(f"{name}.") for name in names)


def _unused(numbers: Any, names: Sequence[str] = (), place: str = "") -> list[str]:
    """Places of numbers that the run does not use: `names` and what the parts' `unused` names."""
    own = [*names, *(numbers.unused() if hasattr(numbers, "unused") else ())]
    found = [f"{place}{name}" for name in own]
    for field in dataclasses.fields(numbers):
        part = getattr(numbers, field.name)
        if dataclasses.is_dataclass(part) and field.name not in own:
            found += _unused(part, place=f"{place}{field.name}.")
    return found


def _parts(numbers: Any, unused: Sequence[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """All numbers but those at `unused` places, and the dataclasses they are in, by place."""
    for field in dataclasses.fields(numbers):
        part, own = getattr(numbers, field.name), f"{place}{field.name}"
        if not _is_below(own, unused):
            yield own, part
            if dataclasses.is_dataclass(part):
                yield from _parts(part, unused, f"{own}.")


def _starts(arguments: Mapping[str, Any], row: Row | None, until: str) -> Iterator[StartFile]:
    """The weights files that are given or that the row starts from."""
    published = {} if row is None else {one.argument: one for one in row.starts}
    given = [name for name in arguments if name.endswith("weights")]
    for name in dict.fromkeys([*given, *published]):
        if name == "seg_weights" and until == "masks":
            continue
        file, start = arguments.get(name), published.get(name)
        wanted = None
        if start is not None:
            wanted = f"{start.what}, {start.where}{'' if start.sure else ' (unsure)'}"
        path = None if file is None else str(file)
        yield StartFile(name, path, nets.fingerprint(file), wanted)


def _other_lists(
    data: Images, validation: Images | None, row: Row | None, until: str
) -> Iterator[Difference]:
    """Lists and folders of masks that are not the row's, by the names of their options."""
    if row is None:
        return
    scored = data if data.scored or validation is None else validation
    pairs: list[tuple[str, str | None, str | None]] = [
        ("split", data.list, row.split),
        ("truth", scored.truth or None, row.truth),
    ]
    if scored is data:
        published = row.split if row.score_on == "all" else row.score_on
        pairs.append(("score_on", data.score_on, published))
    if until != "masks" and row.val_split is not None:
        pairs.append(("val_split", None if validation is None else validation.list, row.val_split))
    found = [Difference(*pair) for pair in pairs]
    yield from (one for one in found if one.value != one.preset)


def _precisions(
    arguments: Mapping[str, Any], parts: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Precision of each stage, by the place of its recipe; of a recipe alone, by ""."""
    for place, prefer_bf16 in parts.items():
        if _last(place) == "prefer_bf16":
            dtype = _runtime(arguments, prefer_bf16=prefer_bf16).dtype
            yield place.rpartition(".")[0], _PRECISION[dtype]


def _runtime(arguments: Mapping[str, Any], *, prefer_bf16: bool) -> Runtime:
    given = (arguments[name] for name in ("device", "seed", "workers", "precision"))
    return resolve_runtime(*given, prefer_bf16=prefer_bf16)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device.type


def _backend(device: torch.device) -> str:
    """The operators in use; loads them."""
    info = _native.info()
    if device.type == "cuda":
        return str(info["cuda_backend"])
    return f"native ({info['simd']})" if info["backend"] == "native" else "reference"
