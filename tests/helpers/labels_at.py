"""The package's labels from class maps, for NumPy arrays and a single threshold."""

import numpy as np
import torch

from wsss_fast import thresholds


def label_index(scores, threshold):
    """uint8 [H, W] from scores [K, H, W]; see `thresholds.label_index`."""
    given = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
    return thresholds.label_index(given, (threshold,))[0].numpy()
