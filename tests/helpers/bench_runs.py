"""Run a benchmark's suite, and print its report as the command does."""

from rich.console import Console

from wsss_fast.bench import dense_crf
from wsss_fast.bench.harness import run_suite, show
from wsss_fast.bench.options import RunOptions

SIZE = (40, 56)


def crf_suite(**options):
    return dense_crf.suite(dense_crf.Options(**{"size": SIZE, **options}))


def measure(out, suite, rows=(), **options):
    defaults = {"device": "cpu", "threads": 1, "repeats": 2, "memory": False}
    return run_suite(suite, out, RunOptions(**{**defaults, **options}), rows)


def printed(report):
    """The output of the command on 80 columns."""
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        for part in show.parts(report):
            console.print(part, markup=False)
    return capture.get()
