"""Maps that seeds and pseudo-masks are made from."""

import numpy as np
import pytest

from wsss_fast.maps import ClassMaps, save_maps, strided_size


@pytest.fixture
def truth_maps(shapes, tmp_path):
    """Maps of the truth: 1 on the object, 0.2 in a rim around it, 0 elsewhere."""
    folder = tmp_path / "maps"
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        on = np.stack([shapes.mask(id) == k for k in keys]).astype(np.float32)
        rim = np.maximum.reduce([np.roll(on, s, axis=a) for a in (1, 2) for s in (-2, 2)])
        strided = np.zeros((len(keys), *strided_size(*shapes.size(id))))
        save_maps(folder, id, ClassMaps(keys, strided, np.maximum(on, 0.2 * rim)))
    return folder
