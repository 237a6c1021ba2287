"""The machine that the numbers are measured on, and the results as a table."""

import math
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from tabulate import tabulate
from torch.utils.benchmark import Timer

from benchmarks.case import Result
from libs.core.config import TaskSpec

ROOT = Path(__file__).resolve().parent.parent


def describe_machine(device: torch.device, precisions: tuple[str, ...]) -> dict[str, Any]:
    """Describe the commit (with + if files differ from it) and the machine."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    machine = {
        "commit": commit or "unknown",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "matmul_gflops": {precision: round(measure_matmul(device, precision)) for precision in precisions},
    }
    if device.type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return machine


def measure_matmul(device: torch.device, precision: str) -> float:
    """Measure the rate of square matrix products in GFLOP/s."""
    size, dtype = 2_048 if device.type == "cpu" else 8_192, torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.rand(size, size, device=device, dtype=dtype)
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2 * size**3 / timer.blocked_autorange().median / 1e9


def format_table(results: list[Result]) -> str:
    """Format a row for each variant: medians, how many times better than plain, the largest difference from it."""
    rows = []
    for result in results:
        for name in dict.fromkeys([*result.errors, *result.failures]):
            medians = result.medians.get("plain", math.nan), result.medians.get(name, math.nan)
            plain, fast, speedup = (f"{x:.3g}" if x < 100 else f"{x:.0f}" for x in (*medians, result.speedup(name)))
            count, error = len(result.values.get(name, [])), f"{result.errors.get(name, math.nan):.1e}"
            fast = "FAILED" if name in result.failures else fast
            rows.append([result.title, result.unit, plain, name, fast, speedup, count, error])
    headers = ("case", "unit", "plain", "variant", "fast", "x plain", "n", "difference")
    align = ("left", "right", "right", "left", *["right"] * 4)
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=align)


def compare_loading(results: list[Result], task: TaskSpec) -> list[str]:
    """Compare how fast data come with how fast the fastest measured training step uses them, if both are known."""
    fast = {r.name: [median for name, median in r.medians.items() if name != "plain"] for r in results}
    loading, training = (fast.get(f"{kind}-{task.task_type}") for kind in ("loader", "train"))
    if not loading or not training:
        return []
    loaded, used = max(loading), task.batch_size / min(training)
    note = f"{loaded:.0f} videos/s, {loaded / used:.1f} times the {used:.3g} that the fastest measured training uses"
    return [f"loading {task.task_type}: {note}"]
