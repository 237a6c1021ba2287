"""Metrics of sound event detection (SED): F1 by event, by segment and by intersection, and PSDS.

sed_scores_eval (Ebbers et al., ICASSP 2022), the library of DCASE task 4, counts true and false positives at every
threshold in each video. Metrics and bootstrap intervals are computed from these counts. sed_eval and psds_eval give the
same numbers (tests/evaluation/sound_events). docs/evaluation.md describes each number.

Shapes: V videos, C classes with events, R resamples, E changes of a class's counts, U different scores.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from libs.core.errors import DataError
from libs.core.types import Detections, Video
from libs.evaluation.bootstrap import CONFIDENCE, MetricResult, resample_weights, safe_divide
from libs.evaluation.metrics.average_precision import find_video_indices
from libs.evaluation.sound_events.counts import (
    COUNTED,
    ClassCounts,
    ReferenceEvents,
    build_reference,
    build_score_frames,
    collect_counts,
    count_changes,
    load_library,
    name_classes,
)
from libs.evaluation.sound_events.tables import compute_frame_scores

THRESHOLD = 0.5  # as usual in DCASE
F1S = ("event", "segment", "intersection")
CURVES: dict[str, dict[str, float]] = {  # max_efpr: effective false positives per hour
    "psds1": {"alpha_ct": 0.0, "alpha_st": 1.0, "max_efpr": 100.0},
    "psds2": {"alpha_ct": 0.5, "alpha_st": 1.0, "max_efpr": 100.0},
}
HOUR_S = 3600.0
MAX_NAMED_VIDEOS = 10
RULES = {
    "frame_scores": "the highest score of the detections that cover the time, 0 where none does",
    "found": "what scores above the threshold; overlapping and touching events of a class are one",
    "numbers": "read by Python's float(), correctly rounded; times compared without tolerance",
    "best": "the threshold of each class with the highest F1 on these very videos: an oracle",
}


def compute_sed_metrics(
    detections: Detections,
    videos: list[Video],
    class_names: dict[int, str],
    *,
    metrics: tuple[str, ...] = (*F1S, *CURVES),
    threshold: float = THRESHOLD,
    resamples: int = 1000,
    seed: int = 0,
) -> MetricResult:
    """Compute metrics of scored segments, with scores in [0, 1].

    Events are where frame scores exceed the threshold. Videos without annotations and classes without events are not
    scored; the details count them.

    Args:
        metrics: F1S for decisions at one threshold (read_events), CURVES for those at several (read_operating_points).

    Raises:
        DataError: if the videos have no event, or if no detection is of an annotated video and class.
    """
    reference = build_reference(videos)
    ignored = _check_detections(detections, videos, reference.labels)
    frames = build_score_frames(compute_frame_scores(detections, videos, reference.labels), reference)
    weights = resample_weights(len(videos), resamples, seed)[:, : len(videos)]
    rows: dict[str, np.ndarray] = {}
    by_class = {"events": reference.count.sum(axis=0)}
    for metric in metrics:
        deltas, positives = count_changes(metric, frames, reference)
        counts = collect_counts(deltas, reference)
        if metric in CURVES:
            value, by_class[metric] = compute_psds(metric, deltas, reference)
            rows[metric] = np.append(value, resample_psds(metric, counts, reference, weights[1:]))
            continue
        f1 = compute_f1(np.full(len(counts), threshold), counts, positives, weights)
        rows[f"{metric}_f1_macro"], rows[f"{metric}_f1_micro"], by_class[f"{metric}_f1"] = f1
        if metrics != F1S:  # decisions at one threshold have no better one
            best = np.array([find_best_threshold(c, n) for c, n in zip(counts, positives.sum(axis=0), strict=True)])
            f1 = compute_f1(best, counts, positives, weights)
            rows[f"{metric}_f1_macro_best"], _, by_class[f"{metric}_f1_best"] = f1
            by_class[f"{metric}_best_threshold"] = best
    names = [class_names.get(label, str(label)) for label in reference.labels.tolist()]
    details = {
        "libraries": {name: version(name) for name in ("sed_scores_eval", "sed_eval", "numpy", "pandas")},
        "threshold": threshold if set(metrics) & set(F1S) else None,
        "settings": {name: COUNTED[name] | CURVES.get(name, {}) for name in metrics},
        "rules": RULES,
        "bootstrap": {"over": "videos", "resamples": resamples, "seed": seed, "confidence": CONFIDENCE},
        "videos": len(videos),
        "events": int(reference.count.sum()),
        "left_out": reference.left_out | ignored,
        "per_class": pd.DataFrame(by_class, index=names).astype(object).to_dict("index"),
    }
    return MetricResult.from_samples(rows, details, bounds=(-np.inf, np.inf))


def _check_detections(detections: Detections, videos: list[Video], labels: np.ndarray) -> dict[str, Any]:
    """Count the detections that are not scored, and name their videos.

    Raises:
        DataError: if nothing can be scored.
    """
    video = find_video_indices(detections, videos) >= 0
    label = np.isin(detections.labels, labels)
    if len(label) and not (video & label).any():
        raise DataError(
            f"none of {len(label)} detections is of an annotated video ({int((~video).sum())} are not) and of a class "
            f"with events in them ({int((~label).sum())} are not); these are not results for these annotations"
        )
    return {
        "detections_of_other_videos": int((~video).sum()),
        "detections_of_classes_without_events": int((video & ~label).sum()),
        "videos_not_annotated": sorted(set(detections.video_ids) - {v.video_id for v in videos})[:MAX_NAMED_VIDEOS],
    }


def compute_f1(
    thresholds: np.ndarray, counts: list[ClassCounts], positives: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute F1 at one threshold per class (C,) in each resample (R, V); positives (V, C).

    Returns:
        macro and micro F1 (R,), and each class's F1 (C,) in the first row. Classes without positives in a resample are
        left out of its macro mean.
    """
    videos = len(positives)
    above = [(c, c.scores > t) for c, t in zip(counts, thresholds, strict=True)]
    tps = weights @ np.stack([np.bincount(c.video[a], c.tps[a], videos) for c, a in above], axis=1)  # (R, C)
    fps = weights @ np.stack([np.bincount(c.video[a], c.fps[a], videos) for c, a in above], axis=1)
    total = weights @ positives
    f1 = np.where(total > 0, _f1_from_counts(tps, fps, total), 0.0)
    macro = safe_divide(f1.sum(axis=1), (total > 0).sum(axis=1), np.nan)
    micro = np.where(total.any(axis=1), _f1_from_counts(tps.sum(axis=1), fps.sum(axis=1), total.sum(axis=1)), np.nan)
    return macro, micro, f1[0]


def _f1_from_counts(tps: np.ndarray, fps: np.ndarray, positives: np.ndarray | int) -> np.ndarray:
    """Compute F1 from precision and recall in the libraries' order of operations, for equal last digits."""
    precision = tps / np.maximum(tps + fps, 1)
    recall = tps / np.maximum(positives, 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-15)


def find_best_threshold(counts: ClassCounts, positives: int) -> float:
    """Find the highest threshold with the highest F1, halfway between two scores; 1 if F1 is always 0."""
    tps, fps = np.cumsum(counts.tps)[counts.last], np.cumsum(counts.fps)[counts.last]
    f1 = _f1_from_counts(tps, fps, positives)
    if not f1.any():
        return 1.0
    best = int(f1.argmax())
    scores = np.append(counts.scores[counts.last], 0.0)
    return float(scores[best] + scores[best + 1]) / 2


def compute_psds(metric: str, deltas: dict, reference: ReferenceEvents) -> tuple[float, np.ndarray]:
    """Compute PSDS, and that of each class (C,), by the library."""
    settings = COUNTED[metric] | CURVES[metric]
    if len(reference.labels) == 1:
        settings |= {"cttc_threshold": None, "alpha_ct": 0.0}
    durations = dict(zip(reference.events, reference.durations.tolist(), strict=True))
    psds = load_library().intersection_based.psds
    value, by_class, *_ = psds(None, reference.events, durations, deltas=deltas, unit_of_time="hour", **settings)
    return float(value), np.array([by_class[name] for name in name_classes(reference.labels)], np.float64)


def resample_psds(
    metric: str, counts: list[ClassCounts], reference: ReferenceEvents, weights: np.ndarray
) -> np.ndarray:
    """Compute PSDS (R,) in each resample (R, V), over the classes with events in it; NaN if there is none."""
    alpha_ct, alpha_st, max_efpr = (CURVES[metric][key] for key in ("alpha_ct", "alpha_st", "max_efpr"))
    result = np.full(len(weights), np.nan)
    for i, weight in enumerate(weights.astype(np.float64)):
        hours = weight @ reference.durations / HOUR_S
        events, seconds = weight @ reference.count, weight @ reference.seconds
        present = np.flatnonzero(events)
        if len(present) == 0:
            continue
        cost = np.zeros(len(events))  # of a cross-trigger with each class, in false positives per hour
        if len(present) > 1:
            cost[present] = alpha_ct * HOUR_S / seconds[present] / (len(present) - 1)
        curves = []
        for c in present:
            efpr, tps = _compute_roc(counts[c], weight, hours, cost, max_efpr)
            curves.append((efpr, np.append(0.0, tps / events[c])))
        efpr = np.unique(np.concatenate([x for x, _ in curves]))
        tpr = np.stack([y[np.searchsorted(x, efpr, side="right")] for x, y in curves])
        etpr = np.maximum(tpr.mean(axis=0) - alpha_st * tpr.std(axis=0), 0)
        result[i] = etpr @ np.diff(np.append(efpr, max_efpr)) / max_efpr
    return result


def _compute_roc(
    counts: ClassCounts, weight: np.ndarray, hours: float, cost: np.ndarray, max_efpr: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute where a class's true positives rise: effective false positives per hour, and true positives."""
    copies = weight[counts.video]
    efpr = np.cumsum(copies * counts.fps)[counts.last] / hours
    if cost.any():
        efpr += np.cumsum(copies * (counts.cts @ cost))[counts.last]
    tps = np.cumsum(copies * counts.tps)[counts.last]
    within = np.flatnonzero(efpr <= max_efpr)
    order = within[np.argsort(efpr[within], kind="stable")]
    efpr, tps = efpr[order], np.maximum.accumulate(tps[order])
    rises = np.diff(tps, prepend=0.0) > 0
    return efpr[rises], tps[rises]
