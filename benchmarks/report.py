"""Results as a table for people and as JSON for machines."""

from dataclasses import asdict

from tabulate import tabulate

from benchmarks.runner import Result
from libs.core.config import TaskSpec

HEADERS = ("case", "unit", "published", "plain", "variant", "fast", "plain/fast", "published/fast", "difference", "n")


def table(results: list[Result], published: bool) -> str:
    """Medians, a row a variant; how many times better than the plain way and than the published code; the largest
    difference from the plain result. published: whether the machine is comparable with the published numbers'."""
    rows = []
    for result in results:
        base = result.published if published else None
        head = [result.title, result.unit, _number(base), _number(result.median("plain"))]
        for way in [*result.errors, *(way for way in result.failures if way not in result.errors)]:
            if way in result.failures:
                measured = ["FAILED", "", "", *([f"{result.errors[way]:.1e}"] if way in result.errors else [""]), ""]
            else:
                gains = (_gain(result.gain(way, other)) for other in (result.median("plain"), base))
                measured = [_number(result.median(way)), *gains, f"{result.errors[way]:.1e}", len(result.values[way])]
            rows.append([*head, way, *measured])
            head = [""] * len(head)
    return tabulate(
        rows, headers=HEADERS, disable_numparse=True, colalign=("left", *["right"] * 3, "left", *["right"] * 5)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _gain(value: float | None) -> str:
    return "" if value is None else f"{_number(value)}x"


def head(about: dict, rates: dict[str, float]) -> str:
    rates = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())
    return "\n".join([*(f"{key}: {value}" for key, value in about.items()), f"matrix products: {rates}"])


def loader_note(results: list[Result], tasks: dict[str, TaskSpec]) -> list[str]:
    """How much faster data come than the fastest measured training step of the same task takes them."""
    by_name = {result.name: result for result in results if len(result.values) > 1}
    notes = []
    for task in tasks.values():
        training, loading = by_name.get(f"train-{task.task_type}"), by_name.get(f"loader-{task.task_type}")
        if training and loading:
            used = task.batch_size / min(training.median(way) for way in training.values if way != "plain")
            loaded = max(loading.median(way) for way in loading.values if way != "plain")
            notes.append(
                f"loading {task.task_type}: {loaded:.0f} videos/s, {loaded / used:.1f} times the {used:.3g} that the "
                "fastest measured training takes"
            )
    return notes


def as_tree(results: list[Result], about: dict, rates: dict[str, float], notes: list[str]) -> dict:
    """Everything, raw timings included."""
    cases = [{**asdict(r), "medians": {way: r.median(way) for way in r.values}} for r in results]
    return {"machine": about, "matmul_gflops": rates, "notes": notes, "cases": cases}
