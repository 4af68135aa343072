"""What image decoders raise for damaged files."""

from __future__ import annotations

import struct
import zlib

from PIL import Image, UnidentifiedImageError

# What Pillow raises for damaged files, found by fuzzing (tools/fuzz.py).
UNREADABLE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
