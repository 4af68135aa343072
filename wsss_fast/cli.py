"""The command line: the library's functions, with their own signatures, defaults and docstrings, read by tyro."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsss_fast import _native, amn, bench, cam, ccr, convert, data, eps, irn, pipeline, seg
from wsss_fast.bench import harness
from wsss_fast.bench import show as bench_show
from wsss_fast.engine import distributed, signals
from wsss_fast.engine.files import write_json
from wsss_fast.engine.progress import CONSOLE, say
from wsss_fast.errors import InputError, RunError
from wsss_fast.evaluation import report, summary
from wsss_fast.stages import crf_files as crf_stage
from wsss_fast.stages import saliency as saliency_stage
from wsss_fast.stages import seeds as seed_stage

OUTPUT = Console(highlight=False)
WIDE = Console(
    highlight=False, width=200
)  # for tables whose figures must not be cut where a terminal is narrow

_NAMED = 20  # broken images are named one by one up to this many

# A `data: Source` of the library is these arguments on the command line, handed to `data.load`.
_DATA_HELP = {
    "data": (
        str,
        inspect.Parameter.empty,
        "folder in VOC12 or COCO14 layout or with a labels.csv; or shapes / shapes:SEED / shapes-sparse:SEED, the "
        "built-in benchmark",
    ),
    "split": (
        str,
        "train",
        "name of an id list in ImageSets/Segmentation or beside labels.csv, without .txt; COCO14: train or val",
    ),
    "ids": (Path | None, None, "text file with one id a line, instead of a split"),
    "strict": (
        bool,
        False,
        "stop at the first broken image; otherwise broken ones are left out and named at the end",
    ),
}
# The commands that read saliency maps have a fourth.
_SALIENCY_HELP = (
    Path | None,
    None,
    "folder of <id>.png saliency maps; default: saliency/ in the data's folder",
)
_READS_SALIENCY = ("eps train", "eps run", "eps analyse", "ccr train", "ccr run", "ccr analyse")


def demo(
    out: Path = Path("wsss-demo"),
    *,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> amn.RunResult:
    """Make the Shapes benchmark, run the AMN pipeline on it with the small network, and leave masks and a report.

    IRN and the segmentation network follow in `wsss-fast amn run --preset shapes --data shapes --out DIR`.

    Args:
        out: run folder.
        device: auto, cpu, cuda or cuda:N.
        seed: of the benchmark and of the training.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.
    """
    name = f"shapes:{seed}"
    pipeline = dataclasses.replace(
        amn.PIPELINES["small"], refine="crf"
    )  # as good on these small pictures, and three minutes
    return amn.run(
        data.load(name),
        out,
        preset="shapes",
        pipeline=pipeline,
        until="masks",
        val=data.load(name, split="val"),
        device=device,
        seed=seed,
        workers=workers,
        precision=precision,
    )


def shapes(
    out: Path,
    *,
    seed: int = 0,
    train: int = 800,
    val: int = 200,
    size: int = 128,
    preset: Literal["standard", "sparse"] = "standard",
) -> Path:
    """Write the Shapes benchmark in VOC12 layout.

    Args:
        out: folder to make.
        seed: of everything in it.
        train: training images.
        val: validation images.
        size: side of the images, px.
        preset: sparse has objects that are large beside the part that tells them apart.
    """
    return data.make_shapes(out, seed=seed, train=train, val=val, size=size, preset=preset)


def info() -> None:
    """Say which kernels are in use and why, with versions, compiler, SIMD level and cache."""
    for key, value in _native.info().items():  # whole paths and reasons, however wide the terminal
        OUTPUT.print(f"{key:<20}{value}", soft_wrap=True, markup=False, highlight=False)


def evaluate(
    data: data.Source,
    *,
    predictions: Path | None = None,
    maps: Path | None = None,
    pairs: tuple[str, ...] = (),
    out: Path | None = None,
) -> summary.Evaluation:
    """Score a folder of label PNGs, or of maps at every threshold, against the masks of a data set.

    Args:
        predictions: folder of <id>.png, labels 0..C.
        maps: folder of <id>.npz maps instead; all but the curve is then at the best threshold.
        pairs: target/coincident classes whose confusion ratio is wanted, as in train/rails boat/water.
        out: folder for evaluation.json and evaluation.png.
    """
    return summary.summarize(data, predictions=predictions, maps=maps, pairs=pairs, out=out)


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "amn run": amn.run,
    "amn train": amn.train,
    "amn infer": amn.infer,
    "cam train": cam.train,
    "cam infer": cam.infer,
    "seeds": seed_stage.make,
    "irn train": irn.train,
    "irn infer": irn.infer,
    "eps run": eps.run,
    "eps train": eps.train,
    "eps infer": eps.infer,
    "eps analyse": eps.analyse,
    "ccr run": ccr.run,
    "ccr infer": ccr.infer,
    "ccr train": ccr.train,
    "ccr analyse": ccr.analyse,
    "saliency": saliency_stage.make,
    "seg train": seg.train,
    "seg infer": seg.infer,
    "crf": crf_stage.refine_files,
    "convert from-pickles": convert.maps_from_pickles,
    "convert to-pickles": convert.maps_to_pickles,
    "eval": evaluate,
    "shapes": shapes,
    "bench": bench.contents,
    "bench all": bench.run_all,
    **{f"bench {name}": bench.command(module) for name, module in bench.BENCHMARKS.items()},
    "info": info,
}
# What has no parts to divide: of several processes the main one does it.
_ALONE = ("convert", "shapes", "bench", "info")
# As in `wsss-fast crf photo.jpg labels.png -o refined.png`.
_POSITIONAL = {
    "crf": ("image", "labels"),
    "convert from-pickles": ("source", "out"),
    "convert to-pickles": ("source", "out"),
}
_SHORT = {"crf": {"out": "-o"}}
# Default recipes depend on the backbone; they are filled in before the help is made, so that it shows the real numbers.
_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "amn run": ("pipeline", amn.PIPELINES),
    "amn train": ("recipe", amn.RECIPES),
    "amn infer": ("recipe", amn.RECIPES),
    "cam train": ("recipe", cam.RECIPES),
    "cam infer": ("recipe", cam.RECIPES),
    "irn train": ("recipe", irn.RECIPES),
    "irn infer": ("recipe", irn.RECIPES),
    "eps run": ("pipeline", eps.PIPELINES),
    "eps analyse": ("pipeline", eps.PIPELINES),
    "eps train": ("recipe", eps.RECIPES),
    "eps infer": ("recipe", eps.RECIPES),
    "ccr run": ("pipeline", ccr.PIPELINES),
    "ccr analyse": ("pipeline", ccr.PIPELINES),
    "ccr infer": ("recipe", ccr.RECIPES),
    "ccr train": ("recipe", ccr.REFINEMENTS),
    "seg train": ("recipe", seg.RECIPES),
    "seg infer": ("recipe", seg.RECIPES),
}


_PRESETS = {
    "amn run": amn.PRESETS,
    "eps run": eps.PRESETS,
    "eps analyse": eps.PRESETS,
    "ccr run": ccr.PRESETS,
    "ccr analyse": ccr.PRESETS,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 bad input, 1 a failed run or images left out, 130 or 143 stopped by a signal."""
    signals.install()
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # a terminal that cannot show a class name must not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    distributed.exit_process(run(sys.argv[1:] if argv is None else list(argv)))


def run(argv: Sequence[str]) -> int:
    """As `main`, but returns the exit code."""
    name, rest = _split(argv)
    if name is None:
        return rest
    if name.split()[0] in _ALONE and not distributed.is_main_process():
        return 0
    try:
        arguments = _parse(name, rest)
        if isinstance(arguments, int):
            return arguments
        opened = _opened(COMMANDS[name], arguments)
        result = COMMANDS[name](**opened)
        if distributed.is_main_process():
            _show(name, result)
        code = _broken(opened)
        distributed.leave_group()
        return code
    except InputError as error:
        return _fail(2, f"error: {error}", every=True)
    except RunError as error:
        return _fail(1, f"failed: {error}", every=True)
    except KeyboardInterrupt as error:
        stopped, code = (
            (str(error), 128 + error.number)
            if isinstance(error, signals.Stopped)
            else ("interrupted", 130)
        )
        if name.startswith("bench"):
            return _fail(code, f"{stopped}; the rows that were finished are in the JSON file")
        return _fail(code, f"{stopped}; the same command goes on where it was")
    except (
        Exception
    ) as error:  # whatever it is, a command ends with one line; the variable gives the rest
        if os.environ.get("WSSS_FAST_TRACEBACK"):
            raise
        if (
            isinstance(error, OSError) and error.filename is not None
        ):  # a full disk, a folder that is read-only
            return _fail(
                1,
                f"failed: {_printable(error.filename)}: {error.strerror}; once this is mended, the same command "
                "goes on where it was",
                every=True,
            )
        return _fail(
            1,
            f"failed: {type(error).__name__}: {error} (WSSS_FAST_TRACEBACK=1 shows where)",
            every=True,
        )


def _broken(arguments: dict[str, Any]) -> int:
    """Name the images that were left out, leave them in `<out>/broken.json`, and say so in the exit code."""
    broken = {
        id: why
        for value in arguments.values()
        if isinstance(value, data.Dataset)
        for id, why in value.broken.items()
    }
    if not broken:
        return 0
    out = arguments.get("out")
    if out is not None and distributed.is_main_process():
        write_json(Path(out) / "broken.json", broken)
    for why in list(broken.values())[:_NAMED]:
        say(f"left out: {why}")
    more = f", {len(broken) - _NAMED} of them not named here" if len(broken) > _NAMED else ""
    listed = f"; all are in {Path(out) / 'broken.json'}" if out is not None else ""
    return _fail(1, f"{len(broken)} broken images were left out{more}{listed}")


def _printable(name: Any) -> str:
    """A file name without what bytes that are no text become."""
    return (
        os.fsdecode(name).encode(errors="backslashreplace").decode()
        if isinstance(name, (str, bytes))
        else str(name)
    )


def _fail(code: int, message: str, *, every: bool = False) -> int:
    say(" ".join(message.split()), every=every)
    return code


def _split(argv: Sequence[str]) -> tuple[str, Sequence[str]] | tuple[None, int]:
    """(command, its arguments), or (None, exit code) after the overview was printed or the typo was named."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        mistyped = (
            argv[words:]
            and not argv[words].startswith("-")
            and any(c.startswith(f"{name} ") for c in COMMANDS)
        )
        if name in COMMANDS and len(argv) >= words and not mistyped:
            return name, argv[words:]
    if not argv or argv[0] in ("-h", "--help"):
        if distributed.is_main_process():
            _overview()
        return None, 0
    tried = " ".join(a for a in argv[:2] if not a.startswith("-"))
    group = [c for c in COMMANDS if c.split()[0] == argv[0]]
    near = (
        difflib.get_close_matches(tried, group, 1, 0.7)
        or group
        or difflib.get_close_matches(tried, COMMANDS, 3, 0.5)
        or difflib.get_close_matches(argv[0], COMMANDS, 3, 0.5)
    )
    return None, _fail(
        2,
        f"error: no command {tried!r}; {'did you mean ' + ' or '.join(near) if near else 'see --help'}",
    )


def _overview() -> None:
    OUTPUT.print("wsss-fast: pixel masks from image tags\n\nusage: wsss-fast COMMAND [--help]\n")
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, function in COMMANDS.items():
        table.add_row(name, inspect.getdoc(function).splitlines()[0])
    OUTPUT.print(table)


def _parse(name: str, argv: Sequence[str]) -> dict[str, Any] | int:
    """Arguments of a command, or the exit code if tyro printed help or refused them (said in one line)."""
    errors = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(
                sys.stdout if distributed.is_main_process() else io.StringIO()
            ),
        ):
            return tyro.cli(
                _signature(name, argv),
                args=list(argv),
                prog=f"wsss-fast {name}",
                config=(tyro.conf.SuppressFixed,),
            )
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 2
        inside = [
            line for line in errors.getvalue().splitlines() if not line.startswith("╭")
        ]  # without the box's title
        return _fail(code, f"error: {re.sub('[╰╯│─]+', ' ', ' '.join(inside))}") if code else 0


def _signature(name: str, argv: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """A function with the command's parameters that returns them: the shape that tyro parses into."""
    function = COMMANDS[name]
    hints = get_type_hints(function)
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        parameter = parameter.replace(
            annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY
        )
        if parameter.annotation == data.Source:
            parameters += [_parameter(key, *_DATA_HELP[key]) for key in _DATA_HELP]
            if name in _READS_SALIENCY:
                parameters.append(_parameter("saliency", *_SALIENCY_HELP))
        elif parameter.annotation == data.Source | None:
            parameters.append(
                _parameter(
                    "val_split", str | None, None, "split whose tags the classifier is tested on"
                )
            )
        elif name in _RECIPES and parameter.name == _RECIPES[name][0]:
            recipes = _RECIPES[name][1]
            usual = inspect.signature(function).parameters["backbone"].default or next(
                iter(recipes)
            )
            preset = _PRESETS.get(name, {}).get(_value(argv, "--preset") or "")
            default = (
                preset.pipeline
                if preset
                else recipes.get(_value(argv, "--backbone") or usual, recipes[usual])
            )
            parameters.append(parameter.replace(annotation=_valued(type(default)), default=default))
        else:
            annotation = _simple(parameter.annotation)
            if parameter.name in _POSITIONAL.get(name, ()):
                annotation = Annotated[
                    tyro.conf.Positional[annotation], tyro.conf.arg(metavar=parameter.name.upper())
                ]
            elif short := _SHORT.get(name, {}).get(parameter.name):
                annotation = Annotated[annotation, tyro.conf.arg(aliases=[short])]
            parameters.append(parameter.replace(annotation=annotation))

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {p.name: p.annotation for p in parameters}
    collect.__doc__ = inspect.getdoc(function)
    return collect


def _parameter(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, tyro.conf.arg(help=text)],
    )


def _simple(annotation: Any) -> Any:
    """`str | Path` is a path on a command line; a switch of a command is a flag."""
    annotation = {str | Path: Path, str | Path | None: Path | None}.get(annotation, annotation)
    return annotation if annotation is bool else _valued(annotation)


def _valued(annotation: Any) -> Any:
    """Switches inside it are written out (`--recipe.balance False`), since either value may be a recipe's default."""
    return tyro.conf.FlagConversionOff[annotation]


def _value(argv: Sequence[str], option: str) -> str | None:
    for place, word in enumerate(argv):
        if word == option and place + 1 < len(argv):
            return argv[place + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _opened(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace the data arguments by the data sets that they name."""
    if "split" not in arguments:
        return arguments
    source = {key: arguments.pop(key) for key in _DATA_HELP}
    val_split, saliency = arguments.pop("val_split", None), arguments.pop("saliency", None)
    opened = data.load(
        source["data"],
        split=source["split"],
        ids=source["ids"],
        saliency=saliency,
        strict=source["strict"],
    )
    if val_split is not None:
        arguments["val"] = data.load(source["data"], split=val_split, strict=source["strict"])
    return {**arguments, "data": opened}


def _show(name: str, result: Any) -> None:
    if isinstance(result, pipeline.RunResult):
        OUTPUT.print(report.text_table(result.out))
        predicted = f"\npredictions: {result.predictions}" if result.predictions else ""
        OUTPUT.print(
            f"masks: {result.masks}{predicted}\nreport: {result.report}",
            soft_wrap=True,
            markup=False,
        )
    elif isinstance(result, pipeline.AnalysesResult):
        OUTPUT.print(report.text_table(result.out))
        OUTPUT.print(f"report: {result.report}", soft_wrap=True, markup=False)
    elif isinstance(result, summary.Evaluation):
        _show_evaluation(result)
    elif isinstance(result, harness.Report):
        _show_benchmarks([result])
    elif isinstance(result, Iterator):
        _show_benchmarks(result)
    elif result is not None:
        OUTPUT.print(str(result), soft_wrap=True, markup=False)


def _show_benchmarks(reports: Iterable[harness.Report]) -> None:
    """Print each as soon as it is there; what was wrong in any of them fails the command at the end."""
    wrong = []
    for shown in reports:
        for part in bench_show.parts(shown):
            (OUTPUT if isinstance(part, str) else WIDE).print(part, markup=False)
        OUTPUT.print(f"{shown.json}\n{shown.plot}\n", soft_wrap=True, markup=False)
        wrong += shown.wrong()
    if wrong:
        raise RunError(f"{len(wrong)} rows were wrong, first {wrong[0]}")


def _show_evaluation(found: summary.Evaluation) -> None:
    metrics, curve = found.metrics, found.curve
    at = "" if curve is None else f" at threshold {curve.best:.2f}, the best"
    table = Table(
        title=f"mIoU {100 * metrics.miou:.2f} % over {metrics.images} images{at}",
        title_justify="left",
    )
    for column in ("class", "IoU", "precision", "recall"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name in metrics.iou:
        table.add_row(
            Text(name),
            *(
                f"{100 * values[name]:.2f}"
                for values in (metrics.iou, metrics.precision, metrics.recall)
            ),
        )
    OUTPUT.print(table)
    if curve is not None:
        table = Table(title="mIoU (%) over the threshold", title_justify="left")
        steps = range(
            0, len(curve.thresholds), 5
        )  # every tenth of the threshold's range; all of them are in the JSON
        for step in steps:
            table.add_column(f"{curve.thresholds[step]:.2f}", justify="right")
        table.add_row(*(f"{100 * curve.miou[step]:.1f}" for step in steps))
        OUTPUT.print(table)
    for pair, ratio in found.confusion_ratios.items():
        OUTPUT.print(f"confusion ratio {pair}: {ratio:.3f}", markup=False)
    for path in found.files:
        OUTPUT.print(str(path), soft_wrap=True, markup=False)


if CONSOLE.is_dumb_terminal:
    CONSOLE.no_color = True
