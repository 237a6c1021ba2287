"""Results as a table for people and as JSON for machines."""

import math
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from benchmarks.runner import Result
from libs.core.config import TaskSpec

HEADERS = ("case", "unit", "plain", "variant", "fast", "plain/fast", "difference", "n")


def format_table(results: list[Result]) -> str:
    """Format a row for each variant: medians, how many times better than plain, the largest difference from it."""
    rows = []
    for result in results:
        head = [result.title, result.unit, _format_number(result.median("plain"))]
        for name in dict.fromkeys([*result.errors, *result.failures]):
            difference = f"{result.errors[name]:.1e}" if name in result.errors else ""
            if name in result.failures:
                cells = ["FAILED", "", difference, ""]
            else:
                speedup = f"{_format_number(result.speedup(name))}x"
                cells = [_format_number(result.median(name)), speedup, difference, len(result.values[name])]
            rows.append([*head, name, *cells])
            head = [""] * len(head)
    align = ("left", "right", "right", "left", *["right"] * 4)
    return tabulate(rows, headers=HEADERS, disable_numparse=True, colalign=align)


def _format_number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def format_machine(machine: dict[str, Any], matmul_rates: dict[str, float]) -> str:
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in matmul_rates.items())
    return "\n".join([*(f"{key}: {value}" for key, value in machine.items()), f"matrix products: {rates}"])


def compare_loading(results: list[Result], tasks: dict[str, TaskSpec]) -> list[str]:
    """Compare how fast data come with how fast the fastest measured training step uses them."""
    by_name = {result.name: result for result in results if len(result.values) > 1}
    notes = []
    for task in tasks.values():
        training, loading = by_name.get(f"train-{task.task_type}"), by_name.get(f"loader-{task.task_type}")
        if training and loading:
            used = task.batch_size / min(training.median(name) for name in training.values if name != "plain")
            loaded = max(loading.median(name) for name in loading.values if name != "plain")
            notes.append(
                f"loading {task.task_type}: {loaded:.0f} videos/s, {loaded / used:.1f} times the {used:.3g} that the "
                "fastest measured training uses"
            )
    return notes


def to_tree(results: list[Result], machine: dict, matmul_rates: dict[str, float], notes: list[str]) -> dict:
    """Collect everything for JSON, raw measurements included."""
    cases = [{**asdict(r), "medians": {name: r.median(name) for name in r.values}} for r in results]
    return {"machine": machine, "matmul_gflops": matmul_rates, "notes": notes, "cases": cases}
