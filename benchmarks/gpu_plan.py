"""The steps of `gpu_check.py`, the most important first."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.gpu_results import (  # noqa: E402
    kernel_results,
    nccl_results,
    pipeline_results,
    pytest_results,
    sanitizer_results,
)
from benchmarks.gpu_runner import ROOT, Check, Step  # noqa: E402

# Options of `amn run` that end every training early; all others are as published. Learning rates
# are low, since random initial weights with frozen batch-norm would diverge.
SHORT_VOC = {
    "cam.epochs": 3,
    "cam.lr": 1e-6,
    "amn.epochs": 3,
    "amn.lr": 1e-6,
    "refine.irn.epochs": 4,
    "refine.irn.lr": 1e-6,
    "seg.updates": 12,
    "seg.lr": 1e-6,
}
TINY = {
    "cam.epochs": 1,
    "cam.batch-size": 4,
    "cam.augment.crop": 64,
    "cam.augment.long-side": "64 80",
    "cam.scales": 1.0,
    "amn.epochs": 1,
    "amn.batch-size": 4,
    "amn.augment.crop": 64,
    "amn.scales": 1.0,
    "refine.irn.epochs": 1,
    "refine.irn.batch-size": 4,
    "refine.irn.radius": 5,
    "refine.irn.augment.crop": 64,
    "refine.irn.pad": 1,
    "refine.irn.steps": 8,
    "seg.updates": 1,
    "seg.batch-size": 4,
    "seg.augment.crop": 65,
    "seg.scales": 0.5,
}

# Calls whose hottest kernels are profiled by ncu.
HOTTEST = ("crf-21", "refine", "pixel-loss", "head-bf16", "head-fp32-81")


def words(*parts: Any) -> list[str]:
    """Words of a command line.

    Strings are split at blanks, paths and the items of lists are not; a dict becomes options of a
    pipeline.
    """
    found: list[str] = []
    for part in parts:
        if isinstance(part, dict):
            for key, value in part.items():
                found += [f"--pipeline.{key}", *str(value).split()]
        elif isinstance(part, str):
            found += part.split()
        else:
            found += map(str, part if isinstance(part, list) else [part])
    return found


def installed(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


@dataclasses.dataclass(frozen=True)
class Planner:
    """Builds the steps for a device.

    Attributes:
        check: what runs the steps; they use its folders.
        device: "cuda", or "cpu" for a trial at tiny sizes.
        python: interpreter.
        workers: data loading processes of a pipeline.
    """

    check: Check
    device: str
    python: str
    workers: int

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def photos(self) -> Path:
        """Photos of the steps `stages`."""
        return self.check.work / "photos"

    @property
    def runs(self) -> Path:
        return self.check.work / "runs"

    def script(self, name: str, *parts: Any) -> list[str]:
        return words(Path(self.python), ROOT / "benchmarks" / f"{name}.py", *parts)

    def torch_step(self, name: str, limit: float, arguments: str, **options: Any) -> Step:
        """A step of gpu_steps.py."""
        size = "" if self.gpu else "--quick"
        figures = self.check.figures / f"{name}.json"
        options_of_script = f"{arguments} --device {self.device} {size} --json"
        return Step(name, self.script("gpu_steps", options_of_script, figures), limit, **options)

    def pipeline(self, name: str, limit: float, *parts: Any, **options: Any) -> Step:
        where = f"--device {self.device} --workers {self.workers} --out"
        command = words(Path(self.python), "-m wsss_fast", *parts, where, self.runs / name)
        common = {"needs": 40, "native": False, "read_log": pipeline_results}
        return Step(name, command, limit, **common, **options)

    def tests(self) -> Step:
        selected = words("tests/ops/test_random_walk.py -q -k alone")
        if self.gpu:
            selected = ["tests", "-v", "-k", "cuda and not cuda_on_cpu and not gpu_check"]
            selected += words("-n 8") * installed(self.python, "xdist")
            selected += words("--timeout 60") * installed(self.python, "pytest_timeout")
        report = self.check.logs / "tests.xml"
        pytest = words(
            Path(self.python), "-m pytest -p no:cacheprovider --tb=short --junitxml", report
        )
        return Step(
            "tests",
            [*pytest, *selected],
            90,
            needs=20,
            group="tests",
            read_log=pytest_results,
            environment={"OMP_NUM_THREADS": "2"} if self.gpu else {},
        )

    def sanitizer(self, tool: str, **environment: str) -> Step:
        sanitizer = words(f"compute-sanitizer --tool {tool} --error-exitcode 9")
        return Step(
            tool,
            [*sanitizer, *self.script("gpu_ops")],
            100,
            needs=25,
            group="sanitizers",
            tool="compute-sanitizer",
            read_log=sanitizer_results,
            environment=environment,
            unsupported="Device not supported",
        )

    def counters(self, call: str) -> Step:
        ncu = words(
            "ncu --profile-from-start off --target-processes all --clock-control none",
            "--launch-count 120 --section SpeedOfLight --section Occupancy --section LaunchStats",
            "--apply-rules no --csv --page details --print-units base",
        )
        return Step(
            f"ncu_{call}",
            [*ncu, *self.script("gpu_steps", "once", call)],
            50,
            needs=12,
            tool="ncu",
            read_log=kernel_results,
            unsupported="LibraryNotLoaded|ERR_NVGPUCTRPERM",
        )

    def hottest(self) -> Step:
        """A table of the hottest kernel of each of these calls."""
        written = self.check.out / "gpu_check.json"
        return Step("hottest", self.script("gpu_results", written), 10, needs=1, native=False)

    def preparation(self) -> list[Step]:
        """Description of the machine, data sets and the cold build."""
        voc, shapes = self.check.work / "voc", str(self.check.work / "shapes")
        numbers = "--train 64 --val 16" if self.gpu else "--train 8 --val 4 --size 60 80"
        call = f"make_shapes({shapes!r}, seed=3, train=24, val=8, size=64)"
        call = "load('shapes:0')" if self.gpu else call
        code = f"from wsss_fast import data; data.{call}"
        write_voc, write_shapes = self.script("synthetic_voc", voc, numbers), [self.python, "-c"]
        numbers = "--train 256 --val 0" if self.gpu else "--train 4 --val 0 --size 60 80"
        write_photos = self.script("synthetic_voc", self.photos, f"{numbers} --odd 8")
        return [
            self.torch_step("machine", 25, "machine", native=False),
            Step("data_voc", write_voc, 60, group="build", native=False),
            Step("data_shapes", [*write_shapes, code], 60, group="build", native=False),
            Step("data_stages", write_photos, 60, group="build", native=False),
            self.torch_step("build", 120, "build", group="build"),
        ]

    def operators(self) -> list[Step]:
        """Tests of all operators, throughput of those of inference and of regularised losses."""
        size = "" if self.gpu else "--quick"
        crf = f"--device {self.device} {size} --json"
        return [
            Step("ops", self.script("gpu_ops", f"--device {self.device}"), 40, group="tests"),
            self.tests(),
            Step("crf", self.script("gpu_crf", crf, self.check.figures / "crf.json"), 40),
            self.torch_step("maps", 75, "rates maps regularised"),
        ]

    def losses(self) -> list[Step]:
        """Throughput of the operators of trainings."""
        return [
            self.torch_step("heads", 40, "rates heads"),
            self.torch_step("losses", 45, "rates losses walk"),
        ]

    def stages(self) -> list[Step]:
        """Rates of inference and label stages, and of trainings."""

        def step(script: str, name: str, seconds: int, limit: int, arguments: str = "") -> Step:
            where = f"--device {self.device} --seconds {seconds} {arguments}"
            where += "" if self.gpu else " --quick"
            figures = self.check.figures / f"{name}.json"
            command = self.script(script, where, "--data", self.photos, "--json", figures)
            return Step(name, command, limit, needs=20, after=("data_stages",))

        bf16 = "--precision bf16 cam/maps seeds amn/maps predictions"
        return [
            step("stage_rates", "stages", 90, 115),
            step("stage_rates", "stages_bf16", 30, 55, bf16),
            step("train_rates", "train", 70, 80),
        ]

    def voc_run(self) -> list[str]:
        """`amn run` on the synthetic VOC folder."""
        voc, numbers = self.check.work / "voc", SHORT_VOC if self.gpu else TINY
        return words("amn run --preset amn-voc --val-split val --data", voc, numbers)

    def pipelines(self) -> list[Step]:
        # The small classifier's images are not resized, so it has no such option.
        numbers = {key: value for key, value in TINY.items() if "long-side" not in key}
        shapes = self.check.work / "shapes"
        demo = words("amn run --preset shapes --until masks --data", shapes, numbers)
        return [
            self.pipeline("demo", 80, ["demo"] if self.gpu else demo, after=("data_shapes",)),
            self.pipeline("voc", 80, self.voc_run(), after=("data_voc",)),
        ]

    def nccl(self) -> Step:
        return Step(
            "nccl",
            self.script("gpu_nccl", self.runs / "nccl"),
            70,
            needs=25,
            group="sanitizers",
            native=False,
            read_log=nccl_results,
        )


def plan(check: Check, device: str, python: str, workers: int) -> dict[str, list[Step]]:
    """All steps by section, the most important first; on a CPU without NVIDIA's tools."""
    build = Planner(check, device, python, workers)
    sections = {
        "preparation": build.preparation(),
        "operators": build.operators(),
        "stages": build.stages(),
        "pipelines": build.pipelines(),
    }
    if not build.gpu:
        profile = build.torch_step("profile", 50, "profile crf-21 pixel-loss")
        return {**sections, "tools": [build.nccl(), *build.losses(), profile]}
    bf16 = [*build.voc_run(), *words("--precision bf16 --until masks")]
    tools = [
        build.nccl(),
        # Without torch's pool every tensor is an allocation of its own, whose bounds memcheck
        # knows.
        build.sanitizer("memcheck", PYTORCH_NO_CUDA_MEMORY_CACHING="1"),
        build.sanitizer("racecheck"),
        *build.losses(),
        build.torch_step("profile", 40, "profile"),
        *(build.counters(call) for call in HOTTEST),
        build.hottest(),
        build.torch_step("compiled", 150, "rates losses compiled", needs=20),
        build.pipeline("voc_bf16", 70, bf16, after=("voc",)),
    ]
    return {**sections, "tools": tools}
