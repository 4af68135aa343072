"""Batches of images that share a pass of a network."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_fast import data
from wsss_fast.stages.activate import _large_batches, same_size_batches, unfinished_batches

SIZES = [(20, 30), (30, 20), (20, 30), (20, 30), (30, 20), (20, 30)]


@pytest.fixture
def mixed(tmp_path):
    lines = ["file,class"]
    for number, size in enumerate(SIZES):
        Image.fromarray(np.full((*size, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,cat")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return data.load(tmp_path)


def test_consecutive_images_of_one_size_share_a_pass(mixed):
    assert list(same_size_batches(mixed, mixed.ids, 8)) == [
        ["0"],
        ["1"],
        ["2", "3"],
        ["4"],
        ["5"],
    ]


@pytest.mark.parametrize(
    ("images", "least", "found"),
    [
        (100, 1, [["0", "2", "3", "5"], ["1", "4"]]),
        (2, 1, [["0", "2"], ["3", "5"], ["1", "4"]]),
        (0, 1, [["0"], ["2"], ["3"], ["5"], ["1"], ["4"]]),
        (0, 3, [["0", "2", "3"], ["5"], ["1", "4"]]),
    ],
)
def test_on_cuda_the_memory_limits_the_batches(mixed, images, least, found):
    """Memory for so many images, half of which is used."""
    assert list(_large_batches(mixed, least, 2 * images * 12_000 * 600)) == found


def test_batches_with_an_unfinished_image_are_done(mixed):
    batches, own = unfinished_batches(mixed, 2, torch.device("cpu"), lambda id: id in "0235")
    assert batches == [["1"], ["4"]] and own == 6
