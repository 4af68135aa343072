"""Sphinx extension: the pages of the command line, written from its own help before each build.

`generated/cli/GROUP.md` describes the commands whose first word is GROUP, and
`generated/cli/overview.inc` is the table of all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tests read the commands without Sphinx
    from sphinx.application import Sphinx


@dataclasses.dataclass
class Option:
    """An option or a positional argument: how it is written, what it means, its default."""

    usage: str
    text: str = ""

    @property
    def names(self) -> list[str]:
        return re.findall(r"(?<!\S)--?[\w.-]+", self.usage.replace(",", " "))

    @property
    def default(self) -> str:
        found = re.search(r"\((required|default: .*?)\)$", self.text)
        return found.group(1).removeprefix("default: ") if found else ""

    @property
    def meaning(self) -> str:
        return re.sub(r"\s*\((required|default: .*?)\)$", "", self.text)


@dataclasses.dataclass
class Group:
    """A box of the help text: its title, its description, its options."""

    title: str
    text: str = ""
    options: list[Option] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Command:
    """A command and its help text, taken apart."""

    name: str
    usage: str
    text: str
    groups: list[Group]

    @property
    def options(self) -> set[str]:
        return {name for group in self.groups for option in group.options for name in option.names}


def help_text(*words: str) -> str:
    """What `wsss-fast WORDS --help` prints."""
    from wsss_fast import cli  # the environment decides the width of its tables when it is imported

    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # boxes are drawn where it is UTF-8
    with contextlib.redirect_stdout(printed):
        code = cli.run([*words, "--help"])
    assert code == 0, f"wsss-fast {' '.join(words)} --help: exit code {code}"
    printed.seek(0)
    return printed.read()


def command_names() -> dict[str, str]:
    """Name and summary of each command, in the order of `wsss-fast --help`."""
    found: dict[str, str] = {}
    for line in help_text().splitlines():
        first = re.match(r"^  (\S+(?: \S+)*) {2,}(\S.*)$", line)
        if first:
            found[first.group(1)] = first.group(2).strip()
        elif found and re.match(r"^ {10,}\S", line):
            name = next(reversed(found))
            found[name] += f" {line.strip()}"
    return found


def read_command(name: str) -> Command:
    """Take the help of a command apart."""
    head, *boxes = re.split(r"^╭─ ", help_text(*name.split()), flags=re.MULTILINE)
    usage, _, text = head.partition("\n\n")
    return Command(
        name,
        " ".join(usage.removeprefix("usage: ").split()),
        text.strip(),
        [read_group(box) for box in boxes],
    )


def read_group(box: str) -> Group:
    """Take a box apart, which begins with its title."""
    title, *lines = box.splitlines()
    group = Group(re.sub(r"\s*─+.*$", "", title))
    lines = [line.strip().removeprefix("│").removesuffix("│").rstrip() for line in lines]
    rule = next((n for n, line in enumerate(lines) if re.fullmatch(r" ─+", line)), -1)
    group.text = " ".join(line.strip() for line in lines[: rule + 1] if "─" not in line)
    for line in lines[rule + 1 :]:
        if line.startswith("╰") or not line.strip():
            continue
        if re.match(r" \S", line):
            usage, _, text = line.strip().partition("  ")
            group.options.append(Option(usage, text.strip()))
        elif group.options:
            option = group.options[-1]
            option.text = f"{option.text} {line.strip()}".strip()
    return group


def code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|") if text else ""


def prose(text: str) -> str:
    """A paragraph of a help text: what stands in backticks stays code, nothing else is markup."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        p if p.startswith("`") else re.sub(r"([\\|*_<>\[\]$])", r"\\\1", p) for p in parts
    )


def page(command: Command) -> str:
    lines = [f"## `wsss-fast {command.name}`", "", prose(command.text), ""]
    lines += ["```text", command.usage, "```", ""]
    for group in command.groups:
        options = [o for o in group.options if "--help" not in o.names]
        if not options:
            continue
        nested = re.fullmatch(r"(\S+) options", group.title)
        if nested:
            lines += [f"### `--{nested.group(1)}.*`", ""]
        if group.text:
            lines += [prose(group.text), ""]
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [f"| {code(o.usage)} | {code(o.default)} | {prose(o.meaning)} |" for o in options]
        lines.append("")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:  # an unchanged page is not built again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "generated/cli"
    summaries = command_names()
    groups: dict[str, list[str]] = {}
    for name in summaries:
        groups.setdefault(name.split()[0], []).append(name)
    overview = ["| command | |", "|---|---|"]
    for group, names in groups.items():
        pages = "\n".join(page(read_command(name)) for name in names)
        write(folder / f"{group}.md", f"# {group}\n\n{pages}")
        for name in names:
            anchor = f"wsss-fast-{name}".replace(" ", "-")
            link = f"[`{name}`](generated/cli/{group}.md#{anchor})"
            overview.append(f"| {link} | {prose(summaries[name])} |")
    write(folder / "overview.inc", "\n".join(overview) + "\n")
    for old in folder.glob("*.md"):
        if old.stem not in groups:
            old.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
