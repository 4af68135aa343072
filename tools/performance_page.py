"""Write the tables and lists of docs/performance.md from the JSON files of benchmarks/.

    python tools/performance_page.py

replaces what stands between `<!-- made: NAME -->` and `<!-- end -->`; the rest of the page is
written by hand. A test compares the page with the files. `benchmarks/figures.py` says where the
figures come from, `benchmarks/gpu_bounds.py` how the bounds on a GPU are computed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_bounds, gpu_crf, gpu_goals, gpu_rows  # noqa: E402
from benchmarks.figures import (  # noqa: E402
    COMPILED,
    EAGER,
    FOLDER,
    GPU_FILES,
    OURS,
    Figure,
    cpu_figures,
    gpu_figures,
    of_gpu_file,
)

PAGE = ROOT / "docs/performance.md"
REGION = re.compile(r"(<!-- made: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Predictions are compared with this file, the last one before they were made.
BEFORE = FOLDER / "gpu_h200.json"
AFTER = FOLDER / "gpu_h200_versions.json"
OTHERS = {
    "torch": "torch's own",
    "pydensecrf": "pydensecrf2",
    "bilateralfilter": "public module",
    "public": "public loss",
    "stacked": "all neighbours in memory",
    "scipy": "scipy",
    "dense": "dense matrix",
    "pillow": "Pillow",
    "peer": "another public CUDA one",
}
PUBLIC = "pydensecrf", "public", "bilateralfilter"  # of which the first one measured counts
BOUNDS = {"copy": "copy", "matmul": "product"}
NONE = ""


def number(value: float | None) -> str:
    """Three digits, or one decimal from 100 on."""
    if value is None:
        return NONE
    if value >= 100:
        return f"{value:,.1f}".removesuffix(".0")
    if value >= 0.001:
        digits = f"{value:#.3g}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{value:.1g}"


def runs(values: Iterable[float] | None) -> str:
    """The medians of each run with "/" between them."""
    return " / ".join(map(number, values or ()))


def row_name(figure: Figure) -> str:
    """A row's name with the options and the layout that the case does not tell."""
    more = [str(v) for v in figure.options.values() if v != "float32"]
    more += [figure.variant] if figure.variant else []
    return ", ".join([figure.case, *more])


def ratios(figure: Figure) -> str:
    """The fastest other time over ours, for each run if both have as many."""
    other, ours = figure.fastest_other(), figure.ms[OURS]
    if not other:
        return NONE
    theirs = figure.ms[other[0]]
    if len(theirs) != len(ours):
        theirs, ours = [other[1]], [statistics.median(ours)]
    found = [a / b for a, b in zip(theirs, ours, strict=True)]
    shown = [f"{r:.2f}x" if r < 2 else f"{r:.1f}x" if r < 100 else f"{r:,.0f}x" for r in found]
    return " / ".join(
        f"**{text}**" if r < 1 else text for r, text in zip(found, shown, strict=True)
    )


def other(figure: Figure) -> str:
    """The fastest implementation that is neither eager nor compiled, by name."""
    known = {name: figure.median(name) for name in OTHERS if figure.median(name)}
    name = min(known, key=lambda n: known[n] or 0.0, default=None)
    return NONE if name is None else f"{OTHERS[name]} {runs(figure.ms[name])}"


def distance(figure: Figure) -> str:
    """Our time over the bound."""
    ours = figure.median(OURS)
    return f"{ours / figure.bound[0]:,.0f}x" if figure.bound and ours else NONE


def bound(figure: Figure) -> str:
    if figure.bound is None:
        return NONE
    return f"{number(figure.bound[0])} ({BOUNDS.get(figure.bound[1], figure.bound[1])})"


COLUMNS: dict[str, Callable[[Figure], str]] = {
    "row": row_name,
    "ours, ms": lambda f: runs(f.ms[OURS]),
    "eager, ms": lambda f: runs(f.ms.get(EAGER)),
    "torch.compile, ms": lambda f: runs(f.ms.get(COMPILED)),
    "best outside peer, ms": other,
    "fastest other / ours": ratios,
    "target": lambda f: f.target,
    "roofline bound, ms": bound,
    "ours / bound": distance,
    "extra memory: ours": lambda f: number(f.mb.get(OURS)),
    "eager": lambda f: number(f.mb.get(EAGER)),
    "largest error": lambda f: number(max(f.error.values(), default=None)),
    "measured": lambda f: f.date,
}


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def table(figures: Sequence[Figure]) -> list[str]:
    """A table without the columns that would be empty; rows of several operators name theirs."""
    if not figures:
        return ["Not measured yet."]
    columns = {head: [cell(f) for f in figures] for head, cell in COLUMNS.items()}
    if len({f.benchmark for f in figures}) > 1:
        columns["row"] = [f"`{f.benchmark}` {row_name(f)}" for f in figures]
    filled = {head: cells for head, cells in columns.items() if any(cells)}
    return grid(list(filled), zip(*filled.values(), strict=True))


@functools.cache
def on_cpu() -> list[Figure]:
    return cpu_figures()


@functools.cache
def on_gpu() -> list[Figure]:
    """All rows on a GPU with their bounds; those of the CRF per image."""
    machine = json.loads(BEFORE.read_text())["machine"]["figures"]
    rates = gpu_bounds.Rates(1e12 * machine["copy_tb_per_s"], 1e12 * machine["bf16_tflop_per_s"])
    found, batches = [], {row.name: row.batch for row in gpu_rows.rows()}
    for f in gpu_figures().values():
        ms, what = gpu_bounds.bound(f.benchmark, f.key, f.options, rates)
        ms *= batches.get(f.name, 1)
        per = 1 / gpu_crf.ROWS[f.key].images if f.benchmark == gpu_rows.CRF else 1.0
        times = {name: [per * t for t in times] for name, times in f.ms.items()}
        found.append(dataclasses.replace(f, ms=times, bound=(per * ms, what)))
    return found


def of(figures: Iterable[Figure], names: Sequence[str]) -> list[Figure]:
    chosen = [f for f in figures if f.benchmark in names]
    return sorted(chosen, key=lambda f: names.index(f.benchmark))


def crf_on_gpu() -> list[str]:
    """Images per second of direct calls and of graphs, and milliseconds of an image."""
    figures = {(f.key, f.variant): f for f in of(on_gpu(), [gpu_rows.CRF])}
    heads = ["row", "images", "images/s", "in a CUDA graph", "ms per image", "roofline bound, ms"]
    heads += ["ours / bound", "best outside peer, ms", "extra memory", "largest error", "measured"]
    rows = []
    for (key, variant), figure in figures.items():
        if variant:
            continue
        graph = figures.get((key, "graph"))
        rate, graph_rate = (f"{1e3 / f.ms[OURS][0]:,.0f}" if f else NONE for f in (figure, graph))
        cells = [figure.case, str(gpu_crf.ROWS[key].images), rate, graph_rate]
        cells += [COLUMNS[head](figure) for head in ("ours, ms", "roofline bound, ms")]
        cells += [COLUMNS[head](figure) for head in ("ours / bound", "best outside peer, ms")]
        shown = ("extra memory: ours", "largest error", "measured")
        rows.append([*cells, *(COLUMNS[head](figure) for head in shown)])
    return grid(heads, rows)


def slower() -> list[str]:
    """Every row that is slower than another implementation."""
    lines = []
    for device, figures in (("CPU", on_cpu()), ("GPU", on_gpu())):
        for f in figures:
            ours = f.median(OURS) or 0.0
            faster = [
                f"{OTHERS.get(name, 'torch.compile' if name == COMPILED else name)} {number(ms)} ms"
                for name in f.ms
                if name != OURS and (ms := f.median(name)) is not None and ms < ours
            ]
            if faster:
                lines.append(f"- {device}, `{f.name}`: {number(ours)} ms; {', '.join(faster)}")
    return lines or ["None."]


def machines() -> list[str]:
    """What was measured where, and when."""
    lines = []
    for device, figures in (("CPU", on_cpu()), ("GPU", on_gpu())):
        names = dict.fromkeys(f.machine for f in figures)
        for name in names:
            dates = sorted({f.date for f in figures if f.machine == name})
            lines += wrapped(f"- **{device}**: {name}; {', '.join(dates)}")
    files = [path.name for path in sorted(FOLDER.glob(GPU_FILES))]
    links = [f"{{download}}`{name} <../benchmarks/{name}>`" for name in ["ops_cpu.json", *files]]
    return [*lines, "- Files:", *(f"  {link}{',' * (link != links[-1])}" for link in links)]


def wrapped(text: str) -> list[str]:
    """A list item in lines of at most 100 columns."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > 100:
            lines.append(line)
            line = " "
        line = f"{line} {word}" if line else word
    return [*lines, line]


def predictions() -> list[str]:
    """Goals and predictions, with what was measured since where it was."""
    goals = gpu_goals.read()
    before = {f.name: f for f in of_gpu_file(BEFORE)}
    after = {f.name: f for f in of_gpu_file(AFTER)} if AFTER.exists() else {}
    heads = ["row", "unit", "before", "goal", "predicted", "measured", "bound by", "why"]
    rows = []
    for row in gpu_rows.rows():
        goal = goals.get(row.name)
        if goal is None:
            continue
        shown = [rate_or_ms(found.get(row.name), row.images) for found in (before, after)]
        unit = "images/s" if row.images else "ms"
        predicted = number(goal.predicted)
        rows.append(
            [f"`{row.name}`", unit, shown[0], goal.text(), predicted, shown[1], goal.bound]
            + [goal.why]
        )
    filled = [n for n, _ in enumerate(heads) if any(row[n] for row in rows)]
    return grid([heads[n] for n in filled], [[row[n] for n in filled] for row in rows])


def rate_or_ms(figure: Figure | None, images: int | None) -> str:
    if figure is None or not figure.ms.get(OURS):
        return NONE
    value = gpu_goals.in_unit(figure.ms[OURS][0], images)
    return f"{value:,.0f}" if images else number(value)


def missed() -> list[str]:
    """Rows on the CPU that are below their target, as a ratio to the baseline or a time."""
    lines = []
    for f in on_cpu():
        target = re.match(r"([\d.]+)(x| ms)", f.target)
        baseline = next(filter(None, map(f.median, (*PUBLIC, EAGER))), None)
        ours = f.median(OURS)
        if not target or not ours:
            continue
        number_of_target = float(target.group(1))
        if target.group(2) == " ms" and ours > number_of_target:
            lines.append(f"- `{f.name}`: {number(ours)} ms, target {f.target}")
        if target.group(2) == "x" and baseline and baseline / ours < number_of_target:
            lines.append(f"- `{f.name}`: {baseline / ours:.1f}x, target {f.target}")
    return lines or ["None."]


TABLES = {
    "crf": ["dense_crf"],
    "heads": ["label_conditioned"],
    "pixel losses": ["pixel_cross_entropy", "pixel_bce"],
    "map losses": ["saliency_loss", "aamr_loss"],
    "regularised": ["dense_energy_loss", "bilateral_filter"],
    "refinement": ["pixel_adaptive_refine"],
    "walk": ["random_walk"],
    "maps": ["merge_maps", "image_views"],
}


def regions() -> Mapping[str, Callable[[], list[str]]]:
    """What is written into each region."""
    found: dict[str, Callable[[], list[str]]] = {
        "machines": machines,
        "slower": slower,
        "missed": missed,
        "predictions": predictions,
        "gpu crf": crf_on_gpu,
    }
    for name, benchmarks in TABLES.items():
        for device, figures in (("cpu", on_cpu), ("gpu", on_gpu)):
            found.setdefault(f"{device} {name}", lambda f=figures, b=benchmarks: table(of(f(), b)))
    return found


def page(text: str) -> str:
    """The page with every region made anew."""
    made = regions()
    unknown = {name for _, name, _ in REGION.findall(text)} - set(made)
    if unknown:
        raise SystemExit(f"{PAGE}: unknown regions: {', '.join(sorted(unknown))}")
    return REGION.sub(
        lambda match: "\n".join([match.group(1), *made[match.group(2)](), "", match.group(3)]), text
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
