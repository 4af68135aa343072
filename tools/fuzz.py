"""Fuzz the file readers with damaged files, and the operators with random shapes and values.

    python tools/fuzz.py [--cases 100000] [--seed 0] [--only NAME ...] [--out bench-fuzz]

Each case must end within seconds, with a result or with the error that is meant for users:
InputError of a reader, ValueError of an operator. Cases run in child processes, so that a crash or
a hang is counted and reported, and the fuzzing continues after it.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
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
from tools.fuzz_operators import OPERATORS  # noqa: E402
from tools.fuzz_readers import READERS  # noqa: E402
from wsss_fast import InputError  # noqa: E402
from wsss_fast.engine.files import write_json  # noqa: E402

CHUNK = 500  # cases of one child process
CHUNK_SECONDS = 120.0  # after which a child process counts as hanging


def fuzz(
    out: Path = Path("bench-fuzz"),
    *,
    cases: int = 100_000,
    seed: int = 0,
    only: tuple[str, ...] = (),
) -> None:
    """Run the cases, print one line per target, write `<out>/fuzz.json`; exit code 1 for a problem.

    Args:
        out: folder of the result; problems are written there.
        cases: number of all cases, of which readers get nine tenths and operators the rest.
        seed: seed of the cases.
        only: names of targets; none: all.
    """
    targets = [name for name in (*READERS, *OPERATORS) if not only or name in only]
    readers = [name for name in targets if name in READERS]
    rows: dict[str, dict[str, Any]] = {}
    for name in targets:
        among = len(readers) if name in READERS else len(targets) - len(readers)
        share = (0.9 if name in READERS else 0.1 if readers else 1.0) * cases / among
        rows[name] = run_target(name, max(1, round(share)), seed, out)
        print(f"{name}: {rows[name]}", flush=True)
    problems = sum(len(row["problems"]) for row in rows.values())
    total = sum(row["cases"] for row in rows.values())
    write_json(
        out / "fuzz.json",
        {"date": time.strftime("%Y-%m-%d"), "seed": seed, "cases": total, "targets": rows},
    )
    print(f"{total} cases, {problems} problems")
    if problems:
        sys.exit(1)


def run_target(name: str, cases: int, seed: int, out: Path) -> dict[str, Any]:
    """Run the cases of one target in child processes: numbers of their outcomes, and problems."""
    row: dict[str, Any] = {"cases": 0, "accepted": 0, "rejected": 0, "problems": []}
    start, first = time.monotonic(), 0
    while first < cases:
        last = min(first + CHUNK, cases)
        ended, counts = _in_child(name, first, last, seed)
        for key in ("accepted", "rejected", "problems"):
            row[key] += counts[key]
        if ended != "done":
            row["problems"].append({"case": counts["case"], "what": ended})
            last = counts["case"] + 1
        row["cases"] += last - first
        first = last
    row["seconds"] = round(time.monotonic() - start, 1)
    if row["problems"]:
        write_json(out / f"{name}.json", row["problems"])
    return row


def _in_child(name: str, first: int, last: int, seed: int) -> tuple[str, dict[str, Any]]:
    """How the child process ended, and its counts so far with the case it was at."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        process = multiprocessing.get_context("fork").Process(
            target=_run_cases, args=(name, first, last, seed, work)
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
        return ended, counts


def _run_cases(name: str, first: int, last: int, seed: int, work: Path) -> None:
    """In the child: run cases [first, last), writing the number of each before it starts."""
    faulthandler.enable()
    torch.set_num_threads(1)
    counts: dict[str, Any] = {"accepted": 0, "rejected": 0, "problems": []}
    inside = work / "inside"
    inside.mkdir()
    for case in range(first, last):
        (work / "case").write_text(str(case))
        outcome, what = _run_case(name, random.Random(f"{seed}/{name}/{case}"), inside)
        if outcome:
            counts[outcome] += 1
        if what:
            counts["problems"].append({"case": case, "what": what})
        expected = ("case", "inside", "counts.json")
        strangers = [p.name for p in work.iterdir() if p.name not in expected]
        if strangers:
            what = f"wrote {strangers} outside of its folder"
            counts["problems"].append({"case": case, "what": what})
        if case % 50 == 49 or case == last - 1:
            (work / "counts.json").write_text(json.dumps(counts))


def _run_case(name: str, rng: random.Random, folder: Path) -> tuple[str, str]:
    """The outcome of a case, "accepted" or "rejected" or "", and what is wrong with it, or ""."""
    try:
        READERS[name](rng, folder) if name in READERS else OPERATORS[name](rng)
        return "accepted", ""
    except (InputError, ValueError) as error:
        if not isinstance(error, InputError) and name in READERS:
            return "", traceback.format_exc(limit=-3)[-600:]
        if "\n" in str(error) and name in READERS:
            return "rejected", f"more than one line: {error}"[:300]
        return "rejected", ""
    except BaseException:
        return "", traceback.format_exc(limit=-3)[-600:]


if __name__ == "__main__":
    tyro.cli(fuzz, description=__doc__)
