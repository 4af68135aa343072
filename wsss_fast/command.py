"""A command of the command line, as each package declares it; declaring one imports no torch."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Command:
    """A function as a command: its signature gives the options, its docstring the help.

    Attributes:
        name: words typed after `wsss-fast`.
        target: "module:function"; a module below `wsss_fast`.
        numbers: parameter that holds a recipe or pipeline, whose defaults depend on the backbone.
        defaults: name of the mapping in the target's module: backbone -> default of `numbers`.
        presets: name of the mapping in the target's module: preset -> `presets.Preset`.
        predicts: whether the images are by default those that the preset's row predicts, not those
            that it trains on.
        network: of the trained `weights`, as in `nets.ModelInfo`; their file may say the backbone.
        numbers_in_weights: whether that file may also say the numbers.
        saliency: whether the images need saliency maps, so that `--saliency` names their folder.
        needs_tags: whether the images need tags; otherwise any folder of images is a data set.
        positional: parameters given without their names.
        short: one-letter options by parameter, as in {"out": "-o"}.
        flat: fields of dataclass parameters are options without a prefix.
        main_process_only: of several processes only the main one runs it.
        if_stopped: what remains after a signal.
    """

    name: str
    target: str
    numbers: str | None = None
    defaults: str | None = None
    presets: str | None = None
    predicts: bool = False
    network: str | None = None
    numbers_in_weights: bool = False
    saliency: bool = False
    needs_tags: bool = True
    positional: tuple[str, ...] = ()
    short: Mapping[str, str] = dataclasses.field(default_factory=dict)
    flat: bool = False
    main_process_only: bool = False
    if_stopped: str = "the same command resumes where it stopped"

    def load(self) -> Callable[..., Any]:
        """The function; imports its module."""
        return getattr(*self._module_and_name())

    def table(self, attribute: str | None) -> Mapping[str, Any]:
        """A mapping of the target's module, as `defaults` and `presets` name it; empty for None."""
        return {} if attribute is None else getattr(self._module_and_name()[0], attribute)

    def summary(self) -> str:
        """First line of the function's docstring, read from the source without importing it."""
        module, _, name = self.target.partition(":")
        base = _ROOT.joinpath(*module.split(".")[1:])
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        raise LookupError(f"{path} has no function {name}")

    def _module_and_name(self) -> tuple[Any, str]:
        module, _, name = self.target.partition(":")
        return importlib.import_module(module), name
