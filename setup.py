"""Package the C++ sources, and for an ahead-of-time installation also compiled libraries.

`pip install .` ships only the sources, which are compiled at first use.
`WSSS_FAST_AOT=1 pip install --no-build-isolation .` also compiles the libraries (torch and ninja
must be installed): for x86 two CPU libraries, for AVX2 and for AVX-512, and one for CUDA if
WSSS_FAST_CUDA_ARCHS names architectures, as in "80 90+ptx". `WSSS_FAST_LIBRARIES=DIRECTORY`
packages libraries that are already built (tools/build_wheel.py uses it). The libraries do not
depend on Python, so one wheel works with every version of it.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
AHEAD = os.environ.get("WSSS_FAST_AOT") == "1" or "WSSS_FAST_LIBRARIES" in os.environ


def load_build():
    """Import wsss_fast/_build by its path: importing the package would need its dependencies."""
    folder = ROOT / "wsss_fast" / "_build"
    spec = importlib.util.spec_from_file_location(
        "_wsss_fast_build", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its modules import each other by this name
    spec.loader.exec_module(module)
    return module


def compile_libraries(target: Path) -> None:
    """Compile the libraries of an ahead-of-time installation into the directory `target`."""
    build = load_build()
    levels = (
        [(suffix, arch) for suffix, arch, _ in build.X86_LEVELS]
        if build.is_x86()
        else [("", "baseline")]
    )
    try:
        plans = [(suffix, build.make_plan("cpu", arch=arch)) for suffix, arch in levels]
        if archs := os.environ.get("WSSS_FAST_CUDA_ARCHS", "").split():
            plans.append(("", build.make_plan("cuda", archs=tuple(archs))))
        for suffix, plan in plans:
            with tempfile.TemporaryDirectory() as folder:
                library = target / f"{build.NAMES[plan.part]}{suffix}.so"
                shutil.copy(build.compile_library(plan, Path(folder)), library)
                build.write_manifest(plan, library)
    except build.BuildFailed as error:
        sys.exit(f"{error.log}\nWSSS_FAST_AOT=1: the build failed: {error}")
    except build.Unavailable as error:
        sys.exit(f"WSSS_FAST_AOT=1: {error}")


class BuildWithLibraries(build_py):
    def run(self):
        if not self.editable_mode:
            # An earlier build in this directory may have left sources that were renamed since; the
            # package would compile them too.
            shutil.rmtree(Path(self.build_lib) / "wsss_fast" / "csrc", ignore_errors=True)
        super().run()
        if AHEAD:
            target = Path(self.build_lib) / "wsss_fast" / "lib"
            shutil.rmtree(target, ignore_errors=True)  # from an earlier build
            target.mkdir(parents=True)
            if ready := os.environ.get("WSSS_FAST_LIBRARIES"):
                for path in sorted(Path(ready).glob("*.so")):
                    shutil.copy(path, target)
                    shutil.copy(path.with_suffix(".json"), target)
            else:
                compile_libraries(target)


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every version of Python."""

    def get_tag(self):
        return "py3", "none", os.environ.get("WSSS_FAST_PLATFORM") or super().get_tag()[2]


class WithLibraries(Distribution):
    def has_ext_modules(self):
        return AHEAD


setup(
    distclass=WithLibraries,
    packages=find_packages(include=["wsss_fast", "wsss_fast.*"]) + ["wsss_fast.csrc"],
    zip_safe=False,
    cmdclass={"build_py": BuildWithLibraries} | ({"bdist_wheel": PlatformWheel} if AHEAD else {}),
)
