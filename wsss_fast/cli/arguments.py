"""From words to the arguments of a function: its signature as options, a configuration file."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from wsss_fast import data
from wsss_fast.cli import preset_help
from wsss_fast.command import Command
from wsss_fast.data.tagging import tags_for_validation
from wsss_fast.engine import distributed
from wsss_fast.engine.config_file import read_config
from wsss_fast.engine.progress import OutputError, say
from wsss_fast.engine.serialize import check_keys, from_config
from wsss_fast.errors import InputError
from wsss_fast.nets import ModelInfo
from wsss_fast.pipeline import with_seg_preset
from wsss_fast.runs import Chosen
from wsss_fast.stages.trained import info_of, recipe_of

_REQUIRED = inspect.Parameter.empty
# A parameter `data: Source` is these options; `open_data` passes them to `data.load`.
_DATA_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "data": (
        str,
        _REQUIRED,
        "folder in VOC12's or COCO's layout or with a labels.csv, or any folder of images with "
        "--tags; or shapes / shapes:SEED / shapes-sparse:SEED / shapes-uneven:SEED, the built-in "
        "benchmark",
    ),
    "split": (
        str | None,
        None,
        "name of an id list in ImageSets/Segmentation or next to labels.csv, without .txt; VOC12 "
        "also: trainaug; COCO: train, val, train-annotated, names of JSON files; default: that of "
        "the preset, if the data has the classes of its row, else train",
    ),
    "ids": (
        Path | tuple[str, ...] | None,
        None,
        "text file with one id per line, instead of a split",
    ),
    "strict": (
        bool,
        False,
        "stop at the first broken image; otherwise broken images are left out and listed at the "
        "end",
    ),
    "truth": (
        str | None,
        None,
        "folder of the true masks, by its name in the data's folder or its path; default: that of "
        "the preset, else SegmentationClassAug, SegmentationClass or masks",
    ),
    "score_on": (
        str | None,
        None,
        "list of the images that are scored, or all; default: train for VOC12's trainaug, else all",
    ),
    "tags": (
        Path | None,
        None,
        "file of the image tags instead of those of the folder, which needs no layout then: an "
        ".npy of public code, lines of an id and class numbers, or a csv of file,class",
    ),
}
_SALIENCY_OPTION = (
    Path | None,
    None,
    "folder of <id>.png saliency maps; default: saliency/ in the data's folder",
)
_VAL_OPTION = (
    str | None,
    None,
    "split of the validation images; default: that of the preset, as for split, else none",
)
_CONFIG_OPTION = (
    Path | None,
    None,
    "arguments from a file: config.json of a run, or YAML or JSON; other options override it",
)
_REDO_OPTION = (
    bool,
    False,
    "remove the results of the stage if it is finished, and repeat it; for other arguments, or "
    "after a file was lost",
)


def parse(command: Command, argv: Sequence[str]) -> dict[str, Any] | int:
    """Arguments of a command's function, or the exit code 0 after printing its help.

    Raises:
        InputError: an unknown option or a value of the wrong type, on the command line or in the
            configuration file.
    """
    errors, muted = io.StringIO(), io.StringIO()
    if "--out=" in argv or ("--out", "") in itertools.pairwise(argv):
        raise InputError("--out: is empty; name a folder ('.' is the current one)")
    function = _signature(command, argv)
    try:
        with (
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(sys.stdout if distributed.is_main_process() else muted),
        ):
            return tyro.cli(
                function,
                args=list(argv),
                prog=f"wsss-fast {command.name}",
                config=(tyro.conf.SuppressFixed,),  # functions cannot be typed
            )
    except OSError as error:  # of the help's output
        raise OutputError(error.errno, error.strerror) from None
    except SystemExit as stop:
        if stop.code in (None, 0):
            return 0
        raise InputError(_one_line(errors.getvalue())) from None


def _one_line(box: str) -> str:
    """tyro's error without the title and the frame that it draws, and without the help."""
    lines = [line for line in box.splitlines() if not line.startswith("╭")]
    text = " ".join(re.sub("[╰╯│─]+", " ", " ".join(lines)).split())
    text, _, see = text.partition(" For full helptext, ")
    text = text.partition(" Argument helptext: ")[0].rstrip(".")
    wrong = re.fullmatch(r"Error parsing (\S+): invalid literal for int\(\) .*: (.*)", text)
    wrong = wrong or re.fullmatch(
        r"Error parsing (\S+): could not convert \w+ to float: (.*)", text
    )
    if wrong is not None:
        kind = "a whole number" if "int()" in text else "a number"
        text = f"{wrong[1]}: got {wrong[2]}, must be {kind}"
    missing = re.match(r"Missing from (wsss-fast [^:]*): ", text)
    if missing is not None:
        *each, rest = text[missing.end() :].split("(required)")
        names = [
            (re.search(r"--\S+", part) or re.search(r"\S+", part) or [part])[0] for part in each
        ]
        text = f"{missing[1]} needs {' and '.join(names)}" + (f".{rest}" if rest.strip() else "")
    return f"{text}; see {see.partition(' ')[2]}" if see else text


def _signature(command: Command, argv: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """A function with the command's options that returns them: what tyro parses into."""
    function = command.load()
    path = _value(argv, "--config")
    given = {} if path is None else read_config(Path(path), command.name)
    parameters = _options(command, function, argv, given)
    names = [p.name for p in parameters]
    if path is not None:
        check_keys(given, names, path)
        parameters = [_with_config(p, given, path) for p in parameters]
    parameters.append(_option("config", *_CONFIG_OPTION))
    if "name" in names:  # a single stage
        parameters.append(_option("redo", *_REDO_OPTION))

    def collect(**arguments: Any) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if name != "config"}

    parameters.sort(key=lambda p: p.default is not _REQUIRED)
    shown = [p.replace(annotation=_on_command_line(command, p)) for p in parameters]
    collect.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    collect.__annotations__ = {p.name: p.annotation for p in shown}
    # What concerns callers of the function in several processes says nothing here.
    text = re.sub(r"\s*\bCollective\.", "", inspect.getdoc(function) or "")
    chosen = _chosen(command, argv, given)
    collect.__doc__ = preset_help.with_presets(text, command, function, chosen)
    return collect


def _options(
    command: Command, function: Callable[..., Any], argv: Sequence[str], given: dict[str, Any]
) -> list[inspect.Parameter]:
    """The function's parameters; data sets as the options that open them."""
    hints = get_type_hints(function)
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        parameter = parameter.replace(
            annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY
        )
        if parameter.annotation == data.Source:
            parameters += [_option(name, *option) for name, option in _DATA_OPTIONS.items()]
            if command.saliency:
                parameters.append(_option("saliency", *_SALIENCY_OPTION))
        elif parameter.annotation == data.Source | None:
            parameters.append(_option("val_split", *_VAL_OPTION))
        elif parameter.name == command.numbers:
            default = _default_numbers(command, function, argv, given)
            parameters.append(parameter.replace(annotation=type(default), default=default))
        else:
            parameters.append(parameter)
    return parameters


def _option(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, tyro.conf.arg(help=text)],
    )


def _default_numbers(
    command: Command, function: Callable[..., Any], argv: Sequence[str], given: dict[str, Any]
) -> Any:
    """The recipe or pipeline of the preset or backbone that is given, so that help shows it."""
    chosen = _chosen(command, argv, given)
    defaults, presets = command.table(command.defaults), command.table(command.presets)
    preset, parameters = presets.get(chosen["preset"] or ""), inspect.signature(function).parameters
    if preset is not None:
        numbers = preset.numbers
    else:
        usual = parameters["backbone"].default or next(iter(defaults))
        weights, info = _trained(command, argv, given, chosen["backbone"])
        backbone = chosen["backbone"] or (info.backbone if info else usual)
        numbers = defaults.get(backbone, defaults[usual])
        if command.numbers_in_weights:
            numbers = recipe_of(weights, info, None, defaults, backbone)
    if "seg_preset" not in parameters:
        return numbers
    return with_seg_preset(command.name, Chosen("", numbers), chosen["seg_preset"]).numbers


def _trained(
    command: Command, argv: Sequence[str], given: dict[str, Any], backbone: str | None
) -> tuple[str, ModelInfo | None]:
    """The file of trained weights, and what it says of its network, if anything."""
    weights = _value(argv, "--weights") or given.get("weights")
    if command.network is None or not isinstance(weights, str) or not Path(weights).exists():
        return "", None
    return weights, info_of(weights, command.network, backbone=backbone)


def _chosen(command: Command, argv: Sequence[str], given: dict[str, Any]) -> dict[str, str | None]:
    """The names that the default numbers depend on, from the command line or from a file."""
    chosen: dict[str, str | None] = {}
    for name in ("preset", "seg_preset", "backbone"):
        option = f"--{name.replace('_', '-')}"
        value = _value(argv, option)
        if value is not None and command.numbers in given and value != given.get(name):
            raise InputError(
                f"{option}: the file given by --config already sets {command.numbers}; "
                f"remove {command.numbers} from it, or leave out {option}"
            )
        chosen[name] = value or given.get(name)
    return chosen


def _with_config(
    parameter: inspect.Parameter, given: dict[str, Any], path: str
) -> inspect.Parameter:
    """The parameter with the value of the configuration file as its default."""
    if parameter.name not in given:
        return parameter
    default = None if parameter.default is _REQUIRED else parameter.default
    kind = _path(_plain(parameter.annotation))
    value = from_config(given[parameter.name], kind, f"{path}: {parameter.name}", default)
    return parameter.replace(default=value)


def _plain(annotation: Any) -> Any:
    """An annotation without `Annotated`."""
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _on_command_line(command: Command, parameter: inspect.Parameter) -> Any:
    """The annotation with what tyro needs to know."""
    annotation, marks = (
        parameter.annotation,
        list(getattr(parameter.annotation, "__metadata__", ())),
    )
    kind = _plain(annotation)
    kind = _path(kind)
    # Only a configuration file can list ids.
    if parameter.name == "ids" and not isinstance(parameter.default, tuple):
        kind = Path | None
    if command.flat and dataclasses.is_dataclass(kind):
        marks.append(tyro.conf.OmitArgPrefixes)
    elif kind is not bool:
        # Either value may be a recipe's default, so nested switches are written out
        # (`--recipe.balance False`).
        marks.append(tyro.conf.FlagConversionOff)
    if parameter.name == command.numbers:
        # A configuration file chooses the class of a schedule or an optimizer.
        marks.append(tyro.conf.AvoidSubcommands)
    if parameter.name in command.positional:
        marks += [tyro.conf.Positional, tyro.conf.arg(metavar=parameter.name.upper())]
    if parameter.name == "from_stage":  # `from` is a word of Python's
        marks.append(tyro.conf.arg(name="from"))
    if short := command.short.get(parameter.name):
        marks.append(tyro.conf.arg(aliases=[short]))
    for mark in marks:
        kind = _marked(kind, mark)
    return kind


def _path(kind: Any) -> Any:
    """`str | Path` is a path on a command line and in a configuration file."""
    return {str | Path: Path, str | Path | None: Path | None}.get(kind, kind)


def _marked(kind: Any, mark: Any) -> Any:
    """tyro's markers are subscripted with a type, its `arg` annotates one."""
    return mark[kind] if hasattr(mark, "__getitem__") else Annotated[kind, mark]


def _value(argv: Sequence[str], option: str) -> str | None:
    """The value of an option, given as `--option VALUE` or `--option=VALUE`."""
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option and (equals or place + 1 < len(argv)):
            return value if equals else argv[place + 1]
    return None


def open_data(command: Command, arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace the options of a data set by the opened data set.

    Options that are not given are those of the preset's row, with a line that says so.
    """
    if not _DATA_OPTIONS.keys() <= arguments.keys():  # other commands have some of these names
        return arguments
    preset = command.table(command.presets).get(arguments.get("preset") or "")
    row = None if preset is None else preset.row
    if command.predicts and row is not None and row.val_split is not None:
        row = dataclasses.replace(row, split=row.val_split, score_on="all")
    options = _with_row(arguments, row)
    if options["tags"] is None and not command.needs_tags:
        options["tags"] = False
    for name in ("val_split", "saliency", *_DATA_OPTIONS):
        arguments.pop(name, None)
    source, val_split = options.pop("data"), options.pop("val_split", None)
    opened = data.load(source, **options)
    if val_split is not None:
        arguments["val"] = data.load(
            source,
            split=val_split,
            strict=options["strict"],
            truth=options["truth"],
            tags=tags_for_validation(options["tags"]),
        )
    return {**arguments, "data": opened}


def _with_row(arguments: dict[str, Any], row: Any) -> dict[str, Any]:
    """The options of a data set, with the lists of a preset's row where they are not given."""
    names = [name for name in (*_DATA_OPTIONS, "saliency", "val_split") if name in arguments]
    options = {name: arguments[name] for name in names}
    lists = data.default_split(options["data"], row)
    if not lists.found:
        return options
    used = {}
    if options["split"] is None and options["ids"] is None:
        used["split"] = lists.split
        # Another list is scored as usual: what the row scores may have none of its images.
        options["score_on"] = options["score_on"] or lists.score_on
    open_names = [n for n in ("val_split", "truth") if n in options and options[n] is None]
    used |= {name: value for name in open_names if (value := getattr(lists, name)) is not None}
    texts = [f"{name.replace('_', '-')} {value}" for name, value in used.items()]
    texts += [lists.lacks[name] for name in open_names if name in lists.lacks]
    if texts:
        say(f"{arguments['preset']}: {', '.join(texts)}")
    return {**options, **used}
