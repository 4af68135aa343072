"""Loader processes give the same samples and weights under every start method.

The methods are fork, spawn, and forkserver, the default since Python 3.14.
"""

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
from brief import brief
from processes import environment, remaining, running

from wsss_fast import _native, amn, cam, ccr, data, eps, irn, seg
from wsss_fast.maps import ClassMaps, save_maps, strided_size
from wsss_fast.stages import training

CAM = brief(cam.RECIPES["small"], 32, epochs=1)
METHODS = ["cam", "amn", "irn", "eps", "seg", "ccr"]


class Stop(Exception):
    """Ends a training before its first update."""


def trainings(shapes, out):
    """Function and arguments of each method's training."""
    labels, maps = out / "labels", out / "maps"
    for id in shapes.ids:
        keys, rng = np.flatnonzero(shapes.tags_of(id)) + 1, np.random.default_rng(len(id))
        size = shapes.size(id)
        strided, high_res = (
            rng.random((len(keys), *each), np.float32) for each in (strided_size(*size), size)
        )
        save_maps(maps, id, ClassMaps(keys, strided, high_res))
        data.write_labels(labels / f"{id}.png", shapes.mask(id))
    return {
        "cam": (cam.train, {"recipe": CAM}),
        "amn": (amn.train, {"seeds": labels}),
        "irn": (irn.train, {"seeds": labels}),
        "eps": (eps.train, {}),
        "seg": (seg.train, {"masks": labels}),
        "ccr": (ccr.train, {"masks": labels, "maps": maps}),
    }


def digest(samples):
    """Hash of a few samples of a training."""
    values = [value for i in (0, 5, 29) for _, value in sorted(samples[i].items())]
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


def digests(samples):
    return {name: digest(each) for name, each in samples.items()}


def send_digests(samples, connection):
    """In the spawned process; samples must not load or build the native library."""

    def load(*_):
        raise AssertionError("a sample uses the native library")

    _native.load = load
    connection.send(digests(samples))


@pytest.fixture(scope="module")
def samples(shapes, tmp_path_factory):
    """The samples that each training passes to its loader."""
    caught, out = {}, tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patch:
        for name, (train, arguments) in trainings(shapes, out).items():

            def fit(net, step, samples, name=name, **_):
                caught[name] = samples
                raise Stop

            patch.setattr(training, "fit", fit)
            with pytest.raises(Stop):
                train(shapes, out / "run", backbone="small", **arguments)
    return caught


@pytest.fixture(scope="module")
def spawned(samples):
    """Digests of the same samples, computed by a spawned process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=send_digests, args=(samples, sender))
    process.start()
    assert receiver.poll(120)
    received = receiver.recv()
    process.join(30)
    return received


@pytest.mark.parametrize("name", METHODS)
def test_spawned_process_loads_the_same_samples(samples, spawned, name):
    own = digests(samples)
    assert spawned[name] == own[name] and len(set(own.values())) == len(METHODS)
    assert repr(samples[name].load).startswith("_LoadSample(")


def test_decoded_images_are_not_pickled(shapes):
    size = len(pickle.dumps(shapes.only(shapes.ids)))
    decoded = shapes.only(shapes.ids)
    for id in decoded.ids:
        decoded.image(id)
    pickled = pickle.dumps(decoded)
    assert abs(len(pickled) - size) < 5000 and decoded._cached_bytes > 0
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.image(shapes.ids[3]), shapes.image(shapes.ids[3]))
    assert again.ids == shapes.ids and again.fingerprint() == shapes.fingerprint()


@pytest.fixture
def start_method(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def train(shapes, out, workers):
    return cam.train(
        shapes, out, backbone="small", precision="fp32", recipe=CAM, workers=workers
    ).weights.read_bytes()


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory):
    """Weights of a training without loader processes."""
    return train(shapes, tmp_path_factory.mktemp("alone"), workers=0)


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"], indirect=True)
def test_weights_do_not_depend_on_the_start_method(shapes, tmp_path, weights, start_method):
    assert train(shapes, tmp_path, workers=1) == weights


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes under /proc")
def test_killed_command_leaves_no_process_under_forkserver(shapes_root, tmp_path):
    """torch looks at the parent process to see that a training has ended: the fork server."""
    line = (
        f"cam train --data {shapes_root} --out {tmp_path / 'run'} --backbone small --workers 1 "
        "--recipe.epochs 400 --recipe.batch-size 8 --recipe.augment.crop 32"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "wsss_fast", *line.split()],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment("forkserver", tmp_path),
    )
    deadline = time.monotonic() + 120
    # The command, a tracker of shared memory, the fork server, a loader process.
    while len(running(process.pid)) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(4.0)  # until the loader process has imported everything
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)  # until no process has the other end of stderr
    assert not remaining(process.pid)
