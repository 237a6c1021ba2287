"""Paired comparison of two results of the same videos, by a bootstrap over videos.

Each resample has the same videos for both results and gives one difference B - A. Interval and two-sided p-value are
those of `libs.evaluation.bootstrap`: p < .05 exactly if the 95 % interval excludes 0. The p-values are not corrected
for the number of comparisons, so that some of many classes have small ones by chance.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.core.errors import ConfigError
from libs.evaluation.bootstrap import compute_interval, compute_p_value
from libs.evaluation.metrics.compute import Estimate, EvaluationInput, compute_metrics
from libs.evaluation.metrics.selection import parse_metrics

UNPAIRED = "classes"  # this metric has no headline numbers; classes have their own table


@dataclass(frozen=True)
class MetricDifference:
    """A number of both results as fractions, B - A with its 95 % interval, and the p-value."""

    name: str
    a: float
    b: float
    difference: Estimate
    p: float
    instances: int | None = None  # annotations, if the number is the AP of a class

    @classmethod
    def compute(cls, name: str, a: np.ndarray, b: np.ndarray, instances: int | None = None) -> "MetricDifference":
        """Compute the difference of a number from a and b (1 + R,): its value on all videos, then on R resamples."""
        value, samples = float(b[0] - a[0]), b[1:] - a[1:]
        low, high = np.clip(compute_interval(value, samples), -1, 1).tolist()
        p = compute_p_value(value, samples)
        return cls(name, float(a[0]), float(b[0]), Estimate(value, low, high), p, instances)

    def to_dict(self) -> dict[str, Any]:
        tree = {"name": self.name, "A": self.a, "B": self.b, "difference": self.difference._asdict(), "p": self.p}
        return tree if self.instances is None else {**tree, "instances": self.instances}


@dataclass(frozen=True)
class Comparison:
    """Differences of the headline numbers, and of the AP of each class (mean over tIoUs), the largest gain first."""

    numbers: list[MetricDifference]
    classes: list[MetricDifference]

    def to_dict(self) -> dict[str, Any]:
        return {"numbers": [d.to_dict() for d in self.numbers], "classes": [d.to_dict() for d in self.classes]}


def parse_paired_metrics(text: str) -> tuple[str, ...]:
    """Parse `--metrics`. Raises ConfigError as parse_metrics does, and for a metric without headline numbers."""
    names = parse_metrics(text)
    if UNPAIRED in names:
        raise ConfigError(f"--metrics {UNPAIRED}: has no numbers to compare; classes are always compared, leave it out")
    return names


def compare_results(a: EvaluationInput, b: EvaluationInput, names: tuple[str, ...]) -> Comparison:
    """Compare two results of the same videos in the same order, computed with the same settings."""
    results_a, results_b = (compute_metrics(data, tuple(n for n in names if n != UNPAIRED)) for data in (a, b))
    numbers = []
    for name, result_a in results_a.items():
        for key in result_a.headline:
            row_a, row_b = (np.append(r.headline[key].value, r.samples[key]) for r in (result_a, results_b[name]))
            numbers.append(MetricDifference.compute(key, row_a, row_b))
    ap_a, ap_b = (data.ap.mean(axis=2) for data in (a, b))
    classes = [
        MetricDifference.compute(a.class_name(label), ap_a[:, c], ap_b[:, c], int(a.matches.truth.positives[c]))
        for c, label in enumerate(a.matches.truth.classes)
    ]
    return Comparison(numbers, sorted(classes, key=lambda row: -row.difference.value))
