"""tools/kernel_resources.py: ptxas' report, launch bounds, occupancy, and spills that fail."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import kernel_resources  # noqa: E402
from kernel_resources import Kernel, block_sizes, from_log, spilling  # noqa: E402

BLUR = "_ZN4wsss4cuda12_GLOBAL__N_14blurILi4EEEvPfi"
SORT = "_ZN3cub4sortEPi"
LOG = "".join(
    f"ptxas info    : Compiling entry function '{name}' for 'sm_{arch}'\n"
    f"ptxas info    : Function properties for {name}\n"
    f"    {spills} bytes stack frame, {spills} bytes spill stores, {spills} bytes spill loads\n"
    f"ptxas info    : Used {registers} registers, used 1 barriers{shared}\n"
    f"ptxas info    : Compile time = 9.5 ms\n"
    for name, arch, spills, registers, shared in (
        (BLUR, "80", 8, 40, ""),
        (SORT, "90", 16, 255, ""),
        (BLUR, "90", 0, 90, ", 2048 bytes smem"),
    )
)
PTX = f"""
.visible .entry {BLUR}(
	.param .u64 a,
	.param .u32 b
)
.maxntid 512, 1, 1
.minnctapersm 2
{{
}}
.visible .entry {SORT}()
{{
"""


def test_this_projects_kernels_are_read():
    name = "blur<4>" if shutil.which("c++filt") else BLUR
    assert block_sizes(PTX) == {BLUR: 512}
    assert from_log(LOG, "80") == [Kernel(name, "80", 40, 8, 8, 0)]
    assert from_log(LOG, "90", block_sizes(PTX)) == [Kernel(name, "90", 90, 0, 0, 2048, 512)]
    assert from_log(LOG, "75") == []


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "blocks"),
    [
        ("90", 32, 0, 256, 8),
        ("90", 33, 0, 256, 6),  # 40 registers are allocated
        ("90", 16, 0, 32, 32),
        ("90", 255, 0, 256, 1),
        ("90", 255, 0, 512, 0),  # cannot be launched
        ("80", 32, 48 << 10, 256, 3),
        ("90", 32, 48 << 10, 256, 4),
    ],
)
def test_blocks_on_a_multiprocessor(arch, registers, shared, threads, blocks):
    kernel = Kernel("k", arch, registers, 0, 0, shared, threads)
    assert kernel.blocks == blocks and kernel.occupancy == blocks * threads / 2048


def test_only_listed_spills_are_allowed(monkeypatch):
    monkeypatch.setattr(kernel_resources, "ALLOWED_SPILLS", {("update", "80"): 4})
    kernels = [
        Kernel("update<4>", arch, 64, spills, 0, 0) for arch in ("80", "90") for spills in (4, 8)
    ]
    assert spilling(kernels) == [
        "update<4>, sm_80: 8 bytes are spilled",
        "update<4>, sm_90: 4 bytes are spilled",
        "update<4>, sm_90: 8 bytes are spilled",
    ]
