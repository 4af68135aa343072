"""Scores of repeated runs next to the published ones: table, page, JSON."""

from __future__ import annotations

import dataclasses
import html
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.table import Table
from rich.text import Text

from wsss_fast.engine.files import atomic_write, write_json
from wsss_fast.engine.run_folder import read_protocol, read_records
from wsss_fast.evaluation import protocol_text
from wsss_fast.evaluation.html_page import page, table
from wsss_fast.presets import Published, Row

_HEAD = ("record", "ours (%)", "each seed", "published (%)", "difference", "sure")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published number, and what the runs measured instead.

    Attributes:
        published: the number and its source.
        ours: score of each run in %; empty if none measured it. Maps are scored at the threshold of
            the recipe, as the published ones were.
        at_best: the same of maps at their best threshold.
    """

    published: Published
    ours: tuple[float, ...]
    at_best: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over the runs in %."""
        return statistics.fmean(self.ours) if self.ours else None

    @property
    def half_range(self) -> float | None:
        """Half of the distance between the lowest and the highest run in percent points."""
        return (max(self.ours) - min(self.ours)) / 2 if self.ours else None

    @property
    def difference(self) -> float | None:
        """The mean minus the published number."""
        return None if self.mean is None else self.mean - self.published.value

    def as_json(self) -> dict[str, Any]:
        """What reproduce.json says of it."""
        return {
            **dataclasses.asdict(self),
            "mean": self.mean,
            "half_range": self.half_range,
            "difference": self.difference,
        }

    def cells(self) -> list[str]:
        """A row of the table; its head is `_HEAD`."""
        sure = "yes" if self.published.sure else "no"
        published = f"{self.published.value:.2f}".removesuffix("0")
        if self.mean is None or self.half_range is None or self.difference is None:
            return [self.published.record, "not measured", "", published, "", sure]
        spread = f" ± {self.half_range:.1f}" if len(self.ours) > 1 else ""
        best = f" (best {statistics.fmean(self.at_best):.1f})" if self.at_best else ""
        return [
            self.published.record,
            f"{self.mean:.1f}{spread}{best}",
            " ".join(f"{value:.1f}" for value in self.ours),
            published,
            f"{self.difference:+.1f}",
            sure,
        ]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs of a published row, and its numbers.

    Attributes:
        name: of the row.
        row: how the published result was made.
        data: name of the data set.
        why_not: why the comparison means nothing; "" if the data are those of the row.
        seeds: seeds of the runs that are finished.
        wanted: number of runs.
        figures: the published numbers.
        protocol: of the first run.
    """

    name: str
    row: Row
    data: str
    why_not: str
    seeds: tuple[int, ...]
    wanted: int
    figures: tuple[Figure, ...]
    protocol: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, row: Row, runs: Mapping[int, Path], wanted: int) -> Comparison:
        """The comparison of finished runs.

        Args:
            name: of the row.
            row: how the published result was made.
            runs: run folders by seed, at least one.
            wanted: number of runs.
        """
        found = read_protocol(next(iter(runs.values())))
        assert found is not None  # every run writes it before its first stage
        records = [read_records(out) for out in runs.values()]
        lists = [one for one in (found["data"], found["validation"]) if one is not None]
        # The lists may share a reason, such as their classes.
        reasons = dict.fromkeys(part for one in lists for part in one["why_not"].split("; "))
        figures = tuple(_figure(one, records) for one in row.published)
        data = found["data"]["data"]
        return cls(
            name, row, data, "; ".join(filter(None, reasons)), tuple(runs), wanted, figures, found
        )

    @property
    def title(self) -> str:
        """What the table shows."""
        some = f"{len(self.seeds)} of {self.wanted} seeds"
        every = f"seed{'s' * (self.wanted > 1)} {', '.join(map(str, self.seeds))}"
        count = some if len(self.seeds) < self.wanted else every
        meaning = ": the comparison means nothing, see below" if self.why_not else ""
        return f"{self.name} on {self.data}, {count}{meaning}"

    def warnings(self) -> list[str]:
        """What a reader must know before the table."""
        found = []
        if self.why_not:
            found.append(f"The comparison means nothing: {self.why_not}.")
        if count := len(self.protocol["differences"]):
            settings = "1 setting is" if count == 1 else f"{count} settings are"
            found.append(f"{settings} not the row's; the protocol names them.")
        return found

    def notes(self) -> list[tuple[str, str]]:
        """What each published number is, as (name, text) pairs."""
        found = [
            (one.published.record, f"{one.published.what}; {one.published.source}")
            for one in self.figures
        ]
        return [*found, ("row from", self.row.source), *(("unsure", x) for x in self.row.unsure)]


def _figure(published: Published, records: Sequence[Mapping[str, dict[str, Any]]]) -> Figure:
    found = [values for run in records if (values := run.get(published.record)) is not None]
    scores = [_score(values) for values in found]
    best = [values["miou"] for values in found if "miou_at_fixed" in values]
    return Figure(
        published,
        tuple(100 * score for score in scores if score is not None),
        tuple(100 * score for score in best),
    )


def _score(values: Mapping[str, Any]) -> float | None:
    """The score of a record, 0..1: of maps at the threshold of the recipe."""
    return next((values[key] for key in ("miou_at_fixed", "miou", "ap50") if key in values), None)


def text_table(found: Comparison) -> Table:
    """The comparison for a terminal."""
    shown = Table(title=Text(found.title), title_justify="left")
    for column in _HEAD:
        left = column in (_HEAD[0], _HEAD[-1])
        shown.add_column(column, justify="left" if left else "right", no_wrap=True)
    for figure in found.figures:
        shown.add_row(*map(Text, figure.cells()))
    return shown


def lines(found: Comparison) -> list[str]:
    """What a terminal shows below the table."""
    return [*protocol_text.text_lines(found.notes()), *found.warnings()]


def write(found: Comparison, out: Path) -> tuple[Path, Path]:
    """Write `reproduce.html` and `reproduce.json`; returns their paths."""
    files = out / "reproduce.html", out / "reproduce.json"
    write_json(
        files[1],
        {
            "row": found.name,
            "source": found.row.source,
            "unsure": found.row.unsure,
            "data": found.data,
            "means_something": not found.why_not,
            "why_not": found.why_not,
            "seeds": found.seeds,
            "wanted": found.wanted,
            "figures": [figure.as_json() for figure in found.figures],
            "protocol": found.protocol,
        },
    )
    body = [
        [*figure.cells(), figure.published.what, figure.published.source]
        for figure in found.figures
    ]
    reports = ", ".join(
        f"<a href='{quote(f'seed-{seed}/report.html')}'>seed {seed}</a>" for seed in found.seeds
    )
    parts = [
        f"<h1>{html.escape(found.title)}</h1>",
        *(f"<p><b>{html.escape(warning)}</b></p>" for warning in found.warnings()),
        table([*_HEAD, "what", "where it is printed"], body, text=True),
        "<p><small>Ours: mean ± half of the range over the seeds. Maps are scored at the threshold "
        "of the recipe; their best threshold is in brackets. Sure: whether the number was found "
        "where it is printed, and not in a secondary list only.</small></p>",
        f"<p>Row: {html.escape(found.row.source)}. Reports of the runs: {reports}.</p>",
        f"<h2>Protocol of seed {found.seeds[0]}</h2>",
        protocol_text.html_table(protocol_text.facts(found.protocol)),
    ]
    with atomic_write(files[0]) as temporary:
        text = page(found.title, parts)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return files
