"""The C++ sources, the parts they make up, and the errors of a build."""

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
NAMES = {"cpu": "libwsss_fast_cpu", "cuda": "libwsss_fast_cuda", "module": "_C"}
# CPU libraries of a wheel for x86, fastest first: suffix of the file name, -march, and the names
# (torch.backends.cpu.get_cpu_capability) of the CPUs that can run it. The loader picks one at run
# time, because AVX-512 is twice as fast as AVX2 for a CRF with 21 labels.
X86_LEVELS = (("_avx512", "x86-64-v4", ("AVX512",)), ("_avx2", "x86-64-v3", ("AVX2", "AVX512")))
# Sources that take the longest to compile are started first, so that no core is still busy with one
# of them when the others have finished. The remaining sources follow by name.
SLOWEST = ("lattice.cpp", "sorting.cu")


class Unavailable(Exception):
    """The native library cannot be used; the message says what is missing and what to install."""


class BuildFailed(Unavailable):
    """A compiler or the linker failed; `log` is its whole output."""

    def __init__(self, first_error: str, log: str):
        super().__init__(first_error)
        self.log = log


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
