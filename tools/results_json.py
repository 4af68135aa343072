"""Write the tables of benchmarks/RESULTS.md as JSON: `python tools/results_json.py`.

RESULTS.md marks a table by a comment, `<!-- results: NAME -->`, on the line before it; it goes to
`benchmarks/results/NAME.json`. A test compares the files with the page.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "benchmarks/RESULTS.md"
FOLDER = ROOT / "benchmarks/results"

_MARKED = re.compile(r"<!-- results: (\w+) -->\n((?:\|.*\n)+)")


def tables() -> dict[str, str]:
    """The marked tables as they are written, by name."""
    return {match.group(1): match.group(2) for match in _MARKED.finditer(SOURCE.read_text())}


def files() -> dict[Path, str]:
    """The JSON files as they should be."""
    return {FOLDER / f"{name}.json": as_json(name, table) for name, table in tables().items()}


def as_json(name: str, table: str) -> str:
    """A table as data: section, columns, and a list per row; plain numbers as numbers."""
    text = SOURCE.read_text()
    before = text[: text.index(f"<!-- results: {name} -->")]
    header, _, *lines = table.splitlines()
    section = re.findall(r"^## (.*)$", before, re.MULTILINE)[-1]
    rows = [_dump([_number(cell) for cell in _cells(line)]) for line in lines]
    return (
        f'{{\n"section": {_dump(section)},\n"columns": {_dump(_cells(header))},\n"rows": [\n'
        + ",\n".join(rows)
        + "\n]\n}\n"
    )


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")]


def _number(cell: str) -> float | int | str | None:
    """A cell as a number where it is nothing else; None where it is empty."""
    if not cell:
        return None
    plain = cell.replace(",", "")
    if re.fullmatch(r"-?\d+", plain):
        return int(plain)
    return float(plain) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", plain) else cell


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, content in files().items():
        path.write_text(content)
