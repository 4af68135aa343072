"""What `gpu_check.py` reads from the logs and files of its steps: lines for the summary, figures.

Each function `*_results(check, step, log)` is a `Step.read_log`.

    python benchmarks/gpu_results.py gpu_check.json

prints the hottest kernel of each call that ncu has profiled.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.gpu_runner import Check, Step, marked_lines  # noqa: E402

NAN = float("nan")


def pytest_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """Counts of a pytest run and the names of failed tests.

    They are taken from its log if it was stopped before it wrote its report.
    """
    report = check.logs / f"{step.name}.xml"
    if not report.exists():
        names = sorted(set(re.findall(r"(?:FAILED|ERROR) (tests/\S+)", log)))
        passed = len(re.findall(r" PASSED ", log))
        lines = [f"no report; {passed} passed, {len(names)} failed so far", *names[:30]]
        return lines, {"passed": passed, "failed": names}
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed, skipped = {}, 0
    for case in cases:
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped += any(child.tag == "skipped" for child in case)
        if problem is not None:
            message = (problem.get("message") or problem.text or "").strip().splitlines() or [""]
            failed[f"{case.get('classname')}::{case.get('name')}"] = message[0]
    figures = {"passed": len(cases) - len(failed) - skipped, "failed": failed, "skipped": skipped}
    lines = [f"{figures['passed']} passed, {len(failed)} failed, {skipped} skipped"]
    for name, text in list(failed.items())[:30]:
        lines.append(f"FAILED {name.removeprefix('tests.')}: {text[:100]}")
    return lines, figures


def pipeline_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """Seconds and images per second of every stage of a run folder, mIoU, and other long loops."""
    run = check.work / "runs" / step.name
    kept = check.logs / "runs" / step.name
    for file in [*run.rglob("done.json"), *run.glob("*.json")]:
        target = kept / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    stages, scores = stage_figures(run), score_figures(run)
    # The package prints every loop that took long: "curve cam: 64/64 in 2.7 s (23.7 img/s)".
    pattern = re.compile(r"^(\S[^:\n]*): \d+/\d+ in ([\d.]+) s", re.MULTILINE)
    loops = {n: float(s) for n, s in pattern.findall(log) if n not in stages}
    lines = [f"{len(stages)} stages, {sum(row['seconds'] for row in stages.values()):.1f} s in all"]
    for name, row in stages.items():
        rate = row["images_per_s"] or NAN
        time = row["time"]
        shares = (
            f", device {100 * time['device'] / time['wall']:.0f} %, "
            f"waiting {100 * time['wait'] / time['wall']:.0f} %"
            if time and time["wall"]
            else ""
        )
        lines.append(f"{name:<16}{row['seconds']:>8.2f} s {rate:>9.1f} images/s{shares}")
    miou = [f"{n} {100 * r['miou']:.1f}" for n, r in scores.items() if "miou" in r]
    if scores:
        lines.append(f"mIoU: {', '.join(miou)}")
    if loops:
        lines.append("other loops: " + ", ".join(f"{n} {s:.1f} s" for n, s in loops.items()))
    errors = re.findall(r"^[ \t]*(?:error|failed|Traceback|\w*Error).*", log, re.MULTILINE)
    return [*lines, *errors[-3:]], {"stages": stages, "scores": scores, "other_loops": loops}


def stage_figures(run: Path) -> dict[str, dict[str, Any]]:
    """Figures in done.json of every finished stage, in the order in which they finished."""
    stages = {}
    for path in sorted(run.rglob("done.json"), key=lambda p: p.stat().st_mtime):
        notes = json.loads(path.read_text())["notes"]
        rate = notes.get("samples_per_second") or notes.get("images_per_second")
        files = sum(p.suffix in (".png", ".npz") for p in path.parent.iterdir())
        if not rate and files and notes["seconds"]:
            rate = files / notes["seconds"]
        stages[str(path.parent.relative_to(run))] = {
            "seconds": notes["seconds"],
            "images_per_s": rate,
            "files": files,
            "time": notes.get("time"),
        }
    return stages


def score_figures(run: Path) -> dict[str, dict[str, Any]]:
    """The numbers in metrics.json, without those of single classes."""
    path = run / "metrics.json"
    records = json.loads(path.read_text())["stages"] if path.exists() else []
    return {
        r["stage"]: {k: v for k, v in r.items() if isinstance(v, (int, float))} for r in records
    }


def nccl_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    path = check.work / "runs" / step.name / "nccl.json"
    figures = json.loads(path.read_text()) if path.exists() else None
    return marked_lines(check, step, log)[0], figures


def sanitizer_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """The tool's summary, its first reports, and the last marked lines of the script."""
    pattern = re.compile(r"^=+ +(Invalid|Error:|Warning:|Race|Program hit|\S+ Race)")
    reports = [line.strip("= ") for line in log.splitlines() if pattern.search(line)]
    total = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", log)[-1:]
    marked = marked_lines(check, step, log)[0][-3:]
    lines = [*(total or ["the tool wrote no summary"]), *reports[:6], *marked]
    return lines, {"summary": total, "reports": len(reports)}


def kernel_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """Time, throughput, occupancy and registers of each kernel, over all of its launches.

    They are read from the details page that `ncu` prints as CSV.
    """
    lines = log.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        errors = [line for line in lines if "==ERROR==" in line][:3]
        return errors or ["no kernels were profiled"], None
    launches: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(line for line in lines[start:] if line.startswith('"')):
        launch = launches.setdefault(row["ID"], {"name": row["Kernel Name"]})
        with contextlib.suppress(ValueError, TypeError):
            launch.setdefault(row["Metric Name"], float(row["Metric Value"].replace(",", "")))
    kernels: dict[str, list[dict[str, Any]]] = {}
    for launch in launches.values():
        kernels.setdefault(launch["name"], []).append(launch)
    table = [kernel_row(name, group) for name, group in kernels.items()]
    table.sort(key=lambda row: -row["us"])
    total = sum(row["us"] for row in table) or 1.0
    shown = [
        f"{row['us']:>9.1f} us {100 * row['us'] / total:>5.1f}% {row['launches']:>4} x  "
        f"DRAM {row['dram']:>4.0f}%  memory {row['memory']:>4.0f}%  SM {row['sm']:>4.0f}%  "
        f"occupancy {row['occupancy']:>4.0f}%  {row['registers']:>4.0f} registers  "
        f"{short(row['name'])}"
        for row in table[:9]
    ]
    return [f"{len(launches)} launches, {total:.0f} us", *shown], table


def kernel_row(name: str, launches: list[dict[str, Any]]) -> dict[str, Any]:
    """Total time in microseconds, and means weighted by time; NaN where ncu has no such metric."""
    times = [launch.get("Duration", 0.0) / 1e3 for launch in launches]
    total = sum(times) or 1.0

    def mean(metric: str) -> float:
        values = [launch.get(metric, NAN) for launch in launches]
        return sum(t * value for t, value in zip(times, values, strict=True)) / total

    return {
        "name": name,
        "launches": len(launches),
        "us": sum(times),
        "dram": mean("DRAM Throughput"),
        "memory": mean("Memory Throughput"),
        "sm": mean("Compute (SM) Throughput"),
        "occupancy": mean("Achieved Occupancy"),
        "registers": max(launch.get("Registers Per Thread", NAN) for launch in launches),
    }


def short(name: str) -> str:
    """A kernel's name without return type, namespaces, template arguments and parameters."""
    for scope in ("(anonymous namespace)", "<unnamed>"):
        name = name.replace(scope, "anonymous")
    return name.removeprefix("void ").split("<")[0].split("(")[0].split("::")[-1][:48]


def hottest(results: dict[str, Any]) -> list[str]:
    """A line for the kernel of each profiled call that takes most of its time."""
    heads = "call          share      us  DRAM %  memory %  SM %  occupancy %  registers  kernel"
    lines = [heads]
    for step, result in results.items():
        if not step.startswith("ncu_") or not result["figures"]:
            continue
        table = sorted(result["figures"], key=lambda row: -row["us"])
        first, total = table[0], sum(row["us"] for row in table) or 1.0
        lines.append(
            f"{step.removeprefix('ncu_'):<14}{100 * first['us'] / total:>4.0f}%"
            f"{first['us']:>8.0f}{first['dram']:>8.0f}{first['memory']:>10.0f}"
            f"{first['sm']:>6.0f}{first['occupancy']:>13.0f}{first['registers']:>11.0f}"
            f"  {short(first['name'])}"
        )
    return lines if len(lines) > 1 else ["no call was profiled"]


if __name__ == "__main__":
    for line in hottest(json.loads(Path(sys.argv[1]).read_text())):
        print(f"| {line}")
