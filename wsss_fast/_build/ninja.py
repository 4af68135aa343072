"""Compile and link with ninja; report the first error."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .compilers import find_compiler, find_nvcc, host_compiler_of, nvcc_flags
from .plan import TORCH_INCLUDE, Plan, cxx_flags, system_includes
from .sources import BuildFailed, Unavailable, csrc


def _ninja() -> str:
    try:
        import ninja  # only needed to build

        return str(Path(ninja.BIN_DIR) / "ninja")
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise Unavailable("ninja is missing: pip install ninja") from None
        return found


def _command(*words: str) -> str:
    """A command for a ninja file, quoted for the shell and for ninja; paths may contain spaces."""
    return shlex.join(words).replace("$", "$$")


def first_error(log: str) -> str:
    """The line of a build's output with the first error of a compiler or of the linker."""
    lines = [line.rstrip() for line in log.splitlines()]
    patterns = (
        # file:1:2: error, file(1): error
        r"^\S.*?[:(]\d+[:)].*\b(?:fatal |internal compiler )?error\b",
        r"\berror\s*:|\bundefined (?:reference|symbol)|\bcannot find -l|\bKilled\b"
        r"|No space left on device|\bfatal\b",
    )
    for pattern in patterns:
        for line in lines:
            if re.search(pattern, line, re.I) and not line.startswith(("FAILED:", "ninja:")):
                return line.strip()
    printed = [line for line in lines if line and not line.startswith(("FAILED:", "ninja:", "["))]
    return printed[-1] if printed else "ninja failed and printed nothing"


def _ninja_file(folder: Path, rules: list[str]) -> None:
    (folder / "build.ninja").write_bytes(os.fsencode("\n".join(rules) + "\n"))


def _compile_rules(
    sources: Sequence[Path],
    part: str,
    cxx: tuple[str, ...],
    nvcc: tuple[str, ...],
    folder: Path,
    torch_include: Path = TORCH_INCLUDE,
) -> list[str]:
    """Ninja rules that write objects 0.o, 1.o, ... and logs 0.log, 1.log, ... to `folder`."""
    rules = []
    for number, source in enumerate(sources):
        words = [*(nvcc if source.suffix == ".cu" else cxx), f"-I{folder}", f"-I{csrc()}"]
        if source.parent.name == "bind":  # kernels include neither torch nor Python
            words += [
                word for path in system_includes(part, torch_include) for word in ("-isystem", path)
            ]
            # These sources only call kernels: a higher level would only take longer to compile.
            words.append("-O1")
        command = (
            f"{_command(*words)} -c $in -o $out > {number}.log 2>&1 || (cat {number}.log; exit 1)"
        )
        rules.append(f"rule c{number}\n  command = {command}")
        rules.append(f"build {number}.o: c{number} " + re.sub("([$ :])", r"$\1", str(source)))
    return rules


def _run_ninja(folder: Path) -> None:
    done = subprocess.run(
        [_ninja(), "-C", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        log = done.stdout + done.stderr
        raise BuildFailed(first_error(log), log)


def compile_objects(
    part: str,
    sources: Sequence[Path],
    folder: Path,
    archs: tuple[str, ...],
    torch_include: Path = TORCH_INCLUDE,
    *,
    host_code: bool = True,
) -> None:
    """Compile `sources` without linking; the output of the compilers is in 0.log, 1.log, ...

    Args:
        part: "cpu", "cuda" or "module".
        sources: files of csrc.
        folder: directory of the object files and logs.
        archs: compute capabilities of the CUDA code, as "90".
        torch_include: headers of torch, of the installed or another release.
        host_code: also generate the code for the CPU; if False, the compilers only check it, and
            write no object files.

    Raises:
        BuildFailed: a source does not compile.
        Unavailable: a compiler is missing.
    """
    cxx = (*find_compiler(), *cxx_flags(part, "native"))
    nvcc = find_nvcc() if any(source.suffix == ".cu" for source in sources) else ""
    if nvcc is None:
        raise Unavailable("nvcc is missing: install the CUDA toolkit or set CUDA_HOME")
    nvcc_words = (nvcc, *nvcc_flags(archs, host_compiler_of(cxx)), "-Xptxas=-v")
    if not host_code:
        cxx, nvcc_words = (*cxx, "-fsyntax-only"), (*nvcc_words, "-Xcompiler=-fsyntax-only")
    _ninja_file(folder, _compile_rules(sources, part, cxx, nvcc_words, folder, torch_include))
    _run_ninja(folder)


def compile_library(plan: Plan, folder: Path, *, link: bool = True) -> Path:
    """Compile and link a library.

    Args:
        plan: compilers, flags and sources.
        folder: directory for all files of the build.
        link: link the library; if False, only compile the objects 0.o, 1.o, ...

    Returns:
        The path of the library.

    Raises:
        BuildFailed: a source does not compile, or the linker fails.
    """
    header = "".join(
        f"#define WSSS_{k.upper()} {json.dumps(v)}\n" for k, v in plan.describe().items()
    )
    (folder / "wsss_build_info.h").write_text(header, encoding="utf-8")
    cxx, nvcc = (*plan.cxx, *plan.cxx_flags), (plan.nvcc or "", *plan.nvcc_flags)
    rules = _compile_rules(plan.sources, plan.part, cxx, nvcc, folder)
    objects = " ".join(f"{number}.o" for number in range(len(plan.sources)))
    if link:
        rules.append(
            f"rule link\n  command = {_command(*plan.cxx)} $in {_command(*plan.link_flags)} -o $out"
        )
        rules.append(f"build {plan.library}: link {objects}")
    _ninja_file(folder, rules)
    _run_ninja(folder)
    return folder / plan.library
