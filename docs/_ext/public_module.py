"""Sphinx extension: `.. public-module:: NAME`, all functions and classes of a module's `__all__`.

The module's docstring, a table with the first sentence of each name, then the docstrings in full.
`:skip:` leaves out what another page describes, `:only:` shows just the names that it lists, and
`:no-docstring:` leaves out that of the module.
"""

from __future__ import annotations

import importlib
import inspect
import types

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from plain_docstrings import escaped
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def first_sentence(documented: object) -> str:
    """A docstring's first sentence, on one line."""
    paragraph = (inspect.getdoc(documented) or "").partition("\n\n")[0].replace("\n", " ")
    sentence, full_stop, _ = paragraph.partition(". ")
    return sentence + full_stop.strip()


def public_names(module: types.ModuleType) -> list[str]:
    """What `__all__` names; without it, what the module defines."""
    defined = (
        n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
    )
    return getattr(module, "__all__", [n for n in defined if not n.startswith("_")])


class PublicModule(SphinxDirective):
    required_arguments = 1
    option_spec = {"skip": str.split, "only": str.split, "no-docstring": directives.flag}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        module = importlib.import_module(name)
        shown = self.options.get("only") or public_names(module)
        documented = {
            n: getattr(module, n)
            for n in shown
            if n not in self.options.get("skip", ()) and callable(getattr(module, n))
        }
        current = ".. py:currentmodule::" if "no-docstring" in self.options else ".. automodule::"
        lines = [f"{current} {name}", ""]
        if documented:
            lines += [".. list-table::", "   :widths: 32 68", ""]
        for n, value in documented.items():
            lines += [f"   * - :py:obj:`{n} <{name}.{n}>`"]
            lines += [f"     - {escaped(first_sentence(value))}"]
        for n, value in documented.items():
            kind = "class" if inspect.isclass(value) else "function"
            lines += ["", f".. auto{kind}:: {name}.{n}"]
            lines += ["   :members:"] if kind == "class" else []
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=name), self.content_offset, node)
        return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-module", PublicModule)
    return {"parallel_read_safe": True}
