"""The loaded library: signatures, build information, errors of kernels, dependencies."""

import importlib
import math
import pkgutil
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from native_builds import ROOT, needs_compiler

from wsss_fast import _build, _native, ops
from wsss_fast.ops import dense_crf


@needs_compiler
def test_library_reports_build_info_and_signatures():
    """TORCH_BOX does not compare a kernel with its schema; a mismatch would read wrong memory."""
    if not _native.load():
        pytest.skip("native library not available")
    # Each op is registered by its own module, and wsss_fast.ops does not import all of them.
    for name in (m.name for m in pkgutil.iter_modules(ops.__path__, "wsss_fast.ops.")):
        importlib.import_module(name)
    library, manifest = _native._state["cpu"].path, _native._state["cpu"].manifest
    module = _native.module()
    assert module.build_info(str(library)) == {
        k: v for k, v in manifest.items() if k not in ("size", "sha256", "runs_on")
    }
    signatures = module.signatures(str(library))
    assert ["dense_crf", "CPU"] in [s[:2] for s in signatures] and len(signatures) >= 12
    for op, _, arguments, result in signatures:
        schema = getattr(torch.ops.wsss_fast, op).default._schema
        assert arguments == ", ".join(str(a.type) for a in schema.arguments), op
        assert result == ", ".join(str(r.type) for r in schema.returns), op
    with pytest.raises(ValueError, match="/no/such.so is not loaded"):
        module.signatures("/no/such.so")


@needs_compiler
@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (
            "dense_crf",
            (torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 2, 4, 5), [], [], [0.0, 255.0], 1),
            r"dense_crf: image is \[1,3,4,4\] but unary is \[1,1,2,4,5\]",
        ),
        (
            "permutohedral_lattice",
            (torch.full((4, 2), math.nan),),
            "permutohedral_lattice: features has NaN",
        ),
        (
            "label_conditioned_logits",
            (torch.zeros(1, 2, 3, 3), None, torch.zeros(1, 4, 2, 1, 1), torch.zeros(1, 5), [1]),
            r"label_conditioned_logits: weight is \[1,4,2,1,1\] but bias is \[1,5\]; "
            r"must be \[R, K\]",
        ),
        (
            "resized_activation",
            (torch.zeros(2, 3, 3), [4, 4], True),
            r"resized_activation: logits is \[2,3,3\]",
        ),
        (
            "random_walk",
            (torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4), 33, 10.0, 1),
            "random_walk: radius is 33",
        ),
        (
            "image_views",
            (
                torch.zeros(1, 4, 5, 3, dtype=torch.uint8),
                [0.0],
                True,
                [0.0] * 3,
                [1.0] * 3,
                torch.float32,
                0,
            ),
            r"image_views: scales holds 0\.0+ but images is \[1,4,5,3\]; must be > 0",
        ),
        (
            "pixel_cross_entropy",
            (torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), 7), 0.0, False, 255, False, False),
            r"pixel_cross_entropy: labels holds 7; must be 0..1 or 255",
        ),
        (
            "saliency_loss",
            (
                torch.zeros(1, 3, 2, 2),
                torch.zeros(1, 2, 2),
                torch.zeros(1, 2).byte(),
                0.4,
                0.5,
                False,
                [3],
            ),
            r"saliency_loss: background_classes holds 3; must be in 1\.\.2",
        ),
        (
            "aamr_loss",
            (torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), 0.5, 0.5, 0.5),
            r"aamr_loss: logits is \[1,1,2,2\]; must be \[B, K, h, w\], K >= 2",
        ),
    ],
)
def test_native_kernels_raise_value_errors(op, arguments, message):
    """Also without the public function's checks: in a compiled graph or through torch.ops."""
    if not _native.load():
        pytest.skip("native library not available")
    with pytest.raises(ValueError, match=message):
        getattr(torch.ops.wsss_fast, op)(*arguments)


@needs_compiler
def test_op_library_needs_no_python():
    if not _native.load() or not shutil.which("nm"):
        pytest.skip("native library or nm not available")
    command = ["nm", "-D", "--undefined-only", _native._state["cpu"].path]
    names = subprocess.run(command, capture_output=True, text=True, check=True)
    undefined = [line.split()[-1] for line in names.stdout.splitlines()]
    assert any(name.startswith("aoti_torch") for name in undefined)
    assert not [
        name
        for name in undefined
        if name.startswith(("Py", "_Py", "_ZN2at", "_ZN3c10", "_ZN5torch"))
    ]


def test_kernels_include_no_torch_header():
    for folder in ("math", "cpu", "cuda"):
        for path in filter(Path.is_file, (_build.csrc() / folder).rglob("*")):
            found = re.search(r'#include [<"](torch|.*bind)/.*', path.read_text())
            assert not found, f"{path}: {found.group()}"


def test_oldest_torch_is_consistent():
    """The targeted stable ABI, the metadata and the README name the same release."""
    oldest = ".".join(map(str, _build.OLDEST_TORCH))
    assert f'"torch>={oldest}"' in (ROOT / "pyproject.toml").read_text()
    assert f"torch {oldest}" in (ROOT / "README.md").read_text()
    assert (
        f"0x{_build.OLDEST_TORCH[0]:02x}{_build.OLDEST_TORCH[1]:02x}"
        in (ROOT / "CMakeLists.txt").read_text()
    )


def test_info():
    dense_crf(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2), iterations=1)
    info = _native.info()
    assert info["backend"] in ("native", "reference") and info["why"]
    if info["backend"] == "native":
        assert info["build_info"]["source_hash"] == _build.source_hash("cpu")
        assert info["simd"] and info["compiler"] and Path(info["library"]).is_file()
