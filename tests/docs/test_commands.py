"""The commands in README and documentation exist, and have the options that are shown."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from pages import PAGES, ROOT, blocks, inline_code, relative

READ_ALL = """
import json, commands
found = {name: sorted(commands.read_command(name).options) for name in commands.command_names()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def known():
    """Command -> its options, as `--help` shows them."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "docs/_ext")])
    result = subprocess.run(
        [sys.executable, "-c", READ_ALL], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return {name: set(options) for name, options in json.loads(result.stdout).items()}


def shown(page):
    """The words after `wsss-fast`, of every command on a page."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    for line in [*lines, *inline_code(page)]:
        for part in re.split(r"&&|\|\|", line.partition(" #")[0]):
            match = re.search(r"(?:^|\s)(?:wsss-fast|-m wsss_fast)\s+(.*)", part.strip())
            if match and not line.strip().startswith("#"):
                words = shlex.split(match.group(1).replace("...", "").replace("$S", ""))
                if words and words[0] != "--help" and not words[0].isupper():
                    yield words


def test_the_help_texts_are_taken_apart(known):
    assert {"demo", "amn run", "crf", "info", "bench dense_crf"} <= set(known)
    assert {"--data", "--out", "--preset", "--pipeline.cam.epochs"} <= known["amn run"]
    assert {"-o", "--out", "--crf.bilateral", "--overwrite", "--no-overwrite"} <= known["crf"]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_exist_with_their_options(page, known):
    for words in shown(page):
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in known), None)
        placeholder = len(words) > 1 and words[1].isupper()  # bench NAME
        if name is None or placeholder:
            assert any(n.split()[0] == words[0] for n in known), f"no command {' '.join(words)}"
            continue
        for word in words:
            option = word.partition("=")[0]
            if re.match(r"--?[a-z]", option) and option != "--help":
                assert option in known[name], f"wsss-fast {name} has no option {option}"


def test_commands_are_found_on_the_pages():
    found = [" ".join(words) for page in PAGES for words in shown(page)]
    assert len(found) > 40
    assert any(command.startswith("amn run --preset amn-voc") for command in found)
