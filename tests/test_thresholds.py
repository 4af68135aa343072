"""Labels at background scores, and counts over many of them: as numpy defines them."""

import numpy as np
import pytest
import torch
from op_testing import each_device

from wsss_fast.evaluation.curves import THRESHOLDS
from wsss_fast.thresholds import add_counts, label_index

CASES = [  # K, H, W
    (0, 5, 7),
    (1, 1, 1),
    (1, 9, 4),
    (2, 37, 50),
    (5, 33, 21),
    (20, 16, 17),
]


def made_scores(classes, height, width, seed=0):
    """Scores with ties between classes, values at thresholds, and some outside 0..1."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-0.01, 1.02, (classes, height, width)).astype(np.float32)
    at = rng.integers(0, len(THRESHOLDS), scores.shape)
    scores = np.where(rng.random(scores.shape) < 0.4, np.float32(THRESHOLDS)[at], scores)
    return scores.astype(np.float32)


def numpy_index(scores, threshold):
    if not len(scores):
        return np.zeros(scores.shape[1:], np.int64)
    return np.where(scores.max(axis=0) > np.float32(threshold), scores.argmax(axis=0) + 1, 0)


def numpy_counts(scores, keys, truth, bounds, labels):
    best = keys[scores.argmax(axis=0)] if len(keys) else np.zeros(truth.shape, np.int64)
    score = scores.max(axis=0) if len(keys) else np.full(truth.shape, -1, np.float32)
    counts = np.zeros((len(bounds) + 1, labels, labels), np.int64)
    above = np.searchsorted(bounds, score, side="left")
    for t, g, p in zip(above.ravel(), truth.ravel(), best.ravel(), strict=True):
        if g < labels:
            counts[t, g, p] += 1
    return counts


@each_device
@pytest.mark.parametrize("case", CASES, ids=str)
def test_label_index_is_numpys(case, device):
    scores, thresholds = made_scores(*case), (0.05, 0.3, 0.3, 0.9)
    index = label_index(torch.from_numpy(scores).to(device), thresholds)
    assert index.dtype == torch.uint8
    assert np.array_equal(index.cpu(), [numpy_index(scores, t) for t in thresholds])


@each_device
def test_label_index_of_a_batch(device):
    scores = np.stack([made_scores(3, 8, 9, seed) for seed in range(2)])
    index = label_index(torch.from_numpy(scores).to(device), (0.1, 0.5))
    assert index.shape == (2, 2, 8, 9)
    assert np.array_equal(index.cpu(), [[numpy_index(s, t) for t in (0.1, 0.5)] for s in scores])


def test_first_class_and_background_win_ties():
    scores = torch.tensor([0.5, 0.3, 0.3, 0.5, 0.5]).view(5, 1, 1)
    assert label_index(scores, (0.4, 0.5)).flatten().tolist() == [1, 0]


@each_device
@pytest.mark.parametrize(
    "bounds",
    [THRESHOLDS, (0.0,), (0.3, 0.3, 0.3001, 1.0), (-0.005, 0.5), tuple(np.linspace(0, 1, 3000))],
    ids=["curve", "one", "repeated", "negative", "many"],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_counts_are_numpys(case, bounds, device):
    scores, labels = made_scores(*case), 21
    rng = np.random.default_rng(1)
    keys = rng.permutation(np.arange(1, labels))[: case[0]]
    truth = rng.choice([0, 3, 20, 255], case[1:]).astype(np.uint8)
    bounds = np.float32(bounds)
    counts = torch.zeros((len(bounds) + 1, labels, labels), dtype=torch.int64, device=device)
    inputs = [torch.from_numpy(x).to(device) for x in (scores, keys, truth, bounds)]
    add_counts(counts, *inputs)
    expected = numpy_counts(scores, keys, truth, bounds, labels)
    assert np.array_equal(counts.cpu(), expected)
    add_counts(counts, *inputs)
    assert np.array_equal(counts.cpu(), 2 * expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_gpu():
    inputs = [
        torch.from_numpy(made_scores(2, 37, 50)),
        torch.tensor([3, 7]),
        torch.zeros(37, 50, dtype=torch.uint8),
        torch.tensor(THRESHOLDS),
    ]
    inputs = [x.to("cuda") for x in inputs]
    counts = torch.zeros(len(THRESHOLDS) + 1, 21, 21, dtype=torch.int64, device="cuda")
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        add_counts(counts, *inputs)
        label_index(inputs[0], (0.05, 0.3))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert counts.sum() == 37 * 50
