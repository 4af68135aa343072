"""Build the wheel that needs no compiler: CPU libraries for AVX2 and AVX-512, and one for CUDA.

    pip install ziglang auditwheel torch==2.13.0 ninja "setuptools>=77" wheel
    python tools/build_wheel.py dist [--no-cuda]

The tag is py3-none-manylinux_2_28_x86_64, because the libraries do not depend on Python. zig links
against the symbol versions of glibc 2.28, and wheel/old_runtime.cpp defines functions that code
compiled with newer headers also needs. Functions of torch are looked up at load time, so one wheel
works with every supported release of torch.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from wsss_fast import _build  # noqa: E402

PLATFORM = "manylinux_2_28_x86_64"
TARGET = "x86_64-linux-gnu.2.28"
# Machine code for each; "+ptx" adds PTX, which the driver compiles for other GPUs.
CUDA_ARCHS = ("80+ptx", "86", "89", "90", "100", "120+ptx")
WHEEL = Path(__file__).resolve().parent / "wheel"
MOST_MEGABYTES = 40


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(
            f"{done.stdout}{done.stderr}\nbuild_wheel: {Path(str(command[0])).name} failed: "
            f"{_build.first_error(done.stdout + done.stderr)}"
        )
    return done.stdout


def torch_symbols(objects: list[Path]) -> list[str]:
    """Functions of torch's C interface that the objects need."""
    undefined = {
        line.split()[-1] for line in run("nm", "-u", *objects).splitlines() if " U " in line
    }
    return sorted(name for name in undefined if re.match(r"(aoti_)?torch_", name))


def write_trampolines(names: list[str], path: Path) -> None:
    """Write assembly that jumps to each function through a table, filled at load time."""
    lines = ['.section .note.GNU-stack,"",@progbits', ".text"]
    for i, name in enumerate(names):
        lines += [f".globl {name}", f".hidden {name}", f".type {name},@function"]
        lines += [f"{name}: jmp *wsss_torch_table+{8 * i}(%rip)"]
    lines += [".data", ".balign 8", ".globl wsss_torch_table", ".hidden wsss_torch_table"]
    lines += [f"wsss_torch_table: .fill {len(names)},8,0"]
    lines += [
        '.section .data.rel.ro,"aw"',
        ".balign 8",
        ".globl wsss_torch_names",
        ".hidden wsss_torch_names",
    ]
    lines += [
        "wsss_torch_names:",
        *(f".quad name{i}" for i in range(len(names))),
        ".quad 0",
        ".section .rodata",
    ]
    lines += [f'name{i}: .string "{name}"' for i, name in enumerate(names)]
    path.write_text("\n".join(lines) + "\n")


def build_library(plan: _build.Plan, target: Path) -> None:
    """Compile with the C++ compiler and link with zig; write `target` and its manifest."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            _build.compile_library(plan, folder, link=False)
        except _build.BuildFailed as error:
            sys.exit(f"{error.log}\nbuild_wheel: {error}")
        objects = sorted(folder.glob("*.o"))
        names = torch_symbols(objects)
        write_trampolines(names, folder / "torch_symbols.s")
        run(*plan.cxx, "-c", folder / "torch_symbols.s", "-o", folder / "symbols.o")
        run(
            *plan.cxx,
            "-std=c++20",
            "-O2",
            "-fPIC",
            "-c",
            WHEEL / "old_runtime.cpp",
            "-o",
            folder / "runtime.o",
        )
        (folder / "exports.map").write_text("{ global: wsss_fast_*; local: *; };\n")
        system = [
            run(*plan.cxx, f"-print-file-name={name}").strip()
            for name in ("libstdc++.so", "libgcc_s.so.1")
        ]
        libraries = [
            word for word in plan.link_flags if word.startswith("-L") or word == "-lcudart_static"
        ]
        run(
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-target",
            TARGET,
            "-shared",
            "-s",
            *objects,
            folder / "symbols.o",
            folder / "runtime.o",
            f"-Wl,--version-script={folder / 'exports.map'}",
            *libraries,
            *(Path(path).resolve() for path in system),
            "-lm",
            "-lpthread",
            "-ldl",
            "-lrt",
            "-o",
            target,
        )
    _build.write_manifest(plan, target, torch_symbols=" ".join(names))
    size = target.stat().st_size / 1e6
    print(f"{target.name}: {size:.1f} MB, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory for the wheel")
    parser.add_argument("--no-cuda", action="store_true", help="omit the CUDA library")
    parser.add_argument(
        "--archs",
        nargs="+",
        default=CUDA_ARCHS,
        help=f"compute capabilities of the CUDA library (default: {' '.join(CUDA_ARCHS)})",
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        libraries = Path(temporary)
        try:
            for suffix, arch, _ in _build.X86_LEVELS:
                plan = _build.make_plan("cpu", arch=arch, torch_libraries=False)
                build_library(plan, libraries / f"{_build.NAMES['cpu']}{suffix}.so")
            if not given.no_cuda:
                plan = _build.make_plan("cuda", archs=tuple(given.archs), torch_libraries=False)
                build_library(plan, libraries / f"{_build.NAMES['cuda']}.so")
        except _build.Unavailable as error:
            sys.exit(f"build_wheel: {error}")
        environment = os.environ | {
            "WSSS_FAST_LIBRARIES": str(libraries),
            "WSSS_FAST_PLATFORM": PLATFORM,
        }
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "-q",
                "--no-build-isolation",
                "--no-deps",
                "-w",
                given.out,
                ROOT,
            ],
            env=environment,
            check=True,
        )
    (wheel,) = given.out.glob(f"wsss_fast-*-py3-none-{PLATFORM}.whl")
    print(shown := run(sys.executable, "-m", "auditwheel", "show", wheel))
    size = wheel.stat().st_size / 1e6
    print(f"{wheel}: {size:.1f} MB")
    # A tag for an older glibc is fine as well.
    found = re.search(r'platform\s+tag:\s+"manylinux_2_(\d+)_x86_64"', shown)
    return 0 if found and int(found.group(1)) <= 28 and size <= MOST_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
