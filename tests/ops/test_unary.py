"""Unary energies: pydensecrf's numbers, ranges, errors."""

import numpy as np
import pytest
import torch

from wsss_fast.ops import unary_from_labels, unary_from_probabilities


@pytest.mark.parametrize("num_labels", [2, 3, 21])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_equal_pydensecrf(num_labels, dtype):
    utils = pytest.importorskip("pydensecrf.utils")
    labels = torch.randint(0, num_labels, (2, 5, 7)).to(dtype)
    ours = unary_from_labels(labels, num_labels, gt_prob=0.7)
    assert ours.shape == (2, num_labels, 5, 7) and ours.dtype == torch.float32
    for b in range(2):
        theirs = utils.unary_from_labels(
            labels[b].long().numpy(), num_labels, gt_prob=0.7, zero_unsure=False
        )
        np.testing.assert_allclose(ours[b].reshape(num_labels, -1).numpy(), theirs, rtol=1e-6)


def test_unsure_equals_pydensecrf():
    utils = pytest.importorskip("pydensecrf.utils")
    theirs = utils.unary_from_labels(np.array([[0, 1, 3]]), 3, gt_prob=0.6, zero_unsure=True)
    ours = unary_from_labels(torch.tensor([[255, 0, 2]]), 3, gt_prob=0.6, unsure_label=255)
    np.testing.assert_allclose(ours.reshape(3, -1).numpy(), theirs, rtol=1e-6)


def test_every_value_is_a_label_unless_unsure():
    labels = torch.tensor([[0, 1]])
    assert unary_from_labels(labels, 2).argmin(0).tolist() == [[0, 1]]
    uniform = unary_from_labels(labels, 2, unsure_label=0)[:, 0, 0]
    torch.testing.assert_close(uniform, torch.full((2,), np.log(2.0), dtype=torch.float32))


def test_one_label_costs_nothing():
    assert torch.equal(
        unary_from_labels(torch.zeros(2, 3, dtype=torch.uint8), 1), torch.zeros(1, 2, 3)
    )


def test_no_data():
    assert unary_from_labels(torch.zeros(0, 4, 5, dtype=torch.uint8), 3).shape == (0, 3, 4, 5)
    on_meta = torch.zeros(2, 4, 5, dtype=torch.uint8, device="meta")
    assert unary_from_labels(on_meta, 3).shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(labels=torch.tensor([[0, 3]])), r"labels holds 3; must be 0\.\.2"),
        (dict(labels=torch.tensor([[0, -1]])), "labels holds -1"),
        (
            dict(labels=torch.tensor([[0, 255]]), unsure_label=254),
            "labels holds 255; .* or unsure_label=254",
        ),
        (dict(labels=torch.tensor([[0.0]])), r"labels is torch.float32 \[1, 1\]; must be integers"),
        (dict(labels=torch.tensor([0])), r"labels is torch.int64 \[1\]"),
        (dict(labels=[[0, 1]]), r"labels is \[\[0, 1\]\]; must be integers \[\.\.\., H, W\]"),
        (dict(labels=torch.tensor([[0, 1]]).to_sparse()), "labels is torch.int64 torch.sparse_coo"),
        (dict(num_labels=2.5), "num_labels is 2.5; must be an integer >= 1"),
        (dict(num_labels="x"), "num_labels is 'x'"),
        (dict(labels=torch.tensor([[2**63 + 5]], dtype=torch.uint64)), "labels holds 922337203685"),
        (dict(unsure_label=2**70), "unsure_label is 1180591620717411303424"),
        (dict(unsure_label="x"), "unsure_label is 'x'; must be an integer or None"),
        (dict(gt_prob="x"), "gt_prob is 'x'; must be a number strictly between 0 and 1"),
        (dict(gt_prob=float("nan")), "gt_prob is nan"),
        (dict(num_labels=0), "num_labels is 0"),
        (dict(gt_prob=1.0), "gt_prob is 1.0"),
        (dict(gt_prob=0.0), "gt_prob is 0.0"),
    ],
)
def test_wrong_arguments_with_labels(change, message):
    arguments = dict(labels=torch.tensor([[0, 1]]), num_labels=3) | change
    with pytest.raises(ValueError, match="unary_from_labels: " + message):
        unary_from_labels(**arguments)


class _Unary(torch.nn.Module):
    def forward(self, labels):
        return unary_from_labels(labels, 3, unsure_label=255)


@pytest.mark.parametrize("how", ["dynamic", "export"])
def test_labels_compile_whole_and_export(how):
    """There a wrong label cannot be an error: its energies are NaN."""
    labels = torch.tensor([[[0, 2, 255], [1, 1, 0]]], dtype=torch.uint8)
    if how == "export":
        graph = torch.export.export(_Unary(), (labels,)).module()
    else:
        graph = torch.compile(
            _Unary(), fullgraph=True, dynamic=how == "dynamic", backend="aot_eager"
        )
    assert torch.equal(graph(labels), _Unary()(labels))
    labels[0, 0, 1] = 7
    wrong = graph(labels).isnan()
    assert wrong[0, :, 0, 1].all() and wrong.sum() == 3


def test_probabilities_equal_pydensecrf():
    utils = pytest.importorskip("pydensecrf.utils")
    probabilities = torch.softmax(torch.randn(4, 6, 5) * 8, 0)
    theirs = utils.unary_from_softmax(probabilities.numpy())
    np.testing.assert_allclose(
        unary_from_probabilities(probabilities).reshape(4, -1).numpy(), theirs, rtol=1e-5
    )


@pytest.mark.parametrize(
    "probabilities, clip, message",
    [
        (torch.ones(2, 2, 2, dtype=torch.uint8), 1e-5, "probabilities is torch.uint8"),
        (torch.ones(2, 2, 2), 0.0, "clip is 0.0"),
        (torch.ones(2, 2, 2), 1.5, "clip is 1.5"),
        (torch.ones(2, 2, 2), "x", r"clip is 'x'; must be a number in \(0, 1\]"),
        (torch.ones(2, 2, 2), float("nan"), "clip is nan"),
        (torch.ones(2, 2, 2).to_sparse(), 0.1, "probabilities is torch.float32 torch.sparse_coo"),
        (torch.ones(2, 2, 2).to(torch.float8_e4m3fn), 0.1, "probabilities is torch.float8_e4m3fn"),
        ([[1.0]], 0.1, "probabilities is"),
    ],
)
def test_wrong_arguments_with_probabilities(probabilities, clip, message):
    with pytest.raises(ValueError, match="unary_from_probabilities: " + message):
        unary_from_probabilities(probabilities, clip=clip)


def test_wrong_labels_are_nan_without_the_check():
    labels = torch.tensor([[0, 1, 2, 255]])
    energies = unary_from_labels(labels, 2, unsure_label=255, check=False)
    assert energies[:, 0, 2].isnan().all()
    expected = unary_from_labels(torch.tensor([[0, 1, 0, 255]]), 2, unsure_label=255)
    known = [0, 1, 3]
    torch.testing.assert_close(energies[..., known], expected[..., known])
