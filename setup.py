"""`pip install .` ships the C++ sources; `WSSS_FAST_AOT=1 pip install --no-build-isolation .` also builds them.

An ahead-of-time build for x86 has two libraries, for CPUs with AVX2 and with AVX-512; the better that runs is loaded
(WSSS_FAST_NATIVE=1: one, for this machine). It needs torch, ninja and pybind11 in the environment, hence
--no-build-isolation.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def build_parameters():
    """wsss_fast/_native.py by path: importing the package would need its dependencies."""
    spec = importlib.util.spec_from_file_location("_wsss_fast_native", ROOT / "wsss_fast" / "_native.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def modules(native):
    """The libraries to build, and the architecture of each."""
    return {native.MODULE: "native"} if os.environ.get("WSSS_FAST_NATIVE") == "1" else native.portable_modules()


class NinjaBuild(build_ext):
    def build_extension(self, extension):
        native = build_parameters()
        module = extension.name.rpartition(".")[2]
        try:
            plan = native.make_plan(arch=modules(native)[module])
            with tempfile.TemporaryDirectory() as folder:
                library = native.compile_library(plan, Path(folder))
                target = Path(self.get_ext_fullpath(extension.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target)
        except native.Unavailable as error:
            sys.exit(f"WSSS_FAST_AOT=1: {error}")

    def get_ext_filename(self, name):
        # Without Python's ABI tag: _native.py looks for these names. The wheel has the tag.
        return name.replace(".", "/") + ".so"


packages = find_packages(include=["wsss_fast", "wsss_fast.*"]) + ["wsss_fast.csrc"]
if os.environ.get("WSSS_FAST_AOT") == "1":
    extensions = [Extension(f"wsss_fast.{module}", sources=[]) for module in modules(build_parameters())]
    setup(packages=packages, ext_modules=extensions, cmdclass={"build_ext": NinjaBuild}, zip_safe=False)
else:
    setup(packages=packages, zip_safe=False)
