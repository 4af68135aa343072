"""wsss_fast.compat.pydensecrf against the installed pydensecrf2, and its own errors."""

from itertools import product

import numpy as np
import pytest
import torch

import wsss_fast
import wsss_fast.compat.pydensecrf.densecrf as dcrf
from wsss_fast.compat.pydensecrf import densecrf, utils

WIDTH, HEIGHT, LABELS = 23, 18, 3
POINTS = WIDTH * HEIGHT
NORMALIZATIONS = list(densecrf.NormalizationType)
KERNELS = list(densecrf.KernelType)
COMPATIBILITIES = {
    "potts": 3.0,
    "negative_potts": -0.4,
    "diagonal": np.array([-2.0, 0.5, -1.0], np.float32),
    "matrix": np.array([[-2.0, 0.3, 0.1], [0.5, -1.0, 0.2], [0.0, 0.4, -1.5]], np.float32),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def theirs():
    return pytest.importorskip("pydensecrf.densecrf")


@pytest.fixture
def their_utils():
    return pytest.importorskip("pydensecrf.utils")


def image(channels=3, seed=0):
    """[h, w, C] uint8, smooth with some noise."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH] / WIDTH
    planes = [90 + 60 * np.sin(4 * x + c) + 50 * np.cos(5 * y - c) for c in range(channels)]
    noisy = np.stack(planes, -1) + random.randn(HEIGHT, WIDTH, channels) * 6
    return np.clip(noisy, 0, 255).astype(np.uint8)


def unary(seed=0, labels=LABELS):
    """[L, N] float32 energies of regions with noise."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.cos((x * (k + 1) + y * k) / 9.0 + k) * 1.5 for k in range(labels)]
    scores = np.stack(waves) + random.randn(labels, HEIGHT, WIDTH)
    return -torch.log_softmax(torch.from_numpy(scores), 0).float().reshape(labels, -1).numpy()


def models(theirs, build, labels=LABELS):
    """The same model in both packages; `build(crf, package)` adds its terms."""
    pair = []
    for package in (densecrf, theirs):
        crf = package.DenseCRF2D(WIDTH, HEIGHT, labels)
        crf.setUnaryEnergy(unary(labels=labels))
        build(crf, package)
        pair.append(crf)
    return pair


def assert_same(ours, other, atol=1e-4):
    ours, other = np.array(ours), np.array(other)
    assert ours.shape == other.shape and ours.dtype == other.dtype == np.float32
    np.testing.assert_allclose(ours, other, atol=atol, rtol=0)


@pytest.mark.parametrize("compat", COMPATIBILITIES)
@pytest.mark.parametrize(
    "normalization, kernel", list(product(NORMALIZATIONS, KERNELS)), ids=lambda v: v.name
)
def test_every_normalisation_kernel_and_compatibility(theirs, normalization, kernel, compat):
    # Without normalisation the filter sums over all neighbours; a smaller weight keeps the model
    # from saturating, where all results would be equal.
    scale = 0.05 if normalization == densecrf.NO_NORMALIZATION else 1.0
    value = COMPATIBILITIES[compat] * np.float32(scale)

    def build(crf, package):
        how = dict(
            kernel=package.KernelType(kernel),
            normalization=package.NormalizationType(normalization),
        )
        crf.addPairwiseGaussian(sxy=(2.0, 3.0), compat=value, **how)
        crf.addPairwiseBilateral(sxy=20, srgb=(13, 20, 9), rgbim=image(), compat=value, **how)

    ours, other = models(theirs, build)
    assert_same(ours.inference(3), other.inference(3))
    assert np.ptp(np.array(ours.inference(3))) > 0.1


@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=lambda v: v.name)
@pytest.mark.parametrize("compat", ["potts", "diagonal", "matrix"])
def test_steps_and_divergence(theirs, normalization, compat):
    value = COMPATIBILITIES[compat] * np.float32(
        0.05 if normalization == densecrf.NO_NORMALIZATION else 1.0
    )

    def build(crf, package):
        how = dict(normalization=package.NormalizationType(normalization))
        crf.addPairwiseGaussian(sxy=3, compat=2.0 if normalization else 0.1, **how)
        crf.addPairwiseBilateral(sxy=(30, 20), srgb=13, rgbim=image(), compat=value, **how)

    ours, other = models(theirs, build)
    states = [crf.startInference() for crf in (ours, other)]
    divergences = []
    for _ in range(5):
        assert_same(states[0][0], states[1][0])
        pair = [
            crf.klDivergence(state[0]) for crf, state in zip((ours, other), states, strict=True)
        ]
        np.testing.assert_allclose(*pair, rtol=1e-3)
        divergences.append(pair[0])
        for crf, state in zip((ours, other), states, strict=True):
            assert crf.stepInference(*state) is None
    assert len(set(divergences)) == 5
    np.testing.assert_allclose(states[0][0], ours.inference(5), atol=1e-4)


def test_the_fast_path_is_taken_and_agrees_with_the_general_one(monkeypatch):
    calls = []
    native = densecrf.ops.dense_crf
    monkeypatch.setattr(
        densecrf.ops, "dense_crf", lambda *a, **k: calls.append(k) or native(*a, **k)
    )
    for gaussian, bilateral in product((False, True), repeat=2):
        crf = densecrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        crf.setUnaryEnergy(unary())
        if bilateral:
            crf.addPairwiseBilateral(sxy=(80, 60), srgb=(13, 10, 9), rgbim=image(), compat=10)
        if gaussian:
            crf.addPairwiseGaussian(sxy=3, compat=3)
        assert_same(crf.inference(4), densecrf.DenseCRF.inference(crf, 4))
    assert len(calls) == 4
    crf.addPairwiseGaussian(sxy=9, compat=1)  # a second spatial term is another model
    crf.inference(1)
    assert len(calls) == 4


@pytest.mark.parametrize("labels", [1, 2, 7, 300])
def test_label_counts(theirs, labels):
    def build(crf, _):
        crf.addPairwiseGaussian(3, 3)
        crf.addPairwiseBilateral(40, 13, image(), 5)

    ours, other = models(theirs, build, labels)
    assert_same(ours.inference(5), other.inference(5), atol=1e-3)


def test_general_features(theirs):
    """Points that do not form an image, and two terms of different dimensions."""
    random = np.random.RandomState(1)
    features = (random.rand(4, 91) * 3).astype(np.float32)
    energies = random.rand(5, 91).astype(np.float32)
    results = []
    for package in (densecrf, theirs):
        crf = package.DenseCRF(91, 5)
        crf.setUnaryEnergy(energies)
        crf.addPairwiseEnergy(features, compat=2)
        crf.addPairwiseEnergy(
            features[:1].copy(), 0.5, package.CONST_KERNEL, package.NORMALIZE_AFTER
        )
        results.append(crf.inference(4))
    assert_same(*results)


def test_readme_of_pydensecrf_for_rgb(theirs):
    """Its documented use, image and label map in, labels out; only the import differs."""
    labels = []
    for package in (dcrf, theirs):
        crf = package.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        crf.setUnaryEnergy(unary())
        crf.addPairwiseGaussian(
            sxy=(3, 3),
            compat=3,
            kernel=package.DIAG_KERNEL,
            normalization=package.NORMALIZE_SYMMETRIC,
        )
        crf.addPairwiseBilateral(
            sxy=(80, 80),
            srgb=(13, 13, 13),
            rgbim=image(),
            compat=10,
            kernel=package.DIAG_KERNEL,
            normalization=package.NORMALIZE_SYMMETRIC,
        )
        labels.append(np.argmax(crf.inference(5), axis=0).reshape(HEIGHT, WIDTH))
    assert np.array_equal(*labels) and len(np.unique(labels[0])) > 1


def test_readme_of_pydensecrf_for_other_images(theirs, their_utils):
    """A two-channel float image through create_pairwise_bilateral."""
    ramp = np.linspace(0, 3, POINTS, dtype=np.float32).reshape(HEIGHT, WIDTH)
    bands = np.stack([np.sin(ramp * 5), np.cos(ramp)], -1)
    probabilities = np.exp(-unary(labels=2)).reshape(2, HEIGHT, WIDTH)
    labels = []
    for package, tools in ((dcrf, utils), (theirs, their_utils)):
        crf = package.DenseCRF2D(WIDTH, HEIGHT, 2)
        crf.setUnaryEnergy(tools.unary_from_softmax(probabilities))
        energy = tools.create_pairwise_gaussian(sdims=(4, 4), shape=(HEIGHT, WIDTH))
        crf.addPairwiseEnergy(energy, compat=3)
        energy = tools.create_pairwise_bilateral(
            sdims=(10, 10), schan=(0.2, 0.4), img=bands, chdim=2
        )
        crf.addPairwiseEnergy(energy, compat=10)
        q, tmp1, tmp2 = crf.startInference()
        for _ in range(5):
            crf.stepInference(q, tmp1, tmp2)
        labels.append(np.argmax(q, axis=0))
        assert np.array_equal(labels[-1], np.argmax(crf.inference(5), axis=0))
    assert np.array_equal(*labels) and len(np.unique(labels[0])) > 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_utilities(their_utils):
    label_map = np.random.RandomState(0).randint(0, 4, (5, 6))
    soft = np.random.RandomState(1).dirichlet(np.ones(4), (5, 6)).transpose(2, 0, 1)
    bands = np.random.RandomState(2).rand(5, 6, 2)
    for call in (
        lambda u: u.unary_from_labels(label_map, 3, 0.7),
        lambda u: u.unary_from_labels(label_map, 4, 0.6, zero_unsure=False),
        lambda u: u.unary_from_labels(label_map.ravel(), 5, gt_prob=0.9, zero_unsure=True),
        lambda u: u.compute_unary(label_map, 3),
        lambda u: u.unary_from_softmax(soft),
        lambda u: u.unary_from_softmax(soft.astype(np.float32), scale=0.7, clip=1e-2),
        lambda u: u.unary_from_softmax(np.round(soft), clip=1e-3),
        lambda u: u.softmax_to_unary(soft, 0.5),
        lambda u: u.create_pairwise_gaussian((2, 5), (5, 6)),
        lambda u: u.create_pairwise_gaussian((2, 5, 3), (5, 2, 3)),
        lambda u: u.create_pairwise_bilateral((2, 5), (3, 7), bands, 2),
        lambda u: u.create_pairwise_bilateral((2, 5), (3, 7), bands.transpose(2, 0, 1), 0),
        lambda u: u.create_pairwise_bilateral((2, 5), 3, bands[..., 0]),
        lambda u: u.create_pairwise_bilateral((2, 5, 4), (0.5,), bands, chdim=-1),
    ):
        ours, other = call(utils), call(their_utils)
        assert ours.dtype == other.dtype and ours.shape == other.shape
        np.testing.assert_allclose(ours, other, rtol=1e-6)
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(
            *(u.unary_from_softmax(np.eye(2), clip=None) for u in (utils, their_utils))
        )


def test_logistic_unary_and_infinite_energies(theirs):
    random = np.random.RandomState(0)
    weights = random.rand(LABELS, 4).astype(np.float32)
    features = random.rand(4, POINTS).astype(np.float32)
    never = unary()
    never[1, ::3] = np.inf
    results = []
    for package in (densecrf, theirs):
        crf = package.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        crf.addPairwiseGaussian(3, 3)
        crf.setUnary(package.LogisticUnary(weights, features))
        logistic = np.array(crf.inference(3))
        crf.setUnary(package.ConstUnary(never))
        results.append((logistic, np.array(crf.inference(3))))
    for ours, other in zip(*results, strict=True):
        assert_same(ours, other)
    assert (results[0][1][1, ::3] == 0).all()


def test_results_are_plain_arrays_and_inputs_are_copied():
    energies, picture = unary(), image()
    crf = densecrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    crf.setUnaryEnergy(energies)
    crf.addPairwiseBilateral(20, 13, picture, 4)
    expected = np.array(crf.inference(2))
    energies[:], picture[:] = 0, 0
    q = crf.inference(2)
    assert np.array_equal(q, expected) and q.shape == (LABELS, POINTS) and q.dtype == np.float32
    np.testing.assert_allclose(np.asarray(q).sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(crf.inference(0), crf.startInference()[0], atol=1e-6)
    strided = densecrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    strided.setUnaryEnergy(np.asfortranarray(unary()))
    strided.addPairwiseBilateral(20, 13, image().transpose(1, 0, 2).copy().transpose(1, 0, 2), 4)
    assert np.array_equal(strided.inference(2), expected)


def test_both_ways_of_importing():
    assert dcrf is densecrf is wsss_fast.compat.pydensecrf.densecrf
    assert wsss_fast.compat.pydensecrf.utils is utils
    # Every public name of theirs, except for a helper's import.
    module = pytest.importorskip("pydensecrf.densecrf")
    assert {n for n in vars(module) if n[0] != "_"} - set(vars(densecrf)) <= {"eigen", "Number"}
    for name in ("DenseCRF", "DenseCRF2D"):
        assert {n for n in dir(getattr(module, name)) if n[0] != "_"} <= set(
            dir(getattr(densecrf, name))
        )


def crf_2d():
    return densecrf.DenseCRF2D(4, 3, 2)


ENERGIES = np.zeros((2, 12), np.float32)
PICTURE = np.zeros((3, 4, 3), np.uint8)
WRONG = {
    "unary_dtype": (
        lambda: crf_2d().setUnaryEnergy(ENERGIES.astype(float)),
        "u is float64; must be float32",
    ),
    "unary_dims": (
        lambda: crf_2d().setUnaryEnergy(ENERGIES.reshape(2, 3, 4)),
        r"u is \[2, 3, 4\]; must have 2 dimensions",
    ),
    "unary_points": (
        lambda: crf_2d().setUnaryEnergy(ENERGIES[:, :5]),
        r"energies are \[2, 5\]; must be \[2, 12\]",
    ),
    "unary_nan": (
        lambda: crf_2d().setUnaryEnergy(ENERGIES * np.float32("nan")),
        "energies have NaN",
    ),
    "unary_type": (
        lambda: crf_2d().setUnary(ENERGIES),
        "setUnary: got ndarray; must be a ConstUnary",
    ),
    "logistic": (
        lambda: densecrf.LogisticUnary(ENERGIES, ENERGIES),
        r"L is \[2, 12\] but f is \[2, 12\]",
    ),
    "features_dtype": (
        lambda: crf_2d().addPairwiseEnergy(ENERGIES.astype(int), 1),
        "features is int64; must be float32",
    ),
    "features_points": (
        lambda: crf_2d().addPairwiseEnergy(ENERGIES[:, :5], 1),
        r"features is \[2, 5\]; must be \[d, 12\]",
    ),
    "features_nan": (
        lambda: crf_2d().addPairwiseEnergy(ENERGIES * np.float32("nan"), 1),
        "features has NaN or infinite",
    ),
    "utils_chdim": (
        lambda: utils.create_pairwise_bilateral((1, 2), 1, PICTURE, 3),
        "chdim is 3; must be an axis of img",
    ),
    "compat_labels": (
        lambda: crf_2d().addPairwiseGaussian(3, np.ones(3, np.float32)),
        r"compat is \[3\]; must be a number",
    ),
    "compat_dims": (
        lambda: crf_2d().addPairwiseGaussian(3, np.ones((2, 2, 2), np.float32)),
        r"compat is \[2, 2, 2\]",
    ),
    "compat_dtype": (
        lambda: crf_2d().addPairwiseGaussian(3, np.ones(2)),
        "compat is float64; must be float32",
    ),
    "compat_nan": (
        lambda: crf_2d().addPairwiseGaussian(3, float("nan")),
        "compat is nan; must be finite",
    ),
    "sxy": (
        lambda: crf_2d().addPairwiseGaussian((3, 0), 1),
        r"addPairwiseGaussian: sxy is \(3, 0\); must be finite and > 0",
    ),
    "sxy_count": (
        lambda: crf_2d().addPairwiseGaussian((3, 3, 3), 1),
        "must be a number or 2 of them",
    ),
    "srgb": (
        lambda: crf_2d().addPairwiseBilateral(3, (1, 2), PICTURE, 1),
        r"srgb is \(1, 2\); must be a number or 3",
    ),
    "gray": (
        lambda: crf_2d().addPairwiseBilateral(3, 3, PICTURE[..., :1], 1),
        "utils.create_pairwise_bilateral",
    ),
    "picture_dtype": (
        lambda: crf_2d().addPairwiseBilateral(3, 3, PICTURE.astype(np.float32), 1),
        "must be uint8",
    ),
    "picture_size": (
        lambda: crf_2d().addPairwiseBilateral(3, 3, PICTURE.transpose(1, 0, 2), 1),
        r"must be uint8 \[3, 4, 3\]",
    ),
    "kernel": (
        lambda: crf_2d().addPairwiseGaussian(3, 3, kernel=7),
        "kernel is 7; must be one of CONST_KERNEL",
    ),
    "normalization": (
        lambda: crf_2d().addPairwiseGaussian(3, 3, normalization=4),
        "normalization is 4; must be one of",
    ),
    "niter": (lambda: crf_2d().inference(-1), "niter is -1; must be >= 0"),
    "q": (
        lambda: crf_2d().klDivergence(ENERGIES[:, :5]),
        r"Q is float32 \[2, 5\]; must be a float32 array \[2, 12\]",
    ),
    "size": (lambda: densecrf.DenseCRF2D(0, 3, 2), "w is 0; must be >= 1"),
    "labels": (lambda: densecrf.DenseCRF(3, 0), "nlabels is 0; must be >= 1"),
    "utils_labels": (
        lambda: utils.unary_from_labels(np.array([3]), 2, 0.7),
        r"labels span 3\.\.3; must be 0\.\.2",
    ),
    "utils_float": (
        lambda: utils.unary_from_labels(np.array([1.0]), 2, 0.7),
        "labels is float64; must be integers",
    ),
    "utils_prob": (lambda: utils.unary_from_labels(np.array([1]), 2, 1.0), "gt_prob is 1.0"),
    "utils_scale": (
        lambda: utils.unary_from_softmax(np.ones((2, 2)), scale=2.0),
        r"scale is 2\.0; must be in \(0, 1\]",
    ),
    "utils_sdims": (
        lambda: utils.create_pairwise_gaussian((1, 2), (3,)),
        "sdims is .* must be 1 numbers",
    ),
    "utils_schan": (
        lambda: utils.create_pairwise_bilateral((1, 2), (1, 2), PICTURE, 2),
        "schan is .* must be 3 numbers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
