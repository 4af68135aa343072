"""Confusion matrices and scores against those of chainercv, EPS and DeepLab."""

import numpy as np
import pytest
from golden import cases, golden

from wsss_fast.evaluation.metrics import confusion_matrix, metrics_of


def summed(truths, predictions, num_labels):
    """The confusion matrix of all images, then miou, iou, precision and recall."""
    confusion = sum(
        confusion_matrix(t, p, num_labels) for t, p in zip(truths, predictions, strict=True)
    )
    metrics = metrics_of(confusion, [str(c) for c in range(1, num_labels)], len(truths))
    return (
        confusion,
        metrics.miou,
        *(np.array(list(v.values())) for v in (metrics.iou, metrics.precision, metrics.recall)),
    )


@pytest.mark.parametrize("case", cases("chainercv_eval"))
def test_chainercv(case):
    file = golden("chainercv_eval")
    truths, predictions = ([file[f"{case}/{name}{i}"] for i in range(3)] for name in ("gt", "pred"))
    truths = [np.where(t < 0, 255, t) for t in truths]
    expected = file[f"{case}/confusion"]
    num_labels = 21 if len(expected) == 256 else len(expected)
    confusion, miou, iou, _, recall = summed(truths, predictions, num_labels)
    # The public COCO evaluation (e4) counts 255 as a class: only the other rows can agree.
    np.testing.assert_array_equal(confusion, expected[:num_labels, :num_labels])
    np.testing.assert_allclose(recall, file[f"{case}/class_accuracy"][:num_labels], rtol=1e-12)
    if len(expected) == num_labels:
        np.testing.assert_allclose(iou, file[f"{case}/iou"], rtol=1e-12)
        assert miou == pytest.approx(file[f"{case}/miou"].item(), rel=1e-12)
    else:
        assert miou > file[f"{case}/miou"].item()  # its mean has one more class, of IoU 0


@pytest.mark.parametrize("case", cases("eps_ioumetric"))
def test_eps(case):
    file = golden("eps_ioumetric")
    truths, predictions, hist = (file[f"{case}/{name}"] for name in ("gt", "pred", "hist"))
    # EPS drops pixels whose prediction is not a class. Here these raise, so they are dropped first.
    truths = np.where(predictions >= len(hist), 255, truths)
    confusion, miou, iou, precision, recall = summed(truths, predictions, len(hist))
    np.testing.assert_array_equal(confusion, hist)
    for found, name in ((iou, "iou"), (precision, "precision"), (recall, "recall")):
        np.testing.assert_allclose(found, file[f"{case}/{name}"], rtol=1e-12, err_msg=name)
    assert miou == pytest.approx(file[f"{case}/miou"].item(), rel=1e-12)


def test_deeplab():
    file = golden("deeplab_scores")
    confusion, miou, iou, _, recall = summed(file["gt"], file["pred"], 21)
    np.testing.assert_allclose(iou, file["iou"], rtol=1e-12)
    # DeepLab's mean leaves out a class that was only predicted; VOC's protocol counts it as 0.
    seen = confusion.sum(axis=1) > 0
    assert iou[seen].mean() == pytest.approx(file["miou"].item(), rel=1e-12) and not seen.all()
    assert miou == pytest.approx(iou.mean(), rel=1e-12)
    assert np.diag(confusion).sum() / confusion.sum() == pytest.approx(
        file["pixacc"].item(), rel=1e-12
    )
    assert recall[seen].mean() == pytest.approx(file["macc"].item(), rel=1e-12)
