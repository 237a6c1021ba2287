"""Builds the C++ and CUDA extensions in place where PyTorch and compilers are there; says so and goes on where not."""

import re
import subprocess
import sys
from pathlib import Path

from setuptools import setup

CSRC = "libs/ops/csrc"
CPU, CUDA = "libs.ops._nms_cpu", "libs.ops._nms_cuda"  # CUDA's comes last where both are built
# T4, A100 and H100/H200, and PTX that later cards compile for themselves.
CUDA_ARCHITECTURES = (
    "compute_75,code=sm_75",
    "compute_80,code=sm_80",
    "compute_90,code=sm_90",
    "compute_90,code=compute_90",
)


def one_line(message: object) -> str:
    return " ".join(str(message).split())


def nvcc_misfit(cuda_home: str | None, torch_cuda: str) -> str | None:
    """Why no CUDA toolkit is there that can build for this PyTorch, or None if one is."""
    if cuda_home is None:
        return f"no nvcc found: install the toolkit of PyTorch's CUDA, {torch_cuda}"
    try:
        told = subprocess.run([f"{cuda_home}/bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return f"nvcc does not run ({one_line(error)})"
    found = re.search(r"release (\d+)\.", told)
    if found is None or found[1] != torch_cuda.partition(".")[0]:
        release = found[1] if found else "unknown"
        return f"nvcc is of CUDA {release}: install the toolkit of PyTorch's {torch_cuda}"
    return None


def extensions() -> dict:
    """Keyword arguments for setup(): what can be built, or nothing without PyTorch."""
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError:
        print(
            "uniav: PyTorch is not installed, so the extensions are left out; see INSTALL.md, 'The extension'",
            file=sys.stderr,
        )
        return {}
    # OpenMP is what at::parallel_for is made of on Linux; without it videos take turns.
    flags = {"win32": ["/O2"], "linux": ["-O3", "-fopenmp"]}.get(sys.platform, ["-O3"])
    # optional: a failed build warns and leaves the operator that is there without it.
    common = {"py_limited_api": True, "optional": True, "depends": [str(header) for header in Path(CSRC).glob("*.h")]}
    modules = [CppExtension(CPU, [f"{CSRC}/nms_cpu.cpp"], extra_compile_args=flags, **common)]
    left_out = {}
    if torch.version.cuda:  # a CPU build of PyTorch has no use for the kernel
        misfit = nvcc_misfit(CUDA_HOME, torch.version.cuda)
        if misfit:
            left_out[CUDA] = misfit
        else:
            # Without fused products and sums it rounds as CPUs do.
            nvcc = ["-O3", "--fmad=false", *(f"-gencode=arch={a}" for a in CUDA_ARCHITECTURES)]
            sources = [f"{CSRC}/nms_cuda.cu", f"{CSRC}/nms_cuda_binding.cpp"]
            arguments = {"cxx": ["-O3"], "nvcc": nvcc}
            modules.append(CUDAExtension(CUDA, sources, extra_compile_args=arguments, **common))
    build_ext = forgiving(BuildExtension.with_options(use_ninja=False), left_out)
    return {"ext_modules": modules, "cmdclass": {"build_ext": build_ext}}


def forgiving(build_ext: type, left_out: dict[str, str]) -> type:
    """A build_ext that goes on without what cannot be built, and notes why in a file beside where it would be
    (libs/ops/nms.py reads it, since pip shows nobody what a build says). left_out: why, of what is not even tried."""

    class Forgiving(build_ext):
        def run(self):
            super().run()
            for name in (CPU, CUDA):
                note = Path(self.get_ext_fullpath(name)).with_name(f"{name.rpartition('.')[2]}.txt")
                note.unlink(missing_ok=True)
                if name in left_out:
                    print(f"uniav: {name} is left out: {left_out[name]}; see INSTALL.md", file=sys.stderr)
                    note.parent.mkdir(parents=True, exist_ok=True)
                    note.write_text(left_out[name], encoding="utf-8")

        def build_extensions(self):
            while self.extensions:
                try:
                    super().build_extensions()
                    break
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    # PyTorch refuses a compiler before it starts it, most often CUDA's: the other may do.
                    left_out[self.extensions.pop().name] = one_line(error)

        def build_extension(self, extension):
            try:
                super().build_extension(extension)
            except Exception as error:
                left_out[extension.name] = one_line(error)
                raise

    return Forgiving


if __name__ == "__main__":
    setup(**extensions())
