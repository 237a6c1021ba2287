"""Tables and the plot of experiments: several configurations, each trained with one or more seeds.

The functions take the table of `build_run_table`, one row per run and task. The first configuration is the base of all
differences. With two seeds or more, a difference has Welch's 95 % interval (unequal variances). The interval covers
the choice of the seed, not the choice of the test videos.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from libs.core.files import replacing

CONFIDENCE = 0.95
NOT_TRAINED, PENDING, FAILED = "–", "…", "failed"
NO_SCORE_LABELS = {NOT_TRAINED: "not trained", PENDING: "not run yet", FAILED: "failed"}  # in the plot


class SeedDifference(NamedTuple):
    """A difference of two means, half the width of its interval, and whether the interval excludes 0.

    None if unknown: there is no interval if a side has only one value.
    """

    difference: float | None = None
    half_interval: float | None = None
    beyond_noise: bool | None = None


def build_run_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Build the table of runs.

    Args:
        rows: one dictionary per run and task, the configurations in order. score: average mAP in %, None until the run
            ends; minutes: wall-clock time of the run; error: why the run failed. Unknown values are None.
    """
    columns = ["configuration", "question", "seed", "task", "score", "minutes", "parameters", "error"]
    return pd.DataFrame(rows, columns=columns).astype({"score": float, "minutes": float, "parameters": "Int64"})


def compute_difference(values: Sequence[float], base: Sequence[float]) -> SeedDifference:
    """Compute the difference of two means, with Welch's interval. Neither side may be empty."""
    value = mean(values) - mean(base)
    if min(len(values), len(base)) < 2:
        return SeedDifference(value)
    from scipy.stats import t

    a, b = (variance(side) / len(side) for side in (values, base))
    degrees = (a + b) ** 2 / (a**2 / (len(values) - 1) + b**2 / (len(base) - 1)) if a + b else 1.0
    half = float(t.ppf((1 + CONFIDENCE) / 2, degrees)) * math.sqrt(a + b)
    return SeedDifference(value, half, abs(value) > half)


def summarize_runs(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Aggregate the runs of each configuration: the rows of table.csv, by its column names. Unknown values are None."""
    groups = runs.groupby(["configuration", "task"], sort=False)["score"]
    scores: dict[Any, list[float]] = {key: group.dropna().tolist() for key, group in groups}
    base = runs["configuration"].iloc[0]
    rows = []
    for name, group in runs.groupby("configuration", sort=False):
        row: dict[str, Any] = {"configuration": name}
        for task in runs["task"].unique():
            values, others = scores.get((name, task), []), scores.get((base, task), []) if name != base else []
            row[f"{task} mean"] = mean(values) if values else None
            row[f"{task} sd"] = stdev(values) if len(values) > 1 else None
            difference = compute_difference(values, others) if values and others else SeedDifference()
            row |= {f"{task} {key}": value for key, value in difference._asdict().items()}
        of_seed = group.drop_duplicates("seed")
        errors, minutes = of_seed[of_seed["error"].notna()], of_seed["minutes"].dropna().tolist()
        row |= {
            "runs": len(of_seed),
            "finished": len(of_seed["score"].dropna()),
            "failed": len(errors),
            "parameters": next(iter(of_seed["parameters"].dropna()), None),
            "minutes": mean(minutes) if minutes else None,
            "what it asks": of_seed["question"].iloc[0],
            "errors": "; ".join(f"seed {seed}: {e}" for seed, e in zip(errors["seed"], errors["error"], strict=True)),
        }
        rows.append(row)
    return rows


def format_markdown(runs: pd.DataFrame) -> str:
    """Format the table for people, with a legend and the errors of failed runs."""
    tasks, rows = runs["task"].unique(), []
    for row in summarize_runs(runs):
        cells = {"configuration": row["configuration"]}
        for task in tasks:
            cells |= {task: _format_score(runs, row, task), f"Δ {task}": _format_difference(row, task)}
        finished = str(row["runs"]) if row["finished"] == row["runs"] else f"{row['finished']} of {row['runs']}"
        cells["runs"] = finished + (f", {row['failed']} failed" if row["failed"] else "")
        cells["parameters"] = NOT_TRAINED if row["parameters"] is None else f"{row['parameters']:,}"
        cells["minutes"] = NOT_TRAINED if row["minutes"] is None else f"{row['minutes']:.1f}"
        cells["what it asks"] = row["what it asks"]
        rows.append({name: cell.replace("|", "\\|") for name, cell in cells.items()})
    table = pd.DataFrame(rows)
    aligned = ["left", *["right"] * (len(table.columns) - 2), "left"]
    failed = runs.loc[runs["error"].notna(), ["configuration", "seed", "error"]].drop_duplicates()
    errors = [f"- failed: {name}, seed {seed}: {error}" for name, seed, error in failed.to_numpy()]
    lines = [table.to_markdown(index=False, colalign=aligned, disable_numparse=True), "", _format_legend(runs)]
    return "\n".join([*lines, *([""] if errors else []), *errors]) + "\n"


def save_tables(runs: pd.DataFrame, folder: Path, with_plot: bool) -> str:
    """Save table.md, table.csv (unrounded) and, if asked for, plot.png. Returns the text of table.md."""
    text = format_markdown(runs)
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    with replacing(folder / "table.csv") as temporary:
        pd.DataFrame(summarize_runs(runs), dtype=object).to_csv(temporary, index=False, lineterminator="\n")
    if with_plot:
        plot_differences(runs, folder / "plot.png")
    return text


def plot_differences(runs: pd.DataFrame, path: Path) -> None:
    """Save a PNG with one bar per configuration and task: the difference from the base, with its interval."""
    from matplotlib.figure import Figure  # not pyplot, which needs a display and keeps global state
    from matplotlib.patches import Patch

    (base, *others), tasks = summarize_runs(runs), list(runs["task"].unique())
    group_inches = 0.12 + 0.21 * len(tasks)
    figure = Figure(figsize=(9, 1.2 + len(others) * group_inches), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place in range(0, len(others), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="0.95", zorder=0)
    height, handles = 0.21 / group_inches, []
    for i, task in enumerate(tasks):
        score, places = base[f"{task} mean"], np.arange(len(others)) + (i - (len(tasks) - 1) / 2) * height
        label = task if score is None else f"{task} ({score:.1f} in {base['configuration']})"
        handles.append(Patch(color=f"C{i}", label=label))
        values, half = ([row[f"{task} {key}"] or 0.0 for row in others] for key in ("difference", "half_interval"))
        whiskers = {"ecolor": "0.2", "elinewidth": 1, "capsize": 2}
        bars = axes.barh(places, values, 0.85 * height, xerr=half, error_kw=whiskers, color=f"C{i}")
        for bar, row in zip(bars, others, strict=True):
            bar.set_alpha(0.35 if row[f"{task} beyond_noise"] is False else 1)
        labels = [_format_bar_label(runs, row, task) for row in others]
        axes.bar_label(bars, labels, padding=4, fontsize=7, color="0.3")
    axes.axvline(0, color="0.2", linewidth=1)
    axes.margins(x=0.08)
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_yticks(range(len(others)), [row["configuration"] for row in others])
    seeds = "one seed" if base["runs"] == 1 else f"{base['runs']} seeds; whiskers: 95 %, pale: the interval includes 0"
    axes.set_xlabel(f"difference of average mAP from {base['configuration']}, in points ({seeds})")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _format_bar_label(runs: pd.DataFrame, row: dict[str, Any], task: str) -> str:
    if row[f"{task} mean"] is None:
        return NO_SCORE_LABELS[_explain_no_score(runs, row, task)]
    value = row[f"{task} difference"]
    return "the base has no score" if value is None else _format_signed(value, 1)


def _format_score(runs: pd.DataFrame, row: dict[str, Any], task: str) -> str:
    score, deviation = row[f"{task} mean"], row[f"{task} sd"]
    if score is None:
        return _explain_no_score(runs, row, task)
    return f"{score:.2f}" if deviation is None else f"{score:.2f} ± {deviation:.2f}"


def _explain_no_score(runs: pd.DataFrame, row: dict[str, Any], task: str) -> str:
    """NOT_TRAINED, PENDING or FAILED."""
    errors = runs.loc[(runs["configuration"] == row["configuration"]) & (runs["task"] == task), "error"]
    return NOT_TRAINED if errors.empty else FAILED if errors.notna().all() else PENDING


def _format_difference(row: dict[str, Any], task: str) -> str:
    value, half = row[f"{task} difference"], row[f"{task} half_interval"]
    if value is None:
        return ""
    text = f"**{_format_signed(value, 2)}**" if row[f"{task} beyond_noise"] else _format_signed(value, 2)
    return text if half is None else f"{text} ± {half:.2f}"


def _format_signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # adding 0.0 turns -0.0 into 0.0


def _format_legend(runs: pd.DataFrame) -> str:
    base = runs["configuration"].iloc[0]
    seeds = runs.loc[runs["configuration"] == base, "seed"].unique()
    text = f"mAP in % on the test splits, average over the tIoU thresholds. Δ: difference from {base}. "
    if len(seeds) == 1:
        return f"{text}One seed ({seeds[0]}): it is not known how large differences by chance are."
    return (
        f"{text}{len(seeds)} seeds, from {seeds[0]}: mean ± standard deviation; Δ ± half of Welch's 95 % interval, "
        "bold if the interval excludes 0 (by chance this happens once in twenty). Minutes are those of one run."
    )
