"""Builds the C++ extension in place where PyTorch and a compiler are there; says so and goes on where not."""

import sys
from pathlib import Path

from setuptools import setup

SOURCES = [str(path) for path in sorted(Path("libs/ops/csrc").glob("*.cpp"))]


def extension() -> dict:
    """Keyword arguments for setup(): the extension, or nothing without PyTorch."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        print("uniav: PyTorch is not installed, so the C++ extension is left out; see INSTALL.md", file=sys.stderr)
        return {}
    # OpenMP is what at::parallel_for is made of on Linux; without it videos take turns.
    flags = {"win32": ["/O2"], "linux": ["-O3", "-fopenmp"]}.get(sys.platform, ["-O3"])
    # optional: a failed build warns and leaves the pure-PyTorch operator.
    module = CppExtension("libs.ops._nms", SOURCES, extra_compile_args=flags, py_limited_api=True, optional=True)
    return {"ext_modules": [module], "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=False)}}


setup(**extension())
