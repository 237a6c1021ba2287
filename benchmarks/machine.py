"""The machine that the numbers are of."""

import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import torch
from joblib import cpu_count

from benchmarks.case import Setting

REPEATS = 5


def commit() -> str:
    """The checkout's commit, with a + if files differ from it."""
    root = Path(__file__).resolve().parent.parent
    told = [
        subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True).stdout.strip()
        for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    return told[0] + "+" * bool(told[1]) if told[0] else "unknown"


def describe(setting: Setting) -> dict[str, str | int]:
    about = {
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
    if setting.on_gpu:
        about |= {"gpu": torch.cuda.get_device_name(setting.device), "cuda": torch.version.cuda}
    return about


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def slug(about: dict) -> str:
    """The device's name as part of a file's name."""
    name = about.get("gpu") or f"{about['cpu']} {about['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def matmul_rates(setting: Setting) -> dict[str, float]:
    """Square matrix products in GFLOP/s, the best of a few, by precision."""
    size = setting.sizes.matmul * (4 if setting.on_gpu else 1)
    rates = {}
    for name, dtype in (("float32", torch.float32), *((("bf16", torch.bfloat16),) if setting.has_bf16 else ())):
        a, b = (torch.rand(size, size, device=setting.device).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(1 + REPEATS):
            began = time.perf_counter()
            a @ b
            if setting.on_gpu:
                torch.cuda.synchronize(setting.device)
            seconds.append(time.perf_counter() - began)
        rates[name] = 2 * size**3 / min(seconds[1:]) / 1e9
    return rates
