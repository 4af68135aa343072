"""The committed figures of operators, from their JSON files, in one form for CPU and GPU.

    python benchmarks/figures.py bench/dense_crf.json ...   # what `wsss-fast bench` wrote on a CPU

adds these rows to `ops_cpu.json` with machine, date and commit; a row replaces the earlier one,
except for implementations and memory that were left out now. Two files of the same benchmark are
two runs of it. Figures of a GPU are the files of `gpu_check.sh` and its `--against`: copy
`gpu_check.json` or `versions.json` to `gpu_CARD_NAME.json` in this folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
CPU_FILE = FOLDER / "ops_cpu.json"
GPU_FILES = "gpu_h200*.json"
OURS, EAGER, COMPILED = "ours", "eager", "compiled"


@dataclasses.dataclass(frozen=True)
class Figure:
    """What was measured of a row.

    Attributes:
        benchmark: a benchmark of `wsss-fast bench`.
        options: fields of its options.
        key: its row.
        case: the row's name.
        variant: words for another layout or call of the row, as in gpu_rows.py.
        ms: medians of each run in milliseconds, by implementation.
        mb: additional memory of a call by implementation: 10^6 bytes, on a GPU 2^20.
        error: largest errors of our results.
        bound: milliseconds of the roofline bound, and what it counts.
        target: what was aimed at, in words.
        machine: where it was measured.
        date: when.
        commit: which version.
    """

    benchmark: str
    key: str
    case: str
    ms: Mapping[str, Sequence[float]]
    mb: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error: Mapping[str, float] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variant: str = ""
    bound: tuple[float, str] | None = None
    target: str = ""
    machine: str = ""
    date: str = ""
    commit: str | None = None

    @property
    def name(self) -> str:
        """The name of the row in gpu_rows.py and among the targets."""
        words = [self.benchmark, *map(str, self.options.values()), self.key, self.variant]
        return " ".join(filter(None, words))

    def median(self, implementation: str) -> float | None:
        """Milliseconds of an implementation."""
        runs = self.ms.get(implementation)
        return statistics.median(runs) if runs else None

    def fastest_other(self) -> tuple[str, float] | None:
        """The fastest implementation but ours, and its milliseconds."""
        others = {name: self.median(name) or 0.0 for name in self.ms if name != OURS}
        name = min(others, key=lambda n: others[n], default=None)
        return None if name is None else (name, others[name])

    def ratio(self) -> float | None:
        """The time of the fastest other implementation over ours."""
        other, ours = self.fastest_other(), self.median(OURS)
        return other[1] / ours if other and ours else None


def cpu_figures() -> list[Figure]:
    """The rows of ops_cpu.json, with bounds at the rates of a plain copy or product there."""
    from wsss_fast.bench.harness.memory import build_suite

    content = json.loads(CPU_FILE.read_text())
    found = []
    for row in content["rows"]:
        machine = content["machines"][row["machine"]]
        suite = build_suite(row["benchmark"], row["options"])
        roofline, bound = suite.roofline(row["key"]), None
        if roofline:
            rate = row["plain_rate"] or machine["rates"][roofline.plain]
            bound = roofline.work / rate / 1e6, roofline.plain
        fields = {k: v for k, v in row.items() if k not in ("plain_rate", "machine")}
        figure = Figure(**fields, bound=bound, machine=machine["name"])
        target = content["targets"].get(figure.name, "")
        found.append(dataclasses.replace(figure, target=target))
    return found


def gpu_figures() -> dict[str, Figure]:
    """The newest measurement of each row on a GPU, by name."""
    found: dict[str, Figure] = {}
    for path in sorted(FOLDER.glob(GPU_FILES), key=date_of):
        for figure in of_gpu_file(path):
            before = found.get(figure.name)
            if before and OURS in figure.ms:  # another run may have had other implementations
                figure = dataclasses.replace(figure, ms={**before.ms, **figure.ms})
            elif before:
                figure = dataclasses.replace(before, ms={**figure.ms, **before.ms})
            found[figure.name] = figure
    return {name: figure for name, figure in found.items() if OURS in figure.ms}


def date_of(path: Path) -> str:
    """The date of a file of figures."""
    return about(json.loads(path.read_text()))[1]


def about(content: Mapping[str, Any]) -> tuple[str, str]:
    """Card and date of a file of `gpu_check.sh`, of its `--against`, or of single figures."""
    if "machine" in content:
        machine = content["machine"]["figures"]
        return f"{machine['device']}, torch {machine['torch']}", machine["date"]
    machine = content["versions"]["new"]
    return f"{machine['device']}, torch {machine['torch']}", content["date"]


def of_gpu_file(path: Path) -> list[Figure]:
    """The figures of operators in a file."""
    content = json.loads(path.read_text())
    machine, date = about(content)
    common = {"machine": machine, "date": date, "commit": content.get("commit")}
    if content.get("quick"):
        raise SystemExit(f"{path}: tiny inputs were measured")
    if "versions" in content:
        return [of_row(row, row["new"], common) for row in content["rows"] if "new" in row]
    found = []
    for step in ("heads", "losses", "maps", "compiled", "others"):
        rows = content.get(step, {}).get("figures") or []
        found += [of_row(row, row.get(OURS), common) for row in rows]
    for row in content.get("crf", {}).get("figures", {}).get("rows", []):
        for rate, variant in (("images_per_s", ""), ("graph_images_per_s", "graph")):
            if rate in row:
                measured = {"ms": 1e3 * row["images"] / row[rate], "peak_mib": row["peak_mib"]}
                named = {"benchmark": "dense_crf", "key": row["name"], "variant": variant}
                errors = {"max dQ": row["max dQ"], "labels differ": row["labels differ"]}
                found.append(of_row({**named, "figures": errors}, measured, common))
    return found


def of_row(
    row: Mapping[str, Any], ours: Mapping[str, float] | None, common: Mapping[str, Any]
) -> Figure:
    """A row of `gpu_steps.py rates`, of `gpu_versions.py` or of `gpu_crf.py`."""
    others = {name: row[name] for name in (EAGER, COMPILED, "torch", "peer") if name in row}
    baselines = {name: {"ms": ms} for name, ms in row.get("baselines", {}).items()}
    times = {**({OURS: ours} if ours else {}), **others, **baselines}
    return Figure(
        benchmark=row["benchmark"],
        options=row.get("options", {}),
        key=row["key"],
        variant=row.get("variant", ""),
        case=row.get("case", row["key"]),
        ms={name: [one["ms"]] for name, one in times.items()},
        mb={name: one["peak_mib"] for name, one in times.items() if "peak_mib" in one},
        error=row.get("figures") or row.get("errors", {}),
        **common,
    )


def commit() -> str:
    """The version in this folder; "-dirty" if files are changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude", "*"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def add(paths: Sequence[Path]) -> int:
    """Add what `wsss-fast bench` wrote to ops_cpu.json; returns the number of rows."""
    content = json.loads(CPU_FILE.read_text())
    version = commit()
    fresh: dict[str, dict[str, Any]] = {}
    for path in paths:
        report = json.loads(path.read_text())
        if report["device"] != "cpu":
            raise SystemExit(f"{path}: measured on {report['device']}, not on a CPU")
        name = f"{report['cpu']}, {report['threads']} threads, torch {report['info']['torch']}"
        for row in report["rows"]:
            if OURS not in row["times"]:
                raise SystemExit(f"{path}: {row['case']}: {row['problems'][OURS]}")
            one = {
                "benchmark": report["benchmark"],
                "options": chosen_options(report["benchmark"], report["options"]),
                "key": row["key"],
                "case": row["case"],
                "ms": {n: [1e3 * statistics.median(t)] for n, t in row["times"].items() if t},
                "mb": {n: size / 1e6 for n, size in row["bytes"].items()},
                "error": row["figures"].get(OURS, {}),
                "plain_rate": row["roofline"] and row["roofline"]["plain_rate"],
                "machine": machine_key(content["machines"], name),
                "date": report["date"],
                "commit": version,
            }
            key = identity(one)
            if earlier := fresh.get(key):
                one["ms"] = {n: earlier["ms"].get(n, []) + t for n, t in one["ms"].items()}
                one["mb"] = {**earlier["mb"], **one["mb"]}
            fresh[key] = one
    rows = {identity(row): row for row in content["rows"]}
    for key, row in fresh.items():
        before = rows.get(key, {"options": row["options"], "ms": {}, "mb": {}})
        # --quick leaves slow implementations and memory out
        kept = {figure: {**before[figure], **row[figure]} for figure in ("ms", "mb")}
        rows[key] = {**row, **kept, "options": before["options"]}
    used = {row["machine"] for row in rows.values()}
    content["machines"] = {k: v for k, v in content["machines"].items() if k in used}
    content["rows"] = list(rows.values())
    CPU_FILE.write_text(as_text(content))
    return len(fresh)


def identity(row: Mapping[str, Any]) -> str:
    """What tells a row of ops_cpu.json from the others, its options completed by the defaults."""
    module = importlib.import_module(f"wsss_fast.bench.{row['benchmark']}")
    options = row["options"]
    if hasattr(module, "Options"):
        options = dataclasses.asdict(module.Options(**options))
    return json.dumps([row["benchmark"], options, row["key"]])


def chosen_options(benchmark: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not the benchmark's defaults, but for the dtype, which rows name."""
    module = importlib.import_module(f"wsss_fast.bench.{benchmark}")
    defaults = json.loads(json.dumps(dataclasses.asdict(module.Options()))) if options else {}
    return {k: v for k, v in options.items() if k == "dtype" or v != defaults[k]}


def machine_key(machines: dict[str, dict[str, Any]], name: str) -> str:
    """The key of a machine, which is added if it is new."""
    for key, machine in machines.items():
        if machine["name"] == name:
            return key
    key = str(len(machines) + 1)
    while key in machines:
        key += "'"
    machines[key] = {"name": name, "rates": {}}
    return key


def rounded(value: Any) -> Any:
    """Four digits of every float."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def as_text(content: Mapping[str, Any]) -> str:
    """JSON with a line per row, machine and target."""
    parts = []
    for name in ("machines", "targets"):
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in content[name].items()]
        parts.append(f' "{name}": {{\n' + ",\n".join(lines) + "\n }")
    rows = ",\n".join(f"  {json.dumps(rounded(row))}" for row in content["rows"])
    return "{\n" + ",\n".join([*parts, f' "rows": [\n{rows}\n ]']) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="JSON files of `wsss-fast bench`")
    print(f"{add(parser.parse_args().files)} rows in {CPU_FILE.name}")


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))
    main()
