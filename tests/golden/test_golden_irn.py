"""IRN's paths and random walk against outputs of the public code."""

import numpy as np
import pytest
import torch
from golden import cases, golden

from wsss_fast.ops import random_walk
from wsss_fast.ops.reference.random_walk import path


@pytest.mark.parametrize("name", cases("irn_path_index"))
def test_paths(name):
    file = golden("irn_path_index")
    stored = [
        p
        for i in range(int(file[f"{name}/n_lengths"]))
        for p in file[f"{name}/search_path{i}"].tolist()
    ]
    assert sorted(p[0] for p in stored) == sorted(file[f"{name}/search_dst"].tolist())
    for cells in stored:
        assert {tuple(c) for c in cells} == set(path(*cells[0]))


def walk(file, name, dtype=torch.float32, **options):
    maps, edge = (torch.from_numpy(file[f"{name}/{key}"]).to(dtype) for key in ("cam", "edge"))
    return random_walk(maps, edge[0], **options), file[f"{name}/rw"][:, 0]


@pytest.mark.parametrize("name", cases("irn_random_walk"))
def test_random_walk(name):
    file = golden("irn_random_walk")
    radius, beta, doublings = (
        file[f"{name}/{key}"].item() for key in ("radius", "beta", "exp_times")
    )
    ours, stored = walk(file, name, radius=radius, beta=float(beta), steps=2**doublings)
    # Squaring the transition matrix eight times in float32 loses 1e-4.
    np.testing.assert_allclose(ours, stored, rtol=3e-4, atol=1e-7)


@pytest.mark.parametrize("name", cases("irn_random_walk_large"))
def test_large_random_walk(name):
    ours, stored = walk(golden("irn_random_walk_large"), name)
    np.testing.assert_allclose(ours, stored, rtol=3e-4, atol=1e-7)


@pytest.mark.parametrize("name", cases("irn_sem_seg"))
def test_random_walk_of_amn_maps(name):
    file = golden("irn_sem_seg")
    maps = torch.from_numpy(file[f"{name}/amn_cam_strided"])[1:] ** 1.3  # without the background
    ours = random_walk(maps, torch.from_numpy(file[f"{name}/edge"])[0])
    np.testing.assert_allclose(ours, file[f"{name}/rw"][:, 0], rtol=3e-4, atol=1e-7)
