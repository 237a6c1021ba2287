"""Metrics of sound event detection (SED): F1 by event, by second and by intersection, and PSDS.

All of them by sed_scores_eval (Ebbers et al., "Threshold-Independent Evaluation of Sound Event Detection Scores",
ICASSP 2022), DCASE task 4's library: it says what is counted in a video at every threshold. From these counts come the
numbers and their bootstrap intervals, where a video drawn twice counts twice. sed_eval (Mesaros et al., 2016) and
psds_eval (Bilen et al., 2020) count the same, which tests/test_sed.py holds. (PSDSEval.psds of psds_eval 0.5.3 itself
runs neither with NumPy 2.4 nor with pandas 3.)

Shapes: V videos, C classes with events, R resamples, E places in a class's scores where counts change, U different
scores.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from libs.core.errors import DataError
from libs.core.types import Detections, Video
from libs.evaluation.metrics.bootstrap import CONFIDENCE, compute_interval, divided, resample_weights
from libs.evaluation.sound_events.counts import (
    COUNTED,
    Counts,
    Truth,
    annotated,
    class_columns,
    count,
    counts_of,
    library_tables,
    load_library,
)
from libs.evaluation.sound_events.tables import frame_scores, read_events, read_operating_points

THRESHOLD = 0.5  # DCASE's habit for F1
F1S = ("event", "segment", "intersection")
CURVES: dict[str, dict[str, float]] = {  # false positives an hour, at most max_efpr
    "psds1": {"alpha_ct": 0.0, "alpha_st": 1.0, "max_efpr": 100.0},
    "psds2": {"alpha_ct": 0.5, "alpha_st": 1.0, "max_efpr": 100.0},
}
HOUR_S = 3600.0
MOST_NAMED = 10
RULES = {
    "frame_scores": "the highest score of the detections that cover the time, 0 where none does",
    "found": "what scores above the threshold; overlapping and touching events of a class are one",
    "numbers": "read by Python's float(), correctly rounded; times compared without tolerance",
    "best": "the threshold of each class with the highest F1 on these very videos: an oracle",
}


@dataclass(frozen=True)
class SedScores:
    """Numbers by name, what each resample gives (R,), and what else there is to say, ready for JSON.

    {event,segment,intersection}_f1_{macro,micro} at the threshold; …_f1_macro_best with the threshold of each class
    that gives the highest F1 on these very videos: no system can know it, it says what better thresholds could give.
    psds1 and psds2 need no threshold. Macro numbers are means over the classes that have events.
    """

    values: dict[str, float]
    samples: dict[str, np.ndarray]
    details: dict[str, Any]

    @property
    def headline(self) -> dict[str, tuple[float, float, float]]:
        """Value, low and high of its 95 % bootstrap interval over videos."""
        return {name: (value, *compute_interval(value, self.samples[name])) for name, value in self.values.items()}

    def tree(self) -> dict[str, Any]:
        """All of it as JSON has it: the numbers, per class numbers, libraries, settings; an unknown end is null."""
        rows = {
            name: {key: None if np.isnan(x) else x for key, x in zip(("value", "low", "high"), row, strict=True)}
            for name, row in self.headline.items()
        }
        return {"headline": rows, **self.details}


def compute_sed_metrics(
    detections: Detections,
    videos: list[Video],
    class_names: dict[int, str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> SedScores:
    """All metrics of scored segments, by their frame scores (`frame_scores`); what was found is what scores above the
    threshold. Annotated events of a class that touch or overlap are one, those without length are none; classes without
    events and videos without annotations are not scored, and counted in the tree.

    Raises DataError on scores outside [0, 1], on videos without any event, or where no detection is of a class and
    video that has been annotated; UserError without the libraries.
    """
    what = (*F1S, *CURVES)
    return _score(detections, videos, class_names, what, threshold, best=True, resamples=resamples, seed=seed)


def score_events(
    path: Path, videos: list[Video], class_names: dict[int, str], *, resamples: int = 1000, seed: int = 0
) -> SedScores:
    """F1s of anyone's decisions, a table of events (`read_events`). Raises DataError as that and `compute_sed_metrics` do."""
    events = read_events(path, class_names)
    return _score(events, videos, class_names, F1S, THRESHOLD, best=False, resamples=resamples, seed=seed)


def score_operating_points(
    path: Path, videos: list[Video], class_names: dict[int, str], *, resamples: int = 1000, seed: int = 0
) -> SedScores:
    """PSDS of anyone's decisions at several thresholds (`read_operating_points`). Raises DataError as that and
    `compute_sed_metrics` do."""
    points = read_operating_points(path, class_names)
    return _score(points, videos, class_names, tuple(CURVES), THRESHOLD, best=False, resamples=resamples, seed=seed)


def _score(
    detections: Detections,
    videos: list[Video],
    class_names: dict[int, str],
    what: tuple[str, ...],
    threshold: float,
    *,
    best: bool,
    resamples: int,
    seed: int,
) -> SedScores:
    load_library()
    truth = annotated(videos)
    ignored = _check(detections, videos, truth.labels)
    tables = library_tables(frame_scores(detections, videos, truth.labels), truth)
    weights = resample_weights(len(videos), resamples, seed)[:, : len(videos)]
    names = [class_names.get(label, str(label)) for label in truth.labels.tolist()]
    events = truth.count.sum(axis=0).tolist()
    per_class: dict[str, dict[str, Any]] = {name: {"events": n} for name, n in zip(names, events, strict=True)}
    rows: dict[str, np.ndarray] = {}
    for metric in what:
        deltas, positives = count(metric, tables, truth)
        counts = counts_of(deltas, truth)
        if metric in CURVES:
            value, of_classes = library_psds(metric, deltas, truth)
            rows[metric] = np.append(value, resampled_psds(metric, counts, truth, weights[1:]))
            _note(per_class, metric, of_classes)
            continue
        at = np.full(len(counts), threshold)
        rows[f"{metric}_f1_macro"], rows[f"{metric}_f1_micro"], f1 = f1_at(at, counts, positives, weights)
        _note(per_class, f"{metric}_f1", f1)
        if best:
            at = np.array([best_threshold(c, n) for c, n in zip(counts, positives.sum(axis=0), strict=True)])
            rows[f"{metric}_f1_macro_best"], _, f1 = f1_at(at, counts, positives, weights)
            _note(per_class, f"{metric}_f1_best", f1)
            _note(per_class, f"{metric}_best_threshold", at)
    settings = {name: COUNTED[name] | CURVES.get(name, {}) for name in what}
    details = {
        "libraries": {name: version(name) for name in ("sed_scores_eval", "sed_eval", "numpy", "pandas")},
        "threshold": threshold if set(what) & set(F1S) else None,
        "settings": settings,
        "rules": RULES,
        "bootstrap": {"over": "videos", "resamples": resamples, "seed": seed, "confidence": CONFIDENCE},
        "videos": len(videos),
        "events": int(truth.count.sum()),
        "left_out": truth.left_out | ignored,
        "per_class": per_class,
    }
    values = {name: float(row[0]) for name, row in rows.items()}
    return SedScores(values, {name: row[1:] for name, row in rows.items()}, details)


def _note(per_class: dict[str, dict[str, Any]], key: str, values: np.ndarray) -> None:
    for row, value in zip(per_class.values(), values.tolist(), strict=True):
        row[key] = value


def _check(detections: Detections, videos: list[Video], labels: np.ndarray) -> dict[str, Any]:
    """Which detections are not scored: how many, and names of videos. Raises DataError on scores that are none, or
    where nothing can be scored."""
    bad = ~((detections.scores >= 0) & (detections.scores <= 1))
    if bad.any():
        where, score = detections.video_ids[detections.video[bad.argmax()]], detections.scores[bad.argmax()]
        raise DataError(f"video {where}: score {score}, expected [0, 1]; metrics of sound events have thresholds in it")
    known = {video.video_id for video in videos}
    video = np.array([v in known for v in detections.video_ids], bool)[detections.video]
    label = np.isin(detections.labels, labels)
    if len(label) and not (video & label).any():
        raise DataError(
            f"none of {len(label)} detections is of an annotated video ({int((~video).sum())} are not) and of a class "
            f"with events in them ({int((~label).sum())} are not); these are not results for these annotations"
        )
    return {
        "detections_of_other_videos": int((~video).sum()),
        "detections_of_classes_without_events": int((video & ~label).sum()),
        "videos_not_annotated": sorted(set(detections.video_ids) - known)[:MOST_NAMED],
    }


def f1_at(
    thresholds: np.ndarray, counts: list[Counts], positives: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Macro and micro F1 (R,) at a threshold for each class (C,) in each resample (R, V), and each class's (C,) in the
    first row. positives (V, C). A class without positives in a resample has no F1, and is left out of its mean."""
    videos = len(positives)
    above = [c.scores > t for c, t in zip(counts, thresholds, strict=True)]
    pairs = list(zip(counts, above, strict=True))
    tps = np.stack([np.bincount(c.video[a], c.tps[a], videos) for c, a in pairs], axis=1)  # (V, C)
    fps = np.stack([np.bincount(c.video[a], c.fps[a], videos) for c, a in pairs], axis=1)
    tps, fps, all_of = weights @ tps, weights @ fps, weights @ positives  # (R, C)
    f1 = np.where(all_of > 0, _f1(tps, fps, all_of), 0.0)
    macro = divided(f1.sum(axis=1), (all_of > 0).sum(axis=1), np.nan)
    micro = np.where(all_of.any(axis=1), _f1(tps.sum(axis=1), fps.sum(axis=1), all_of.sum(axis=1)), np.nan)
    return macro, micro, f1[0]


def _f1(tps: np.ndarray, fps: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """By precision and recall, as the libraries have it: to the last digit."""
    precision = tps / np.maximum(tps + fps, 1)
    recall = tps / np.maximum(positives, 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-15)


def best_threshold(counts: Counts, positives: int) -> float:
    """The threshold of highest F1, the highest of equals, halfway between two scores; 1 where nothing is ever right."""
    tps, fps = np.cumsum(counts.tps)[counts.last], np.cumsum(counts.fps)[counts.last]
    f1 = _f1(tps, fps, np.float64(positives))
    if not f1.any():
        return 1.0
    at = int(f1.argmax())
    scores = np.append(counts.scores[counts.last], 0.0)
    return float(scores[at] + scores[at + 1]) / 2


def library_psds(metric: str, deltas: dict, truth: Truth) -> tuple[float, np.ndarray]:
    """PSDS and that of each class (C,), by the library."""
    settings = COUNTED[metric] | CURVES[metric]
    if len(truth.labels) == 1:
        settings |= {"cttc_threshold": None, "alpha_ct": 0.0}
    durations = dict(zip(truth.events, truth.durations.tolist(), strict=True))
    psds = load_library().intersection_based.psds
    value, of_classes, *_ = psds(None, truth.events, durations, deltas=deltas, unit_of_time="hour", **settings)
    return float(value), np.array([of_classes[name] for name in class_columns(truth.labels)], np.float64)


def resampled_psds(metric: str, counts: list[Counts], truth: Truth, weights: np.ndarray) -> np.ndarray:
    """PSDS (R,) in each resample (R, V), over the classes that have events in it; NaN where none has."""
    alpha_ct, alpha_st, max_efpr = (CURVES[metric][key] for key in ("alpha_ct", "alpha_st", "max_efpr"))
    result = np.full(len(weights), np.nan)
    for i, weight in enumerate(weights.astype(np.float64)):
        hours = weight @ truth.durations / HOUR_S
        events, seconds = weight @ truth.count, weight @ truth.seconds
        present = np.flatnonzero(events)
        if len(present) == 0:
            continue
        share = np.zeros(len(events))  # of a cross-trigger with each class, in false positives an hour
        if len(present) > 1:
            share[present] = alpha_ct * HOUR_S / seconds[present] / (len(present) - 1)
        curves = [_curve(counts[c], weight, events[c], hours, share, max_efpr) for c in present]
        efpr = np.unique(np.concatenate([x for x, _ in curves]))
        tpr = np.stack([np.append(0.0, y)[np.searchsorted(x, efpr, side="right")] for x, y in curves])
        etpr = np.maximum(tpr.mean(axis=0) - alpha_st * tpr.std(axis=0), 0)
        result[i] = etpr @ np.diff(np.append(efpr, max_efpr)) / max_efpr
    return result


def _curve(
    counts: Counts, weight: np.ndarray, events: float, hours: float, share: np.ndarray, max_efpr: float
) -> tuple[np.ndarray, np.ndarray]:
    """A class's steps: effective false positives an hour, rising up to max_efpr, where the true positive rate rises."""
    copies = weight[counts.video]
    efpr = np.cumsum(copies * counts.fps)[counts.last] / hours
    if share.any():
        efpr += np.cumsum(copies * (counts.cts @ share))[counts.last]
    tps = np.cumsum(copies * counts.tps)[counts.last]
    within = np.flatnonzero(efpr <= max_efpr)
    order = within[np.argsort(efpr[within], kind="stable")]
    efpr, tps = efpr[order], np.maximum.accumulate(tps[order])
    new = np.diff(tps, prepend=0.0) > 0
    return efpr[new], tps[new] / events
