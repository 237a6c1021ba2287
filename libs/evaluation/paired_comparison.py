"""Paired comparison of two results of the same videos, by a bootstrap over videos.

Each resample has the same videos for both results and gives one difference B - A. Interval and two-sided p-value are
those of `libs.evaluation.bootstrap`: p < .05 exactly if the 95 % interval excludes 0. The p-values are not corrected
for the number of comparisons, so that some of many classes have small ones by chance.
"""

from typing import Any

import numpy as np

from libs.core.errors import ConfigError
from libs.evaluation.bootstrap import compute_interval, compute_p_value
from libs.evaluation.metrics.compute import EvaluationInput, compute_metrics
from libs.evaluation.metrics.selection import parse_metrics

UNPAIRED = "classes"  # this metric has no headline numbers; classes have their own table


def parse_paired_metrics(text: str) -> tuple[str, ...]:
    """Parse `--metrics`. Raises ConfigError as parse_metrics does, and for a metric without headline numbers."""
    names = parse_metrics(text)
    if UNPAIRED in names:
        raise ConfigError(f"--metrics {UNPAIRED}: has no numbers to compare; classes are always compared, leave it out")
    return names


def compare_results(a: EvaluationInput, b: EvaluationInput, names: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Compare two results of the same videos in the same order, computed with the same settings.

    Returns:
        {"numbers": rows, "classes": rows}, ready for JSON: the headline numbers, and the AP of each class (mean over
        tIoUs), the largest gain first. A row is {"name", "A", "B", "difference": {"value", "low", "high"}, "p"}; those
        of classes have "instances" too.
    """
    results_a, results_b = (compute_metrics(data, tuple(n for n in names if n != UNPAIRED)) for data in (a, b))
    numbers = []
    for name, result_a in results_a.items():
        for key in result_a.headline:
            row_a, row_b = (np.append(r.headline[key].value, r.samples[key]) for r in (result_a, results_b[name]))
            numbers.append(_compare_number(key, row_a, row_b))
    ap_a, ap_b = (data.ap.mean(axis=2) for data in (a, b))
    classes = [
        {**_compare_number(a.class_name(label), ap_a[:, c], ap_b[:, c]), "instances": int(a.matches.truth.positives[c])}
        for c, label in enumerate(a.matches.truth.classes)
    ]
    return {"numbers": numbers, "classes": sorted(classes, key=lambda row: -row["difference"]["value"])}


def _compare_number(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Compare a number, given as fractions (1 + R,): its value on all videos, then on R resamples."""
    value, samples = float(b[0] - a[0]), b[1:] - a[1:]
    low, high = np.clip(compute_interval(value, samples), -1, 1).tolist()
    difference, p = {"value": value, "low": low, "high": high}, compute_p_value(value, samples)
    return {"name": name, "A": float(a[0]), "B": float(b[0]), "difference": difference, "p": p}
