"""Sphinx extension: docstrings are plain text with `backticks` and Google-style sections.

What reStructuredText would take for markup, such as |x - y| or a trailing underscore, is escaped
before napoleon sees it, and blocks get the blank lines that reStructuredText wants around them.
Dataclasses are shown by their attributes, each with its default, instead of by their signature.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

_SECTIONS = "Args|Attributes|Returns|Raises|Yields|Example|Examples|Note|Notes"
_SECTION = re.compile(rf"^\s*({_SECTIONS}):\s*$")
_ITEM = re.compile(r"^\s*([-*]|\d+\.)\s")
_PARAGRAPH = re.compile(r"^(Source:|Raises |Differentiable |Not differentiable)")
_QUOTED = re.compile(r"(`+)(.+?)\1")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_ATTRIBUTE = re.compile(r"^    (\w+): ")
_LONGEST_DEFAULT = 60


def escaped(text: str) -> str:
    """A line of prose without markup, but for what stands in backticks."""
    parts, end = [], 0
    for match in _QUOTED.finditer(text):
        quoted = match.group(2)
        parts.append(_without_markup(text[end : match.start()]))
        parts.append(f":py:obj:`{quoted}`" if _NAME.fullmatch(quoted) else f"``{quoted}``")
        if re.match(r"\w", text[match.end() :]):
            parts.append("\\ ")
        end = match.end()
    parts.append(_without_markup(text[end:]))
    return "".join(parts)


def _without_markup(text: str) -> str:
    text = re.sub(r"([\\|*])", r"\\\1", text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def plain(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText with Google-style sections."""
    out: list[str] = []
    in_example = in_section = False
    list_indent: int | None = None
    for line in lines:
        if not line.strip():
            in_example, list_indent = False, None
            out.append(line)
            continue
        before = out[-1] if out and out[-1].strip() else ""
        if in_example or line.lstrip().startswith(">>>"):
            if before and not in_example and not _SECTION.match(before):
                out.append("")
            in_example = True
            out.append(line)
            continue
        if _SECTION.match(line):
            in_section = True
            out += [*([""] if before else []), line]
            continue
        in_section = in_section and _indent(line) > 0
        if in_section:
            out.append(escaped(line))
            continue
        if list_indent is None and before and _ITEM.match(line):
            list_indent = _indent(line)
            out.append("")
        elif before and list_indent is None and _indent(line) != _indent(before):
            out.append("")
        elif before and list_indent is not None and _indent(line) < list_indent:
            list_indent = None
            out.append("")
        elif before and _PARAGRAPH.match(line):
            out.append("")
        out.append(escaped(line)[list_indent or 0 :])
    return out


def with_defaults(lines: list[str], kind: Any) -> list[str]:
    """Add the default of each attribute of a dataclass to its description, where it is short."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    out: list[str] = []
    name, in_attributes = "", False
    for line in [*lines, ""]:
        match = _ATTRIBUTE.match(line) if in_attributes else None
        if name and (match or not line.strip()):
            field = fields.get(name)
            default = "" if field is None else repr(field.default)
            shown = field is not None and field.default is not dataclasses.MISSING
            if shown and len(default) <= _LONGEST_DEFAULT and "<" not in default:
                out[-1] = f"{out[-1].rstrip('.')}; default: ``{default}``."
            name = ""
        if match:
            name = match.group(1)
        if line.strip() == "Attributes:":
            in_attributes = True
        elif not line.strip():
            in_attributes = False
        out.append(line)
    return out[:-1]


def process_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: object, lines: list[str]
) -> None:
    is_dataclass = what == "class" and dataclasses.is_dataclass(obj)
    lines[:] = with_defaults(plain(lines), obj) if is_dataclass else plain(lines)


def process_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    return ("", returns) if what == "class" and dataclasses.is_dataclass(obj) else None


def skip_member(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: object
) -> bool | None:
    text = getattr(obj, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None  # fields of named tuples


def setup(app: Sphinx) -> dict[str, bool]:
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-docstring", process_docstring, priority=100)  # napoleon has 500
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True}
