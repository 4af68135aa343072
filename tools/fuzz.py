"""Fuzz readers with damaged files, operators with random values, commands with wrong words.

    python tools/fuzz.py [--cases 200000] [--seed 0] [--only NAME ...] [--out bench-fuzz]

Each case must end within seconds, with a result or with the error that is meant for users:
InputError of a reader, ValueError of an operator, one line of a command. An operator's case runs
with the native kernels and with the reference: both must answer, with values and gradients that
agree, or both refuse; all else counts as a silent disagreement, and as a problem. Cases run in
child processes, so that a crash or a hang is counted and reported, and the fuzzing continues.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.fuzz_commands import COMMAND_LINES  # noqa: E402
from tools.fuzz_operators import OPERATORS, difference  # noqa: E402
from tools.fuzz_readers import READERS  # noqa: E402
from wsss_fast import _native  # noqa: E402
from wsss_fast.engine.files import write_json  # noqa: E402
from wsss_fast.errors import InputError, RunError  # noqa: E402

CHUNK = 500  # cases of one child process
CHUNK_SECONDS = 120.0  # after which a child process counts as hanging
FILES = {**READERS, **COMMAND_LINES}
# Shares of the cases; a command line takes as long as a hundred files.
SHARES = ((0.66, READERS), (0.3, OPERATORS), (0.04, COMMAND_LINES))
BACKENDS = ("native", "reference")


def fuzz(
    out: Path = Path("bench-fuzz"),
    *,
    cases: int = 200_000,
    seed: int = 0,
    only: tuple[str, ...] = (),
) -> None:
    """Run the cases, print one line per target, write `<out>/fuzz.json`; exit code 1 for a problem.

    Args:
        out: folder of the result; problems are written there.
        cases: number of all cases, divided by SHARES.
        seed: seed of the cases.
        only: names of targets; none: all.
    """
    groups = [
        (share, [name for name in group if not only or name in only]) for share, group in SHARES
    ]
    whole = sum(share for share, names in groups if names)
    rows: dict[str, dict[str, Any]] = {}
    # Here no library may be loaded, since each child chooses its backend; but it must be built.
    builder = multiprocessing.get_context("fork").Process(target=_native.load)
    builder.start()
    builder.join()
    for share, names in groups:
        for name in names:
            own = share / whole * cases / len(names)
            rows[name] = run_target(name, max(1, round(own)), seed, out)
            print(f"{name}: {rows[name]}", flush=True)
    problems = sum(len(row["problems"]) for row in rows.values())
    silent = sum(row.get("silent_disagreements", 0) for row in rows.values())
    total = sum(row["cases"] for row in rows.values())
    write_json(
        out / "fuzz.json",
        {"date": time.strftime("%Y-%m-%d"), "seed": seed, "cases": total, "targets": rows},
    )
    print(f"{total} cases, {problems} problems, {silent} of them silent disagreements")
    if problems:
        sys.exit(1)


def run_target(name: str, cases: int, seed: int, out: Path) -> dict[str, Any]:
    """Run the cases of one target in child processes: numbers of their outcomes, and problems."""
    row: dict[str, Any] = {"cases": 0, "accepted": 0, "rejected": 0, "problems": []}
    start, first = time.monotonic(), 0
    while first < cases:
        last = min(first + (CHUNK // 50 if name in COMMAND_LINES else CHUNK), cases)
        run = _in_both_backends if name in OPERATORS else _in_child
        ended, counts = run(name, first, last, seed)
        for key in set(counts) - {"case", "results"}:
            row[key] = (
                row.get(key, 0) + counts[key] if key != "problems" else row[key] + counts[key]
            )
        if ended != "done":
            row["problems"].append({"case": counts["case"], "what": ended})
            last = counts["case"] + 1
        row["cases"] += last - first
        first = last
    row["seconds"] = round(time.monotonic() - start, 1)
    if row["problems"]:
        write_json(out / f"{name}.json", row["problems"])
    return row


def _in_both_backends(name: str, first: int, last: int, seed: int) -> tuple[str, dict[str, Any]]:
    """`_in_child` with each backend; what one refuses and the other does not is a problem."""
    counts: dict[str, Any] = {"accepted": 0, "rejected": 0, "problems": [], "case": last - 1}
    results = []
    ended = "done"
    for backend in BACKENDS:
        ended_here, found = _in_child(name, first, last, seed, backend)
        counts["problems"] += found["problems"]
        if ended_here != "done" and (ended == "done" or found["case"] < counts["case"]):
            ended, counts["case"] = f"{backend}: {ended_here}", found["case"]
        results.append(found["results"])
    silent = 0
    for case in sorted(results[0].keys() & results[1].keys()):
        answers = [result[case] for result in results]
        refused = [isinstance(answer, str) for answer in answers]
        what = ""
        if not any(refused):
            counts["accepted"] += 1
            what = difference(name, *answers)
        elif all(refused):
            counts["rejected"] += 1
        else:
            who, by = (BACKENDS[refused.index(flag)] for flag in (True, False))
            what = f"{by} answers, but {who} says: {answers[refused.index(True)]}"
        silent += bool(what)
        counts["problems"] += [{"case": case, "what": what}] if what else []
    counts["silent_disagreements"] = silent
    return ended, counts


def _in_child(
    name: str, first: int, last: int, seed: int, backend: str = ""
) -> tuple[str, dict[str, Any]]:
    """How the child process ended, its counts so far, the case it was at, an operator's results."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        process = multiprocessing.get_context("fork").Process(
            target=_run_cases, args=(name, first, last, seed, work, backend)
        )
        process.start()
        process.join(CHUNK_SECONDS)
        if process.exitcode is None:
            ended = "hang"
            process.kill()
            process.join()
        else:
            ended = "done" if process.exitcode == 0 else f"exit code {process.exitcode}"
        counts: dict[str, Any] = {"accepted": 0, "rejected": 0, "problems": []}
        if (work / "counts.json").exists():
            counts = json.loads((work / "counts.json").read_text())
        current = work / "case"
        counts["case"] = int(current.read_text()) if current.exists() else first
        saved = work / "results.pt"
        counts["results"] = torch.load(saved, weights_only=True) if saved.exists() else {}
        return ended, counts


def _run_cases(name: str, first: int, last: int, seed: int, work: Path, backend: str) -> None:
    """In the child: run cases [first, last), writing the number of each before it starts."""
    faulthandler.enable()
    if backend:
        os.environ["WSSS_FAST_BACKEND"] = backend  # read by the first call of an operator
    torch.set_num_threads(1)
    counts: dict[str, Any] = {"accepted": 0, "rejected": 0, "problems": []}
    inside = work / "inside"
    inside.mkdir()
    results: dict[int, Any] = {}
    for case in range(first, last):
        (work / "case").write_text(str(case))
        rng = random.Random(f"{seed}/{name}/{case}")
        if backend:
            outcome, what = "", _run_operator(name, case, rng, results)
        else:
            outcome, what = _run_case(name, rng, inside)
        if outcome:
            counts[outcome] += 1
        if what:
            counts["problems"].append({"case": case, "what": what})
        expected = ("case", "inside", "counts.json", "results.pt")
        strangers = [p.name for p in work.iterdir() if p.name not in expected]
        if strangers:
            what = f"wrote {strangers} outside of its folder"
            counts["problems"].append({"case": case, "what": what})
        if case % 50 == 49 or case == last - 1:
            (work / "counts.json").write_text(json.dumps(counts))
            if backend:
                torch.save(results, work / "results.pt")


def _run_operator(name: str, case: int, rng: random.Random, results: dict[int, Any]) -> str:
    """Keep an operator's values, or the message of its ValueError; returns what is wrong else."""
    try:
        results[case] = [tensor.detach().contiguous() for tensor in OPERATORS[name](rng)]
    except ValueError as error:
        results[case] = str(error)[:300]
        if "\n" in str(error):
            return f"more than one line: {error}"[:300]
    except BaseException:
        return traceback.format_exc(limit=-3)[-600:]
    return ""


def _run_case(name: str, rng: random.Random, folder: Path) -> tuple[str, str]:
    """The outcome of a case, "accepted" or "rejected" or "", and what is wrong with it, or ""."""
    try:
        FILES[name](rng, folder)
        return "accepted", ""
    except (InputError, RunError) as error:
        if "\n" in str(error):
            return "rejected", f"more than one line: {error}"[:300]
        return "rejected", ""
    except BaseException:
        return "", traceback.format_exc(limit=-3)[-600:]


if __name__ == "__main__":
    tyro.cli(fuzz, description=__doc__)
