"""What a benchmark defines: inputs, implementations, allowed errors, the least work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.harness.roofline import Roofline

OURS, EAGER, COMPILED = "ours", "eager", "compiled"

Input = tuple[Tensor | None, ...]
Results = Tensor | Sequence[Tensor]


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
        call: function from the tensors of an input to one result or several.
        slow: skipped by `quick`.
        on_cpu: only runs on the CPU; its input stays there.
        compiles: compiles at the first call of a shape, which does not count as memory of a call.
    """

    call: Callable[..., Results]
    slow: bool = False
    on_cpu: bool = False
    compiles: bool = False


def as_list(results: Results) -> list[Tensor]:
    """A call's results as a list."""
    return [results] if isinstance(results, Tensor) else list(results)


def relative_error(results: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """`error`: the largest difference of any result, relative to its largest expected value."""
    errors = []
    for got, want in zip(results, expected, strict=True):
        if got.shape != want.shape:
            return {"error": float("inf")}
        if want.numel():
            scale = want.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
            errors.append((got.double() - want.double()).abs().max() / scale)
    # torch's max propagates NaN.
    return {"error": torch.stack(errors).max().item() if errors else 0.0}


@dataclasses.dataclass(frozen=True)
class Suite:
    """What is measured for an op.

    Attributes:
        name: name of the module `wsss_fast.bench.<name>`, from which another process builds the
            suite again.
        op: schema name of the op; the tables say when it has no native kernel for the device.
        title: one line above the tables.
        rows: key of each row and its name in the tables, at most 22 characters.
        make: (row, number) -> an input on the CPU, a different one for each number.
        tiny: row -> an input of few elements, which loads libraries before memory is measured.
        implementations: row -> implementations by name; one of them is "ours".
        options: fields of the `Options` that the suite was built with.
        variant: suffix of the result files' names for options other than the defaults.
        quick: rows that `quick` measures.
        baselines: implementations whose results are the expected ones and whose time is the
            ratio's numerator; the first one that is available is used.
        compare: (results, expected) -> errors by name, larger is worse.
        limits: largest allowed value of each error.
        roofline: row -> the least work of any implementation, or None.
        notes: remarks below the tables, such as that an implementation is not installed.
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


def op_implementations(
    name: str, *, gradients: int = 0, **options: Any
) -> dict[str, Implementation]:
    """`ops.<name>(*input, **options)`: ours, the eager reference, and the compiled reference.

    Args:
        name: name of the function in `wsss_fast.ops` and in `wsss_fast.ops.reference`.
        gradients: number of first arguments (None among them is skipped) whose gradients a call
            computes and returns after its results; the last tensor of the input is then the
            gradient of the first result.
        options: keyword arguments of the function.
    """

    def ours(*tensors: Tensor | None) -> Results:
        return getattr(ops, name)(*tensors, **options)

    def reference(*tensors: Tensor | None) -> Results:
        return getattr(ops.reference, name)(*tensors, **options)

    compiled = torch.compile(reference, fullgraph=True, dynamic=False)
    return {
        OURS: Implementation(with_gradients(ours, gradients)),
        EAGER: Implementation(with_gradients(reference, gradients)),
        COMPILED: Implementation(with_gradients(compiled, gradients), slow=True, compiles=True),
    }


def with_gradients(forward: Callable[..., Results], gradients: int) -> Callable[..., list[Tensor]]:
    """`forward` with the gradients of its first arguments, as in `op_implementations`.

    For 0 gradients autograd is off.
    """

    def call(*tensors: Tensor | None) -> list[Tensor]:
        if not gradients:
            with torch.no_grad():
                return as_list(forward(*tensors))
        *arguments, upstream = tensors
        leaves = [t if t is None else t.detach().requires_grad_() for t in arguments[:gradients]]
        results = as_list(forward(*leaves, *arguments[gradients:]))
        grads = torch.autograd.grad(results[0], [t for t in leaves if t is not None], upstream)
        return [*(r.detach() for r in results), *grads]

    return call
