"""Benchmarks of the ops, and in `pipeline/` of the stages; `wsss-fast bench NAME` runs one.

Every module of this folder with a function `suite` is a benchmark, named as the op; no list holds
them. It has

- a docstring, the help of its command; the first line is its summary;
- `ROWS`: for each key the row's name in the tables, at most 22 characters, and its shapes;
- `suite() -> Suite`, or `suite(options: Options) -> Suite` with a frozen dataclass `Options`, whose
  fields become options of the command.

What the benchmarks share is in `harness/`. Importing this module does not import torch.
"""

import ast
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

from wsss_fast.bench.options import RunOptions

OUT = Path("bench")

# The end of every benchmark's help.
COLUMNS = """\
Times are medians in milliseconds. ratio: the baseline's time over ours; the baseline is the last
implementation, and its results are the expected ones. GFLOP/s or GB/s: the least work that any
implementation has to do, over our time; next to it the rate of a plain matrix product of that size,
or of a plain copy, measured right after. The last columns: the largest errors of our results. MB:
peak memory of one call in addition to its input and its results; ratio: eager's over ours.

Implementations with wrong results are not timed."""


@functools.cache
def _docstrings() -> dict[str, str]:
    """The docstring of each benchmark by name, read without importing the modules."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "suite" for node in module.body):
            found[path.stem] = ast.get_docstring(module) or path.stem
    return found


def summaries() -> dict[str, str]:
    """Each benchmark's name and its summary in one line, in alphabetical order."""
    return {name: text.splitlines()[0] for name, text in _docstrings().items()}


def contents() -> str:
    """List the benchmarks; `bench NAME` runs one, `bench all` runs those of all ops."""
    source = (Path(__file__).parent / "pipeline/__init__.py").read_text(encoding="utf-8")
    stages = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
    names = {**summaries(), "pipeline": stages}
    width = max(map(len, names))
    usage = "usage: wsss-fast bench NAME [--quick] [--help], or wsss-fast bench all [--quick]"
    return "\n".join([usage, "", *(f"  {n:{width}}  {text}" for n, text in names.items())])


def command(name: str) -> Callable:
    """The function of `bench NAME`, which returns a `harness.Report`.

    Its parameters are `out`, `rows`, `benchmark` (the benchmark's own `Options`, if it has any) and
    `run` (`RunOptions`). On a command line the fields of the two dataclasses are options without a
    prefix.
    """
    from wsss_fast.bench.harness.run import Report, run_suite  # imports torch

    module = importlib.import_module(f"{__name__}.{name}")
    own = getattr(module, "Options", None)
    if own is None:

        def bench(
            out: Path = OUT, *, rows: tuple[str, ...] = (), run: RunOptions = RunOptions()
        ) -> Report:
            return run_suite(module.suite(), out, run, rows)

    else:

        def bench(  # type: ignore[misc]  # the two have different parameters
            out: Path = OUT,
            *,
            rows: tuple[str, ...] = (),
            benchmark: own = own(),  # type: ignore[valid-type]
            run: RunOptions = RunOptions(),
        ) -> Report:
            return run_suite(module.suite(benchmark), out, run, rows)

    arguments = {
        "out": "folder for the JSON file and the plot.",
        "rows": f"rows to measure, of {', '.join(module.ROWS)}; none: all.",
        **({} if own is None else {"benchmark": "options of this benchmark."}),
        "run": "options of every benchmark.",
    }
    described = "\n".join(f"    {name}: {text}" for name, text in arguments.items())
    bench.__doc__ = f"{_docstrings()[name]}\n\n{COLUMNS}\n\nArgs:\n{described}\n"
    return bench


def run_all(out: Path = OUT, *, run: RunOptions = RunOptions()) -> Iterator:
    """Run every benchmark with its default options; yields each `harness.Report`.

    Args:
        out: folder for the JSON files and the plots.
        run: options of every benchmark.
    """
    for name in summaries():
        yield command(name)(out, run=run)
