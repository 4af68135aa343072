"""Random damage to files, for the targets of `fuzz.py`."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

Case = Callable[[random.Random, Path], None]  # (random numbers, folder for files)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """A few random changes: bits and bytes changed, parts removed or repeated, numbers, text."""
    data = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.choice((1, 8, 64, len(data)))]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice((1, 16, 256))]
        elif kind == 4:
            data[at : at + 8] = struct.pack(
                rng.choice(("<Q", ">Q")), rng.choice((0, 1, 2**31 - 1, 2**63, 2**64 - 1))
            )
        elif kind == 5:
            data[at:at] = rng.choice(INSERTED)
        else:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
    return bytes(data)


INSERTED = (
    b"../",
    b"\0",
    b"\n",
    b'"',
    b"'",
    b"<!DOCTYPE x [<!ENTITY a 'b'>]>&a;",
    b"&#0;",
    b"]]>",
    b"{",
    b"]",
    b"null",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"NaN",
    b"\xff\xfe",
    "\u202e\u2028é".encode(),
    b";",
    b",",
    b"/etc/passwd",
    b"..\\",
)


def file_target(write: Callable[[Path], object], name: str, read: Callable[[Path], object]) -> Case:
    """A target: damage the file that `write` creates, and read it."""
    valid: list[bytes] = []

    def case(rng: random.Random, work: Path) -> None:
        path = work / name
        if not valid:
            write(path)
            valid.append(path.read_bytes())
        path.write_bytes(damaged(rng, valid[0]))
        read(path)

    return case
