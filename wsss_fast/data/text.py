"""Text files: UTF-8 only; other encodings are named in the error."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from wsss_fast.errors import InputError

_SAVE = "save it as UTF-8 (Excel: 'CSV UTF-8')"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark; line ends become a newline.

    Raises:
        InputError: no such file, or it is not text in this encoding; with the line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: not a readable UTF-8 text ({error.strerror})") from None
    if content.startswith(_UTF16):
        raise InputError(f"{path}: not a readable UTF-8 text, but UTF-16; {_SAVE}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: not a readable UTF-8 text (byte {content[error.start]:#x} in line {line}; "
            f"perhaps Windows-1252 or a binary file); {_SAVE}"
        ) from None
    if "\0" in text:
        raise InputError(
            f"{path}: not a readable UTF-8 text (it has zero bytes, as in UTF-16 or in a binary "
            f"file); {_SAVE}"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """The lines, split at newlines only: a name may contain other separators of Unicode."""
    return text.split("\n")


def composed(text: str) -> str:
    """The text with accented letters as one character each (NFC)."""
    return unicodedata.normalize("NFC", text)


def unprintable(text: str) -> bool:
    """Whether it has a control character, or one that cannot be encoded or is forbidden in XML."""
    return any(unicodedata.category(c) in ("Cc", "Cs") or c in "\ufffe\uffff" for c in text)
