"""What a set of configurations, each run with some seeds, found: one table and one plot.

The first configuration is the base of the differences. With two seeds or more a difference comes with Welch's 95 %
interval (B. L. Welch, 1947): the two means' standard errors added in squares, times Student's t for Welch's number of
degrees of freedom. It asks whether other seeds would have shown the same, not whether other videos would have.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from libs.core.errors import UserError
from libs.core.files import replacing

CONFIDENCE = 0.95
NOT_TRAINED, PENDING, FAILED = "–", "…", "failed"
GAP_INCHES, BAR_INCHES = 0.12, 0.21  # of the plot: between configurations, and a bar


class TaskName(NamedTuple):
    """What makes two configurations' results comparable, and so share a column."""

    key: str
    task_type: str
    dataset_name: str


class SeedDifference(NamedTuple):
    """A difference of means, and half the width of its interval: None where a side has one value only."""

    value: float
    half: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether 0 lies outside the interval; None without one."""
        return None if self.half is None else abs(self.value) > self.half


@dataclass
class Experiment:
    """A configuration's runs so far."""

    name: str
    asks: str  # what it asks, a line
    seeds: tuple[int, ...]
    scores: dict[TaskName, list[float]]  # average mAP in %, a value a finished run; all tasks that it trains
    minutes: list[float] = field(default_factory=list)  # of wall-clock, of the finished runs that know it
    parameters: int | None = None
    errors: dict[int, str] = field(default_factory=dict)  # seed -> what went wrong, a line

    @property
    def finished(self) -> int:
        return max(map(len, self.scores.values()))

    @property
    def state(self) -> str:
        """How many of its runs have ended, and how: "3", "1 of 3", "2 of 3, 1 failed"."""
        of = "" if self.finished == len(self.seeds) else f" of {len(self.seeds)}"
        return f"{self.finished}{of}" + (f", {len(self.errors)} failed" if self.errors else "")

    @property
    def no_score(self) -> str:
        """What stands for a score that is not there, or not yet."""
        return FAILED if len(self.errors) == len(self.seeds) else PENDING


def t_quantile(df: float) -> float:
    """The t beyond which, in either direction, Student's distribution has 1 - CONFIDENCE; df >= 1 need not be whole.

    With t = sqrt(df) tan(angle) its density is proportional to cos(angle)^(df - 1), which is summed.
    """
    angles = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angles).clip(0) ** (df - 1)
    below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(df) * math.tan(np.interp(CONFIDENCE * below[-1], below, angles))


def compare(values: Sequence[float], base: Sequence[float]) -> SeedDifference:
    """The difference of the means from the base's, with Welch's interval. Neither may be empty."""
    value = mean(values) - mean(base)
    if min(len(values), len(base)) < 2:
        return SeedDifference(value, None)
    parts = [(stdev(side) ** 2 / len(side), len(side)) for side in (values, base)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return SeedDifference(value, 0.0)
    df = variance**2 / sum(part**2 / (n - 1) for part, n in parts)
    return SeedDifference(value, t_quantile(df) * math.sqrt(variance))


def columns_of(experiments: list[Experiment]) -> dict[TaskName, str]:
    """The tasks of all experiments and what they are called: by type, or in full where a type comes twice."""
    tasks = list(dict.fromkeys(task for experiment in experiments for task in experiment.scores))
    types = [task.task_type for task in tasks]
    return {task: task.task_type if types.count(task.task_type) == 1 else " ".join(task) for task in tasks}


def difference_of(experiment: Experiment, base: Experiment, task: TaskName) -> SeedDifference | None:
    """None for the base, and where either has no score."""
    values, others = experiment.scores.get(task), base.scores.get(task)
    return compare(values, others) if experiment is not base and values and others else None


def markdown(experiments: list[Experiment]) -> str:
    """The table, what its numbers are, and what failed."""
    base, columns = experiments[0], columns_of(experiments)
    headers = ["configuration"]
    headers += [header for name in columns.values() for header in (name, f"Δ {name}")]
    headers += ["runs", "parameters", "minutes", "what it asks"]
    body = []
    for experiment in experiments:
        row = [experiment.name]
        for task in columns:
            row += [_score_cell(experiment, task), _difference_cell(difference_of(experiment, base, task))]
        parameters = NOT_TRAINED if experiment.parameters is None else f"{experiment.parameters:,}"
        minutes = f"{mean(experiment.minutes):.1f}" if experiment.minutes else NOT_TRAINED
        row += [experiment.state, parameters, minutes, experiment.asks]
        body.append([cell.replace("|", "\\|") for cell in row])
    aligned = ["left", *["right"] * (len(headers) - 2), "left"]
    lines = [
        tabulate(body, headers, tablefmt="pipe", colalign=aligned, disable_numparse=True),
        "",
        _legend(experiments),
    ]
    failed = [(e.name, seed, error) for e in experiments for seed, error in e.errors.items()]
    lines += ["", *(f"- failed: {name}, seed {seed}: {error}" for name, seed, error in failed)] if failed else []
    return "\n".join(lines) + "\n"


def _score_cell(experiment: Experiment, task: TaskName) -> str:
    if task not in experiment.scores:
        return NOT_TRAINED
    values = experiment.scores[task]
    if not values:
        return experiment.no_score
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _difference_cell(difference: SeedDifference | None) -> str:
    if difference is None:
        return ""
    value = _signed(difference.value, 2)
    value = f"**{value}**" if difference.beyond_noise else value
    return value if difference.half is None else f"{value} ± {difference.half:.2f}"


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # of -0.0 makes 0.0


def _legend(experiments: list[Experiment]) -> str:
    base = experiments[0]
    text = f"mAP in % on the test splits, average over the tIoU thresholds. Δ: difference from {base.name}. "
    if len(base.seeds) == 1:
        return f"{text}One seed ({base.seeds[0]}): how much of a difference is chance is not known."
    return (
        f"{text}{len(base.seeds)} seeds from {base.seeds[0]} on: mean ± standard deviation; Δ ± half of Welch's 95 % "
        "interval, bold where 0 lies outside of it (by chance that is so once in twenty). Minutes are of one run."
    )


def write_csv(experiments: list[Experiment], path: Path) -> None:
    """The table's numbers, unrounded, a row a configuration; what is not there is empty."""
    base, columns = experiments[0], columns_of(experiments)
    measures = ("mean", "sd", "difference", "half_interval", "beyond_noise")
    headers = ["configuration", *(f"{name} {measure}" for name in columns.values() for measure in measures)]
    headers += ["runs", "finished", "failed", "parameters", "minutes", "what it asks", "errors"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headers)
    for experiment in experiments:
        row = [experiment.name]
        for task in columns:
            values, difference = experiment.scores.get(task), difference_of(experiment, base, task)
            row += [mean(values) if values else None, stdev(values) if values and len(values) > 1 else None]
            row += [None] * 3 if difference is None else [*difference, difference.beyond_noise]
        row += [len(experiment.seeds), experiment.finished, len(experiment.errors), experiment.parameters]
        row += [mean(experiment.minutes) if experiment.minutes else None, experiment.asks]
        writer.writerow([*row, "; ".join(f"seed {seed}: {error}" for seed, error in experiment.errors.items())])
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def draw(experiments: list[Experiment], path: Path) -> None:
    """A PNG with a bar for each configuration's difference from the base in each task, and its interval as a whisker.

    Raises UserError where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no state
        from matplotlib.patches import Patch
    except ImportError:
        raise UserError('no plot without matplotlib: pip install -e ".[metrics]"') from None
    base, others, columns = experiments[0], experiments[1:], columns_of(experiments)
    row_inches = GAP_INCHES + BAR_INCHES * len(columns)
    figure = Figure(figsize=(9, 1.2 + len(others) * row_inches), dpi=120, layout="constrained")
    axes = figure.subplots()
    for row in range(0, len(others), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0)
    handles = []
    for i, (task, name) in enumerate(columns.items()):
        in_base = base.scores.get(task)
        handles.append(Patch(color=f"C{i}", label=f"{name} ({mean(in_base):.1f} in {base.name})" if in_base else name))
        for row, experiment in enumerate(others):
            y = row + (i - (len(columns) - 1) / 2) * BAR_INCHES / row_inches
            _draw_bar(axes, y, 0.85 * BAR_INCHES / row_inches, f"C{i}", experiment, base, task)
    axes.axvline(0, color="0.2", linewidth=1)
    axes.margins(x=0.08)
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_yticks(range(len(others)), [experiment.name for experiment in others])
    note = "one seed" if len(base.seeds) == 1 else f"{len(base.seeds)} seeds; whiskers: 95 %, pale: 0 lies within"
    axes.set_xlabel(f"average mAP, points more or less than {base.name} ({note})")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_bar(axes, y: float, height: float, color: str, experiment: Experiment, base: Experiment, task: TaskName):
    """The difference of one experiment in one task, its number beyond the whisker; or why there is none."""
    difference = difference_of(experiment, base, task)
    value, half = (difference.value, difference.half or 0.0) if difference else (0.0, 0.0)
    pale = difference is not None and difference.beyond_noise is False
    axes.barh(y, value, height, color=color, alpha=0.35 if pale else 1)
    if half:
        axes.errorbar(value, y, xerr=half, color="0.2", elinewidth=1, capsize=2)
    text = _signed(value, 1) if difference else _why_none(experiment, task)
    side = 1 if value >= 0 else -1
    style = {"fontsize": 7, "color": "0.3", "va": "center_baseline", "ha": "left" if side > 0 else "right"}
    axes.annotate(text, (value + side * half, y), (4 * side, 0), textcoords="offset points", **style)


def _why_none(experiment: Experiment, task: TaskName) -> str:
    if task not in experiment.scores:
        return "not trained"
    if experiment.scores[task]:
        return "no base to compare with"
    return experiment.no_score.replace(PENDING, "not run yet")
