"""ONNX and torch.export files of a segmentation network, each checked before it is kept."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.data.transforms import MEAN, STD
from wsss_fast.deployment.graph import SegmentationGraph
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError, RunError
from wsss_fast.nets import ModelInfo

INPUT, OUTPUT = "image", "probabilities"
METADATA = "metadata.json"  # in a torch.export file
_OPSET = 18  # of ONNX; 18 is torch's own
# Beyond the least size: traced with the first, checked with the second, where it shows what the
# trace took for fixed.
_TRACED, _CHECKED = (2, 33, 66), (1, 1, 7)  # N, rows, columns
_TOLERANCE = 1e-3  # of a probability; another order of float32 sums gives 1e-6 to 1e-5


def metadata(graph: SegmentationGraph, info: ModelInfo) -> dict[str, str]:
    """What an exported file says of itself; lists are JSON."""
    least = graph.least_size
    return {
        "producer": f"wsss-fast {info.version}",
        "network": json.dumps({"network": info.network, **info.options}),
        "classes": json.dumps(["background", *info.classes], ensure_ascii=False),
        "input": f"{INPUT}: float32 [N, 3, H, W], RGB / 255, minus mean, divided by std; "
        f"any N, H and W >= {least}",
        "mean": json.dumps(MEAN.tolist()),
        "std": json.dumps(STD.tolist()),
        "output": f"{OUTPUT}: float32 [N, C+1, H, W], softmax; channel c is classes[c]",
    }


def write_torch_export(graph: SegmentationGraph, path: Path, info: ModelInfo) -> float:
    """Write a program for `torch.export.load`, with its description in `metadata.json`.

    Args:
        graph: the network.
        path: file to write.
        info: what the network is.

    Returns:
        Largest difference of a probability from the network, on an image of another size.

    Raises:
        RunError: the program computes something else.
    """
    program = _traced(graph)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA: json.dumps(metadata(graph, info))})
    again = torch.export.load(io.BytesIO(content.getvalue())).module()
    difference = _checked(graph, lambda image: again(image), path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return difference


def write_onnx(graph: SegmentationGraph, path: Path, info: ModelInfo) -> float | None:
    """Write an ONNX model of opset 18, with its description as metadata.

    Args:
        graph: the network.
        path: file to write.
        info: what the network is.

    Returns:
        Largest difference of a probability from the network, on an image of another size; None
        without onnxruntime.

    Raises:
        InputError: onnx or onnxscript is not installed.
        RunError: the model computes something else.
    """
    missing = [m for m in ("onnx", "onnxscript") if importlib.util.find_spec(m) is None]
    if missing:
        raise InputError(
            f"to onnx: needs {' and '.join(missing)}: pip install {' '.join(missing)}, or "
            '".[onnx]" in a clone'
        )
    with _quiet():
        program = torch.onnx.export(
            _traced(graph),
            (_image(graph, _TRACED),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # without a file name
    program.model.metadata_props.update(metadata(graph, info))
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        _name_axes(value)
    content = program.model_proto.SerializeToString()
    difference = None
    if importlib.util.find_spec("onnxruntime") is not None:
        difference = _checked(graph, _onnx_runner(content), path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return difference


def _traced(graph: SegmentationGraph) -> torch.export.ExportedProgram:
    """The program of a graph for any number and size of images."""
    least = graph.least_size
    free = {
        0: torch.export.Dim("N"),
        2: torch.export.Dim("H", min=least),
        3: torch.export.Dim("W", min=least),
    }
    with _quiet(), torch.no_grad():
        return torch.export.export(graph, (_image(graph, _TRACED),), dynamic_shapes={INPUT: free})


def _image(graph: SegmentationGraph, size: tuple[int, int, int]) -> torch.Tensor:
    """Random images [N, 3, H, W], so many rows and columns larger than the least size."""
    number, rows, columns = size
    shape = (number, 3, graph.least_size + rows, graph.least_size + columns)
    values = np.random.default_rng(0).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def _name_axes(value: Any) -> None:
    """Call the free axes N, H and W; torch numbers them."""
    names = dict(zip((0, 2, 3), ("N", "H", "W"), strict=True))
    for axis, name in names.items():
        if not isinstance(value.shape[axis], int):
            value.shape[axis] = name


def _onnx_runner(content: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {INPUT: image.numpy()})[0])


def _checked(
    graph: SegmentationGraph, run: Callable[[torch.Tensor], torch.Tensor], path: Path
) -> float:
    """The largest difference of what was exported from the network, on an image of another size."""
    image = _image(graph, _CHECKED)
    with torch.no_grad():
        wanted, found = graph(image), run(image)
    same_shape = found.shape == wanted.shape
    difference = float((found - wanted).abs().max()) if same_shape else float("inf")
    if not difference <= _TOLERANCE:
        raise RunError(
            f"{path}: not written: its probabilities differ from the network's by {difference:.2g}"
        )
    return difference


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on packages that are not needed and on its own future changes."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
