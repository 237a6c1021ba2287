"""Scores as tables to print and as trees for metrics.json."""

from typing import Any

from tabulate import tabulate

from libs.evaluation.metrics.average_precision import DetectionScores
from libs.evaluation.metrics.compute import MetricResult


def format_score_table(title: str, rows: dict[str, DetectionScores]) -> str:
    """Format mAP in %: one row per entry, one column per tIoU, then the average. All rows have the same tIoUs."""
    first = next(iter(rows.values()))
    headers = [title, *(f"{tiou:.2f}" for tiou in first.tious), "average"]
    body = [[name, *(100 * scores.map), 100 * scores.average] for name, scores in rows.items()]
    return tabulate(body, headers=headers, floatfmt=".2f")


def _split_seen(scores: DetectionScores, seen: list[int] | None) -> dict[str, DetectionScores]:
    """The scores of seen and of unseen classes, if some are left out of training."""
    return {} if seen is None else {"seen": scores.select(seen), "unseen": scores.select(seen, others=True)}


def build_score_rows(name: str, scores: DetectionScores, seen: list[int] | None = None) -> dict[str, DetectionScores]:
    """Build the rows of format_score_table: all classes, then seen and unseen ones if some are left out of training."""
    parts = _split_seen(scores, seen).items()
    return {name: scores, **{f"  {len(part.labels)} {kind}": part for kind, part in parts}}


def scores_to_dict(
    scores: DetectionScores, class_names: dict[int, str], seen: list[int] | None = None
) -> dict[str, Any]:
    """Convert scores to {"average_mAP", "tiou", "mAP", "ap_per_class"}, all fractions.

    If some classes are left out of training, "seen" and "unseen" hold such trees too.
    """
    names = [class_names.get(int(label), str(label)) for label in scores.labels]
    return {
        "average_mAP": scores.average,
        "tiou": list(scores.tious),
        "mAP": scores.map.tolist(),
        "ap_per_class": dict(zip(names, scores.ap.tolist(), strict=True)),
        **{kind: scores_to_dict(part, class_names) for kind, part in _split_seen(scores, seen).items()},
    }


def format_headline_table(results: dict[str, MetricResult]) -> str:
    """Format the headline numbers in %, with the ends of their 95 % intervals."""
    body = [
        [metric, name, *(100 * x for x in estimate)]
        for metric, result in results.items()
        for name, estimate in result.headline.items()
    ]
    return tabulate(body, headers=["metric", "", "%", "low", "high"], floatfmt=".2f")
