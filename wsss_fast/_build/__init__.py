"""Build the native libraries: sources, compilers, flags, ninja; errors of a build.

There are three parts, each built as a separate shared library. "cpu" and "cuda" register the
kernels through torch's stable ABI and do not depend on Python. "module" is the pybind11 module
`_C`, which reads the build information and the op signatures that a library exports.
tools/check_sources.py compiles all parts without linking; setup.py imports this package by its
path, so that imports inside of it are relative.
"""

from .compilers import OLDEST_TORCH, check_torch, find_compiler, find_nvcc, is_x86, nvcc_release
from .manifest import read_manifest, write_manifest
from .ninja import compile_library, compile_objects, first_error
from .plan import TORCH_INCLUDE, Plan, cache_key, make_plan, runs_on
from .sources import (
    NAMES,
    SLOWEST,
    X86_LEVELS,
    BuildFailed,
    Unavailable,
    csrc,
    list_sources,
    source_hash,
)

__all__ = [
    "NAMES",
    "OLDEST_TORCH",
    "SLOWEST",
    "TORCH_INCLUDE",
    "X86_LEVELS",
    "BuildFailed",
    "Plan",
    "Unavailable",
    "cache_key",
    "check_torch",
    "compile_library",
    "compile_objects",
    "csrc",
    "find_compiler",
    "find_nvcc",
    "first_error",
    "is_x86",
    "list_sources",
    "make_plan",
    "nvcc_release",
    "read_manifest",
    "runs_on",
    "source_hash",
    "write_manifest",
]
