"""Protocol of a run: what a reader needs to know to compare its figures with others.

It is the part "protocol" of metrics.json, the first section of report.html, and follows the stage
table on the screen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wsss_fast import _native, nets
from wsss_fast.data import lists
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.run_folder import read_protocol, versions
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.engine.serialize import jsonable
from wsss_fast.errors import InputError
from wsss_fast.evaluation.html_page import table
from wsss_fast.presets import Difference, Preset, Row, differences
from wsss_fast.stages.crf import DenseCrf

_SHOWN = 20  # differences on the screen; the report lists all
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
        seed: of the run.
        processes: number of processes.
        device: what computes.
        precision: of each stage, by its place in the numbers.
        backend: of the operators: "native" with the SIMD level, or "reference".
        versions: of what results depend on.
    """

    command: str
    preset: str | None
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
        runtime = resolve_runtime(
            *(arguments[key] for key in ("device", "seed", "workers", "precision")),
            prefer_bf16=False,
        )
        return cls(
            command=command,
            preset=name,
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
            seed=arguments["seed"],
            processes=distributed.world_size(),
            device=_device(runtime.device),
            precision=dict(_precisions(arguments, parts)),
            backend=_backend(runtime.device),
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
        if file is None and start is None:
            continue
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
    if until != "masks":
        pairs.append(("val_split", None if validation is None else validation.list, row.val_split))
    found = [Difference(*pair) for pair in pairs]
    yield from (one for one in found if one.value != one.preset)


def _precisions(
    arguments: Mapping[str, Any], parts: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Precision of each stage, by the place of its recipe; of a recipe alone, by ""."""
    for place, prefer_bf16 in parts.items():
        if _last(place) == "prefer_bf16":
            runtime = resolve_runtime(
                *(arguments[key] for key in ("device", "seed", "workers", "precision")),
                prefer_bf16=prefer_bf16,
            )
            yield place.rpartition(".")[0], _PRECISION[runtime.dtype]


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _backend(device: torch.device) -> str:
    """The operators in use; loads them."""
    info = _native.info()
    if device.type == "cuda":
        return str(info["cuda_backend"])
    return f"native ({info['simd']})" if info["backend"] == "native" else "reference"


def facts(found: Mapping[str, Any], *, most: int | None = None) -> list[tuple[str, str]]:
    """A protocol of metrics.json as (name, text) pairs.

    Args:
        found: of `read_protocol`.
        most: number of differences that are listed; None for all.

    Raises:
        InputError: it is not a protocol.
    """
    try:
        return [(name, _printable(text)) for name, text in _facts(found, most)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"metrics.json: its protocol is not one of this package ({error!r}); repeat the run"
        ) from None


def _facts(found: Mapping[str, Any], most: int | None) -> Iterator[tuple[str, str]]:
    preset, source = found["preset"], found["source"]
    row = "nothing was published with it" if source is None else source
    yield "run", f"{found['command']}, {found['backbone']}"
    yield "preset", "none" if preset is None else f"{preset}: {row}"
    yield from image_facts(found["data"])
    if found["validation"] is not None:
        yield from ((f"validation {name}", text) for name, text in image_facts(found["validation"]))
    for start in found["starts"]:
        file = "no file" if start["file"] is None else f"{Path(start['file']).name} {start['hash']}"
        yield start["argument"], file + ("" if start["row"] is None else f"; row: {start['row']}")
    if preset is not None:
        yield from _difference_facts(found["differences"], source is not None, most)
    yield from (("unsure", text) for text in found["unsure"])
    for place, crf in found["crf"].items():
        yield "CRF", f"{place or 'seg'}: " + ", ".join(f"{k} {value(v)}" for k, v in crf.items())
    for place, scales in found["scales"].items():
        yield "scales", f"{place.removesuffix('.scales')}: {value(scales)}"
    count = found["processes"]
    yield (
        "computed",
        (
            f"seed {found['seed']}, {count} process{'es' * (count > 1)}, {found['device']}, "
            f"{_precision_text(found['precision'])}, operators {found['backend']}"
        ),
    )
    yield "versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v)


def _difference_facts(
    found: Sequence[Mapping[str, Any]], published: bool, most: int | None
) -> Iterator[tuple[str, str]]:
    owner = "row" if published else "preset"
    if not found:
        yield "differs", f"nothing: every number is the {owner}'s"
    for one in found[:most]:
        yield "differs", f"{one['name']} {value(one['value'])} ({owner} {value(one['preset'])})"
    if most is not None and len(found) > most:
        yield "differs", f"and {len(found) - most} more, which report.html lists"


def image_facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A list of images as (name, text) pairs.

    Args:
        found: an `Images` as JSON.
    """
    yield "data", f"{found['data']}, list {found['list']}: {value(found['images'])} images"
    if found["scored"]:
        yield (
            "scored",
            (
                f"list {found['score_on']}: {value(found['scored'])} images, true masks of "
                f"{found['truth']}"
            ),
        )
    else:
        yield "scored", "nothing, there are no true masks"
    yield "as published", "yes" if found["is_real"] else f"no: {found['why_not']}"


def _precision_text(found: Mapping[str, str]) -> str:
    kinds = sorted(set(found.values()))
    if len(kinds) < 2:
        return "".join(kinds)
    return ", ".join(
        f"{kind} ({', '.join(place for place, own in found.items() if own == kind)})"
        for kind in kinds
    )


def value(found: Any) -> str:
    """A number, list or part of a recipe of metrics.json as text."""
    if found is None:
        return "none"
    if isinstance(found, bool):
        return str(found)
    if isinstance(found, int):
        return f"{found:,}"
    if isinstance(found, float):
        return f"{found:g}"
    if isinstance(found, list):
        return " ".join(map(value, found)) or "none"
    if isinstance(found, dict):
        inner = ", ".join(f"{k} {value(v)}" for k, v in found.items() if k != "class")
        kind = str(found.get("class", "")).rpartition(".")[2]
        return f"{kind}({inner})"
    return str(found)


def _printable(text: str) -> str:
    """On one line, without control characters and bytes that are not text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def text_lines(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Facts as lines for a terminal; a repeated name is written once."""
    width = max((len(name) for name, _ in pairs), default=0)
    names = [name for name, _ in pairs]
    shown = ["" if n and name == names[n - 1] else name for n, name in enumerate(names)]
    return [f"  {name:{width}}  {text}" for name, (_, text) in zip(shown, pairs, strict=True)]


def screen(out: Path) -> list[str]:
    """The protocol of a run folder as lines for a terminal; empty if it has none."""
    found = read_protocol(out)
    return [] if found is None else ["protocol", *text_lines(facts(found, most=_SHOWN))]


def html_section(out: Path) -> str:
    """The protocol of a run folder as a section of a page; "" if it has none."""
    found = read_protocol(out)
    if found is None:
        return ""
    return f"<h2>Protocol</h2>{html_table(facts(found))}"


def html_table(pairs: Sequence[tuple[str, str]]) -> str:
    """HTML of facts; the text is escaped here."""
    return table(["", ""], pairs, text=True)
