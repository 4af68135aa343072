"""Compile the native libraries: find sources and compilers, choose flags, run ninja, report errors.

There are three parts, each built as a separate shared library. "cpu" and "cuda" register the
kernels through torch's stable ABI and do not depend on Python. "module" is the pybind11 module
`_C`, which reads the build information and the op signatures that a library exports.
tools/check_sources.py compiles all parts without linking.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parent
# The oldest release with the stable ABI that the sources use; also in pyproject.toml and README.md.
OLDEST_TORCH = (2, 10)
TORCH_TARGET = f"0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
NAMES = {"cpu": "libwsss_fast_cpu", "cuda": "libwsss_fast_cuda", "module": "_C"}
# CPU libraries of a wheel for x86, fastest first: suffix of the file name, -march, and the names
# (torch.backends.cpu.get_cpu_capability) of the CPUs that can run it. The loader picks one at run
# time, because AVX-512 is twice as fast as AVX2 for a CRF with 21 labels.
X86_LEVELS = (("_avx512", "x86-64-v4", ("AVX512",)), ("_avx2", "x86-64-v3", ("AVX2", "AVX512")))
# Sources that take the longest to compile are started first, so that no core is still busy with one
# of them when the others have finished. The remaining sources follow by name.
SLOWEST = ("lattice.cpp", "sorting.cu")
LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")
INSTALL_COMPILER = (
    "install g++ 11 or newer (Debian/Ubuntu: apt install g++; conda: conda install gxx)"
)


class Unavailable(Exception):
    """The native library cannot be used; the message says what is missing and what to install."""


class BuildFailed(Unavailable):
    """A compiler or the linker failed; `log` is its whole output."""

    def __init__(self, first_error: str, log: str):
        super().__init__(first_error)
        self.log = log


@dataclass(frozen=True)
class Plan:
    """All inputs of the build of one library; `key` names its directory in the cache."""

    part: str
    cxx: tuple[str, ...]
    compiler: str
    cxx_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    nvcc: str | None
    nvcc_flags: tuple[str, ...]
    cuda: str
    cuda_archs: tuple[str, ...]
    simd: str
    sources: tuple[Path, ...]
    key: str

    @property
    def library(self) -> str:
        """The file name of the library."""
        return NAMES[self.part] + ".so"

    def describe(self) -> dict[str, str]:
        """Build information that is compiled into the library and written to its manifest."""
        return {
            "part": self.part,
            "source_hash": source_hash(self.part),
            "compiler": self.compiler,
            "flags": " ".join(self.cxx_flags),
            "simd": self.simd,
            "cuda": self.cuda,
            "cuda_archs": " ".join(self.cuda_archs),
        }


# ---- sources


def csrc() -> Path:
    """The directory of the C++ sources: inside an installed package, next to it in a checkout."""
    for folder in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if (folder / "bind" / "cpu.cpp").is_file():
            return folder
    raise Unavailable(
        "the C++ sources (csrc) are missing from the installation; reinstall wsss-fast"
    )


def list_sources(part: str) -> tuple[Path, ...]:
    """Files that are compiled into one part: its kernels in csrc/PART, and csrc/bind/PART.cpp.

    CMakeLists.txt finds the sources of the CPU part by the same rule.
    """
    suffix = ".cu" if part == "cuda" else ".cpp"
    kernels = sorted(
        (p for p in (csrc() / part).rglob(f"*{suffix}") if not p.name.startswith(".")),
        key=lambda p: (p.name not in SLOWEST, p),
    )
    return (csrc() / "bind" / f"{part}.cpp", *kernels)


def source_hash(part: str) -> str:
    """A hash of all files that a part may include: its own, and those shared by all parts."""
    foreign = {"tests", *NAMES} - {part}
    digest = hashlib.sha256()
    for path in sorted(p for p in csrc().rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu")):
        name = path.relative_to(csrc())
        if foreign.isdisjoint(name.with_suffix("").parts):
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


# ---- compilers


def check_torch() -> None:
    """Raise Unavailable if torch is too old for the stable ABI that the sources use."""
    found = tuple(int(x) for x in re.findall(r"\d+", torch.__version__)[:2])
    if found < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise Unavailable(
            f"torch {torch.__version__} is older than {oldest}, which the native ops need: "
            f"pip install 'torch>={oldest}'"
        )


def _run(*command: str, hint: str = INSTALL_COMPILER) -> str:
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

    CXX may contain a launcher and flags, as in "ccache g++ -fno-plt".
    """
    named = os.environ.get("CXX", "").strip()
    if not named:
        cxx = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
        if cxx is None:
            raise Unavailable(f"no C++ compiler on PATH: {INSTALL_COMPILER}")
        return (cxx,)
    whole = shutil.which(named)  # a path may contain spaces
    words = [whole] if whole else shlex.split(named)
    program = shutil.which(words[0])
    if program is None:
        raise Unavailable(f"no C++ compiler {named!r} (from CXX): {INSTALL_COMPILER}")
    return (program, *words[1:])


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
        r"release (\d+\.\d+)", _run(nvcc, "--version", hint="install the whole CUDA toolkit")
    )
    if not found:
        raise Unavailable(f"{nvcc} --version does not report a CUDA release")
    return found.group(1)


def _toolkit_libraries(nvcc: str) -> Path:
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
    return platform.machine() in ("x86_64", "AMD64")


def _arch_flags(arch: str) -> tuple[str, ...]:
    if is_x86():
        return (f"-march={arch}",)
    return ("-mcpu=native",) if arch == "native" else ()


def _simd_level(cxx: tuple[str, ...], flags: tuple[str, ...]) -> str:
    defined = _run(*cxx, *flags, "-dM", "-E", "-x", "c++", "/dev/null")
    levels = (("__AVX512F__", "avx512"), ("__AVX2__", "avx2"), ("__ARM_NEON", "neon"))
    return next((name for macro, name in levels if f"#define {macro} " in defined), "baseline")


def _cpu_identity() -> str:
    """CPU model and features, on which -march=native depends; machines may share one cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(
            sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        return platform.processor()


def _host_compiler(cxx: tuple[str, ...]) -> str:
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


TORCH_INCLUDE = Path(torch.__file__).parent / "include"


def _system_includes(part: str, torch_include: Path) -> tuple[str, ...]:
    """Directories of torch's headers, or for the module part of pybind11's and Python's.

    The copies of pybind11 in torch 2.10 to 2.12 cannot be compiled with the stable ABI.
    """
    if part != "module":
        return (str(torch_include),)
    try:
        import pybind11  # only the module part needs it
    except ImportError:
        raise Unavailable("pybind11 is missing: pip install pybind11") from None
    python = sysconfig.get_paths()["include"]
    if not Path(python, "Python.h").is_file():
        raise Unavailable(
            f"Python.h is not in {python}: install the Python headers (apt install python3-dev)"
        )
    return pybind11.get_include(), python


def _cxx_flags(part: str, arch: str) -> tuple[str, ...]:
    # No contraction: see nvcc_flags. It costs no speed, because the kernels are memory-bound.
    flags: tuple[str, ...] = (
        "-std=c++20",
        "-O3",
        "-fPIC",
        "-fvisibility=hidden",
        "-ffp-contract=off",
        "-Wall",
        "-Wno-psabi",
    )
    flags += (f"-DTORCH_TARGET_VERSION={TORCH_TARGET}",)
    if part == "cpu":
        return *flags, *_arch_flags(arch)
    return (*flags, "-DUSE_CUDA") if part == "cuda" else flags


def make_plan(
    part: str, *, arch: str = "native", archs: tuple[str, ...] = (), torch_libraries: bool = True
) -> Plan:
    """Choose compilers and flags for the build of one library.

    Args:
        part: "cpu", "cuda" or "module".
        arch: -march of the CPU code: "native", or a level such as "x86-64-v3" for a wheel.
        archs: compute capabilities of the CUDA code, as "90".
        torch_libraries: link against the libraries of the installed torch; if False, their symbols
            are resolved when the library is loaded.

    Raises:
        Unavailable: a compiler, a header or a toolkit is missing.
    """
    if os.name == "nt":  # Windows always uses the PyTorch reference
        raise Unavailable("native builds need Linux or macOS")
    check_torch()
    cxx = find_compiler()
    compiler = _run(*cxx, "--version").strip().splitlines()[0]
    flags = _cxx_flags(part, arch)
    link: tuple[str, ...] = ("-shared", "-pthread")
    if torch_libraries and part != "module":
        link += (f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-ltorch_cpu")
        link += ("-ltorch_cuda",) if part == "cuda" else ()
    if sys.platform == "darwin":
        link += ("-undefined", "dynamic_lookup")
    nvcc, cuda = None, ""
    device_flags: tuple[str, ...] = ()
    if part == "cuda":
        nvcc = find_nvcc()
        if nvcc is None:
            raise Unavailable("nvcc is missing: install the CUDA toolkit or set CUDA_HOME")
        cuda, device_flags = nvcc_release(nvcc), nvcc_flags(archs, _host_compiler(cxx))
        link += (f"-L{_toolkit_libraries(nvcc)}", "-lcudart_static", "-ldl", "-lrt")
    simd = _simd_level(cxx, flags) if part == "cpu" else ""
    identity = [
        part,
        source_hash(part),
        cxx[1:],
        flags,
        link,
        torch.__version__,
        compiler,
        cuda,
        device_flags,
    ]
    identity += [
        _cpu_identity() if part == "cpu" and arch == "native" else "",
        sysconfig.get_config_var("SOABI") if part == "module" else "",
        str(TORCH_INCLUDE),
    ]
    key = f"{part}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]}"
    return Plan(
        part,
        cxx,
        compiler,
        flags,
        link,
        nvcc,
        device_flags,
        cuda,
        archs,
        simd,
        list_sources(part),
        key,
    )


# ---- compiling


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
                word
                for path in _system_includes(part, torch_include)
                for word in ("-isystem", path)
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
) -> None:
    """Compile `sources` without linking; the output of the compilers is in 0.log, 1.log, ...

    Args:
        part: "cpu", "cuda" or "module".
        sources: files of csrc.
        folder: directory of the object files and logs.
        archs: compute capabilities of the CUDA code, as "90".
        torch_include: headers of torch, of the installed or another release.

    Raises:
        BuildFailed: a source does not compile.
        Unavailable: a compiler is missing.
    """
    cxx = (*find_compiler(), *_cxx_flags(part, "native"))
    nvcc = find_nvcc() if any(source.suffix == ".cu" for source in sources) else ""
    if nvcc is None:
        raise Unavailable("nvcc is missing: install the CUDA toolkit or set CUDA_HOME")
    nvcc_words = (nvcc, *nvcc_flags(archs, _host_compiler(cxx)), "-Xptxas=-v")
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


def write_manifest(plan: Plan, library: Path, **more: str) -> Path:
    """Write the manifest next to the library: build information, size and hash of the file.

    The loader only loads a library that matches its manifest.

    Args:
        plan: how the library was built.
        library: the path of the library.
        more: further entries of the manifest.

    Returns:
        The path of the manifest.
    """
    data = library.read_bytes()
    manifest = (
        plan.describe() | more | {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    )
    path = library.with_suffix(".json")
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return path
