"""Sphinx extension: `{layers}`, the list of layers in tests/test_architecture.py as a table."""

from __future__ import annotations

import ast
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TEST = Path(__file__).parents[2] / "tests/test_architecture.py"


def layers() -> list[set[str]]:
    """The layers, lowest first, read from the test that enforces them."""
    for node in ast.parse(TEST.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "LAYERS":
            found = ast.literal_eval(node.value)
            return list(found.values()) if isinstance(found, dict) else list(found)
    raise LookupError(f"{TEST} has no list LAYERS")


class Layers(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(TEST))
        listed = nodes.enumerated_list()
        for layer in layers():
            words = nodes.paragraph()
            for n, module in enumerate(sorted(layer)):
                words += nodes.Text(", " * bool(n))
                is_group = module == "METHODS"
                words += nodes.Text("the methods") if is_group else nodes.literal(module, module)
            listed += nodes.list_item("", words)
        return [listed]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("layers", Layers)
    return {"parallel_read_safe": True}
