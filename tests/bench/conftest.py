"""Tiny inputs for the benchmarks."""

import dataclasses

import pytest

from wsss_fast import ops
from wsss_fast.bench import (
    aamr_loss,
    dense_energy_loss,
    image_views,
    inference,
    label_conditioned,
    merge_maps,
    pixel_adaptive_refine,
    pixel_bce,
    pixel_cross_entropy,
    random_walk,
    saliency_loss,
)
from wsss_fast.bench.harness import roofline, run

HEAD = label_conditioned.Head((2, 8, 9, 9), 3)
TINY_HEADS = {
    "logits": ("logits", HEAD),
    "train": ("train", dataclasses.replace(HEAD, dilations=(1, 2), backward=True)),
    "unscaled": (
        "unscaled",
        dataclasses.replace(HEAD, dilations=(1,), kernel=1, scaled=False, backward=True),
    ),
    "activation": ("activation", dataclasses.replace(HEAD, size=(20, 20))),
}
TINY_ROWS = {
    label_conditioned: TINY_HEADS,
    saliency_loss: {"voc": ("tiny", saliency_loss.Maps((2, 6, 9, 9), (20, 20), 0.5))},
    aamr_loss: {"seg41": ("tiny", aamr_loss.Maps((3, 5, 21, 21), (40, 40)))},
    dense_energy_loss: {
        key: (key, dataclasses.replace(dense_energy_loss.ROWS[key][1], shape=(1, 3, 24, 32)))
        for key in ("half", "2", "exact")
    },
    image_views: {
        key: (key, dataclasses.replace(image_views.ROWS[key][1], size=(14, 17)))
        for key in ("voc", "half")
    },
    merge_maps: {
        key: (key, dataclasses.replace(merge_maps.ROWS[key][1], images=2, size=(14, 17)))
        for key in ("cam1", "amn1")
    },
    inference: {"eps_quick": ("EPS, tiny", inference.Pictures("eps", (32, 48), (1.0,)))},
    pixel_adaptive_refine: {
        key: (key, dataclasses.replace(pixel_adaptive_refine.ROWS[key][1], shape=(1, 3, 20, 18)))
        for key in ("par128", "cams")
    },
    random_walk: {
        key: (key, random_walk.Grid((3, 13, 9), dense=True)) for key in ("tiny3", "irn3")
    },
    **{
        module: {
            key: (text, dataclasses.replace(loss, logits=(2, 5, 6, 6), labels=(17, 17)))
            for key, (text, loss) in module.ROWS.items()
        }
        for module in (pixel_cross_entropy, pixel_bce)
    },
}


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    """Sizes of copies and evictions that take no time."""
    monkeypatch.setattr(roofline, "_COPIED", 1 << 16)
    monkeypatch.setattr(run, "_EVICTING", 1 << 16)


@pytest.fixture
def tiny_rows(monkeypatch):
    for module, rows in TINY_ROWS.items():
        monkeypatch.setattr(module, "ROWS", rows)


@pytest.fixture
def slightly_wrong(monkeypatch):
    """dense_crf with an error of 0.01 in Q at every image's first pixel."""
    right = ops.dense_crf

    def wrong(image, unary, **terms):
        q = right(image, unary, **terms).clone()
        q[..., 0, 0] += 0.01
        return q

    monkeypatch.setattr(ops, "dense_crf", wrong)
