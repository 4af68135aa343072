"""An older version of the package against this one, on the rows of `gpu_rows.py`.

    benchmarks/gpu_check.sh --against DIR [--device cuda] [--quick] [--only ROW ...] [--seconds 230]

DIR is an unpacked version; a machine without git gets it with the working tree:

    echo /.old/ >> "$(git rev-parse --git-path info/exclude)"
    mkdir .old && git archive REVISION | tar -x -C .old

Each version runs in a process of its own with a build of its own. A row's input is the same for
both, their results are compared, and their calls are timed in turns. Every row is printed as soon
as it is measured, in images per second for the CRF and in milliseconds for the others; OUT (a
folder, `gpu-results`) then has it in `versions.json`. The exit code is 1 if a row failed or
differs; rows that the older version lacks are left out. `--device emulated` runs the CUDA sources
of both versions on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import gpu_goals  # noqa: E402
from benchmarks.gpu_goals import Goal, in_unit  # noqa: E402

OLD, NEW = "old", "new"
BUILD_LIMIT = {"cuda": 150.0, "cpu": 300.0, "emulated": 1500.0}
REQUEST_LIMIT = 60.0  # seconds
ROW_SECONDS = 8.0  # a row is not begun with less time left
ROUNDS, TURN = 3, 0.12  # turns of each version and their seconds
WIDTHS = (55, 9, 9, 7, 14, 10, 8, 8)
HEADS = ("row", "old", "new", "ratio", "goal", "predicted", "old MiB", "new MiB")


class Failure(Exception):
    """A request that failed; the text is for the table."""


class Version:
    """A process that serves one version; it is started again after a crash.

    Args:
        name: old or new.
        root: folder of the version.
        arguments: further arguments of the process.
        work: folder for its build and its log.
    """

    def __init__(self, name: str, root: Path, arguments: list[str], work: Path):
        self.name, self.log = name, work / f"{name}.log"
        worker = Path(__file__).with_name("gpu_version_worker.py")
        self.command = [sys.executable, str(worker), str(root.resolve()), *arguments]
        cache = os.environ.get(f"GPU_VERSIONS_CACHE_{name.upper()}") or work / f"cache-{name}"
        self.environment = {
            **os.environ,
            "WSSS_FAST_CACHE": str(cache),
            "WSSS_FAST_BACKEND": "native",
        }
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str | None] = queue.Queue()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                cwd=ROOT,
                text=True,
            )
        self.answers = queue.Queue()
        threading.Thread(target=self._read, args=(self.process, self.answers), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put(None)

    def send(self, do: str, **arguments: Any) -> None:
        if self.process is None:
            self.start()
            if do != "build":
                self.ask("build", BUILD_LIMIT["cuda"])
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()

    def receive(self, limit: float) -> dict[str, Any]:
        try:
            line = self.answers.get(timeout=limit)
        except queue.Empty:
            self.stop()
            raise Failure(f"{self.name}: no answer in {limit:.0f} s") from None
        if line is None:
            assert self.process is not None
            code = self.process.wait()
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            self.stop()
            raise Failure(f"{self.name}: the process ended with {code}: {''.join(last)[:160]}")
        answer = json.loads(line)
        if "problem" in answer:
            raise Failure(f"{self.name}: {answer['problem']}")
        return answer

    def ask(self, do: str, limit: float = REQUEST_LIMIT, **arguments: Any) -> dict[str, Any]:
        self.send(do, **arguments)
        return self.receive(limit)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


def measure(old: Version, new: Version, row: str, work: Path) -> dict[str, Any]:
    """The figures of a row: errors, times and memory of both versions, times of baselines."""
    inputs, results = str(work / "input.pt"), str(work / "results.pt")
    new.ask("make", row=row, path=inputs)
    for version in (old, new):
        version.ask("load", row=row, path=inputs)
    old.ask("save", path=results)
    found: dict[str, Any] = {"row": row, **new.ask("compare", row=row, path=results)}
    turns: dict[str, list[dict[str, float]]] = {OLD: [], NEW: []}
    for _ in range(ROUNDS):
        for version in (old, new):
            turns[version.name].append(version.ask("time", seconds=TURN))
    for name, figures in turns.items():
        found[name] = {key: statistics.median(turn[key] for turn in figures) for key in figures[0]}
    pairs = zip(turns[OLD], turns[NEW], strict=True)
    found["ratio"] = statistics.median(a["ms"] / b["ms"] for a, b in pairs)
    found["baselines"] = new.ask("baselines", row=row, path=inputs, seconds=TURN)
    for version in (old, new):
        version.ask("drop")
    return found


def verdict(figures: dict[str, Any], goal: Goal, images: int | None) -> str:
    """Whether time and memory reach the goal; remarks on the results."""
    said = []
    if figures["wrong"]:
        said.append(f"DIFFERS: {', '.join(figures['wrong'])}")
    value = goal.value(images, figures["baselines"])
    now = in_unit(figures[NEW]["ms"], images)
    if value is not None:
        good = now >= value if images else now <= value
        said.append("reached" if good else "MISSED")
    elif not goal.target and figures["ratio"] < 0.95:
        said.append("SLOWER")
    before, after = (figures[name].get("peak_mib") for name in (OLD, NEW))
    if goal.memory is not None and before is not None and after > goal.memory * before + 1:
        said.append(f"MEMORY above {goal.memory:g} x old")
    errors = ", ".join(f"{name} {value:.1e}" for name, value in figures["errors"].items())
    return f"{', '.join(said) or '-'}; {errors}"


def table_line(figures: dict[str, Any], goal: Goal, images: int | None) -> str:
    """A row of the table."""
    cells = [figures["row"]]
    if "problem" in figures:
        return f"| {cells[0]:<{WIDTHS[0]}} FAILED {figures['problem']}"
    cells += [f"{in_unit(figures[name]['ms'], images):.4g}" for name in (OLD, NEW)]
    cells.append(f"{figures['ratio']:.2f}x")
    value = goal.value(images, figures["baselines"])
    cells.append("-" if value is None else f"{value:.4g} {'img/s' if images else 'ms'}")
    cells.append("-" if goal.predicted is None else f"{goal.predicted:.4g}")
    peaks = [figures[name].get("peak_mib") for name in (OLD, NEW)]
    cells += ["-" if peak is None else f"{peak:.4g}" for peak in peaks]
    return f"{columns(cells)}  {verdict(figures, goal, images)}"


def columns(cells: list[str]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    return f"| {first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in rest)


def build(versions: tuple[Version, Version], device: str) -> dict[str, Any]:
    """Build both at the same time; what the new one says of machine and versions."""
    for version in versions:
        version.send("build")
    found = {version.name: version.receive(BUILD_LIMIT[device]) for version in versions}
    seconds = ", ".join(f"{name} {answer['seconds']:.0f} s" for name, answer in found.items())
    print(f"| {found[NEW]['device']}, torch {found[NEW]['torch']}; built: {seconds}", flush=True)
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, metavar="DIR", help="root of the older version")
    parser.add_argument("--device", choices=tuple(BUILD_LIMIT), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to test this script")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="parts of the names of rows")
    parser.add_argument("--seconds", type=float, default=230.0, help="limit of the whole run")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    end = time.monotonic() + options.seconds
    out = Path(os.environ.get("OUT") or ROOT / "gpu-results")
    out.mkdir(parents=True, exist_ok=True)
    if not (options.old / "wsss_fast").is_dir():
        raise SystemExit(f"{options.old} has no wsss_fast")
    arguments = ["--device", options.device, *["--quick"] * options.quick]
    # Goals are those of an H200 at full size.
    goals = gpu_goals.read() if options.device == "cuda" and not options.quick else {}
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # inputs take up to 300 MB
    with contextlib.ExitStack() as s:
        temporary = tempfile.TemporaryDirectory(prefix="gpu_versions-", dir=memory)
        work = Path(s.enter_context(temporary))
        old = Version(OLD, options.old, arguments, work)
        new = Version(NEW, ROOT, arguments, work)
        for version in (old, new):
            s.callback(version.stop)
        try:
            about = build((old, new), options.device)
            known, before = (version.ask("names")["rows"] for version in (new, old))
        except Failure as failure:
            print(f"| {failure}")
            return 1
        print(columns(list(HEADS)), flush=True)
        rows: list[dict[str, Any]] = []
        for about_row in known:
            name, images = about_row["row"], about_row["images"]
            if options.only and not any(part in name for part in options.only):
                continue
            if all(name != row["row"] for row in before):
                print(f"| {name:<{WIDTHS[0]}} only in this version", flush=True)
                continue
            try:
                if end - time.monotonic() < ROW_SECONDS:
                    raise Failure("no time left")
                row = measure(old, new, name, work)
            except Failure as failure:
                row = {"row": name, "problem": str(failure)}
            rows.append({**about_row, **row})
            print(table_line(row, goals.get(name, Goal()), images), flush=True)
            date = time.strftime("%Y-%m-%d")
            found = {"date": date, "quick": options.quick, "versions": about, "rows": rows}
            (out / "versions.json").write_text(json.dumps(found, indent=1))
    bad = sum("problem" in row or bool(row["wrong"]) for row in rows)
    print(f"| {len(rows)} rows, {bad} failed or different; {out / 'versions.json'}")
    return int(bad > 0 or not rows)


if __name__ == "__main__":
    sys.exit(main())
