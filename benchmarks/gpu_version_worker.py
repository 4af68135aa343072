"""One version of the package, for `gpu_versions.py`: answers requests, a line of JSON each.

    python benchmarks/gpu_version_worker.py PACKAGE_ROOT [--device cuda] [--quick]

PACKAGE_ROOT holds `wsss_fast/`; the rows are those of this folder's `gpu_rows.py` for any version.
`--device emulated` runs the CUDA sources on the CPU by the root's `tests/helpers`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.gpu_rows import Row

ROOT = Path(__file__).resolve().parent.parent


def import_version(root: Path) -> None:
    """Import `wsss_fast` from `root`, and `benchmarks` from this folder's root."""
    sys.path[:0] = [str(ROOT)]
    import benchmarks  # noqa: F401  # stays the one that other modules find

    sys.path[:0] = [str(root)]
    import wsss_fast

    if Path(str(wsss_fast.__file__)).resolve().parents[1] != root.resolve():
        raise SystemExit(f"{root} has no wsss_fast")


def recorded(call: Callable[[], object]) -> Callable[[], object]:
    """The replay of a call's CUDA graph."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graph.result = call()  # type: ignore[attr-defined]  # keeps the memory of the results
    return graph.replay


class Worker:
    """Holds the call of one row at a time; every method is a request."""

    def __init__(self, root: Path, device: str, quick: bool):
        from benchmarks import gpu_rows, gpu_timing

        self.root, self.quick, self.timing = root, quick, gpu_timing
        self.emulated = device == "emulated"
        self.device = torch.device("cpu" if self.emulated else device)
        self.rows = {row.name: row for row in gpu_rows.rows()}
        self.results: list[Tensor] = []
        self.run: Callable[[], object] | None = None

    def build(self) -> dict[str, Any]:
        """Build the native libraries, whose calls are then warm."""
        start = time.perf_counter()
        if self.emulated:
            sys.path[:0] = [str(self.root / "tests/helpers")]
            import emulated_cuda

            compiler = shutil.which("g++") or "c++"
            library = emulated_cuda.build(compiler, Path(os.environ["WSSS_FAST_CACHE"]))
            emulated_cuda.serve(str(library))
        from wsss_fast import _native, ops

        image, unary = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.rand(1, 2, 4, 4)
        ops.dense_crf(image.to(self.device), unary.to(self.device))
        info = _native.info()
        part = "cuda_backend" if self.device.type == "cuda" else "backend"
        if info[part] != "native":
            raise RuntimeError(f"there is no native kernel: {info}")
        about = {"torch": torch.__version__, "device": "cpu"}
        if self.device.type == "cuda":
            about["device"] = torch.cuda.get_device_name(self.device)
        return {"seconds": time.perf_counter() - start, **about}

    def names(self) -> dict[str, Any]:
        """The rows in order, each with its images if it is given in images per second."""
        return {"rows": [{**row.about, "images": row.images} for row in self.rows.values()]}

    def make(self, row: str, path: str) -> dict[str, Any]:
        """Write the row's input."""
        torch.save(self.rows[row].make(0, self.quick), path)
        return {}

    def load(self, row: str, path: str) -> dict[str, Any]:
        """Read an input, call the op with it, and keep results and call."""
        self.drop()
        chosen: Row = self.rows[row]
        inputs = [t if t is None else t.to(self.device) for t in torch.load(path)]
        call = chosen.prepared(inputs)
        with self.timing.strict_float32():
            found = call()
        found = [found] if isinstance(found, Tensor) else list(found)
        self.results = [t.detach().cpu() for t in found]
        graph = chosen.graph and self.device.type == "cuda"
        self.run = recorded(call) if graph else call
        return {}

    def save(self, path: str) -> dict[str, Any]:
        """Write the results."""
        torch.save(self.results, path)
        return {}

    def compare(self, row: str, path: str) -> dict[str, Any]:
        """Errors of the results, with those of another version as the expected ones."""
        chosen = self.rows[row]
        errors = chosen.compare(self.results, torch.load(path))
        wrong = [n for n, limit in chosen.limits.items() if not errors[n] <= limit]
        return {"errors": errors, "wrong": wrong}

    def time(self, seconds: float) -> dict[str, Any]:
        """Median times of the call, and its peak memory."""
        assert self.run is not None
        return self.timing.timed(self.run, self.device, seconds)

    def baselines(self, row: str, path: str, seconds: float) -> dict[str, Any]:
        """Milliseconds of eager PyTorch and of torch's own op; what fails is left out."""
        found, inputs = {}, None
        for name, call in self.rows[row].baselines().items():
            inputs = inputs or [t if t is None else t.to(self.device) for t in torch.load(path)]
            with contextlib.suppress(RuntimeError):
                run = functools.partial(call, *inputs)
                found[name] = self.timing.timed(run, self.device, seconds)["ms"]
        return found

    def drop(self) -> dict[str, Any]:
        """Free the memory of the last row."""
        self.results, self.run = [], None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints goes to the log
    import_version(options.root)
    worker = Worker(options.root, options.device, options.quick)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            text = str(error).strip() or "-"
            answer = {"problem": f"{type(error).__name__}: {text.splitlines()[0][:200]}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
