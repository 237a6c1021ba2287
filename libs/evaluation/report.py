"""Scores as tables for people and as trees for metrics.json."""

import numpy as np
from tabulate import tabulate

from libs.evaluation.detection import DetectionScores
from libs.evaluation.metrics import MetricResult


def score_table(title: str, rows: dict[str, DetectionScores]) -> str:
    """mAP in percent, a row an entry, a column a tIoU, the average last. All rows have the same thresholds."""
    first = next(iter(rows.values()))
    headers = [title, *(f"{tiou:.2f}" for tiou in first.tious), "average"]
    body = [[name, *(100 * s.map), 100 * s.average] for name, s in rows.items()]
    return tabulate(body, headers=headers, floatfmt=".2f")


def score_tree(scores: DetectionScores, class_names: dict[int, str]) -> dict:
    """mAP as fractions: {"average_mAP", "tiou", "mAP", "ap_per_class"}."""
    names = [class_names.get(int(label), str(label)) for label in scores.labels]
    return {
        "average_mAP": scores.average,
        "tiou": list(scores.tious),
        "mAP": scores.map.tolist(),
        "ap_per_class": dict(zip(names, np.asarray(scores.ap).tolist(), strict=True)),
    }


def headline_table(results: dict[str, MetricResult]) -> str:
    """Headline numbers in percent with the ends of their 95 % intervals."""
    body = [
        [metric, name, *(100 * x for x in numbers)]
        for metric, result in results.items()
        for name, numbers in result.headline.items()
    ]
    return tabulate(body, headers=["metric", "", "%", "low", "high"], floatfmt=".2f")
