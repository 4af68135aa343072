"""A decoder of Label Studio's brush masks, written from the description of their bits."""

import numpy as np


def decode(rle):
    """All values of a packed list; what is left are fewer than 16 bits, of zeros that fill up."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(count):
        nonlocal place
        place += count
        assert place <= len(bits)
        return int(bits[place - count : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == count and len(bits) - place < 16 and "1" not in bits[place:]
    return values


def mask_of(rle, shape):
    """The mask [H, W] that Label Studio shows: the last of four equal channels, 0 or 255."""
    values = np.array(decode(rle)).reshape(*shape, 4)
    assert (values == values[..., :1]).all()
    return values[..., 3]
