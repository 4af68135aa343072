"""Runs the steps of `gpu_check.py` as processes with time limits, and writes their results.

Uses the standard library only, so that a broken torch cannot stop it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESERVE = 5.0  # seconds kept for packing the archive
GRACE = 4.0  # seconds between SIGTERM and SIGKILL
LARGEST_LOG = 4 << 20  # bytes of a log in the archive; a longer one loses its middle
WIDEST_LINE = 230  # characters of a line in the summary
TOOL_FOLDERS = (
    "/usr/local/cuda/bin",
    "/usr/local/cuda/compute-sanitizer",
    "/opt/nvidia/nsight-compute/*",
)

# (check, step, text of its log) -> (lines for the summary, figures)
ReadLog = Callable[["Check", "Step", str], tuple[list[str], Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One process.

    Attributes:
        name: name of the step and of its log.
        command: program and arguments.
        limit: seconds until it is stopped.
        needs: seconds that must be left before the deadline; with fewer it is skipped.
        group: consecutive steps of the same group run at the same time; "" runs alone.
        tool: program that must be installed; without it the step is skipped.
        native: whether it needs the native kernels of the device; skipped if the build failed.
        after: steps that must have succeeded.
        environment: additional environment variables.
        unsupported: pattern that a failed step's log contains if this machine cannot run it; the
            step then counts as skipped.
        read_log: extracts the results; default: the lines of the log that start with "| ".
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
    unsupported: str = ""
    read_log: ReadLog | None = None


@dataclasses.dataclass
class Result:
    """The outcome of a step.

    Attributes:
        name: name of the step.
        status: "ok", "failed", "timed out" or "skipped".
        code: exit code, if the step ran.
        seconds: its duration.
        lines: lines for the summary.
        figures: results as JSON data.
    """

    name: str
    status: str
    code: int | None = None
    seconds: float = 0.0
    lines: list[str] = dataclasses.field(default_factory=list)
    figures: Any = None


class Check:
    """Runs steps and keeps the files of the output folder complete after each of them.

    Args:
        out: output folder.
        work: folder for logs, builds, data and runs.
        deadline: seconds for all steps and the packing.
    """

    def __init__(self, out: Path, work: Path, deadline: float):
        self.out, self.work, self.end = out, work, time.monotonic() + deadline
        self.start = time.monotonic()
        self.logs, self.figures = work / "logs", work / "logs/figures"
        self.figures.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        self.results: list[Result] = []
        self.summary: list[str] = []
        self.environment = dict(os.environ)
        self.running: dict[Step, subprocess.Popen[bytes]] = {}
        self.pack()

    def seconds_left(self) -> float:
        return self.end - RESERVE - time.monotonic()

    def run(self, steps: Sequence[Step]) -> int:
        """Run all steps; returns the number of those that failed or timed out."""
        for group in grouped(steps):
            self._run_together([step for step in group if not self._skipped(step)])
        bad = [r.name for r in self.results if r.status in ("failed", "timed out")]
        skipped = [r.name for r in self.results if r.status == "skipped"]
        self.report(
            f"{len(self.results) - len(bad) - len(skipped)} ok, "
            f"{len(bad)} failed ({', '.join(bad) or 'none'}), "
            f"{len(skipped)} skipped ({', '.join(skipped) or 'none'}), "
            f"{time.monotonic() - self.start:.0f} s; logs: {self.out / 'gpu_check.tar.gz'}"
        )
        self.pack()
        return len(bad)

    def _skipped(self, step: Step) -> bool:
        statuses = {r.name: r.status for r in self.results}
        missing = [name for name in step.after if statuses.get(name) != "ok"]
        if step.tool and not find_tool(step.tool):
            reason = f"{step.tool} is not installed"
        elif step.native and self._build_failed():
            reason = "the build failed"
        elif missing:
            reason = f"{missing[0]} did not succeed"
        elif self.seconds_left() < step.needs:
            left = max(self.seconds_left(), 0)
            reason = f"{left:.0f} s are left, it needs {step.needs:.0f}"
        else:
            return False
        self._finish(Result(step.name, "skipped", lines=[reason]))
        return True

    def _build_failed(self) -> bool:
        return any(r.name == "build" and r.status != "ok" for r in self.results)

    def _run_together(self, steps: list[Step]) -> None:
        started, limits = {}, {}
        for step in steps:
            started[step] = time.monotonic()
            limits[step] = min(step.limit, self.seconds_left())
            try:
                self.running[step] = self._start(step)
            except OSError as error:
                self._finish(Result(step.name, "failed", 127, lines=[str(error)]))
        while self.running:
            for step, process in list(self.running.items()):
                seconds = time.monotonic() - started[step]
                if process.poll() is None and seconds < limits[step]:
                    continue
                late = process.poll() is None
                stop(process)
                del self.running[step]
                self._finish(self._result(step, process.returncode, late, seconds))
            time.sleep(0.05)

    def _start(self, step: Step) -> subprocess.Popen[bytes]:
        words = [str(word) for word in step.command]
        words[0] = find_tool(words[0]) or words[0]
        # Otherwise every later process would try the failed build again.
        backend = {"WSSS_FAST_BACKEND": "reference"} if self._build_failed() else {}
        with (self.logs / f"{step.name}.log").open("wb") as log:
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            return subprocess.Popen(
                words,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**self.environment, **backend, **step.environment},
                preexec_fn=os.setpgrp,  # its own process group, so that its children stop with it
            )

    def _result(self, step: Step, code: int, late: bool, seconds: float) -> Result:
        log = (self.logs / f"{step.name}.log").read_text(errors="replace")
        try:
            lines, figures = (step.read_log or marked_lines)(self, step, log)
        except Exception as error:
            reason = f"its results cannot be read: {type(error).__name__}: {error}"
            lines, figures = [reason], None
        status = "timed out" if late else "ok" if code == 0 else "failed"
        if status != "ok" and step.unsupported and (found := re.search(step.unsupported, log)):
            reason = f"the tool cannot use this device: {found.group()}"
            return Result(step.name, "skipped", code, seconds, [reason])
        if status == "failed" and (not lines or step.name == "build"):
            lines = [*lines, *error_lines(log)]
        return Result(step.name, status, code, seconds, lines, figures)

    def _finish(self, result: Result) -> None:
        self.results.append(result)
        code = "" if result.code in (None, 0) else f" (exit {result.code})"
        first, *rest = [line[:WIDEST_LINE] for line in result.lines] or [""]
        elapsed = time.monotonic() - self.start
        head = f"[{elapsed:5.0f} s] {result.name}: {result.status}{code}, {result.seconds:.1f} s"
        several = len(result.lines) > 1
        self.report(head if several or not first else f"{head}: {first}")
        for line in [first, *rest] if several else []:
            self.report(f"    {line}")
        self.pack()

    def report(self, line: str) -> None:
        """Print a line and add it to the summary."""
        self.summary.append(line)
        print(line, flush=True)

    def pack(self) -> None:
        """Write all three files of the output folder, each under a temporary name first."""
        results = {r.name: dataclasses.asdict(r) for r in self.results}
        with replaced(self.out / "summary.txt") as path:
            path.write_text("\n".join([*self.summary, ""]))
        with replaced(self.out / "gpu_check.json") as path:
            path.write_text(json.dumps(results, indent=1, default=str))
        with (
            replaced(self.out / "gpu_check.tar.gz") as path,
            tarfile.open(path, "w:gz", compresslevel=3) as archive,
        ):
            for file in sorted(self.logs.rglob("*")):
                if file.is_file():
                    name = f"gpu_check/{file.relative_to(self.logs)}"
                    archive.add(shortened(file, self.work), name)
            for name in ("summary.txt", "gpu_check.json"):
                archive.add(self.out / name, f"gpu_check/{name}")

    def stop_all(self) -> None:
        for process in self.running.values():
            stop(process)


def marked_lines(check: Check, step: Step, log: str) -> tuple[list[str], Any]:
    """The lines that a script marked as essential, and the contents of its JSON file, if any."""
    lines = [line[2:].rstrip() for line in log.splitlines() if line.startswith("| ")]
    path = check.figures / f"{step.name}.json"
    return lines, json.loads(path.read_text()) if path.exists() else None


def error_lines(log: str) -> list[str]:
    """Lines that name an error, compilers' messages first, and the last lines of a log."""
    lines = [line for line in log.splitlines()[1:] if line.strip()]
    last = lines[-6:]
    pattern = re.compile(r"\b(error|fatal|undefined reference)\b", re.IGNORECASE)
    errors = dict.fromkeys(line for line in lines if pattern.search(line))
    return [*[line for line in errors if line not in last][:14], *last]


def grouped(steps: Sequence[Step]) -> list[list[Step]]:
    """Consecutive steps of the same group together, every other step alone."""
    groups: list[list[Step]] = []
    for step in steps:
        if groups and step.group and groups[-1][0].group == step.group:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def find_tool(name: str) -> str | None:
    """Path of a program on PATH, or where the CUDA toolkit and Nsight Compute are installed."""
    folders = [os.environ.get("PATH", "")]
    for pattern in TOOL_FOLDERS:
        folders += map(str, sorted(Path("/").glob(pattern.lstrip("/"))))
    return shutil.which(name, path=os.pathsep.join(folders))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, then SIGKILL, to a process and its children, and wait until it has ended."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    process.wait()


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path, whose file replaces `path` at the end."""
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
