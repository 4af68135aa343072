"""The dense CRF as the stages call it."""

import numpy as np

from wsss_fast.stages.crf import Crf


def test_refine_labels_in_batches():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
    labels = rng.integers(0, 3, (3, 2, 20, 24))
    together = Crf().refine_labels(images, labels, 3)
    for b in range(3):
        single = Crf().refine_labels(images[b : b + 1], labels[b : b + 1], 3)[0]
        np.testing.assert_array_equal(single, together[b])
