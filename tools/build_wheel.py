"""Build the wheel that needs no compiler where it is installed.

    pip install ziglang auditwheel torch==2.13.0 ninja "setuptools>=77" wheel
    python tools/build_wheel.py dist [--no-cuda]

It has CPU libraries for AVX2 and AVX-512 and one for CUDA, and serves every supported Python and
torch. The tag is py3-none-manylinux_2_28_x86_64: no library uses the interface of Python; zig links
against the symbol versions of glibc 2.28, and wheel/old_runtime.cpp provides what newer headers
need in addition. Functions of torch are looked up at load time.
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
# Machine code for each, and intermediate code that drivers compile for GPUs between and after them.
CUDA_ARCHS = ("80+ptx", "86", "89", "90", "100", "120+ptx")
WHEEL = Path(__file__).resolve().parent / "wheel"
LARGEST_MEGABYTES = 40


def run(*command: object) -> str:
    """Run a program; returns its output, or exits with its first error."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        output, name = done.stdout + done.stderr, Path(str(command[0])).name
        sys.exit(f"{output}\nbuild_wheel: {name} failed: {_build.first_error(output)}")
    return done.stdout


def torch_symbols(objects: list[Path]) -> list[str]:
    """Functions of torch's C interface that the object files need."""
    lines = run("nm", "-u", *objects).splitlines()
    undefined = {line.split()[-1] for line in lines if " U " in line}
    return sorted(name for name in undefined if re.match(r"(aoti_)?torch_", name))


def write_trampolines(names: list[str], path: Path) -> None:
    """Write functions with these names in assembler, each a jump through a table of addresses."""
    lines = ['.section .note.GNU-stack,"",@progbits', ".text"]
    for i, name in enumerate(names):
        lines += [f".globl {name}", f".hidden {name}", f".type {name},@function"]
        lines += [f"{name}: jmp *wsss_torch_table+{8 * i}(%rip)"]
    lines += [".data", ".balign 8", ".globl wsss_torch_table", ".hidden wsss_torch_table"]
    lines += [f"wsss_torch_table: .fill {len(names)},8,0"]
    lines += ['.section .data.rel.ro,"aw"', ".balign 8"]
    lines += [".globl wsss_torch_names", ".hidden wsss_torch_names"]
    lines += ["wsss_torch_names:", *(f".quad name{i}" for i in range(len(names))), ".quad 0"]
    lines += [".section .rodata"]
    lines += [f'name{i}: .string "{name}"' for i, name in enumerate(names)]
    path.write_text("\n".join(lines) + "\n")


def build_library(plan: _build.Plan, target: Path) -> None:
    """Compile with the compiler and link with zig; writes the manifest next to `target`."""
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
        flags = ("-std=c++20", "-O2", "-fPIC")
        run(*plan.cxx, *flags, "-c", WHEEL / "old_runtime.cpp", "-o", folder / "runtime.o")
        (folder / "exports.map").write_text("{ global: wsss_fast_*; local: *; };\n")
        system = [
            run(*plan.cxx, f"-print-file-name={name}").strip()
            for name in ("libstdc++.so", "libgcc_s.so.1")
        ]
        cuda = [
            word for word in plan.link_flags if word.startswith("-L") or word == "-lcudart_static"
        ]
        run(
            *(sys.executable, "-m", "ziglang", "cc", "-target", TARGET, "-shared", "-s"),
            *(*objects, folder / "symbols.o", folder / "runtime.o"),
            f"-Wl,--version-script={folder / 'exports.map'}",
            *(*cuda, *(Path(path).resolve() for path in system)),
            *("-lm", "-lpthread", "-ldl", "-lrt", "-o", target),
        )
    _build.write_manifest(plan, target, torch_symbols=" ".join(names))
    size = target.stat().st_size / 1e6
    print(f"{target.name}: {size:.1f} MB, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the wheel")
    parser.add_argument("--no-cuda", action="store_true", help="build no CUDA library")
    parser.add_argument(
        "--archs",
        nargs="+",
        default=CUDA_ARCHS,
        help=f"architectures of the CUDA library (default: {' '.join(CUDA_ARCHS)})",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        libraries = Path(temporary)
        try:
            for suffix, arch, _ in _build.X86_LEVELS:
                plan = _build.make_plan("cpu", arch=arch, torch_libraries=False)
                build_library(plan, libraries / f"{_build.NAMES['cpu']}{suffix}.so")
            if not options.no_cuda:
                plan = _build.make_plan("cuda", archs=tuple(options.archs), torch_libraries=False)
                build_library(plan, libraries / f"{_build.NAMES['cuda']}.so")
        except _build.Unavailable as error:
            sys.exit(f"build_wheel: {error}")
        environment = os.environ | {
            "WSSS_FAST_LIBRARIES": str(libraries),
            "WSSS_FAST_PLATFORM": PLATFORM,
        }
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps"]
        subprocess.run([*command, "-w", options.out, ROOT], env=environment, check=True)
    (wheel,) = options.out.glob(f"wsss_fast-*-py3-none-{PLATFORM}.whl")
    report = run(sys.executable, "-m", "auditwheel", "show", wheel)
    size = wheel.stat().st_size / 1e6
    print(f"{report}\n{wheel}: {size:.1f} MB")
    # A tag of an older glibc is fine, too.
    found = re.search(r'platform\s+tag:\s+"manylinux_2_(\d+)_x86_64"', report)
    return 0 if found and int(found.group(1)) <= 28 and size <= LARGEST_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
