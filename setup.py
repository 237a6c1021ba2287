"""Builds the C++ and CUDA extensions in place where PyTorch and compilers are there; says so and goes on where not."""

import re
import subprocess
import sys

from setuptools import setup

CSRC = "libs/ops/csrc"
# T4, A100 and H100/H200, and PTX that later cards compile for themselves.
CUDA_ARCHITECTURES = (
    "compute_75,code=sm_75",
    "compute_80,code=sm_80",
    "compute_90,code=sm_90",
    "compute_90,code=compute_90",
)


def say(message: str) -> None:
    print(f"uniav: {message}; see INSTALL.md, 'The extension'", file=sys.stderr)


def nvcc_fits(cuda_home: str | None, torch_cuda: str | None) -> bool:
    """Whether a CUDA toolkit is there that can build for this PyTorch; says why not where one was to be expected."""
    if torch_cuda is None:
        return False  # a CPU build of PyTorch has no use for the kernel
    if cuda_home is None:
        say(f"no nvcc found, so NMS on the GPU is left out: install the toolkit of PyTorch's CUDA, {torch_cuda}")
        return False
    try:
        told = subprocess.run([f"{cuda_home}/bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"nvcc does not run ({error}), so NMS on the GPU is left out")
        return False
    found = re.search(r"release (\d+)\.", told)
    if found is None or found[1] != torch_cuda.partition(".")[0]:
        release = found[1] if found else "unknown"
        say(f"nvcc is of CUDA {release}, so NMS on the GPU is left out: install the toolkit of PyTorch's {torch_cuda}")
        return False
    return True


def extensions() -> dict:
    """Keyword arguments for setup(): what can be built, or nothing without PyTorch."""
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError:
        say("PyTorch is not installed, so the extensions are left out")
        return {}
    # OpenMP is what at::parallel_for is made of on Linux; without it videos take turns.
    flags = {"win32": ["/O2"], "linux": ["-O3", "-fopenmp"]}.get(sys.platform, ["-O3"])
    # optional: a failed build warns and leaves the operator that is there without it.
    common = {"py_limited_api": True, "optional": True}
    modules = [CppExtension("libs.ops._nms_cpu", [f"{CSRC}/nms_cpu.cpp"], extra_compile_args=flags, **common)]
    if nvcc_fits(CUDA_HOME, torch.version.cuda):
        nvcc = ["-O3", "--fmad=false", *(f"-gencode=arch={a}" for a in CUDA_ARCHITECTURES)]  # fmad: rounds as CPUs do
        sources = [f"{CSRC}/nms_cuda.cu", f"{CSRC}/nms_cuda_binding.cpp"]
        arguments = {"cxx": ["-O3"], "nvcc": nvcc}
        modules.append(CUDAExtension("libs.ops._nms_cuda", sources, extra_compile_args=arguments, **common))
    return {"ext_modules": modules, "cmdclass": {"build_ext": forgiving(BuildExtension.with_options(use_ninja=False))}}


def forgiving(build_ext: type) -> type:
    """A build_ext that goes on without the CUDA extension where PyTorch refuses the compilers before it starts them."""

    class Forgiving(build_ext):
        def build_extensions(self):
            try:
                super().build_extensions()
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                if not any(module.name.endswith("_cuda") for module in self.extensions):
                    raise
                say(f"{' '.join(str(error).split())}, so NMS on the GPU is left out")
                self.extensions = [module for module in self.extensions if not module.name.endswith("_cuda")]
                super().build_extensions()

    return Forgiving


if __name__ == "__main__":
    setup(**extensions())
