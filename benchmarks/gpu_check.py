"""Everything that needs a GPU, in one call: the driver behind `benchmarks/gpu_check.sh`, which says how to use it.

Runs steps one after the other (those of a group at the same time), each as a process with a time limit of its own, and
prints a summary of each as soon as it ends. After every step `summary.txt`, `gpu_check.json` (all figures) and
`gpu_check.tar.gz` (all logs) in the output folder are complete. Uses the standard library only, so that a broken torch cannot
stop it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 470.0  # seconds for everything; the environment variable GPU_CHECK_SECONDS changes it
RESERVE = 5.0  # seconds that packing may take
GRACE = 4.0  # seconds between SIGTERM and SIGKILL
LARGEST_LOG = (
    4 << 20
)  # bytes of a log that go into the archive; the middle of a longer one is left out
TOOL_FOLDERS = (
    "/usr/local/cuda/bin",
    "/usr/local/cuda/compute-sanitizer",
    "/opt/nvidia/nsight-compute/*",
)

Digest = Callable[
    ["Check", "Step", str], tuple[list[str], Any]
]  # (check, step, its log) -> (lines to show, figures)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One process.

    Attributes:
        name: of the step and its log.
        command: words.
        limit: seconds until it is stopped.
        needs: seconds that must be left before the deadline, or it is skipped.
        group: consecutive steps with the same group run at the same time; "" runs alone.
        tool: program that must exist, or it is skipped.
        native: it is pointless without the native kernels of the device, and skipped if the build failed.
        after: steps that must have succeeded.
        environment: more variables.
        refused: a pattern in the log which says that this machine cannot do it; the step then counts as skipped.
        digest: what to show of the log; default: its lines that start with "| ".
    """

    name: str
    command: Sequence[str | Path]
    limit: float
    needs: float = 10.0
    group: str = ""
    tool: str = ""
    native: bool = True
    after: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    refused: str = ""
    digest: Digest | None = None


@dataclasses.dataclass
class Result:
    """How a step ended: ok, failed, timed out or skipped."""

    name: str
    status: str
    code: int | None = None
    seconds: float = 0.0
    lines: list[str] = dataclasses.field(default_factory=list)
    figures: Any = None


def marked_lines(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """What a script marked as essential, and the JSON file that it was asked to write."""
    lines = [line[2:].rstrip() for line in log.splitlines() if line.startswith("| ")]
    path = check.figures / f"{step.name}.json"
    return lines, json.loads(path.read_text()) if path.exists() else None


class Check:
    """Runs steps and keeps the output folder current."""

    def __init__(self, out: Path, work: Path, deadline: float):
        self.out, self.work, self.end = out, work, time.monotonic() + deadline
        self.start = time.monotonic()
        self.logs, self.figures = work / "logs", work / "logs/figures"
        self.figures.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        self.results: list[Result] = []
        self.summary: list[str] = []
        self.environment = dict(os.environ)
        self.running: dict[Step, subprocess.Popen] = {}
        self.pack()

    def left(self) -> float:
        return self.end - RESERVE - time.monotonic()

    def run(self, steps: Sequence[Step]) -> int:
        """All steps; the number of those that failed or timed out."""
        for group in grouped(steps):
            started = [step for step in group if not self._skipped(step)]
            self._run_together(started)
        bad = [r.name for r in self.results if r.status in ("failed", "timed out")]
        skipped = [r.name for r in self.results if r.status == "skipped"]
        self.say(
            f"{len(self.results) - len(bad) - len(skipped)} ok, {len(bad)} failed ({', '.join(bad) or 'none'}), "
            f"{len(skipped)} skipped ({', '.join(skipped) or 'none'}), {time.monotonic() - self.start:.0f} s; "
            f"logs: {self.out / 'gpu_check.tar.gz'}"
        )
        self.pack()
        return len(bad)

    def _skipped(self, step: Step) -> bool:
        ended = {r.name: r.status for r in self.results}
        built = ended.get("build", "ok") == "ok"
        missing = [name for name in step.after if ended.get(name) != "ok"]
        if step.tool and not find_tool(step.tool):
            reason = f"{step.tool} is not installed"
        elif step.native and not built:
            reason = "the build failed"
        elif missing:
            reason = f"{missing[0]} did not succeed"
        elif self.left() < step.needs:
            reason = f"{max(self.left(), 0):.0f} s are left, it needs {step.needs:.0f}"
        else:
            return False
        self._finish(Result(step.name, "skipped", lines=[reason]))
        return True

    def _run_together(self, steps: list[Step]) -> None:
        begun, limits = {}, {}
        for step in steps:
            log = (self.logs / f"{step.name}.log").open("wb")
            words = [str(word) for word in step.command]
            words[0] = find_tool(words[0]) or words[0]
            # A build that failed is not tried again by every process that follows.
            failed = any(r.name == "build" and r.status != "ok" for r in self.results)
            environment = {
                **self.environment,
                **({"WSSS_FAST_BACKEND": "reference"} if failed else {}),
                **step.environment,
            }
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            begun[step], limits[step] = time.monotonic(), min(step.limit, self.left())
            try:
                # In a process group of its own, so that all of its children can be stopped.
                self.running[step] = subprocess.Popen(
                    words,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=ROOT,
                    env=environment,
                    preexec_fn=os.setpgrp,
                )
            except OSError as error:
                self._finish(Result(step.name, "failed", 127, lines=[str(error)]))
            finally:
                log.close()
        while self.running:
            for step, process in list(self.running.items()):
                seconds = time.monotonic() - begun[step]
                if process.poll() is None and seconds < limits[step]:
                    continue
                late = process.poll() is None
                stop(process)
                del self.running[step]
                self._finish(self._result(step, process.returncode, late, seconds))
            time.sleep(0.05)

    def _result(self, step: Step, code: int, late: bool, seconds: float) -> Result:
        log = (self.logs / f"{step.name}.log").read_text(errors="replace")
        try:
            lines, figures = (step.digest or marked_lines)(self, step, log)
        except Exception as error:
            lines, figures = [f"its results cannot be read: {type(error).__name__}: {error}"], None
        status = "timed out" if late else "ok" if code == 0 else "failed"
        if status != "ok" and step.refused and (found := re.search(step.refused, log)):
            return Result(
                step.name,
                "skipped",
                code,
                seconds,
                [f"the tool cannot use this device: {found.group()}"],
            )
        if status == "failed" and (not lines or step.name == "build"):
            lines = [*lines, *last_words(log)]
        return Result(step.name, status, code, seconds, lines, figures)

    def _finish(self, result: Result) -> None:
        self.results.append(result)
        code = "" if result.code in (None, 0) else f" (exit {result.code})"
        first, *rest = [line[:230] for line in result.lines] or [""]
        several = len(result.lines) > 1
        head = f"[{time.monotonic() - self.start:5.0f} s] {result.name}: {result.status}{code}, {result.seconds:.1f} s"
        self.say(head if several or not first else f"{head}: {first}")
        for line in [first, *rest] if several else []:
            self.say(f"    {line}")
        self.pack()

    def say(self, line: str) -> None:
        self.summary.append(line)
        print(line, flush=True)

    def pack(self) -> None:
        """Write all three files of the output folder anew, each under another name first."""
        with replaced(self.out / "summary.txt") as path:
            path.write_text("\n".join([*self.summary, ""]))
        with replaced(self.out / "gpu_check.json") as path:
            path.write_text(
                json.dumps(
                    {r.name: dataclasses.asdict(r) for r in self.results}, indent=1, default=str
                )
            )
        with (
            replaced(self.out / "gpu_check.tar.gz") as path,
            tarfile.open(path, "w:gz", compresslevel=3) as archive,
        ):
            for file in sorted(self.logs.rglob("*")):
                if file.is_file():
                    archive.add(
                        shortened(file, self.work), f"gpu_check/{file.relative_to(self.logs)}"
                    )
            for name in ("summary.txt", "gpu_check.json"):
                archive.add(self.out / name, f"gpu_check/{name}")

    def stop_all(self) -> None:
        for process in self.running.values():
            stop(process)


def last_words(log: str) -> list[str]:
    """Lines that name an error, first those that compilers wrote, and the last lines of a log."""
    lines = [line for line in log.splitlines()[1:] if line.strip()]
    last = lines[-6:]
    errors = dict.fromkeys(
        line
        for line in lines
        if re.search(r"\b(error|fatal|undefined reference)\b", line, re.IGNORECASE)
    )
    return [*[line for line in errors if line not in last][:14], *last]


def grouped(steps: Sequence[Step]) -> list[list[Step]]:
    groups: list[list[Step]] = []
    for step in steps:
        if groups and step.group and groups[-1][0].group == step.group:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def find_tool(name: str) -> str | None:
    """On PATH, or where the CUDA toolkit and Nsight Compute are installed."""
    folders = [os.environ.get("PATH", "")]
    for pattern in TOOL_FOLDERS:
        folders += map(str, sorted(Path("/").glob(pattern.lstrip("/"))))
    return shutil.which(name, path=os.pathsep.join(folders))


def stop(process: subprocess.Popen) -> None:
    """SIGTERM, then SIGKILL, to a process and what it started; returns when it has ended."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    process.wait()


@contextlib.contextmanager
def replaced(path: Path):
    temporary = path.with_name(f".{path.name}.new")
    yield temporary
    os.replace(temporary, path)


def shortened(file: Path, work: Path) -> Path:
    """The file, or a copy without its middle if it is long."""
    size = file.stat().st_size
    if size <= LARGEST_LOG:
        return file
    copy = work / "shortened"
    with file.open("rb") as source:
        head = source.read(LARGEST_LOG // 4)
        source.seek(size - LARGEST_LOG * 3 // 4)
        copy.write_bytes(head + b"\n... left out ...\n" + source.read())
    return copy


def test_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """Counts of a pytest run and names of what failed; from its log, if it did not live to write its report."""
    report = check.logs / f"{step.name}.xml"
    if not report.exists():
        failed = sorted(set(re.findall(r"(?:FAILED|ERROR) (tests/\S+)", log)))
        passed = len(re.findall(r" PASSED ", log))
        return [f"no report; {passed} passed, {len(failed)} failed so far", *failed[:30]], {
            "passed": passed,
            "failed": failed,
        }
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
    lines += [
        f"FAILED {name.removeprefix('tests.')}: {message[:100]}"
        for name, message in list(failed.items())[:30]
    ]
    return lines, figures


def pipeline_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """Seconds and images per second of every stage of a run folder, the mIoU of what it scored, and what else took long."""
    run = check.work / "runs" / step.name
    kept = check.logs / "runs" / step.name
    for file in [*run.rglob("done.json"), *run.glob("*.json")]:
        target = kept / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    stages, scores = stage_figures(run), score_figures(run)
    # The package reports every loop that took more than a moment: "curve cam: 64/64 in 2.7 s (23.7 img/s)".
    bars = {
        n: float(s)
        for n, s in re.findall(r"^(\S[^:\n]*): \d+/\d+ in ([\d.]+) s", log, re.MULTILINE)
        if n not in stages
    }
    lines = [
        f"{name:<16}{row['seconds']:>8.2f} s {row['images_per_s'] or float('nan'):>9.1f} images/s"
        for name, row in stages.items()
    ]
    if scores:
        lines.append(
            "mIoU: "
            + ", ".join(f"{n} {100 * r['miou']:.1f}" for n, r in scores.items() if "miou" in r)
        )
    if bars:
        lines.append(
            "other loops: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in bars.items())
        )
    errors = [
        line for line in log.splitlines() if re.match(r"\s*(error|failed|Traceback|\w*Error)", line)
    ]
    whole = sum(row["seconds"] for row in stages.values())
    figures = {"stages": stages, "scores": scores, "other_loops": bars}
    return [f"{len(stages)} stages, together {whole:.1f} s", *lines, *errors[-3:]], figures


def stage_figures(run: Path) -> dict[str, dict[str, Any]]:
    """From done.json of every finished stage, in the order in which they finished."""
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
        }
    return stages


def score_figures(run: Path) -> dict[str, dict[str, Any]]:
    """The numbers of metrics.json, without those of single classes."""
    path = run / "metrics.json"
    records = json.loads(path.read_text())["stages"] if path.exists() else []
    return {
        r["stage"]: {k: v for k, v in r.items() if isinstance(v, (int, float))} for r in records
    }


def nccl_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    path = check.work / "runs" / step.name / "nccl.json"
    return marked_lines(check, step, log)[0], json.loads(
        path.read_text()
    ) if path.exists() else None


def sanitizer_results(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """The tool's own summary, its first reports, and what the script under it said."""
    reports = [
        line.strip("= ")
        for line in log.splitlines()
        if re.search(r"^=+ +(Invalid|Error:|Warning:|Race|Program hit|\S+ Race)", line)
    ]
    total = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", log)
    return [
        *(total[-1:] or ["the tool wrote no summary"]),
        *reports[:6],
        *marked_lines(check, step, log)[0][-3:],
    ], {
        "summary": total[-1:],
        "reports": len(reports),
    }


def kernel_figures(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """ncu's details page as CSV: time, throughput, occupancy and registers of each kernel, its launches put together."""
    lines = log.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return [line for line in lines if "==ERROR==" in line][:3] or [
            "no kernels were profiled"
        ], None
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
    whole = sum(row["us"] for row in table) or 1.0
    shown = [
        f"{row['us']:>9.1f} us {100 * row['us'] / whole:>5.1f}% {row['launches']:>4} x  DRAM {row['dram']:>4.0f}%  "
        f"memory {row['memory']:>4.0f}%  SM {row['sm']:>4.0f}%  occupancy {row['occupancy']:>4.0f}%  "
        f"{row['registers']:>4.0f} registers  {short(row['name'])}"
        for row in table
    ]
    return [f"{len(launches)} launches, {whole:.0f} us", *shown[:9]], table


def kernel_row(name: str, launches: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum of the times in microseconds, and means weighted by time; NaN where ncu has no such metric."""
    times = [launch.get("Duration", 0.0) / 1e3 for launch in launches]
    whole = sum(times) or 1.0

    def mean(metric: str) -> float:
        return (
            sum(
                t * launch.get(metric, float("nan"))
                for t, launch in zip(times, launches, strict=True)
            )
            / whole
        )

    return {
        "name": name,
        "launches": len(launches),
        "us": sum(times),
        "dram": mean("DRAM Throughput"),
        "memory": mean("Memory Throughput"),
        "sm": mean("Compute (SM) Throughput"),
        "occupancy": mean("Achieved Occupancy"),
        "registers": max(launch.get("Registers Per Thread", float("nan")) for launch in launches),
    }


def short(name: str) -> str:
    """A kernel's name without return type, namespaces, template arguments and parameters."""
    name = (
        name.removeprefix("void ")
        .replace("(anonymous namespace)", "anonymous")
        .replace("<unnamed>", "anonymous")
    )
    return name.split("<")[0].split("(")[0].split("::")[-1][:48]


# Options of `amn run` that end every training early; all else is as published. Rates of learning are low, or random initial
# weights, whose batch-norm is frozen, would diverge.
SHORT_VOC = {
    "cam.epochs": 3,
    "cam.lr": 1e-6,
    "amn.epochs": 3,
    "amn.lr": 1e-6,
    "refine.irn.epochs": 4,
    "refine.irn.lr": 1e-6,
    "seg.updates": 12,
    "seg.lr": 1e-6,
}
TINY = {
    "cam.epochs": 1,
    "cam.batch-size": 4,
    "cam.augment.crop": 64,
    "cam.augment.long-side": "64 80",
    "cam.scales": 1.0,
    "amn.epochs": 1,
    "amn.batch-size": 4,
    "amn.augment.crop": 64,
    "amn.scales": 1.0,
    "refine.irn.epochs": 1,
    "refine.irn.batch-size": 4,
    "refine.irn.radius": 5,
    "refine.irn.augment.crop": 64,
    "refine.irn.pad": 1,
    "refine.irn.steps": 8,
    "seg.updates": 1,
    "seg.batch-size": 4,
    "seg.augment.crop": 65,
    "seg.scales": 0.5,
}


def words(*parts: Any) -> list[str]:
    """Words of a command: strings are split at blanks, paths and lists are not; a dict holds numbers of a pipeline."""
    found: list[str] = []
    for part in parts:
        if isinstance(part, dict):
            found += (
                word
                for key, value in part.items()
                for word in (f"--pipeline.{key}", *str(value).split())
            )
        else:
            found += (
                part.split()
                if isinstance(part, str)
                else map(str, part if isinstance(part, list) else [part])
            )
    return found


def plan(check: Check, device: str, python: str, workers: int) -> list[Step]:
    """All steps, by worth. On a CPU the same at tiny sizes, to test this script."""
    gpu, interpreter = device == "cuda", Path(python)
    voc, shapes, runs = (check.work / name for name in ("voc", "shapes", "runs"))
    where = f"--device {device} --workers {workers}"

    def script(name: str, *parts: Any) -> list[str]:
        return words(interpreter, ROOT / "benchmarks" / f"{name}.py", *parts)

    def torch_step(name: str, limit: float, step: str, **options: Any) -> Step:
        quick = "" if gpu else "--quick"
        command = script(
            "gpu_steps", f"{step} --device {device} {quick} --json", check.figures / f"{name}.json"
        )
        return Step(name, command, limit, **options)

    def pipeline(name: str, limit: float, *parts: Any, **options: Any) -> Step:
        command = words(interpreter, "-m wsss_fast", *parts, where, "--out", runs / name)
        return Step(
            name, command, limit, needs=40, native=False, digest=pipeline_results, **options
        )

    def tests() -> Step:
        selected = words("tests/test_random_walk.py -q -k alone")
        if gpu:
            selected = ["tests", "-v", "-k", "cuda and not cuda_on_cpu and not gpu_check"]
            selected += words("-n 8") * has(python, "xdist") + words("--timeout 60") * has(
                python, "pytest_timeout"
            )
        command = words(
            interpreter,
            "-m pytest -p no:cacheprovider --tb=short --junitxml",
            check.logs / "tests.xml",
        )
        environment = {"OMP_NUM_THREADS": "2"} if gpu else {}
        return Step(
            "tests",
            [*command, *selected],
            110,
            needs=20,
            group="tests",
            digest=test_results,
            environment=environment,
        )

    def sanitizer(tool: str, **environment: str) -> Step:
        command = words(
            f"compute-sanitizer --tool {tool} --error-exitcode 9",
            interpreter,
            ROOT / "benchmarks/gpu_ops.py",
        )
        return Step(
            tool,
            command,
            100,
            needs=25,
            group="sanitizers",
            tool="compute-sanitizer",
            digest=sanitizer_results,
            environment=environment,
            refused="Device not supported",
        )

    def counters(call: str) -> Step:
        ncu = words(
            "ncu --profile-from-start off --target-processes all --clock-control none --launch-count 120",
            "--section SpeedOfLight --section Occupancy --section LaunchStats --apply-rules no",
            "--csv --page details --print-units base",
        )
        return Step(
            f"ncu_{call}",
            [*ncu, *script("gpu_steps", "once", call)],
            50,
            needs=20,
            tool="ncu",
            digest=kernel_figures,
            refused="LibraryNotLoaded|ERR_NVGPUCTRPERM",
        )

    made = [
        interpreter,
        "-c",
        "from wsss_fast import data; data.load('shapes:0')"
        if gpu
        else f"from wsss_fast import data; data.make_shapes({str(shapes)!r}, seed=3, train=24, val=8, size=64)",
    ]
    # The small classifier's images are not resized, so it has no such option.
    tiny_shapes = words(
        "amn run --preset shapes --until masks --data",
        shapes,
        {key: value for key, value in TINY.items() if "long-side" not in key},
    )
    on_voc = words("amn run --preset voc --val-split val --data", voc, SHORT_VOC if gpu else TINY)
    steps = [
        torch_step("machine", 40, "machine", native=False),
        Step(
            "data_voc",
            script(
                "synthetic_voc",
                voc,
                "--train 64 --val 16" if gpu else "--train 8 --val 4 --size 60 80",
            ),
            90,
            group="build",
            native=False,
        ),
        Step("data_shapes", made, 90, group="build", native=False),
        torch_step("build", 180, "build", group="build"),
        Step("ops", script("gpu_ops", f"--device {device}"), 60, group="tests"),
        tests(),
        Step(
            "crf",
            script(
                "gpu_crf",
                f"--device {device} {'' if gpu else '--quick'} --json",
                check.figures / "crf.json",
            ),
            60,
        ),
        torch_step("heads", 60, "rates heads"),
        torch_step("losses", 60, "rates losses"),
        pipeline("demo", 130, ["demo"] if gpu else tiny_shapes, after=("data_shapes",)),
        pipeline("voc", 140, on_voc, after=("data_voc",)),
        Step(
            "nccl",
            script("gpu_nccl", runs / "nccl"),
            100,
            needs=25,
            group="sanitizers",
            native=False,
            digest=nccl_results,
        ),
    ]
    if not gpu:
        return [*steps, torch_step("profile", 50, "profile crf-21 pixel-loss")]
    return [
        *steps,
        # Without torch's pool every tensor is an allocation of its own, whose bounds memcheck knows.
        sanitizer("memcheck", PYTORCH_NO_CUDA_MEMORY_CACHING="1"),
        sanitizer("racecheck"),
        torch_step("profile", 50, "profile"),
        *(counters(call) for call in ("crf-21", "crf-pair", "pixel-loss")),
        pipeline("voc_bf16", 100, on_voc, "--precision bf16 --until masks", after=("voc",)),
    ]


def has(python: str, module: str) -> bool:
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", find], check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: a trial at tiny sizes, without NVIDIA tools",
    )
    parser.add_argument(
        "--only", nargs="+", help="names of steps; their prerequisites are not added"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the steps and their commands, and run nothing"
    )
    parser.add_argument(
        "--keep", type=Path, help="use this folder for builds, data and runs, and do not remove it"
    )
    options = parser.parse_args()
    out = Path(os.environ.get("OUT") or ROOT / "gpu-results")
    deadline = float(os.environ.get("GPU_CHECK_SECONDS") or DEADLINE)
    with contextlib.ExitStack() as stack:
        work = options.keep or Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="gpu_check-", ignore_cleanup_errors=True)
            )
        )
        check = Check((work / "out" if options.list else out).resolve(), work.resolve(), deadline)
        python = os.environ.get("PYTHON") or sys.executable
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        check.environment |= {
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "WSSS_FAST_BACKEND": "native",
        }
        for name, folder in (("WSSS_FAST_CACHE", "cache"), ("WSSS_FAST_DATA", "data")):
            if (
                options.device == "cuda" or name not in os.environ
            ):  # a cold build belongs to the check
                check.environment[name] = str(work.resolve() / folder)
        workers = max(0, min(8, (os.cpu_count() or 1) // 2)) if options.device == "cuda" else 0
        steps = [
            s
            for s in plan(check, options.device, python, workers)
            if not options.only or s.name in options.only
        ]
        if options.only:
            steps = [
                dataclasses.replace(s, after=tuple(set(s.after) & set(options.only))) for s in steps
            ]
        if options.list:
            for step in steps:
                print(
                    f"{step.name:<14} at most {step.limit:.0f} s: {shlex.join(map(str, step.command))}"
                )
            return 0
        stack.callback(check.stop_all)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the steps on the way out
        return int(check.run(steps) > 0)


if __name__ == "__main__":
    sys.exit(main())
