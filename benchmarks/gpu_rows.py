"""The rows that are measured on a GPU: calls of operators with their inputs.

`gpu_steps.py rates` compares them with eager PyTorch, `gpu_versions.py` with another version of the
package; `gpu_goals.json` has goals and predictions by the names of the rows.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import gpu_crf  # noqa: E402
from wsss_fast import ops  # noqa: E402
from wsss_fast.bench import dense_crf, summaries  # noqa: E402
from wsss_fast.bench.harness.memory import build_suite  # noqa: E402
from wsss_fast.bench.harness.suite import OURS, Input, Suite  # noqa: E402

CRF = "dense_crf"  # its rows are those of gpu_crf.py
# Errors of Q in half precision: at pixels whose labels are nearly tied it can be far off.
HALF = {"max dQ": 0.5, "labels differ": 2e-3}


@dataclasses.dataclass(frozen=True)
class Row:
    """One call.

    Attributes:
        benchmark: a benchmark of `wsss-fast bench`.
        key: its row.
        options: fields of the benchmark's options.
        channels_last: whether the first tensor is in channels_last format.
        graph: whether the call is recorded as a CUDA graph, whose replay is timed.
        extra: options of the op; a version of the package that has no such option is called
            without it.
        batch: inputs of the benchmark that are joined to one.
        stored: whether the lattices of the images are built before the call.
    """

    benchmark: str
    key: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    channels_last: bool = False
    graph: bool = False
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch: int = 1
    stored: bool = False

    @property
    def variant(self) -> str:
        """Layout, way of calling and options of the op in words."""
        layout, graph = "channels_last" * self.channels_last, "graph" * self.graph
        batch, lattice = f"{self.batch} images" * (self.batch > 1), "stored lattice" * self.stored
        words = [layout, graph, batch, lattice, *map(str, self.extra.values())]
        return " ".join(filter(None, words))

    @property
    def name(self) -> str:
        """What the tables and gpu_goals.json call it."""
        words = [self.benchmark, *self.options.values(), self.key, self.variant]
        return " ".join(filter(None, words))

    @property
    def about(self) -> dict[str, Any]:
        """What the JSON files say of it."""
        fields = {"row": self.name, "benchmark": self.benchmark, "options": dict(self.options)}
        return fields | {"key": self.key, "case": self.case, "variant": self.variant}

    @property
    def images(self) -> int | None:
        """Images of a call whose rate is given in images per second; None: in milliseconds."""
        return gpu_crf.ROWS[self.key].images if self.benchmark == CRF else None

    @property
    def suite(self) -> Suite:
        """The benchmark."""
        return suite_of(self.benchmark, tuple(self.options.items()))

    @property
    def case(self) -> str:
        """The row's name in the benchmark's tables."""
        return self.key if self.benchmark == CRF else self.suite.rows[self.key]

    @property
    def limits(self) -> Mapping[str, float]:
        """Largest allowed value of each error."""
        return HALF if self.extra.get("precision") == "float16" else self.suite.limits

    def make(self, number: int, quick: bool) -> Input:
        """An input on the CPU, a different one for each number; a tiny one if `quick`."""
        if self.benchmark == CRF:
            return gpu_crf.row_input(self.key, quick, number)
        tensors = self._batch(number, quick)
        first = tensors[0]
        if self.channels_last and first is not None:
            return first.to(memory_format=torch.channels_last), *tensors[1:]
        return tensors

    def _batch(self, number: int, quick: bool) -> Input:
        parts = [
            self.suite.tiny(self.key) if quick else self.suite.make(self.key, number + n)
            for n in range(self.batch)
        ]
        if self.batch == 1:
            return parts[0]
        return tuple(
            torch.cat([t for t in each if t is not None]) for each in zip(*parts, strict=True)
        )

    def prepared(self, inputs: Input) -> Callable[[], Any]:
        """The call on inputs of a device."""
        if self.stored:
            image, *others = inputs
            sxy, srgb, _ = dense_crf.SETTINGS["amn"]["bilateral"]
            inputs = (ops.BilateralLattice(image, sxy, srgb), *others)
        return functools.partial(self.call(), *inputs)

    def call(self, implementation: str = OURS) -> Callable[..., Any]:
        """The function of an input."""
        if self.benchmark != CRF:
            return self.suite.implementations(self.key)[implementation].call
        known = inspect.signature(ops.dense_crf).parameters
        extra = {name: value for name, value in self.extra.items() if name in known}
        return functools.partial(gpu_crf.call, **extra)

    def baselines(self) -> dict[str, Callable[..., Any]]:
        """Eager PyTorch and torch's own op, as far as they run on a GPU."""
        if self.benchmark == CRF:
            return {}
        available = self.suite.implementations(self.key)
        return {name: available[name].call for name in ("eager", "torch") if name in available}

    def compiled(self) -> dict[str, Callable[..., Any]]:
        """torch.compile of the reference, where it can be compiled."""
        if self.benchmark == CRF:
            return {}
        torch.compiler.reset()  # torch gives up after it has compiled a function eight times
        available = self.suite.implementations(self.key)
        return {name: one.call for name, one in available.items() if one.compiles}

    def compare(self, results: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
        """Errors by name."""
        compare = dense_crf.compare if self.benchmark == CRF else self.suite.compare
        return compare(results, expected)


@functools.cache
def suite_of(benchmark: str, options: tuple[tuple[str, Any], ...]) -> Suite:
    return build_suite(benchmark, dict(options))


def of(benchmark: str, *keys: str, **options: Any) -> tuple[Row, ...]:
    return tuple(Row(benchmark, key, options) for key in keys)


def heads(*keys: str, channels_last: bool = False) -> tuple[Row, ...]:
    return tuple(
        dataclasses.replace(row, channels_last=channels_last)
        for dtype in ("float32", "bfloat16")
        for row in of("label_conditioned", *keys, dtype=dtype)
    )


TRAINED = "amn16-train", "amn16-81-train", "cam-train"
GROUPS: dict[str, tuple[Row, ...]] = {
    "crf": (
        *of(CRF, *gpu_crf.ROWS),
        Row(CRF, "one image, 21 labels", graph=True),
        *(
            Row(CRF, key, extra={"precision": "float16"})
            for key in ("seed pair of 3 labels", "21 labels", "81 labels")
        ),
        *(Row(CRF, key, stored=True) for key in ("2 labels", "21 labels")),
    ),
    "losses": (
        *of("pixel_cross_entropy", "pcl512", "pcl32", "seg41", "dsrg41"),
        *of("pixel_bce", "bce512", "bce32"),
        *of("saliency_loss", "voc", "coco"),
        *of("aamr_loss", "seg41", "seg321"),
    ),
    "heads": heads(*TRAINED, "deeplab-train", "amn-inference"),
    "heads_channels_last": heads(*TRAINED, "deeplab-train", channels_last=True),
    "maps": (
        *of("merge_maps", "cam1", "cam16", "amn1", "amn16", "amn8x81", "ccr16"),
        *of("image_views", "voc", "bf16", "coco"),
    ),
    "regularised": (
        *of("bilateral_filter", "1", "21", "81", "batch4"),
        *of("dense_energy_loss", "half", "full", "exact", "batch4"),
        *of("pixel_adaptive_refine", "par", "par3", "pamr128", "train128", "cams"),
        Row("pixel_adaptive_refine", "par", batch=16),
        Row("pixel_adaptive_refine", "par3", batch=8),
        Row("pixel_adaptive_refine", "pamr128", batch=16),
    ),
    "walk": of("random_walk", "tiny3", "irn1", "irn5"),
}


def rows(names: Iterable[str] = ()) -> list[Row]:
    """Rows of these groups, or all; those that this version of the package has."""
    found = [row for group in names or GROUPS for row in GROUPS[group]]
    schema = torch.ops.wsss_fast.dense_crf.default._schema
    stores = any(argument.name == "lattice" for argument in schema.arguments)
    known = summaries()
    return [row for row in found if row.benchmark in known and (stores or not row.stored)]
