"""Build the C++ and CUDA extensions where PyTorch and compilers are found; otherwise print the reason and go on."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup

CSRC = "libs/ops/csrc"
CPU, CUDA = "libs.ops._nms_cpu", "libs.ops._nms_cuda"
# T4, A100 and H100/H200, and PTX that later cards compile themselves.
CUDA_CODES = [f"compute_{x},code=sm_{x}" for x in (75, 80, 90)] + ["compute_90,code=compute_90"]


def join_lines(message: object) -> str:
    return " ".join(str(message).split())


def list_extensions() -> dict:
    """List the keyword arguments of setup() for what can be built, none without PyTorch."""
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError:
        print("uniav: PyTorch is not installed, so the extensions are left out; see INSTALL.md, 'The extension'")
        return {}
    # at::parallel_for uses OpenMP on Linux; without it, videos are processed one by one.
    flags = {"win32": ["/O2"], "linux": ["-O3", "-fopenmp"]}.get(sys.platform, ["-O3"])
    # optional: a failed build is a warning, and libs/ops/nms.py does without it.
    common = {"py_limited_api": True, "optional": True, "depends": [str(header) for header in Path(CSRC).glob("*.h")]}
    modules = [CppExtension(CPU, [f"{CSRC}/nms_cpu.cpp"], extra_compile_args=flags, **common)]
    skipped = {}
    if torch.version.cuda and CUDA_HOME is None:
        skipped[CUDA] = f"no nvcc found: install the toolkit of PyTorch's CUDA, {torch.version.cuda}"
    elif torch.version.cuda:
        # Without fused multiply-add, results are rounded as on CPUs.
        nvcc = ["-O3", "--fmad=false", *(f"-gencode=arch={code}" for code in CUDA_CODES)]
        sources = [f"{CSRC}/nms_cuda.cu", f"{CSRC}/nms_cuda_binding.cpp"]
        arguments = {"cxx": ["-O3"], "nvcc": nvcc}
        modules.append(CUDAExtension(CUDA, sources, extra_compile_args=arguments, **common))
    build_ext = make_optional(BuildExtension.with_options(use_ninja=False), skipped)
    return {"ext_modules": modules, "cmdclass": {"build_ext": build_ext}}


def make_optional(build_ext: type, skipped: dict[str, str]) -> type:
    """Make a build_ext that goes on without extensions that fail, and notes each reason in a file beside them.

    libs/ops/nms.py reads the notes, since pip hides the output of a build.

    Args:
        skipped: the extensions that are not built, with the reason.
    """

    class OptionalBuildExt(build_ext):
        def run(self):
            super().run()
            for name in (CPU, CUDA):
                note = Path(self.get_ext_fullpath(name)).with_name(f"{name.rpartition('.')[2]}.txt")
                note.unlink(missing_ok=True)
                if name in skipped:
                    print(f"uniav: {name} is left out: {skipped[name]}; see INSTALL.md", file=sys.stderr)
                    note.parent.mkdir(parents=True, exist_ok=True)
                    note.write_text(skipped[name], encoding="utf-8")

        def build_extensions(self):
            while self.extensions:
                try:
                    super().build_extensions()
                    break
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    # PyTorch rejects nvcc or g++ before it builds anything, most often CUDA's, which comes last.
                    skipped[self.extensions.pop().name] = join_lines(error)

        def build_extension(self, extension):
            try:
                super().build_extension(extension)
            except Exception as error:
                skipped[extension.name] = join_lines(error)
                raise

    return OptionalBuildExt


if __name__ == "__main__":
    setup(**list_extensions())
