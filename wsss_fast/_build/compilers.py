"""Compilers and toolkits: find them, ask them for their version, choose their flags."""

import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import torch

from .sources import Unavailable

# The oldest release with the stable ABI that the sources use; also in pyproject.toml and README.md.
OLDEST_TORCH = (2, 10)
TORCH_TARGET = f"0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")
INSTALL_COMPILER = (
    "install g++ 11 or newer (Debian/Ubuntu: apt install g++; conda: conda install gxx)"
)


def check_torch() -> None:
    """Raise Unavailable if torch is too old for the stable ABI that the sources use."""
    found = tuple(int(x) for x in re.findall(r"\d+", torch.__version__)[:2])
    if found < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise Unavailable(
            f"torch {torch.__version__} is older than {oldest}, which the native ops need: "
            f"pip install 'torch>={oldest}'"
        )


def run(*command: str, hint: str = INSTALL_COMPILER) -> str:
    """What a command prints; Unavailable with its last line and `hint` if it fails."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        reason = f": {last[0]}" if last else ""
        raise Unavailable(
            f"{shlex.join(command)} fails with exit code {error.returncode}{reason}; {hint}"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{command[0]} does not run ({error}); {hint}") from None


def find_compiler() -> tuple[str, ...]:
    """The command of the C++ compiler: the value of CXX, or g++, clang++ or c++ on PATH.

    CXX may contain a launcher and flags, as in "ccache g++ -fno-plt". Nothing is run.
    """
    named = os.environ.get("CXX", "").strip()
    if not named:
        cxx = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
        if cxx is None:
            raise Unavailable(f"no C++ compiler on PATH: {INSTALL_COMPILER}")
        return (cxx,)
    program, words = _split_command(named)
    # ninja runs in another directory than this process.
    words = [os.path.abspath(program), *words]
    compilers = [word for word in words if Path(word).name not in LAUNCHERS]
    if not compilers or compilers[0].startswith("-"):
        raise Unavailable(f"CXX={named!r} has a launcher without a compiler: set CXX='ccache g++'")
    if re.fullmatch(r"(gcc|clang|cc)(-[\d.]+)?", Path(compilers[0]).name):
        raise Unavailable(f"CXX={named!r} is a C compiler: set CXX to a C++ compiler, such as g++")
    return tuple(words)


def _split_command(text: str) -> tuple[str, list[str]]:
    """The program and the further words of a command; the program's path may contain spaces."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise Unavailable(f"CXX={text!r} cannot be split into words ({error})") from None
    if words and (program := shutil.which(words[0])):
        return program, words[1:]
    unquoted = text.split(" ")
    for count in range(2, len(unquoted) + 1):
        if program := shutil.which(" ".join(unquoted[:count])):
            return program, shlex.split(" ".join(unquoted[count:]))
    raise Unavailable(f"no C++ compiler {text!r} (from CXX): {INSTALL_COMPILER}")


def find_nvcc() -> str | None:
    """The path of nvcc from CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda, or None."""
    homes = [os.environ[v] for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    candidates = [f"{home}/bin/nvcc" for home in homes] + [
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    ]
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)


def nvcc_release(nvcc: str) -> str:
    """The CUDA release of `nvcc`, for example "13.0"."""
    found = re.search(
        r"release (\d+\.\d+)", run(nvcc, "--version", hint="install the whole CUDA toolkit")
    )
    if not found:
        raise Unavailable(f"{nvcc} --version does not report a CUDA release")
    return found.group(1)


def toolkit_libraries(nvcc: str) -> Path:
    """The library directory of the toolkit.

    Raises:
        Unavailable: the toolkit is incomplete; the message names the missing file.
    """
    # nvcc may be a wrapper script outside the toolkit; --dryrun prints the toolkit's own directory.
    done = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull],
        capture_output=True,
        text=True,
    )
    top = re.search(r"^#\$ TOP=(.+)$", done.stderr, re.M)
    home = Path(top.group(1).strip()).resolve() if top else Path(nvcc).resolve().parent.parent
    places = {
        "cuda_runtime.h": ("include", "targets/*/include"),
        "libcudart_static.a": ("lib64", "lib", "targets/*/lib"),
    }
    library = home
    for name, folders in places.items():
        found = next((path for folder in folders for path in home.glob(f"{folder}/{name}")), None)
        if found is None:
            raise Unavailable(
                f"the CUDA toolkit of {nvcc} is incomplete: {home}/{folders[0]}/{name} is missing; "
                "install the whole toolkit"
            )
        library = found
    return library.parent


def is_x86() -> bool:
    """Whether this machine's CPU is an x86 of 64 bits."""
    return platform.machine() in ("x86_64", "AMD64")


def arch_flags(arch: str) -> tuple[str, ...]:
    """The option for the CPU's instruction sets: "native", a level of x86, or none."""
    if is_x86():
        return (f"-march={arch}",)
    return ("-mcpu=native",) if arch == "native" else ()


def simd_level(cxx: tuple[str, ...], flags: tuple[str, ...]) -> str:
    """The widest vector instructions that the flags allow: "avx512", "avx2", "neon", "baseline"."""
    defined = run(*cxx, *flags, "-dM", "-E", "-x", "c++", "/dev/null")
    levels = (("__AVX512F__", "avx512"), ("__AVX2__", "avx2"), ("__ARM_NEON", "neon"))
    return next((name for macro, name in levels if f"#define {macro} " in defined), "baseline")


def cpu_features() -> frozenset[str]:
    """Instruction sets and other features of this CPU, on which -march=native depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset({platform.processor()})
    found = [set(x.partition(":")[2].split()) for x in lines if x.startswith(("flags", "Features"))]
    return frozenset(set.intersection(*found)) if found else frozenset({platform.processor()})


def host_compiler_of(cxx: tuple[str, ...]) -> str:
    """The host compiler for nvcc: the one in CXX, without a launcher; "" for nvcc's default."""
    named = (
        [word for word in cxx if Path(word).name not in LAUNCHERS] if os.environ.get("CXX") else []
    )
    return named[0] if named else ""


def nvcc_flags(archs: tuple[str, ...], host_compiler: str = "") -> tuple[str, ...]:
    """Flags of nvcc.

    Args:
        archs: compute capabilities, as "90", or "90+ptx" to add PTX for newer GPUs.
        host_compiler: the compiler of the host code; "" for nvcc's default.
    """
    code = [f"--compiler-bindir={host_compiler}"] if host_compiler else []
    for arch in archs:
        number, _, ptx = arch.partition("+")
        code.append(
            f"-gencode=arch=compute_{number},code="
            + (f"[sm_{number},compute_{number}]" if ptx else f"sm_{number}")
        )
    # No fused multiply-add: lattice coordinates must be equal on all devices (csrc/math/lattice.h).
    flags = (
        "-std=c++20",
        "-O3",
        "--fmad=false",
        "-Xcompiler=-fPIC,-fvisibility=hidden",
        "--expt-relaxed-constexpr",
    )
    return *flags, *code
