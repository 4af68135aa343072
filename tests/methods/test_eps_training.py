"""Training of EPS on a small data set."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from brief import brief

from wsss_fast import InputError, data, eps, nets
from wsss_fast.data import write_labels
from wsss_fast.data.transforms import normalise
from wsss_fast.eps.training import _step
from wsss_fast.maps import ClassMaps, save_maps

BRIEF = brief(eps.RECIPES["small"], 64, updates=4, scales=(1.0, 0.5))


def train(data, out, recipe=BRIEF, **options):
    return eps.train(data, out, backbone="small", recipe=recipe, precision="fp32", **options)


def weights_of(trained):
    return torch.load(trained.weights, weights_only=True)


def write_saliency(folder, id, foreground):
    write_labels(folder / f"{id}.png", np.where(foreground, 255, 0), palette=b"")


def test_training_writes_weights_and_notes(shapes, tmp_path):
    trained = train(shapes, tmp_path)
    assert trained.weights == tmp_path / "eps/weights.pth" and np.isfinite(trained.losses).all()
    assert not list(tmp_path.rglob("*.tmp*")) and not list(tmp_path.rglob("begun.json"))
    done = json.loads((tmp_path / "eps/done.json").read_text())
    assert done["arguments"]["recipe"]["tau"] == 0.4 and done["notes"]["black_saliency"] == 0


def test_same_seed_gives_same_weights(shapes, tmp_path):
    first, again = (weights_of(train(shapes, tmp_path / name)) for name in ("first", "again"))
    assert first.keys() == again.keys() and all(torch.equal(first[k], again[k]) for k in first)


def test_maps_learn_the_saliency(shapes, tmp_path):
    """With the objects as saliency, the foreground probability gets higher on them than off."""
    for id in shapes.ids:
        write_saliency(tmp_path / "saliency", id, shapes.mask(id) % 255 > 0)
    exact = data.load(shapes.root, saliency=tmp_path / "saliency")
    augment = dataclasses.replace(BRIEF.augment, scale=None, jitter=0.0)
    changes = {"updates": 60, "lr": 1e-2, "strategy": "naive", "augment": augment}
    trained = train(exact, tmp_path / "run", dataclasses.replace(BRIEF, **changes))
    assert trained.losses[-1] < 0.8 * trained.losses[0]
    net = nets.eps_resnet38(len(shapes.classes), backbone="small")
    net = nets.load_weights(net, trained.weights).eval()
    on, off = [], []
    for id in shapes.ids:
        with torch.inference_mode():
            _, maps = net(torch.from_numpy(normalise(shapes.image(id))[None]))
        foreground = 1 - maps.softmax(dim=1)[0, 0].numpy()
        mask = shapes.mask(id)[4::8, 4::8]
        on.append(foreground[mask % 255 > 0])
        off.append(foreground[mask == 0])
    assert np.concatenate(on).mean() > np.concatenate(off).mean() + 0.15


def example_batch(classes=8):
    """The first image has two tags, the second none."""
    generator = torch.Generator().manual_seed(0)
    tags = torch.zeros(2, classes)
    tags[0, :2] = 1
    return {
        "image": torch.randn(2, 3, 64, 64, generator=generator),
        "tags": tags,
        "saliency": torch.rand(2, 1, 64, 64, generator=generator),
    }


def test_loss_is_classification_plus_weighted_saliency():
    torch.manual_seed(0)
    net, batch = nets.eps_resnet38(8, backbone="small").eval(), example_batch()
    classes, salient = eps.losses(net, batch, BRIEF)
    total = _step(dataclasses.replace(BRIEF, saliency_weight=3.0))(net, batch)
    assert total.item() == pytest.approx(classes.item() + 3 * salient.item(), rel=1e-6)
    assert salient.item() > 0
    scores, maps = net(batch["image"])
    expected = torch.nn.functional.multilabel_soft_margin_loss(scores, batch["tags"])
    assert classes.item() == pytest.approx(expected.item(), rel=1e-6)
    maps.sum().backward()


def test_strategies_select_different_foreground_classes():
    """Untrained maps reach 1/2 nowhere, so "adaptive" selects no class."""
    torch.manual_seed(0)
    net, batch = nets.eps_resnet38(8, backbone="small").eval(), example_batch()

    def saliency_loss(strategy, background_classes=()):
        changes = {"strategy": strategy, "background_classes": background_classes}
        return eps.losses(net, batch, dataclasses.replace(BRIEF, **changes))[1].item()

    adaptive, none = saliency_loss("adaptive"), saliency_loss("predefined", (1, 2))
    assert adaptive == pytest.approx(none, rel=1e-6)
    naive, one = saliency_loss("naive"), saliency_loss("predefined", (1,))
    assert len({round(v, 7) for v in (adaptive, naive, one)}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 1.5}, "tau must be in 0..1, got 1.5"),
        ({"lam": -0.1}, "lam must be in 0..1"),
        ({"threshold": 2.0}, "threshold must be in 0..1"),
        ({"saliency_weight": 0.0}, "saliency_weight must be > 0"),
        ({"strategy": "best"}, "strategy must be adaptive, naive or predefined, got 'best'"),
        (
            {"background_classes": (1,)},
            "background_classes are labels in 1..8 for strategy predefined",
        ),
        (
            {"strategy": "predefined", "background_classes": (9,)},
            "background_classes are labels in 1..8",
        ),
    ],
)
def test_impossible_recipes_raise_before_anything_is_written(shapes, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        train(shapes, tmp_path / "run", dataclasses.replace(BRIEF, **change))
    assert not (tmp_path / "run").exists()


def test_bad_input_raises_before_anything_is_written(shapes, tmp_path):
    out = tmp_path / "run"
    without = dataclasses.replace(shapes, saliencies={})
    with pytest.raises(InputError, match="saliency: no map for 24 of 24 ids"):
        train(without, out)
    with pytest.raises(InputError, match="maps: .*nowhere is not a directory"):
        train(shapes, out, maps=tmp_path / "nowhere")
    with pytest.raises(InputError, match="backbone: got 'resnet50'"):
        eps.train(shapes, out, backbone="resnet50", recipe=BRIEF)
    assert not out.exists()


def test_inverted_saliency_is_reported(shapes, tmp_path, capsys):
    for id in shapes.ids:
        mask, keys = shapes.mask(id), np.flatnonzero(shapes.tags_of(id)) + 1
        write_saliency(tmp_path / "inverted", id, mask % 255 == 0)
        scores = np.stack([mask == k for k in keys])[:, ::4, ::4].astype(float)
        save_maps(tmp_path / "cam", id, ClassMaps(keys, scores))
    inverted = data.load(shapes.root, saliency=tmp_path / "inverted")
    recipe = dataclasses.replace(BRIEF, updates=1)
    train(inverted, tmp_path / "run", recipe, maps=tmp_path / "cam")
    assert "these maps look inverted; objects must be bright" in capsys.readouterr().err
    done = json.loads((tmp_path / "run/eps/done.json").read_text())
    overlap = done["notes"]["saliency_overlap"]
    assert overlap["inside"] < 0.3 < 0.7 < overlap["outside"] and len(overlap["inverted"]) > 12
