"""The drop-in under the user's torch defaults, and with numbers and arrays of any kind."""

import contextlib

import numpy as np
import pytest
import torch

from wsss_fast.compat.pydensecrf import densecrf, utils

DRAW = np.random.default_rng(0)
PICTURE = DRAW.integers(0, 256, (6, 7, 3), dtype=np.uint8)
LABELS = DRAW.integers(0, 3, (6, 7))
ENERGIES = utils.unary_from_labels(LABELS, 3, 0.7, zero_unsure=False)


def inference(
    *, size=(7, 6, 3), energies=ENERGIES, picture=PICTURE, sigma=3, weight=3, steps=3, odd=False
):
    """Q of both terms; with `odd`, of terms that `ops.dense_crf` does not compute, stepwise."""
    crf = densecrf.DenseCRF2D(*size)
    crf.setUnaryEnergy(energies)
    crf.addPairwiseGaussian(sigma, weight)
    crf.addPairwiseBilateral(sigma, sigma, picture, weight)
    if not odd:
        return crf.inference(steps)
    crf.addPairwiseGaussian(2, np.eye(3, dtype=np.float32))
    crf.addPairwiseEnergy(
        utils.create_pairwise_bilateral((3, 3), (5, 5, 5), picture, 2),
        1.0,
        normalization=densecrf.NORMALIZE_BEFORE,
    )
    q, *unused = crf.startInference()
    crf.stepInference(q, *unused)
    assert np.isfinite(crf.klDivergence(q))
    return q


@contextlib.contextmanager
def defaults(dtype=None, device=None):
    """torch's defaults, as a user may set them."""
    torch.set_default_dtype(dtype or torch.float32)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(
    "given", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "meta"}], ids=str
)
def test_torchs_defaults_do_not_matter(given, odd):
    expected = inference(odd=odd)
    with defaults(**given):
        found = inference(odd=odd)
        energies = utils.unary_from_labels(LABELS, 3, 0.7, zero_unsure=False)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(energies, ENERGIES)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "given",
    [
        {"size": (np.int64(7), np.uint8(6), np.int16(3)), "steps": np.int32(3)},
        {"size": (7.0, np.float64(6), 3), "steps": 3.0},
        {"sigma": np.float64(3), "weight": np.float32(3)},
        {"sigma": np.float16(3), "weight": np.array(3.0)},
        {"sigma": np.array(3)},
        {"energies": np.asfortranarray(ENERGIES), "picture": np.asfortranarray(PICTURE)},
        {"energies": ENERGIES[::-1].copy()[::-1], "picture": PICTURE[:, ::-1].copy()[:, ::-1]},
        {"energies": np.repeat(ENERGIES, 2, 1)[:, ::2], "picture": np.repeat(PICTURE, 2, 0)[::2]},
        {"energies": read_only(ENERGIES), "picture": read_only(PICTURE)},
        {"energies": torch.from_numpy(ENERGIES), "picture": torch.from_numpy(PICTURE)},
    ],
    ids=range(10),
)
@pytest.mark.parametrize("odd", [False, True])
def test_numbers_and_arrays_of_any_kind(given, odd):
    np.testing.assert_array_equal(inference(odd=odd, **given), inference(odd=odd))


def test_arrays_may_be_read_only_unless_they_are_written():
    crf = densecrf.DenseCRF2D(7, 6, 3)
    crf.setUnaryEnergy(ENERGIES)
    q, *unused = crf.startInference()
    assert crf.klDivergence(read_only(q)) == crf.klDivergence(q)
    with pytest.raises(ValueError, match="stepInference: Q is read-only; pass a copy"):
        crf.stepInference(read_only(q), *unused)
    assert np.isnan(crf.klDivergence(np.full_like(q, np.nan)))


def energies_with(value, where):
    energies = ENERGIES.copy()
    energies[where] = value
    return energies


WRONG = {
    "float64": ({"energies": ENERGIES.astype(float)}, r"u is float64; .*astype\(np.float32\)"),
    "big_endian": ({"energies": ENERGIES.astype(">f4")}, "u is >f4; must be float32"),
    "gradient": ({"energies": torch.zeros(3, 42, requires_grad=True)}, "u cannot be read .* grad"),
    "ragged": ({"energies": [[1.0], [2.0, 3.0]]}, "u cannot be read as an array"),
    "nan": ({"energies": energies_with(np.nan, (0, 0))}, "energies have NaN"),
    "infinite": ({"energies": energies_with(np.inf, (slice(None), 0))}, "only .infinity at a"),
    "negative": ({"energies": energies_with(-np.inf, (0, 0))}, "energies have -infinity"),
    "half_a_pixel": ({"size": (7.5, 6, 3)}, "w is 7.5; must be an integer >= 1"),
    "nan_pixels": ({"size": (7, np.nan, 3)}, "h is nan; must be an integer >= 1"),
    "text": ({"size": ("7", 6, 3)}, "w is '7'; must be an integer >= 1"),
    "huge": ({"size": (2**70, 6, 3)}, "w is 11805.*; must be at most"),
    "half_a_step": ({"steps": 2.5}, "niter is 2.5; must be an integer >= 0"),
    "endless": ({"steps": 10**12}, "niter is 1000000000000; must be at most 100000"),
    "sigma": ({"sigma": np.float32("inf")}, "sxy is .*inf.*; must be finite and > 0"),
    "weight": ({"weight": np.float64("nan")}, "compat is nan; must be finite"),
    "matrix": ({"weight": np.full((3, 3), np.nan, np.float32)}, "compat has NaN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_errors_with_a_name(name):
    given, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        inference(**given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: utils.unary_from_softmax(np.full((2, 3), np.nan)), "sm has NaN"),
        (lambda: utils.unary_from_softmax(np.ones((2, 3)), clip=np.nan), "clip is nan"),
        (lambda: utils.unary_from_softmax(np.ones((2, 3)), clip=2), "clip is 2; must be in 0..1"),
        (lambda: utils.unary_from_labels(np.array([2**64 - 1], np.uint64), 2, 0.7), "labels span"),
        (lambda: utils.create_pairwise_gaussian((1, 1), (-3, 4)), "shape is -3; must be >= 0"),
    ],
)
def test_wrong_values_of_utils(call, message):
    with pytest.raises(ValueError, match=message):
        call()
