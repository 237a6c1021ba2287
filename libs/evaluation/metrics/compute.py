"""The metrics by name: what is evaluated and settings -> headline numbers with intervals, and details.

Another metric is a function and a line in METRICS. Numbers are fractions, AUC too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from libs.core.types import Detections, Video
from libs.evaluation.metrics.average_precision import Matches, find_video_indices, match_detections
from libs.evaluation.metrics.bootstrap import class_means, compute_interval, resample_weights, resampled_ap
from libs.evaluation.metrics.diagnosis import ERRORS, KINDS, SLICES, Diagnosis
from libs.evaluation.metrics.recall import MOST_PROPOSALS, ProposalRecall, RecallAtKx, auc
from libs.evaluation.results import UNKNOWN_CLASS

RECALL_KS = (1, 5)  # k of Recall@kx
SHOWN_PROPOSALS = (1, 5, 10, 50, 100)
RECALL_GRID = np.linspace(0, 1, 101)
SCORE_BINS = np.linspace(0, 1, 51)


@dataclass(frozen=True)
class MetricSettings:
    """resamples, seed: of the bootstrap; diagnosis_tiou: at which detections are right or wrong."""

    resamples: int = 1000
    seed: int = 0
    diagnosis_tiou: float = 0.5


@dataclass(frozen=True)
class EvaluationInput:
    """What is evaluated, and what several metrics need of it, computed once. Repeated annotations of the videos count
    as often as they are there: remove_repeats() first, as mAP has it."""

    detections: Detections
    videos: list[Video]
    class_names: dict[int, str]
    tious: tuple[float, ...]
    settings: MetricSettings = field(default_factory=MetricSettings)
    seen: list[int] | None = None  # label_ids, where other classes were held out of training

    @cached_property
    def weights(self) -> np.ndarray:
        """(1 + R, V + 1): of all videos, then of the resamples."""
        return resample_weights(len(self.videos), self.settings.resamples, self.settings.seed)

    @cached_property
    def matches(self) -> Matches:
        return match_detections(self.detections, self.videos, self.tious)

    @cached_property
    def ap(self) -> np.ndarray:
        """(1 + R, C, K): AP of all videos, then of the resamples."""
        return resampled_ap(self.matches, self.weights)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        return Diagnosis.compute(self.detections, self.videos, self.settings.diagnosis_tiou)

    @cached_property
    def video(self) -> np.ndarray:
        """(N,): the index of each detection's video, -1 where it is not annotated."""
        return find_video_indices(self.detections, self.videos)[self.detections.video]

    def class_name(self, label: int) -> str:
        return "unknown label" if label == UNKNOWN_CLASS else self.class_names.get(int(label), str(label))


class Estimate(NamedTuple):
    """A headline number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MetricResult:
    """headline: what is reported, with intervals; details: a tree for JSON; samples: the headline numbers of each
    resample (R,), so that two results of the same videos can be compared in pairs, empty where there are none."""

    headline: dict[str, Estimate]
    details: dict[str, Any]
    samples: dict[str, np.ndarray]

    @classmethod
    def of_samples(cls, numbers: dict[str, np.ndarray], details: dict[str, Any]) -> "MetricResult":
        """numbers: each (1 + R,), of all videos and then of the resamples."""
        return cls(
            {name: number(row) for name, row in numbers.items()}, details, {n: r[1:] for n, r in numbers.items()}
        )


def number(row: np.ndarray) -> Estimate:
    """row (1 + R,): of all videos and then of the resamples; a fraction, so the interval ends at 0 or 1."""
    return Estimate(float(row[0]), *np.clip(compute_interval(row[0], row[1:]), 0, 1).tolist())


def metric_name(name: str, tiou: float) -> str:
    """What a number at one tIoU is called: mAP@0.50."""
    return f"{name}@{format_tiou(tiou)}"


def format_tiou(tiou: float) -> str:
    """Two decimals where they say all, else as many as it takes: two thresholds never share a name."""
    return f"{tiou:.2f}" if abs(round(tiou, 2) - tiou) < 1e-9 else f"{tiou:.9g}"


def map_metric(data: EvaluationInput) -> MetricResult:
    """mAP at each tIoU and on average, with the classes' mean precision-recall curves."""
    means = class_means(data.ap)  # (1 + R, K)
    numbers = {"average_mAP": means.mean(axis=1)}
    if data.seen is not None:
        seen = np.isin(data.matches.labels, data.seen)
        for name, columns in (("seen", seen), ("unseen", ~seen)):
            numbers[f"average_mAP_{name}"] = class_means(data.ap[:, columns]).mean(axis=1)
    numbers |= {metric_name("mAP", tiou): means[:, k] for k, tiou in enumerate(data.tious)}
    precision = precision_curves(data.matches)
    curves = {format_tiou(tiou): rounded(row) for tiou, row in zip(data.tious, precision, strict=True)}
    return MetricResult.of_samples(numbers, {"precision_recall": {"recall": rounded(RECALL_GRID), "precision": curves}})


def precision_curves(matches: Matches) -> np.ndarray:
    """(K, 101): interpolated precision at recalls 0, .01, … 1, the mean over classes."""
    total = np.zeros((len(matches.tious), len(RECALL_GRID)))
    first, positives = matches.first, matches.positives
    for cell, (i, j) in enumerate(zip(matches.cuts[:-1], matches.cuts[1:], strict=True)):
        label, k = divmod(cell, len(matches.tious))
        found = np.arange(1, j - i + 1)
        precision = np.maximum.accumulate((found / (matches.hit[i:j] + 1 - first[label]))[::-1])[::-1]
        place = np.searchsorted(found / positives[label], RECALL_GRID - 1e-9)
        total[k] += np.append(precision, 0.0)[place]
    return total / max(len(matches.labels), 1)


def recall_metric(data: EvaluationInput) -> MetricResult:
    """Recall@1x and @5x at each tIoU (libs.evaluation.metrics.recall.RecallAtKx)."""
    numbers, means = {}, {}
    for k in RECALL_KS:
        top = RecallAtKx.compute(k, data.detections, data.video, data.matches.truth, data.tious)
        rows = top.resampled(data.weights)
        numbers[f"Recall@{k}x"] = rows.mean(axis=1)
        numbers |= {metric_name(f"Recall@{k}x", tiou): rows[:, i] for i, tiou in enumerate(data.tious)}
        means |= {metric_name(f"Recall@{k}x", t): float(x) for t, x in zip(data.tious, top.class_mean(), strict=True)}
    return MetricResult.of_samples(numbers, {"mean_of_classes": means})


def proposals_metric(data: EvaluationInput) -> MetricResult:
    """AR@AN over the tIoUs that are scored, and its AUC (libs.evaluation.metrics.recall.ProposalRecall)."""
    proposals = ProposalRecall.compute(data.detections, data.video, data.matches.truth, data.tious, len(data.videos))
    rows = proposals.resampled(data.weights)  # (1 + R, 100)
    numbers = {"AUC": auc(rows)} | {f"AR@{j}": rows[:, j - 1] for j in SHOWN_PROPOSALS}
    ends = [number(column)[1:] for column in rows.T]
    curve = {"proposals": list(range(1, MOST_PROPOSALS + 1)), "recall": rounded(rows[0])}
    low, high = (rounded(column) for column in np.array(ends).T)
    return MetricResult.of_samples(numbers, {"curve": {**curve, "low": low, "high": high}})


def diagnosis_metric(data: EvaluationInput) -> MetricResult:
    """Kinds of detections, what each kind of error costs, and what is missed (libs.evaluation.metrics.diagnosis)."""
    diagnosis, weights = data.diagnosis, data.weights
    shares, mended = diagnosis.shares(weights), diagnosis.map_without_error(weights)
    everything = np.ones(len(diagnosis.found), bool)
    numbers = {f"share_{kind}": shares[:, i] for i, kind in enumerate(KINDS)}
    numbers["missed"] = 1 - np.nan_to_num(diagnosis.recall(weights, everything))
    numbers |= {f"gain_{kind}": mended[kind] - mended["as_is"] for kind in (*ERRORS, "missed")}
    groups = {
        name: [_group(diagnosis, weights, *row) for row in rows] for name, rows in diagnosis.characteristics().items()
    }
    true = diagnosis.kind == KINDS.index("true_positive")
    details = {
        "tiou": diagnosis.tiou,
        "counts": diagnosis.counts(),
        "missed": int((~diagnosis.found).sum()),
        "instances": len(diagnosis.found),
        "mAP": {name: float(row[0]) for name, row in mended.items()},
        "mAP_N": diagnosis.normalized_map(everything),
        "profile": {"slices": list(range(1, SLICES + 1)), "kinds": list(KINDS), "counts": diagnosis.profile().tolist()},
        "characteristics": groups,
        "scores": {
            "edges": rounded(SCORE_BINS),
            "true_positive": np.histogram(data.detections.scores[true], SCORE_BINS)[0].tolist(),
            "errors": np.histogram(data.detections.scores[~true], SCORE_BINS)[0].tolist(),
        },
    }
    return MetricResult.of_samples(numbers, details)


def _group(diagnosis: Diagnosis, weights: np.ndarray, size: str, words: str, chosen: np.ndarray) -> dict[str, Any]:
    recall = number(diagnosis.recall(weights, chosen))
    instances, found = int(chosen.sum()), int(diagnosis.found[chosen].sum())
    counts = {"size": size, "range": words, "instances": instances, "missed": instances - found}
    return {**counts, "recall": recall._asdict(), "mAP_N": diagnosis.normalized_map(chosen)}


def classes_metric(data: EvaluationInput) -> MetricResult:
    """AP of each class, the mean over tIoUs, with its number of annotations; and which classes are taken for which."""
    ap = data.ap.mean(axis=2)  # (1 + R, C)
    found = np.bincount(data.matches.column, minlength=len(data.matches.labels))
    per_class = [
        {
            "label": data.class_name(label),
            "instances": int(data.matches.positives[c]),
            "detections": int(found[c]),
            "AP": number(ap[:, c])._asdict(),
        }
        for c, label in enumerate(data.matches.labels)
    ]
    confused = [
        {"detected": data.class_name(a), "annotated": data.class_name(b), "detections": n}
        for a, b, n in data.diagnosis.confusions()
    ]
    tiou = data.settings.diagnosis_tiou
    return MetricResult({}, {"per_class": per_class, "confusion": {"tiou": tiou, "couples": confused}}, {})


def sed_metric(data: EvaluationInput) -> MetricResult:
    """What sound event detection is scored with: event, segment and intersection F1, PSDS (libs.evaluation.sound_events.scores)."""
    from libs.evaluation.sound_events.scores import compute_sed_metrics

    settings = data.settings
    scores = compute_sed_metrics(
        data.detections, data.videos, data.class_names, resamples=settings.resamples, seed=settings.seed
    )
    headline = {name: Estimate(*ends) for name, ends in scores.headline.items()}
    details = {key: part for key, part in scores.tree().items() if key != "headline"}
    return MetricResult(headline, details, scores.samples)


METRICS: dict[str, Callable[[EvaluationInput], MetricResult]] = {
    "map": map_metric,
    "recall": recall_metric,
    "proposals": proposals_metric,
    "diagnosis": diagnosis_metric,
    "classes": classes_metric,
    "sed": sed_metric,
}


def compute_metrics(data: EvaluationInput, names: tuple[str, ...]) -> dict[str, MetricResult]:
    """The results of metrics by their names in METRICS."""
    return {name: METRICS[name](data) for name in names}


def metrics_to_dict(results: dict[str, MetricResult]) -> dict[str, Any]:
    """{metric: {"headline": {name: {"value", "low", "high"}}, "details"}}; null for numbers that there are not."""
    return {
        name: replace_non_finite({"headline": {n: x._asdict() for n, x in r.headline.items()}, "details": r.details})
        for name, r in results.items()
    }


def replace_non_finite(tree: Any) -> Any:
    """The tree with None for NaN and infinity, which are no JSON."""
    if isinstance(tree, dict):
        return {key: replace_non_finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [replace_non_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def rounded(values: np.ndarray) -> list[float]:
    """For curves: what is drawn needs no more digits."""
    return np.round(values, 6).tolist()
