"""What the file of a benchmark says: its inputs, who computes them, which results count as the same, the least work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.roofline import Roofline

OURS, EAGER, COMPILED = "ours", "eager", "compiled"

Input = tuple[Tensor | None, ...]


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
        call: (*input) -> its results, a tensor or several.
        slow: left out by `quick`.
        on_cpu: it has no other device; its input stays on the CPU.
        compiles: its first call of a shape compiles, which is no part of the memory that a call needs.
    """

    call: Callable[..., Tensor | Sequence[Tensor]]
    slow: bool = False
    on_cpu: bool = False
    compiles: bool = False


def as_list(results: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A call's results as a list."""
    return [results] if isinstance(results, Tensor) else list(results)


def relative_error(results: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """`error`: the largest difference of any result, each in units of the largest value expected of it."""
    errors = []
    for got, want in zip(results, expected, strict=True):
        if got.shape != want.shape:
            return {"error": float("inf")}
        if want.numel():
            scale = want.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
            errors.append((got.double() - want.double()).abs().max() / scale)
    return {
        "error": torch.stack(errors).max().item() if errors else 0.0
    }  # a NaN passes through torch's max


@dataclasses.dataclass(frozen=True)
class Suite:
    """What is measured for an op.

    Attributes:
        name: of the module `wsss_fast.bench.<name>`, whose `suite(**options)` makes this again in another process.
        op: schema name of the op; the table says when it has no native kernel on the device.
        title: one line over the table.
        rows: key of each row and what the table calls it, in 22 characters.
        make: (row, which) -> an input on the CPU; another one for another `which`.
        tiny: row -> an input of few elements, which loads libraries before memory is measured.
        implementations: row -> implementations by name; one of them is "ours".
        options: keyword arguments this suite was made with.
        variant: part of the files' name, where options are not the usual ones.
        quick: rows that `quick` measures.
        baselines: names whose results are the expected ones and whose time is the ratio's numerator; the first there counts.
        compare: (results, expected) -> figures, larger is worse.
        limits: the largest value of each figure that is still right.
        roofline: row -> the least work of it, or None.
        notes: what a reader of the table must know, such as a peer that is not installed.
    """

    name: str
    op: str
    title: str
    rows: Mapping[str, str]
    make: Callable[[str, int], Input]
    tiny: Callable[[str], Input]
    implementations: Callable[[str], dict[str, Implementation]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variant: str = ""
    quick: tuple[str, ...] = ()
    baselines: tuple[str, ...] = (EAGER,)
    compare: Callable[[list[Tensor], list[Tensor]], dict[str, float]] = relative_error
    limits: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"error": 2e-5})
    roofline: Callable[[str], Roofline | None] = lambda row: None
    notes: tuple[str, ...] = ()


def of_op(name: str, *, gradients: int = 0, **options: Any) -> dict[str, Implementation]:
    """`ops.<name>(*input, **options)`: ours, the eager reference, and torch.compile of the reference.

    Args:
        name: of the function in `wsss_fast.ops` and in `wsss_fast.ops.reference`.
        gradients: of so many first arguments (None among them has none) a call returns the gradients too, behind its
            results; the last tensor of the input is then the gradient of the first result.
        options: keyword arguments of the function.
    """

    def ours(*given: Tensor | None):
        return getattr(ops, name)(*given, **options)

    def reference(*given: Tensor | None):
        return getattr(ops.reference, name)(*given, **options)

    compiled = torch.compile(reference, fullgraph=True, dynamic=False)
    return {
        OURS: Implementation(differentiated(ours, gradients)),
        EAGER: Implementation(differentiated(reference, gradients)),
        COMPILED: Implementation(differentiated(compiled, gradients), slow=True, compiles=True),
    }


def differentiated(forward: Callable, gradients: int) -> Callable[..., list[Tensor]]:
    """`forward` without autograd, or with the gradients of its first arguments, as in `of_op`."""

    def call(*given: Tensor | None) -> list[Tensor]:
        if not gradients:
            with torch.no_grad():
                return as_list(forward(*given))
        *arguments, upstream = given
        leaves = [t if t is None else t.detach().requires_grad_() for t in arguments[:gradients]]
        results = as_list(forward(*leaves, *arguments[gradients:]))
        grads = torch.autograd.grad(results[0], [t for t in leaves if t is not None], upstream)
        return [*(r.detach() for r in results), *grads]

    return call
