"""The machine that the numbers are measured on."""

import platform
import re
import subprocess
import timeit
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count

from benchmarks.case import BenchmarkSettings

ROOT = Path(__file__).resolve().parent.parent
MATMUL_REPEATS = 6


def describe_machine(settings: BenchmarkSettings) -> dict[str, Any]:
    """Describe the commit and the machine."""
    machine = {
        "commit": _run_git("rev-parse", "--short", "HEAD") or "unknown",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _read_cpu_name(),
        "cores": cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
    if _run_git("status", "--porcelain", "--untracked-files=no"):
        machine["commit"] += "+"  # files differ from the commit
    if settings.on_gpu:
        machine |= {"gpu": torch.cuda.get_device_name(settings.device), "cuda": torch.version.cuda}
    return machine


def _run_git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()


def _read_cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def slugify_device(machine: dict[str, Any]) -> str:
    """Turn the device's name into a part of a file name."""
    name = machine.get("gpu") or f"{machine['cpu']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def measure_matmul(settings: BenchmarkSettings) -> dict[str, float]:
    """Measure the best rate of square matrix products in GFLOP/s, by precision."""
    size = settings.matmul_size * (4 if settings.on_gpu else 1)
    rates = {}
    for name, dtype in {"float32": torch.float32, "bf16": torch.bfloat16}.items():
        if name == "bf16" and not settings.has_bf16:
            continue
        a, b = (torch.rand(size, size, device=settings.device).to(dtype) for _ in range(2))

        def multiply(a=a, b=b) -> None:
            torch.mm(a, b)
            if settings.on_gpu:
                torch.cuda.synchronize(settings.device)

        rates[name] = 2 * size**3 / min(timeit.repeat(multiply, number=1, repeat=MATMUL_REPEATS)) / 1e9
    return rates
