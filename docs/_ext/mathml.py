"""Sphinx extension: formulas as MathML, which browsers draw by themselves.

The converter is the one of docutils: the build needs no LaTeX and the pages need no script.
"""

from __future__ import annotations

import html

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)


def to_mathml(latex: str, node: nodes.Node, *, block: bool) -> str:
    """MathML of a formula; one that cannot be converted is a warning, and shown as it is."""
    try:
        return latex2mathml.tex2mathml(latex, as_block=block)
    except (SyntaxError, MathError) as error:
        LOGGER.warning("formula %r: %s", latex, error, location=node)
        return f"<code>{html.escape(latex)}</code>"


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(to_mathml(node.astext(), node, block=False))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    latex = node.astext()
    if r"\\" in latex and r"\begin" not in latex:
        latex = rf"\begin{{aligned}} {latex} \end{{aligned}}"
    self.body.append(f'<div class="math">{to_mathml(latex, node, block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
