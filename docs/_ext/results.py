"""Sphinx extension: `{results} NAME`, a table of benchmarks/RESULTS.md and a link to its JSON."""

from __future__ import annotations

from docutils import nodes
from docutils.statemachine import StringList
from results_json import SOURCE, tables
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Results(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.env.note_dependency(str(SOURCE))
        table = tables().get(name)
        if table is None:
            raise self.error(f"{SOURCE} has no table marked {name!r}")
        link = f"JSON: {{download}}`{name}.json </../benchmarks/results/{name}.json>`"
        node = nodes.container(classes=["results"])
        lines = StringList([*table.splitlines(), "", link], str(SOURCE))
        self.state.nested_parse(lines, self.content_offset, node)
        return [node]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("results", Results)
    return {"parallel_read_safe": True}
