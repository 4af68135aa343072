"""Benchmarks of the ops: one file an op, with ROWS and `suite()`, named here; the others of this folder serve all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_type_hints

from wsss_fast.bench import (
    aamr_loss,
    dense_crf,
    inference,
    label_conditioned,
    pixel_bce,
    pixel_cross_entropy,
    random_walk,
    saliency_loss,
    show,
)
from wsss_fast.bench.harness import Report, run_suite

_MODULES = (
    dense_crf,
    label_conditioned,
    pixel_cross_entropy,
    pixel_bce,
    saliency_loss,
    aamr_loss,
    random_walk,
    inference,
)
BENCHMARKS = {module.__name__.rpartition(".")[2]: module for module in _MODULES}


def contents() -> str:
    """Say which benchmarks there are; `bench NAME` measures one, `bench all` every one."""
    width = max(map(len, BENCHMARKS))
    lines = [
        f"  {name:{width}}  {inspect.getdoc(module.suite).splitlines()[0]}"
        for name, module in BENCHMARKS.items()
    ]
    return "\n".join(
        [
            "usage: wsss-fast bench NAME [--quick] [--help], or wsss-fast bench all [--quick]",
            "",
            *lines,
        ]
    )


def run_all(out: Path = Path("bench"), **options: Any) -> Iterator[Report]:
    """Measure every op against its reference and its outside peer; `bench NAME` measures one, with its own options."""
    for module in BENCHMARKS.values():
        yield run_suite(module.suite(), out, **options)


def command(module: ModuleType) -> Callable[..., Report]:
    """`bench NAME`: the options of the module's `suite` and those of `run_suite`, in one function."""
    own = inspect.signature(module.suite).parameters

    def bench(out: Path = Path("bench"), **options: Any) -> Report:
        chosen = {name: options.pop(name) for name in own if name in options}
        return run_suite(module.suite(**chosen), out, **options)

    _describe(bench, module.suite)
    bench.__annotations__["rows"] = tuple[Literal[tuple(module.ROWS)], ...]
    return bench


def _describe(function: Callable, own: Callable, *left_out: str) -> None:
    """Give `function` what the command line is made from: the docstring of `own`, its options and those of `run_suite`."""
    shared = {
        n: p
        for n, p in inspect.signature(run_suite).parameters.items()
        if n not in ("suite", *left_out)
    }
    parameters = {"out": shared.pop("out").replace(default=Path("bench"))}
    parameters |= {
        n: p for n, p in inspect.signature(own).parameters.items() if n not in ("out", "options")
    } | shared
    hints = get_type_hints(run_suite) | get_type_hints(own)
    text, _, _ = inspect.getdoc(own).partition("\n\nArgs:")
    lines = [
        line
        for line in _arguments(run_suite)
        if line.split(":")[0].strip() not in ("suite", *left_out)
    ]
    function.__signature__ = inspect.Signature(
        [  # type: ignore[attr-defined]
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters.values()
        ]
    )
    function.__annotations__ = {name: hints[name] for name in parameters}
    function.__doc__ = "\n".join([text, "", show.COLUMNS, "", "Args:", *_arguments(own), *lines])


def _arguments(function: Callable) -> list[str]:
    """The lines below "Args:" in a docstring."""
    return inspect.getdoc(function).partition("\nArgs:\n")[2].partition("\n\n")[0].splitlines()


_describe(run_all, run_all, "rows")
