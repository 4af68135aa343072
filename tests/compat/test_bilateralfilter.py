"""The drop-in for the public module `bilateralfilter`: conventions, conversions, errors."""

import numpy as np
import pytest
import torch

from wsss_fast.compat.bilateralfilter import bilateralfilter, bilateralfilter_batch
from wsss_fast.ops import bilateral_filter

DRAW = np.random.default_rng(0)
N, K, H, W = 2, 3, 5, 7
IMAGES = DRAW.integers(0, 256, N * 3 * H * W).astype(np.float32)
INS = DRAW.random(N * K * H * W, dtype=np.float32)
EXPECTED = bilateral_filter(
    torch.from_numpy(IMAGES).view(N, 3, H, W),
    torch.from_numpy(INS).view(N, K, H, W),
    sigma_rgb=15.0,
    sigma_xy=50.0,
).numpy()
ONE = {"image": IMAGES[: 3 * H * W], "_in": INS[: K * H * W], "H": H, "W": W}
ONE |= {"sigmargb": 15.0, "sigmaxy": 50.0}
BATCH = {"images": IMAGES, "ins": INS, "N": N, "K": K, "H": H, "W": W}
BATCH |= {"sigmargb": 15.0, "sigmaxy": 50.0}


def one(**changes):
    out = np.full(K * H * W, np.nan, np.float32)
    arguments = {**ONE, "out": out, **changes}
    order = ("image", "_in", "out", "H", "W", "sigmargb", "sigmaxy")
    assert bilateralfilter(*(arguments[name] for name in order)) is None
    return arguments["out"]


def batch(**changes):
    arguments = {**BATCH, "outs": np.full(INS.size, np.nan, np.float32), **changes}
    assert bilateralfilter_batch(**arguments) is None
    return arguments["outs"]


def test_results_are_written_in_place():
    outs = np.full(INS.size, np.nan, np.float32)
    order = ("images", "ins", "outs", "N", "K", "H", "W", "sigmargb", "sigmaxy")
    arguments = {**BATCH, "outs": outs}
    assert bilateralfilter_batch(*(arguments[name] for name in order)) is None
    np.testing.assert_array_equal(outs, EXPECTED.reshape(-1))
    np.testing.assert_array_equal(one(), EXPECTED[0].reshape(-1))
    np.testing.assert_array_equal(batch(), outs)
    # The values may be the output, and more or fewer classes are found from their number.
    values = ONE["_in"].copy()
    np.testing.assert_array_equal(one(_in=values, out=values), EXPECTED[0].reshape(-1))
    single = one(_in=INS[: H * W], out=np.empty(H * W, np.float32))
    np.testing.assert_allclose(single, EXPECTED[0, 0].reshape(-1), rtol=1e-5)


CONVERSIONS = {
    "list": lambda a: a.tolist(),
    "tensor": torch.from_numpy,
    "half tensor": lambda a: torch.from_numpy(a).half(),
    "bfloat16 tensor": lambda a: torch.from_numpy(a).bfloat16(),
    "uint8": lambda a: a.astype(np.uint8),
    "int16": lambda a: a.astype(np.int16),
    "float16": lambda a: a.astype(np.float16),
    "strided": lambda a: np.repeat(a, 2)[::2],
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "read-only": lambda a: np.frombuffer(a.tobytes(), np.float32),
    "big-endian": lambda a: a.astype(">f4"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", CONVERSIONS)
def test_inputs_are_converted(kind):
    whole = np.round(8 * ONE["_in"])  # any of the dtypes holds them
    levels = np.round(ONE["image"] / 4) * 4
    levels = np.minimum(levels, 124)
    expected = one(image=levels, _in=whole)
    convert = CONVERSIONS[kind]
    np.testing.assert_array_equal(one(image=convert(levels), _in=convert(whole)), expected)


def test_numbers_of_any_kind():
    sizes = {"N": np.int64(N), "K": np.int32(K), "H": np.uint8(H), "W": torch.tensor(W)}
    found = batch(**sizes, sigmargb=np.float32(15), sigmaxy=50)
    np.testing.assert_array_equal(found, EXPECTED.reshape(-1))
    empty = np.empty(0, np.float32)
    batch(images=empty, ins=empty, outs=empty, N=0)
    batch(ins=empty, outs=empty, K=0)
    one(_in=empty, out=empty)


def test_torchs_threads_and_defaults_do_not_matter():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one()
        batch(images=IMAGES[: 3 * H * W], ins=ONE["_in"], outs=np.empty(K * H * W, "f4"), N=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = one()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    np.testing.assert_array_equal(found, EXPECTED[0].reshape(-1))


READ_ONLY = np.frombuffer(bytes(4 * K * H * W), np.float32)
WRONG_TYPES = {
    "float64": (dict(_in=ONE["_in"].astype(np.float64)), r"_in is float64 \[105\]"),
    "int64": (dict(image=ONE["image"].astype(np.int64)), r"image is int64 \[105\]"),
    "double": (dict(_in=torch.zeros(K * H * W).double()), "_in is float64"),
    "2-D": (dict(_in=ONE["_in"].reshape(K, -1)), r"_in is float32 \[3, 35\]; must be 1-D"),
    "nested": (dict(_in=[[1.0], [2.0]]), r"_in is float32 \[2, 1\]"),
    "ragged": (dict(_in=[[1.0], 2.0]), "_in is no array"),
    "none": (dict(image=None), "image is float32"),
    "text": (dict(image="photo"), "image is no array"),
    "gradient": (dict(_in=torch.zeros(K * H * W).requires_grad_()), "without gradient"),
    "sparse": (dict(_in=torch.zeros(K * H * W).to_sparse()), "_in is a torch.float32 .* dense"),
    "meta": (dict(image=torch.zeros(3 * H * W, device="meta")), "image is .* on meta"),
    "out tensor": (dict(out=torch.zeros(K * H * W)), "out is a Tensor; must be a flat float32"),
    "out list": (dict(out=[0.0] * K * H * W), "out is a list"),
    "out float64": (dict(out=np.zeros(K * H * W)), "out is float64"),
    "out 2-D": (dict(out=np.zeros((K, H * W), np.float32)), r"out is float32 \[3, 35\]"),
    "out strided": (dict(out=np.zeros(2 * K * H * W, np.float32)[::2]), "out is strided"),
    "H": (dict(H=5.0), r"H is 5\.0; must be an integer"),
    "W": (dict(W="7"), "W is '7'; must be an integer"),
    "sigma": (dict(sigmargb="15"), "sigmargb is '15'; must be a number"),
}
WRONG_VALUES = {
    "no height": (dict(H=0), "H is 0; must be >= 1"),
    "negative": (dict(W=-7), "W is -7; must be >= 1"),
    "size": (dict(H=6), r"_in has 105 values; must be a multiple of H \* W = 6 \* 7"),
    "image": (dict(image=IMAGES), r"image has 210 values; must be 105, 3 \* H \* W"),
    "short image": (dict(image=IMAGES[: H * W]), "image has 35 values; must be 105"),
    "short out": (dict(out=np.zeros(35, np.float32)), "out has 35 values; must be 105"),
    "long out": (dict(out=np.zeros(210, np.float32)), "out has 210 values; must be 105"),
    "read-only": (dict(out=READ_ONLY), "out is read-only"),
    "sigma": (dict(sigmaxy=0), "sigmaxy is 0; must be finite and > 0"),
    "nan sigma": (dict(sigmargb=float("nan")), "sigmargb is nan; must be finite and > 0"),
    "tiny sigma": (dict(sigmaxy=1e-9), "bilateralfilter: sigmaxy is 1e-09 and sigmargb is 15.0"),
    "nan": (dict(image=np.full(105, np.nan, np.float32)), "bilateralfilter: image spans nan"),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_wrong_types(name):
    changes, message = WRONG_TYPES[name]
    with pytest.raises(TypeError, match=message):
        one(**changes)


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values(name):
    changes, message = WRONG_VALUES[name]
    with pytest.raises(ValueError, match=message):
        one(**changes)


@pytest.mark.parametrize("size", ["N", "K", "H", "W"])
def test_wrong_sizes_of_a_batch(size):
    with pytest.raises(ValueError, match=r"ins has 210 values; must be \d+, N \* K \* H \* W"):
        batch(**{size: BATCH[size] + 1})
    with pytest.raises(ValueError, match=f"bilateralfilter_batch: {size} is -1"):
        batch(**{size: -1})
