"""EPS' stages on a tiny benchmark."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from wsss_fast import InputError, cam, data, eps, nets
from wsss_fast.data import read_labels, write_labels
from wsss_fast.eps import alpha_crf
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.maps import ClassMaps, label_index, load_maps, save_maps, strided_size, to_labels

QUICK = dataclasses.replace(
    eps.RECIPES["small"],
    updates=4,
    batch_size=8,
    scales=(1.0, 0.5),
    augment=dataclasses.replace(eps.RECIPES["small"].augment, crop=64),
)


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("eps") / "run"
    trained = eps.train(shapes, out, backbone="small", recipe=QUICK, precision="fp32")
    return (
        trained,
        eps.infer(shapes, trained.weights, out, backbone="small", recipe=QUICK, precision="fp32"),
        out,
    )


def test_what_it_leaves(finished, shapes):
    trained, result, out = finished
    assert trained.weights == out / "eps/weights.pth" and np.isfinite(trained.losses).all()
    for id in shapes.ids:
        maps, keys = load_maps(result.maps, id), np.flatnonzero(shapes.tags_of(id)) + 1
        np.testing.assert_array_equal(maps.keys, keys)
        assert maps.high_res.shape == (len(keys), *shapes.size(id)) and maps.strided.shape[
            1:
        ] == strided_size(*shapes.size(id))
        assert maps.high_res.min() >= 0 and np.abs(maps.high_res.max(axis=(1, 2)) - 1).max() < 1e-3
        mask = read_labels(result.masks / f"{id}.png")
        np.testing.assert_array_equal(
            mask, to_labels(label_index(maps.high_res, QUICK.threshold), maps.keys)
        )
    assert not list(out.rglob("*.tmp*")) and not list(out.rglob("begun.json"))
    notes = json.loads((out / "eps/done.json").read_text())
    assert notes["arguments"]["recipe"]["tau"] == 0.4 and notes["notes"]["black_saliency"] == 0


def test_same_seed_same_weights(finished, shapes, tmp_path):
    def values(trained):
        return torch.load(trained.weights, weights_only=True)

    again = eps.train(shapes, tmp_path, backbone="small", recipe=QUICK, precision="fp32")
    one, other = values(finished[0]), values(again)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_maps_learn_the_saliency(shapes, tmp_path):
    """After some updates on the objects' outlines, foreground probability is high on objects and low beside them."""
    for id in shapes.ids:
        write_labels(
            tmp_path / "saliency" / f"{id}.png",
            np.where(shapes.mask(id) % 255 > 0, 255, 0),
            palette=b"",
        )
    exact = data.load(shapes.root, saliency=tmp_path / "saliency")
    recipe = dataclasses.replace(
        QUICK,
        updates=60,
        lr=1e-2,
        strategy="naive",
        augment=dataclasses.replace(QUICK.augment, scale=None, jitter=0.0),
    )
    trained = eps.train(exact, tmp_path / "run", backbone="small", recipe=recipe, precision="fp32")
    assert trained.losses[-1] < 0.8 * trained.losses[0]
    net = nets.load_weights(
        nets.eps_resnet38(len(shapes.classes), backbone="small"), trained.weights
    ).eval()
    on, off = [], []
    for id in shapes.ids:
        with torch.inference_mode():
            background = (
                net(torch.from_numpy(data_input(shapes, id)))[1].softmax(dim=1)[0, 0].numpy()
            )
        mask = shapes.mask(id)[4::8, 4::8]
        on.append(1 - background[mask % 255 > 0])
        off.append(1 - background[mask == 0])
    assert np.concatenate(on).mean() > np.concatenate(off).mean() + 0.15


def data_input(shapes, id):
    from wsss_fast.data.transforms import normalise

    return normalise(shapes.image(id))[None]


def batch(classes=8):
    generator = torch.Generator().manual_seed(0)
    tags = torch.zeros(2, classes)
    tags[0, :2] = 1  # the second image has no tag
    return {
        "image": torch.randn(2, 3, 64, 64, generator=generator),
        "tags": tags,
        "saliency": torch.rand(2, 1, 64, 64, generator=generator),
    }


def test_the_loss_is_classification_plus_weighted_saliency():
    torch.manual_seed(0)
    net, sample = nets.eps_resnet38(8, backbone="small").eval(), batch()
    classes, salient = eps.losses(net, sample, QUICK)
    total = eps.method._step(dataclasses.replace(QUICK, saliency_weight=3.0))(net, sample)
    assert (
        total.item() == pytest.approx(classes.item() + 3 * salient.item(), rel=1e-6)
        and salient.item() > 0
    )
    scores, maps = net(sample["image"])
    assert classes.item() == pytest.approx(
        torch.nn.functional.multilabel_soft_margin_loss(scores, sample["tags"]).item(), rel=1e-6
    )
    # the strategies see different classes as foreground: untrained maps reach 1/2 nowhere, so "adaptive" sees none
    values = [
        eps.losses(net, sample, dataclasses.replace(QUICK, strategy=s, background_classes=b))[
            1
        ].item()
        for s, b in (("adaptive", ()), ("naive", ()), ("predefined", (1, 2)), ("predefined", (1,)))
    ]
    assert (
        values[0] == pytest.approx(values[2], rel=1e-6) and len({round(v, 7) for v in values}) == 3
    )
    maps.sum().backward()


def test_the_mask_follows_the_soft_crf_where_asked(finished, shapes, tmp_path):
    trained, _, _ = finished
    some = shapes.only(shapes.ids[:3])
    made = eps.infer(
        some, trained.weights, tmp_path, backbone="small", recipe=QUICK, crf=True, precision="fp32"
    )
    for id in some.ids:
        maps, mask = load_maps(made.maps, id), read_labels(made.masks / f"{id}.png")
        q = QUICK.crf.refine_maps(some.image(id)[None], maps.high_res[None])[0]
        np.testing.assert_array_equal(mask, to_labels(q.argmax(dim=0).numpy(), maps.keys))
    plain = eps.infer(
        some, trained.weights, tmp_path, backbone="small", recipe=QUICK, precision="fp32"
    )
    assert (
        plain.maps == made.maps and plain.masks != made.masks
    )  # both may be asked for in one folder


def test_the_backgrounds_score_falls_with_alpha():
    image = np.full((1, 16, 16, 3), 128, np.uint8)
    scores = np.linspace(0, 1, 16, dtype=np.float32).repeat(16).reshape(1, 1, 16, 16)
    weak = AlphaCrf(
        gaussian=(1.0, 1e-3), bilateral=(1.0, 1.0, 1e-3), iterations=1
    )  # leaves the unaries as they are
    for alpha in (1.0, 4.0, 32.0):
        labels = dataclasses.replace(weak, alpha=alpha).refine_maps(image, scores).argmax(dim=1)
        np.testing.assert_array_equal(labels[0] == 1, scores[0, 0] > (1 - scores[0, 0]) ** alpha)


def test_an_image_without_tags(shapes, finished, tmp_path):
    tags = shapes.tags.copy()
    tags[:2] = 0
    untagged = dataclasses.replace(shapes, tags=tags)
    trained = eps.train(untagged, tmp_path, backbone="small", recipe=QUICK)
    assert np.isfinite(trained.losses).all()
    for crf in (False, True):
        made = eps.infer(
            untagged, trained.weights, tmp_path / str(crf), backbone="small", recipe=QUICK, crf=crf
        )
        assert (read_labels(made.masks / f"{shapes.ids[0]}.png") == 0).all()
        assert load_maps(made.maps, shapes.ids[0]).high_res.shape == (0, 64, 64)


@pytest.mark.parametrize(
    ("change", "said"),
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
def test_impossible_recipes_stop_before_anything_is_written(shapes, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        eps.train(
            shapes, tmp_path / "run", backbone="small", recipe=dataclasses.replace(QUICK, **change)
        )
    assert not (tmp_path / "run").exists()


def test_bad_files_stop_before_anything_is_written(shapes, finished, tmp_path):
    out, weights = tmp_path / "run", finished[0].weights
    lacking = dataclasses.replace(shapes, saliencies={})
    with pytest.raises(InputError, match="saliency: no map for 24 of 24 ids"):
        eps.train(lacking, out, backbone="small", recipe=QUICK)
    with pytest.raises(InputError, match="maps: .* is not a directory"):
        eps.train(shapes, out, backbone="small", recipe=QUICK, maps=tmp_path / "nowhere")
    with pytest.raises(InputError, match="backbone: got 'resnet50'"):
        eps.train(shapes, out, backbone="resnet50", recipe=QUICK)
    with pytest.raises(InputError, match=r"missing: .*head\.weight"):
        cam.infer(shapes, weights, out, backbone="small")
    with pytest.raises(InputError, match="alpha must be > 0, got 0"):
        alpha_crf.make(shapes, finished[1].maps, out, crf=AlphaCrf(alpha=0))
    assert not out.exists()


def test_inverted_saliency_is_reported_by_the_classifiers_maps(shapes, tmp_path, capsys):
    for id in shapes.ids:
        mask, keys = shapes.mask(id), np.flatnonzero(shapes.tags_of(id)) + 1
        write_labels(
            tmp_path / "inverted" / f"{id}.png", np.where(mask % 255 > 0, 0, 255), palette=b""
        )
        save_maps(
            tmp_path / "cam",
            id,
            ClassMaps(keys, np.stack([mask == k for k in keys])[:, ::4, ::4].astype(float)),
        )
    inverted = data.load(shapes.root, saliency=tmp_path / "inverted")
    eps.train(
        inverted,
        tmp_path / "run",
        backbone="small",
        recipe=dataclasses.replace(QUICK, updates=1),
        maps=tmp_path / "cam",
    )
    assert "these maps look inverted; objects must be bright" in capsys.readouterr().err
    notes = json.loads((tmp_path / "run/eps/done.json").read_text())["notes"]["saliency_overlap"]
    assert notes["inside"] < 0.3 < 0.7 < notes["outside"] and len(notes["inverted"]) > 12


@pytest.mark.slow
def test_the_papers_recipes_run_with_the_full_networks(shapes, tmp_path):
    """VOC's and COCO's numbers and EPS' classifier baseline, at few and small images."""
    some = shapes.only(shapes.ids[:2])
    for name, paper in (("voc", eps.RECIPES["resnet38"]), ("coco", eps.COCO)):
        augment = dataclasses.replace(paper.augment, crop=48, long_side=(40, 56))
        recipe = dataclasses.replace(paper, updates=1, batch_size=2, augment=augment, scales=(1.0,))
        trained = eps.train(some, tmp_path / name, recipe=recipe)
        assert np.isfinite(trained.losses).all()
    made = eps.infer(some, trained.weights, tmp_path / "coco", recipe=recipe)
    assert len(list(made.masks.glob("*.png"))) == 2
    paper = cam.RECIPES["resnet38"]
    recipe = dataclasses.replace(paper, updates=1, batch_size=2, augment=augment, scales=(1.0,))
    trained = cam.train(some, tmp_path / "baseline", backbone="resnet38", recipe=recipe)
    assert len(trained.losses) == 1
    maps = cam.infer(
        some, trained.weights, tmp_path / "baseline", backbone="resnet38", recipe=recipe
    ).maps
    assert len(list(maps.glob("*.npz"))) == 2
