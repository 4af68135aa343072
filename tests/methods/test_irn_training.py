"""Training of IRN on a small data set."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from brief import brief
from irn_inputs import train, write_inputs

from wsss_fast import InputError, irn, nets
from wsss_fast.data.transforms import normalise

BRIEF = brief(irn.RECIPES["small"], 64, epochs=1, radius=4)


@pytest.fixture(scope="module")
def inputs(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("irn")
    write_inputs(shapes, out)
    return out


@pytest.fixture(scope="module")
def trained(shapes, inputs):
    return train(shapes, inputs, inputs / "run", BRIEF)


def weights_of(trained):
    return torch.load(trained.weights, weights_only=True)


@torch.inference_mode()
def outputs(trained, data):
    """Yield id, boundary logits and displacements of each image."""
    net = nets.load_weights(nets.irn_resnet50(backbone="small"), trained.weights).eval()
    for id in data.ids:
        yield id, *net(torch.from_numpy(normalise(data.image(id)))[None])


def test_training_writes_weights_and_notes(trained, inputs):
    out = inputs / "run"
    assert trained.weights == out / "irn/weights.pth" and np.isfinite(trained.losses).all()
    assert not list(out.rglob("*.tmp*")) and not list(out.rglob("begun.json"))
    done = json.loads((out / "irn/done.json").read_text())
    assert done["arguments"]["recipe"]["radius"] == 4


def test_mean_displacement_is_that_of_the_trained_network(trained, shapes):
    """Predicted displacements have mean 0, since their mean is subtracted."""
    assert weights_of(trained)["mean_displacement"].abs().min() > 1e-4
    displacements = torch.cat([displacement for *_, displacement in outputs(trained, shapes)])
    assert displacements.mean(dim=(0, 2, 3)).abs().max() < 1e-4


def test_same_seed_gives_same_weights(trained, shapes, inputs, tmp_path):
    first = weights_of(trained)
    again = weights_of(train(shapes, inputs, tmp_path / "again", BRIEF))
    assert first.keys() == again.keys() and all(torch.equal(first[k], again[k]) for k in first)
    other = weights_of(train(shapes, inputs, tmp_path / "other", BRIEF, seed=1))
    assert not torch.equal(first["edge_out.weight"], other["edge_out.weight"])


def test_boundaries_are_learned(shapes, inputs, tmp_path):
    """After training on true masks, boundary probabilities are higher on outlines than off."""
    trained = train(shapes, inputs, tmp_path, dataclasses.replace(BRIEF, epochs=40))
    assert trained.losses[-1] < 0.8 * trained.losses[0]
    on, off = [], []
    for id, logits, _ in outputs(trained, shapes):
        edge, mask = logits.sigmoid()[0, 0].numpy(), shapes.mask(id)[::4, ::4]
        outline = np.zeros(mask.shape, bool)
        outline[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        outline[1:] |= mask[1:] != mask[:-1]
        on.append(edge[outline].mean())
        off.append(edge[~outline].mean())
    assert np.mean(on) > np.mean(off) + 0.1


def test_bad_input_raises_before_anything_is_written(shapes, inputs, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="seeds: .* has no PNG for 24 of 24 ids"):
        irn.train(shapes, out, seeds=tmp_path, backbone="small")
    with pytest.raises(InputError, match="radius: got 40, but a grid of 16x16 cells"):
        train(shapes, inputs, out, dataclasses.replace(BRIEF, radius=40))
    assert not out.exists()
