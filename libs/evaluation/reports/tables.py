"""Scores as tables for people and as trees for metrics.json."""

import numpy as np
from tabulate import tabulate

from libs.evaluation.metrics.average_precision import DetectionScores
from libs.evaluation.metrics.compute import MetricResult


def score_table(title: str, rows: dict[str, DetectionScores]) -> str:
    """mAP in percent, a row an entry, a column a tIoU, the average last. All rows have the same thresholds."""
    first = next(iter(rows.values()))
    headers = [title, *(f"{tiou:.2f}" for tiou in first.tious), "average"]
    body = [[name, *(100 * s.map), 100 * s.average] for name, s in rows.items()]
    return tabulate(body, headers=headers, floatfmt=".2f")


def score_rows(name: str, scores: DetectionScores, seen: list[int] | None = None) -> dict[str, DetectionScores]:
    """Rows for score_table: all classes and, where some were held out of training, the seen and the unseen ones."""
    rows = {name: scores}
    if seen is not None:
        of_seen, unseen = scores.select(seen), scores.select(seen, others=True)
        rows |= {f"  {len(of_seen.labels)} seen": of_seen, f"  {len(unseen.labels)} unseen": unseen}
    return rows


def score_tree(scores: DetectionScores, class_names: dict[int, str], seen: list[int] | None = None) -> dict:
    """mAP as fractions: {"average_mAP", "tiou", "mAP", "ap_per_class"}; where classes were held out of training, such
    trees as "seen" and "unseen" too."""
    names = [class_names.get(int(label), str(label)) for label in scores.labels]
    tree = {
        "average_mAP": scores.average,
        "tiou": list(scores.tious),
        "mAP": scores.map.tolist(),
        "ap_per_class": dict(zip(names, np.asarray(scores.ap).tolist(), strict=True)),
    }
    if seen is not None:
        tree["seen"] = score_tree(scores.select(seen), class_names)
        tree["unseen"] = score_tree(scores.select(seen, others=True), class_names)
    return tree


def headline_table(results: dict[str, MetricResult]) -> str:
    """Headline numbers in percent with the ends of their 95 % intervals."""
    body = [
        [metric, name, *(100 * x for x in numbers)]
        for metric, result in results.items()
        for name, numbers in result.headline.items()
    ]
    return tabulate(body, headers=["metric", "", "%", "low", "high"], floatfmt=".2f")
