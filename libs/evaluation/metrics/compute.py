"""The metrics by name: detections and annotations in, headline numbers with intervals and details out.

A new metric is a function and a line in METRICS. All numbers are fractions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from libs.core.types import Detections, Video
from libs.evaluation.bootstrap import Estimate, MetricResult, resample_weights
from libs.evaluation.metrics.average_precision import Matches
from libs.evaluation.metrics.diagnosis import ERRORS, KINDS, SLICES, Diagnosis
from libs.evaluation.metrics.recall import (
    MAX_PROPOSALS,
    find_lowest_k,
    resample_average_recall,
    resample_recall,
    sum_by_group,
)
from libs.evaluation.metrics.resampling import mean_over_classes, resample_ap
from libs.evaluation.results import UNKNOWN_CLASS
from libs.evaluation.sound_events.scores import compute_sed_metrics

RECALL_KS = (1, 5)  # k of Recall@kx
REPORTED_PROPOSALS = (1, 5, 10, 50, 100)
RECALL_GRID = np.linspace(0, 1, 101)
SCORE_BINS = np.linspace(0, 1, 51)


@dataclass(frozen=True)
class EvaluationInput:
    """Detections and annotations, with intermediate results that several metrics share, each computed once.

    Repeated annotations count as often as they occur; remove_repeats() first, as mAP does.

    Attributes:
        tious: (K,) thresholds.
        seen: label_ids that were trained, None for all.
        resamples, seed: of the bootstrap.
        diagnosis_tiou: the tIoU at which detections are diagnosed.
    """

    detections: Detections
    videos: list[Video]
    class_names: dict[int, str]
    tious: tuple[float, ...]
    seen: list[int] | None = None
    resamples: int = 1000
    seed: int = 0
    diagnosis_tiou: float = 0.5

    @cached_property
    def weights(self) -> np.ndarray:
        """(1 + R, V + 1) weights of all videos, then of the resamples."""
        return resample_weights(len(self.videos), self.resamples, self.seed)

    @cached_property
    def matches(self) -> Matches:
        return Matches(self.detections, self.videos, self.tious)

    @cached_property
    def ap(self) -> np.ndarray:
        """(1 + R, C, K) AP on all videos, then in the resamples."""
        return resample_ap(self.matches, self.weights)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        return Diagnosis(self.detections, self.videos, self.diagnosis_tiou)

    def class_name(self, label: int) -> str:
        return "unknown label" if label == UNKNOWN_CLASS else self.class_names.get(int(label), str(label))


def metric_name(name: str, tiou: float) -> str:
    """Name a number at one tIoU, as mAP@0.50."""
    return f"{name}@{format_tiou(tiou)}"


def format_tiou(tiou: float) -> str:
    """Format a tIoU with two decimals, or more if it needs them, so that no two thresholds share a name."""
    return f"{tiou:.2f}" if abs(round(tiou, 2) - tiou) < 1e-9 else f"{tiou:.9g}"


def compute_map(data: EvaluationInput) -> MetricResult:
    """Compute mAP at each tIoU and on average, and the mean precision-recall curves."""
    means = mean_over_classes(data.ap)  # (1 + R, K)
    numbers = {"average_mAP": means.mean(axis=1)}
    if data.seen is not None:
        seen = np.isin(data.matches.truth.classes, data.seen)
        for name, columns in (("seen", seen), ("unseen", ~seen)):
            numbers[f"average_mAP_{name}"] = mean_over_classes(data.ap[:, columns]).mean(axis=1)
    numbers |= {metric_name("mAP", tiou): means[:, k] for k, tiou in enumerate(data.tious)}
    precision = compute_precision_curves(data.matches)
    curves = {format_tiou(tiou): _round_curve(row) for tiou, row in zip(data.tious, precision, strict=True)}
    details = {"precision_recall": {"recall": _round_curve(RECALL_GRID), "precision": curves}}
    return MetricResult.from_samples(numbers, details)


def compute_precision_curves(matches: Matches) -> np.ndarray:
    """Compute the interpolated precision at recalls 0, .01, … 1, averaged over classes: (K, 101)."""
    total = np.zeros((len(matches.tious), len(RECALL_GRID)))
    for c, k, precision in matches.interpolated_precision():
        recall = np.arange(1, len(precision) + 1) / matches.truth.positives[c]
        total[k] += np.append(precision[::-1], 0.0)[np.searchsorted(recall, RECALL_GRID - 1e-9)]
    return total / max(len(matches.truth.classes), 1)


def compute_recall(data: EvaluationInput) -> MetricResult:
    """Compute Recall@1x and @5x at each tIoU."""
    truth, numbers, means = data.matches.truth, {}, {}
    lowest_k = find_lowest_k(data.matches)
    for k in RECALL_KS:
        recalled = lowest_k <= k
        rows = np.nan_to_num(resample_recall(truth.video, recalled, data.weights))
        by_class = sum_by_group(truth.column, recalled, len(truth.classes)) / truth.positives[:, None]
        names = [metric_name(f"Recall@{k}x", tiou) for tiou in data.tious]
        numbers[f"Recall@{k}x"] = rows.mean(axis=1)
        numbers |= dict(zip(names, rows.T, strict=True))
        means |= dict(zip(names, mean_over_classes(by_class[None])[0].tolist(), strict=True))
    return MetricResult.from_samples(numbers, {"mean_of_classes": means})


def compute_proposals(data: EvaluationInput) -> MetricResult:
    """Compute AR@AN, averaged over the tIoUs, and the area under its curve."""
    rows = resample_average_recall(data.matches, data.weights)
    numbers = {"AUC": compute_auc(rows)} | {f"AR@{j}": rows[:, j - 1] for j in REPORTED_PROPOSALS}
    low, high = (_round_curve(column) for column in np.array([Estimate.from_samples(x)[1:] for x in rows.T]).T)
    curve = {"proposals": list(range(1, MAX_PROPOSALS + 1)), "recall": _round_curve(rows[0]), "low": low, "high": high}
    return MetricResult.from_samples(numbers, {"curve": curve})


def compute_auc(recall: np.ndarray) -> np.ndarray:
    """Compute the area under AR (R, 100) at 1 … 100 proposals, by trapezoids, divided by 100."""
    return ((recall[:, 1:] + recall[:, :-1]) / 2).sum(axis=1) / MAX_PROPOSALS


def compute_diagnosis(data: EvaluationInput) -> MetricResult:
    """Compute the kinds of detections, the cost of each kind of error, and what is missed."""
    diagnosis, weights = data.diagnosis, data.weights
    shares, without = diagnosis.resample_shares(weights), diagnosis.map_without_error(weights)
    everything = np.ones(len(diagnosis.found), bool)
    numbers = {f"share_{kind}": shares[:, i] for i, kind in enumerate(KINDS)}
    numbers["missed"] = 1 - np.nan_to_num(diagnosis.resample_recall(weights, everything))
    numbers |= {f"gain_{kind}": without[kind] - without["as_is"] for kind in (*ERRORS, "missed")}
    true = diagnosis.kind == KINDS.index("true_positive")
    details = {
        "tiou": diagnosis.tiou,
        "counts": diagnosis.counts(),
        "missed": int((~diagnosis.found).sum()),
        "instances": len(diagnosis.found),
        "mAP": {name: float(row[0]) for name, row in without.items()},
        "mAP_N": diagnosis.compute_normalized_map(everything),
        "profile": {"slices": list(range(1, SLICES + 1)), "kinds": list(KINDS), "counts": diagnosis.profile().tolist()},
        "characteristics": {
            name: [_describe_group(diagnosis, weights, *group) for group in groups]
            for name, groups in diagnosis.group_annotations().items()
        },
        "scores": {
            "edges": _round_curve(SCORE_BINS),
            "true_positive": np.histogram(data.detections.scores[true], SCORE_BINS)[0].tolist(),
            "errors": np.histogram(data.detections.scores[~true], SCORE_BINS)[0].tolist(),
        },
    }
    return MetricResult.from_samples(numbers, details)


def _describe_group(
    diagnosis: Diagnosis, weights: np.ndarray, size: str, range_text: str, chosen: np.ndarray
) -> dict[str, Any]:
    return {
        "size": size,
        "range": range_text,
        "instances": int(chosen.sum()),
        "missed": int((chosen & ~diagnosis.found).sum()),
        "recall": Estimate.from_samples(diagnosis.resample_recall(weights, chosen))._asdict(),
        "mAP_N": diagnosis.compute_normalized_map(chosen),
    }


def compute_classes(data: EvaluationInput) -> MetricResult:
    """Compute each class's AP, averaged over tIoUs, and the confusions between classes."""
    ap = data.ap.mean(axis=2)  # (1 + R, C)
    truth = data.matches.truth
    detections = np.diff(data.matches.class_starts)
    per_class = [
        {
            "label": data.class_name(label),
            "instances": int(truth.positives[c]),
            "detections": int(detections[c]),
            "AP": Estimate.from_samples(ap[:, c])._asdict(),
        }
        for c, label in enumerate(truth.classes)
    ]
    confused = [
        {"detected": data.class_name(a), "annotated": data.class_name(b), "detections": n}
        for a, b, n in data.diagnosis.confusions()
    ]
    confusion = {"tiou": data.diagnosis_tiou, "couples": confused}
    return MetricResult({}, {"per_class": per_class, "confusion": confusion}, {})


def compute_sed(data: EvaluationInput) -> MetricResult:
    """Compute the metrics of sound event detection: event, segment and intersection F1, PSDS."""
    inputs = (data.detections, data.videos, data.class_names)
    return compute_sed_metrics(*inputs, resamples=data.resamples, seed=data.seed)


METRICS: dict[str, Callable[[EvaluationInput], MetricResult]] = {
    "map": compute_map,
    "recall": compute_recall,
    "proposals": compute_proposals,
    "diagnosis": compute_diagnosis,
    "classes": compute_classes,
    "sed": compute_sed,
}


def compute_metrics(data: EvaluationInput, names: tuple[str, ...]) -> dict[str, MetricResult]:
    """Compute metrics by their names in METRICS."""
    return {name: METRICS[name](data) for name in names}


def metrics_to_dict(results: dict[str, MetricResult]) -> dict[str, Any]:
    """Convert results for JSON: {metric: {"headline": {name: {"value", "low", "high"}}, "details"}}."""
    return {
        name: replace_non_finite({"headline": {n: x._asdict() for n, x in r.headline.items()}, "details": r.details})
        for name, r in results.items()
    }


def replace_non_finite(tree: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(tree, dict):
        return {key: replace_non_finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [replace_non_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _round_curve(values: np.ndarray) -> list[float]:
    """Round to six decimals, which is enough for a plot."""
    return np.round(values, 6).tolist()
