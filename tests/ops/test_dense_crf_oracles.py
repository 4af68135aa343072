"""dense_crf on photos against pydensecrf2, and against the exact mean field by brute force."""

import numpy as np
import pytest
import torch
from crf_inputs import AMN, BANDS, COLOR, DEEPLAB, GRAY, SETTINGS, photo, smooth_unary
from op_testing import threads

from wsss_fast.ops import dense_crf


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def pairwise_features(sigmas, maps):
    """Features [2+C, N] as in pydensecrf's utilities: positions and maps [C, H, W] over sigmas."""
    height, width = maps.shape[-2:]
    y, x = np.mgrid[:height, :width]
    stack = np.stack([x, y, *maps]).astype(np.float32)
    return np.ascontiguousarray(
        (stack / np.asarray(sigmas, np.float32)[:, None, None]).reshape(len(sigmas), -1)
    )


@pytest.mark.parametrize("name", ["gray", "bands", "anisotropic", "anisotropic_spatial"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_equals_pydensecrf_on_general_images(name, kind):
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    height, width, labels = 93, 127, 4
    rgb = photo("coffee", height, width).transpose(2, 0, 1)
    maps = {
        "gray": rgb[:1],
        "bands": np.concatenate([rgb, 255 - rgb[::-1]]),
        "anisotropic": rgb,
    }.get(name, rgb[:0])
    terms = {"gray": GRAY, "bands": BANDS, "anisotropic": COLOR}.get(
        name, dict(gaussian=((2.0, 5.0), 3.0), bilateral=None)
    )
    unary = smooth_unary(kind, labels, height, width)
    crf = densecrf.DenseCRF(height * width, labels)
    crf.setUnaryEnergy(unary[0].reshape(labels, -1).numpy().copy())

    def repeated(value, count):
        return value if isinstance(value, tuple) else (value,) * count

    sxy, weight = terms["gaussian"]
    crf.addPairwiseEnergy(pairwise_features(repeated(sxy, 2), maps[:0]), compat=weight)
    if terms["bilateral"]:
        sxy, srgb, weight = terms["bilateral"]
        crf.addPairwiseEnergy(
            pairwise_features(repeated(sxy, 2) + repeated(srgb, len(maps)), maps), compat=weight
        )
    theirs = np.array(crf.inference(10)).reshape(labels, height, width)
    image = torch.from_numpy(maps.copy())[None] if len(maps) else None
    ours = dense_crf(image, unary, **terms)[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-3
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.9999


def pydensecrf(image, unary, gaussian, bilateral, iterations):
    """Q [L, H, W] of pydensecrf2; `image` [H, W, 3] uint8, `unary` [L, H, W] numpy."""
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    labels, height, width = unary.shape
    crf = densecrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1), dtype=np.float32))
    if gaussian:
        crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    if bilateral:
        crf.addPairwiseBilateral(
            sxy=bilateral[0], srgb=bilateral[1], rgbim=image.copy(), compat=bilateral[2]
        )
    return np.array(crf.inference(iterations)).reshape(unary.shape)


def assert_equals_pydensecrf(image, unary, terms):
    theirs = pydensecrf(image, unary[0].numpy(), **terms, iterations=10)
    with threads(2):
        ours = dense_crf(torch.from_numpy(image).permute(2, 0, 1)[None], unary, **terms)[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-3
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("setting", ["amn", "eps", "deeplab", "spatial"])
def test_equals_pydensecrf_on_photos(name, kind, setting):
    image = photo(name, 375, 500)
    assert_equals_pydensecrf(image, smooth_unary(kind, 4, 375, 500), SETTINGS[setting])


@pytest.mark.parametrize("labels", [2, 6, 21, 81])
def test_equals_pydensecrf_for_label_counts(labels):
    assert_equals_pydensecrf(
        photo("chelsea", 281, 375), smooth_unary("soft", labels, 281, 375), AMN
    )


@pytest.mark.parametrize(
    "size", [(92, 127), (93, 127), (94, 127), (1, 61), (61, 1), (1, 1), (3, 5)]
)
def test_equals_pydensecrf_on_odd_sizes(size):
    """Where 4 does not divide H*W, pydensecrf's padding creates vertices that ours need as well."""
    assert_equals_pydensecrf(photo("chelsea", *size), smooth_unary("hard", 3, *size), DEEPLAB)


def brute_force(image, unary, gaussian, bilateral, iterations):
    """Exact mean field in float64, O(N^2): image [H, W, 3], unary [L, H, W] -> Q [L, H, W]."""
    labels, height, width = unary.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    xy = np.stack([x, y], -1).reshape(-1, 2)
    kernels = []
    for term in (gaussian, bilateral):
        features = xy / term[0]
        if len(term) == 3:
            features = np.concatenate([features, image.reshape(-1, 3) / term[1]], 1)
        square = (features**2).sum(1)
        kernel = np.exp(
            -0.5 * np.maximum(square[:, None] + square[None] - 2 * features @ features.T, 0)
        )
        norm = 1 / np.sqrt(kernel.sum(1))
        kernels.append(term[-1] * norm[:, None] * kernel * norm[None])
    energy = unary.reshape(labels, -1).astype(np.float64)

    def softmax(z):
        e = np.exp(z - z.max(0))
        return e / e.sum(0)

    q = softmax(-energy)
    for _ in range(iterations):
        q = softmax(-energy + sum(q @ k for k in kernels))
    return q.reshape(unary.shape)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_as_close_to_exact_as_pydensecrf(kind):
    image, unary = photo("chelsea", 60, 80), smooth_unary(kind, 4, 60, 80)
    exact = brute_force(image, unary[0].numpy(), **AMN, iterations=10)
    theirs = pydensecrf(image, unary[0].numpy(), **AMN, iterations=10)
    ours = dense_crf(torch.from_numpy(image).permute(2, 0, 1)[None], unary, **AMN)[0].numpy()
    assert np.abs(ours - exact).mean() <= np.abs(theirs - exact).mean() + 1e-5
    assert np.abs(ours - exact).max() <= np.abs(theirs - exact).max() + 1e-4
    assert (ours.argmax(0) == exact.argmax(0)).mean() > 0.9  # the lattice is an approximation
