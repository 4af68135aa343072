"""Loader processes under every way to start them: fork, spawn and, since Python 3.14 the usual one, forkserver."""

import dataclasses
import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import environment, left, running

from wsss_fast import _native, amn, cam, ccr, data, eps, irn, seg
from wsss_fast.maps import ClassMaps, save_maps, strided_size
from wsss_fast.stages import training


class Stop(Exception):
    """Ends a training before it trains; holds its samples."""


def brief(recipe, **numbers):
    return dataclasses.replace(
        recipe, **numbers, batch_size=8, augment=dataclasses.replace(recipe.augment, crop=32)
    )


def trainings(shapes, out):
    """Each method's training by name: (its function, its arguments)."""
    for id in shapes.ids:
        height, width = shapes.size(id)
        keys, rng = np.flatnonzero(shapes.tags_of(id)) + 1, np.random.default_rng(len(id))
        save_maps(
            out / "maps",
            id,
            ClassMaps(
                keys,
                *(
                    rng.random((len(keys), *size), np.float32)
                    for size in (strided_size(height, width), (height, width))
                ),
            ),
        )
        data.write_labels(out / "labels" / f"{id}.png", shapes.mask(id))
    labels = out / "labels"
    return {
        "cam": (cam.train, {"recipe": brief(cam.RECIPES["small"], epochs=1)}),
        "amn": (amn.train, {"seeds": labels}),
        "irn": (irn.train, {"seeds": labels}),
        "eps": (eps.train, {}),
        "seg": (seg.train, {"masks": labels}),
        "ccr": (ccr.train, {"masks": labels, "maps": out / "maps"}),
    }


def digests(samples):
    """A digest of a few samples of each training."""
    positions = (0, 5, 29)
    return {
        name: hashlib.sha256(
            b"".join(
                value.numpy().tobytes() for i in positions for _, value in sorted(each[i].items())
            )
        ).hexdigest()
        for name, each in samples.items()
    }


def answer(samples, connection):
    """In the spawned process: the digests; samples must not load or build the native library."""

    def refuse():
        raise AssertionError("a sample needs the native library")

    _native.load = refuse
    connection.send(digests(samples))


@pytest.fixture(scope="module")
def samples(shapes, tmp_path_factory):
    """What each training hands to its loader."""
    found, out = {}, tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patch:
        for name, (train, arguments) in trainings(shapes, out).items():

            def keep(net, step, samples, name=name, **_):
                found[name] = samples
                raise Stop

            patch.setattr(training, "fit", keep)
            with pytest.raises(Stop):
                train(shapes, out / "run", backbone="small", **arguments)
    return found


@pytest.fixture(scope="module")
def spawned(samples):
    """Digests of the same samples, made by one spawned process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(samples, theirs))
    process.start()
    assert ours.poll(120)
    found = ours.recv()
    process.join(30)
    return found


@pytest.mark.parametrize("name", ["cam", "amn", "irn", "eps", "seg", "ccr"])
def test_a_spawned_process_makes_the_samples_of_every_method(samples, spawned, name):
    ours = digests(samples)
    assert spawned[name] == ours[name] and len(set(ours.values())) == 6
    assert repr(samples[name].make).startswith("_LoadSample(")


def test_decoded_images_are_not_sent_to_loader_processes(shapes):
    small = len(pickle.dumps(shapes.only(shapes.ids)))
    decoded = shapes.only(shapes.ids)
    for id in decoded.ids:
        decoded.image(id)
    sent = pickle.dumps(decoded)
    assert abs(len(sent) - small) < 5000
    again = pickle.loads(sent)
    np.testing.assert_array_equal(again.image(shapes.ids[3]), shapes.image(shapes.ids[3]))
    assert (
        decoded._cached_bytes > 0
        and again.ids == shapes.ids
        and again.fingerprint() == shapes.fingerprint()
    )


@pytest.fixture
def start_method(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory):
    return train(shapes, tmp_path_factory.mktemp("alone"), workers=0)


def train(shapes, out, **options):
    recipe = brief(cam.RECIPES["small"], epochs=1)
    return cam.train(
        shapes, out, backbone="small", precision="fp32", recipe=recipe, **options
    ).weights.read_bytes()


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"], indirect=True)
def test_loader_processes_make_the_same_weights_however_they_start(
    shapes, tmp_path, weights, start_method
):
    assert train(shapes, tmp_path, workers=1) == weights


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes under /proc")
def test_killed_under_forkserver_a_command_leaves_no_process(shapes_root, tmp_path):
    """torch sees a training's end by the parent process, which is the fork server here."""
    command = [
        sys.executable,
        "-m",
        "wsss_fast",
        "cam",
        "train",
        "--data",
        shapes_root,
        "--out",
        tmp_path / "run",
        "--backbone",
        "small",
        "--workers",
        "1",
        "--recipe.epochs",
        "400",
        "--recipe.batch-size",
        "8",
        "--recipe.augment.crop",
        "32",
    ]
    process = subprocess.Popen(
        [str(word) for word in command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment("forkserver", tmp_path),
    )
    deadline = time.monotonic() + 120
    while (
        len(running(process.pid)) < 4
    ):  # itself, a tracker of shared memory, the fork server, a loader process
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(4.0)  # the loader process imports, and begins
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)  # until nobody has the other end of stderr
    assert not left(process.pid)
