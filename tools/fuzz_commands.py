"""Targets of `fuzz.py`: whole command lines with wrong words, on a small data set.

Each command must end with exit code 0, 1, 2 or 130, one line of error for each failure and no
traceback; one that ends with 2 must not have written anything.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from wsss_fast import cli
from wsss_fast.data import write_labels
from wsss_fast.engine import progress

Case = Callable[[random.Random, Path], None]
SECONDS = 10.0  # after which a command gets a SIGINT; a damaged number may mean years of work

_TRAINED = "--device cpu --backbone small --precision fp32"
_QUICK = f"{_TRAINED} --recipe.augment.crop 32 --recipe.batch-size 2 --recipe.epochs 1"
# Words of valid command lines; {data}, {run}, ... are paths of the prepared folder.
COMMANDS = {
    "cam train": f"--data {{data}} --out {{out}} {_QUICK}",
    "cam infer": f"--data {{data}} --out {{out}} --weights {{run}}/cam/weights.pth {_TRAINED} "
    "--recipe.scales 1.0",
    "seeds": "--data {data} --maps {run}/cam/maps --out {out} --fg-threshold 0.3 "
    "--bg-threshold 0.05 crf:crf --crf.gaussian 3 3 --crf.iterations 2",
    "crf": "{data}/photos/a.png {data}/masks/a.png -o {out}/a.png --crf.gaussian 3 3 "
    "--crf.iterations 2",
    "refine": "{data} {run}/cam/maps -o {out} --background 0.3 --par.dilations 1 2 "
    "--par.iterations 2 --labels",
    "eval": "--data {data} --maps {run}/cam/maps --out {out}",
    "saliency": "--data {data} --out {out}",
    "amn train": f"--data {{data}} --seeds {{run}}/seeds --out {{out}} {_QUICK}",
    "irn train": f"--data {{data}} --seeds {{run}}/seeds --out {{out}} {_QUICK} --recipe.radius 4",
    "eps train": f"--data {{data}} --out {{out}} {_TRAINED} --recipe.augment.crop 32 "
    "--recipe.batch-size 2 --recipe.updates 1",
    "seg train": f"--data {{data}} --masks {{run}}/seeds --out {{out}} {_TRAINED} "
    "--recipe.augment.crop 33 --recipe.updates 1 --recipe.batch-size 2 --recipe.accumulate 1",
    "shapes": "--out {out} --train 2 --val 2 --size 48",
    "convert to-pickles": "{run}/cam/maps {out} --form amn --background 0.3 --num-classes 2",
    "convert to-pngs": "{run}/cam/maps {out}",
    "convert model": "{run}/cam/weights.pth {out}/a.safetensors --to safetensors",
    "amn run": "--data {data} --out {out} --preset shapes --device cpu",
    "ccr run": "--data {data} --out {out} --preset shapes --device cpu",
}
WORDS = (
    "", "0", "-1", "1", "2", "nan", "inf", "-inf", "1e999", "0.5", "1e-30", "3.7", "True", "None",
    "99999999999999999999", "null", "[]", "{}", "'", '"', "\u00e9\u732b", "a b", "a\nb", "--", "-",
    "---x", "--recipe.lr", "--out", "/dev/null", "/dev/full", "/proc/self/mem", "~",
    ".", "*", "%s", "{out}", "{data}", "{data}/labels.csv", "{run}/cam/weights.pth",
    "{data}/photos/a.png", "{run}/seeds/a.png", "cuda", "cuda:9", "meta", "auto", "fp16", "bf16",
    "x" * 300,
)  # fmt: skip


def _prepare(work: Path) -> dict[str, str]:
    """A data set, and a run folder with the artefacts that the commands read, below `work`.

    The paths are relative, so that a wrong character in one of them does not lead out of `work`.
    """
    os.chdir(work)
    root, run = work / "data", work / "run"
    if not (run / "ready").exists():
        rng = np.random.default_rng(0)
        for name in ("photos", "masks", "saliency"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for id in "abc":
            mask = np.zeros((20, 24), np.uint8)
            mask[5:15, 6:18] = 1
            pixels = rng.integers(0, 99, (20, 24, 3)) + 150 * mask[..., None]
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / f"{id}.png")
            Image.fromarray(mask * 255).save(root / "saliency" / f"{id}.png")
            write_labels(root / "masks" / f"{id}.png", mask)
        rows = [f"photos/{id}.png,cup" for id in "abc"]
        (root / "labels.csv").write_text("\n".join(["file,class", *rows, ""]))
        paths = {"data": "data", "run": "run", "out": "run"}
        for name in ("cam train", "cam infer", "seeds"):
            code, printed = _run([*name.split(), *_filled(COMMANDS[name], paths)])
            assert code == 0, printed
        (run / "ready").touch()
    return {"data": "data", "run": "run", "out": "out"}


def _filled(words: str, paths: dict[str, str]) -> list[str]:
    return [word.format(**paths) for word in words.split()]


def _changed(rng: random.Random, words: list[str], paths: dict[str, str]) -> list[str]:
    """The words after one to three changes."""
    words = list(words)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(words))
        kind = rng.randrange(6)
        word = rng.choice(WORDS)
        word = word.format(**paths) if word.startswith(("{d", "{r")) else word
        if kind <= 1:
            words[at] = word
        elif kind == 2:
            del words[at]
        elif kind == 3:
            words.insert(at, word)
        elif kind == 4:
            words.insert(at, rng.choice(words))
        else:
            cut = rng.randrange(len(words[at]) + 1)
            words[at] = words[at][:cut] + rng.choice("xX-=., 0") + words[at][cut + 1 :]
        if not words:
            break
    return words


def _run(argv: list[str]) -> tuple[int, str]:
    """Exit code, and what was printed on stderr."""
    printed, console = io.StringIO(), progress.CONSOLE
    progress.CONSOLE = Console(file=printed, width=100_000)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed):
            try:
                code = cli.run(argv)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
    finally:
        progress.CONSOLE = console
    return code, printed.getvalue()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """SIGINT after SECONDS, as a user would send it."""
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _command(name: str) -> Case:
    def case(rng: random.Random, work: Path) -> None:
        paths = _prepare(work)
        argv = [*name.split(), *_changed(rng, _filled(COMMANDS[name], paths), paths)]
        before = _files(work)
        try:
            with _limited():
                code, printed = _run(argv)
            _check(code, printed, argv)
            if code == 2 and (new := _files(work) - before):
                raise AssertionError(f"{argv}: exit code 2, but wrote {sorted(new)[:3]}")
        finally:
            shutil.rmtree(work / paths["out"], ignore_errors=True)
            for stray in _files(work) - before:
                Path(stray).unlink(missing_ok=True)

    return case


def _files(work: Path) -> set[str]:
    return {str(path) for path in work.rglob("*") if path.is_file()}


def _check(code: int, printed: str, argv: list[str]) -> None:
    lines = printed.splitlines()
    failures = [line for line in lines if line.startswith(("error:", "failed:"))]
    problem = (
        f"exit code {code}"
        if code not in (0, 1, 2, 130)
        else "a traceback"
        if "Traceback" in printed
        else "an unforeseen exception"
        if "WSSS_FAST_TRACEBACK" in printed
        else f"{len(failures)} lines of error"
        if (code in (1, 2)) != (len(failures) == 1) and "left out" not in printed
        else ""
    )
    if problem:
        raise AssertionError(f"{argv}: {problem}: {printed[-400:]}")


COMMAND_LINES: dict[str, Case] = {f"wsss-fast {name}": _command(name) for name in COMMANDS}

if __name__ == "__main__":
    sys.exit("run tools/fuzz.py")
