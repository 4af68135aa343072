"""Class maps in the form of each public code: as its code reads them, and back.

The readers here do what the public ones do, on the CPU: `cam.to` stands for `cam.cuda`.
"""

import pickletools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wsss_fast import InputError, RunError, convert
from wsss_fast.cli import run
from wsss_fast.data import load_images
from wsss_fast.maps import ClassMaps, check_maps, load_maps, resize_maps, save_maps, strided_size

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # of np.power, as AMN has it
SIZE = (38, 51)  # strided: 10 x 13
BACKGROUND = 0.3
FORMS = ("irn", "amn", "clip-es", "toco", "int-keys", "crf", "logits")


def smooth(generator, rows, size=SIZE):
    """Scores of classes that each win somewhere, each with its maximum at 1."""
    coarse = torch.from_numpy(generator.random((rows, 4, 5), dtype=np.float32))
    full = resize_maps(coarse, *size)
    full = full / full.amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    return full.numpy().astype(np.float16).astype(np.float32)


def example(keys=(1, 4, 15), background=False):
    """Maps of this package; with a background row all rows sum to 1 at every pixel."""
    high = smooth(np.random.default_rng(len(keys)), len(keys) + background)
    if background:
        high = high / high.sum(axis=0)
        keys = (0, *keys)
    strided = resize_maps(torch.from_numpy(high), *strided_size(*SIZE)).numpy()
    return ClassMaps(np.array(keys, np.int16), strided, high)


def expected(maps, background=BACKGROUND):
    """Labels [H, W]: the highest score, the background's constant or own row first."""
    rows = maps.high_res.astype(np.float16).astype(np.float32)
    if maps.keys[0] == 0:
        return maps.keys[rows.argmax(axis=0)]
    rows = np.concatenate([np.broadcast_to(np.float32(background), (1, *SIZE)), rows])
    return np.concatenate([[0], maps.keys])[rows.argmax(axis=0)]


def public(folder, id="a"):
    return np.load(folder / f"{id}.npy", allow_pickle=True).item()


def with_constant(cams, keys, background=BACKGROUND):
    """A row of the background before the classes', and label numbers for the rows."""
    cams = np.pad(cams, ((1, 0), (0, 0), (0, 0)), constant_values=background)
    return np.pad(keys + 1, (1, 0))[np.argmax(cams, axis=0)]


def random_walk_input(cam):
    """What make_sem_seg_labels.py gives to the random walk: it must be a tensor, for `.cuda`."""
    return cam.to("cpu")


def irn(d):
    assert random_walk_input(d["cam"]).shape == (len(d["keys"]), *strided_size(*SIZE))
    return with_constant(d["high_res"], d["keys"])


def amn(d):
    if "high_res" not in d or "cam" not in d:  # COCO's image without a class
        return np.zeros(SIZE, np.uint8)
    walked = random_walk_input(np.power(d["cam"], 1.3)[1:, ...])
    assert walked.shape == (len(d["keys"]), *strided_size(*SIZE))
    return with_constant(d["high_res"][1:, ...], d["keys"])


def toco(d):
    return with_constant(d["high_res"], d["keys"])


def clip_es(d):
    assert d["attn_highres"].dtype == np.float16 and isinstance(d["keys"], np.ndarray)
    return with_constant(d["attn_highres"], d["keys"])


def mctformer(d, num_classes=21):
    tensor = np.zeros((num_classes, *next(iter(d.values())).shape), np.float32)
    for key in d:
        tensor[key + 1] = d[key]
    tensor[0] = BACKGROUND
    return np.argmax(tensor, axis=0).astype(np.uint8)


def psa_crf(d):
    labels = np.array(list(d))
    return labels[np.array(list(d.values())).argmax(axis=0)]


def toco_logits(d):
    logits = torch.FloatTensor(d["msc_seg"])
    assert logits.shape == (1, 21, *SIZE)
    logits = F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)
    return F.softmax(logits, dim=1)[0].numpy().argmax(axis=0)


READERS = {
    "irn": irn,
    "amn": amn,
    "clip-es": clip_es,
    "toco": toco,
    "int-keys": mctformer,
    "crf": psa_crf,
    "logits": toco_logits,
}
MORE = {"crf": {"background": BACKGROUND}, "logits": {"background": BACKGROUND, "num_classes": 20}}


@pytest.mark.parametrize("form", FORMS)
def test_public_code_reads_our_maps_with_the_same_labels(tmp_path, form):
    maps = example()
    save_maps(tmp_path / "ours", "a", maps)
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public", form=form, **MORE.get(form, {}))
    labels = READERS[form](public(tmp_path / "public"))
    np.testing.assert_array_equal(labels, expected(maps))
    assert set(np.unique(labels)) == {0, 1, 4, 15}


@pytest.mark.parametrize("form", FORMS)
def test_from_our_maps_to_a_public_form_and_back(tmp_path, form, capsys):
    maps = example(background=form in ("amn", "crf", "logits"))
    save_maps(tmp_path / "ours", "a", maps)
    more = {"num_classes": 20} if form == "logits" else {}
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public", form=form, **more)
    assert (
        run(["convert", "from-pickles", *map(str, (tmp_path / "public", tmp_path / "back"))]) == 0
    )
    assert f"convert: 1 file of the form {form} (" in capsys.readouterr().err
    back = load_maps(tmp_path / "back", "a")
    np.testing.assert_array_equal(back.keys, maps.keys)
    exact = form in ("irn", "amn", "clip-es", "toco", "int-keys")
    np.testing.assert_allclose(back.high_res, maps.high_res, atol=5e-4 if exact else 2e-3)
    np.testing.assert_allclose(back.strided, maps.strided, atol=2e-3)


@pytest.mark.parametrize("form", ["amn", "crf", "logits"])
def test_a_constant_background_replaces_the_row(tmp_path, form):
    """AMN's own row of it is no score to compare with; a threshold is."""
    maps = example(background=True)
    save_maps(tmp_path / "ours", "a", maps)
    options = {"form": form, "background": BACKGROUND, "num_classes": 20}
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public", **options)
    found = public(tmp_path / "public")
    others = ClassMaps(maps.keys[1:], maps.strided[1:], maps.high_res[1:])
    np.testing.assert_array_equal(READERS[form](found), expected(others))
    if form == "amn":
        assert (found["high_res"][0] == np.float32(BACKGROUND)).all()


def test_files_can_be_loaded_by_numpy_1_and_hold_plain_types(tmp_path):
    save_maps(tmp_path / "ours", "a", example())
    for form in FORMS:
        convert.maps_to_pickles(tmp_path / "ours", tmp_path / form, form=form, **MORE.get(form, {}))
        content = (tmp_path / form / "a.npy").read_bytes()
        pickled = content[content.index(b"\n") + 1 :]
        names = {arg for code, arg, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
        assert "numpy.core.multiarray _reconstruct" in names
        assert not any(name.startswith("numpy._core") for name in names), names
    assert {type(key) for key in public(tmp_path / "int-keys")} == {int}
    irn = public(tmp_path / "irn")
    assert irn["keys"].dtype == torch.int64 and irn["cam"].dtype == torch.float32
    assert irn["high_res"].dtype == np.float32


@pytest.mark.parametrize("form", ["irn", "amn", "crf"])
def test_images_without_a_class(tmp_path, form):
    """IRN's kin on COCO needs zero rows, AMN's looks whether the maps are there."""
    none = ClassMaps(
        np.zeros(0, np.int16),
        np.zeros((0, *strided_size(*SIZE)), np.float32),
        np.zeros((0, *SIZE), np.float32),
    )
    save_maps(tmp_path / "ours", "a", none)
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public", form=form, **MORE.get(form, {}))
    assert not READERS[form](public(tmp_path / "public")).any()
    assert (form == "amn") == (set(public(tmp_path / "public")) == {"keys"})
    convert.maps_from_pickles(tmp_path / "public", tmp_path / "back")
    assert load_maps(tmp_path / "back", "a").foreground().keys.size == 0


def written_by_public_code():
    """What the makers of each form write for classes 14 and 3 (from 0), in this order."""
    high = smooth(np.random.default_rng(9), 2)
    cam = resize_maps(torch.from_numpy(high), *strided_size(*SIZE))
    keys = torch.tensor([14, 3])
    marginals = np.stack([1 - high.mean(axis=0), *(high / 2)])
    logits = np.full((21, *SIZE), -9.0, np.float32)
    logits[[0, 15, 4]] = np.log(np.maximum(marginals, 1e-4))
    first = torch.cat([1 - cam.mean(dim=0, keepdim=True), cam])
    with_first = np.concatenate([1 - high.mean(axis=0, keepdims=True), high])
    return high, {
        "irn": {"keys": keys, "cam": cam, "high_res": high},
        "amn": {"keys": keys, "cam": first, "high_res": with_first},
        "clip-es": {"keys": keys.numpy(), "attn_highres": high.astype(np.float16)},
        "toco": {"keys": keys.numpy(), "high_res": high},
        "int-keys": {14: high[0].astype(np.float64), np.int64(3): high[1]},
        "crf": {0: marginals[0], 15: marginals[1], 4: marginals[2]},
        "logits": {"msc_seg": logits[None]},
    }


@pytest.mark.parametrize("form", FORMS)
def test_what_public_code_writes(tmp_path, form, capsys):
    high, contents = written_by_public_code()
    (tmp_path / "public").mkdir()
    np.save(tmp_path / "public/a.npy", contents[form], allow_pickle=True)
    convert.maps_from_pickles(tmp_path / "public", tmp_path / "ours")
    assert f"convert: 1 file of the form {form} (" in capsys.readouterr().err
    ours = load_maps(tmp_path / "ours", "a")
    has_background = form in ("amn", "crf", "logits")
    assert ours.keys.tolist() == [0, 4, 15] if has_background else [4, 15]
    assert ours.strided.shape[1:] == (10, 13)
    scale = 0.5 if form in ("crf", "logits") else 1
    np.testing.assert_allclose(ours.foreground().high_res, high[[1, 0]] * scale, atol=2e-3)
    if form == "amn":
        np.testing.assert_allclose(ours.high_res[0], 1 - high.mean(axis=0), atol=1e-3)


def test_amn_shapes_that_shifted_every_class(tmp_path):
    """Two keys and three rows: the first row is the background's, not the first class's."""
    (tmp_path / "public").mkdir()
    rows = np.stack([np.full((10, 13), v, np.float32) for v in (0.1, 0.5, 0.9)])
    content = {"keys": np.array([0, 14]), "cam": torch.from_numpy(rows)}
    np.save(tmp_path / "public/a.npy", content, allow_pickle=True)
    convert.maps_from_pickles(tmp_path / "public", tmp_path / "ours")
    ours = load_maps(tmp_path / "ours", "a")
    assert ours.keys.tolist() == [0, 1, 15]
    np.testing.assert_allclose(ours.strided[:, 0, 0], [0.1, 0.5, 0.9], atol=1e-3)


def photo(folder, id="a", size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / f"{id}.png")


def test_plain_logits_at_stride_8_and_probabilities(tmp_path):
    logits = np.random.default_rng(0).normal(size=(21, 5, 7)).astype(np.float32) * 4
    (tmp_path / "public").mkdir()
    np.save(tmp_path / "public/a.npy", logits)
    photo(tmp_path / "photos")
    with pytest.raises(InputError, match=r"a\.npy: has logits \[21, 5, 7\].* --images"):
        convert.maps_from_pickles(tmp_path / "public", tmp_path / "ours")
    convert.maps_from_pickles(tmp_path / "public", tmp_path / "ours", images=tmp_path / "photos")
    full = F.interpolate(torch.from_numpy(logits)[None], SIZE, mode="bilinear")
    wanted = full.softmax(dim=1)[0].numpy()
    ours = load_maps(tmp_path / "ours", "a")
    labels = ours.keys[ours.high_res.argmax(axis=0)]
    assert (labels == wanted.argmax(axis=0)).mean() > 0.999  # stored as float16
    np.testing.assert_allclose(ours.high_res, wanted[ours.keys], atol=1e-3)

    np.save(tmp_path / "public/a.npy", wanted)
    convert.maps_from_pickles(tmp_path / "public", tmp_path / "again")
    again = load_maps(tmp_path / "again", "a")
    np.testing.assert_allclose(again.high_res, ours.high_res, atol=1e-3)


def test_the_form_decides_where_two_are_possible(tmp_path):
    """Maps of classes 0 and 3 that happen to sum to 1, and a form that the file does not have."""
    (tmp_path / "public").mkdir()
    half = np.full((8, 8), 0.5, np.float32)
    half[:4] = 0.25
    np.save(tmp_path / "public/a.npy", {0: half, 3: 1 - half}, allow_pickle=True)
    for form, keys in (("auto", [0, 3]), ("crf", [0, 3]), ("int-keys", [1, 4])):
        convert.maps_from_pickles(tmp_path / "public", tmp_path / form, form=form)
        assert load_maps(tmp_path / form, "a").keys.tolist() == keys
    with pytest.raises(InputError, match=r"a\.npy: is of the form .*, not irn"):
        convert.maps_from_pickles(tmp_path / "public", tmp_path / "none", form="irn")
    np.save(tmp_path / "public/a.npy", {3: half}, allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy: has no map 0, the background"):
        convert.maps_from_pickles(tmp_path / "public", tmp_path / "none", form="crf")


def test_photos_are_compared_and_give_sizes(tmp_path, capsys):
    maps = example()
    save_maps(tmp_path / "ours", "a", ClassMaps(maps.keys, maps.strided))
    with pytest.raises(InputError, match=r"a\.npz: has no scores at the photo's size; .*--images"):
        convert.maps_to_pickles(tmp_path / "ours", tmp_path / "none", form="toco")
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "irn")
    assert "high_res" not in public(tmp_path / "irn")
    assert "maps without high_res" in capsys.readouterr().err
    photo(tmp_path / "photos")
    options = {"form": "toco", "images": tmp_path / "photos"}
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "toco", **options)
    assert public(tmp_path / "toco")["high_res"].shape == (3, *SIZE)
    photo(tmp_path / "small", size=(20, 20))
    with pytest.raises(InputError, match=r"a\.npy: maps are \(38, 51\), but the image is \(20, 20"):
        convert.maps_from_pickles(tmp_path / "toco", tmp_path / "none", images=tmp_path / "small")
    photo(tmp_path / "others", id="b")
    with pytest.raises(InputError, match="others: has no photo of 'a'"):
        convert.maps_from_pickles(tmp_path / "toco", tmp_path / "none", images=tmp_path / "others")


def test_names_of_coco(tmp_path, capsys):
    """AMN's lists have the number alone; photos, and this package's ids, have the whole name."""
    ids = ("COCO_train2014_000000000009", "COCO_train2014_000000000025")
    for id in ids:
        save_maps(tmp_path / "ours", id, example())
        photo(tmp_path / "photos", id=id)
    options = {"form": "amn", "coco_numbers": True}
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public", **options)
    names = sorted(p.name for p in (tmp_path / "public").iterdir())
    assert names == ["000000000009.npy", "000000000025.npy"]
    (tmp_path / "public/000000000009.npy").rename(tmp_path / "public/9.npy")
    convert.maps_from_pickles(tmp_path / "public", tmp_path / "back", images=tmp_path / "photos")
    assert sorted(p.stem for p in (tmp_path / "back").iterdir()) == sorted(ids)
    assert "named by the number of COCO's photo" in capsys.readouterr().err
    convert.maps_from_pickles(str(tmp_path / "public"), str(tmp_path / "kept"))
    assert sorted(p.stem for p in (tmp_path / "kept").iterdir()) == ["000000000025", "9"]
    data = load_images(tmp_path / "photos")
    with pytest.raises(InputError, match=r"it has 000000000025\.npz: repeat .* with --images"):
        check_maps(tmp_path / "kept", data.only(ids[1:]))
    (tmp_path / "public/000000000009.npy").write_bytes((tmp_path / "public/9.npy").read_bytes())
    with pytest.raises(RunError, match="1 of 3 files were left out"):
        convert.maps_from_pickles(
            tmp_path / "public", tmp_path / "twice", images=tmp_path / "photos"
        )


def test_a_cam_at_another_stride_is_computed_again(tmp_path, capsys):
    maps = example()
    (tmp_path / "public").mkdir()
    content = {"keys": maps.keys - 1, "cam": maps.strided[:, :5, :5], "high_res": maps.high_res}
    np.save(tmp_path / "public/a.npy", content, allow_pickle=True)
    convert.maps_from_pickles(tmp_path / "public", tmp_path / "ours")
    assert "cam is not at stride 4" in capsys.readouterr().err
    np.testing.assert_allclose(load_maps(tmp_path / "ours", "a").strided, maps.strided, atol=1e-3)


WRONG = (
    ({"form": "logits"}, "needs the number of classes; give --num-classes"),
    ({"form": "logits", "num_classes": 0}, "number of classes, not 0"),
    ({"form": "logits", "num_classes": 9, "background": 0.3}, "label 15, but num_classes is 9"),
    ({"form": "logits", "num_classes": 20}, "has no scores of the background"),
    ({"form": "crf"}, "has no scores of the background, which the form crf stores; give"),
    ({"form": "crf", "background": 1.5}, "background is 1.5, must be within 0..1"),
    ({"form": "crf", "background": float("nan")}, "background is nan"),
    ({"images": "nowhere"}, "images: nowhere is not a directory"),
)


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[m[:28] for _, m in WRONG])
def test_what_a_form_needs(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    save_maps(tmp_path / "ours", "a", example())
    words = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", str(v))]
    with pytest.raises(InputError, match=message):
        convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public", **options)
    assert run(["convert", "to-pickles", "ours", "public", *words]) == 2
    assert not (tmp_path / "public").exists()


def test_one_odd_file_of_a_batch_of_every_form(tmp_path, capsys):
    _, contents = written_by_public_code()
    folder = tmp_path / "public"
    folder.mkdir()
    for form, content in contents.items():
        np.save(folder / f"{form}.npy", content, allow_pickle=True)
    np.save(folder / "none.npy", {"keys": []}, allow_pickle=True)
    whole = (folder / "irn.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="1 of 9 files were left out"):
        convert.maps_from_pickles(folder, tmp_path / "ours")
    err = capsys.readouterr().err
    assert (
        "cut.npy: cannot be unpickled as maps" in err
        and "convert: 2 files of the form amn (" in err
    )
    written = sorted(p.stem for p in (tmp_path / "ours").iterdir())
    assert written == sorted([*contents, "none"])
