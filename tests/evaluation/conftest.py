"""Predictions with known errors."""

import numpy as np
import pytest

from wsss_fast.data import write_labels


@pytest.fixture(scope="module")
def noisy(shapes, tmp_path_factory):
    """Predictions that are right for most pixels: their folder, and labels by id."""
    folder, rng = tmp_path_factory.mktemp("noisy"), np.random.default_rng(4)
    predictions = {}
    for id in shapes.ids:
        truth = shapes.mask(id)
        wrong = (rng.random(truth.shape) < 0.3) | (truth == 255)
        predictions[id] = np.where(wrong, rng.integers(0, 9, truth.shape), truth).astype(np.uint8)
        write_labels(folder / f"{id}.png", predictions[id])
    return folder, predictions
