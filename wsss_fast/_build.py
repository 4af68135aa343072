"""How the native libraries are compiled: sources, compilers, flags, ninja, and what a failed build says.

There are three parts, each a shared library of its own: "cpu" and "cuda" register the kernels through torch's stable ABI
and know no Python; "module" is the pybind11 module `_C`, which reads what a library says of itself.
tools/check_sources.py compiles them all without linking.
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
OLDEST_TORCH = (2, 10)  # whose stable ABI the sources use; pyproject.toml and README name the same
TORCH_TARGET = f"0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
NAMES = {"cpu": "libwsss_fast_cpu", "cuda": "libwsss_fast_cuda", "module": "_C"}
# CPU libraries of a wheel for x86, best first: suffix of the name, -march, and what torch calls the CPUs that run it. The
# loader picks one, so that a wheel computes with AVX-512 where there is any: twice as fast as AVX2 for a CRF of 21 labels.
X86_LEVELS = (("_avx512", "x86-64-v4", ("AVX512",)), ("_avx2", "x86-64-v3", ("AVX2", "AVX512")))
# Sources that take the longest to compile, started first: a core that is left with one of them at
# the end would hold up the build. The others follow by name.
SLOWEST = ("lattice.cpp", "sorting.cu")
LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")
INSTALL_COMPILER = (
    "install g++ 11 or newer (Debian/Ubuntu: apt install g++; conda: conda install gxx)"
)


class Unavailable(Exception):
    """The native library cannot be had here; the message says what is missing and what to install."""


class BuildFailed(Unavailable):
    """A compiler or the linker failed; `log` is all that was printed."""

    def __init__(self, first_error: str, log: str):
        super().__init__(first_error)
        self.log = log


@dataclass(frozen=True)
class Plan:
    """Everything that determines one library; `key` names its place in the cache."""

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
        """The file's name."""
        return NAMES[self.part] + ".so"

    def describe(self) -> dict[str, str]:
        """What is recorded beside the library, and compiled into it."""
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
    """The C++ sources: inside the package when installed, beside it in a checkout."""
    for folder in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if (folder / "bind" / "cpu.cpp").is_file():
            return folder
    raise Unavailable(
        "the C++ sources (csrc) are missing from the installation; reinstall wsss-fast"
    )


def list_sources(part: str) -> tuple[Path, ...]:
    """Files that are compiled into one part: its kernels, in the folder csrc/PART, and csrc/bind/PART.cpp.

    CMakeLists.txt finds those of the CPU part by the same rule.
    """
    suffix = ".cu" if part == "cuda" else ".cpp"
    kernels = sorted(
        (p for p in (csrc() / part).rglob(f"*{suffix}") if not p.name.startswith(".")),
        key=lambda p: (p.name not in SLOWEST, p),
    )
    return (csrc() / "bind" / f"{part}.cpp", *kernels)


def source_hash(part: str) -> str:
    """A hash of every file that one part may include: its own, and those that no other part owns."""
    foreign = {"tests", *NAMES} - {part}
    digest = hashlib.sha256()
    for path in sorted(p for p in csrc().rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu")):
        name = path.relative_to(csrc())
        if foreign.isdisjoint(name.with_suffix("").parts):
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


# ---- compilers


def check_torch() -> None:
    """Refuse a torch without the stable ABI that the sources use."""
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
        said = f": {last[0]}" if last else ""
        raise Unavailable(
            f"{shlex.join(command)} fails with exit code {error.returncode}{said}; {hint}"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{command[0]} does not run ({error}); {hint}") from None


def find_compiler() -> tuple[str, ...]:
    """The words that start the C++ compiler: CXX, which may hold a launcher and flags ("ccache g++ -fno-plt"), or g++."""
    named = os.environ.get("CXX", "").strip()
    if not named:
        cxx = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
        if cxx is None:
            raise Unavailable(f"no C++ compiler on PATH: {INSTALL_COMPILER}")
        return (cxx,)
    whole = shutil.which(named)  # a path may hold blanks
    words = [whole] if whole else shlex.split(named)
    program = shutil.which(words[0])
    if program is None:
        raise Unavailable(f"no C++ compiler {named!r} (from CXX): {INSTALL_COMPILER}")
    return (program, *words[1:])


def find_nvcc() -> str | None:
    homes = [os.environ[v] for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    candidates = [f"{home}/bin/nvcc" for home in homes] + [
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    ]
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)


def nvcc_release(nvcc: str) -> str:
    """Its CUDA release, as 13.0."""
    found = re.search(
        r"release (\d+\.\d+)", _run(nvcc, "--version", hint="install the whole CUDA toolkit")
    )
    if not found:
        raise Unavailable(f"{nvcc} --version names no CUDA release")
    return found.group(1)


def _toolkit_libraries(nvcc: str) -> Path:
    """The folder of the toolkit's libraries; an incomplete toolkit is refused here, by the file that is missing."""
    # nvcc may be a script elsewhere that starts the toolkit's own, which says where it lies.
    said = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull],
        capture_output=True,
        text=True,
    )
    top = re.search(r"^#\$ TOP=(.+)$", said.stderr, re.M)
    home = Path(top.group(1).strip()).resolve() if top else Path(nvcc).resolve().parent.parent
    places = {
        "cuda_runtime.h": ("include", "targets/*/include"),
        "libcudart_static.a": ("lib64", "lib", "targets/*/lib"),
    }
    for name, folders in places.items():
        found = next((path for folder in folders for path in home.glob(f"{folder}/{name}")), None)
        if found is None:
            raise Unavailable(
                f"the CUDA toolkit of {nvcc} is incomplete: {home}/{folders[0]}/{name} is missing; "
                "install the whole toolkit"
            )
    return found.parent


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
    """What -march=native depends on: a shared home may serve different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(
            sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        return platform.processor()


def _host_compiler(cxx: tuple[str, ...]) -> str:
    """What nvcc is to compile host code with: the compiler that CXX names, past a launcher; "" for nvcc's own choice."""
    named = (
        [word for word in cxx if Path(word).name not in LAUNCHERS] if os.environ.get("CXX") else []
    )
    return named[0] if named else ""


def nvcc_flags(archs: tuple[str, ...], host_compiler: str = "") -> tuple[str, ...]:
    """`archs` as "90", or "90+ptx" for code that the driver compiles for later cards, too."""
    code = [f"--compiler-bindir={host_compiler}"] if host_compiler else []
    for arch in archs:
        number, _, ptx = arch.partition("+")
        code.append(
            f"-gencode=arch=compute_{number},code="
            + (f"[sm_{number},compute_{number}]" if ptx else f"sm_{number}")
        )
    # No fused multiply-add: lattice coordinates must come out the same on every device (see csrc/math/lattice.h).
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
    """Torch's headers, or pybind11's own: torch 2.10 to 2.12 ship copies of pybind11's that refuse the stable ABI."""
    if part != "module":
        return (str(torch_include),)
    try:
        import pybind11  # only this part needs it
    except ImportError:
        raise Unavailable("pybind11 is missing: pip install pybind11") from None
    python = sysconfig.get_paths()["include"]
    if not Path(python, "Python.h").is_file():
        raise Unavailable(
            f"Python.h is not in {python}: install the Python headers (apt install python3-dev)"
        )
    return pybind11.get_include(), python


def _cxx_flags(part: str, arch: str) -> tuple[str, ...]:
    # No contraction: see nvcc_flags. Throughput does not suffer, the kernels wait for memory.
    flags = (
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
    """One library's build.

    Args:
        part: "cpu", "cuda" or "module".
        arch: -march of the CPU code: "native", or a level in general, as in a wheel.
        archs: compute capabilities of the CUDA code, as "90".
        torch_libraries: link against torch's libraries, where they lie now; without, the loader brings their symbols.
    """
    if os.name == "nt":  # the reference serves there
        raise Unavailable("native builds need Linux or macOS")
    check_torch()
    cxx = find_compiler()
    compiler = _run(*cxx, "--version").strip().splitlines()[0]
    flags = _cxx_flags(part, arch)
    link = ("-shared", "-pthread")
    if torch_libraries and part != "module":
        link += (f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-ltorch_cpu")
        link += ("-ltorch_cuda",) if part == "cuda" else ()
    if sys.platform == "darwin":
        link += ("-undefined", "dynamic_lookup")
    nvcc, cuda, device_flags = None, "", ()
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
        import ninja  # only a build needs it

        return str(Path(ninja.BIN_DIR) / "ninja")
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise Unavailable("ninja is missing: pip install ninja") from None
        return found


def _command(*words: str) -> str:
    """Words of a ninja command: quoted for the shell, since folders may have blanks in their names, then for ninja."""
    return shlex.join(words).replace("$", "$$")


def first_error(log: str) -> str:
    """The line of a build's output that says what failed: the first error of a compiler or of the linker."""
    lines = [line.rstrip() for line in log.splitlines()]
    patterns = (
        r"^\S.*?[:(]\d+[:)].*\b(?:fatal |internal compiler )?error\b",  # file:1:2: error, file(1): error
        r"\berror\s*:|\bundefined (?:reference|symbol)|\bcannot find -l|\bKilled\b|No space left on device|\bfatal\b",
    )
    for pattern in patterns:
        for line in lines:
            if re.search(pattern, line, re.I) and not line.startswith(("FAILED:", "ninja:")):
                return line.strip()
    said = [line for line in lines if line and not line.startswith(("FAILED:", "ninja:", "["))]
    return said[-1] if said else "ninja failed and printed nothing"


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
    """Rules that make 0.o, 1.o, ... in `folder`, and 0.log, 1.log, ... of what the compilers print."""
    rules = []
    for number, source in enumerate(sources):
        words = [*(nvcc if source.suffix == ".cu" else cxx), f"-I{folder}", f"-I{csrc()}"]
        if source.parent.name == "bind":  # kernels know neither torch nor Python
            words += [
                word
                for path in _system_includes(part, torch_include)
                for word in ("-isystem", path)
            ]
            words.append(
                "-O1"
            )  # it only calls kernels: optimising more would take longer than parsing
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
    """Compile `sources` in `folder` without linking, with all that the compilers say in 0.log, 1.log, ...

    Args:
        part: "cpu", "cuda" or "module".
        sources: files of csrc.
        folder: for the objects.
        archs: compute capabilities of the CUDA code, as "90".
        torch_include: headers of torch, perhaps of another release than the installed one.

    Raises:
        BuildFailed: a source does not compile.
    """
    cxx = (*find_compiler(), *_cxx_flags(part, "native"))
    nvcc = find_nvcc() if any(source.suffix == ".cu" for source in sources) else ""
    if nvcc is None:
        raise Unavailable("nvcc is missing: install the CUDA toolkit or set CUDA_HOME")
    nvcc_words = (nvcc, *nvcc_flags(archs, _host_compiler(cxx)), "-Xptxas=-v")
    _ninja_file(folder, _compile_rules(sources, part, cxx, nvcc_words, folder, torch_include))
    _run_ninja(folder)


def compile_library(plan: Plan, folder: Path, *, link: bool = True) -> Path:
    """Compile and link in `folder`, which becomes self-contained; returns the library (without `link` there are 0.o, 1.o, ...).

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


def write_manifest(plan: Plan, library: Path, **more) -> Path:
    """ExtraLoss the library: what it was made of, its size and hash. The loader trusts nothing else."""
    data = library.read_bytes()
    manifest = (
        plan.describe() | more | {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    )
    path = library.with_suffix(".json")
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return path
