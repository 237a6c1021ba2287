"""Two results of the same videos side by side: is the difference more than luck with the videos?

Paired bootstrap over videos: each resample draws the same videos for both, and the difference B - A is taken in
each. Interval and two-sided p-value are those of libs.evaluation.metrics.bootstrap: p is below .05 where the 95 %
interval does not hold 0. It is not corrected for how many numbers are looked at; of the classes' p-values some are small by
chance.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.core.errors import ConfigError
from libs.evaluation.metrics.bootstrap import compute_interval, compute_p_value
from libs.evaluation.metrics.compute import Estimate, EvaluationInput, compute_metrics
from libs.evaluation.metrics.selection import expand_metrics, parse_metrics

UNPAIRED = "classes"  # the metric whose numbers are compared in a table of their own


@dataclass(frozen=True)
class MetricDifference:
    """A number of both results as fractions, B - A with its 95 % interval, and the p-value of no difference."""

    name: str
    a: float
    b: float
    difference: Estimate
    p: float
    instances: int | None = None  # of a class

    @classmethod
    def of(cls, name: str, a: np.ndarray, b: np.ndarray, instances: int | None = None) -> "MetricDifference":
        """a and b: (1 + R,), of all videos and then of the same resamples."""
        rows = b - a
        ends = np.clip(compute_interval(rows[0], rows[1:]), -1, 1).tolist()
        return cls(
            name,
            float(a[0]),
            float(b[0]),
            Estimate(float(rows[0]), *ends),
            compute_p_value(rows[0], rows[1:]),
            instances,
        )

    def tree(self) -> dict[str, Any]:
        tree = {"name": self.name, "A": self.a, "B": self.b, "difference": self.difference._asdict(), "p": self.p}
        return tree if self.instances is None else {**tree, "instances": self.instances}


@dataclass(frozen=True)
class Comparison:
    """numbers: the headline numbers; classes: AP of each class, the mean over tIoUs, the largest gain of B first."""

    numbers: list[MetricDifference]
    classes: list[MetricDifference]

    def tree(self) -> dict[str, Any]:
        return {name: [row.tree() for row in getattr(self, name)] for name in ("numbers", "classes")}


def choose_paired(text: str) -> tuple[str, ...]:
    """parse_metrics() of metrics with numbers. Raises ConfigError as it does, and on those without."""
    names = parse_metrics(text)
    if UNPAIRED in names:
        raise ConfigError(f"--metrics {UNPAIRED}: has no numbers of its own; the classes are compared in any case")
    return names


def expand_paired(names: tuple[str, ...], sounds: bool) -> tuple[tuple[str, ...], list[str]]:
    """expand_metrics() to metrics with numbers."""
    expanded, notes = expand_metrics(names, sounds)
    return tuple(name for name in expanded if name != UNPAIRED), notes


def compare_results(a: EvaluationInput, b: EvaluationInput, names: tuple[str, ...]) -> Comparison:
    """a and b: results of the same videos, in the same order, with the same settings."""
    results = [compute_metrics(data, names) for data in (a, b)]
    numbers = []
    for name in names:
        one, other = (result[name] for result in results)
        rows = ([np.append(r.headline[key].value, r.samples[key]) for r in (one, other)] for key in one.headline)
        numbers += [MetricDifference.of(key, *pair) for key, pair in zip(one.headline, rows, strict=True)]
    aps = [data.ap.mean(axis=2) for data in (a, b)]
    classes = [
        MetricDifference.of(a.class_name(label), aps[0][:, c], aps[1][:, c], int(a.matches.positives[c]))
        for c, label in enumerate(a.matches.labels)
    ]
    return Comparison(numbers, sorted(classes, key=lambda row: -row.difference.value))
